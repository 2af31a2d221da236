"""How long a start is endured that gets nowhere."""

from __future__ import annotations

from typing import Any

import pytest

from qhub_spawner.kubernetes import enduring
from qhub_spawner.kubernetes.enduring import Endurance
from qhub_spawner.kubernetes.pods import Pod
from qhub_spawner.launch import NoCapacityError, StartFailedError
from tests.unit.test_kubernetes_server import PENDING

QUEUED = {"phase": "Pending"}
PULLING = {
    "phase": "Pending",
    "containerStatuses": [
        {"name": "notebook", "state": {"waiting": {"reason": "ContainerCreating"}}}
    ],
}
STUCK = {
    "phase": "Pending",
    "containerStatuses": [
        {
            "name": "notebook",
            "state": {"waiting": {"reason": "ErrImagePull", "message": "i/o timeout"}},
        }
    ],
}


def pod(status: Any) -> Pod:
    return Pod.of(
        {
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "notebook", "image": "lab:1"}]},
            "status": status,
        }
    )


class Clock:
    """A monotonic clock that the test sets."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(enduring, "time", made)
    return made


def wait(endurance: Endurance, clock: Clock, status: Any, seconds: float) -> None:
    """Look every two seconds for so long."""
    until = clock.now + seconds
    while True:
        endurance.judge(pod(status), [], "It waits.")
        if clock.now >= until:
            return
        clock.now += 2


def test_time_in_a_queue_is_none_of_being_stuck(clock: Clock) -> None:
    """A pod that waited for an hour may be stuck as long as any other, and no longer."""
    endurance = Endurance(60.0, None)
    wait(endurance, clock, QUEUED, 3600)
    wait(endurance, clock, STUCK, 58)
    clock.now += 2
    with pytest.raises(StartFailedError, match="cannot start"):
        endurance.judge(pod(STUCK), [], "")


def test_what_passes_is_forgotten(clock: Clock) -> None:
    """Each time that it gets stuck it has the whole patience."""
    endurance = Endurance(60.0, None)
    for _ in range(5):
        wait(endurance, clock, STUCK, 50)
        wait(endurance, clock, PULLING, 10)


def test_room_is_missing_from_when_kubernetes_says_so(clock: Clock) -> None:
    """A pod that waited for something else does not go elsewhere at the first want of room."""
    endurance = Endurance(600.0, 30.0)
    wait(endurance, clock, PULLING, 100)
    wait(endurance, clock, PENDING, 28)
    wait(endurance, clock, PULLING, 2)
    wait(endurance, clock, PENDING, 28)
    clock.now += 2
    with pytest.raises(NoCapacityError, match="It waits"):
        endurance.judge(pod(PENDING), [], "It waits.")


def test_there_is_no_other_backend(clock: Clock) -> None:
    """Then it waits for room for as long as it takes."""
    wait(Endurance(60.0, None), clock, PENDING, 3600)
