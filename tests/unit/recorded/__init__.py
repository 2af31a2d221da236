"""What real tools printed, for the tests of our parsers; `record` records it anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "22.05"
MARK = "0123456789abcdef"


def text(name: str) -> str:
    """Return a recorded output. A missing file is an error, never a skip."""
    return (FOLDER / name).read_text(encoding="utf-8")


def document(name: str) -> Any:
    """Return a recorded JSON document."""
    return json.loads(text(name))


def jobs() -> dict[str, int]:
    """Return the recorded jobs' ids by what they are."""
    found: dict[str, int] = document("jobs.json")
    return found
