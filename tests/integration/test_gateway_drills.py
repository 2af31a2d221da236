"""Drills: parts of the gateway and of Slurm are killed, away or in the way while a cluster computes.

One gateway and one client that stays serve all of them, and one cluster as long as no drill ends it.
"""

from __future__ import annotations

import contextlib
import pwd
import secrets
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.drills import down
from tests.systems.dask_client import ClientFailedError, StayingClient
from tests.systems.gateway import GatewaySystem
from tests.systems.processes import NotReadyError, wait_until

pytestmark = pytest.mark.timeout(900)

SECONDS = 240.0
OPEN = """
cluster = client.new_cluster(shutdown_on_close=False)
answer = cluster.name
"""
WORKERS = """
cluster.scale(values["count"])
dask = cluster.get_client(set_as_default=False)
dask.wait_for_workers(values["count"], timeout=values["seconds"])
"""
COMPUTE = "answer = dask.submit(sum, [1, 2, 3], pure=False).result(timeout=values['seconds'])"
AGAIN = """
cluster = client.connect(values["name"], shutdown_on_close=False)
dask = cluster.get_client(set_as_default=False)
"""
HOG = """
def hog():
    return len(b"x" * 2_000_000_000)
try:
    dask.run(hog)
    answer = "it had two gigabytes"
except Exception as error:
    answer = type(error).__name__
"""


@dataclass
class Drill:
    """A gateway on Slurm, a client that stays, and its cluster.

    Attributes:
        slurm: The cluster of machines.
        gateway: The gateway.
        client: The client.
        name: The Dask cluster that is there for every drill.
        orphans: Jobs with this gateway's name, and with another's, that are on no record.
    """

    slurm: Any
    gateway: GatewaySystem
    client: StayingClient
    name: str = ""
    orphans: tuple[int, ...] = ()

    # ---- looking ----

    def jobs(self) -> dict[str, str]:
        """Return the state of every job of the gateway that is not over, by its id."""
        argv = ["squeue", "-h", "-a", "-r", "-o", "%i|%j|%T"]
        rows = (line.split("|") for line in self.slurm.run(argv).stdout.splitlines())
        mine = f"qhub-{self.gateway.gateway_id}-"
        orphans = {str(job) for job in self.orphans}
        return {
            job: state
            for job, name, state in rows
            if name.startswith(mine) and state != "COMPLETING" and job not in orphans
        }

    def workers(self) -> set[str]:
        """Return the jobs of workers that are not over."""
        return {job for job in self.jobs() if "_" in job}

    def status(self, name: str) -> str:
        """Return what the gateway says of a cluster, in one word."""
        code, model = self.gateway.api("GET", f"clusters/{name}", "alice")
        assert code == 200, model
        return str(model["status"])

    def wait(self, condition: Any, what: str) -> None:
        """Wait until something is so; a silent Slurm is asked again."""

        def holds() -> bool:
            with contextlib.suppress(NotReadyError):
                return bool(condition())
            return False

        wait_until(holds, SECONDS, what, poll_seconds=0.2)

    def logged(self, text: str) -> int:
        """Return how often the gateway has written a text."""
        return self.gateway.log().count(text)

    # ---- doing ----

    def compute(self) -> None:
        """The cluster computes for the client that has been there all the time."""
        assert self.client.ask(COMPUTE, seconds=SECONDS) == 6

    def another(self) -> str:
        """Make one more cluster, without workers, and wait until it runs."""
        code, made = self.gateway.api("POST", "clusters/", "alice", {})
        assert code == 201, made
        name = str(made["name"])
        self.wait(lambda: self.status(name) == "RUNNING", "one more cluster")
        return name

    def end(self, name: str) -> None:
        """Ask for the end of a cluster."""
        code, said = self.gateway.api("DELETE", f"clusters/{name}", "alice")
        assert code == 204, said

    def settle(self, count: int) -> None:
        """The cluster has so many workers, and nothing else is left of any."""
        if not self.name or self.status(self.name) != "RUNNING":
            self.name = self.client.ask(OPEN)
        else:
            self.client.ask(AGAIN, name=self.name)
        self.client.ask(WORKERS, count=count, seconds=SECONDS)
        self.wait(lambda: len(self.jobs()) == count + 1, f"{count} workers and a scheduler")
        self.compute()

    def kill_gateway(self) -> None:
        """End the gateway without a word."""
        self.gateway.gateway.signal(signal.SIGKILL)
        wait_until(lambda: not self.gateway.gateway.running, 60, "the end of the gateway")


