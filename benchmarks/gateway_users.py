"""`gateway-users`: a hundred people with a cluster each, and a gateway that is killed meanwhile.

Ours and stock dask-gateway-server with its own Slurm backend, one after the other, on one real
Slurm with a hundred Unix accounts. Everybody comes within a minute and a half, makes a cluster,
waits for it, asks for two workers, and looks at their clusters every few seconds; then the gateway
is killed with -9 and started again; then everybody asks for a worker more, and ends their cluster
at the same moment. Workers are jobs that sleep, and schedulers stand-ins that speak to the gateway
as Dask's plug-in does (`gateway_stand_in`): the gateway is measured. Everything else here stands
for other machines, so the kernel's scheduler is told to prefer the gateway and its proxy. Timed is
each request, through the proxy, from a client that keeps its connection; the long poll for a new
cluster is not.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import httpx

from tests.systems.processes import NotReadyError, wait_until
from tests.systems.slurm import SlurmSystem, sweep

from . import machine, report
from .accounts import accounts
from .activity import cpu_seconds
from .cluster import with_room
from .figures import percentile, ratio
from .gateway_sides import KINDS, Kind, Side, Terms
from .mixed import prefer

T = TypeVar("T")

STAND_IN = Path(__file__).with_name("gateway_stand_in.py")
WORKERS = 2
DEADLINE_SECONDS = 240
LOOK_SECONDS = 3.0
QUEUE_SECONDS = 0.5
REQUEST_SECONDS = 120


@dataclass(frozen=True)
class Size:
    """How many people, within how many seconds they come, and for how long they look on."""

    users: int
    arrive_seconds: float
    look_seconds: float


FULL = Size(100, 90, 30)
QUICK = Size(4, 3, 5)


@dataclass
class Outcome:
    """What one gateway did.

    Attributes:
        seconds: How long each request took, by what was asked, the restart left out.
        refused: Requests that were answered with an error, by what was asked.
        all_ready: Seconds until everybody's scheduler and workers ran, from the first request.
        back: Seconds from the start of the next gateway until it answers.
        lost: People whose cluster the next gateway did not have, or could not scale.
        resubmitted: Jobs that the next gateway has submitted anew before it was asked to.
        all_gone: Seconds until no job was left, from the first request to end; as long as was
            waited if some were.
        left: Jobs that were still in the queue then.
        cpu: CPU time of both gateways and their processes, in seconds.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    refused: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    all_ready: float = 0.0
    back: float = 0.0
    lost: int = 0
    resubmitted: int = 0
    all_gone: float = 0.0
    left: int = 0
    cpu: float = 0.0

    @property
    def every(self) -> list[float]:
        """All requests."""
        return [seconds for values in self.seconds.values() for seconds in values]


class Person:
    """One of them, with a client of their own."""

    def __init__(self, name: str, side: Side, outcome: Outcome) -> None:
        """Nothing is asked yet."""
        self.name = name
        self.cluster = ""
        self._outcome = outcome
        self._client = httpx.AsyncClient(
            base_url=f"{side.url}/api/v1/", auth=(name, side.password), timeout=REQUEST_SECONDS
        )

    async def ask(self, what: str, method: str, path: str, body: object = None) -> httpx.Response:
        """Ask, and note how long it took."""
        began = time.monotonic()
        answer = await self._client.request(method, path, json=body)
        self._outcome.seconds[what].append(time.monotonic() - began)
        if answer.is_error:
            self._outcome.refused[what] += 1
        return answer

    async def arrive(self, within: float) -> None:
        """Come at some moment, make a cluster, wait until it runs, and ask for workers."""
        await asyncio.sleep(random.uniform(0, within))  # noqa: S311 - no secret
        answer = await self.ask("create", "POST", "clusters/", {"cluster_options": {}})
        self.cluster = str(answer.raise_for_status().json()["name"])
        while True:
            found = await self._client.get(f"clusters/{self.cluster}?wait")
            status = found.raise_for_status().json()["status"]
            if status == "RUNNING":
                break
            if status in {"FAILED", "STOPPED"}:
                msg = f"{self.name}'s cluster {self.cluster} is {status}"
                raise RuntimeError(msg)
        await self.scale(WORKERS)

    async def scale(self, count: int) -> bool:
        """Ask for so many workers; whether the gateway agreed."""
        path = f"clusters/{self.cluster}/scale"
        return (await self.ask("scale", "POST", path, {"count": count})).is_success

    async def look(self, seconds: float) -> None:
        """Look at one's clusters every few seconds, and at the one."""
        ends = time.monotonic() + seconds
        await asyncio.sleep(random.uniform(0, LOOK_SECONDS))  # noqa: S311 - no secret
        while time.monotonic() < ends:
            await self.ask("list", "GET", "clusters/")
            await self.ask("get", "GET", f"clusters/{self.cluster}")
            await asyncio.sleep(LOOK_SECONDS)

    async def is_there(self) -> bool:
        """Whether the gateway has the cluster, and it runs."""
        found = await self.ask("get", "GET", f"clusters/{self.cluster}")
        return found.is_success and found.json()["status"] == "RUNNING"

    async def end(self) -> None:
        """End the cluster."""
        await self.ask("stop", "DELETE", f"clusters/{self.cluster}")

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()


