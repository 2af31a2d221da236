"""Runs inside a cluster's scheduler: workers whose walltime ends soon are the first to leave.

The gateway starts another worker in time for each of those; when it joins there is one too many,
and Dask, asked which one to do without, would name the new one, which has nothing to do yet. This
travels as text (``--preload`` of dask-scheduler), so that the person's environment needs nothing of
qhub: it may use the standard library and distributed.
"""

from __future__ import annotations

import os
import time
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin

SECONDS = "QHUB_GATEWAY_LEAVING_AFTER"


class LeavingFirst(SchedulerPlugin):
    """Narrows the choice of workers to retire to those that end soon, if there are enough.

    Args:
        seconds: How long after it has joined a worker ends soon.
    """

    name = "qhub-leaving-first"

    def __init__(self, seconds: float) -> None:
        """See the class."""
        self.seconds = seconds
        self.joined: dict[str, float] = {}

    def add_worker(self, scheduler: Any, worker: str) -> None:  # noqa: ANN401 - distributed's
        """Note when a worker joins."""
        del scheduler
        self.joined[worker] = time.monotonic()

    def remove_worker(self, scheduler: Any, worker: str, **more: Any) -> None:  # noqa: ANN401
        """Forget a worker."""
        del scheduler, more
        self.joined.pop(worker, None)

    def valid_workers_downscaling(self, scheduler: Any, workers: list[Any]) -> list[Any]:  # noqa: ANN401
        """Return those of `workers` that may be retired now."""
        before = time.monotonic() - self.seconds
        leaving = [each for each in workers if self.joined.get(each.address, before) < before]
        service = scheduler.services.get("gateway")
        too_many = len(scheduler.workers) - service.count if service is not None else 0
        return leaving if len(leaving) >= max(1, too_many) else workers


def dask_setup(scheduler: Any) -> None:  # noqa: ANN401 - distributed's
    """Begin, where the gateway says from when on."""
    seconds = os.environ.get(SECONDS)
    if seconds:
        scheduler.add_plugin(LeavingFirst(float(seconds)))
