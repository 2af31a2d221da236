"""Security: hostile."""
