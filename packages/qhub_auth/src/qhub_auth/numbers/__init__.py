"""uid, gid, names and homes: who has which, for good."""
