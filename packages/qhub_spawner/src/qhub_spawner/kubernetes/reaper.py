"""Ends pods of this hub that no server owns: nothing is left running after a crash."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection

from qhub_spawner.errors import KubernetesError
from qhub_spawner.kubernetes.api import KubernetesApi
from qhub_spawner.kubernetes.names import record_name, spawn_of
from qhub_spawner.kubernetes.pods import Pod
from qhub_spawner.kubernetes.watching import Watch

_PACE_SECONDS = 5.0
_GRACE_SECONDS = 10


class Reaper:
    """Compares the watched pods with what the hub owns.

    Attributes:
        recorded: The names of all starts that the hub's database holds; asked before anything ends.
        live: The spawn ids of all servers that this hub has at hand.
    """

    def __init__(
        self,
        api: Callable[[], KubernetesApi],
        watch: Watch,
        hub_id: str,
        log: logging.Logger,
        *,
        patience_seconds: float = 20.0,
        end_orphans: bool = True,
        owner: str = "server",
        keep_over: bool = False,
    ) -> None:
        """Nothing happens before `run`.

        Args:
            api: Gives the door.
            watch: Of this hub's pods.
            hub_id: Whose pods are meant.
            log: Where each orphan is named.
            patience_seconds: How long a pod must stand without an owner.
            end_orphans: Whether to delete, or only to log.
            owner: What a pod belongs to, for the log.
            keep_over: Whether pods that are over stay, for whoever wants to look into them.
        """
        self.api = api
        self.watch = watch
        self.hub_id = hub_id
        self.log = log
        self.patience_seconds = patience_seconds
        self.end_orphans = end_orphans
        self.owner = owner
        self.keep_over = keep_over
        self.recorded: Callable[[], Collection[str]] = frozenset
        self.live: Callable[[], Collection[str]] = frozenset
        self.ended = 0
        self._seen: dict[str, float] = {}

    async def run(self) -> None:
        """Look every few seconds, while what is known is current; cancel to end."""
        while True:
            await asyncio.sleep(_PACE_SECONDS)
            if not self.watch.current:
                continue
            try:
                await self.look()
            except Exception:
                self.log.exception("looking for pods without a %s failed", self.owner)

    async def look(self) -> None:
        """Delete what has stood without an owner for long enough."""
        now, live = time.monotonic(), set(self.live())
        # of thousands of pods only those are read that no server owns
        others = (found for found in self.watch.objects.values() if spawn_of(found) not in live)
        orphans = {
            pod.uid: pod
            for pod in map(Pod.of, others)
            if pod.uid and pod.hub_id == self.hub_id and not pod.deleting
            if not (self.keep_over and pod.over)
        }
        self._seen = {uid: self._seen.get(uid, now) for uid in orphans}
        due = [uid for uid, seen in self._seen.items() if now - seen >= self.patience_seconds]
        recorded = self.recorded() if due else ()
        for uid in due:
            pod = orphans[uid]
            if record_name(self.hub_id, pod.spawn_id) in recorded:
                continue
            if not self.end_orphans:
                self.log.warning("pod %s of %s has no %s", pod.name, pod.user, self.owner)
                continue
            said = "deleting pod %s of %s: no %s owns it"
            self.log.warning(said, pod.name, pod.user, self.owner)
            try:
                await self.api().delete(
                    "pods", pod.namespace, pod.name, uid=uid, grace=_GRACE_SECONDS
                )
                self.ended += 1
            except KubernetesError as error:
                self.log.warning("pod %s is not deleted yet: %s", pod.name, error)
