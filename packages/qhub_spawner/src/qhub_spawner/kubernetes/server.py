"""One server as one pod: its start, its waiting, its end."""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from qhub_spawner.errors import KubernetesError
from qhub_spawner.kubernetes import creating, ending, manifest, names, words
from qhub_spawner.kubernetes.creating import sentence
from qhub_spawner.kubernetes.enduring import Endurance
from qhub_spawner.kubernetes.pod_spawner import PodSpawner
from qhub_spawner.kubernetes.pods import Pod
from qhub_spawner.launch import (
    BackendServer,
    Ended,
    Launch,
    NoCapacityError,
    Progress,
    ServerAddress,
    StartFailedError,
    StopFailedError,
)

if TYPE_CHECKING:
    from qhub_spawner.kubernetes.backend import KubernetesBackend

STATE_VERSION = 1
_CONNECT_SECONDS = 0.05
_LONGEST_CONNECT_SECONDS = 0.5
_LEAST_GRACE_SECONDS = 1.0
_WAITING_SECONDS = 2.0  # a change wakes it at once; this is for what only time brings


class KubernetesServer(BackendServer):
    """A single-user server in a pod."""

    def __init__(self, backend: KubernetesBackend, owner: Any) -> None:
        """Belong to `owner`, the hub's spawner; nothing is asked of Kubernetes yet."""
        self.backend = backend
        self.owner = owner
        self.log = owner.log
        self.name = ""
        self.namespace = ""
        self.pod_name = ""
        self.spawn_id = ""
        self.uid: str | None = None
        self.granted = words.Granted()
        self.grace_seconds = 10.0
        self.address: ServerAddress | None = None
        self._pods: PodSpawner | None = None
        self._creating: asyncio.Task[None] | None = None
        self._last: Pod | None = None
        self._seen: Mapping[str, Any] | None = None
        self._ended: Ended | None = None
        self._step = Progress("Asking Kubernetes for your server.", 5)
        self._steps = asyncio.Event()
        self._restored = False
        self.stopping = False
        self._alternatives = False

    @property
    def pods(self) -> PodSpawner:
        """KubeSpawner's traits for this server."""
        if self._pods is None:
            self._pods = PodSpawner.beside(self.owner)
            if self._restored:
                self._pods.pod_name, self._pods.namespace = self.pod_name, self.namespace
        return self._pods

    # ---- start ----

    async def start(self, launch: Launch) -> ServerAddress:
        """See `BackendServer.start`. The pod's name is on record before Kubernetes hears of it."""
        self._forget_last()
        profile = launch.selection.profile
        # with no grace at all Kubernetes would forget a pod whose processes may still run
        self.grace_seconds = max(_LEAST_GRACE_SECONDS, launch.grace_seconds)
        self._alternatives = launch.alternatives
        self.granted = words.Granted(str(profile.memory or ""), str(profile.walltime or ""))
        pod = await self.prepared(launch)
        creating.take_name(self)
        self.owner.persist()
        self._creating = asyncio.ensure_future(self._create(pod))
        self._creating.add_done_callback(lambda task: task.cancelled() or task.exception())
        # a cancelled start must not lose the pod: stop waits for the request, and ends what it made
        await asyncio.shield(self._creating)
        self._note()
        return await self._until_up()

    def _forget_last(self) -> None:
        self.address, self.uid, self._last, self._ended = None, None, None, None
        self._seen = None
        self.stopping = self._restored = False

    async def prepared(self, launch: Launch) -> dict[str, Any]:
        """Name the start, and return the pod that will be submitted; nothing is asked for yet."""
        self._pods = None
        pods = self.pods
        profile = launch.selection.profile
        if profile.kubernetes is not None:
            pods.apply(profile.kubernetes.kubespawner)
        pods.fit(profile)
        self.namespace, self.pod_name = pods.namespace, pods.pod_name
        self.spawn_id = names.new_spawn_id()
        self.name = names.record_name(self.backend.hub_id, self.spawn_id)
        base = manifest.with_choice(await self.pods.pod(), profile.slug)
        pod = manifest.completed(
            base,
            profile,
            user=launch.user,
            identity=launch.identity,
            labels=names.labels(self.backend.hub_id, self.spawn_id),
            annotations=names.owner_annotations(launch.user, launch.server_name),
            settings=self.backend.settings,
        )
        pod = await self.pods.hooked(pod)
        # whatever a hook does, the hub must find its pod again
        return manifest.merged(  # type: ignore[no-any-return]
            pod,
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": self.pod_name,
                    "labels": names.labels(self.backend.hub_id, self.spawn_id),
                },
            },
        )

    async def _create(self, pod: dict[str, Any]) -> None:
        """Create the pod and what belongs to it, once, however often replies are lost.

        Raises:
            StartFailedError: Kubernetes refused it; says why.
        """
        created = await creating.ask_for(self, pod)
        self.uid = created["metadata"]["uid"]
        self.backend.watch_pods.take(created)
        try:
            for kind, dependant in self.pods.dependants(created):
                await creating.replace(self.backend.api, self.namespace, kind, dependant)
        except KubernetesError as error:
            msg = f"What belongs to the server's pod could not be made: {error}"
            raise StartFailedError(msg) from error
        hook = self.pods.after_pod_created_hook
        if hook:
            done = hook(self.pods, created)
            if inspect.isawaitable(done):
                await done

    async def _until_up(self) -> ServerAddress:
        """Wait until the server in the pod listens."""
        ran_since: float | None = None
        patience = self.backend.capacity_patience if self._alternatives else None
        endurance = Endurance(self.backend.stuck_patience, patience)
        while True:
            pod = await self._look()
            if self._ended is not None or pod is None:
                why = self._ended.words if self._ended else "its pod is gone"
                no_room = pod is not None and words.for_want_of_capacity(pod, self._events())
                kind = NoCapacityError if no_room else StartFailedError
                raise kind(sentence(f"The server did not start: {why}"))
            if pod.running:
                ran_since = ran_since or time.monotonic()
                self.say(f"The server is starting on {pod.node}.", 70)
                address = await self._address()
                if await _listens(address):
                    self.address = address
                    self.say(f"The server is up on {pod.node}; connecting to it.", 90)
                    self._restored = False
                    self._note()
                    return address
                ran = time.monotonic() - ran_since
                if ran > self.backend.startup_timeout:
                    msg = (
                        "The pod runs, but the server in it did not listen within "
                        f"{self.backend.startup_timeout:g} s."
                    )
                    raise StartFailedError(msg)
                pause = min(_LONGEST_CONNECT_SECONDS, max(_CONNECT_SECONDS, ran / 20))
                await self.backend.watch_pods.changed(self.key, pause)
                continue
            ran_since = None
            text, percent = words.waiting_words(pod, self._events(), now=datetime.now(UTC))
            self.say(text, percent)
            endurance.judge(pod, self._events(), text)
            await self.backend.changed(self.key, _WAITING_SECONDS)

    async def _look(self) -> Pod | None:
        """Return the pod as it is now known, ``None`` if it is certain that there is none."""
        found = self.backend.watch_pods.objects.get(self.key)
        if found is not None and names.spawn_of(found) == self.spawn_id:
            pod = self._read(found)
            self.uid = pod.uid or self.uid
            if pod.over:
                self._over(pod)
            return pod
        return await self._confirmed()

    def _read(self, found: Mapping[str, Any]) -> Pod:
        """Read our pod once for each change, not at each look: there may be thousands."""
        if self._last is None or found is not self._seen:
            self._seen, self._last = found, Pod.of(found)
        return self._last

    async def _confirmed(self) -> Pod | None:
        """Ask about a pod that the watch does not have: only Kubernetes' own word ends a server."""
        if not self.backend.watch_pods.known or not self.backend.watch_pods.current:
            return self._last or Pod.of({})
        try:
            found = await self.backend.api.get("pods", self.namespace, self.pod_name)
        except KubernetesError as error:
            self.log.warning("pod %s: %s", self.pod_name, error)
            return self._last or Pod.of({})
        if found is not None and names.spawn_of(found) == self.spawn_id:
            self.backend.watch_pods.take(found)
            pod = self._read(found)
            if pod.over:
                self._over(pod)
            return pod
        self._over(self._last)
        return None

    def _over(self, pod: Pod | None) -> None:
        if self._ended is None:
            code, why = words.ending_words(pod, self._events(), self.granted)
            self._ended = Ended(code, why)

    async def _address(self) -> ServerAddress:
        found: Mapping[str, Any] = self._seen or {}
        if self.pods.get_pod_url:  # the configuration's own function sees the whole pod
            with suppress(KubernetesError):
                found = await self.backend.api.get("pods", *self.key) or found
        parts = urlsplit(self.pods.url_of(found))
        return ServerAddress(parts.hostname or "", parts.port or 80)

    def _events(self) -> list[Mapping[str, Any]]:
        return self.backend.events_of(self.uid)

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name of the pod."""
        return self.namespace, self.pod_name

    def say(self, message: str, percent: int) -> None:
        """Tell the person who waits."""
        step = Progress(message, percent)
        if step != self._step:
            self._step = step
            self._steps.set()
            self._steps = asyncio.Event()

    def _note(self) -> None:
        """Write down what a later hub can also find out by itself."""
        try:
            self.owner.persist()
        except StartFailedError as error:
            self.log.warning("%s", error)

    @property
    def unfinished(self) -> bool:
        """See `BackendServer.unfinished`."""
        return self._restored and self.address is None

    async def resume(self) -> ServerAddress:
        """See `BackendServer.resume`."""
        if not await self.backend.watch_pods.settled(self.backend.answer_timeout):
            self.log.warning("Kubernetes does not answer; %s waits", self.pod_name)
        if await self._look() is None:
            msg = "The hub was restarted before Kubernetes had your server. Start it again."
            raise StartFailedError(msg, status_code=503)
        return await self._until_up()

    # ---- life ----

    async def poll(self) -> Ended | None:
        """See `BackendServer.poll`: answered from the watch, without any request while it lives."""
        if not self.pod_name:
            return Ended(0, "it was not started")
        if self._creating is not None and not self._creating.done():
            return None
        if self._ended is None:
            await self._look()
        if self._ended is not None and not self.stopping:
            self.backend.clear_away(self)
        return self._ended

    @property
    def waits(self) -> bool:
        """See `BackendServer.waits`: its node may be lost for a while."""
        return self._last is not None and not self._last.running and not self._last.over

    def changed(self) -> None:
        """Take notice that the watch has something new of the pod."""
        if self.address is None or self.stopping or self._ended is not None:
            return
        found = self.backend.watch_pods.objects.get(self.key)
        ours = found is not None and names.spawn_of(found) == self.spawn_id
        if found is None or not ours or self._read(found).over:
            self.owner.server_ended()

    # ---- stop ----

    async def stop(self, *, now: bool = False) -> None:
        """See `BackendServer.stop`: the pod's deletion, and Kubernetes' word that it is gone."""
        if not self.pod_name:
            return
        self.stopping = True
        if self._creating is not None:
            await asyncio.wait([self._creating])
        try:
            grace = _LEAST_GRACE_SECONDS if now else self.grace_seconds
            await ending.delete(self, math.ceil(grace))
        except StopFailedError:
            self.stopping = False  # it lives on, as far as anybody knows
            raise
        finally:
            self.release()

    def release(self) -> None:
        """See `BackendServer.release`."""
        if self.backend.live.get(self.key) is self:
            del self.backend.live[self.key]

    # ---- what the person sees ----

    async def progress(self) -> AsyncIterator[Progress]:
        """See `BackendServer.progress`."""
        last = None
        while True:
            if self._step != last:
                last = self._step
                yield last
            if self.address is not None or self.stopping:
                return
            steps = self._steps
            with suppress(TimeoutError):
                await asyncio.wait_for(steps.wait(), 5)

    # ---- across hubs ----

    def state(self) -> dict[str, Any]:
        """See `BackendServer.state`; no secrets."""
        if not self.pod_name:
            return {}
        state: dict[str, Any] = {
            "version": STATE_VERSION,
            "name": self.name,
            "namespace": self.namespace,
            "pod": self.pod_name,
            "spawn": self.spawn_id,
            "uid": self.uid,
            "memory": self.granted.memory,
            "walltime": self.granted.walltime,
            "grace_seconds": self.grace_seconds,
            "alternatives": self._alternatives,
        }
        if self.address is not None:
            state["address"] = {"host": self.address.host, "port": self.address.port}
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `BackendServer.restore`."""
        if "pod" not in state:
            return
        self.name, self.namespace = str(state["name"]), str(state["namespace"])
        self.pod_name, self.spawn_id = str(state["pod"]), str(state["spawn"])
        self.uid = state.get("uid")
        self.granted = words.Granted(state.get("memory", ""), state.get("walltime", ""))
        self._alternatives = state.get("alternatives") is True
        grace = float(state.get("grace_seconds", self.grace_seconds))
        self.grace_seconds = max(_LEAST_GRACE_SECONDS, grace)
        if state.get("address"):
            self.address = ServerAddress(
                str(state["address"]["host"]), int(state["address"]["port"])
            )
        self._restored = True
        self.backend.live[self.key] = self


async def _listens(address: ServerAddress) -> bool:
    """Whether somebody accepts connections there, within a second."""
    try:
        async with asyncio.timeout(1):
            _, writer = await asyncio.open_connection(address.host, address.port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True
