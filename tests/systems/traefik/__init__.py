"""A real Traefik: a build for tests, with stand-ins for modules that cannot be had."""

from __future__ import annotations

from .binaries import TRAEFIK
from .system import TraefikSystem

__all__ = ["TRAEFIK", "TraefikSystem"]
