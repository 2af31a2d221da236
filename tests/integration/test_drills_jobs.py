"""Drills: things happen to a running job that its person did not ask for."""

from __future__ import annotations

from typing import Any

from tests.integration.drilling import Server
from tests.integration.drills import assert_settled


def test_suspend_and_resume(drill_by: Any) -> None:
    """A suspended server is no dead one, not even for a hub that is started meanwhile."""
    drill = drill_by
    (server,) = drill.start("suspended")
    drill.hold.touch()
    starting = Server("bob", "starting")
    drill.request(starting, "held")
    drill.wait(lambda: sorted(drill.jobs().values()) == ["RUNNING", "RUNNING"], 30, "both jobs")
    jobs = sorted(drill.jobs())
    for job_id in jobs:
        drill.slurm.run(["scontrol", "suspend", str(job_id)])
    drill.wait_polls()
    assert drill.model(server)["ready"]
    assert drill.model(starting)["pending"] == "spawn"
    drill.hub.kill()
    drill.hub.restart()
    # its person may stop it: it is not held in a check that nobody can end
    drill.wait(lambda: drill.model(server)["ready"], 20, "the suspended server ready")
    assert drill.model(starting)["pending"] == "spawn"
    drill.hold.unlink()
    for job_id in jobs:
        drill.slurm.run(["scontrol", "resume", str(job_id)])
    assert_settled(drill, [server, starting])
    assert sorted(drill.jobs()) == jobs
    # a suspended server cannot answer SIGTERM; a stop ends it all the same
    drill.slurm.run(["scontrol", "suspend", str(drill.job_id(server))])
    drill.stop(server)
    assert_settled(drill, [starting])


def test_requeue(drill_by: Any) -> None:
    """A requeued server comes back at its new address, and the route follows."""
    drill = drill_by
    (server,) = drill.start("requeued")
    job_id = drill.job_id(server)
    before = drill.ask(server)
    drill.slurm.run(["scontrol", "requeue", str(job_id)])
    drill.wait_polls()
    assert drill.model(server)["ready"]
    # to start it once more changes nothing
    again = drill.hub.start_server(server.person, {"profile": "many"}, server.name)
    assert again.status == 400
    assert "already running" in again.text
    drill.run_again(job_id)
    drill.wait(lambda: drill.ask(server).get("restarts") == 1, 30, "the server again")
    assert drill.ask(server)["pid"] != before["pid"]
    assert_settled(drill, [server])
    assert list(drill.jobs()) == [job_id]


def test_requeue_during_a_start(drill: Any) -> None:
    """A job that is requeued before its server has reported goes on being a start."""
    drill.hold.touch()
    server = Server("alice", "requeued")
    drill.request(server, "held")
    drill.wait(lambda: list(drill.jobs().values()) == ["RUNNING"], 30, "the job")
    (job_id,) = drill.jobs()
    drill.slurm.run(["scontrol", "requeue", str(job_id)])
    drill.progress_says(server, "begin time")
    drill.hold.unlink()
    drill.run_again(job_id)
    assert_settled(drill, [server])
    assert drill.ask(server)["restarts"] == 1


def test_requeue_while_the_hub_is_down(drill: Any) -> None:
    """A server that moved while the hub was away is routed to where it is now."""
    (server,) = drill.start("requeued")
    job_id = drill.job_id(server)
    drill.hub.kill()
    drill.slurm.run(["scontrol", "requeue", str(job_id)])
    drill.run_again(job_id)
    drill.hub.restart()
    drill.wait(lambda: drill.ask(server).get("restarts") == 1, 40, "the server at its new place")
    assert_settled(drill, [server])


def test_ends_that_nobody_asked_the_hub_for(drill_by: Any) -> None:
    """Cancelled by hand, out of memory, out of time: noticed within seconds, and told in words."""
    drill = drill_by
    running, waiting, silent = drill.start_one_of_each()
    timed, greedy, other = drill.start("timed", "greedy", "other")
    # Slurm looks at time limits every half minute
    drill.slurm.run(["scontrol", "update", f"jobid={drill.job_id(timed)}", "endtime=now+1"])
    for server, by in ((running, "alice"), (waiting, "root"), (silent, "bob")):
        drill.slurm.run(["scancel", str(drill.job_id(server))], user=None if by == "root" else by)
        words = drill.wait_ended(server, 15)
        assert f"it was cancelled by {by}" in words, words
    assert drill.ask(greedy, "?allocate=200") == {}
    assert "its memory limit of 64 MiB was reached" in drill.wait_ended(greedy)
    assert "its walltime of 1 h ended" in drill.wait_ended(timed, 60)
    assert_settled(drill, [other])


def test_server_ends_by_itself(drill: Any) -> None:
    """A server that exits is noticed within seconds, not at the hub's own poll."""
    (server,) = drill.start("leaving")
    drill.slurm.run(["kill", "-TERM", str(drill.ask(server)["pid"])])
    drill.wait_ended(server, 15)
    assert_settled(drill)


def test_node_down(drill_by: Any) -> None:
    """A node fails: jobs that may be requeued come back elsewhere, others are over, and say so."""
    drill = drill_by
    (lasting,) = drill.start("lasting")
    (fragile,) = drill.start("fragile", slug="fragile")
    node = drill.ask(lasting)["node"]
    assert drill.ask(fragile)["node"] == node
    job_id = drill.job_id(lasting)
    drill.slurm.stop_daemon(f"slurmd:{node}")
    drill.slurm.node_down(node)
    try:
        assert f"its node failed on {node}" in drill.wait_ended(fragile)
        drill.wait_polls()
        assert drill.model(lasting)["ready"]
        drill.run_again(job_id)
        drill.wait(lambda: drill.ask(lasting).get("restarts") == 1, 30, "the server elsewhere")
        assert drill.ask(lasting)["node"] != node
    finally:
        drill.slurm.start_daemon(f"slurmd:{node}")
    assert_settled(drill, [lasting])


def test_graceful_stop(drill_by: Any) -> None:
    """A stop asks the server first: SIGTERM reaches it, and it ends by itself."""
    drill = drill_by
    (server,) = drill.start("saving")
    job_id = drill.job_id(server)
    drill.stop(server)
    assert "asked to end, ending" in drill.server_log(job_id)
    assert drill.slurm.job_state(job_id) == "COMPLETED"
    assert_settled(drill)