class Bench:
    """One gateway with all the people."""

    def __init__(self, side: Side, names: Sequence[str], size: Size) -> None:
        """Start nothing."""
        self.side = side
        self.size = size
        self.outcome = Outcome()
        self._names = names
        self._people: list[Person] = []

    async def measure(self) -> Outcome:
        """Let everybody come, look on, lose the gateway, and go."""
        self._people = [Person(name, self.side, self.outcome) for name in self._names]
        try:
            began = time.monotonic()
            await self._all(lambda each: each.arrive(self.size.arrive_seconds))
            await self._until_running(WORKERS)
            self.outcome.all_ready = time.monotonic() - began
            await self._all(lambda each: each.look(self.size.look_seconds))
            before = {job for job, *_ in self.side.jobs()}
            await self._kill()
            there = await self._all(Person.is_there)
            # in which a gateway that had lost something would submit it anew
            await self._all(lambda each: each.look(self.size.look_seconds))
            self.outcome.resubmitted = len({job for job, *_ in self.side.jobs()} - before)
            grown = await self._all(lambda each: each.scale(WORKERS + 1))
            self.outcome.lost = sum(
                not (one and other) for one, other in zip(there, grown, strict=True)
            )
            await self._until_running(WORKERS + 1)
            await self._end()
        finally:
            for person in self._people:
                await person.close()
        return self.outcome

    async def _all(self, deed: Callable[[Person], Awaitable[T]]) -> list[T]:
        return list(await asyncio.gather(*map(deed, self._people)))

    async def _until_running(self, workers: int) -> None:
        wanted = len(self._people) * (workers + 1)
        await self._until(lambda: self.side.states()["RUNNING"] >= wanted, f"{wanted} jobs")

    async def _until(self, done: Callable[[], bool], what: str) -> None:
        """Wait in a way that can be interrupted.

        Raises:
            NotReadyError: It took too long; with what is in the queue.
        """
        ends = time.monotonic() + DEADLINE_SECONDS
        while not await asyncio.to_thread(done):
            if time.monotonic() >= ends:
                jobs = dict(self.side.states())
                msg = f"{self.side.kind}: no {what} within {DEADLINE_SECONDS} s; jobs: {jobs}"
                raise NotReadyError(f"{msg}\n{self.side.gateway.describe()}")
            await asyncio.sleep(QUEUE_SECONDS)

    async def _kill(self) -> None:
        """Kill the gateway and start it again; what it had goes on."""
        gateway = self.side.gateway
        self.outcome.cpu += cpu_seconds(gateway.pid)
        gateway.signal(signal.SIGKILL)
        await self._until(lambda: not gateway.running, "end of the gateway")
        began = time.monotonic()
        await asyncio.to_thread(self.side.start)
        self.outcome.back = time.monotonic() - began
        prefer(gateway.pid)

    async def _end(self) -> None:
        self.outcome.cpu += cpu_seconds(self.side.gateway.pid)
        began = time.monotonic()
        await self._all(Person.end)
        try:
            await self._until(lambda: not self.side.jobs(), "end of every job")
        except NotReadyError as error:
            reasons = self.side.slurm.run(
                ["squeue", "-h", "-r", "-o", "%T: %r"]
            ).stdout.splitlines()
            print(f"{str(error).splitlines()[0]}; {Counter(reasons)}", flush=True)
        self.outcome.all_gone = time.monotonic() - began
        self.outcome.left = len(self.side.jobs())


