"""Drills: the hub is killed, and what it started lives on."""

from __future__ import annotations

from typing import Any

from tests.integration.drilling import Server
from tests.integration.drills import assert_settled, opened


def test_hub_killed_with_twenty_servers(drill_by: Any) -> None:
    """A hub killed with 20 servers adopts all of them; none is restarted."""
    drill = drill_by
    servers = [Server(person, f"s{n}") for n in range(10) for person in ("alice", "bob")]
    for server in servers:
        drill.request(server)
    assert_settled(drill, servers)
    before = {server: drill.ask(server) for server in servers}
    drill.hub.kill()
    assert {server: drill.ask(server) for server in servers} == before
    drill.hub.restart()
    assert_settled(drill, servers)
    assert {server: drill.ask(server) for server in servers} == before


def test_hub_killed_while_servers_start(drill_by: Any) -> None:
    """Starts go on under the next hub: one that waits in the queue, one that has not reported."""
    drill = drill_by
    running, waiting, silent = drill.start_one_of_each()
    jobs = set(drill.jobs())
    drill.hub.kill()
    drill.hub.restart()
    # to their people they are starts like any other, with progress
    assert drill.model(waiting)["pending"] == "spawn"
    assert drill.model(silent)["pending"] == "spawn"
    drill.progress_says(waiting, "the partition is down")
    drill.hold.unlink()
    with opened(drill.slurm):
        assert_settled(drill, [running, waiting, silent])
    assert set(drill.jobs()) == jobs


def test_start_of_an_earlier_hub_is_ended_by_its_person(drill: Any) -> None:
    """Who does not want to wait any more can end a start that an earlier hub began."""
    waiting = Server("alice", "waiting")
    drill.request(waiting, "closed")
    drill.wait(drill.jobs, 30, "the job")
    drill.hub.kill()
    drill.hub.restart()
    drill.stop(waiting)
    assert_settled(drill)
    # nothing of the old start is left to disturb the next one
    (again,) = drill.start("waiting")
    assert_settled(drill, [again])


def test_hub_killed_before_the_job_was_submitted(drill: Any) -> None:
    """A start that was on record and never reached Slurm is over, and says so."""
    calls = drill.faults.calls("sbatch")
    drill.faults.set("sbatch", "hangs")
    server = Server("alice", "never")
    drill.request(server)
    drill.wait(lambda: drill.faults.calls("sbatch") > calls, 30, "sbatch")
    drill.hub.kill()
    drill.faults.clear()
    drill.hub.restart()
    assert drill.model(server)["pending"] == "spawn"
    assert "before Slurm had your server" in drill.wait_ended(server)
    assert_settled(drill)


def test_hub_killed_while_sbatch_runs(drill: Any) -> None:
    """A job that Slurm takes after its hub was killed is found by its name, and adopted."""
    drill.faults.set("sbatch", "late")
    server = Server("alice", "late")
    calls = drill.faults.calls("sbatch")
    drill.request(server)
    drill.wait(lambda: drill.faults.calls("sbatch") > calls, 30, "sbatch")
    assert drill.jobs() == {}
    drill.hub.kill()
    drill.faults.clear()
    drill.hub.restart()
    assert_settled(drill, [server])
