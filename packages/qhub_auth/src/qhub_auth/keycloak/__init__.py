"""Keycloak: its tokens, its admin API, and what they say as plain data."""
