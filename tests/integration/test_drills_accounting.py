"""Drills on a cluster that keeps no accounting: slurmctld alone says what is over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import missing
from tests.integration.drills import (
    MANY,
    Drill,
    assert_settled,
    forget_all_jobs,
    make_drill,
    without_accounting,
)
from tests.systems.processes import SystemUnavailableError
from tests.systems.slurm import SlurmSystem


@pytest.fixture(scope="module")
def bare(user_bin: Any) -> Iterator[SlurmSystem]:
    """A Slurm without accounting."""
    system = SlurmSystem(without_accounting(MANY))
    try:
        system.start()
    except SystemUnavailableError as error:
        missing("Slurm", error)
    try:
        yield system
    finally:
        system.stop()


@pytest.fixture
def drill(bare: SlurmSystem, transport: str) -> Iterator[Drill]:
    """A hub on it."""
    drill = make_drill(bare, f"bare{transport[0]}", transport=transport)
    yield drill
    drill.hub.stop()


def test_no_accounting(drill: Drill) -> None:
    """Servers start, end and vanish; each end is noticed, in Slurm's own words."""
    lasting, cancelled, greedy, leaving = servers = drill.start("a", "b", "c", "d")
    assert_settled(drill, servers)
    drill.slurm.run(["scancel", str(drill.job_id(cancelled))])
    assert "it was cancelled" in drill.wait_ended(cancelled)
    drill.ask(greedy, "?allocate=200")
    assert "memory limit of 64 MiB" in drill.wait_ended(greedy)
    drill.stop(leaving)
    assert_settled(drill, [lasting])
    # the queue no longer has it: slurmctld is asked for that one job before it is over
    forget_all_jobs(drill.slurm)
    assert "keeps no accounting" in drill.wait_ended(lasting)
    assert_settled(drill)
