"""Keeping the hub as Keycloak says: the service, and its handler in the hub."""
