"""What drills share: a cluster with room for many servers, hubs on it, and how each drill ends.

A drill breaks something, and ends with `assert_settled`: every server that should live is ready in
the hub, runs in Slurm and answers through the proxy, and no job of the hub is without an owner.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.integration.drilling import PEOPLE, HubDrill, Server
from tests.systems import stand_in
from tests.systems.faults import FaultyCommands
from tests.systems.processes import wait_until
from tests.systems.slurm import NODES, PARTITIONS, Definition, Node, Partition, SlurmSystem
from tests.systems.slurm_hub import SlurmHub

# "closed" takes jobs and runs none until it is opened: jobs in it wait.
MANY = Definition(
    nodes=(*NODES, Node("big01", 64, 64_000), Node("big02", 64, 64_000)),
    partitions=(
        *PARTITIONS,
        Partition("many", ("big01", "big02"), default_memory_per_cpu_mib=50),
        Partition("closed", ("big01", "big02"), default_memory_per_cpu_mib=50),
    ),
    settings={"SchedulerParameters": "bf_interval=2,sched_interval=2,batch_sched_delay=0"},
)

PROFILES = """
c.Spawner.cmd = ["/usr/bin/python3", "-I", "{stand_in}"]
def profile(slug, partition="many", variables=None, directives=(), memory="64 MiB"):
    return {{"slug": slug, "display_name": slug, "cpu": 1, "memory": memory, "walltime": "1h",
            "slurm": {{"partition": partition, "directives": list(directives)}},
            "environment": {{"variables": variables or {{}}}}}}
c.QHubSpawner.profiles = [
    profile("many"),
    profile("closed", "closed"),
    profile("held", variables={{"STAND_IN_HOLD": "{hold}"}}),
    profile("fragile", directives=["--no-requeue"]),
    profile("barred", "highmem"),
    profile("lab", memory="600 MiB"),
]
c.SlurmBackend.poll_rest = 3
c.SlurmBackend.poll_starting = 1
c.SlurmBackend.command_timeout = 5
c.QHubSpawner.stop_grace = 5
c.JupyterHub.tornado_settings = {{"slow_spawn_timeout": 0.1, "slow_stop_timeout": 0.1}}
c.JupyterHub.init_spawners_timeout = 1
"""


@dataclass
class Drill(HubDrill):
    """A hub on a cluster, with what a drill does to it.

    Attributes:
        slurm: The cluster.
        hub: The hub, as an account of its own.
        faults: Its Slurm commands.
        hub_id: What its jobs carry.
    """

    slurm: SlurmSystem
    hub: SlurmHub
    faults: FaultyCommands
    hub_id: str
    hold: Path = field(default_factory=Path)

    def start_one_of_each(self) -> tuple[Server, Server, Server]:
        """Return a server that runs, one whose job waits, and one that has not reported yet."""
        self.hold.touch()
        # a drill that failed may have left it open
        self.slurm.run(["scontrol", "update", "partition=closed", "state=down"])
        waiting, silent = Server("alice", "waiting"), Server("bob", "silent")
        self.request(waiting, "closed")
        self.request(silent, "held")
        (running,) = self.start("running")
        states = ["PENDING", "RUNNING", "RUNNING"]
        self.wait(lambda: sorted(self.jobs().values()) == states, 30, "one job of each")
        return running, waiting, silent

    # ---- looking ----

    def job_id(self, server: Server) -> int:
        """The id of a server's job, as the hub has it on record; 0 before it is known."""
        state = self.model(server).get("state") or {}
        return int((state.get("qhub") or {}).get("job_id") or 0)

    def jobs(self) -> dict[int, str]:
        """Id and state of this hub's jobs that are not over, nor on their way out."""
        out = self.slurm.run(["squeue", "-h", "-a", "-o", "%A %T %j"]).stdout
        rows = [line.split() for line in out.splitlines()]
        return {
            int(row[0]): row[1]
            for row in rows
            if row[2].startswith(f"qhub-{self.hub_id}-") and row[1] != "COMPLETING"
        }

    def owned(self) -> dict[Server, int]:
        """The servers that the hub holds for running or starting, with their jobs' ids."""
        found = {}
        for person in PEOPLE:
            model = self.hub.api("GET", f"users/{person}?include_stopped_servers=1").json
            for name, server in model["servers"].items():
                state = (server.get("state") or {}).get("qhub") or {}
                if state.get("job_id") and (server["ready"] or server["pending"]):
                    found[Server(person, name)] = int(state["job_id"])
        return found

    def wait_polls(self) -> None:
        """Wait until the hub has asked for the queue once from now on, and so knows what is."""
        if self.hub.transport == "command-line":
            asked = self.faults.calls("squeue")
            self.wait(lambda: self.faults.calls("squeue") > asked + 1, 30, "polls")
        else:
            until = time.monotonic() + 5
            self.wait(lambda: time.monotonic() > until, 10, "polls")

    def run_again(self, job_id: int) -> None:
        """Wait until a requeued job runs, spared the two minutes that Slurm would have it wait."""
        update = ["scontrol", "update", f"jobid={job_id}", "starttime=now"]

        def runs() -> bool:
            state = self.slurm.job_state(job_id)
            if state == "PENDING":
                self.slurm.run(update, check=False)  # it may begin just now
            return state == "RUNNING"

        wait_until(runs, 40, "the requeued job running", poll_seconds=1)

    def server_log(self, server_job: int, person: str = "alice") -> str:
        """What a job's server printed."""
        return Path(f"~{person}/.local/state/qhub/server-{server_job}.log").expanduser().read_text()


