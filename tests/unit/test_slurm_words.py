"""What a person reads while they wait, and when their server has ended."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from qhub_spawner.slurm.jobs import Job, JobEnding, JobState
from qhub_spawner.slurm.parsing import parse_accounting, parse_queue
from qhub_spawner.slurm.words import (
    Granted,
    ending_words,
    exit_code,
    moment_words,
    queue_position,
    reason_words,
    waiting_words,
)
from tests.unit import recorded

NOW = datetime(2026, 11, 21, 6, tzinfo=UTC)
GRANTED = Granted(memory="600 MiB", walltime="2 h")


def job(state: JobState = JobState.PENDING, **more: object) -> Job:
    """Return a job of alice's."""
    return Job(7, state, "qhub-a1-0000000000000001", "alice", partition="general", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "words", "code"),
    [
        ("memory", "its memory limit of 600 MiB was reached", 128 + 125),
        ("timeout", "its walltime of 2 h ended", 1),
        ("failed", "it failed with exit code 3 on cn", 3),
        ("killed", "it was killed by signal 9 on cn", 137),
        ("node", "its node failed on hm01", 1),
        ("completed", "it ended by itself", 0),
        ("cancelled", "it was cancelled by alice", 1),
    ],
)
def test_recorded_endings(kind: str, words: str, code: int) -> None:
    """Each recorded end is told with the limit that the person chose, and is no success."""
    ending = parse_accounting(recorded.text("endings.txt"))[recorded.jobs()[kind]]
    who = "alice" if kind == "cancelled" else ""
    assert ending_words(ending, GRANTED, cancelled_by=who).startswith(words)
    assert exit_code(ending) == code


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        (JobEnding(1, JobState.CANCELLED), "it was cancelled"),
        (JobEnding(1, JobState.CANCELLED, cancelled_by=1000), "it was cancelled by uid 1000"),
        (JobEnding(1, JobState.CANCELLED, cancelled_by=0), "it was cancelled by uid 0"),
        (JobEnding(1, JobState.OUT_OF_MEMORY), "its memory limit was reached"),
        (JobEnding(1, JobState.TIMEOUT), "its walltime ended"),
        (JobEnding(1, JobState.FAILED), "it failed"),
        (
            JobEnding(1, JobState.PREEMPTED),
            "a job with a higher priority took its place (preempted)",
        ),
        (JobEnding(1, JobState.BOOT_FAIL, node_list="n1"), "its node did not boot on n1"),
        (JobEnding(1, JobState.DEADLINE), "its deadline passed"),
        (JobEnding(1, JobState.REVOKED), "another cluster took the job"),
    ],
)
def test_endings_without_details(ending: JobEnding, words: str) -> None:
    """What is not known is left out, never guessed."""
    assert ending_words(ending, Granted()) == words


@pytest.mark.parametrize("state", [state for state in JobState if state.over])
def test_only_completed_is_a_success(state: JobState) -> None:
    """The hub is told 0 only for a job that completed."""
    assert (exit_code(JobEnding(1, state)) == 0) == (state is JobState.COMPLETED)
    assert ending_words(JobEnding(1, state), GRANTED)


def test_an_unknown_end_says_so() -> None:
    """Without accounting the truth is that nobody can say."""
    assert "no longer knows" in ending_words(JobEnding(1, JobState.UNKNOWN), GRANTED)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Priority", "jobs with a higher priority come first"),
        (
            "ReqNodeNotAvail, UnavailableNodes:cn01",
            "a node that it needs is down, drained or reserved",
        ),
        ("(Resources)", reason_words("Resources")),
        ("SomethingNew", "Slurm gives the reason SomethingNew"),
        ("", "Slurm has not looked at it yet"),
    ],
)
def test_reasons(reason: str, words: str) -> None:
    """Slurm's reasons in words; one we do not know is passed on."""
    assert reason_words(reason) == words


def test_recorded_waiting() -> None:
    """Two jobs that wait for the same nodes: the second knows that one is ahead."""
    queue = {each.job_id: each for each in parse_queue(recorded.text("queue.txt"), recorded.MARK)}
    ids, jobs = recorded.jobs(), tuple(queue.values())
    first, second = queue[ids["wide"]], queue[ids["behind"]]
    assert queue_position(first, jobs) == 0
    assert queue_position(second, jobs) == 1
    assert "1 waiting job is ahead" in waiting_words(second, 1, NOW)
    assert "2 waiting jobs are ahead" in waiting_words(second, 2, NOW)
    assert reason_words("Resources") in waiting_words(first, 0, NOW)
    assert "partition general" in waiting_words(first, 0, NOW)


def test_waiting_with_an_estimate() -> None:
    """Slurm's own estimate is told when it lies ahead."""
    start = NOW + timedelta(minutes=25)
    assert "Slurm expects it to start in about 25 min." in waiting_words(job(start=start), 0, NOW)
    assert "expects" not in waiting_words(job(start=NOW - timedelta(minutes=1)), 0, NOW)


def test_configuring() -> None:
    """A node that is being prepared is named."""
    assert "prepares" in waiting_words(job(JobState.CONFIGURING, node_list="cn01"), 0, NOW)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "within a minute"),
        (-60, "within a minute"),
        (60, "in about 1 min"),
        (90000, "in about 1 d 1 h"),
    ],
)
def test_moments(seconds: int, words: str) -> None:
    """A moment to come, in words."""
    assert moment_words(NOW + timedelta(seconds=seconds), NOW) == words
