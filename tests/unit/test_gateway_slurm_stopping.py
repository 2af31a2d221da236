"""Ending jobs on Slurm: asked for in bulk, and not again of what Slurm is at already."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from qhub_gateway.targets.slurm import SlurmTarget
from qhub_gateway.targets.target import JobRef, Phase
from qhub_spawner.slurm.door import Cancellation
from qhub_spawner.slurm.jobs import JobState
from tests.unit.scripted_door import LOG, NAME, ScriptedDoor, job, poller_of

REFS = [JobRef(NAME, part, "alice", 7) for part in range(3)]


def cancelled(door: ScriptedDoor) -> list[Any]:
    """Return what was cancelled, call by call."""
    return [each[2] for each in door.asked if isinstance(each, tuple)]


@asynccontextmanager
async def following(door: ScriptedDoor) -> AsyncIterator[SlurmTarget]:
    """Follow three tasks of an array that is known to run."""
    poller = poller_of(door)
    backend: Any = SimpleNamespace(door=door, poller=poller, hub_id="hub1", cluster="")
    target = SlurmTarget(backend, LOG)
    for ref in REFS:
        target.follow(ref)
    assert await poller.fresh()
    yield target


def tasks(*states: JobState) -> list[Any]:
    """Return the lines of an array of which task N is in the Nth state."""
    return [job(state, tasks=(range(number, number + 1),)) for number, state in enumerate(states)]


async def test_what_ends_is_not_cancelled_again() -> None:
    """Tasks that Slurm calls COMPLETING are left to it; the one that still runs is asked again."""
    running, ending = JobState.RUNNING, JobState.COMPLETING
    door = ScriptedDoor(tasks(running, running, running), tasks(ending, running, ending))
    async with following(door) as target:
        await target.stop(REFS)
        assert cancelled(door) == [(Cancellation(7, NAME, None),)]
        assert await target.poller.fresh()
        await target.stop(REFS)
        assert cancelled(door)[1:] == [(Cancellation(7, NAME, (1,)),)]
        assert {target.state(ref).phase for ref in REFS} == {Phase.RUNNING}


async def test_nothing_is_asked_when_everything_ends() -> None:
    """The last question is the first answer's: no process is started for nothing."""
    ending = JobState.COMPLETING
    door = ScriptedDoor(tasks(ending, ending, ending))
    async with following(door) as target:
        await target.stop(REFS)
    assert cancelled(door) == []
