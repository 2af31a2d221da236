"""`gateway-scale`: a Dask cluster to 50 workers, and to none.

Ours and stock dask-gateway-server with its own Slurm backend in turn, on one real Slurm; each has
a cluster with Dask's own scheduler. Workers are jobs that sleep, so that the gateway is measured
and not the start of 50 Pythons on one small machine. Counted for each round, from the request for
50 until all are gone and a little longer: processes that the gateway has started (as the kernel
tells of them), submissions and requests that slurmctld has answered to clients (sdiag), CPU time.
The floor is one job array by hand, and one scancel.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.systems.processes import wait_until
from tests.systems.slurm import SlurmSystem, sweep

from . import machine, report
from .activity import Forks, cpu_seconds
from .cluster import with_room
from .figures import Calls, Spread, ratio
from .gateway_sides import WATCHER, Side, Terms, both, client_calls

USER = "alice"
PROCESSES_GOAL, TIME_GOAL = 0.1, 0.5
DEADLINE_SECONDS = 300
LOOK_SECONDS = 0.1
SETTLE_SECONDS = 5.0
_SUBMISSION = "REQUEST_SUBMIT_BATCH_JOB"


@dataclass(frozen=True)
class Size:
    """How many workers, and how often."""

    workers: int
    rounds: int


FULL = Size(50, 5)
QUICK = Size(10, 1)


@dataclass(frozen=True)
class Round:
    """One way up and down.

    Attributes:
        up: Seconds from the request until all workers run.
        down: Seconds from the request for none until all are gone.
        processes: Processes that the gateway has started.
        submissions: Jobs and arrays that slurmctld has taken.
        calls: Requests of clients that slurmctld has answered.
        cpu: CPU time of the gateway and its processes, in seconds.
    """

    up: float
    down: float
    processes: int
    submissions: int
    calls: int
    cpu: float


def up_and_down(side: Side, cluster: str, workers: int, forks: Forks) -> Round:
    """Scale a cluster up and to none, and measure."""
    pid = side.gateway.pid
    forks.follow(pid)

    def now() -> tuple[int, Calls, float]:
        calls = Calls.parse(side.slurm.run(["sdiag"], WATCHER).stdout)
        return forks.count(pid), calls, cpu_seconds(pid)

    forks_before, calls_before, cpu_before = now()
    up = _timed(
        lambda: side.scale(USER, cluster, workers),
        lambda: side.states()["RUNNING"] == workers + 1,
        f"{side.kind}: {workers} workers",
    )
    down = _timed(
        lambda: side.scale(USER, cluster, 0),
        lambda: len(side.jobs()) == 1,
        f"{side.kind}: the end of {workers} workers",
    )
    time.sleep(SETTLE_SECONDS)
    forks_after, calls_after, cpu_after = now()
    submitted = calls_after.by_kind.get(_SUBMISSION, 0) - calls_before.by_kind.get(_SUBMISSION, 0)
    return Round(
        up=up,
        down=down,
        processes=forks_after - forks_before,
        submissions=submitted,
        calls=client_calls(calls_after) - client_calls(calls_before),
        cpu=cpu_after - cpu_before,
    )


def by_hand(slurm: SlurmSystem, workers: int) -> tuple[float, float]:
    """Return the seconds that one job array takes to run, and one scancel to end it."""
    array = f"--array=0-{workers - 1}"
    options = ("--partition=big", "--mem=100M", "--cpus-per-task=1", "--job-name=floor", array)
    jobs: list[int] = []

    def states() -> list[str]:
        command = ["squeue", "-h", "-r", "--name=floor", "-o", "%T"]
        return slurm.run(command, WATCHER).stdout.split()

    up = _timed(
        lambda: jobs.append(slurm.sbatch(USER, "exec sleep infinity", *options)),
        lambda: states().count("RUNNING") == workers,
        "an array by hand",
    )
    down = _timed(
        lambda: slurm.run(["scancel", str(jobs[0])], USER),
        lambda: not states(),
        "the end of an array by hand",
    )
    return up, down


def _timed(deed: Callable[[], object], done: Callable[[], bool], what: str) -> float:
    began = time.monotonic()
    deed()
    wait_until(done, DEADLINE_SECONDS, what, poll_seconds=LOOK_SECONDS)
    return time.monotonic() - began


def run(*, quick: bool, runs: int | None) -> None:
    """Measure, and print."""
    size = QUICK if quick else FULL
    rounds = runs or size.rounds
    print(f"gateway-scale: to {size.workers} workers and to none, {rounds} rounds in turn")
    print(machine.described("slurm", "gateway"), flush=True)
    sweep()
    found: dict[str, list[Round]] = {"ours": [], "stock": []}
    floor: list[tuple[float, float]] = []
    with (
        SlurmSystem(with_room(4 * size.workers + 20)) as slurm,
        Forks() as forks,
        both(slurm, Terms("big")) as sides,
    ):
        clusters = {kind: side.new_cluster(USER) for kind, side in sides.items()}
        for index in range(rounds):
            order = list(sides.items())
            for kind, side in order if index % 2 == 0 else reversed(order):
                found[kind].append(up_and_down(side, clusters[kind], size.workers, forks))
                print(f"{kind}: {_words(found[kind][-1])}", flush=True)
            floor.append(by_hand(slurm, size.workers))
    show(found, floor, size)


def _words(one: Round) -> str:
    return (
        f"all run after {one.up:.2f} s, gone after {one.down:.2f} s; {one.processes} processes, "
        f"{one.submissions} submissions, {one.calls} Slurm RPCs, {one.cpu:.2f} s of CPU"
    )


def show(
    found: Mapping[str, Sequence[Round]], floor: Sequence[tuple[float, float]], size: Size
) -> None:
    """Print the table and the last line."""
    ours, stock = found["ours"], found["stock"]
    up, down = _compared(ours, stock, "up"), _compared(ours, stock, "down")
    processes = _compared(ours, stock, "processes")
    submissions, calls = _compared(ours, stock, "submissions"), _compared(ours, stock, "calls")
    cpu = _compared(ours, stock, "cpu")
    by_hand_up, by_hand_down = (Spread.of(values).median for values in zip(*floor, strict=True))
    met = {
        "up": up[2] <= TIME_GOAL,
        "down": down[2] <= TIME_GOAL,
        "processes": processes[2] <= PROCESSES_GOAL,
    }
    goals = {"up": TIME_GOAL, "down": TIME_GOAL, "processes": PROCESSES_GOAL}
    lines = [
        ("until all run", "up", up, "s", f"{by_hand_up:.2f} s"),
        ("until all are gone", "down", down, "s", f"{by_hand_down:.2f} s"),
        ("processes", "processes", processes, "", "2"),
        ("submissions", "submissions", submissions, "", "1"),
        ("Slurm RPCs", "calls", calls, "", ""),
        ("CPU of the gateway", "cpu", cpu, "s", ""),
    ]
    rows = [
        (
            what,
            report.amount(values[0], unit),
            report.amount(values[1], unit),
            f"{values[2]:.3f}",
            f"<= {goals[name]:g}, {report.verdict(met[name])}" if name in met else "",
            hand,
        )
        for what, name, values, unit, hand in lines
    ]
    heading = ("medians", "qhub", "stock SlurmBackend", "ratio", "goal", "floor: by hand")
    print(report.table(heading, rows))
    print(
        report.last_line(
            "gateway-scale",
            ours=up[0] + down[0],
            other=up[1] + down[1],
            ratio=max(up[2], down[2]),
            floor=by_hand_up + by_hand_down,
            runs=len(ours),
            more={
                "unit": "seconds up and down, medians; ratio: the worse of the two",
                "workers": size.workers,
                "up_ours": up[0],
                "up_other": up[1],
                "up_ratio": up[2],
                "down_ours": down[0],
                "down_other": down[1],
                "down_ratio": down[2],
                "processes_ours": processes[0],
                "processes_other": processes[1],
                "processes_ratio": processes[2],
                "submissions_ours": submissions[0],
                "submissions_other": submissions[1],
                "rpc_ours": calls[0],
                "rpc_other": calls[1],
                "rpc_ratio": calls[2],
                "cpu_ours": cpu[0],
                "cpu_other": cpu[1],
                "goals_met": all(met.values()),
            },
        )
    )


def _compared(
    ours: Sequence[Round], stock: Sequence[Round], what: str
) -> tuple[float, float, float]:
    """Return both medians of what was measured, and ours over the other."""
    first, second = (
        statistics.median(float(getattr(one, what)) for one in rounds) for rounds in (ours, stock)
    )
    return first, second, ratio(first, second)
