"""What a benchmark prints: lines that say what it does, a table, one line of JSON (pure)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

DIGITS = 4


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table: the first column to the left, the others to the right.

    Raises:
        ValueError: A row has another number of cells than the heading.
    """
    widths = [max(len(row[column]) for row in (heading, *rows)) for column, _ in enumerate(heading)]
    lines = []
    for row in (heading, tuple("-" * width for width in widths), *rows):
        first, *rest = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def amount(value: float, unit: str = "") -> str:
    """Write a number for people: four digits that count, never as a power of ten."""
    rounded = significant(value)
    text = f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:.10g}"
    if abs(rounded) < 0.0001 and rounded:
        text = f"{rounded:.6f}"
    return f"{text} {unit}".rstrip()


def significant(value: float, digits: int = DIGITS) -> float:
    """Round to so many digits that count."""
    if not value or not math.isfinite(value):
        return value
    return round(value, digits - 1 - math.floor(math.log10(abs(value))))


def verdict(met: bool) -> str:
    """Say in a word whether a goal is met."""
    return "met" if met else "MISSED"


def last_line(
    bench: str,
    *,
    ours: float,
    other: float | None,
    ratio: float | None,
    runs: int,
    floor: float | None = None,
    more: Mapping[str, object] | None = None,
) -> str:
    """Return the machine-readable line; no number in it has more than four digits that count.

    Where there is no rival, `other` and `ratio` are ``None``.
    """
    document: dict[str, object] = {
        "bench": bench,
        "ours": ours,
        "other": other,
        "ratio": ratio,
        **({} if floor is None else {"floor": floor}),
        "runs": runs,
        **(more or {}),
    }
    return json.dumps(_rounded(document))


def _rounded(value: object) -> object:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float):
        # JSON knows no infinity
        return significant(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(each) for each in value]
    return value
