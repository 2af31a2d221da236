"""Clusters on Kubernetes: a scheduler or worker is one pod, and one watch follows them all.

A pod has its name before Kubernetes hears of it, and no other pod ever has that name: a request
whose reply was lost is sent again, and makes nothing twice.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

from traitlets.config import LoggingConfigurable

from qhub_gateway import kubernetes_manifest as manifest
from qhub_gateway import kubernetes_states as states
from qhub_gateway.batching import batches
from qhub_gateway.errors import (
    HostRefusedError,
    QHubGatewayError,
    StartRefusedError,
    TargetSilentError,
)
from qhub_gateway.kubernetes_config import GatewayKubernetes
from qhub_gateway.kubernetes_jobs import Jobs
from qhub_gateway.kubernetes_logs import Logs
from qhub_gateway.targets.target import ClusterSpec, JobRef, State, Target, WorkerSpec
from qhub_spawner.errors import (
    KubernetesError,
    KubernetesRefusedError,
    KubernetesUnavailableError,
    shown,
)
from qhub_spawner.kubernetes import creating, names, words
from qhub_spawner.kubernetes.api import KubernetesApi
from qhub_spawner.kubernetes.patience import Patience
from qhub_spawner.kubernetes.pod_spawner import PersonalPods
from qhub_spawner.kubernetes.watching import Watch
from qhub_spawner.launch import StartFailedError

Json = Mapping[str, Any]

_MOST_TOGETHER = 100
_FEW = 2
# for what has nothing left to do; whom others end has the time that its pod says
_GRACE_SECONDS = 3
_GATHER_SECONDS = 0.1
_TEND_SECONDS = 2.0
_ATTEMPTS = 4
_FIRST_PAUSE_SECONDS = 0.25


class _NoRoomError(QHubGatewayError):
    """The namespace's quota has no room for a pod now; the text says what it lacks."""


