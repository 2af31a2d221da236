"""Style and script of the page, as files of this package."""

from __future__ import annotations

from functools import cache
from importlib import resources

__all__ = ["static_file"]


@cache
def static_file(name: str) -> bytes:
    """Return ``page.css`` or ``page.js``."""
    return (resources.files("qhub_gateway.page") / "static" / name).read_bytes()
