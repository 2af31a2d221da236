"""The watch in rare interleavings: it lists once, goes on where it was, and nothing ends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Self

import pytest

from qhub_spawner.errors import KubernetesRefusedError, KubernetesUnavailableError
from qhub_spawner.kubernetes import watching
from qhub_spawner.kubernetes.watching import Watch

LOG = logging.getLogger("drill")
PATH = "/api/v1/namespaces/people/pods"
SILENCE = KubernetesUnavailableError("Kubernetes is silent")
EXPIRED = KubernetesRefusedError(410, {"reason": "Expired", "message": "too old"})
FORBIDDEN = KubernetesRefusedError(403, {"reason": "Forbidden", "message": "no"})


def pod(name: str, version: int, uid: str = "", **more: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": "people", "uid": uid or name}
    return {"metadata": {**meta, "resourceVersion": str(version)}, **more}


def bookmark(version: int) -> tuple[str, dict[str, Any]]:
    return "BOOKMARK", {"metadata": {"resourceVersion": str(version)}}


def added(name: str, version: int, **more: Any) -> tuple[str, dict[str, Any]]:
    return "ADDED", pod(name, version, **more)


def deleted(name: str, version: int) -> tuple[str, dict[str, Any]]:
    return "DELETED", pod(name, version)


def page(version: int, *pods: dict[str, Any], more: str = "") -> dict[str, Any]:
    metadata = {"resourceVersion": str(version), **({"continue": more} if more else {})}
    return {"metadata": metadata, "items": list(pods)}


HOLD = object()
"""In a stream: nothing more comes, and it stays open."""


class ScriptedApi:
    """Answers what a test says, and notes what was asked of it.

    Attributes:
        lists: The answers to lists, one after the other; the last one for ever.
        streams: What each watch yields; an exception is raised, in place of a stream before it
            begins. After the last one, watches hold.
        listed: The query of each list.
        watched: The query of each watch.
    """

    def __init__(self, lists: list[Any], *streams: Any) -> None:
        self.lists, self.streams = lists, list(streams)
        self.listed: list[dict[str, str]] = []
        self.watched: list[dict[str, str]] = []

    async def request(self, method: str, path: str, *, query: dict[str, str]) -> Any:
        assert (method, path) == ("GET", PATH)
        self.listed.append(dict(query))
        answer = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
        if isinstance(answer, BaseException):
            raise answer
        await asyncio.sleep(0)
        return answer() if callable(answer) else answer

    async def watch(
        self, path: str, query: dict[str, str], *, silence_seconds: float
    ) -> AsyncIterator[tuple[str, Any]]:
        assert path == PATH
        assert silence_seconds > 60
        self.watched.append(dict(query))
        stream = self.streams.pop(0) if self.streams else [HOLD]
        if isinstance(stream, BaseException):
            raise stream
        yield "CONNECTED", {}
        for item in stream:
            await asyncio.sleep(0)
            if isinstance(item, BaseException):
                raise item
            if item is HOLD:
                await asyncio.Event().wait()
            yield item

    @property
    def versions(self) -> list[str]:
        """From which version each watch went on."""
        return [query["resourceVersion"] for query in self.watched]


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """How long was waited before each further try; the waits themselves are short."""
    waited: list[float] = []
    real = Watch._pause

    def pause(self: Watch) -> float:
        waited.append(real(self))
        return 0.001

    monkeypatch.setattr(Watch, "_pause", pause)
    return waited


async def until(condition: Callable[[], Any], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


class Running:
    """A watch that runs within the block."""

    def __init__(self, api: ScriptedApi, **options: Any) -> None:
        self.watch = Watch(api, PATH, LOG, **options)  # type: ignore[arg-type]
        self.changes: list[tuple[str, bool]] = []
        self.watch.on_change.append(
            lambda key, found: self.changes.append((key[1], found is not None))
        )

    async def __aenter__(self) -> Self:
        self.task = asyncio.ensure_future(self.watch.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert not self.task.done(), "nothing but its cancellation ends a watch"
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    @property
    def names(self) -> set[str]:
        return {name for _, name in self.watch.objects}


async def test_lists_once_and_follows() -> None:
    """One list, by pages; then changes alone, from the version of the list."""
    api = ScriptedApi(
        [page(10, pod("a", 5), more="next"), page(10, pod("b", 6))],
        [added("c", 11), deleted("a", 12), HOLD],
    )
    async with Running(api, labels="x=y") as running:
        await until(lambda: running.names == {"b", "c"})
        assert [query.get("continue") for query in api.listed] == [None, "next"]
        assert all(query["labelSelector"] == "x=y" for query in (*api.listed, *api.watched))
        assert api.versions == ["10"]
        assert api.watched[0]["allowWatchBookmarks"] == "true"
        assert running.changes == [("a", True), ("b", True), ("c", True), ("a", False)]
        assert running.watch.current
        assert running.watch.known


async def test_goes_on_from_the_last_version() -> None:
    """A watch that ends in good order, or breaks, goes on from its last change or bookmark."""
    api = ScriptedApi(
        [page(10, pod("a", 5))],
        [added("b", 11)],
        [bookmark(30)],
        [added("c", 31), SILENCE],
        SILENCE,
    )
    async with Running(api) as running:
        await until(lambda: len(api.watched) == 5)
        assert api.versions == ["10", "11", "30", "31", "31"]
        assert len(api.listed) == 1
        assert running.names == {"a", "b", "c"}


async def test_unknown_is_not_gone() -> None:
    """While nothing can be had, what was known stays, and is said to be old."""
    api = ScriptedApi([page(10, pod("a", 5))], SILENCE, SILENCE, SILENCE)
    async with Running(api) as running:
        await until(lambda: running.watch.failures == 2)
        assert not running.watch.current
        assert running.watch.known
        assert "silent" in (running.watch.problem or "")
        assert running.names == {"a"}
        await until(lambda: running.watch.current)
        assert len(api.listed) == 1
        assert running.changes == [("a", True)]


@pytest.mark.parametrize("when", ["at once", "in the stream"])
async def test_version_too_old(when: str) -> None:
    """It lists anew: who is gone is noticed once, who stays is not told, who changed is."""
    stream = EXPIRED if when == "at once" else [bookmark(20), EXPIRED]
    api = ScriptedApi(
        [
            page(10, pod("a", 5), pod("b", 6), pod("c", 7)),
            page(50, pod("b", 6), pod("c", 40), pod("d", 45)),
        ],
        stream,
        [HOLD],
    )
    async with Running(api) as running:
        await until(lambda: len(api.listed) == 2 and running.watch.current)
        await until(lambda: running.names == {"b", "c", "d"})
        assert running.changes[:3] == [("a", True), ("b", True), ("c", True)]
        assert running.changes[3:] == [("a", False), ("c", True), ("d", True)]
        await until(lambda: len(api.watched) == 2)
        assert api.versions[-1] == "50"


async def test_version_too_old_after_an_outage(pauses: list[float]) -> None:
    """However long it was away: when it is back and knows the version no more, no time is lost."""
    api = ScriptedApi([page(10), page(50)], *[SILENCE] * 9, [EXPIRED], [HOLD])
    async with Running(api) as running:
        await until(lambda: len(api.listed) == 2 and running.watch.current)
        assert len(pauses) == 9


async def test_a_name_used_again() -> None:
    """A new object of a known name takes its place, whatever the versions say."""
    api = ScriptedApi([page(10, pod("a", 9, uid="old"))], [added("a", 5, uid="new"), HOLD])
    async with Running(api) as running:
        await until(lambda: len(running.changes) == 2)
        (found,) = running.watch.objects.values()
        assert found["metadata"]["uid"] == "new"


async def test_back_off(pauses: list[float]) -> None:
    """Tries become rarer up to a bound, each at a time of its own; a change ends that."""
    api = ScriptedApi([*[SILENCE] * 12, page(10)], [added("a", 11), SILENCE])
    async with Running(api) as running:
        await until(lambda: len(api.watched) == 2)
        assert len(pauses) == 13
        for at, pause in enumerate(pauses[:12]):
            longest = min(15.0, 0.25 * 2 ** (at + 1))
            assert longest / 2 <= pause <= longest
        assert pauses[12] <= 0.5
        assert running.watch.current


@pytest.mark.parametrize("stream", [[], [EXPIRED], [SILENCE]], ids=["ends", "expired", "breaks"])
async def test_no_storm(stream: list[Any], pauses: list[float]) -> None:
    """A watch that is taken and ends as it begins is tried less and less often, not at once."""
    api = ScriptedApi([page(10)], *[list(stream) for _ in range(8)])
    async with Running(api):
        await until(lambda: len(api.watched) == 9)
        assert len(pauses) >= 7
        assert max(pauses) > 8


async def test_refused_for_long_is_said() -> None:
    """A "no" that lasts is not the same as silence: an administrator must act."""
    api = ScriptedApi([FORBIDDEN] * 7 + [page(10)])
    async with Running(api) as running:
        await until(lambda: running.watch.failures >= 2)
        assert not running.watch.refused or running.watch.failures >= watching._PATIENT
        await until(lambda: running.watch.refused)
        await until(lambda: running.watch.current)
        assert not running.watch.refused


async def test_silence_is_never_a_refusal() -> None:
    """However long it lasts: the API server comes back by itself."""
    api = ScriptedApi([SILENCE] * 9 + [page(10)])
    async with Running(api) as running:
        await until(lambda: running.watch.failures > 7)
        assert not running.watch.refused


async def test_a_fault_of_ours_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    """It is loud, and everything is listed anew."""
    faults = [ValueError("cannot read it")]

    def slim(found: Any) -> Any:
        if found["metadata"]["name"] == "odd" and faults:
            raise faults.pop()
        return found

    api = ScriptedApi([page(10, pod("a", 5)), page(20, pod("odd", 12))], [added("odd", 12), HOLD])
    async with Running(api, slim=slim) as running:
        await until(lambda: running.names == {"odd"})
        assert running.changes[-2:] == [("a", False), ("odd", True)]
    assert "cannot read it" in caplog.text


async def test_a_fault_of_a_listener_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    """Nor does it lose what the listener was to be told of."""
    api = ScriptedApi([page(10), page(20, pod("a", 12))], [added("a", 12), HOLD])
    running = Running(api)
    faults = [RuntimeError("a fault")]

    def listener(*_: object) -> None:
        if faults:
            raise faults.pop()

    running.watch.on_change.append(listener)
    async with running:
        await until(lambda: len(api.watched) == 2)
        assert running.names == {"a"}
    assert "a fault" in caplog.text


async def test_nonsense_in_the_stream() -> None:
    """An object without what every object has is a fault, and everything is listed anew."""
    api = ScriptedApi([page(10), page(20, pod("a", 12))], [("ADDED", {"kind": "Pod"}), HOLD])
    async with Running(api) as running:
        await until(lambda: running.names == {"a"})


async def test_pages_that_expire() -> None:
    """A list whose rest is too old begins anew; what is half known is not believed."""
    api = ScriptedApi(
        [
            page(5, pod("a", 1), pod("b", 2)),
            page(10, pod("a", 1), more="x"),
            EXPIRED,
            page(30, pod("b", 2)),
        ],
        EXPIRED,
    )
    async with Running(api) as running:
        await until(lambda: running.names == {"b"})
        gone = [change for change in running.changes if not change[1]]
        assert gone == [("a", False)]


# --- what a request of our own has brought


async def test_taken_before_the_watch_brings_it() -> None:
    """It is known at once; that the watch brings it later, or an older state of it, is no news."""
    api = ScriptedApi([page(10)])
    async with Running(api) as running:
        await until(lambda: api.watched)
        running.watch.take(pod("a", 12, state="new"))
        running.watch.take(pod("a", 11, state="old"))
        (found,) = running.watch.objects.values()
        assert found["state"] == "new"


async def test_taken_after_the_watch_saw_it_go() -> None:
    """An answer that was long on its way does not bring an object back that is gone."""
    api = ScriptedApi([page(10)], [added("a", 12), deleted("a", 13), HOLD])
    async with Running(api) as running:
        await until(lambda: len(running.changes) == 2)
        running.watch.take(pod("a", 12))
        assert running.names == set()
        running.watch.take(pod("a", 14, uid="another"))
        assert running.names == {"a"}


async def test_taken_while_a_list_is_on_its_way() -> None:
    """A list that was read before an object was made says nothing of it; of an older one it does.

    Nor of one that was taken before the list was asked for: versions may begin anew with a backup.
    """
    running: Running

    def meanwhile() -> Any:
        running.watch.take(pod("new", 31))
        running.watch.take(pod("old", 29))
        running.watch.take(pod("changed", 32, state="new"))
        return page(30, pod("changed", 12, state="old"))

    api = ScriptedApi([page(10), meanwhile], [added("before", 90), EXPIRED])
    running = Running(api)
    async with running:
        await until(lambda: len(api.watched) == 2)
        assert running.names == {"new", "changed"}
        assert running.watch.objects["people", "changed"]["state"] == "new"


async def test_slim_is_what_is_kept() -> None:
    """Of what is listed, watched and taken."""
    api = ScriptedApi([page(10, pod("a", 5, secret="x"))], [added("b", 11, secret="x"), HOLD])

    def slim(found: Any) -> Any:
        return {"metadata": found["metadata"]}

    async with Running(api, slim=slim) as running:
        await until(lambda: running.names == {"a", "b"})
        running.watch.take(pod("c", 12, secret="x"))
        assert "secret" not in str(running.watch.objects)


# --- waiting


async def test_waiting_for_a_change() -> None:
    """Who waits for one object is woken by it alone; by any, by all; and by trouble."""
    api = ScriptedApi([page(10)])
    async with Running(api) as running:
        watch = running.watch
        await until(lambda: api.watched)
        mine = asyncio.ensure_future(watch.changed(("people", "mine")))
        any_ = asyncio.ensure_future(watch.changed())
        await asyncio.sleep(0)
        watch.take(pod("other", 11))
        await asyncio.wait_for(any_, 1)
        assert not mine.done()
        watch.take(pod("mine", 12))
        await asyncio.wait_for(mine, 1)
        await asyncio.wait_for(watch.changed(("people", "mine"), 0.01), 1)
        assert watch._waiting == {}


async def test_settled() -> None:
    """It waits for the first list, and no longer than it was told."""
    api = ScriptedApi([SILENCE, SILENCE, page(10)])
    async with Running(api) as running:
        assert await running.watch.settled(5)
    never = Watch(ScriptedApi([SILENCE]), PATH, LOG)  # type: ignore[arg-type]
    assert not await never.settled(0.02)
    assert not never.known
