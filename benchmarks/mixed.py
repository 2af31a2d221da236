"""`mixed`: 200 servers, half of them jobs and half pods, asked for within a minute.

One hub on a real Slurm and a real Kubernetes; servers that cost next to nothing, as the hub is
what is measured. Everything else here stands for other machines: so the kernel's scheduler is told
to prefer the hub, and the hub's database is in memory, where no commit waits for what others write
to the one disk. Counted: servers that are not ready in time or do not answer through the proxy, and
how late the hub's event loop is meanwhile, which a few lines in its configuration write down.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.systems import kubernetes, slurm, stand_in
from tests.systems.both_hub import BothHub
from tests.systems.kubernetes import KubernetesSystem
from tests.systems.processes import NotReadyError, wait_until
from tests.systems.slurm import HUB_USER, SlurmSystem

from . import machine, report
from .cluster import with_room
from .figures import lags, percentile

USERS = ("alice", "bob")
LAG_GOAL = 0.1
TICK_SECONDS = 0.01
POSTS_AT_ONCE = 8
LOOK_SECONDS = 0.5
DEADLINE_SECONDS = 300
SCRIPT_FOLDER = "/opt/stand-in"
PREFERENCE = -15
MEMORY = Path("/dev/shm")  # noqa: S108 - the file system in memory

_CONFIG = """
c.Authenticator.allow_all = False
c.Authenticator.allowed_users = set(USERS)
c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 0}
c.JupyterHub.concurrent_spawn_limit = 0
c.JupyterHub.db_url = f"sqlite:///{DATABASE}/jupyterhub.sqlite"
c.Spawner.cmd = ["/usr/bin/python3", "-I", STAND_IN]
c.KubeSpawner.cmd = ["python3", "-I", SCRIPT_FOLDER + "/stand_in.py"]
c.QHubSpawner.profiles = [
    {"slug": "job", "display_name": "Job", "cpu": 1, "memory": "64 MiB", "walltime": "1h",
     "slurm": {"partition": "big"}},
    {"slug": "pod", "display_name": "Pod", "cpu": 1, "memory": "64 MiB", "walltime": "1h",
     "kubernetes": {"cpu_request": "5m", "memory_request": "32 MiB",
                    "volumes": {"stand-in": {"configMap": {"name": "stand-in"}}},
                    "mounts": {SCRIPT_FOLDER: {"name": "stand-in"}}}},
]

# When the event loop comes round to something that is due every so often.
import asyncio

async def note_ticks():
    clock = asyncio.get_running_loop().time
    with open("ticks", "w", buffering=1) as notes:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            notes.write(f"{clock():.6f}\\n")

noting = asyncio.ensure_future(note_ticks())
"""


@dataclass(frozen=True)
class Size:
    """How much is asked for: servers, and within how many seconds."""

    servers: int
    seconds: float


FULL = Size(200, 60)
QUICK = Size(8, 5)


@dataclass(frozen=True)
class Wanted:
    """A server to start."""

    user: str
    name: str
    profile: str

    @classmethod
    def some(cls, count: int) -> list[Wanted]:
        """Return so many, jobs and pods in turn, for both people alike."""
        return [
            cls(USERS[index // 2 % 2], f"s{index:03d}", ("job", "pod")[index % 2])
            for index in range(count)
        ]


@dataclass(frozen=True)
class Outcome:
    """What became of them.

    Attributes:
        ready_seconds: From each request until its server was seen ready, by profile.
        refused: Requests that the hub did not take.
        lost: Servers that were not ready in time, or did not answer as themselves.
        all_ready_seconds: From the first request until all that came were seen ready.
        lags: How late the event loop was, from the first request to the last server.
    """

    ready_seconds: Mapping[str, list[float]]
    refused: int
    lost: list[str]
    all_ready_seconds: float
    lags: list[float]


class Bench:
    """The hub, and what is asked of it."""

    def __init__(self, jobs: SlurmSystem, pods: KubernetesSystem, database: Path) -> None:
        """Make the hub, whose database is in the folder `database`, and what its servers run."""
        shutil.chown(database, HUB_USER)
        values = {
            "DATABASE": str(database),
            "USERS": USERS,
            "STAND_IN": str(self._script(jobs)),
            "SCRIPT_FOLDER": SCRIPT_FOLDER,
            "TICK_SECONDS": TICK_SECONDS,
        }
        lines = "".join(f"{name} = {value!r}\n" for name, value in values.items())
        self.hub = BothHub(jobs, pods, profiles="", config=lines + _CONFIG, log_level="WARN")
        script = Path(stand_in.__file__).read_text()
        pods.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "stand-in", "namespace": self.hub.namespace},
                "data": {"stand_in.py": script},
            }
        )

    @staticmethod
    def _script(jobs: SlurmSystem) -> Path:
        path = Path(jobs.run_folder) / "stand_in.py"  # where people may read
        path.write_text(Path(stand_in.__file__).read_text())
        path.chmod(0o644)
        return path

    def start_all(self, size: Size) -> Outcome:
        """Ask for all of them at an even pace, and wait until they are ready."""
        wanted = Wanted.some(size.servers)
        began = time.monotonic()

        def post(index: int) -> tuple[float, int]:
            time.sleep(max(0.0, began + index * size.seconds / len(wanted) - time.monotonic()))
            each, asked = wanted[index], time.monotonic()
            answer = self.hub.start_server(each.user, {"profile": each.profile}, each.name)
            return asked, answer.status

        ready_at: dict[Wanted, float] = {}
        with ThreadPoolExecutor(POSTS_AT_ONCE) as pool:
            answers = pool.map(post, range(len(wanted)))

            def all_ready() -> bool:
                ready, now = self._ready(), time.monotonic()
                for each in wanted:
                    if (each.user, each.name) in ready:
                        ready_at.setdefault(each, now)
                return len(ready_at) == len(wanted)

            try:
                wait_until(all_ready, DEADLINE_SECONDS, "all servers", poll_seconds=LOOK_SECONDS)
            except NotReadyError:
                print(f"not all were ready in time:\n{self.hub.hub.describe()}", flush=True)
            ended = time.monotonic()
            posted = list(answers)
        lost = [each.name for each in wanted if each not in ready_at or not self._answers(each)]
        taken: dict[str, list[float]] = {"job": [], "pod": []}
        for each, (asked, _) in zip(wanted, posted, strict=True):
            if each in ready_at:
                taken[each.profile].append(ready_at[each] - asked)
        ticks = [float(line) for line in (self.hub.folder / "ticks").read_text().split()]
        return Outcome(
            ready_seconds=taken,
            refused=sum(status not in {201, 202} for _, status in posted),
            lost=lost,
            all_ready_seconds=ended - began,
            lags=lags([tick for tick in ticks if began <= tick <= ended], TICK_SECONDS),
        )

    def _ready(self) -> set[tuple[str, str]]:
        """Return the servers that the proxy has a route to; the hub is not kept from its work."""
        proxy = self.hub.proxy
        words = dict(word.lstrip("-").partition("=")[::2] for word in proxy.argv)
        request = urllib.request.Request(
            f"http://{words['api-ip']}:{words['api-port']}/api/routes",
            headers={"Authorization": f"token {proxy.environment['CONFIGPROXY_AUTH_TOKEN']}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - our own proxy
            routes = json.load(answer)
        parts = (route.strip("/").split("/") for route in routes)
        return {(part[1], part[2]) for part in parts if part[0] == "user" and len(part) == 3}

    def _answers(self, each: Wanted) -> bool:
        """Whether it answers through the proxy, as itself and from where it should be."""
        url = f"{self.hub.url}user/{each.user}/{each.name}/"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - our own proxy
                said = json.load(answer)
        except (OSError, ValueError) as error:
            print(f"{each.name} does not answer: {error}", flush=True)
            return False
        return bool(said["server"] == each.name and bool(said["job"]) == (each.profile == "job"))


def run(*, quick: bool, runs: int | None) -> None:
    """Measure, and print."""
    size = QUICK if quick else FULL
    rounds = runs or 1
    print(
        f"mixed: {size.servers} servers, jobs and pods in turn, asked for within "
        f"{size.seconds:g} s, {rounds} times"
    )
    print(machine.described("slurm", "kubernetes"), flush=True)
    slurm.sweep()
    kubernetes.sweep()
    outcomes = [_once(size) for _ in range(rounds)]
    show(outcomes, size)


def prefer(pid: int) -> None:
    """Have the kernel's scheduler prefer a process that leads a session, and what it starts."""
    try:
        # with autogroups, a nice value counts only among the processes of a session; see sched(7)
        Path(f"/proc/{pid}/autogroup").write_text(str(PREFERENCE))
    except OSError:
        os.setpriority(os.PRIO_PROCESS, pid, PREFERENCE)


