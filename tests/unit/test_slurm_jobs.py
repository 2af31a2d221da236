"""States and names of jobs."""

from __future__ import annotations

import doctest
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhub_spawner.slurm import capacity, jobs, parsing, words
from qhub_spawner.slurm.jobs import Job, JobState, Queue, job_name, new_spawn_id, spawn_ids

NOW = datetime(2026, 11, 21, 6, tzinfo=UTC)
SPAWN = "00112233445566ff"


@pytest.mark.parametrize("module", [jobs, parsing, words, capacity])
def test_examples_in_docstrings(module: object) -> None:
    """What the docstrings show is true."""
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("RUNNING", JobState.RUNNING),
        ("running", JobState.RUNNING),
        ("CANCELLED by 1000", JobState.CANCELLED),
        ("OUT_OF_ME+", JobState.OUT_OF_MEMORY),
        ("CANCELLED+", JobState.CANCELLED),
        ("", JobState.UNKNOWN),
        ("   ", JobState.UNKNOWN),
        ("LAUNCH_FAILED", JobState.UNKNOWN),
        ("RUNNING,COMPLETED", JobState.UNKNOWN),
        ("Z+", JobState.UNKNOWN),
    ],
)
def test_state(text: str, state: JobState) -> None:
    """A state that we do not know is UNKNOWN, whatever it looks like."""
    assert JobState.parse(text) is state


@given(st.text())
def test_unknown_is_never_over(text: str) -> None:
    """Nothing but Slurm's own words for an end ends a job."""
    state = JobState.parse(text)
    if state.over:
        assert text.split(maxsplit=1)[0].upper().rstrip("+") in state.value
    assert not JobState.UNKNOWN.over
    assert not JobState.UNKNOWN.waiting


def test_every_state_is_waiting_or_over_or_neither() -> None:
    """No state is both; a requeued, suspended or completing job is not over."""
    assert not [state for state in JobState if state.waiting and state.over]
    alive = {
        *(JobState.PENDING, JobState.CONFIGURING, JobState.RUNNING, JobState.SUSPENDED),
        *(JobState.COMPLETING, JobState.REQUEUED, JobState.REQUEUE_HOLD, JobState.STOPPED),
        *(JobState.SIGNALING, JobState.STAGE_OUT, JobState.RESIZING, JobState.UNKNOWN),
    }
    assert not [state for state in alive if state.over]


def test_name_round_trip() -> None:
    """A name is made of hub and spawn id, and only our own are found again."""
    mine, other = job_name("a1", SPAWN), job_name("a2", SPAWN)
    assert spawn_ids([mine, other, "qhub-a1-x", "sbatch", mine + "\n"], "a1") == {mine: SPAWN}


@pytest.mark.parametrize("hub_id", ["", "A", "a-b", "a" * 17, "a\n", "ä", "a|b"])
def test_hub_id_refused(hub_id: str) -> None:
    """A hub id that could be read as something else is refused."""
    with pytest.raises(ValueError, match="hub id"):
        job_name(hub_id, SPAWN)


@pytest.mark.parametrize(
    "spawn_id", ["", "0" * 15, "0" * 17, "G" * 16, SPAWN.upper(), SPAWN + "\n"]
)
def test_spawn_id_refused(spawn_id: str) -> None:
    """So is a spawn id."""
    with pytest.raises(ValueError, match="spawn id"):
        job_name("a1", spawn_id)


def test_new_spawn_ids_differ() -> None:
    """64 random bits."""
    assert len({new_spawn_id() for _ in range(1000)}) == 1000
    assert job_name("a1", new_spawn_id())


def test_other_peoples_jobs_are_not_indexed() -> None:
    """A job without our prefix is counted, not looked up."""
    queue = Queue(NOW, (Job(1, JobState.RUNNING, "sbatch", "bob"),))
    assert dict(queue.by_name) == {}


def test_of_two_jobs_of_one_name_the_living_counts() -> None:
    """Somebody may imitate a name, or a site resubmit a job: what lives is not taken for over."""
    name = job_name("a1", SPAWN)
    over = Job(1, JobState.FAILED, name, "alice")
    alive = Job(2, JobState.RUNNING, name, "alice")
    for order in ((over, alive), (alive, over)):
        assert Queue(NOW, order).by_name[name] is alive
