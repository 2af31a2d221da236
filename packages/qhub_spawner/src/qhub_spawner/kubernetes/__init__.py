"""Servers as Kubernetes pods (API of Kubernetes 1.34)."""
