"""How many examples a property is tried on."""

from __future__ import annotations

import os

WANTED = int(os.environ.get("QHUB_EXAMPLES", "0"))


def examples(usual: int) -> int:
    """Return how many there are to be: as many as `QHUB_EXAMPLES` says, if it does."""
    return WANTED or usual
