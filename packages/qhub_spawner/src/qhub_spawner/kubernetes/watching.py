"""A list of the API server, kept up to date by one watch for everybody.

The list is asked for once; from there on only changes come. When the connection ends, for whatever
reason, the watch goes on from the last version it has seen, and only a version that the server no
longer knows makes it ask for the list anew. Bookmarks keep the version fresh while nothing happens
(API concepts, "Efficient detection of changes", 1.34).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from qhub_spawner.errors import (
    KubernetesError,
    KubernetesRefusedError,
    KubernetesUnavailableError,
)
from qhub_spawner.kubernetes.api import KubernetesApi

Json = Mapping[str, Any]
Key = tuple[str, str]
"""Namespace and name."""

_PAGE = 500
_LIFE_SECONDS = 300  # a watch ends in good order after five minutes, and goes on at once
_SILENCE_SECONDS = 150.0  # bookmarks come about every minute
_LONGEST_PAUSE_SECONDS = 15.0
_SHORTEST_LIFE_SECONDS = 1.0
_GONE = 410
_PATIENT = 5  # so often a "no" may be one of the moment, e.g. while rights are being changed


class Watch:
    """All objects of one kind, of one namespace or of all.

    Attributes:
        objects: What is known, as `slim` left it.
        problem: Why nothing is known now, or nothing new; ``None`` while the watch runs.
        failures: How often in a row it could not be had.
        refused: Whether that is because the server says no, and has for a while.
    """

    def __init__(
        self,
        api: KubernetesApi,
        path: str,
        log: logging.Logger,
        *,
        labels: str = "",
        fields: str = "",
        bookmarks: bool = True,
        slim: Callable[[Json], Json] = lambda found: found,
    ) -> None:
        """Nothing is asked before `run`.

        Args:
            api: The door.
            path: Of the list.
            log: Where trouble is told.
            labels: A label selector.
            fields: A field selector.
            bookmarks: Whether the server sends any: of events, which it does not cache, it sends
                none, and is silent while nothing happens.
            slim: Takes away what is not needed; what it leaves is kept.
        """
        self.api = api
        self.path = path
        self.log = log
        self.slim = slim
        self.bookmarks = bookmarks
        self.objects: dict[Key, Json] = {}
        self.problem: str | None = "nothing has been asked yet"
        self.failures = 0
        self.refused = False
        self.lists = 0
        self.on_change: list[Callable[[Key, Json | None], None]] = []
        selectors = {"labelSelector": labels, "fieldSelector": fields}
        self._query = {name: text for name, text in selectors.items() if text}
        self._version: str | None = None
        self._waiting: dict[Key | None, set[asyncio.Event]] = {}
        self._heard = 0.0
        self._expired = False
        self._taken: set[Key] = set()

    # ---- what others ask

    @property
    def known(self) -> bool:
        """Whether the whole list has been seen, even if it may be old by now."""
        return self._version is not None or bool(self.lists)

    @property
    def current(self) -> bool:
        """Whether what is known is what Kubernetes says now, as far as can be told."""
        return self.problem is None

    @property
    def silent_seconds(self) -> float:
        """How long ago the server was last heard."""
        return time.monotonic() - self._heard if self._heard else 0.0

    async def changed(self, key: Key | None = None, timeout_seconds: float | None = None) -> None:
        """Wait for the next change of one object (or of any, or of `problem`), or for the time."""
        event = asyncio.Event()
        waiting = self._waiting.setdefault(key, set())
        waiting.add(event)
        try:
            async with asyncio.timeout(timeout_seconds):
                await event.wait()
        except TimeoutError:
            return
        finally:
            waiting.discard(event)
            if not waiting:
                self._waiting.pop(key, None)

    async def settled(self, timeout_seconds: float) -> bool:
        """Wait until the list is known; whether it is."""
        deadline = time.monotonic() + timeout_seconds
        while not self.known and time.monotonic() < deadline:
            await self.changed(None, max(0.0, deadline - time.monotonic()))
        return self.known

    def take(self, found: Json) -> None:
        """Note an object that a request of our own has brought, before the watch does.

        One that the watch has been past already, and does not have, is gone since.
        """
        key = _key(found)
        if key in self.objects or not _up_to(found, self._version):
            self._taken.add(key)
            self._put(key, found)

    # ---- the loop

    async def run(self) -> None:
        """Keep the list; cancel to end. Nothing but a cancellation ends it."""
        while True:
            try:
                if self._version is None:
                    await self._list()
                await self._follow()
                continue
            except KubernetesRefusedError as error:
                if error.status == _GONE:
                    self.log.info("the watch of %s is too far behind; listing anew", self.path)
                    self._version = None
                    if not self._expired:
                        self._expired = True  # at once, but not time and again
                        continue
                self._failed(error)
            except KubernetesUnavailableError as error:
                self._failed(error)
            except Exception as error:  # a fault of ours must not end the watch: it is loud
                self.log.exception("watching %s failed", self.path)
                self._version = None
                self._failed(KubernetesUnavailableError(f"{type(error).__name__}"))
            await asyncio.sleep(self._pause())

    def _pause(self) -> float:
        longest = min(_LONGEST_PAUSE_SECONDS, 0.25 * 2 ** min(self.failures, 10))
        return random.uniform(longest / 2, longest)  # noqa: S311 - so that not all come at once

    def _failed(self, error: KubernetesError) -> None:
        self.failures += 1
        self.refused = isinstance(error, KubernetesRefusedError) and self.failures >= _PATIENT
        if self.problem is None or self.failures == 1:
            self.log.warning("%s is not watched now: %s", self.path, error)
        self.problem = str(error)
        self.wake(None)

    def _works(self) -> None:
        self._heard = time.monotonic()
        if self.problem is not None:
            if self.failures > 1:
                self.log.info("%s is watched again", self.path)
            self.problem, self.refused = None, False
            self.wake(None)

    async def _list(self) -> None:
        found: dict[Key, Json] = {}
        self._taken.clear()
        query = {**self._query, "limit": str(_PAGE)}
        while True:
            page = await self.api.request("GET", self.path, query=query)
            for item in page.get("items") or ():
                found[_key(item)] = self.slim(item)
            metadata = page["metadata"]
            if not metadata.get("continue"):
                break
            query["continue"] = metadata["continue"]
            await asyncio.sleep(0)  # thousands of objects: others get their turn
        self.lists += 1
        self._version = metadata["resourceVersion"]
        # what was taken meanwhile may be newer than the list: that it is not in there says nothing
        gone = [
            key
            for key in self.objects.keys() - found.keys()
            if key not in self._taken or not _beyond(self.objects[key], self._version)
        ]
        self._works()
        for key in gone:
            self._drop(key)
        for key, item in found.items():
            known = self.objects.get(key)
            newer = key in self._taken and known is not None and _older(item, known)
            if known != item and not newer:
                self._keep(key, item)
        self.wake(None)

    async def _follow(self) -> None:
        life = _LIFE_SECONDS + random.randrange(60)  # noqa: S311 - as above
        query = {
            **self._query,
            "resourceVersion": self._version or "",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(life),
        }
        silence = _SILENCE_SECONDS if self.bookmarks else life + _SILENCE_SECONDS
        changes = self.api.watch(self.path, query, silence_seconds=silence)
        began, heard = time.monotonic(), False
        try:
            async for kind, found in changes:
                if kind == "CONNECTED":
                    self._works()
                    continue
                self._heard, heard = time.monotonic(), True
                self.failures, self._expired = 0, False
                self._version = found["metadata"]["resourceVersion"]
                if kind in {"ADDED", "MODIFIED"}:
                    self._put(_key(found), found)
                elif kind == "DELETED":
                    self._drop(_key(found))
        finally:
            # whoever is sent away as soon as they come, comes back less and less often
            short = time.monotonic() - began < _SHORTEST_LIFE_SECONDS
            if not short:
                self.failures, self._expired = 0, False
        if short and not heard:
            raise KubernetesUnavailableError(f"the watch of {self.path} ended as it began")

    # ---- the objects

    def _put(self, key: Key, found: Json) -> None:
        known = self.objects.get(key)
        if known is not None and _older(found, known):
            return
        self._keep(key, self.slim(found))

    def _keep(self, key: Key, item: Json) -> None:
        self.objects[key] = item
        self._tell(key, item)

    def _drop(self, key: Key) -> None:
        self._taken.discard(key)
        if self.objects.pop(key, None) is not None:
            self._tell(key, None)

    def _tell(self, key: Key, item: Json | None) -> None:
        for listener in self.on_change:
            listener(key, item)
        self.wake(key)

    def wake(self, key: Key | None) -> None:
        """Wake who waits for this object, or everybody."""
        keys = [key] if key is not None else list(self._waiting)
        for each in (*keys, None):
            for event in self._waiting.get(each, ()):
                event.set()


def _key(found: Json) -> Key:
    metadata = found["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _up_to(found: Json, version: str | None) -> bool:
    """Whether a watch that is at `version` has been past the object as it was found."""
    try:
        return int(found["metadata"]["resourceVersion"]) <= int(version or "")
    except (KeyError, ValueError):
        return False


def _beyond(found: Json, version: str | None) -> bool:
    """Whether the object is newer than a list of this `version`."""
    try:
        return int(found["metadata"]["resourceVersion"]) > int(version or "")
    except (KeyError, ValueError):
        return False


def _older(new: Json, known: Json) -> bool:
    """Whether `new`, of the same object, was read before `known` was.

    Versions are decimal numbers that grow (API concepts, "Resource versions", 1.34: comparable
    where they are of one kind); one that is not is taken as new.
    """
    if new["metadata"].get("uid") != known["metadata"].get("uid"):
        return False
    try:
        return int(new["metadata"]["resourceVersion"]) < int(known["metadata"]["resourceVersion"])
    except (KeyError, ValueError):
        return False
