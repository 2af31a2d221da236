"""The Kubernetes backend as a hub configures it: ``c.KubernetesBackend.*``."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

from kubernetes_asyncio.client import ApiClient
from kubernetes_asyncio.config import ConfigException
from kubespawner import KubeSpawner
from kubespawner.clients import load_config
from traitlets import Bool, Dict, Enum, Float, List, TraitError, Unicode, validate
from traitlets.config import LoggingConfigurable

from qhub_spawner.availability import Availability
from qhub_spawner.errors import ConfigurationError, KubernetesError, Problem
from qhub_spawner.kubernetes import claims, possible
from qhub_spawner.kubernetes.api import KubernetesApi, collection
from qhub_spawner.kubernetes.event_index import EventIndex
from qhub_spawner.kubernetes.manifest import Settings
from qhub_spawner.kubernetes.names import MANAGER, selector
from qhub_spawner.kubernetes.nodes import ScalablePool
from qhub_spawner.kubernetes.personal import Storage
from qhub_spawner.kubernetes.pod_spawner import PodSpawner
from qhub_spawner.kubernetes.reaper import Reaper
from qhub_spawner.kubernetes.server import KubernetesServer
from qhub_spawner.kubernetes.slimming import slim, slim_event
from qhub_spawner.kubernetes.views import Views
from qhub_spawner.kubernetes.watching import Key, Watch
from qhub_spawner.launch import default_hub_id
from qhub_spawner.profiles import Profile

Json = Mapping[str, Any]


class KubernetesBackend(LoggingConfigurable):
    """Single-user servers as pods, by one watch for the whole hub.

    What a pod looks like is configured as ever, by ``c.KubeSpawner.*``; the namespace, too.
    """

    name: ClassVar[str] = "kubernetes"
    manager: ClassVar[str] = MANAGER
    """The program that its pods are labelled with."""
    owner: ClassVar[str] = "server"
    """What a pod belongs to, for the log."""

    hub_id = Unicode(
        "",
        config=True,
        help="""
        This hub's name in the cluster: 1 to 16 lower-case letters and digits.

        Each pod carries it; pods of this hub that no server owns are deleted. Two hubs in one
        namespace must not share it. Default: derived from the hub's cookie secret, and so lasting
        and different for each hub.

        Example: ``c.KubernetesBackend.hub_id = "prod"``
        """,
    )
    home_volume = Dict(
        config=True,
        help="""
        The volume with everybody's homes, as a pod's volume without its name. Default: none, so
        that homes are what ``c.KubeSpawner.volumes`` and its storage claims make them.

        Example: ``c.KubernetesBackend.home_volume = {"persistentVolumeClaim": {"claimName":
        "homes"}}``
        """,
    )
    home_folder = Unicode(
        "{user}",
        config=True,
        help="""
        The folder of one home in `home_volume`; ``{user}`` is the person's name, ``{home}`` the
        home that their identity names. It must exist. Default: ``{user}``.
        """,
    )
    shared_volume = Dict(
        config=True,
        help="""
        The volume with the groups' shared folders, as a pod's volume without its name; people get
        the folders of the groups that their identity names. Default: none.

        Example: ``c.KubernetesBackend.shared_volume = {"nfs": {"server": "files.example.org",
        "path": "/shared"}}``
        """,
    )
    shared_folder = Unicode(
        "{path}",
        config=True,
        help="""
        The folder of one group in `shared_volume`; ``{path}`` is the group's full path. It must
        exist. Default: ``{path}``.
        """,
    )
    shared_mount = Unicode(
        "/shared/{path}",
        config=True,
        help="""
        Where a group's folder is mounted; ``{path}`` is the group's full path. Default:
        ``/shared/{path}``.
        """,
    )
    spot_pool = Dict(
        config=True,
        help="""
        How to reach the nodes that may be taken away, for profiles with ``spot: true``:
        ``node_selector`` and ``tolerations``. Default: empty, so that such a profile is refused.

        Example: ``c.KubernetesBackend.spot_pool = {"node_selector": {"pool": "spot"},
        "tolerations": [{"key": "spot", "operator": "Exists"}]}``
        """,
    )
    gpu_type_label = Unicode(
        "nvidia.com/gpu.product",
        config=True,
        help="""
        The label of nodes that holds the type of their GPUs, by which a profile's ``gpu.type``
        finds them. Default: the one that NVIDIA's feature discovery writes.
        """,
    )
    nss_wrapper = Unicode(
        "libnss_wrapper.so",
        config=True,
        help="""
        The library in the image that answers who is who from files, where people have an identity
        (Debian's package `libnss-wrapper`). Default: found by its name.
        """,
    )
    supplemental_groups_policy = Enum(
        ["Strict", "Merge"],
        default_value="Strict",
        config=True,
        help="""
        Whether people with an identity have its groups and no others (``Strict``), or also those
        that their image's own ``/etc/group`` names for their number (``Merge``). Default:
        ``Strict``, which nodes can hold from containerd 2.0 and CRI-O 1.31 on; from Kubernetes 1.33
        on, a node that cannot refuses the pod. With ``Merge``, whoever may choose any image may
        have any group.
        """,
    )
    restricted = Bool(
        True,
        config=True,
        help="""
        Whether pods get what the Pod Security level `restricted` asks for, where
        ``c.KubeSpawner`` says nothing else. Default: True.
        """,
    )
    request_timeout = Float(
        30.0,
        min=1.0,
        config=True,
        help="""
        How long one request may take before it counts as no answer, in seconds. Default: 30.
        """,
    )
    startup_timeout = Float(
        300.0,
        min=5.0,
        config=True,
        help="""
        How long a server may take from its container's start until it listens, in seconds. Waiting
        for a node and for the image does not count. Default: 300.
        """,
    )
    stop_timeout = Float(
        60.0,
        min=5.0,
        config=True,
        help="""
        How long a stop waits for Kubernetes' word that the pod is gone, beside the grace time, in
        seconds, before it says that it could not. Default: 60.
        """,
    )
    capacity_patience = Float(
        30.0,
        min=0.0,
        config=True,
        help="""
        How long a pod that no node has room for waits before its profile's other backend is tried,
        where it has one, in seconds. Default: 30, enough for an autoscaler to say that it comes.
        """,
    )
    stuck_patience = Float(
        60.0,
        min=0.0,
        config=True,
        help="""
        How long a pod may stand in a state that does not pass by itself (an image that cannot be
        fetched, a volume's secret that is missing) before its start fails, in seconds. Default:
        60, because a registry may come back.
        """,
    )
    availability_from = Enum(
        ["quota", "nodes", "off"],
        default_value="quota",
        config=True,
        help="""
        Where the options page learns what is free: from the namespace's `quota`; or from the
        `nodes` and all pods, which needs the right to list them in the whole cluster, and the
        quota as well, so that the smaller of both counts. Default: ``quota``, which needs no right
        beyond the namespace.
        """,
    )
    scalable_pools = List(
        Dict(),
        config=True,
        help="""
        Pools of nodes that grow by themselves, so that the page can say that a node would be
        added: each with ``labels``, ``max_nodes``, ``allocatable`` (what pods may have of a node)
        and ``taints``. Default: none.

        Example: ``c.KubernetesBackend.scalable_pools = [{"labels": {"pool": "gpu"}, "max_nodes":
        8, "allocatable": {"cpu": "7", "memory": "28Gi", "nvidia.com/gpu": "1"}}]``
        """,
    )
    view_interval = Float(
        10.0,
        min=1.0,
        config=True,
        help="""
        Seconds between two looks at the quota, while somebody looks at the page. Default: 10.
        """,
    )
    end_orphans = Bool(
        True,
        config=True,
        help="""
        Whether pods of this hub that no server owns are deleted, or only logged. Default: True.
        Turn it off before you start a hub on a restored, older database.
        """,
    )

    answer_timeout = 15.0

    def __init__(self, *, cookie_secret: bytes = b"", **kwargs: Any) -> None:
        """Read the configuration; nothing is asked of Kubernetes before `open`."""
        super().__init__(**kwargs)
        self.hub_id = self.hub_id or default_hub_id(cookie_secret)
        self.settings = Settings(
            storage=Storage(
                home_volume=self.home_volume,
                home_folder=self.home_folder,
                shared_volume=self.shared_volume,
                shared_folder=self.shared_folder,
                shared_mount=self.shared_mount,
            ),
            spot_pool=self.spot_pool,
            gpu_type_label=self.gpu_type_label,
            nss_wrapper=self.nss_wrapper,
            restricted=self.restricted,
            strict_groups=self.supplemental_groups_policy == "Strict",
        )
        self.live: dict[Key, KubernetesServer] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._clearing: dict[str, asyncio.Task[None]] = {}
        self._events = EventIndex()
        self._client: ApiClient | None = None

    @validate("hub_id")
    def _check_hub_id(self, proposal: Any) -> str:
        value: str = proposal.value
        if value and re.fullmatch(r"[a-z0-9]{1,16}", value) is None:
            msg = (
                f"KubernetesBackend.hub_id = {value!r}: expected 1 to 16 lower-case letters and "
                "digits"
            )
            raise TraitError(msg)
        return value

    # ---- Backend ----

    def check(self, profiles: tuple[Profile, ...]) -> None:
        """See `Backend.check`: the cluster's address must be known, and each profile possible."""
        problems = possible.problems_of(profiles, spot_pool=bool(self.spot_pool))
        try:
            self._find_cluster()
        except (ConfigException, OSError) as error:
            accepted = "a hub that runs in the cluster, or KUBECONFIG with the path of a kubeconfig"
            where, words = "the Kubernetes cluster", "its address is not known"
            problems.insert(0, Problem(where, str(error), words, accepted))
        if problems:
            raise ConfigurationError(problems)
        strict = self.supplemental_groups_policy == "Strict"
        free = () if strict else possible.with_any_image(profiles)
        for line in (*possible.without_effect(profiles), *free):
            self.log.warning("%s", line)

    def _find_cluster(self) -> None:
        traits = self.config.KubeSpawner
        load_config(
            host=traits.get("k8s_api_host", ""),
            ssl_ca_cert=traits.get("k8s_api_ssl_ca_cert", ""),
            verify_ssl=traits.get("k8s_api_verify_ssl", None),
        )

    @property
    def pools(self) -> tuple[ScalablePool, ...]:
        """The pools that grow by themselves."""
        return tuple(map(ScalablePool.of, self.scalable_pools))

    @property
    def namespace(self) -> str | None:
        """Where pods are, ``None`` where every person has a namespace."""
        if self.config.KubeSpawner.get("enable_user_namespaces", False):
            return None
        configured = self.config.KubeSpawner.get("namespace", "")
        return str(configured or KubeSpawner._namespace_default(self))  # noqa: SLF001 - its rule

    def server(self, owner: Any) -> KubernetesServer:
        """See `Backend.server`."""
        return KubernetesServer(self, owner)

    async def delete_forever(self, owner: Any) -> None:
        """Delete what was made for a person, or a named server, that the hub forgets."""
        await claims.delete_claim(self.api, owner)

    def alternative_names(self, owner: Any) -> list[str]:
        """Return the names that the certificate of a server must hold."""
        return list(PodSpawner.beside(owner).ssl_alt_names)

    async def open(self) -> None:
        """See `Backend.open`."""
        self._find_cluster()
        self._client = ApiClient()
        self.api = KubernetesApi(self._client, timeout_seconds=self.request_timeout)
        namespace = self.namespace
        self.watch_pods = Watch(
            self.api,
            collection("pods", namespace),
            self.log,
            labels=selector(self.hub_id, self.manager),
            slim=slim,
        )
        self.watch_pods.on_change.append(self._pod_changed)
        self.watch_events = Watch(
            self.api,
            collection("events", namespace),
            self.log,
            fields="involvedObject.kind=Pod",
            bookmarks=False,
            slim=slim_event,
        )
        self.watch_events.on_change.append(self._event_changed)
        self.reaper = Reaper(
            lambda: self.api,
            self.watch_pods,
            self.hub_id,
            self.log,
            end_orphans=self.end_orphans,
            owner=self.owner,
            keep_over=not self.config.get("KubeSpawner", {}).get("delete_stopped_pods", True),
        )
        self.reaper.recorded = lambda: self.recorded()  # noqa: PLW0108 - it is set later
        self.reaper.live = lambda: [server.spawn_id for server in self.live.values()]
        self.views = Views(self)
        runs = (self.watch_pods.run(), self.watch_events.run(), self.reaper.run())
        self._tasks = [asyncio.ensure_future(run) for run in runs]

    async def close(self) -> None:
        """See `Backend.close`; pods go on."""
        tasks = [*self._tasks, *self._clearing.values()]
        if hasattr(self, "views"):
            tasks += self.views.tasks
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    @property
    def problem(self) -> str | None:
        """What only an administrator can mend; an API server that is away comes back by itself.

        A hub that may not see nodes serves people all the same: the page says it has no figures.
        """
        if not self._tasks:
            return None
        if any(task.done() for task in (*self._tasks, *self.views.tasks)):
            return "Kubernetes is not watched any more: a fault ended the watch; see the hub's log"
        watches = {"pods": self.watch_pods, "events": self.watch_events}
        refused = (
            f"Kubernetes lets nobody watch the {what}: {watch.problem}"
            for what, watch in watches.items()
            if watch.refused
        )
        return next(refused, None)

    async def availability(
        self, profiles: tuple[Profile, ...], user: str
    ) -> Mapping[str, Availability]:
        """See `Backend.availability`."""
        del user
        return await self.views.look(profiles, now=datetime.now(UTC))

    async def limits(self, user: str) -> None:
        """See `Backend.limits`: Kubernetes records none for a person."""

    # ---- what servers ask ----

    def recorded(self) -> set[str]:
        """Return the names of all starts on record; the runtime puts the database's here."""
        return set()

    def events_of(self, uid: str | None) -> list[Json]:
        """Return what Kubernetes has said about one pod, oldest first."""
        return self._events.of(uid or "")

    async def changed(self, key: Key, timeout_seconds: float) -> None:
        """Wait for news of a pod, an event included."""
        await self.watch_pods.changed(key, timeout_seconds)

    def clear_away(self, server: KubernetesServer) -> None:
        """Delete the pod of a server that has ended, in the background, unless it shall stay."""
        if server.uid is None or server.uid in self._clearing:
            return
        if not server.pods.delete_stopped_pods:
            return
        self._clearing[server.uid] = asyncio.ensure_future(self._clear_away(server, server.uid))

    async def _clear_away(self, server: KubernetesServer, uid: str) -> None:
        try:
            await self.api.delete("pods", server.namespace, server.pod_name, uid=uid, grace=None)
        except KubernetesError as error:
            # the reaper tries again
            self.log.warning(
                "pod %s, which is over, is not deleted yet: %s", server.pod_name, error
            )
        finally:
            self._clearing.pop(uid, None)

    # ---- what the watches say ----

    def _pod_changed(self, key: Key, _found: Json | None) -> None:
        if key in self.live:
            self.live[key].changed()

    def _event_changed(self, key: Key, found: Json | None) -> None:
        about = self._events.take(key, found)
        if about is not None:
            self.watch_pods.wake(about)
