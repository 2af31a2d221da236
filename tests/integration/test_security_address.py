"""Security: address."""
