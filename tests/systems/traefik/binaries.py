"""Traefik, built from the Go module proxy with our stand-ins, and cached by version."""

from __future__ import annotations

from pathlib import Path

from ..kubernetes.binaries import Module

TRAEFIK = Module("traefik", "6 minutes on two idle cores", home=Path(__file__).resolve().parent)
