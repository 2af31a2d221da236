"""Security: canary."""