# ---- how a drill ends ---------------------------------------------------------------------------


def assert_nothing_lost(drill: Drill, alive: Iterable[Server], seconds: float = 60) -> None:
    """Every one of `alive` is ready in the hub, runs in Slurm, and answers through the proxy."""
    for server in alive:

        def well(server: Server = server) -> bool:
            job_id = drill.job_id(server)
            return bool(
                drill.model(server).get("ready")
                and drill.slurm.job_state(job_id) == "RUNNING"
                and drill.ask(server).get("job") == job_id
            )

        drill.wait(well, seconds, f"{server} ready, running and answering")


def assert_no_orphans(drill: Drill, seconds: float = 60) -> None:
    """Every job of the hub belongs to a server that the hub holds for running or starting."""
    drill.wait(
        lambda: set(drill.jobs()) <= set(drill.owned().values()),
        seconds,
        f"jobs without an owner gone (jobs {drill.jobs()}, owned {drill.owned()})",
    )


def assert_settled(drill: Drill, alive: Collection[Server] = ()) -> None:
    """`alive` and nothing else lives, in the hub and in Slurm."""
    assert_nothing_lost(drill, alive)
    assert_no_orphans(drill)
    owned = drill.owned()
    assert set(owned) == set(alive)
    assert sorted(drill.jobs()) == sorted(owned.values())


# ---- making them --------------------------------------------------------------------------------


def make_drill(
    slurm: SlurmSystem,
    hub_id: str,
    *,
    transport: str = "command-line",
    config: str = "",
    environment: dict[str, str] | None = None,
    start: bool = True,
) -> Drill:
    """Set up a hub with stand-in servers and faulty commands, and start it."""
    folder = Path(slurm.run_folder)
    program = folder / "stand_in.py"
    if not program.exists():
        shutil.copy(Path(stand_in.__file__), program)
        program.chmod(0o755)
    faults = FaultyCommands(folder / f"bin-{hub_id}")
    hold = folder / f"hold-{hub_id}"
    hub = SlurmHub(
        slurm,
        transport="rest" if transport == "rest" else "command-line",
        profiles=PROFILES.format(stand_in=program, hold=hold),
        config=f'c.SlurmBackend.hub_id = "{hub_id}"\n{config}',
        slurm_bin=str(faults.folder),
        environment=environment,
    )
    drill = Drill(slurm, hub, faults, hub_id, hold)
    if start:
        try:
            hub.start()
            for person in PEOPLE:
                hub.add_user(person)
        except BaseException:
            hub.stop()
            raise
    return drill


def clean(drill: Drill) -> None:
    """Stop all servers of a drill's hub, and have no job of it left.

    Raises:
        AssertionError: Something cannot be stopped; the hub is then of no more use.
    """
    drill.faults.clear()
    drill.hold.unlink(missing_ok=True)
    for server in drill.owned():
        drill.hub.stop_server(server.person, server.name)
    drill.wait(lambda: not drill.owned() and not drill.jobs(), 60, "all servers stopped")


def without_accounting(definition: Definition) -> Definition:
    """The same cluster, keeping no accounting."""
    settings = {
        **definition.settings,
        "AccountingStorageType": "accounting_storage/none",
        "AccountingStorageEnforce": "nosteps",  # none of the enforcing ones
        "AccountingStorageTRES": "cpu",
    }
    return replace(definition, settings=settings)


@contextlib.contextmanager
def down(slurm: SlurmSystem, *daemons: str) -> Iterator[None]:
    """Daemons are stopped within the block, and serve again after it."""
    for name in daemons:
        slurm.stop_daemon(name)
    try:
        yield
    finally:
        for name in reversed(daemons):
            slurm.start_daemon(name)


@contextlib.contextmanager
def opened(slurm: SlurmSystem) -> Iterator[None]:
    """Within the block the partition "closed" runs jobs."""
    slurm.run(["scontrol", "update", "partition=closed", "state=up"])
    try:
        yield
    finally:
        slurm.run(["scontrol", "update", "partition=closed", "state=down"])


def forget_all_jobs(slurm: SlurmSystem) -> None:
    """Have slurmctld start from nothing, as after the loss of its state."""
    controller = slurm.daemon("slurmctld")
    slurm.stop_daemon("slurmctld")
    usual, controller.argv = controller.argv, [*controller.argv, "-c"]
    try:
        slurm.start_daemon("slurmctld")
    finally:
        controller.argv = usual
    slurm.run(["scontrol", "update", "partition=closed", "state=down"])
