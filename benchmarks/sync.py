"""`sync`: how long it takes until the hub is as Keycloak says, with thousands of people.

One real Keycloak with 10,000 people in 500 groups, one real hub that knows all of them and has
applied nothing yet. Measured from the start of `qhub-group-sync`: reading everything, comparing,
and telling the hub of everybody; then the same again when nothing has changed; then ten times
from the request that takes a person out of a group at Keycloak until the hub's API does not name
that group any more. There is no rival: JupyterHub has nothing of the kind.
"""

from __future__ import annotations

import os
import re
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.systems.keycloak import KeycloakSystem, sweep
from tests.systems.processes import wait_until
from tests.systems.synced_hub import SyncedHub

from . import machine, report
from .activity import cpu_seconds
from .figures import lags, percentile
from .people import FIRST_UID, LAST_UID, known_to_hub, realm_of

FULL_GOAL, CHANGE_GOAL, LAG_GOAL = 60.0, 5.0, 0.1
CHANGES = 10
TICK_SECONDS = 0.01
# Keycloak, hub and service share this machine, where a site has one for each.
PREFERENCE = -15
DEADLINE_SECONDS = 600

_CONFIG = """
c.GroupSync.poll_seconds = 2
c.Identities.uid_range = "{first}-{last}"
c.JupyterHub.log_level = "WARN"

# When the event loop comes round to something that is due every so often.
import asyncio

async def note_ticks():
    clock = asyncio.get_running_loop().time
    with open({ticks!r}, "w", buffering=1) as notes:
        while True:
            await asyncio.sleep({tick})
            notes.write(f"{{clock():.6f}}\\n")

try:
    noting = asyncio.get_running_loop().create_task(note_ticks())
except RuntimeError:
    pass  # the sync service reads this as well
"""
_COMPARED = re.compile(r"Compared everything in ([\d.]+) s: .* (\d+) of them to be changed")
_AS_KEYCLOAK_SAYS = "The hub is as Keycloak says"


@dataclass(frozen=True)
class Size:
    """How many there are."""

    people: int
    groups: int


FULL = Size(10_000, 500)
QUICK = Size(300, 40)


@dataclass(frozen=True)
class Reconciled:
    """One comparison of everything.

    Attributes:
        seconds: From the start of the service's process until the hub was as Keycloak says.
        reading_seconds: Of those, until everything was read and compared.
        changed: People the hub was told of.
        keycloak_calls: Requests to Keycloak, those that follow the events included.
        hub_calls: Requests to the hub.
        lags: How late the hub's event loop was meanwhile, in seconds.
        hub_cpu: CPU time of the hub meanwhile, in seconds.
        service_cpu: The same of the service, from its start.
    """

    seconds: float
    reading_seconds: float
    changed: int
    keycloak_calls: int
    hub_calls: int
    lags: list[float]
    hub_cpu: float
    service_cpu: float


class Bench:
    """The hub, its service, and what is measured of them."""

    def __init__(self, hub: SyncedHub, ticks: Path) -> None:
        self.hub = hub
        self._ticks = ticks

    def reconcile(self) -> Reconciled:
        """Start the service, and wait until its first comparison is done."""
        log = self.hub.service.log
        log.unlink(missing_ok=True)
        began, hub_cpu = time.monotonic(), cpu_seconds(self.hub.hub.pid)
        self.hub.start_service()

        def compared() -> re.Match[str] | None:
            return _COMPARED.search(self.hub.service_log())

        found = wait_until(compared, DEADLINE_SECONDS, "a comparison", poll_seconds=0.1)
        reading = time.monotonic() - began
        changed = int(found[2]) if found else 0
        if changed:
            wait_until(
                lambda: _AS_KEYCLOAK_SAYS in self.hub.service_log(),
                DEADLINE_SECONDS,
                "the hub as Keycloak says",
                poll_seconds=0.1,
            )
        ended = time.monotonic()
        hub_cpu = cpu_seconds(self.hub.hub.pid) - hub_cpu
        service_cpu = cpu_seconds(self.hub.service.pid)
        ticks = [float(line) for line in self._ticks.read_text().split()]
        late = lags([tick for tick in ticks if began <= tick <= ended], TICK_SECONDS)
        # how it is is written every ten seconds
        status = wait_until(
            lambda: (
                (found := self.hub.sync_status()).get("last_full", 0) > 0
                and found.get("waiting") == 0
                and found
            ),
            DEADLINE_SECONDS,
            "its status",
            poll_seconds=1,
        )
        return Reconciled(
            seconds=ended - began,
            reading_seconds=reading,
            changed=changed,
            keycloak_calls=int(status["keycloak_calls"]) if status else 0,
            hub_calls=int(status["hub_calls"]) if status else 0,
            lags=late,
            hub_cpu=hub_cpu,
            service_cpu=service_cpu,
        )

    def change(self, name: str) -> float:
        """Take a person out of a group; returns the seconds until the hub knows."""
        admin = self.hub.realm.admin
        path = max(admin.groups_of(name))
        sub, group = admin.sub(name), admin.group_id(path)
        wait_until(lambda: path in self.hub.groups_of(name), 30, f"{name} in {path}")
        began = time.monotonic()
        admin.api.delete(f"{admin.path}/users/{sub}/groups/{group}")
        wait_until(
            lambda: path not in self.hub.groups_of(name), 60, "the change", poll_seconds=0.02
        )
        return time.monotonic() - began