@pytest.fixture(scope="module")
def shared(slurm: Any) -> Iterator[Drill]:
    """What all drills share; afterwards no job is left."""
    folder = Path(tempfile.mkdtemp(prefix="qhub-gateway-"))
    folder.chmod(0o755)
    gateway = GatewaySystem(folder, slurm=slurm, config=_patient)
    gateway.start()
    client = StayingClient(gateway)
    owners = (gateway.gateway_id, f"x{secrets.token_hex(4)}")
    names = (f"qhub-{owner}-{secrets.token_hex(8)}" for owner in owners)
    script = "#!/bin/sh\nsleep 1200\n"
    options = ("--partition=highmem", "--mem=50M", "--time=20")
    orphans = [slurm.sbatch("alice", script, *options, f"--job-name={name}") for name in names]
    yield Drill(slurm, gateway, client, orphans=tuple(orphans))
    client.close()
    gateway.stop()
    shutil.rmtree(folder)
    slurm.run(["scancel", "--user=alice"])
    wait_until(lambda: not slurm.run(["squeue", "-h"]).stdout, SECONDS, "the end of every job")


# a machine that does other things at the same time must not look like a cluster that is gone
_patient = """
c.QHubGatewayBackend.cluster_heartbeat_timeout = 600
c.QHubGatewayBackend.cluster_start_timeout = 600
c.QHubGatewayBackend.worker_start_timeout = 600
"""


@pytest.fixture
def drill(shared: Drill) -> Drill:
    """The cluster with one worker."""
    shared.settle(1)
    return shared


def test_gateway_killed(drill: Drill) -> None:
    """Its cluster computes on without it; the next one takes it up, and submits nothing again."""
    before = drill.jobs()
    drill.kill_gateway()
    drill.compute()
    drill.gateway.start()
    code, listed = drill.gateway.api("GET", "clusters/", "alice")
    assert (code, list(listed)) == (200, [drill.name])
    drill.settle(2)
    after = drill.jobs()
    assert before.keys() < after.keys()
    drill.settle(1)


def test_slurmctld_down(drill: Drill) -> None:
    """Nothing is given up, nothing is forgotten: what was asked meanwhile happens afterwards, once.

    Nor does it matter that the gateway is killed, too. What was asked for and given up meanwhile is
    over afterwards, though nobody knows its job's number.
    """
    before = set(drill.jobs())
    doomed = drill.another()
    unknown = drill.logged("Slurm's queue is unknown")
    with down(drill.slurm, "slurmctld"):
        drill.wait(lambda: drill.logged("Slurm's queue is unknown") > unknown, "a vain question")
        drill.compute()
        unheard = drill.logged("looking for the job by its name")
        drill.client.ask("cluster.scale(2)")
        drill.wait(lambda: drill.logged(f"created 1 workers for cluster {drill.name}"), "a worker")
        drill.end(doomed)
        code, made = drill.gateway.api("POST", "clusters/", "alice", {})
        assert code == 201, made
        vain = str(made["name"])
        drill.wait(
            lambda: drill.logged("looking for the job by its name") == unheard + 2,
            "two submissions of which nothing is heard",
        )
        drill.end(vain)
        drill.kill_gateway()
        unknown = drill.logged("Slurm's queue is unknown")
        drill.gateway.start()
        drill.wait(lambda: drill.logged("Slurm's queue is unknown") > unknown, "another")
        drill.compute()
        assert drill.status(drill.name) == "RUNNING"
        assert {drill.status(doomed), drill.status(vain)} == {"STOPPING"}
    drill.wait(lambda: drill.status(doomed) == "STOPPED", "the end of the other cluster")
    drill.wait(lambda: drill.status(vain) == "STOPPED", "the end of what was given up")
    drill.wait(lambda: len(drill.jobs()) == 3, "a second worker, once")
    assert before < set(drill.jobs())
    drill.settle(2)


def test_scheduler_killed(drill: Drill) -> None:
    """The cluster fails, in Slurm's words, and nothing of it goes on."""
    (scheduler,) = (job for job in drill.jobs() if "_" not in job)
    drill.slurm.run(["scancel", scheduler])
    drill.wait(lambda: drill.status(drill.name) == "FAILED", "the failure of the cluster")
    drill.wait(lambda: not drill.jobs(), "the end of every job")
    log = drill.gateway.log()
    assert f"cluster {drill.name} has failed: its scheduler ended: it was cancelled" in log
    drill.settle(1)