def _once(size: Size) -> Outcome:
    with (
        TemporaryDirectory(prefix="qhub-mixed-", dir=MEMORY) as database,
        SlurmSystem(with_room(size.servers)) as jobs,
        KubernetesSystem() as pods,
    ):
        bench = Bench(jobs, pods, Path(database))
        try:
            bench.hub.start()
            prefer(bench.hub.hub.pid)
            for user in USERS:
                bench.hub.add_user(user)
            outcome = bench.start_all(size)
        finally:
            bench.hub.stop()
    print(
        f"{size.servers - len(outcome.lost)} of {size.servers} ready and answering after "
        f"{outcome.all_ready_seconds:.1f} s",
        flush=True,
    )
    return outcome


def show(outcomes: list[Outcome], size: Size) -> None:
    """Print the table and the last line."""
    every = [lag for outcome in outcomes for lag in outcome.lags]
    found = {percent: percentile(every, percent) for percent in (50, 95, 99, 100)}
    lost = sum(len(outcome.lost) for outcome in outcomes)
    rows = []
    for profile, name in (("job", "jobs"), ("pod", "pods")):
        taken = [seconds for outcome in outcomes for seconds in outcome.ready_seconds[profile]]
        cells = [f"{percentile(taken, each):.1f} s" for each in (50, 95, 99, 100)] if taken else []
        rows.append((f"{name}: request to ready", *(cells or ["none"] * 4)))
    rows.append(
        ("lag of the hub's event loop", *(f"{1000 * lag:.1f} ms" for lag in found.values()))
    )
    print(report.table(("", "median", "p95", "p99", "most"), rows))
    no_loss, in_time = not lost, found[95] < LAG_GOAL
    print(
        f"lost: {lost} (goal: none, {report.verdict(no_loss)}); p95 of the lag: "
        f"{1000 * found[95]:.1f} ms (goal: below {1000 * LAG_GOAL:g} ms, {report.verdict(in_time)})"
    )
    print(
        report.last_line(
            "mixed",
            ours=found[95],
            other=None,
            ratio=None,
            runs=len(outcomes),
            more={
                "unit": "seconds, p95 of the lag of the hub's event loop",
                "servers": size.servers,
                "asked_within_seconds": size.seconds,
                "lost": lost,
                "refused": sum(outcome.refused for outcome in outcomes),
                "all_ready_seconds": max(outcome.all_ready_seconds for outcome in outcomes),
                "lag_median_seconds": found[50],
                "lag_p95_seconds": found[95],
                "lag_p99_seconds": found[99],
                "lag_max_seconds": found[100],
                "goals_met": no_loss and in_time,
            },
        )
    )
