"""`spawn`: from the request to a server that is ready.

Ours, stock SlurmSpawner, and the floor in turn on one cluster. The floor is the same command with
the same environment and resources, submitted with sbatch by the person's own hand, until it
listens: no hub can be faster.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from tests.systems.hub import HubSystem
from tests.systems.processes import NotReadyError, Ports, tail, wait_until
from tests.systems.slurm import SlurmSystem, sweep
from tests.systems.slurm_hub import SlurmHub

from . import machine, report
from .figures import Spread, ratio
from .rivals import StockHub

USER = "alice"
RUNS = 10
DEADLINE_SECONDS = 120
LOOK_SECONDS = 0.01
RESOURCES = ("--partition=general", "--mem=600M", "--cpus-per-task=1", "--time=1:00:00")
# What belongs to one job, and is given anew to the next.
_OF_THE_JOB = ("SLURM_", "JUPYTERHUB_API_TOKEN", "JUPYTERHUB_SERVICE_URL", "JPY_API_TOKEN")


@dataclass(frozen=True)
class Contest:
    """What is compared, and what is aimed at.

    Attributes:
        bench: The benchmark's name.
        rival: What the rival is called.
        floor: What the floor is.
        ratio_goal: Ours over the rival's, at most.
        over_floor_goal: Ours less the floor, at most, in seconds.
    """

    bench: str
    rival: str
    floor: str
    ratio_goal: float
    over_floor_goal: float = 1.0


@dataclass(frozen=True)
class Started:
    """How a server was started: its command, and its environment without what belongs to a job."""

    argv: tuple[str, ...]
    environment: dict[str, str]
    service_url: str

    @classmethod
    def find(cls, user_url: str) -> Started:
        """Read it from the process that serves `user_url`, such as ``/user/alice/``.

        Raises:
            LookupError: There is no such process.
        """
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                words = (folder / "environ").read_text().split("\0")
                argv = (folder / "cmdline").read_text().split("\0")[:-1]
            except (OSError, UnicodeDecodeError):
                continue
            variables = dict(word.split("=", 1) for word in words if "=" in word)
            serves = any(word.endswith("jupyterhub-singleuser") for word in argv)
            if serves and variables.get("JUPYTERHUB_SERVICE_PREFIX") == user_url:
                kept = {
                    name: value
                    for name, value in variables.items()
                    if not name.startswith(_OF_THE_JOB)
                }
                return cls(tuple(argv), kept, variables["JUPYTERHUB_SERVICE_URL"])
        msg = f"no process serves {user_url}"
        raise LookupError(msg)


CONTEST = Contest("spawn", "stock SlurmSpawner", "sbatch by hand", ratio_goal=0.6)


def by_hub(hub: HubSystem) -> float:
    """Start a server through a hub; returns the seconds from the request until it is ready."""
    began = time.monotonic()
    answer = hub.start_server(USER)
    if answer.status == 202:
        # the hub's own signal: it comes when the server is ready, and costs no asking
        events = hub.progress(USER, seconds=DEADLINE_SECONDS)
        if not events or not events[-1].get("ready"):
            msg = f"the server did not start: {events[-1:]}\n{hub.hub.describe()}"
            raise RuntimeError(msg)
    elif answer.status != 201:
        msg = f"the hub answered {answer.status}: {answer.text}\n{hub.hub.describe()}"
        raise RuntimeError(msg)
    seconds = time.monotonic() - began
    hub.wait_ready(USER)
    return seconds


def end_by_hub(hub: SlurmHub) -> None:
    """Stop the server, and wait until nothing runs on the cluster."""
    hub.stop_server(USER)
    hub.wait_stopped(USER)
    until_idle(hub.slurm)


def until_idle(slurm: SlurmSystem) -> None:
    """Wait until no job is left, ending ones included."""
    command = ["squeue", "--noheader", "--format=%A"]
    wait_until(lambda: not slurm.run(command).stdout.strip(), 60, "an empty queue")


def by_hand(slurm: SlurmSystem, started: Started, token: str, ports: Ports) -> float:
    """Submit the same by hand; returns the seconds until the server listens."""
    port = ports.reserve()[0]
    url = urlsplit(started.service_url)
    environment = {
        **started.environment,
        **slurm.environment,
        "JUPYTERHUB_API_TOKEN": token,
        "JUPYTERHUB_SERVICE_URL": urlunsplit(url._replace(netloc=f"127.0.0.1:{port}")),
    }
    words = " ".join(f"'{word}'" for word in started.argv)
    log = Path(slurm.run_folder) / f"floor-{port}.log"
    log.touch()
    shutil.chown(log, USER)
    began = time.monotonic()
    command = ["sbatch", "--parsable", f"--output={log}", "--export=ALL", *RESOURCES]
    done = slurm.run(command, USER, input=f"#!/bin/sh\nexec {words}\n", environment=environment)
    try:
        wait_until(
            lambda: _listens(port), DEADLINE_SECONDS, "the job's server", poll_seconds=LOOK_SECONDS
        )
    except NotReadyError as error:
        job = int(done.stdout)
        msg = f"{error}\njob {job} is {slurm.job_state(job)}; its log:\n{tail(log, 40)}"
        raise RuntimeError(msg) from error
    seconds = time.monotonic() - began
    slurm.run(["scancel", done.stdout.strip()], USER)
    until_idle(slurm)
    return seconds


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def measure(slurm: SlurmSystem, stack: ExitStack, runs: int) -> dict[str, list[float]]:
    """Run each kind once to warm up, then `runs` rounds, whose order turns."""
    ours, stock = SlurmHub(slurm), StockHub(slurm)
    for hub in (ours, stock):
        stack.callback(hub.stop)
        hub.start()
        hub.add_user(USER)
    warm = [by_hub(ours)]
    started = Started.find(f"/user/{USER}/")
    end_by_hub(ours)
    warm.append(by_hub(stock))
    end_by_hub(stock)
    token = ours.user_token(USER)
    ports = Ports()
    stack.callback(ports.release)
    warm.append(by_hand(slurm, started, token, ports))
    print("warm-up: " + ", ".join(f"{seconds:.2f} s" for seconds in warm), flush=True)

    def through(hub: SlurmHub) -> float:
        seconds = by_hub(hub)
        end_by_hub(hub)
        return seconds

    return in_turn(
        {
            "ours": lambda: through(ours),
            "stock": lambda: through(stock),
            "floor": lambda: by_hand(slurm, started, token, ports),
        },
        runs,
    )


def in_turn(kinds: Mapping[str, Callable[[], float]], runs: int) -> dict[str, list[float]]:
    """Measure each of three kinds `runs` times, in rounds whose order turns; in seconds."""
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    order = list(kinds)
    for run in range(runs):
        for kind in order[run % 3 :] + order[: run % 3]:
            seconds[kind].append(kinds[kind]())
        last = ", ".join(f"{kind} {values[-1]:.2f} s" for kind, values in seconds.items())
        print(f"run {run + 1} of {runs}: {last}", flush=True)
    return seconds


def run(*, quick: bool, runs: int | None) -> None:
    """Measure, and print."""
    rounds = runs or (2 if quick else RUNS)
    print(f"spawn: request to ready, {rounds} runs each in turn, one job at a time")
    print(machine.described(), flush=True)
    sweep()
    with SlurmSystem() as slurm, ExitStack() as stack:
        seconds = measure(slurm, stack, rounds)
    spreads = {kind: Spread.of(values) for kind, values in seconds.items()}
    show(CONTEST, spreads, rounds)


def show(contest: Contest, spreads: Mapping[str, Spread], runs: int) -> None:
    """Print the table and the last line."""
    ours, stock, floor = spreads["ours"], spreads["stock"], spreads["floor"]
    names = {"ours": "qhub", "stock": contest.rival, "floor": f"floor: {contest.floor}"}
    rows = [
        (names[kind], *(f"{value:.2f} s" for value in (each.median, each.least, each.most)))
        for kind, each in spreads.items()
    ]
    print(report.table(("", "median", "least", "most"), rows))
    share, over = ratio(ours.median, stock.median), ours.median - floor.median
    ratio_met, over_met = share <= contest.ratio_goal, over <= contest.over_floor_goal
    print(
        f"of stock: {share:.2f} (goal: at most {contest.ratio_goal}, {report.verdict(ratio_met)}); "
        f"over the floor: {over:.2f} s (goal: at most {contest.over_floor_goal:g} s, "
        f"{report.verdict(over_met)})"
    )
    print(
        report.last_line(
            contest.bench,
            ours=ours.median,
            other=stock.median,
            ratio=share,
            floor=floor.median,
            runs=runs,
            more={
                "over_floor_seconds": over,
                "ours_min": ours.least,
                "ours_max": ours.most,
                "other_min": stock.least,
                "other_max": stock.most,
                "floor_min": floor.least,
                "floor_max": floor.most,
                "unit": "seconds, medians",
                "goals_met": ratio_met and over_met,
            },
        )
    )
