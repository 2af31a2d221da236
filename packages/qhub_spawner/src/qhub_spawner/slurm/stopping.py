"""Ending a job: gracefully, then by force, until Slurm agrees or time is up."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Literal

from qhub_spawner.errors import SlurmError
from qhub_spawner.launch import StopFailedError
from qhub_spawner.slurm.door import Door
from qhub_spawner.slurm.jobs import JobState
from qhub_spawner.slurm.poller import Pace, Poller, Watch

_LONGEST_PAUSE_SECONDS = 10.0


async def end_job(
    door: Door, poller: Poller, watch: Watch, *, grace_seconds: float, stop_timeout: float
) -> None:
    """End the job of `watch`: SIGTERM, the grace time, scancel, and Slurm's agreement.

    Args:
        door: How the job is ended.
        poller: Whose answers say that it has ended.
        watch: The job; nobody is told of its end any more.
        grace_seconds: How long it may take to end by itself; 0 asks nothing of it.
        stop_timeout: How long Slurm may take to agree after that.

    Raises:
        StopFailedError: Slurm has not agreed in time.
    """
    watch.on_end = None
    poller.hurry(watch, Pace.STOPPING)
    running = watch.job is not None and watch.job.state is JobState.RUNNING
    if running and grace_seconds > 0:
        with suppress(SlurmError):
            await _cancel(door, watch, "TERM")
            if await _over_within(poller, watch, grace_seconds):
                return
    loop = asyncio.get_running_loop()
    deadline, pause, problem = loop.time() + stop_timeout, 1.0, ""
    while True:
        try:
            await _cancel(door, watch, None)
            problem = ""
            if poller.failures:  # Slurm answers again: do not sit out the pause after a failure
                await poller.fresh()
        except SlurmError as error:
            problem = f"; scancel: {error}"
        if await _over_within(poller, watch, min(pause, max(0.1, deadline - loop.time()))):
            return
        if loop.time() >= deadline:
            state = watch.job.state.value if watch.job else "unknown"
            msg = (
                f"Slurm has not confirmed within {stop_timeout:g} s that job {watch.job_id} of "
                f"{watch.user} has ended (last known state: {state}{problem}). The hub goes on "
                "trying to cancel it."
            )
            raise StopFailedError(msg)
        pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)


async def _cancel(door: Door, watch: Watch, signal: Literal["TERM"] | None) -> None:
    if watch.job_id is not None:
        await door.cancel(watch.user, watch.job_id, watch.name, signal=signal)


async def _over_within(poller: Poller, watch: Watch, seconds: float) -> bool:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while watch.ending is None and loop.time() < deadline:
        with suppress(TimeoutError):
            await asyncio.wait_for(poller.tick(), deadline - loop.time())
    return watch.ending is not None
