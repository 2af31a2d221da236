"""`form`: 200 people look at an options page with 100 profiles.

Each opens the page at some moment of a 15 s interval, and the page asks for new figures every
15 s, as its script does. The rival is a fair stand-in for what is in use with SlurmSpawner: an
options form that asks sinfo at each view; new figures come by opening it again. Requests go to
the hub itself, with a session each. What a hub asks of Slurm is counted where it is asked.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.systems.slurm import SlurmSystem, sweep
from tests.systems.slurm_hub import SlurmHub

from . import machine, report
from .cluster import Sleepers, fill_busy_partition, with_room
from .counted import CountedCommands
from .figures import per_minute, percentile, ratio
from .rivals import StockHub
from .visitors import Visitor, logged_in, look

PROFILES, PEOPLE = 100, 200
OTHERS = 500  # jobs that fill the partition `big`: Slurm is asked when there is room again
PAGE_INTERVAL_SECONDS = 15
CACHE_INTERVAL_SECONDS = 10
WINDOW_SECONDS = 60
QUERIES_GOAL, P95_GOAL = 1, 0.1
# the first who looks; the only one of them with an account on the cluster, for Slurm's estimates
SCOUT = "alice"
MARK = "Profile 99"

_COMMON = """
c.Authenticator.admin_users = set()
"""
_OURS = """
def _profile(number):
    partition = ("general", "highmem", "gpu", "big", "busy")[number % 5]
    profile = {
        "slug": f"p{number:02}",
        "display_name": f"Profile {number:02}",
        "description": "What it is for, in a sentence of the usual length.",
        "cpu": 1, "memory": f"{512 + 16 * number} MiB", "walltime": "1h",
        "slurm": {"partition": partition},
    }
    if partition == "gpu":
        profile |= {"gpu": 1, "slurm": {"partition": "gpu", "account": "research", "qos": "gpu"}}
    if number % 3 == 0:
        profile["options"] = {
            "size": {
                "display_name": "Size",
                "choices": {
                    "small": {"display_name": "Small", "default": True,
                              "overrides": {"cpu": 1}},
                    "large": {"display_name": "Large", "overrides": {"cpu": 2}},
                },
            },
            "time": {
                "display_name": "Walltime",
                "free": {"pattern": "[0-9]+h", "message": "hours, such as 2h",
                         "example": "2h", "sets": "walltime", "maximum": "8h"},
            },
        }
    return profile

c.QHubSpawner.profiles = [_profile(number) for number in range(100)]
"""
_STOCK = """
import asyncio
import html

async def _form(spawner):
    process = await asyncio.create_subprocess_exec(
        "{commands}/sinfo", "--all", "--noheader", "--format=%R|%D|%C|%G|%l|%m",
        stdout=asyncio.subprocess.PIPE,
    )
    answer, _ = await process.communicate()
    partitions = dict(line.split("|", 1) for line in answer.decode().splitlines())
    rows = []
    for number in range(100):
        name = ("general", "highmem", "gpu", "big", "busy")[number % 5]
        nodes, cpus, gres, limit, memory = partitions.get(name, "0|0/0/0/0||0|0").split("|")
        idle = cpus.split("/")[1]
        rows.append(
            f'<label><input type="radio" name="profile" value="{{number}}"> '
            f"Profile {{number:02}}: {{html.escape(name)}}, {{idle}} cores free on "
            f"{{nodes}} nodes, {{memory}} MiB, {{html.escape(gres)}}, at most {{limit}}"
            "</label><br>"
        )
    return "".join(rows)

c.SlurmSpawner.options_form = _form
"""


@dataclass(frozen=True)
class Seen:
    """What came of one hub's visitors.

    Attributes:
        commands: How often each command was run in the window.
        seconds: How long the window was.
        pages: Seconds of each page.
        refreshes: Seconds of each refresh.
        burst: Seconds of each page when all opened it at once.
    """

    commands: Counter[str]
    seconds: float
    pages: Sequence[float]
    refreshes: Sequence[float]
    burst: Sequence[float]

    @property
    def queries_per_minute(self) -> float:
        """All commands of Slurm, as a rate."""
        return per_minute(self.commands.total(), self.seconds)

    @property
    def p95(self) -> float:
        """The slower of the two kinds of request."""
        kinds = (kind for kind in (self.pages, self.refreshes) if kind)
        return max(percentile(kind, 95) for kind in kinds)


async def _refresh(visitor: Visitor) -> None:
    await visitor.refresh()


async def _open(visitor: Visitor) -> None:
    await visitor.open_page(MARK)


async def visit(
    hub: SlurmHub, commands: CountedCommands, people: int, seconds: float, *, live: bool
) -> Seen:
    """Let people look at a hub's page; `live` pages refresh themselves."""
    names = [SCOUT, *(f"visitor{number:03}" for number in range(people))]
    async with logged_in(hub.hub_url, names) as (scout, *visitors):
        await _open(scout)  # fills the caches, as somebody always has before
        await asyncio.sleep(CACHE_INTERVAL_SECONDS)
        before = commands.so_far()
        await look(visitors, seconds, PAGE_INTERVAL_SECONDS, _open, _refresh if live else _open)
        counted = commands.so_far() - before
        pages = [value for visitor in visitors for value in visitor.pages]
        refreshes = [value for visitor in visitors for value in visitor.refreshes]
        for visitor in visitors:
            visitor.pages.clear()
        await asyncio.gather(*map(_open, visitors))
        burst = [value for visitor in visitors for value in visitor.pages]
    return Seen(counted, seconds, pages, refreshes, burst)


