"""Drills: a start goes wrong halfway. Nothing is started twice, and nothing is left behind."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing
from tests.integration.drilling import Server
from tests.integration.drills import Drill, assert_nothing_lost, assert_settled
from tests.systems.faults import FaultyRest
from tests.systems.processes import wait_until

# ---- the reply of a submission is lost ----------------------------------------------------------


@pytest.mark.parametrize("fault", ["reply-lost", "killed-after"])
def test_reply_of_sbatch_is_lost(drill: Any, fault: str) -> None:
    """Slurm took the job, and the hub did not hear it: the job is found by name, and adopted."""
    calls = drill.faults.calls("sbatch")
    drill.faults.set("sbatch", fault)
    server = Server("alice", "lost")
    drill.request(server)
    assert_settled(drill, [server])
    assert drill.faults.calls("sbatch") == calls + 1


def test_reply_of_sbatch_is_lost_while_slurm_is_silent(drill: Any) -> None:
    """The job is looked for until Slurm answers again, and adopted then."""
    calls = drill.faults.calls("sbatch")
    drill.faults.set("sbatch", "reply-lost")
    drill.faults.set("squeue", "fails")
    server = Server("alice", "lost")
    drill.request(server)
    drill.wait(drill.jobs, 30, "the job")
    asked = drill.faults.calls("squeue")
    drill.wait(lambda: drill.faults.calls("squeue") > asked + 5, 40, "several vain questions")
    assert drill.model(server)["pending"] == "spawn"
    drill.faults.clear()
    assert_settled(drill, [server])
    assert drill.faults.calls("sbatch") == calls + 1


def test_reply_of_slurmrestd_is_lost(cluster: Any, drill_on: Any) -> None:
    """The same by slurmrestd; and spoilt answers about the queue end nothing."""
    rest = FaultyRest(cluster.rest_url)
    try:
        drill = drill_on("rest", config=f'c.SlurmBackend.rest_url = "{rest.url}"')
        rest.lose_replies = True
        server = Server("alice", "lost")
        drill.request(server)
        assert_settled(drill, [server])
        assert rest.submissions == 1
        drill.hold.touch()
        starting = Server("bob", "starting")  # asks often
        drill.request(starting, "held")
        rest.plan = ["half", "", "garbage", "", "empty", "", "error"]
        drill.wait(lambda: not rest.plan, 60, "all faults")
        assert drill.model(server)["ready"]
        assert drill.model(starting)["pending"] == "spawn"
        drill.stop(starting)
        assert_settled(drill, [server])
        drill.stop(server)
    finally:
        rest.close()


# ---- a start is cancelled -----------------------------------------------------------------------


def test_start_cancelled_while_submitting(drill: Any) -> None:
    """Who gives up while sbatch runs gets rid of the job that it submits."""
    calls = drill.faults.calls("sbatch")
    drill.faults.set("sbatch", "late")
    server = Server("alice", "given-up")
    drill.request(server)
    drill.wait(lambda: drill.faults.calls("sbatch") > calls, 30, "sbatch")
    assert drill.jobs() == {}
    drill.stop(server)
    assert_settled(drill)
    assert drill.faults.calls("sbatch") == calls + 1


def test_start_cancelled_while_its_reply_is_lost(drill: Any) -> None:
    """Who gives up while the hub looks for the job of an sbatch that hangs does not wait long."""
    drill.faults.set("sbatch", "hangs")
    drill.faults.set("squeue", "fails")
    server = Server("alice", "given-up")
    drill.request(server)
    drill.wait_logged("looking for the job by its name")
    drill.hub.stop_server(server.person, server.name)
    drill.hub.wait_stopped(server.person, server.name, 25)
    drill.faults.clear()
    assert_settled(drill)


def test_start_cancelled_in_the_queue(drill_by: Any) -> None:
    """Who gives up while the job waits leaves none behind."""
    drill = drill_by
    server = Server("alice", "given-up")
    drill.request(server, "closed")
    drill.wait(lambda: list(drill.jobs().values()) == ["PENDING"], 30, "the job")
    drill.stop(server)
    assert_settled(drill)


def test_start_cancelled_before_the_report(drill_by: Any) -> None:
    """Who gives up while the server comes up leaves none behind, and can start anew at once."""
    drill = drill_by
    drill.hold.touch()
    server = Server("alice", "given-up")
    drill.request(server, "held")
    drill.wait(lambda: list(drill.jobs().values()) == ["RUNNING"], 30, "the job")
    drill.stop(server)
    assert_settled(drill)
    drill.hold.unlink()
    assert_settled(drill, drill.start("given-up"))


# ---- refusals -----------------------------------------------------------------------------------


def test_refused_by_slurm(drill_on: Any, transport: str) -> None:
    """What Slurm refuses is told in its own words, and leaves nothing behind."""
    drill = drill_on(transport)
    server = Server("bob", "refused")  # bob has no account that may use the partition
    answer = drill.hub.start_server(server.person, {"profile": "barred"}, server.name)
    assert answer.status in {202, 400}  # as soon as it is known, within the request or after it
    words = drill.wait_ended(server)
    assert "Slurm refused it" in words, words
    assert_settled(drill)


# ---- orphans and neighbours ---------------------------------------------------------------------


def test_orphans_end_and_neighbours_live(drill_on: Any) -> None:
    """Jobs of the hub that nobody owns end; those of another hub, or with a copied name, do not."""
    drill, neighbour = drill_on("command-line"), drill_on("rest")
    (server,) = drill.start("mine")
    (theirs,) = neighbour.start("theirs", person="bob")
    # a start that Slurm never heard of; its job turns up after the hub has given it up
    drill.faults.set("sbatch", "never-sent")
    ghost = Server("alice", "ghost")
    drill.request(ghost)
    name = str(drill.wait(lambda: state_of(drill, ghost).get("name"), 30, "the name on record"))
    words = drill.wait_ended(ghost, 40)
    assert "Slurm did not confirm the job" in words, words
    drill.faults.clear()
    late = by_hand(drill, "alice", name)
    orphan = by_hand(drill, "bob", f"qhub-{drill.hub_id}-{secrets.token_hex(8)}")
    copied = by_hand(drill, "bob", str(state_of(drill, server)["name"]))
    foreign = by_hand(drill, "alice", f"qhub-nobody-{secrets.token_hex(8)}")
    for job in (late, orphan):
        drill.wait(lambda job=job: drill.slurm.job_state(job) == "CANCELLED", 50, f"job {job} gone")
    try:
        assert drill.slurm.job_state(copied) == drill.slurm.job_state(foreign) == "RUNNING"
        assert_nothing_lost(drill, [server])
        # a hub that is killed and comes back leaves its neighbour's jobs alone, too
        drill.hub.kill()
        drill.hub.restart()
        assert_nothing_lost(drill, [server])
        assert_settled(neighbour, [theirs])
        drill.stop(server)
        assert drill.slurm.job_state(copied) == "RUNNING"
    finally:
        drill.slurm.run(["scancel", str(copied), str(foreign)], check=False)
    assert_settled(drill)


def state_of(drill: Drill, server: Server) -> dict[str, Any]:
    """What the hub has on record of a server's job."""
    return (drill.model(server).get("state") or {}).get("qhub") or {}


