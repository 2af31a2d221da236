"""Numbers out of measurements (pure)."""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

_TABLE = re.compile(r"Remote Procedure Call statistics by (message type|user)")
#   alice           (    1001) count:150    ave_time:528    total_time:79270
_COUNT = re.compile(r"\s+(?P<name>\S+)\s+\(\s*\d+\)\s+count:(?P<count>\d+)")


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` of `values` do not exceed.

    Raises:
        ValueError: There are no values, or `percent` is not above 0 and at most 100.
    """
    if not values or not 0 < percent <= 100:
        msg = f"percentile {percent} of {len(values)} values: expected some, and 0 < percent <= 100"
        raise ValueError(msg)
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


@dataclass(frozen=True)
class Spread:
    """Several runs of the same thing, in seconds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Sum up at least one run."""
        return cls(statistics.median(values), min(values), max(values))


def per_minute(count: float, seconds: float) -> float:
    """Return a count within `seconds` as a rate."""
    return count * 60 / seconds


def lags(ticks: Sequence[float], interval: float) -> list[float]:
    """Return how late a loop was for what is due every `interval` seconds.

    Args:
        ticks: When it came round to something that sleeps for `interval` each time, in seconds.
        interval: The length of that sleep.

    Returns:
        One for each time that something was due; also for those that passed while the loop was
        busy, when nothing could be noted.
    """
    found = []
    for before, tick in itertools.pairwise(ticks):
        late = max(0.0, tick - before - interval)
        found.append(late)
        while late > interval:
            late -= interval
            found.append(late)
    return found


def ratio(ours: float, other: float) -> float:
    """Return ours over the other's; infinite when the other needed nothing."""
    if other:
        return ours / other
    return math.inf if ours else 0.0


@dataclass(frozen=True)
class Calls:
    """What slurmctld has answered since it started: sdiag(1), by account and by kind."""

    by_user: Mapping[str, int]
    by_kind: Mapping[str, int]

    @classmethod
    def parse(cls, text: str) -> Calls:
        """Read sdiag's two tables.

        Raises:
            ValueError: One of them is not there.
        """
        tables: dict[str, dict[str, int]] = {}
        current: dict[str, int] = {}
        for line in text.splitlines():
            heading, row = _TABLE.match(line), _COUNT.match(line)
            if heading:
                current = tables.setdefault(heading[1], {})
            elif row:
                current[row["name"]] = int(row["count"])
        if set(tables) != {"message type", "user"}:
            msg = f"sdiag printed the tables {sorted(tables)}, expected those by type and by user"
            raise ValueError(msg)
        return cls(tables["user"], tables["message type"])

    def since(self, earlier: Calls, users: Collection[str]) -> int:
        """Return how many calls these accounts have made since `earlier`."""
        return sum(self.by_user.get(user, 0) - earlier.by_user.get(user, 0) for user in users)
