"""What the options page shows of the cluster: one cache for all, filled while somebody looks.

From the namespace's quotas, which are asked for at most once an interval; and, where the hub may,
from nodes and pods, each by a watch that begins with the first look. See
``c.KubernetesBackend.availability_from``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from qhub_spawner.availability import Availability
from qhub_spawner.errors import KubernetesError
from qhub_spawner.kubernetes.api import collection
from qhub_spawner.kubernetes.capacity import (
    Cluster,
    Request,
    availability_of,
    combined,
    quota_availability,
)
from qhub_spawner.kubernetes.manifest import completed
from qhub_spawner.kubernetes.nodes import Node
from qhub_spawner.kubernetes.pod_spawner import PersonalPods
from qhub_spawner.kubernetes.pods import Pod
from qhub_spawner.kubernetes.slimming import slim, slim_node
from qhub_spawner.kubernetes.watching import Key, Watch
from qhub_spawner.profiles import Profile
from qhub_spawner.resources import KubernetesBlock

if TYPE_CHECKING:
    from qhub_spawner.kubernetes.backend import KubernetesBackend

_PATIENCE_SECONDS = 5.0
_SILENT = "Kubernetes does not say now what is free"
_NO_ANSWER = "no answer from Kubernetes yet"
_NOT_KNOWN = "what it takes is not known before it starts"


class Views:
    """The page's cache.

    Attributes:
        tasks: What runs in the background.
    """

    def __init__(self, backend: KubernetesBackend) -> None:
        """Nothing is asked before somebody looks."""
        self.backend = backend
        self.tasks: list[asyncio.Task[None]] = []
        self._nodes: Watch | None = None
        self._pods: Watch | None = None
        self._quotas: list[Mapping[str, Any]] | None = None
        self._asked_at = 0.0
        self._asking: asyncio.Task[None] | None = None
        self._problem: str | None = None
        self._read_at: datetime | None = None
        self._requests: dict[str, tuple[Profile, Request | None]] = {}
        self._cluster: tuple[float, Cluster] | None = None
        self._read: dict[Key, Pod] = {}

    async def look(
        self, profiles: tuple[Profile, ...], *, now: datetime
    ) -> Mapping[str, Availability]:
        """Return what each profile meets now, by slug; waits at most 5 s, for a first answer."""
        source = self.backend.availability_from
        if source == "off":
            return {profile.slug: Availability(as_of=now) for profile in profiles}
        if source == "nodes":
            return await self._by_nodes(profiles, now)
        await self._ask_for_quotas(now)
        nothing = Availability(stale=True, problem=self._problem or _NO_ANSWER)
        found = {}
        for profile in profiles:
            request = await self._request(profile)
            unknown = Availability(as_of=now, problem=_NOT_KNOWN)
            found[profile.slug] = self._quota(request) or nothing if request else unknown
        return found

    async def _request(self, profile: Profile) -> Request | None:
        """Return what a server of a profile takes; ``None`` where that cannot be worked out."""
        known = self._requests.get(profile.slug)
        if known is None or (known[0] is not profile and known[0] != profile):
            known = self._requests[profile.slug] = profile, await self._worked_out(profile)
        return known[1]

    async def _worked_out(self, profile: Profile) -> Request | None:
        """Make the pod that a start would make, but for what depends on the person."""
        block = profile.kubernetes or KubernetesBlock()
        try:
            pods = PersonalPods.of_nobody(self.backend.config, self.backend.log)
            pods.apply(block.kubespawner)
            pods.fit(profile)
            base = await pods.pod()
        except Exception as error:  # noqa: BLE001 - functions of a configuration raise anything
            self.backend.log.warning(
                "what a server of the profile %s takes is not known: c.KubeSpawner and the profile "
                "make no pod of nobody: %s: %s",
                *(profile.slug, type(error).__name__, error),
            )
            return None
        pod = completed(base, profile, user="somebody", settings=self.backend.settings)
        return Request.of(pod, gpu_resource=block.gpu_resource)

    # ---- quota

    async def _ask_for_quotas(self, now: datetime) -> None:
        """Have quotas that are not older than an interval on their way; wait for the first."""
        age = time.monotonic() - self._asked_at
        asking = self._asking is not None and not self._asking.done()
        if not asking and (not self._asked_at or age > self.backend.view_interval):
            self._asked_at = time.monotonic()
            self._asking = asyncio.ensure_future(self._ask_quotas(now))
        if self._quotas is None and self._asking is not None:
            await asyncio.wait([self._asking], timeout=_PATIENCE_SECONDS)

    def _quota(self, request: Request) -> Availability | None:
        """Return what the quotas leave; ``None`` where they are not known."""
        if self._quotas is None:
            return None
        stale = self._problem is not None
        return quota_availability(request, self._quotas, as_of=self._read_at, stale=stale)

    async def _ask_quotas(self, now: datetime) -> None:
        namespace = self.backend.namespace
        if namespace is None:  # everybody has a namespace: there is no quota of all
            self._quotas, self._read_at = [], now
            return
        try:
            answer = await self.backend.api.request("GET", collection("resourcequotas", namespace))
        except KubernetesError as error:
            if self._problem is None:
                self.backend.log.warning("the quotas of %s are not known: %s", namespace, error)
            self._problem = _SILENT
            return
        self._quotas, self._read_at, self._problem = list(answer.get("items") or ()), now, None

    # ---- nodes

    async def _by_nodes(
        self, profiles: tuple[Profile, ...], now: datetime
    ) -> Mapping[str, Availability]:
        nodes, pods = self._watches()
        first = [] if nodes.known and pods.known else [nodes, pods]
        await asyncio.gather(
            self._ask_for_quotas(now), *(watch.settled(_PATIENCE_SECONDS) for watch in first)
        )
        if not (nodes.known and pods.known):
            nothing = Availability(stale=True, problem=_SILENT)
            return {profile.slug: nothing for profile in profiles}
        cluster = self._grouped(nodes)
        stale = not (nodes.current and pods.current)
        found = {}
        for profile in profiles:
            request = await self._request(profile)
            if request is None:
                found[profile.slug] = Availability(as_of=now, problem=_NOT_KNOWN)
                continue
            view = availability_of(
                request,
                cluster,
                as_of=now,
                scalable=self.backend.pools,
                stale=stale,
            )
            quota = self._quota(request)
            found[profile.slug] = view if quota is None else combined(view, quota)
        return found

    def _grouped(self, nodes: Watch) -> Cluster:
        """Work out at most once a second what everybody then sees."""
        if self._cluster is None or time.monotonic() - self._cluster[0] > 1:
            cluster = Cluster.of(map(Node.of, nodes.objects.values()), self._read.values())
            self._cluster = time.monotonic(), cluster
        return self._cluster[1]

    def _pod_changed(self, key: Key, found: Mapping[str, Any] | None) -> None:
        """Read a pod once for each change, not at each look: there may be thousands."""
        if found is None:
            self._read.pop(key, None)
        else:
            self._read[key] = Pod.of(found)

    def _watches(self) -> tuple[Watch, Watch]:
        if self._nodes is None or self._pods is None:
            api, log = self.backend.api, self.backend.log
            self._nodes = Watch(api, collection("nodes", None), log, slim=slim_node)
            running = "status.phase!=Succeeded,status.phase!=Failed"
            self._pods = Watch(api, collection("pods", None), log, fields=running, slim=slim)
            self._pods.on_change.append(self._pod_changed)
            self.tasks = [asyncio.ensure_future(watch.run()) for watch in (self._nodes, self._pods)]
        return self._nodes, self._pods
