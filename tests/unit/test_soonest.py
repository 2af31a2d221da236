"""Which of several backends is estimated to start first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from qhub_spawner.availability import Availability, StartEstimate
from qhub_spawner.runtime import _earliest

NOW = Availability(start=StartEstimate("now", source="calculated"))
ALLOWED = Availability(start=StartEstimate("now", source="quota"))
UNKNOWN = Availability()
GROWS = Availability(scale_up=True)


def at(minutes: float) -> Availability:
    """What starts in so many minutes."""
    return Availability(
        start=StartEstimate("at", datetime.now(UTC) + timedelta(minutes=minutes), "slurm")
    )


@pytest.mark.parametrize(
    ("views", "first"),
    [
        ([NOW, NOW], 0),
        ([at(60), NOW], 1),
        ([at(90), at(30)], 1),
        ([UNKNOWN, at(9000)], 1),
        ([None, UNKNOWN], 0),
        ([UNKNOWN, GROWS], 1),
        ([at(60), GROWS], 1),
        ([GROWS, at(2)], 1),
        ([at(-5), NOW], 0),
        ([ALLOWED, NOW], 1),
        ([ALLOWED, at(-5)], 1),
        ([ALLOWED, at(30)], 0),
        ([ALLOWED, ALLOWED], 0),
        ([GROWS, ALLOWED], 1),
    ],
)
def test_the_earliest(views: list[Availability | None], first: int) -> None:
    """A time before a later one, a node that is added within minutes, what is unknown last.

    What a quota allows at once comes after what a machine has at once.
    """
    assert _earliest(views) == first
