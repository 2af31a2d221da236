"""`poll`: what it costs to know how 500 running and 50 starting servers are.

One real slurmctld, and real jobs that sleep; a real hub that takes them up from its database as a
restarted hub does, and then is asked to start 50 more. Ours and stock SlurmSpawner in turn, with
the same jobs. Counted within a window of time: processes that the hub has started (as the kernel
tells of them), calls that slurmctld has answered for its accounts (sdiag), CPU time of the hub
and its processes (proc). Then ours at rest with 50, 500 and 3,000 servers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean

from tests.systems.processes import NotReadyError, wait_until
from tests.systems.slurm import HUB_USER, SlurmSystem, sweep
from tests.systems.slurm_hub import SlurmHub

from . import machine, report
from .activity import Forks, cpu_seconds
from .answering import AnsweringServer
from .cluster import Sleeper, Sleepers, fill_busy_partition, with_room
from .figures import Calls, per_minute, ratio
from .filled import Kept, fill, qhub_kept, stock_kept
from .rivals import StockHub

USERS = ("alice", "bob")
HUB_ID = "bench"
RATIO_GOAL, CALLS_GOAL, CPU_GOAL, QUERIES_GOAL = 1 / 100, 1 / 100, 1 / 20, 20
START_SECONDS = 600
POSTS_AT_ONCE = 8

# The same for both: people are known, starting does not block the request, and nothing gives up
# while thousands of servers are looked at one after the other.
_COMMON = """
c.Authenticator.allow_all = False
c.Authenticator.allowed_users = {"alice", "bob"}
c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 0}
c.Spawner.http_timeout = 600
c.SlurmSpawner.start_timeout = 7 * 24 * 3600
"""
_OURS = """
c.IdleRule.timeout = 0  # stock has no such rule: a service beside it would ask the servers
c.SlurmBackend.hub_id = "bench"
c.SlurmBackend.startup_timeout = 3600
c.QHubSpawner.profiles = [
    {"slug": name, "display_name": name, "cpu": 1, "memory": "10 MiB", "walltime": "1h",
     "slurm": {"partition": name}} for name in ("busy", "big")
]
c.Spawner.cmd = ["sleep", "infinity"]
"""
_STOCK = """
c.SlurmSpawner.batchspawner_singleuser_cmd = "sleep infinity #"
"""


@dataclass(frozen=True)
class Size:
    """How much is measured: servers that run, wait in the queue, come up; seconds of a window."""

    running: int
    waiting: int
    coming_up: int
    at_rest: tuple[int, ...]
    settle_seconds: float
    window_seconds: float


FULL = Size(500, 45, 5, (50, 500, 3000), 15, 60)
QUICK = Size(20, 4, 1, (5, 20, 40), 5, 20)


@dataclass(frozen=True)
class Load:
    """What one hub did in a window, per minute (CPU as a share of one core)."""

    processes: float
    calls: float
    cpu: float
    controller_cpu: float


class Meter:
    """Takes the load of a hub."""

    def __init__(self, slurm: SlurmSystem, forks: Forks) -> None:
        """Measure on this cluster."""
        self.slurm = slurm
        self.forks = forks

    def over(self, hub: SlurmHub, seconds: float) -> Load:
        """Measure a hub for so many seconds."""
        pid = hub.hub.pid
        controller = self.slurm.daemon("slurmctld").pid
        self.forks.follow(pid)

        def now() -> tuple[float, int, float, float, Calls]:
            calls = Calls.parse(self.slurm.run(["sdiag"]).stdout)
            numbers = self.forks.count(pid), cpu_seconds(pid), cpu_seconds(controller)
            return time.monotonic(), *numbers, calls

        began, forks, cpu, controller_cpu, calls = now()
        time.sleep(seconds)
        ended, forks_after, cpu_after, controller_after, calls_after = now()
        passed = ended - began
        return Load(
            processes=per_minute(forks_after - forks, passed),
            calls=per_minute(calls_after.since(calls, (HUB_USER, *USERS)), passed),
            cpu=(cpu_after - cpu) / passed,
            controller_cpu=(controller_after - controller_cpu) / passed,
        )


@dataclass(frozen=True)
class Bench:
    """What all parts of the benchmark share."""

    slurm: SlurmSystem
    sleepers: Sleepers
    meter: Meter
    size: Size
    port: int

    def ours(self) -> SlurmHub:
        """Make our hub."""
        return SlurmHub(self.slurm, profiles="", config=_COMMON + _OURS, log_level="WARN")

    def stock(self) -> SlurmHub:
        """Make the stock hub."""
        return StockHub(self.slurm, partition="busy", memory="10M", config=_COMMON + _STOCK)

    @contextmanager
    def with_servers(
        self, make: Callable[[], SlurmHub], kept: Callable[[Sleeper, int], Kept], count: int
    ) -> Iterator[SlurmHub]:
        """Run a hub that has taken up so many running servers."""
        self.sleepers.grow_to(count)
        hub = make()
        hub.hub.deadline_seconds = START_SECONDS
        try:
            hub.start()  # makes its database, and the people in it
            hub.hub.end()
            servers = (kept(each, self.port) for each in self.sleepers.all[:count])
            added = fill(hub.folder / "jupyterhub.sqlite", servers)
            if added != count:
                msg = f"{added} servers are in the database, not {count}"
                raise RuntimeError(msg)
            hub.restart()
            wait_until(
                lambda: _ready(hub) == count, START_SECONDS, f"{count} servers", poll_seconds=1
            )
            yield hub
        finally:
            hub.stop()

    def start_more(self, hub: SlurmHub, options: Callable[[str], object]) -> None:
        """Ask the hub to start servers, and wait until their jobs wait or run."""
        size = self.size
        wanted = ["busy"] * size.waiting + ["big"] * size.coming_up

        def post(index: int) -> int:
            user = USERS[index % len(USERS)]
            return hub.start_server(user, options(wanted[index]), f"new{index}").status

        with ThreadPoolExecutor(POSTS_AT_ONCE) as pool:
            answers = list(pool.map(post, range(len(wanted))))
        if set(answers) != {202}:
            msg = f"the hub answered {sorted(set(answers))} to requests to start, expected 202"
            raise RuntimeError(msg)
        wanted_jobs = (size.waiting, len(self.sleepers.all) + size.coming_up)
        found = (0, 0)

        def all_there() -> bool:
            nonlocal found
            found = self._jobs("PD", "busy"), self._jobs("R", "big")
            return found == wanted_jobs

        try:
            wait_until(all_there, START_SECONDS, "the jobs of starting servers", poll_seconds=1)
        except NotReadyError as error:
            msg = f"{error}; waiting and running: {found}, expected {wanted_jobs}\n"
            raise RuntimeError(msg + hub.hub.describe()) from error

    def _jobs(self, state: str, partition: str) -> int:
        command = ["squeue", "-h", f"--states={state}", f"--partition={partition}", "-o", "%A"]
        return len(self.slurm.run(command).stdout.split())

    def end_started(self) -> None:
        """Cancel what was started beyond the sleepers, after its hub has ended."""
        known = {sleeper.job_id for sleeper in self.sleepers.all}
        every = self.slurm.run(["squeue", "-h", "-o", "%A %P"]).stdout.splitlines()
        more = [
            job
            for job, partition in (line.split() for line in every)
            if int(job) not in known and (partition, job) not in self._fillers()
        ]
        if more:
            self.slurm.run(["scancel", *more])
        self.slurm.wait_until(
            lambda: (
                self._jobs("PD", "busy") == 0
                and self._jobs("R,CG", "big") == len(self.sleepers.all)
            ),
            START_SECONDS,
            "the end of the jobs that were started",
        )

    def _fillers(self) -> set[tuple[str, str]]:
        command = ["squeue", "-h", "--states=R", "--partition=busy", "-o", "%P %A"]
        lines = self.slurm.run(command).stdout.splitlines()
        return {(partition, job) for partition, job in (line.split() for line in lines)}

    def under_load(self, kind: str) -> Load:
        """Measure one hub with servers that run and servers that start."""
        ours = kind == "ours"
        make, kept = (self.ours, qhub_kept) if ours else (self.stock, stock_kept)
        try:
            with self.with_servers(make, kept, self.size.running) as hub:
                if ours:
                    self.start_more(hub, lambda partition: {"profile": partition})
                else:
                    self.start_more(hub, lambda partition: {"partition": partition})
                time.sleep(self.size.settle_seconds)
                load = self.meter.over(hub, self.size.window_seconds)
                if _ready(hub) != self.size.running:
                    msg = f"{kind}: {_ready(hub)} servers are left of {self.size.running}"
                    raise RuntimeError(msg)
        finally:
            self.end_started()
        print(f"{kind}: {_words(load)}", flush=True)
        return load

    def at_rest(self, count: int) -> Load:
        """Measure ours with servers that all run."""
        with self.with_servers(self.ours, qhub_kept, count) as hub:
            time.sleep(self.size.settle_seconds)
            load = self.meter.over(hub, self.size.window_seconds)
        print(f"ours at rest, {count} servers: {_words(load)}", flush=True)
        return load


def _ready(hub: SlurmHub) -> int:
    answers = [hub.api("GET", f"users/{user}").json or {} for user in USERS]
    servers = [server for answer in answers for server in answer.get("servers", {}).values()]
    return sum(bool(server.get("ready")) for server in servers)


def _words(load: Load) -> str:
    return (
        f"{report.amount(load.processes)} processes and {report.amount(load.calls)} Slurm RPCs a "
        f"minute, {load.cpu:.2%} of a core (slurmctld {load.controller_cpu:.2%})"
    )


def run(*, quick: bool, runs: int | None) -> None:
    """Measure, and print."""
    size = QUICK if quick else FULL
    rounds = runs or (1 if quick else 2)
    print(
        f"poll: {size.running} running servers and {size.waiting + size.coming_up} starting ones "
        f"({size.waiting} in the queue, {size.coming_up} coming up), windows of "
        f"{size.window_seconds:g} s, {rounds} each in turn"
    )
    print(machine.described(), flush=True)
    sweep()
    definition = with_room(max(*size.at_rest, size.running) + size.coming_up)
    loads: dict[str, list[Load]] = {"ours": [], "stock": []}
    rest: dict[int, Load] = {}
    with SlurmSystem(definition) as slurm, Forks() as forks, AnsweringServer() as answering:
        fill_busy_partition(slurm, USERS[0])
        sleepers = Sleepers(slurm, HUB_ID, USERS)
        bench = Bench(slurm, sleepers, Meter(slurm, forks), size, answering.port)
        for count in (each for each in size.at_rest if each <= size.running):
            rest[count] = bench.at_rest(count)
        for _ in range(rounds):
            for kind, found in loads.items():
                found.append(bench.under_load(kind))
        for count in (each for each in size.at_rest if each > size.running):
            rest[count] = bench.at_rest(count)
    show(loads, rest, size)


def show(loads: dict[str, list[Load]], rest: dict[int, Load], size: Size) -> None:
    """Print the tables and the last line."""
    ours, stock = (
        Load(
            fmean(load.processes for load in found),
            fmean(load.calls for load in found),
            fmean(load.cpu for load in found),
            fmean(load.controller_cpu for load in found),
        )
        for found in (loads["ours"], loads["stock"])
    )
    shares = {
        "ratio": (ratio(ours.processes, stock.processes), RATIO_GOAL),
        "rpc_ratio": (ratio(ours.calls, stock.calls), CALLS_GOAL),
        "cpu_ratio": (ratio(ours.cpu, stock.cpu), CPU_GOAL),
    }
    met = {name: share < goal for name, (share, goal) in shares.items()}
    print(_compared(ours, stock, shares, met))
    # at rest every process of ours is one command of Slurm's: a query
    queries = {str(count): load.processes for count, load in rest.items()}
    most = max(queries.values())
    met["queries_per_minute"] = most <= QUERIES_GOAL
    print(f"\nqhub at rest (all servers run):\n{_resting(rest)}")
    print(f"goal: at most {QUERIES_GOAL} a minute, {report.verdict(met['queries_per_minute'])}")
    print(
        report.last_line(
            "poll",
            ours=ours.processes,
            other=stock.processes,
            ratio=shares["ratio"][0],
            runs=len(loads["ours"]),
            more={
                "unit": "processes started per minute",
                "running": size.running,
                "starting": size.waiting + size.coming_up,
                "rpc_ours": ours.calls,
                "rpc_other": stock.calls,
                "rpc_ratio": shares["rpc_ratio"][0],
                "cpu_ours": ours.cpu,
                "cpu_other": stock.cpu,
                "cpu_ratio": shares["cpu_ratio"][0],
                "queries_per_minute": most,
                "queries_per_minute_by_servers": queries,
                "goals_met": all(met.values()),
            },
        )
    )


def _compared(
    ours: Load, stock: Load, shares: dict[str, tuple[float, float]], met: dict[str, bool]
) -> str:
    """Return the table of both, with each share beside its goal."""
    amount = report.amount
    lines = [
        ("processes started a minute", "ratio", amount(ours.processes), amount(stock.processes)),
        ("Slurm RPCs a minute", "rpc_ratio", amount(ours.calls), amount(stock.calls)),
        ("CPU of the hub, of a core", "cpu_ratio", f"{ours.cpu:.2%}", f"{stock.cpu:.2%}"),
    ]
    rows = [
        (
            what, first, second, f"{shares[name][0]:.5f}",
            f"< {shares[name][1]:g}, {report.verdict(met[name])}",
        )
        for what, name, first, second in lines
    ]  # fmt: skip
    rows.append(
        (
            "CPU of slurmctld, of a core", f"{ours.controller_cpu:.2%}",
            f"{stock.controller_cpu:.2%}", "", "",
        )
    )  # fmt: skip
    return report.table(("", "qhub", "stock SlurmSpawner", "ratio", "goal"), rows)


def _resting(rest: dict[int, Load]) -> str:
    """Return the table of ours with servers that all run."""
    return report.table(
        ("servers", "queries a minute", "Slurm RPCs a minute", "CPU of the hub"),
        [
            (
                str(count),
                report.amount(load.processes),
                report.amount(load.calls),
                f"{load.cpu:.2%}",
            )
            for count, load in rest.items()
        ],
    )
