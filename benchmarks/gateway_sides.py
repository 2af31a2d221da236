"""Both Dask-Gateways of the gateway benchmarks, side by side on one Slurm.

Ours, and stock dask-gateway-server with its own SlurmBackend, as documented: the same release of
the server and its proxy, the same Dask environment, one job for each scheduler and worker of the
same size in the same partition. What had to be told to stock beyond its documentation: commands
that today's distributed still has, and where slurm.conf is, as it runs Slurm's commands with an
empty environment. What it runs as other people is a copy with Debian's Python, as ours is.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dask_gateway_server.backends.jobqueue import launcher

from tests.systems.gateway import GatewaySystem
from tests.systems.processes import wait_until
from tests.systems.slurm import SlurmSystem
from tests.systems.userenv import dask_environment

from .figures import Calls

Kind = Literal["ours", "stock"]

KINDS: tuple[Kind, ...] = ("ours", "stock")
NAMES: Mapping[Kind, str] = {"ours": "qhub", "stock": "stock SlurmBackend"}
WATCHER = "bob"
"""The account whose questions to Slurm are the benchmark's own."""

READY_SECONDS = 300
MEMORY = "100 MiB"

# What nodes and the accounting daemon say to slurmctld by themselves, whoever has made the jobs.
_OF_NODES = frozenset(
    """MESSAGE_EPILOG_COMPLETE MESSAGE_NODE_REGISTRATION_STATUS REQUEST_COMPLETE_BATCH_SCRIPT
    REQUEST_COMPLETE_PROLOG REQUEST_STEP_COMPLETE ACCOUNTING_UPDATE_MSG ACCOUNTING_REGISTER_CTLD
    REQUEST_PERSIST_INIT REQUEST_PING""".split()  # noqa: SIM905 - one word a line would be long
)

# Both alike: heartbeats as stock has them, and no scheduler given up because the machine is busy.
_COMMON = """
c.DaskGateway.log_level = "INFO"
"""
_PATIENT = """
c.DBBackendBase.cluster_start_timeout = {start_timeout}
c.DBBackendBase.worker_start_timeout = {start_timeout}
"""
_OURS = """
from qhub_gateway.requests import ClusterRules

catalogue = Catalogue((Profile.model_validate({profile!r}),))


def options_of(user):
    site = Site(rules=ClusterRules(scheduler_memory="{memory}", idle_timeout=None))
    return ProfileOptions(catalogue, Owner(name=user.name), site=site)


c.QHubGatewayBackend.cluster_heartbeat_period = 15
c.QHubGatewayBackend.cluster_heartbeat_timeout = 300
c.QHubGatewayBackend.cluster_options = options_of
c.QHubClusterConfig.scheduler_cmd = {scheduler_cmd!r}
c.QHubClusterConfig.worker_cmd = {worker_cmd!r}
"""
_STOCK = """
c.DaskGateway.backend_class = "dask_gateway_server.backends.jobqueue.slurm.SlurmBackend"
c.SlurmBackend.dask_gateway_jobqueue_launcher = "{folder}/commands/launcher"
c.SlurmBackend.submit_command = "{folder}/commands/sbatch"
c.SlurmBackend.cancel_command = "{folder}/commands/scancel"
c.SlurmBackend.status_command = "{folder}/commands/squeue"
c.SlurmBackend.cluster_heartbeat_timeout = 300
c.SlurmBackend.db_url = "sqlite:///{folder}/gateway.sqlite"
c.SlurmBackend.stop_clusters_on_shutdown = False
c.SlurmClusterConfig.partition = "{partition}"
c.SlurmClusterConfig.scheduler_cmd = {scheduler_cmd!r}
c.SlurmClusterConfig.worker_cmd = {worker_cmd!r}
c.SlurmClusterConfig.scheduler_memory = "{memory}"
c.SlurmClusterConfig.worker_memory = "{memory}"
c.SlurmClusterConfig.worker_cores = 1
"""
_COMMAND = '#!/bin/sh\nSLURM_CONF={slurm_conf} exec /usr/bin/{name} "$@"\n'
_SLEEPER = "#!/bin/sh\nexec sleep infinity\n"


@dataclass(frozen=True)
class Terms:
    """What clusters are on both sides.

    Attributes:
        partition: Where they run.
        memory: What a scheduler has, and a worker.
        sleepers: Whether workers only sleep: then the gateway is measured, and not Dask's start.
        scheduler: A script that stands for Dask's scheduler; Dask's own if left out.
        start_timeout: Seconds that a scheduler or worker may take; ``None``: Dask-Gateway's own.
    """

    partition: str
    memory: str = MEMORY
    sleepers: bool = True
    scheduler: Path | None = None
    start_timeout: float | None = 3600


