"""`gateway-busy`: 30 workers that wait in a full partition for five minutes.

Ours and stock dask-gateway-server with its own Slurm backend at the same time, in the same
partition: each has a cluster with Dask's own scheduler, then another job takes all that is left,
then both are asked for 30 workers. All start timeouts are the gateways' own. Looked at every two
seconds: which jobs wait, and since when. Each new job beyond the first 30 is a resubmission, and
has lost its place. In the end the partition becomes free.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from tests.systems.processes import wait_until
from tests.systems.slurm import NODES, PARTITIONS, Definition, Node, Partition, SlurmSystem, sweep

from . import machine, report
from .cluster import with_room
from .figures import ratio
from .gateway_sides import NAMES, Kind, Side, Terms, both

USER = "alice"
OTHER = "bob"
PARTITION = "full"
LOOK_SECONDS = 2.0
DEADLINE_SECONDS = 300


@dataclass(frozen=True)
class Size:
    """How many workers wait on each side, and for how many seconds."""

    workers: int
    seconds: float


FULL = Size(30, 300)
QUICK = Size(5, 20)


@dataclass
class Queue:
    """What one side has had in the queue.

    Attributes:
        seen: Every job of a worker that was ever there.
        ages: How long each job that waits has done so, in seconds, at the last look.
        until_run: Seconds until all workers run, from when there is room; ``None``: not in time.
    """

    seen: set[str] = field(default_factory=set)
    ages: list[float] = field(default_factory=list)
    until_run: float | None = None

    def look(self, jobs: Mapping[str, str], now: datetime) -> None:
        """Take what waits now: the time of submission by job, as squeue writes it."""
        self.seen |= set(jobs)
        self.ages = [(now - datetime.fromisoformat(since)).total_seconds() for since in
                     jobs.values()]  # fmt: skip

    def resubmitted(self, workers: int) -> int:
        """Return how many jobs there were beyond one for each worker."""
        return max(0, len(self.seen) - workers)


def partition_of(cpus: int) -> Definition:
    """Describe the test cluster with a partition of so many CPUs."""
    node = Node("full01", cpus=cpus, memory_mib=1000 * cpus)
    partition = Partition(PARTITION, (node.name,), default_memory_per_cpu_mib=10)
    return Definition(
        nodes=(*NODES, node),
        partitions=(*PARTITIONS, partition),
        settings=with_room(1).settings,
    )


def waiting(side: Side) -> dict[str, str]:
    """Return the time of submission of each of its jobs that waits."""
    return {job: since for job, _, state, since in side.jobs() if state == "PENDING"}


def fill(slurm: SlurmSystem, cpus: int) -> int:
    """Take all that is left of the partition; returns the job."""
    options = (f"--partition={PARTITION}", "--mem=10M", f"--cpus-per-task={cpus}", "--time=2:00:00")
    job = slurm.sbatch(OTHER, "exec sleep infinity", *options)
    slurm.wait_until(lambda: slurm.job_state(job) == "RUNNING", 60, "the job that fills it")
    return job


def wait_in_queue(sides: Mapping[Kind, Side], size: Size, queues: Mapping[Kind, Queue]) -> float:
    """Look at both queues until the time is over; returns the seconds to the last look."""
    began, passed = time.monotonic(), 0.0
    while passed < size.seconds:
        # not a wait for something: this is how long the workers are to wait
        time.sleep(LOOK_SECONDS)
        passed = time.monotonic() - began
        for kind, side in sides.items():
            queues[kind].look(waiting(side), datetime.now())  # noqa: DTZ005 - as squeue has it
    return passed


def run(*, quick: bool, runs: int | None) -> None:
    """Measure, and print."""
    size = QUICK if quick else FULL
    if runs is not None and runs != 1:
        print("there is one round: both sides wait at the same time")
    print(f"gateway-busy: {size.workers} workers on each side wait for {size.seconds:g} s")
    print(machine.described("slurm", "gateway"), flush=True)
    sweep()
    room = 2 * size.workers
    queues: dict[Kind, Queue] = {"ours": Queue(), "stock": Queue()}
    terms = Terms(PARTITION, start_timeout=None)
    with SlurmSystem(partition_of(room + 2)) as slurm, both(slurm, terms) as sides:
        clusters = {kind: side.new_cluster(USER) for kind, side in sides.items()}
        filler = fill(slurm, room)
        for kind, side in sides.items():
            side.scale(USER, clusters[kind], size.workers)
        for kind, side in sides.items():
            wait_until(
                lambda side=side: len(waiting(side)) == size.workers,  # type: ignore[misc]
                DEADLINE_SECONDS,
                f"{kind}: {size.workers} jobs in the queue",
                poll_seconds=0.5,
            )
        passed = wait_in_queue(sides, size, queues)
        slurm.run(["scancel", str(filler)])
        _until_all_run(sides, size, queues)
    show(queues, size, passed)


def _until_all_run(sides: Mapping[Kind, Side], size: Size, queues: Mapping[Kind, Queue]) -> None:
    began = time.monotonic()

    def all_run() -> bool:
        for kind, side in sides.items():
            if queues[kind].until_run is None and side.states()["RUNNING"] > size.workers:
                queues[kind].until_run = time.monotonic() - began
        return all(queue.until_run is not None for queue in queues.values())

    wait_until(all_run, DEADLINE_SECONDS, "all workers", poll_seconds=0.2)


def show(queues: Mapping[Kind, Queue], size: Size, passed: float) -> None:
    """Print the table and the last line."""
    ours, stock = queues["ours"], queues["stock"]
    lost = {kind: queue.resubmitted(size.workers) for kind, queue in queues.items()}
    ages = {kind: queue.ages or [0.0] for kind, queue in queues.items()}
    none_lost = not lost["ours"]
    # squeue cuts the time of submission down to whole seconds: no age is too small
    kept = min(ages["ours"]) >= passed and len(ours.ages) == size.workers
    rows = [
        (
            name,
            str(lost[kind]),
            str(len(queues[kind].ages)),
            f"{min(ages[kind]):.0f} s",
            f"{statistics.median(ages[kind]):.0f} s",
            f"{queues[kind].until_run or 0.0:.1f} s",
        )
        for kind, name in NAMES.items()
    ]
    heading = ("", "resubmitted", "still waiting", "youngest", "median age", "all run after")
    print(report.table(heading, rows))
    print(
        f"resubmitted: goal none, {report.verdict(none_lost)}; age kept: all of "
        f"{passed:.0f} s, {report.verdict(kept)}"
    )
    print(
        report.last_line(
            "gateway-busy",
            ours=lost["ours"],
            other=lost["stock"],
            ratio=ratio(lost["ours"], lost["stock"]),
            runs=1,
            more={
                "unit": "jobs submitted again",
                "workers": size.workers,
                "waited_seconds": passed,
                "youngest_seconds_ours": min(ages["ours"]),
                "youngest_seconds_other": min(ages["stock"]),
                "median_age_seconds_ours": statistics.median(ages["ours"]),
                "median_age_seconds_other": statistics.median(ages["stock"]),
                "still_waiting_ours": len(ours.ages),
                "still_waiting_other": len(stock.ages),
                "until_all_run_seconds_ours": ours.until_run,
                "until_all_run_seconds_other": stock.until_run,
                "goals_met": none_lost and kept,
            },
        )
    )