def test_worker_lost(drill: Drill) -> None:
    """Killed, cancelled or started anew from outside: another takes its place, as often as it takes."""
    ways = (_kill, _cancel, _requeue)
    for way in ways:
        (lost,) = drill.workers()
        way(drill, lost)
        drill.wait(lambda lost=lost: drill.workers() - {lost}, f"another worker after {way}")
        drill.compute()
        drill.wait(lambda lost=lost: lost not in drill.jobs(), "the end of the lost one")
        assert len(drill.workers()) == 1, way
    assert drill.status(drill.name) == "RUNNING"


def _kill(drill: Drill, job: str) -> None:
    """Kill every process of a worker."""
    drill.slurm.run(["scancel", "--signal=KILL", "--full", job])


def _cancel(drill: Drill, job: str) -> None:
    """Cancel a worker as an administrator does, or a partition that preempts."""
    drill.slurm.run(["scancel", job])


def _requeue(drill: Drill, job: str) -> None:
    """Try to have Slurm start it again, which it may not; then end it all the same."""
    said = drill.slurm.run(["scontrol", "requeue", job], check=False)
    assert said.returncode
    _cancel(drill, job)


def test_worker_out_of_memory(drill: Drill) -> None:
    """What takes more than its job has is killed; its worker, or another for it, computes again."""
    assert drill.client.ask(HOG, seconds=SECONDS) != "it had two gigabytes"
    drill.compute()
    assert drill.status(drill.name) == "RUNNING"
    drill.wait(lambda: len(drill.jobs()) == 2, "one worker")


def test_log_folder(drill: Drill) -> None:
    """Its owner reads it; where the folder is gone, or nothing can be written, nothing is amiss."""
    state = Path(pwd.getpwnam("alice").pw_dir) / ".local/state/qhub"
    logs = state / "dask"
    path = f"qhub/clusters/{drill.name}/logs"
    code, found = drill.gateway.api("GET", path, "alice")
    assert code == 200
    assert "Scheduler at:" in found["log"]
    names = found["workers"]
    logs_of = [drill.gateway.api("GET", f"{path}?worker={name}", "alice")[1] for name in names]
    assert any("Registered to:" in each["log"] for each in logs_of)
    assert drill.gateway.api("GET", path, "bob")[0] == 404
    shutil.rmtree(logs / drill.name)
    drill.compute()
    assert drill.gateway.api("GET", path, "alice")[1]["log"] == ""
    kept = logs.with_name(f"kept-{secrets.token_hex(4)}")
    logs.rename(kept)
    # not even a folder
    logs.write_text("in the way\n")
    try:
        other = drill.another()
        drill.end(other)
        drill.wait(lambda: drill.status(other) == "STOPPED", "its end")
    finally:
        logs.unlink()
        kept.rename(logs)
    drill.compute()


def test_database_locked(drill: Drill) -> None:
    """A lock on the gateway's database delays what happens, and loses nothing."""
    other = drill.another()
    (lost,) = drill.workers()
    path = drill.gateway.folder / "gateway.sqlite"
    lock = sqlite3.connect(path, isolation_level=None, timeout=60)
    lock.execute("BEGIN EXCLUSIVE")
    try:
        drill.compute()
        failures = drill.logged("database is locked")
        drill.slurm.run(["scancel", lost])
        drill.wait(lambda: drill.logged("database is locked") > failures, "a vain attempt")
    finally:
        lock.execute("COMMIT")
        lock.close()
    drill.end(other)
    drill.wait(lambda: drill.status(other) == "STOPPED", "the end of the other cluster")
    drill.wait(lambda: drill.workers() and lost not in drill.workers(), "another worker")
    drill.compute()
    assert len(drill.jobs()) == 2


def test_proxy_killed(drill: Drill) -> None:
    """Another proxy learns all routes from the gateway; clients come in again."""
    before = drill.jobs().keys()
    drill.gateway.proxy.signal(signal.SIGKILL)
    wait_until(lambda: not drill.gateway.proxy.running, 60, "the end of the proxy")
    with pytest.raises(ClientFailedError):
        drill.client.ask("client.list_clusters()")
    drill.gateway.start()
    drill.client.ask(AGAIN, name=drill.name)
    drill.compute()
    assert drill.jobs().keys() == before


def test_nobody_owns_it(drill: Drill) -> None:
    """A job with the gateway's name that is not on record is ended; another gateway's is not."""
    mine, other = drill.orphans
    drill.wait(lambda: drill.slurm.job_state(mine) in {"CANCELLED", ""}, "the end of an orphan")
    assert drill.slurm.job_state(other) == "RUNNING"
    drill.compute()
