"""Laying one piece of a pod's JSON over another, as Kubernetes itself does. Pure.

Source: Pod v1, Kubernetes 1.34.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qhub_spawner.kubernetes.names import SERVER_CONTAINER

Json = dict[str, Any]

# Kubernetes merges these lists by the key given (Pod v1, patchMergeKey); every other list is
# replaced.
_KEYED = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}


def merged(base: Any, over: Any, key: str = "") -> Any:  # noqa: ANN401 - JSON
    """Lay one JSON value over another: objects by key, Kubernetes' keyed lists by their key.

    ``None`` takes away what was there.
    """
    if isinstance(over, Mapping):
        result = dict(base) if isinstance(base, Mapping) else {}
        for name, value in over.items():
            if value is None:
                result.pop(name, None)
            else:
                result[name] = merged(result.get(name), value, name)
        return result
    if key in _KEYED and isinstance(base, Sequence) and isinstance(over, Sequence):
        return _merged_list(base, over, _KEYED[key])
    return over


def _merged_list(base: Sequence[Any], over: Sequence[Any], key: str) -> list[Any]:
    items = list(base)
    for new in over:
        name = new.get(key) if isinstance(new, Mapping) else None
        where = next(
            (i for i, old in enumerate(items) if isinstance(old, Mapping) and old.get(key) == name),
            None,
        )
        if name is None or where is None:
            items.append(new)
        else:
            items[where] = merged(items[where], new)
    return items


def server_container(pod: Mapping[str, Any]) -> Json:
    """Return the container that the server runs in: the one of that name, else the first."""
    containers: list[Json] = pod["spec"]["containers"]
    named = (each for each in containers if each.get("name") == SERVER_CONTAINER)
    return next(named, containers[0])


def with_container(pod: Json, changes: Mapping[str, Any]) -> Json:
    """Return the pod with changes laid over the container that the server runs in."""
    name = server_container(pod)["name"]
    return merged(pod, {"spec": {"containers": [{**changes, "name": name}]}})  # type: ignore[no-any-return]


def literal(text: str) -> str:
    """Return a text as it must stand in a pod so that Kubernetes puts no variable's value into it.

    Source: "Define Dependent Environment Variables", Kubernetes 1.34: ``$$`` stands for ``$``.
    """
    return text.replace("$", "$$")