def run(*, quick: bool, runs: int | None) -> None:
    """Measure, and print."""
    size = QUICK if quick else FULL
    if runs is not None and runs != 1:
        print("there is one round: a hundred people on one gateway, and then on the other")
    print(
        f"gateway-users: {size.users} people with a cluster of {WORKERS} workers each, come within "
        f"{size.arrive_seconds:g} s"
    )
    print(machine.described("slurm", "gateway"), flush=True)
    sweep()
    definition = with_room(size.users * (WORKERS + 2))
    # who may submit is not what is measured: without "associations" nobody needs one
    settings = {**definition.settings, "AccountingStorageEnforce": "nosteps"}
    outcomes: dict[Kind, Outcome] = {}
    with (
        accounts(size.users) as names,
        SlurmSystem(replace(definition, settings=settings)) as slurm,
    ):
        for kind in KINDS:
            side = Side(kind, slurm, Terms("big", memory="20 MiB", scheduler=STAND_IN))
            try:
                side.start()
                for daemon in (side.gateway, side.proxy):
                    prefer(daemon.pid)
                outcomes[kind] = asyncio.run(Bench(side, names, size).measure())
                print(f"{kind}: {_words(outcomes[kind])}", flush=True)
            finally:
                side.close()
                _cancel_all(slurm)
    show(outcomes, size)


def _cancel_all(slurm: SlurmSystem) -> None:
    """End what one gateway has left, so that the other does not share the cluster with it."""
    command = ["squeue", "-h", "-o", "%A"]
    left = slurm.run(command).stdout.split()
    if left:
        slurm.run(["scancel", *left])
    wait_until(lambda: not slurm.run(command).stdout.strip(), DEADLINE_SECONDS, "an empty queue")


def _words(outcome: Outcome) -> str:
    return (
        f"p95 {percentile(outcome.every, 95):.3f} s of {len(outcome.every)} requests, "
        f"{sum(outcome.refused.values())} refused; all ready after {outcome.all_ready:.1f} s, back "
        f"after {outcome.back:.1f} s, {outcome.lost} lost, {outcome.left} left after "
        f"{outcome.all_gone:.1f} s"
    )


def show(outcomes: Mapping[Kind, Outcome], size: Size) -> None:
    """Print the tables and the last line."""
    ours, stock = outcomes["ours"], outcomes["stock"]
    rows = [
        (
            f"{what}, median / p95",
            *(
                f"{percentile(each.seconds[what], 50):.3f} / "
                f"{percentile(each.seconds[what], 95):.3f} s"
                for each in (ours, stock)
            ),
        )
        for what in ours.seconds
    ]
    for what, name, unit in (
        ("all_ready", "until all run", "s"),
        ("back", "until the next gateway answers", "s"),
        ("lost", "clusters lost by the restart", ""),
        ("resubmitted", "jobs submitted anew", ""),
        ("all_gone", "until all are gone", "s"),
        ("left", "jobs left in the queue for ever", ""),
        ("cpu", "CPU of the gateway", "s"),
    ):
        cells = (report.amount(float(getattr(each, what)), unit) for each in (ours, stock))
        rows.append((name, *cells))
    rows.append(("requests refused", *(str(sum(each.refused.values())) for each in (ours, stock))))
    print(report.table(("", "qhub", "stock SlurmBackend"), rows))
    p95, other = percentile(ours.every, 95), percentile(stock.every, 95)
    none_lost = not (ours.lost or ours.resubmitted or ours.refused or ours.left)
    print(
        f"p95 of all requests: {p95:.3f} s, stock {other:.3f} s; nothing lost, refused, submitted "
        f"anew or left: {report.verdict(none_lost)}"
    )
    print(
        report.last_line(
            "gateway-users",
            ours=p95,
            other=other,
            ratio=ratio(p95, other),
            runs=1,
            more={
                "unit": "seconds, p95 of a request",
                "users": size.users,
                "requests": len(ours.every),
                "p95_by_request_ours": _p95(ours),
                "p95_by_request_other": _p95(stock),
                "lost_ours": ours.lost,
                "lost_other": stock.lost,
                "resubmitted_ours": ours.resubmitted,
                "resubmitted_other": stock.resubmitted,
                "left_ours": ours.left,
                "left_other": stock.left,
                "refused_ours": sum(ours.refused.values()),
                "refused_other": sum(stock.refused.values()),
                "all_ready_seconds_ours": ours.all_ready,
                "all_ready_seconds_other": stock.all_ready,
                "all_gone_seconds_ours": ours.all_gone,
                "all_gone_seconds_other": stock.all_gone,
                "cpu_seconds_ours": ours.cpu,
                "cpu_seconds_other": stock.cpu,
                "goals_met": none_lost,
            },
        )
    )


def _p95(outcome: Outcome) -> dict[str, float]:
    return {what: percentile(values, 95) for what, values in outcome.seconds.items()}
