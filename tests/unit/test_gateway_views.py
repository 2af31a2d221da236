"""A cluster as its owner sees it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from qhub_gateway.deciding import build
from qhub_gateway.requests import Owner, Site
from qhub_gateway.targets.target import UNKNOWN, Phase, State
from qhub_gateway.views import ClusterView, WorkerFacts, figures_of, listed, view_of
from qhub_spawner.catalogue import load

GIB = 2**30
REQUEST = build(
    load(
        [
            {
                "slug": "gpu",
                "display_name": "GPU",
                "cpu": 2,
                "memory": "4 GiB",
                "gpu": 1,
                "walltime": "2h",
                "slurm": {},
            }
        ]
    ),
    Owner(name="alice", groups=("physics",)),
    {},
    site=Site(),
)
RUNS = State(Phase.RUNNING, since=1000.0)
WAITS = State(Phase.QUEUED, "Waiting for resources")


def view(
    status: str = "RUNNING",
    scheduler: State = RUNS,
    workers: tuple[WorkerFacts, ...] = (),
    words: str = "",
) -> ClusterView:
    return view_of(
        name="one",
        request=REQUEST,
        status=status,
        scheduler=scheduler,
        workers=workers,
        wanted=5,
        started=900.0,
        now=4600.0,
        words=words,
        dashboard="/clusters/one/status",
    )


@pytest.mark.parametrize(
    ("status", "scheduler", "state"),
    [
        ("PENDING", WAITS, "queued"),
        ("PENDING", UNKNOWN, "queued"),
        ("PENDING", RUNS, "starting"),
        ("RUNNING", RUNS, "running"),
        ("STOPPING", RUNS, "stopping"),
        ("FAILED", State(Phase.ENDED, "out of memory"), "failed"),
    ],
)
def test_states(status: str, scheduler: State, state: str) -> None:
    """A pending cluster waits in a queue until its target says that it runs."""
    assert view(status, scheduler).state == state


def test_workers_and_what_they_take() -> None:
    """Workers are counted where they are, and all of them with their scheduler take something."""
    found = view(
        workers=(
            WorkerFacts(True, False, RUNS),
            WorkerFacts(True, True, RUNS),
            WorkerFacts(False, False, RUNS),
            WorkerFacts(False, False, WAITS),
            WorkerFacts(False, False, UNKNOWN),
        )
    )
    assert found.workers == {"queued": 2, "starting": 1, "running": 1, "stopping": 1}
    assert (found.cores, found.gpus) == (11.0, 5)
    assert found.memory_bytes == 22 * GIB
    assert found.memory == "22 GiB"
    json.dumps(found.to_json())
    figures = figures_of(found, REQUEST.owner.groups)
    assert figures.groups == {"physics"}
    assert figures.workers == {"queued": 2, "starting": 1, "running": 1, "stopping": 1}


def test_what_is_left_of_the_walltime() -> None:
    """It counts since the scheduler runs; before that, and after the end, there is none."""
    assert view().seconds_left == 3600.0
    assert view("PENDING", WAITS).seconds_left is None
    ended = view("FAILED", State(Phase.ENDED, "time limit", 1000.0))
    assert (ended.seconds_left, ended.cores, ended.memory) == (None, 0.0, "0 B")


def test_words() -> None:
    """Why it waits is its target's words; of one that runs only what the gateway has to say."""
    assert view("PENDING", WAITS).words == "Waiting for resources"
    assert view(words="a limit").words == "a limit"
    assert view("RUNNING", State(Phase.RUNNING, "noise")).words == ""


def test_a_dashboard_only_while_it_runs() -> None:
    """There is a link to a dashboard only where there is one."""
    assert view().dashboard == "/clusters/one/status"
    assert view("STOPPING").dashboard is None


def test_which_are_listed() -> None:
    """What has not ended, and of each person the last five that failed within a day."""
    now, hour = 1_800_000_000.0, 3600

    def one(name: str, status: str, user: str = "alice", hours: float | None = None) -> object:
        stop_time = None if hours is None else int((now - hours * hour) * 1000)
        kind = SimpleNamespace(name=status)
        return SimpleNamespace(name=name, status=kind, username=user, stop_time=stop_time)

    clusters = [
        one("waits", "SUBMITTED"),
        one("ends", "CLOSING", "bob"),
        one("ended", "STOPPED", hours=1),
        one("old", "FAILED", hours=25),
        *(one(f"failed-{hours}", "FAILED", hours=hours) for hours in range(8)),
        one("theirs", "FAILED", "bob", hours=7),
    ]
    found = [each.name for each in listed(clusters, now)]
    assert found[:2] == ["waits", "ends"]
    assert sorted(found[2:]) == [*(f"failed-{hours}" for hours in range(5)), "theirs"]
