"""The hubs that `watch` compares: ours, one with stock KubeSpawner, and one that asks nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.systems.kubernetes import KubernetesSystem
from tests.systems.kubernetes.kwok import SELECTOR, TOLERATION
from tests.systems.kubernetes_hub import KubernetesHub

from .filled import Kept
from .fleet import Standing, qhub_kept, stock_kept
from .rivals import StockKubernetesHub

USERS = ("alice", "bob")
HUB_ID = "bench"

# The same for both: people are known, starting does not block the request, and nothing gives up
# while thousands of servers are looked at one after the other.
_COMMON = """
c.Authenticator.allow_all = False
c.Authenticator.allowed_users = set(USERS)
c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 0}
c.Spawner.http_timeout = 600
c.KubeSpawner.port = PORT
"""
_OURS = """
c.IdleRule.timeout = 0  # stock has no such rule: a service beside it would ask the servers
c.KubernetesBackend.hub_id = HUB_ID
c.KubernetesBackend.stuck_patience = 7 * 24 * 3600
c.QHubSpawner.profiles = [
    {"slug": name, "display_name": name, "cpu": 1, "memory": "600 MiB", "walltime": "8h",
     "kubernetes": {"cpu_request": "10m", "memory_request": "64 MiB", "node_selector": selector,
                    "tolerations": [TOLERATION]}} for name, selector in SELECTORS.items()
]
"""
_STOCK = """
c.KubeSpawner.start_timeout = 7 * 24 * 3600
c.KubeSpawner.profile_list = [
    {"slug": name, "display_name": name,
     "kubespawner_override": {"node_selector": selector, "tolerations": [TOLERATION]}}
    for name, selector in SELECTORS.items()
]
"""
# The hub alone: as many servers, and nobody who asks anything of Kubernetes.
_NOBODY = """
from jupyterhub.spawner import Spawner

class Still(Spawner):
    async def start(self):
        raise NotImplementedError
    async def stop(self, now=False):
        pass
    async def poll(self):
        return None

c.JupyterHub.spawner_class = Still
"""


@dataclass(frozen=True)
class Kind:
    """One of the hubs that are compared.

    Attributes:
        make: Makes the hub from lines of configuration.
        kept: What it has in its database of a running server.
        pods: Whether its servers have pods.
    """

    make: Callable[[KubernetesSystem, str], KubernetesHub]
    kept: Callable[[Standing, int, str], Kept]
    pods: bool = True


KINDS = {
    "ours": Kind(
        lambda cluster, lines: KubernetesHub(cluster, profiles="", config=lines + _OURS), qhub_kept
    ),
    "stock": Kind(
        lambda cluster, lines: StockKubernetesHub(cluster, config=lines + _STOCK), stock_kept
    ),
}
BARE = Kind(
    lambda cluster, lines: StockKubernetesHub(cluster, config=lines + _NOBODY),
    stock_kept,
    pods=False,
)


def lines(port: int) -> str:
    """Return the lines of configuration that all of them have.

    Args:
        port: Where their servers answer.
    """
    values = {
        "USERS": USERS,
        "PORT": port,
        "HUB_ID": HUB_ID,
        "TOLERATION": TOLERATION,
        "SELECTORS": {"fake": SELECTOR, "nowhere": {"nowhere": "yes"}},
    }
    return "".join(f"{name} = {value!r}\n" for name, value in values.items()) + _COMMON
