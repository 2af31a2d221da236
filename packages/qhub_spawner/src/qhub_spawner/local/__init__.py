"""The local backend: a process on the hub's machine, to try qhub out."""
