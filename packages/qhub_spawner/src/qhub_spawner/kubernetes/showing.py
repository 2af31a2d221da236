"""The pod that a choice would become: made as for a start, and shown without its secrets.

No cluster is asked, and none need be there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qhub_spawner.hiding import HIDDEN, hidden_words, looks_secret
from qhub_spawner.kubernetes.backend import KubernetesBackend
from qhub_spawner.kubernetes.manifest import quoted_work
from qhub_spawner.kubernetes.merging import server_container
from qhub_spawner.kubernetes.names import SPAWN
from qhub_spawner.kubernetes.pod_spawner import PodSpawner
from qhub_spawner.kubernetes.server import KubernetesServer
from qhub_spawner.launch import Launch

Json = dict[str, Any]

# What qhub itself says to the programs in the pod; every other variable may hold a secret.
_PLAIN_VARIABLES = frozenset(
    {
        *("HOME", "USER", "LOGNAME", "LD_PRELOAD"),
        *("NSS_WRAPPER_PASSWD", "NSS_WRAPPER_GROUP"),
        *("JUPYTERHUB_USER", "JUPYTERHUB_SERVICE_PREFIX", "JUPYTERHUB_API_URL"),
        *("JUPYTER_IMAGE", "JUPYTER_IMAGE_SPEC", "MEM_LIMIT", "MEM_GUARANTEE"),
        *("CPU_LIMIT", "CPU_GUARANTEE", "QHUB_PROFILE", "QHUB_BACKEND"),
    }
)


class _Shown(KubernetesServer):
    @property
    def pods(self) -> PodSpawner:
        if self._pods is None:
            self._pods = PodSpawner.beside(self.owner, cluster=False)
        return self._pods


async def pod_of(owner: Any, launch: Launch) -> tuple[str, Json]:  # noqa: ANN401 - the hub's
    """Return the namespace and the pod that `launch` would submit, with what may be secret hidden.

    Args:
        owner: A spawner with the hub's configuration.
        launch: What would be started.

    Raises:
        StartFailedError: A trait that the profile sets is not KubeSpawner's.
    """
    backend = KubernetesBackend(parent=owner, hub_id="hub")
    server = _Shown(backend, owner)
    pod = await server.prepared(launch)
    pod["metadata"]["labels"][SPAWN] = "SPAWN"
    container = server_container(pod)
    container["command"] = [
        word.replace(quoted_work(), "'# ... qhub_spawner/work.py ...'")
        for word in container.get("command") or ()
    ]
    return server.namespace, masked(pod)


def masked(found: Any, key: str = "") -> Any:  # noqa: ANN401 - JSON
    """Return JSON of a pod without what may be secret.

    Of variables all values are hidden but for a few plain ones; of commands and of headers of
    requests, what bears a name that looks secret.
    """
    if isinstance(found, Mapping):
        return {name: masked(value, name) for name, value in found.items()}
    if not isinstance(found, list):
        return found
    if key in {"command", "args"} and all(isinstance(each, str) for each in found):
        return hidden_words(found)
    if key not in {"env", "httpHeaders"}:
        return [masked(each) for each in found]
    return [
        {**each, "value": HIDDEN} if "value" in each and _is_hidden(key, each["name"]) else each
        for each in found
    ]


def _is_hidden(key: str, name: str) -> bool:
    return name not in _PLAIN_VARIABLES if key == "env" else looks_secret(name)
