"""`watch`: what it costs to know how 2,000 running and 50 starting servers are, on Kubernetes.

One real API server; pods on fake nodes; a real hub that takes them up from its database as a
restarted hub does, and then is asked to start 50 more, which no node has room for. Ours and stock
KubeSpawner in turn. Counted within a window of time: requests (the API server's audit log), bytes
on the wire between hub and API server in both directions (a forwarder that both go through), CPU
time of the hub (proc). The hub's own CPU time with as many servers and a spawner that does nothing
is the floor.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tests.systems.kubernetes import KubernetesSystem, sweep
from tests.systems.kubernetes_hub import KubernetesHub
from tests.systems.processes import wait_until

from . import machine, report
from .activity import cpu_seconds
from .answering import AnsweringServer
from .audit import AuditLog
from .figures import per_minute, ratio
from .filled import fill
from .fleet import Standing, addresses_here, dismiss, muster
from .watched import BARE, HUB_ID, KINDS, USERS, Kind, lines
from .wire import CountingForwarder

SHARES = ("ratio", "bytes_ratio", "cpu_ratio")
GOALS = {"ratio": 1 / 10, "bytes_ratio": 1 / 10, "cpu_ratio": 1 / 3, "starting_cpu_ratio": 1 / 3}
START_SECONDS = 900
POSTS_AT_ONCE = 8
PODS_OF_A_NODE = 110


@dataclass(frozen=True)
class Size:
    """How much is measured: servers that run and that start; seconds of the windows.

    A watch of ours lasts five minutes: at rest the window is as long, so that none is missed.
    """

    running: int
    starting: int
    settle_seconds: float
    rest_seconds: float
    starting_seconds: float


FULL = Size(2000, 50, 30, 300, 120)
QUICK = Size(40, 5, 5, 20, 20)


@dataclass(frozen=True)
class Load:
    """What one hub did in a window, per minute (CPU as a share of one core)."""

    requests: float
    received: float
    sent: float
    cpu: float

    @property
    def total(self) -> float:
        """Bytes a minute in both directions."""
        return self.received + self.sent

    @classmethod
    def mean(cls, loads: list[Load]) -> Load:
        """Return the mean of at least one."""
        return cls(
            fmean(load.requests for load in loads),
            fmean(load.received for load in loads),
            fmean(load.sent for load in loads),
            fmean(load.cpu for load in loads),
        )


@dataclass(frozen=True)
class Bench:
    """What all parts of the benchmark share."""

    cluster: KubernetesSystem
    wire: CountingForwarder
    audit: AuditLog
    size: Size
    port: int

    @contextmanager
    def with_servers(self, kind: Kind) -> Iterator[KubernetesHub]:
        """Run a hub that has taken up so many running servers, and nothing else."""
        hub = kind.make(self.cluster, lines(self.port))
        kubeconfig = hub.run_folder / "kubeconfig"
        kubeconfig.write_text(kubeconfig.read_text().replace(self.cluster.api_url, self.wire.url))
        hub.hub.deadline_seconds = START_SECONDS
        try:
            hub.start()  # makes its database, and the people in it
            pod = self._model(hub) if kind.pods else None
            hub.hub.end()  # it would end pods that it does not know
            standing = (
                muster(self.cluster, hub.namespace, pod, USERS, self.size.running)
                if pod is not None
                else self._without_pods()
            )
            servers = [kind.kept(each, self.port, HUB_ID) for each in standing]
            added = fill(hub.folder / "jupyterhub.sqlite", servers)
            if added != len(servers):
                msg = f"{added} servers are in the database, not {len(servers)}"
                raise RuntimeError(msg)
            hub.restart()
            wait_until(
                lambda: _ready(hub) == len(servers),
                START_SECONDS,
                f"{len(servers)} servers",
                poll_seconds=1,
            )
            yield hub
        finally:
            hub.stop()
            dismiss(self.cluster, hub.namespace)
            hub.tidy()

    def _model(self, hub: KubernetesHub) -> Mapping[str, Any]:
        """Have the hub start a server, and return the pod that it has made for it."""
        hub.start_server(USERS[0], {"profile": "fake"}, "model")
        hub.wait_ready(USERS[0], "model")
        (pod,) = hub.pods().values()
        hub.stop_server(USERS[0], "model")
        hub.wait_stopped(USERS[0], "model")
        dismiss(self.cluster, hub.namespace)
        return pod

    def _without_pods(self) -> list[Standing]:
        servers = [
            (USERS[index % len(USERS)], f"s{index:05d}") for index in range(self.size.running)
        ]
        return [Standing(user, server, "", "", "", "", "127.0.0.1") for user, server in servers]

    def start_more(self, hub: KubernetesHub) -> None:
        """Ask the hub to start servers, and wait until their pods are there, and wait."""
        count = self.size.starting

        def post(index: int) -> int:
            user = USERS[index % len(USERS)]
            return hub.start_server(user, {"profile": "nowhere"}, f"new{index}").status

        with ThreadPoolExecutor(POSTS_AT_ONCE) as pool:
            answers = set(pool.map(post, range(count)))
        if answers != {202}:
            msg = f"the hub answered {sorted(answers)} to requests to start, expected 202"
            raise RuntimeError(msg)

        def waiting() -> int:
            return sum(pod["status"]["phase"] == "Pending" for pod in hub.pods().values())

        wait_until(lambda: waiting() == count, START_SECONDS, "pods that wait", poll_seconds=1)

    def over(self, hub: KubernetesHub, seconds: float) -> tuple[Load, Counter[str]]:
        """Measure a hub for so many seconds."""
        pid = hub.hub.pid
        self.audit.skip()
        began, traffic, cpu = time.monotonic(), self.wire.so_far(), cpu_seconds(pid)
        time.sleep(seconds)
        passed = time.monotonic() - began
        cpu_share = (cpu_seconds(pid) - cpu) / passed
        bytes_ = self.wire.so_far().since(traffic)
        asked = self.audit.news()
        load = Load(
            requests=per_minute(asked.total(), passed),
            received=per_minute(bytes_.received, passed),
            sent=per_minute(bytes_.sent, passed),
            cpu=cpu_share,
        )
        return load, asked

    def look(self, name: str) -> tuple[Load, Load]:
        """Measure one hub at rest, and then with servers that start."""
        size = self.size
        with self.with_servers(KINDS[name]) as hub:
            time.sleep(size.settle_seconds)
            rest, asked = self.over(hub, size.rest_seconds)
            print(f"{name} at rest: {_words(rest)}; {_listed(asked)}", flush=True)
            self.start_more(hub)
            time.sleep(size.settle_seconds)
            starting, asked = self.over(hub, size.starting_seconds)
            print(f"{name} starting: {_words(starting)}; {_listed(asked)}", flush=True)
            if _ready(hub) != size.running:
                msg = f"{name}: {_ready(hub)} servers are left of {size.running}"
                raise RuntimeError(msg)
        return rest, starting

    def bare(self) -> Load:
        """Measure a hub that has as many servers, and asks nothing about them."""
        with self.with_servers(BARE) as hub:
            time.sleep(self.size.settle_seconds)
            load, _ = self.over(hub, self.size.rest_seconds)
        print(f"the hub alone: {load.cpu:.2%} of a core", flush=True)
        return load


def _ready(hub: KubernetesHub) -> int:
    answers = [hub.api("GET", f"users/{user}").json or {} for user in USERS]
    servers = [server for answer in answers for server in answer.get("servers", {}).values()]
    return sum(bool(server.get("ready")) for server in servers)


def _words(load: Load) -> str:
    return (
        f"{report.amount(load.requests)} requests and {report.amount(load.total / 1000)} kB a "
        f"minute, {load.cpu:.2%} of a core"
    )


def _listed(asked: Counter[str]) -> str:
    words = ", ".join(f"{count} x {what}" for what, count in sorted(asked.items()))
    return f"asked: {words or 'nothing'}"


def run(*, quick: bool, runs: int | None) -> None:
    """Measure, and print."""
    size = QUICK if quick else FULL
    rounds = runs or 1
    print(
        f"watch: {size.running} running servers and {size.starting} starting ones, windows of "
        f"{size.rest_seconds:g} s at rest and {size.starting_seconds:g} s while starting, "
        f"{rounds} each in turn"
    )
    print(machine.described("kubernetes"), flush=True)
    sweep()
    rest: dict[str, list[Load]] = {name: [] for name in KINDS}
    starting: dict[str, list[Load]] = {name: [] for name in KINDS}
    with (
        KubernetesSystem() as cluster,
        addresses_here(cluster),
        AnsweringServer("0.0.0.0") as answering,  # noqa: S104 - at all the pods' addresses
        CountingForwarder(cluster.api_url) as wire,
    ):
        audit = AuditLog(cluster)
        cluster.start_kwok(nodes=2 + size.running // PODS_OF_A_NODE)
        bench = Bench(cluster, wire, audit, size, answering.port)
        bare = bench.bare()
        for _ in range(rounds):
            for name in KINDS:
                at_rest, while_starting = bench.look(name)
                rest[name].append(at_rest)
                starting[name].append(while_starting)
    show(
        {name: Load.mean(loads) for name, loads in rest.items()},
        {name: Load.mean(loads) for name, loads in starting.items()},
        bare,
        size,
        rounds,
    )


def show(
    rest: dict[str, Load], starting: dict[str, Load], bare: Load, size: Size, runs: int
) -> None:
    """Print the table and the last line."""
    shares = {
        **_shares("", rest["ours"], rest["stock"]),
        **_shares("starting_", starting["ours"], starting["stock"]),
    }
    met = {name: shares[name] < goal for name, goal in GOALS.items()}
    rows = []
    for when, prefix, loads in (("at rest", "", rest), ("starting", "starting_", starting)):
        one, other = loads["ours"], loads["stock"]
        figures = (
            ("requests a minute", report.amount(one.requests), report.amount(other.requests)),
            ("kB a minute", report.amount(one.total / 1000), report.amount(other.total / 1000)),
            ("CPU of the hub, of a core", f"{one.cpu:.2%}", f"{other.cpu:.2%}"),
        )
        for (what, *cells), share in zip(figures, SHARES, strict=True):
            name = f"{prefix}{share}"
            goal = f"< {GOALS[name]:.3g}, {report.verdict(met[name])}" if name in GOALS else ""
            rows.append((f"{when}: {what}", *cells, f"{shares[name]:.4f}", goal))
    rows.append(("at rest: CPU of the hub alone, of a core", f"{bare.cpu:.2%}", "", "", ""))
    print(report.table(("", "qhub", "stock KubeSpawner", "ratio", "goal"), rows))
    print(
        report.last_line(
            "watch",
            ours=rest["ours"].requests,
            other=rest["stock"].requests,
            ratio=shares["ratio"],
            runs=runs,
            more={
                "unit": "requests per minute at rest",
                "running": size.running,
                "starting": size.starting,
                "bytes_ours": rest["ours"].total,
                "bytes_other": rest["stock"].total,
                "cpu_ours": rest["ours"].cpu,
                "cpu_other": rest["stock"].cpu,
                "cpu_floor": bare.cpu,
                # what the hub does by itself, the same in both, taken away from both
                "cpu_above_ratio": ratio(rest["ours"].cpu - bare.cpu, rest["stock"].cpu - bare.cpu),
                "starting_cpu_ours": starting["ours"].cpu,
                "starting_cpu_other": starting["stock"].cpu,
                **{name: share for name, share in shares.items() if name != "ratio"},
                "goals_met": all(met.values()),
            },
        )
    )


def _shares(prefix: str, ours: Load, stock: Load) -> dict[str, float]:
    """Return what ours has of stock's, by the names in the last line."""
    pairs = (
        (ours.requests, stock.requests),
        (ours.total, stock.total),
        (ours.cpu, stock.cpu),
    )
    return {f"{prefix}{name}": ratio(*pair) for name, pair in zip(SHARES, pairs, strict=True)}