class Side(GatewaySystem):
    """One of the two gateways, and what it has in Slurm's queue.

    Attributes:
        kind: Which of the two.
    """

    def __init__(
        self, kind: Kind, slurm: SlurmSystem, terms: Terms, *, transport: str = "command-line"
    ) -> None:
        """Write its folder; nothing is started."""
        self.kind = kind
        self.slurm = slurm
        folder = Path(tempfile.mkdtemp(prefix="qhub-gateway-"))
        folder.chmod(0o755)
        commands = folder / "commands"
        commands.mkdir(mode=0o755)
        _program(commands / "sleeper", _SLEEPER)
        python = f"{dask_environment()}/bin/python"
        scheduler_cmd = [python, "-m", "distributed.cli.dask_scheduler"]
        worker_cmd = [python, "-m", "distributed.cli.dask_worker"]
        if terms.scheduler is not None:
            text = terms.scheduler.read_text(encoding="utf-8")
            _program(commands / "scheduler", f"#!/usr/bin/python3 -IS\n{text}")
            scheduler_cmd = [str(commands / "scheduler")]
        if terms.sleepers:
            worker_cmd = [str(commands / "sleeper")]
        values = {"scheduler_cmd": scheduler_cmd, "worker_cmd": worker_cmd, "memory": terms.memory}
        config = ""
        if terms.start_timeout is not None:
            config += _PATIENT.format(start_timeout=terms.start_timeout)
        if kind == "ours":
            config += _OURS.format(profile=_profile(terms), **values)
        else:
            _stock_commands(commands, slurm)
            values["memory"] = terms.memory.replace(" MiB", " M")
            config += _STOCK.format(folder=folder, partition=terms.partition, **values)
        given = slurm if kind == "ours" else None
        super().__init__(folder, slurm=given, transport=transport, config=config)

    @property
    def prefix(self) -> str:
        """How the names of its jobs begin."""
        return f"qhub-{self.gateway_id}-" if self.kind == "ours" else "dask-gateway"

    def states(self) -> Counter[str]:
        """Return how many of its jobs are in which state, schedulers too."""
        return Counter(state for _, _, state, _ in self.jobs())

    def jobs(self) -> list[tuple[str, str, str, str]]:
        """Return id, account, state and time of submission of each of its jobs, tasks apart."""
        command = ["squeue", "-h", "-r", "-o", "%j|%i|%u|%T|%V"]
        lines = self.slurm.run(command, WATCHER).stdout.splitlines()
        rows = [line.split("|") for line in lines if line.startswith(self.prefix)]
        return [(job, user, state, since) for _, job, user, state, since in rows]

    def new_cluster(self, user: str) -> str:
        """Make a cluster, and wait until it runs; returns its name.

        Raises:
            RuntimeError: It was refused, or has failed.
        """
        status, answer = self.api("POST", "clusters/", user, {"cluster_options": {}})
        if status != 201:
            msg = f"{self.kind}: POST clusters/ answered {status}: {answer}"
            raise RuntimeError(msg)
        name = str(answer["name"])

        def runs() -> bool:
            found = self.api("GET", f"clusters/{name}?wait", user)[1]
            if found["status"] in {"FAILED", "STOPPED"}:
                msg = f"{self.kind}: cluster {name} is {found['status']}\n{self.gateway.describe()}"
                raise RuntimeError(msg)
            return bool(found["status"] == "RUNNING")

        wait_until(runs, READY_SECONDS, f"{self.kind}: cluster {name}")
        return name

    def scale(self, user: str, cluster: str, count: int) -> None:
        """Ask for so many workers.

        Raises:
            RuntimeError: The gateway refused.
        """
        status, answer = self.api("POST", f"clusters/{cluster}/scale", user, {"count": count})
        if status != 200:
            msg = f"{self.kind}: scaling to {count} answered {status}: {answer}"
            raise RuntimeError(msg)

    def close(self) -> None:
        """End it, and remove its folder; its jobs end with the cluster."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def both(slurm: SlurmSystem, terms: Terms) -> Iterator[Mapping[Kind, Side]]:
    """Run both gateways for as long as the context lasts."""
    sides = {kind: Side(kind, slurm, terms) for kind in KINDS}
    try:
        for side in sides.values():
            side.start()
        yield sides
    finally:
        for side in sides.values():
            side.close()


def client_calls(calls: Calls) -> int:
    """Return how many requests of clients slurmctld has answered, the benchmark's own left out."""
    every = sum(count for kind, count in calls.by_kind.items() if kind not in _OF_NODES)
    return every - calls.by_user.get(WATCHER, 0)


def _profile(terms: Terms) -> dict[str, object]:
    return {
        "slug": "small",
        "display_name": "Small",
        "cpu": 1,
        "memory": terms.memory,
        "walltime": "1h",
        "environment": {"prefix": str(dask_environment())},
        "slurm": {"partition": terms.partition},
    }


def _stock_commands(folder: Path, slurm: SlurmSystem) -> None:
    for name in ("sbatch", "scancel", "squeue"):
        _program(folder / name, _COMMAND.format(slurm_conf=slurm.slurm_conf, name=name))
    text = Path(launcher.__file__).read_text(encoding="utf-8")
    _program(folder / "launcher", f"#!/usr/bin/python3 -IS\n{text}")


def _program(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
