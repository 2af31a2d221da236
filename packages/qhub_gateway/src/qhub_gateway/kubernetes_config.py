"""What is configured of Kubernetes for a gateway: a hub's own settings, and a few more."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, ClassVar

from traitlets import Bool, Dict, Int

from qhub_gateway.kubernetes_manifest import MANAGER, Place
from qhub_spawner.errors import ConfigurationError, Problem
from qhub_spawner.kubernetes.backend import KubernetesBackend
from qhub_spawner.profiles import Profile


class GatewayKubernetes(KubernetesBackend):
    """One namespace as a gateway sees it, by one watch for all clusters.

    What ``c.KubernetesBackend`` and ``c.KubeSpawner`` say of people's servers holds for their
    schedulers and workers: the same lines serve the hub and the gateway.
    """

    manager: ClassVar[str] = MANAGER
    owner: ClassVar[str] = "cluster"

    scheduler_pool = Dict(
        config=True,
        help="""
        Nodes for schedulers, which should not be taken away while their workers may be:
        ``node_selector``, ``tolerations``, ``affinity`` and ``priority_class``, as in a profile's
        ``kubernetes`` block, in the place of the profile's. Default: empty, so that schedulers go
        where the profile's servers go, but never to the spot pool.

        Example: ``c.GatewayKubernetes.scheduler_pool = {"node_selector": {"pool": "core"}}``
        """,
    )
    isolate = Bool(
        True,
        config=True,
        help="""
        Whether each cluster has a NetworkPolicy, by which its pods reach one another and no other
        cluster's do, whose dashboards ask nobody. Who else comes in is said by the policies that
        ``qhub-spawner manifests`` prints: without those, turn it off. Default: True.
        """,
    )
    parallel_requests = Int(
        16,
        min=1,
        config=True,
        help="""
        How many requests of its own are under way at once while pods are made and ended. Default:
        16, which is little for an API server, and makes dozens of pods a second.
        """,
    )

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - as every Configurable
        """Read the configuration; nothing is asked of Kubernetes before `open`."""
        super().__init__(**kwargs)
        self.on_record: Callable[[], Collection[str]] = frozenset

    def check(self, profiles: tuple[Profile, ...]) -> None:
        """See `KubernetesBackend.check`: there must be one namespace for all, too."""
        super().check(profiles)
        if self.namespace is None:
            problem = Problem(
                "c.KubeSpawner.enable_user_namespaces",
                "True",
                "clusters need one namespace for all",
                "False, and c.KubeSpawner.namespace, in the gateway's own configuration",
            )
            raise ConfigurationError([problem])

    def recorded(self) -> set[str]:
        """Return the names of all jobs that the gateway's database knows."""
        return set(self.on_record())

    @property
    def place(self) -> Place:
        """What it adds to every pod."""
        return Place(
            gateway_id=self.hub_id, settings=self.settings, scheduler_pool=self.scheduler_pool
        )
