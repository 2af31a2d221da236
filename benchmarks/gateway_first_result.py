"""`gateway-first-result`: from a new Dask cluster to its first result, on Slurm and Kubernetes.

On Slurm ours, stock dask-gateway-server with its own Slurm backend, and the floor in turn, one
cluster at a time. Each of the three has a client that waits with everything imported: the stock
client of dask-gateway asks for a cluster, for one worker, and for a sum. The floor is the same two
jobs by sbatch, with certificates like those: a scheduler, a worker as soon as that one listens, and
the sum. On Kubernetes (`gateway_pods`) ours and the floor, which is the same two pods.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dask_gateway_server import tls

from tests.systems import kubernetes as kubernetes_systems
from tests.systems import slurm as slurm_systems
from tests.systems.kubernetes import KubernetesSystem
from tests.systems.processes import Ports, wait_until
from tests.systems.slurm import SlurmSystem
from tests.systems.userenv import dask_environment

from . import gateway_pods, machine, report
from .cluster import with_room
from .figures import Spread, ratio
from .gateway_asker import BY_GATEWAY, BY_HAND, Asker, of_gateway
from .gateway_sides import Side, Terms, both
from .spawn import in_turn

USER = "alice"
RUNS = 10
PARTITION = "big"
RATIO_GOAL, OVER_FLOOR_GOAL = 0.8, 1.0


class Floor:
    """The two jobs by hand.

    Attributes:
        given: What its client knows.
    """

    def __init__(self, slurm: SlurmSystem, folder: Path) -> None:
        """Make a certificate that the person may read."""
        self._ports = Ports()
        cert, key = folder / "floor.crt", folder / "floor.pem"
        for path, text in zip((cert, key), tls.new_keypair("floor"), strict=True):
            path.write_bytes(text)
            shutil.chown(path, USER)
        prefix = "DASK_DISTRIBUTED__COMM__"
        settings = {f"{prefix}REQUIRE_ENCRYPTION": "True", f"{prefix}TLS__CA_FILE": str(cert)}
        for role in ("SCHEDULER", "WORKER"):
            settings |= {f"{prefix}TLS__{role}__CERT": str(cert)}
            settings |= {f"{prefix}TLS__{role}__KEY": str(key)}
        environment = ["env", f"SLURM_CONF={slurm.slurm_conf}"]
        environment += [f"{name}={value}" for name, value in settings.items()]
        options = [f"--partition={PARTITION}", "--mem=300M", "--cpus-per-task=1", "--export=ALL"]
        dask = [f"{dask_environment()}/bin/python", "-m"]
        dashboard = ["--dashboard-address", "127.0.0.1:0"]
        self.given = {
            "cert": str(cert),
            "key": str(key),
            "sbatch": [
                *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups"),
                *(*environment, "sbatch", "--parsable", "--output=/dev/null", "--chdir=/tmp"),
                *options,
            ],
            "scancel": ["env", f"SLURM_CONF={slurm.slurm_conf}", "scancel"],
            "scheduler": [
                *(*dask, "distributed.cli.dask_scheduler", "--protocol", "tls"),
                *("--host", "127.0.0.1", *dashboard),
            ],
            "worker": [
                *(*dask, "distributed.cli.dask_worker", *dashboard),
                *("--nthreads", "1", "--memory-limit", "300000000"),
            ],
        }

    def port(self) -> str:
        """Return a port for the next scheduler."""
        return str(self._ports.reserve()[0])

    def close(self) -> None:
        """Give the ports back."""
        self._ports.release()


def until_empty(slurm: SlurmSystem) -> None:
    """Wait until no job is left, ending ones included."""
    wait_until(
        lambda: not slurm.run(["squeue", "-h", "-o", "%A"]).stdout.strip(), 120, "an empty queue"
    )


def measure(
    slurm: SlurmSystem, sides: Mapping[Any, Side], stack: ExitStack, runs: int
) -> dict[str, list[float]]:
    """Run each kind once to warm up, then `runs` rounds, whose order turns."""
    folder = sides["ours"].folder
    floor = Floor(slurm, folder)
    stack.callback(floor.close)
    askers = {
        kind: Asker(BY_GATEWAY, of_gateway(side, USER), folder / f"{kind}-client.log")
        for kind, side in sides.items()
    }
    askers["floor"] = Asker(BY_HAND, floor.given, folder / "floor-client.log")
    for asker in askers.values():
        stack.enter_context(asker)

    def once(kind: str) -> float:
        parts = askers[kind].once(floor.port() if kind == "floor" else "")
        askers[kind].end()
        until_empty(slurm)
        words = ", ".join(f"{part:.2f}" for part in parts)
        print(f"{kind}: scheduler, connected, result after {words} s", flush=True)
        return parts[-1]

    for kind in askers:
        once(kind)
    print("that was to warm up", flush=True)
    return in_turn({kind: lambda kind=kind: once(kind) for kind in askers}, runs)  # type: ignore[misc]


def run(*, quick: bool, runs: int | None) -> None:
    """Measure, and print."""
    rounds = runs or (2 if quick else RUNS)
    print(f"gateway-first-result: new cluster to first result, {rounds} runs each in turn")
    print(machine.described("slurm", "kubernetes", "gateway"), flush=True)
    slurm_systems.sweep()
    kubernetes_systems.sweep()
    terms = Terms(PARTITION, memory="300 MiB", sleepers=False)
    with (
        SlurmSystem(with_room(20)) as slurm,
        both(slurm, terms) as sides,
        ExitStack() as stack,
    ):
        jobs = measure(slurm, sides, stack, rounds)
    with KubernetesSystem() as cluster, ExitStack() as stack:
        pods = gateway_pods.measure(cluster, stack, rounds)
    show(_spreads(jobs), _spreads(pods), rounds)


def _spreads(seconds: Mapping[str, list[float]]) -> dict[str, Spread]:
    return {kind: Spread.of(values) for kind, values in seconds.items()}


def show(jobs: Mapping[str, Spread], pods: Mapping[str, Spread], runs: int) -> None:
    """Print the table and the last line."""
    names = {"ours": "qhub", "stock": "stock SlurmBackend", "floor": "floor: by hand"}
    rows = [
        (f"{where}: {names[kind]}", *(f"{value:.2f} s" for value in (of.median, of.least, of.most)))
        for where, spreads in (("Slurm", jobs), ("Kubernetes", pods))
        for kind, of in spreads.items()
    ]
    print(report.table(("", "median", "least", "most"), rows))
    ours, stock, floor = (jobs[kind].median for kind in ("ours", "stock", "floor"))
    over = {"Slurm": ours - floor, "Kubernetes": pods["ours"].median - pods["floor"].median}
    met = {
        "of stock": ratio(ours, stock) <= RATIO_GOAL,
        **{where: seconds <= OVER_FLOOR_GOAL for where, seconds in over.items()},
    }
    print(
        f"of stock: {ratio(ours, stock):.2f} (goal: at most {RATIO_GOAL}, "
        f"{report.verdict(met['of stock'])}; the floor is {ratio(floor, stock):.2f} of it)"
    )
    for where, seconds in over.items():
        print(
            f"over the floor on {where}: {seconds:.2f} s (goal: at most {OVER_FLOOR_GOAL:g} s, "
            f"{report.verdict(met[where])})"
        )
    more = {
        f"{where}{kind}_{end}": getattr(of, name)
        for where, spreads in (("", jobs), ("kubernetes_", pods))
        for kind, of in spreads.items()
        for end, name in (("min", "least"), ("max", "most"))
    }
    print(
        report.last_line(
            "gateway-first-result",
            ours=ours,
            other=stock,
            ratio=ratio(ours, stock),
            floor=floor,
            runs=runs,
            more={
                "unit": "seconds, medians",
                "over_floor_seconds": over["Slurm"],
                "kubernetes_ours": pods["ours"].median,
                "kubernetes_floor": pods["floor"].median,
                "kubernetes_over_floor_seconds": over["Kubernetes"],
                **more,
                "goals_met": all(met.values()),
            },
        )
    )