def run(*, quick: bool, runs: int | None) -> None:
    """Measure, and print."""
    size = QUICK if quick else FULL
    changes = runs or CHANGES
    print(f"sync: {size.people} people in {size.groups} groups, {changes} single changes")
    print(machine.described("keycloak"), flush=True)
    sweep()
    with KeycloakSystem(for_load=True) as keycloak, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.monotonic()
        realm = keycloak.make_realm(realm_of(size.people, size.groups))
        print(f"the realm was made in {time.monotonic() - began:.1f} s", flush=True)
        ticks = folder / "ticks"
        config = _CONFIG.format(first=FIRST_UID, last=LAST_UID, ticks=str(ticks), tick=TICK_SECONDS)
        hub = SyncedHub(folder, realm, config, managed=False)
        try:
            hub.hub.deadline_seconds = DEADLINE_SECONDS
            hub.proxy.launch()
            hub.hub.launch()
            hub.hub.wait_ready()  # makes its database
            hub.hub.end()
            known = known_to_hub(
                realm, folder / "jupyterhub.sqlite", f"sqlite:///{folder}/identity.sqlite"
            )
            hub.restart()
            os.setpriority(os.PRIO_PROCESS, hub.hub.pid, PREFERENCE)
            print(f"the hub knows {known} people", flush=True)
            bench = Bench(hub, ticks)
            first = bench.reconcile()
            hub.service.end()
            again = bench.reconcile()
            seconds = [bench.change(f"p{number:05d}") for number in range(1, changes + 1)]
        finally:
            hub.stop()
    show(size, first, again, seconds)


def show(size: Size, first: Reconciled, again: Reconciled, seconds: list[float]) -> None:
    """Print the tables and the last line."""
    rows = [
        (
            name,
            f"{each.seconds:.1f} s",
            f"{each.reading_seconds:.1f} s",
            str(each.changed),
            str(each.keycloak_calls),
            str(each.hub_calls),
            f"{each.hub_cpu:.1f} s",
            f"{each.service_cpu:.1f} s",
            f"{1000 * percentile(each.lags, 99):.0f} ms",
            f"{1000 * max(each.lags):.0f} ms",
        )
        for name, each in (("nothing applied yet", first), ("nothing changed", again))
    ]
    heading = ("everything", "total", "read", "people told", "calls to Keycloak", "to the hub")
    print(report.table((*heading, "hub CPU", "service CPU", "loop lag p99", "most"), rows))
    median, most = statistics.median(seconds), max(seconds)
    met = {
        "full": first.seconds < FULL_GOAL,
        "change": most < CHANGE_GOAL,
        "lag": percentile(first.lags, 99) < LAG_GOAL,
    }
    print(
        f"everything: goal under {FULL_GOAL:g} s, {report.verdict(met['full'])}; one change: "
        f"median {median:.2f} s, most {most:.2f} s (goal: under {CHANGE_GOAL:g} s, "
        f"{report.verdict(met['change'])}); p99 of the hub's loop lag under {LAG_GOAL:g} s: "
        f"{report.verdict(met['lag'])}"
    )
    print(
        report.last_line(
            "sync",
            ours=first.seconds,
            other=None,
            ratio=None,
            runs=len(seconds),
            more={
                "unit": "seconds until the hub is as Keycloak says",
                "people": size.people,
                "groups": size.groups,
                "full_reconcile_seconds": first.seconds,
                "full_read_seconds": first.reading_seconds,
                "unchanged_reconcile_seconds": again.seconds,
                "change_effective_seconds": median,
                "change_effective_max_seconds": most,
                "keycloak_calls": first.keycloak_calls,
                "hub_calls": first.hub_calls,
                "unchanged_hub_calls": again.hub_calls,
                "hub_cpu_seconds": first.hub_cpu,
                "service_cpu_seconds": first.service_cpu,
                "lag_p99_seconds": percentile(first.lags, 99),
                "lag_max_seconds": max(first.lags),
                "goals_met": all(met.values()),
            },
        )
    )