def by_hand(drill: Drill, user: str, name: str) -> int:
    """Submit a job that is no server."""
    options = ("--partition=many", "--mem=50M", f"--job-name={name}", "--chdir=/tmp")
    job_id = drill.slurm.sbatch(user, "exec sleep 300", *options)
    drill.wait(lambda: drill.slurm.job_state(job_id) == "RUNNING", 20, f"job {job_id} running")
    return job_id


# ---- the hub's disk -----------------------------------------------------------------------------


@pytest.fixture
def small_disk(cluster: Any) -> Iterator[Path]:
    """A file system of 4 MiB for the hub's database."""
    folder = Path(cluster.run_folder) / f"disk-{secrets.token_hex(3)}"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=755", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        folder.rmdir()
        missing("a file system of one's own", RuntimeError(done.stderr.strip()))
    shutil.chown(folder, "qhub", "qhub")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


def test_disk_full(drill_on: Any, small_disk: Path) -> None:
    """A start that cannot be written down is not submitted, or its job is ended; no other is."""
    drill = drill_on(config=f'c.JupyterHub.db_url = "sqlite:///{small_disk}/hub.sqlite"')
    filler = small_disk / "filler"
    (running,) = drill.start("running")
    drill.hold.touch()
    starting, refused = Server("alice", "starting"), Server("bob", "refused")
    drill.request(starting, "held")
    drill.wait(lambda: len(drill.jobs()) == 2, 30, "both jobs")
    calls = drill.faults.calls("sbatch")
    fill(filler)
    answer = drill.hub.start_server(refused.person, {"profile": "many"}, refused.name)
    assert answer.status >= 500
    drill.wait_polls()
    assert drill.faults.calls("sbatch") == calls
    drill.hold.unlink()
    drill.wait_polls()
    assert drill.ask(running)
    filler.unlink()
    # the one whose start could not be written down is ended, or lives; there is no third
    drill.hub.kill()
    drill.hub.restart()
    drill.wait(lambda: set(drill.jobs()) == set(drill.owned().values()), 60, "no orphan")
    assert_nothing_lost(drill, [running])
    (refused,) = drill.start("refused", person="bob")
    alive = list(drill.owned())
    assert {running, refused} <= set(alive) <= {running, refused, starting}
    assert_settled(drill, alive)


def fill(path: Path) -> None:
    """Leave no byte free on the file system of `path`."""
    with path.open("wb", buffering=0) as file:
        size = 65536
        while size:
            try:
                file.write(b"x" * size)
            except OSError:
                size //= 2
    wait_until(lambda: shutil.disk_usage(path).free == 0, 5, "a full disk")