def measure(slurm: SlurmSystem, people: int, seconds: float) -> dict[str, Seen]:
    """Measure both hubs, one after the other; only one runs at a time."""
    folder = Path(slurm.run_folder)
    fill_busy_partition(slurm, SCOUT)
    Sleepers(slurm, "others", (SCOUT,)).grow_to(OTHERS)

    def ours(commands: CountedCommands) -> SlurmHub:
        config = f"{_COMMON}c.SlurmBackend.view_interval = {CACHE_INTERVAL_SECONDS}\n"
        return SlurmHub(
            slurm, profiles=_OURS, config=config, slurm_bin=str(commands.folder), log_level="WARN"
        )

    def stock(commands: CountedCommands) -> SlurmHub:
        config = _COMMON + _STOCK.format(commands=commands.folder)
        return StockHub(slurm, config=config + 'c.JupyterHub.log_level = "WARN"\n')

    makers: dict[str, Callable[[CountedCommands], SlurmHub]] = {"ours": ours, "stock": stock}
    seen = {}
    for kind, make in makers.items():
        commands = CountedCommands(folder / f"{kind}-commands")
        with ExitStack() as stack:
            hub = make(commands)
            stack.callback(hub.stop)
            hub.start()
            seen[kind] = asyncio.run(visit(hub, commands, people, seconds, live=kind == "ours"))
        each = ", ".join(f"{count} {name}" for name, count in seen[kind].commands.items()) or "none"
        print(f"{kind}: commands in {seconds:g} s: {each}", flush=True)
    return seen


def run(*, quick: bool, runs: int | None) -> None:
    """Measure, and print."""
    people, seconds = (20, 30) if quick else (PEOPLE, WINDOW_SECONDS)
    rounds = runs or 1
    print(
        f"form: {people} people look at {PROFILES} profiles for {seconds} s. Each opens the page "
        f"at a random moment of {PAGE_INTERVAL_SECONDS} s, then it asks for new figures every "
        f"{PAGE_INTERVAL_SECONDS} s (the rival's is opened again). At the end all open it at once."
    )
    print(machine.described(), flush=True)
    sweep()
    found: dict[str, list[Seen]] = {"ours": [], "stock": []}
    for _ in range(rounds):
        with SlurmSystem(with_room(OTHERS)) as slurm:
            for kind, seen in measure(slurm, people, seconds).items():
                found[kind].append(seen)
    show({kind: _together(seen) for kind, seen in found.items()}, rounds)


def _together(found: Sequence[Seen]) -> Seen:
    return Seen(
        sum((seen.commands for seen in found), Counter()),
        sum(seen.seconds for seen in found),
        [value for seen in found for value in seen.pages],
        [value for seen in found for value in seen.refreshes],
        [value for seen in found for value in seen.burst],
    )


def _times(values: Sequence[float]) -> str:
    if not values:
        return "none"
    return f"{percentile(values, 50):.3f} / {percentile(values, 95):.3f} s ({len(values)})"


def show(found: dict[str, Seen], runs: int) -> None:
    """Print the table and the last line."""
    ours, stock = found["ours"], found["stock"]
    per_interval = ours.queries_per_minute * CACHE_INTERVAL_SECONDS / 60
    met = {
        "queries_per_interval": per_interval <= QUERIES_GOAL,
        "p95_seconds": ours.p95 < P95_GOAL,
    }

    def row(what: str, pick: Callable[[Seen], Sequence[float]]) -> tuple[str, str, str]:
        first, second = (_times(pick(seen)) for seen in (ours, stock))
        return what, first, second

    rows = [
        (
            "Slurm queries a minute",
            report.amount(ours.queries_per_minute),
            report.amount(stock.queries_per_minute),
        ),
        row("page, median / p95 (how many)", lambda seen: seen.pages),
        row("refresh, median / p95 (how many)", lambda seen: seen.refreshes),
        row("page, all at once", lambda seen: seen.burst),
    ]
    print(report.table(("", "qhub", "SlurmSpawner with sinfo"), rows))
    print(
        f"queries per cache interval of {CACHE_INTERVAL_SECONDS} s: {per_interval:.2f} "
        f"(goal: at most {QUERIES_GOAL}, {report.verdict(met['queries_per_interval'])}); "
        f"p95 of the slower kind: {ours.p95:.3f} s "
        f"(goal: below {P95_GOAL} s, {report.verdict(met['p95_seconds'])})"
    )
    print(
        report.last_line(
            "form",
            ours=ours.queries_per_minute,
            other=stock.queries_per_minute,
            ratio=ratio(ours.queries_per_minute, stock.queries_per_minute),
            runs=runs,
            more={
                "unit": "Slurm queries per minute",
                "queries_per_interval": per_interval,
                "interval_seconds": CACHE_INTERVAL_SECONDS,
                "p95_seconds": ours.p95,
                "page_p95_seconds": percentile(ours.pages, 95),
                "refresh_p95_seconds": percentile(ours.refreshes, 95),
                "burst_p95_seconds": percentile(ours.burst, 95),
                "other_p95_seconds": stock.p95,
                "other_burst_p95_seconds": percentile(stock.burst, 95),
                "goals_met": all(met.values()),
            },
        )
    )
