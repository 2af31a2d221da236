"""What `qhub-identity` does."""