class KubernetesTarget(Target):
    """Kubernetes, as `GatewayKubernetes` is configured."""

    name: ClassVar[str] = "kubernetes"
    repeatable: ClassVar[bool] = True

    def __init__(
        self,
        *,
        parent: LoggingConfigurable,
        gateway_id: str,
        recorded: Callable[[], Collection[str]] | None = None,
    ) -> None:
        """Read the configuration; nothing is asked of Kubernetes before `open`.

        Args:
            parent: With the configuration.
            gateway_id: What its pods carry.
            recorded: Returns the names of all jobs on record; pods of no job are then ended.
        """
        self.backend = GatewayKubernetes(parent=parent, hub_id=gateway_id)
        self.log = self.backend.log
        self.place = self.backend.place
        if recorded is not None:
            self.backend.on_record = recorded
        else:
            self.backend.end_orphans = False
        self.jobs = Jobs(self.backend)
        self._clearing: dict[str, JobRef] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._requests = asyncio.Semaphore(self.backend.parallel_requests)
        self.logs: Logs

    @property
    def api(self) -> KubernetesApi:
        """How Kubernetes is spoken to."""
        return self.backend.api

    @property
    def watch(self) -> Watch:
        """Who follows the pods."""
        return self.backend.watch_pods

    @property
    def namespace(self) -> str:
        """Where the pods are."""
        return self.backend.namespace or ""

    async def open(self) -> None:
        """See `Target.open`.

        Raises:
            ConfigurationError: The cluster's address is not known, or everybody has a namespace.
        """
        self.backend.check(())
        await self.backend.open()
        self.backend.reaper.live = lambda: [manifest.spawn_of(name) for name, _ in self.jobs]
        self.jobs.open()
        self.logs = Logs(self.api, self.namespace, self.jobs, self._requests)
        self._tasks = [asyncio.ensure_future(self._tend())]

    async def close(self) -> None:
        """See `Target.close`."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.backend.close()

    # ---- starting ----

    def plan_scheduler(self, cluster: ClusterSpec) -> JobRef:
        """See `Target.plan_scheduler`."""
        name = manifest.numbered(self.backend.hub_id, names.new_spawn_id())
        return JobRef(name, user=cluster.request.owner.name)

    def plan_workers(
        self, cluster: ClusterSpec, names: Sequence[str]
    ) -> Sequence[Sequence[WorkerSpec]]:
        """See `Target.plan_workers`: a pod each, and what has become of them noted by the 100."""
        return [
            [WorkerSpec(name, self.plan_scheduler(cluster)) for name in part]
            for part in batches(names, _MOST_TOGETHER)
        ]

    async def start_scheduler(self, cluster: ClusterSpec, ref: JobRef) -> JobRef:
        """See `Target.start_scheduler`: a pod, and the secret that it waits for."""
        pods, base = await self._base(cluster)
        pod = manifest.scheduler_pod(cluster, ref, base, self.place)
        try:
            made = await self._made(ref, pod, pods)
        except _NoRoomError as error:
            raise TargetSilentError(str(error)) from error
        owned = {"secrets": manifest.secret(cluster, self.place, made)}
        if self.backend.isolate:
            owned["networkpolicies"] = manifest.policy(cluster, self.place, made)
        replacing = (
            creating.replace(self.api, self.namespace, kind, each) for kind, each in owned.items()
        )
        try:
            await asyncio.gather(*replacing)
        except KubernetesUnavailableError as error:
            raise TargetSilentError(str(error)) from error
        except KubernetesRefusedError as error:
            await self._undo([ref])
            raise StartRefusedError(_sentence(words.refusal_words(error.document))) from error
        return ref

    async def start_workers(
        self, cluster: ClusterSpec, workers: Sequence[WorkerSpec]
    ) -> Sequence[JobRef]:
        """See `Target.start_workers`: some at a time; what there is no room for waits."""
        pods, base = await self._base(cluster)
        refs = {worker.name: worker.ref for worker in workers}
        made = manifest.worker_pods(cluster, refs, base, self.place)
        full = ""

        async def make(ref: JobRef, pod: Json) -> None:
            nonlocal full
            if self.jobs.is_there(ref.name):
                return
            async with self._requests:
                if full:
                    self.jobs.waits(ref.name, full)
                    return
                try:
                    await self._made(ref, pod, pods)
                except _NoRoomError as error:
                    full = str(error)

        done = await asyncio.gather(
            *(make(ref, pod) for ref, pod in made.items()), return_exceptions=True
        )
        failed = [each for each in done if each is not None]
        refused = [each for each in failed if isinstance(each, StartRefusedError)]
        if refused:
            await self._undo(list(refs.values()))
            raise refused[0]
        unclear = [each for each in failed if not isinstance(each, TargetSilentError)]
        if unclear:
            raise unclear[0]
        if failed or full:
            there = [ref.name for ref in refs.values() if self.jobs.is_there(ref.name)]
            raise TargetSilentError(full or str(failed[0]), started=there)
        return list(refs.values())

    async def _base(self, cluster: ClusterSpec) -> tuple[PersonalPods, Json]:
        """Return the person's pod as ``c.KubeSpawner`` and the profile's traits describe it."""
        owner, block = cluster.request.owner, cluster.request.profile.kubernetes
        if block is not None and block.spot and not self.backend.spot_pool:
            msg = "The profile asks for spot nodes, and c.KubernetesBackend.spot_pool names none."
            raise StartRefusedError(msg)
        pods = PersonalPods.of(self.backend.config, owner.name, owner.groups, self.log)
        try:
            pods.apply(block.kubespawner if block is not None else {})
            return pods, await pods.pod()
        except StartFailedError as error:
            raise StartRefusedError(error.words) from error

    async def _made(self, ref: JobRef, pod: Json, pods: PersonalPods) -> Json:
        """Create a pod, or find that an earlier request has; try again what the moment spoils.

        Raises:
            StartRefusedError: Kubernetes says no.
            TargetSilentError: It does not answer.
            _NoRoomError: The quota has no room now.
        """
        hooked = await pods.hooked(dict(pod))
        kept = {key: pod["metadata"][key] for key in ("name", "labels")}
        hooked["metadata"] = {**hooked["metadata"], **kept}
        job = self.jobs.asked(ref.name)
        patience, pause = Patience(), _FIRST_PAUSE_SECONDS
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                made = await self._create(ref, hooked)
            except KubernetesRefusedError as error:
                passing = error.reason == "Conflict" or patience.with_(error)
                if not passing or attempt == _ATTEMPTS:
                    raise self._refusal(ref, error) from error
            except KubernetesUnavailableError as error:
                if attempt == _ATTEMPTS:
                    raise TargetSilentError(str(error)) from error
            else:
                job.unsure = False
                self.watch.take(made)
                return made
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - not all at once
            pause *= 2
        raise AssertionError("the last attempt returns or raises")

    async def _create(self, ref: JobRef, pod: Json) -> Json:
        while True:
            try:
                return await self.api.create("pods", self.namespace, pod)
            except KubernetesRefusedError as error:
                if error.reason != "AlreadyExists":
                    raise
            there = await self.api.get("pods", self.namespace, ref.name)
            if there is not None:
                if names.spawn_of(there) != manifest.spawn_of(ref.name):
                    raise StartRefusedError(f"A pod {ref.name} of somebody else is in the way.")
                return there

    def _refusal(self, ref: JobRef, error: KubernetesRefusedError) -> QHubGatewayError:
        quota = words.quota_words(error.document)
        if quota:
            self.jobs.waits(ref.name, _sentence(quota))
            return _NoRoomError(_sentence(quota))
        self.jobs.forget(ref.name)
        self.log.warning("pod %s is refused: %s", ref.name, error)
        return StartRefusedError(_sentence(words.refusal_words(error.document)))

    async def _undo(self, refs: Sequence[JobRef]) -> None:
        """End what was made of a start that is refused; what cannot be ended is an orphan."""
        made = [ref for ref in refs if self.jobs.is_there(ref.name)]
        try:
            await self.stop(made)
        except TargetSilentError as error:
            self.log.warning("pods of a start that was refused are not ended yet: %s", error)
        self.forget(refs)

    async def find(self, refs: Sequence[JobRef]) -> Sequence[JobRef] | None:
        """See `Target.find`."""
        found = False
        for ref in refs:
            try:
                there = await self.api.get("pods", self.namespace, ref.name)
            except KubernetesError as error:
                raise TargetSilentError(str(error)) from error
            self.jobs.follow(ref.name).unsure = False
            if there is not None:
                self.watch.take(there)
                found = True
        return list(refs) if found else None

    # ---- following ----

    def follow(self, ref: JobRef) -> None:
        """See `Target.follow`."""
        self.jobs.follow(ref.name)

    def state(self, ref: JobRef) -> State:
        """See `Target.state`."""
        return self.jobs.state(ref.name)

    async def changed(self) -> None:
        """See `Target.changed`: changes come many at a time, and are told together."""
        await self.watch.changed()
        await asyncio.sleep(_GATHER_SECONDS)

    async def check_host(self, ref: JobRef, host: str) -> None:
        """See `Target.check_host`: an address of the pod."""
        try:
            pod = await self.api.get("pods", self.namespace, ref.name)
        except KubernetesError as error:
            raise TargetSilentError(str(error)) from error
        found = states.addresses_of(pod or {})
        if not found:
            raise TargetSilentError("Kubernetes does not say now where the scheduler runs")
        if states.plain_address(host) not in found:
            accepted = ", ".join(sorted(found))
            raise HostRefusedError(f"{shown(host)} is no address of its pod (accepted: {accepted})")

    # ---- stopping ----

    async def stop(self, refs: Collection[JobRef]) -> None:
        """See `Target.stop`: one request for each hundred pods that are known to be there."""
        together, alone = [], []
        for ref in refs:
            job = self.jobs.follow(ref.name)
            job.stopping, job.waits, job.state = True, "", None
            if job.there and job.pod is not None:
                if not job.pod.deleting:
                    together.append(ref)
            elif job.unsure or not self.watch.known:
                alone.append(ref)
        if len(together) <= _FEW:
            alone, together = [*alone, *together], []
        asked = [self._delete(ref) for ref in alone]
        asked += [self._delete_all(part) for part in batches(together, _MOST_TOGETHER)]
        failed = [each for each in await asyncio.gather(*asked) if each is not None]
        if failed:
            raise TargetSilentError(str(failed[0])) from failed[0]

    async def _delete(self, ref: JobRef) -> KubernetesError | None:
        try:
            async with self._requests:
                there = await self.api.delete(
                    "pods", self.namespace, ref.name, grace=_GRACE_SECONDS
                )
        except KubernetesError as error:
            return error
        job = self.jobs.get(ref.name)
        if not there and job is not None:
            job.unsure, job.state = False, None
            self.watch.wake(None)
        return None

    async def _delete_all(self, refs: Sequence[JobRef]) -> KubernetesError | None:
        selector = manifest.selector_of(self.backend.hub_id, refs)
        try:
            async with self._requests:
                await self.api.delete_all("pods", self.namespace, selector, grace=_GRACE_SECONDS)
        except KubernetesError as error:
            return error
        return None

    def forget(self, refs: Collection[JobRef]) -> None:
        """See `Target.forget`; pods that are over are deleted, in the background."""
        for ref in refs:
            job = self.jobs.forget(ref.name)
            if job is not None and job.there and job.pod is not None and job.pod.over:
                self._clearing[ref.name] = ref

    # ---- tending ----

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(_TEND_SECONDS)
            try:
                await self._give_up_stuck()
                await self._clear_away()
            except TargetSilentError as error:
                self.log.warning("pods are not deleted yet: %s", error)
            except Exception:
                self.log.exception("looking after pods failed")

    async def _give_up_stuck(self) -> None:
        """End what cannot start as things are, after some patience; it may be tried anew."""
        now, given_up = time.monotonic(), []
        for name, job in self.jobs:
            why = self.jobs.stuck(job)
            if why is None:
                job.stuck_since = None
            elif job.stuck_since is None:
                job.stuck_since = now
            elif now - job.stuck_since > self.backend.stuck_patience:
                job.given_up = f"it could not start: {why}"
                given_up.append(JobRef(name))
        if given_up:
            self.log.warning("%d pods cannot start as things are; deleting them", len(given_up))
            await self.stop(given_up)

    async def _clear_away(self) -> None:
        """Delete pods that are over; the end of their logs is kept for a while."""
        refs, self._clearing = list(self._clearing.values()), {}
        for part in batches(refs, _MOST_TOGETHER):
            for ref in part:
                await self.logs.keep(ref)
            error = await self._delete_all(part)
            if error is not None:
                self._clearing |= {ref.name: ref for ref in part}
                raise TargetSilentError(str(error)) from error

    # ---- logs ----

    async def keep_logs(self, refs: Sequence[JobRef]) -> None:
        """See `Target.keep_logs`: a pod's log is deleted with it."""
        await self.logs.keep_running(refs)

    async def read_log(
        self, cluster: ClusterSpec, worker: str | None, ref: JobRef, most_bytes: int
    ) -> str:
        """See `Target.read_log`; of pods that are deleted it is kept for a while."""
        del cluster, worker
        try:
            return await self.logs.read(ref, most_bytes)
        except KubernetesRefusedError as error:
            raise TargetSilentError(_sentence(words.refusal_words(error.document))) from error


def _sentence(text: str) -> str:
    return creating.sentence(states.plain(text))
