"""Security: sudo."""
