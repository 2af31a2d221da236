"""What a real Kubernetes 1.34 said, for the tests of our readers; `record` records it anew."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
SECRET = "qhub-canary-of-the-recording"
"""Stands in every recorded pod where a secret would."""


@functools.cache
def document(name: str) -> Any:
    """Return a recorded document. A missing file is an error, never a skip."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def pod(name: str) -> dict[str, Any]:
    """Return a pod of `record`, as the API gave it."""
    found: dict[str, Any] = document("pods")[name]
    return found


def events(name: str) -> list[dict[str, Any]]:
    """Return the events about that pod."""
    found: list[dict[str, Any]] = document("events")[name]
    return found


def refusal(name: str) -> dict[str, Any]:
    """Return the API server's answer to a pod that it did not take."""
    found: dict[str, Any] = document("refusals")[name]
    return found
