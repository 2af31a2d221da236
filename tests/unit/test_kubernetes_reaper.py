"""The reaper: it ends this hub's pods that nobody owns, after a while, and no others."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from qhub_spawner.errors import KubernetesUnavailableError
from qhub_spawner.kubernetes import names
from qhub_spawner.kubernetes import reaper as module
from qhub_spawner.kubernetes.reaper import Reaper
from qhub_spawner.kubernetes.watching import Watch

LOG = logging.getLogger("drill")
SPAWN = "00112233445566ff"


class Api:
    """Notes deletions.

    Attributes:
        failing: For how many of the next ones Kubernetes is silent.
    """

    def __init__(self) -> None:
        self.deleted: list[tuple[str, str | None, int | None]] = []
        self.failing = 0

    async def delete(
        self, kind: str, namespace: str, name: str, *, uid: str | None, grace: int | None
    ) -> bool:
        assert (kind, namespace) == ("pods", "people")
        self.deleted.append((name, uid, grace))
        if self.failing:
            self.failing -= 1
            raise KubernetesUnavailableError("silent")
        return True


def pod(name: str = "jupyter-alice", **more: Any) -> dict[str, Any]:
    """A pod of the hub "hub1"; `more` is of its metadata."""
    labels = names.labels("hub1", SPAWN)
    meta = {"name": name, "namespace": "people", "uid": f"uid-{name}", "labels": labels}
    return {"metadata": {**meta, "resourceVersion": "5", **more}, "spec": {}, "status": {}}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A monotonic clock that the test sets."""

    class Clock:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def reaper_of(*pods: dict[str, Any], **more: Any) -> tuple[Reaper, Api]:
    """A reaper of the hub "hub1", whose watch knows these pods."""
    api = Api()
    watch = Watch(api, "/pods", LOG)  # type: ignore[arg-type]
    watch.problem, watch.lists = None, 1
    for each in pods:
        watch.take(each)
    return Reaper(lambda: api, watch, "hub1", LOG, **more), api  # type: ignore[arg-type,return-value]


async def test_ends_after_patience(clock: Any) -> None:
    """A pod is deleted when it has stood without an owner for 20 s: this one, by its uid."""
    reaper, api = reaper_of(pod())
    for later in (0, 10, 9):
        clock.now += later
        await reaper.look()
    assert api.deleted == []
    clock.now += 2
    await reaper.look()
    assert api.deleted == [("jupyter-alice", "uid-jupyter-alice", 10)]
    assert reaper.ended == 1


async def test_patience_begins_anew(clock: Any) -> None:
    """A pod that had an owner meanwhile, or whose name another has now, has its time again."""
    reaper, api = reaper_of(pod())
    await reaper.look()
    clock.now += 19
    reaper.live = lambda: [SPAWN]
    await reaper.look()
    clock.now += 10
    reaper.live = list
    await reaper.look()
    clock.now += 10
    reaper.watch.take(pod(uid="another"))
    await reaper.look()
    clock.now += 19
    await reaper.look()
    assert api.deleted == []
    clock.now += 2
    await reaper.look()
    assert [uid for _, uid, _ in api.deleted] == ["another"]


@pytest.mark.parametrize(
    "other",
    [
        pod(labels=names.labels("hub2", SPAWN)),
        pod(labels=names.labels("hub11", SPAWN)),
        pod(labels={}),
        pod(uid=""),
        pod(deletionTimestamp="2026-01-01T00:00:00Z"),
    ],
    ids=["another hub's", "of a like name", "nobody's", "half known", "on its way out"],
)
async def test_leaves_others_alone(clock: Any, other: dict[str, Any]) -> None:
    """Pods of other hubs, of no hub, and those that are about to be gone are not touched."""
    reaper, api = reaper_of(other)
    for _ in range(5):
        await reaper.look()
        clock.now += 100
    assert api.deleted == []


async def test_leaves_alone_what_the_database_holds(clock: Any) -> None:
    """A server on record is owned, though its hub has not taken it up yet."""
    reaper, api = reaper_of(pod())
    reaper.recorded = lambda: {names.record_name("hub1", SPAWN)}
    for _ in range(3):
        await reaper.look()
        clock.now += 100
    assert api.deleted == []


@pytest.mark.parametrize("phase", ["Succeeded", "Failed", "Running", "Pending", "Unknown", ""])
@pytest.mark.parametrize("keep", [True, False])
async def test_keeps_what_is_over(clock: Any, phase: str, keep: bool) -> None:
    """With delete_stopped_pods off pods that are over stay; what may run and nobody owns does not."""
    reaper, api = reaper_of({**pod(), "status": {"phase": phase}}, keep_over=keep)
    await reaper.look()
    clock.now += 21
    await reaper.look()
    assert bool(api.deleted) is not (keep and phase in {"Succeeded", "Failed"})


async def test_only_says_so_if_told(clock: Any, caplog: pytest.LogCaptureFixture) -> None:
    """With end_orphans off nothing is deleted."""
    reaper, api = reaper_of(pod(), end_orphans=False)
    for _ in range(3):
        await reaper.look()
        clock.now += 100
    assert api.deleted == []
    assert "jupyter-alice" in caplog.text


async def test_tries_again(clock: Any) -> None:
    """One that cannot be deleted is tried again, and does not keep the others alive."""
    reaper, api = reaper_of(pod("a"), pod("b"))
    api.failing = 1
    await reaper.look()
    clock.now += 21
    await reaper.look()
    assert [name for name, _, _ in api.deleted] == ["a", "b"]
    assert reaper.ended == 1
    await reaper.look()
    assert len(api.deleted) == 4


async def test_looks_only_at_what_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the watch does not run nothing is judged; a fault of its own does not end it."""
    monkeypatch.setattr(module, "_PACE_SECONDS", 0.001)
    reaper, api = reaper_of(pod(), patience_seconds=0.0)
    reaper.watch.problem = "away"
    faults = [ValueError("the database is away")]

    def recorded() -> set[str]:
        if faults:
            raise faults.pop()
        return set()

    reaper.recorded = recorded
    task = asyncio.ensure_future(reaper.run())
    await asyncio.sleep(0.03)
    assert api.deleted == []
    assert faults
    reaper.watch.problem = None
    async with asyncio.timeout(5):
        while not api.deleted:
            await asyncio.sleep(0.001)
    assert not faults
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
