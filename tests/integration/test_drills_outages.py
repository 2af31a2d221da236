"""Drills: a part of Slurm is away, slow, or talks nonsense. The unknown is never taken for over."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.integration.drilling import Server
from tests.integration.drills import Drill, assert_settled, down, forget_all_jobs, opened
from tests.systems.slurm import SlurmSystem

UNKNOWN = "Slurm's queue is unknown"
ANSWERS = "Slurm answers again"


@contextlib.contextmanager
def paused(slurm: SlurmSystem, daemon: str) -> Iterator[None]:
    """A daemon's clients connect and get no answer, within the block."""
    slurm.pause(daemon)
    try:
        yield
    finally:
        slurm.resume(daemon)


def everybody_lives_through(
    drill: Drill, outage: Callable[[], contextlib.AbstractContextManager[None]], seconds: float
) -> None:
    """Nothing that runs, waits or starts is given up during an outage, nor after it."""
    running, waiting, silent = servers = drill.start_one_of_each()
    jobs = drill.jobs()
    warned = drill.logged(UNKNOWN)
    with outage():
        drill.wait_logged(UNKNOWN, beyond=warned)
        until = time.monotonic() + seconds

        def through() -> bool:
            # ready servers stay ready and reachable, starts stay pending, for the whole time
            assert drill.model(running)["ready"]
            assert drill.model(waiting)["pending"] == "spawn"
            assert drill.model(silent)["pending"] == "spawn"
            assert drill.ask(running)
            return time.monotonic() > until

        drill.wait(through, seconds + 10, "the end of the outage")
        drill.progress_says(waiting, "Slurm does not answer now")
    drill.hold.unlink()
    with opened(drill.slurm):
        assert_settled(drill, servers)
    assert set(drill.jobs()) == set(jobs)


def test_slurmctld_down(drill_by: Any) -> None:
    """slurmctld is away for two minutes; on the second transport for several polls."""
    seconds = 120 if drill_by.hub.transport == "command-line" else 10
    everybody_lives_through(drill_by, lambda: down(drill_by.slurm, "slurmctld"), seconds)


def test_slurmctld_hangs(drill: Any) -> None:
    """slurmctld takes connections and does not answer."""
    everybody_lives_through(drill, lambda: paused(drill.slurm, "slurmctld"), 5)


def test_munge_down(drill_by: Any) -> None:
    """Nobody can prove who they are: every command fails, with or without a token."""
    drill = drill_by
    if drill.hub.transport == "rest":
        # slurmrestd and slurmctld know each other by tokens: the hub does not even notice
        (server,) = drill.start("running")
        with down(drill.slurm, "munged"):
            until = time.monotonic() + 6
            drill.wait(lambda: time.monotonic() > until, 20, "some polls")
            assert drill.model(server)["ready"]
        assert_settled(drill, [server])
    else:
        everybody_lives_through(drill, lambda: down(drill.slurm, "munged"), 6)


def test_squeue_gives_no_answer(drill: Any) -> None:
    """squeue exits 1, prints nothing, garbage, or half a line, or hangs: each is no answer."""
    running, waiting, silent = servers = drill.start_one_of_each()
    for fault in ("fails", "nothing", "garbage", "half", "hangs"):
        asked, warned = drill.faults.calls("squeue"), drill.logged(UNKNOWN)
        drill.faults.set("squeue", fault)
        drill.wait(lambda asked=asked: drill.faults.calls("squeue") > asked, 30, fault)
        drill.wait_logged(UNKNOWN, beyond=warned)
        assert drill.model(running)["ready"], fault
        assert drill.model(waiting)["pending"] == "spawn", fault
        assert drill.model(silent)["pending"] == "spawn", fault
        again = drill.logged(ANSWERS)
        drill.faults.clear()
        drill.wait_logged(ANSWERS, beyond=again)
    drill.hold.unlink()
    with opened(drill.slurm):
        assert_settled(drill, servers)


def test_squeue_leaves_jobs_out(drill: Any) -> None:
    """An answer that looks whole but lacks jobs ends none: accounting and slurmctld are asked.

    Nor do their answers, when they are empty.
    """
    running, waiting, silent = servers = drill.start_one_of_each()
    for empty in ((), ("scontrol",), ("sacct", "scontrol")):
        asked = drill.faults.calls("scontrol")
        drill.faults.set("squeue", "few")
        for command in empty:
            drill.faults.set(command, "nothing")
        drill.wait(lambda asked=asked: drill.faults.calls("scontrol") > asked + 6, 30, "doubts")
        assert drill.model(running)["ready"], empty
        assert drill.model(waiting)["pending"] == "spawn", empty
        assert drill.model(silent)["pending"] == "spawn", empty
    drill.faults.clear()
    drill.hold.unlink()
    with opened(drill.slurm):
        assert_settled(drill, servers)


def test_slurmrestd_gives_no_answer(drill_on: Any) -> None:
    """slurmrestd takes requests and does not answer, and then is away."""
    drill = drill_on("rest")

    @contextlib.contextmanager
    def outage() -> Iterator[None]:
        with paused(drill.slurm, "slurmrestd"):
            again = drill.logged(UNKNOWN)
            drill.wait(lambda: drill.logged(UNKNOWN) > again, 20, "a vain question")
        with down(drill.slurm, "slurmrestd"):
            yield

    everybody_lives_through(drill, outage, 5)


def test_slurmdbd_down(drill_by: Any) -> None:
    """Without accounting servers start and stop; ends are taken from the queue."""
    drill = drill_by
    (before,) = drill.start("before")
    with down(drill.slurm, "slurmdbd"):
        (during,) = drill.start("during")
        drill.stop(before)
        assert_settled(drill, [during])
        cancelled = Server("alice", "cancelled")
        drill.start("cancelled")
        drill.slurm.run(["scancel", str(drill.job_id(cancelled))])
        drill.hub.wait_stopped("alice", "cancelled", 30)
        assert drill.ended_words(cancelled).startswith("it was cancelled")
    assert_settled(drill, [during])


def test_job_vanishes(drill_by: Any) -> None:
    """A job that Slurm forgot is over when accounting says so, and not as long as it is silent."""
    drill = drill_by
    (server,) = drill.start("vanishing")
    job_id = drill.job_id(server)
    warned = drill.logged("accounting gives no answer")
    with down(drill.slurm, "slurmdbd"):
        forget_all_jobs(drill.slurm)
        assert drill.slurm.job_state(job_id) == ""
        drill.wait_logged("accounting gives no answer", beyond=warned)
        assert drill.model(server)["ready"]
    drill.hub.wait_stopped(server.person, server.name, 60)
    assert_settled(drill)
