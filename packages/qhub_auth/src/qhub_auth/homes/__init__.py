"""The hub's side of homes and shared folders; `qhub_auth.folders` is root's."""
