"""The pods and the secret of a cluster on Kubernetes. Pure.

A person's worker is what their server is (image, homes, shared folders, numbers, names, hardening,
made by the same functions), with another command. The cluster's certificate, key and token are in
one secret, which belongs to the scheduler's pod and goes with it; they are in no variable, so that
who may only see pods does not see them. Sources: Pod v1, Secret v1, Kubernetes 1.34.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qhub_gateway.requests import ClusterRequest, Size
from qhub_gateway.targets.target import WORKER_NAME, ClusterSpec, JobRef
from qhub_spawner.kubernetes import names
from qhub_spawner.kubernetes.manifest import Settings, completed, merged
from qhub_spawner.kubernetes.merging import literal, server_container, with_container
from qhub_spawner.profiles import Profile
from qhub_spawner.quantities import Cpu, Memory
from qhub_spawner.resources import KubernetesBlock

__all__ = [
    "CLUSTER",
    "MANAGER",
    "ROLE",
    "Place",
    "cluster_of",
    "numbered",
    "policy",
    "scheduler_pod",
    "secret",
    "secret_name",
    "selector_of",
    "spawn_of",
    "worker_pods",
]

Json = dict[str, Any]

MANAGER = names.GATEWAY
CLUSTER = "qhub.dev/cluster"
ROLE = "qhub.dev/role"

_FOLDER = "/etc/qhub-dask"
_VOLUME = "qhub-dask"
_TOKEN = "DASK_GATEWAY_API_TOKEN"  # noqa: S105 - a variable's name
_COMM = "DASK_DISTRIBUTED__COMM__TLS"
# what it makes in a shared folder belongs to the group
_SHELL = 'umask 0002; exec "$@"'
_GRACE_SECONDS = 10
# of a server, whose command and health they are about
_NOT_OF_SERVERS = (
    *("args", "command", "ports", "lifecycle"),
    *("livenessProbe", "readinessProbe", "startupProbe"),
)


@dataclass(frozen=True)
class Place:
    """What a gateway's configuration adds to every pod.

    Attributes:
        gateway_id: The gateway's name in the namespace.
        settings: As those of a hub: storage, spot pool, hardening.
        scheduler_pool: Where schedulers run: ``node_selector``, ``tolerations``, ``affinity``,
            ``priority_class``; as the profile's servers, but never on spot nodes, if it is empty.
    """

    gateway_id: str
    settings: Settings = field(default_factory=Settings)
    scheduler_pool: Mapping[str, Any] = field(default_factory=dict)


def secret_name(gateway_id: str, cluster: str) -> str:
    """Return the name of a cluster's secret."""
    return f"qhub-{gateway_id}-{cluster}"


def numbered(gateway_id: str, spawn_id: str) -> str:
    """Return the name of a pod, and of its job: no other pod ever has it."""
    return names.record_name(gateway_id, spawn_id)


def selector_of(gateway_id: str, refs: Sequence[JobRef]) -> str:
    """Return the label selector of exactly these pods."""
    spawns = ",".join(sorted(spawn_of(ref.name) for ref in refs))
    return f"{names.selector(gateway_id, MANAGER)},{names.SPAWN} in ({spawns})"


def cluster_of(pod: Mapping[str, Any]) -> str:
    """Return the cluster that a pod belongs to."""
    return str((pod["metadata"].get("labels") or {}).get(CLUSTER, ""))


def secret(cluster: ClusterSpec, place: Place, owner: Mapping[str, Any]) -> Json:
    """Return the secret of a cluster; it is deleted with its scheduler's pod, which is `owner`."""
    data = {
        "dask.crt": cluster.tls_cert,
        "dask.pem": cluster.tls_key,
        "token": cluster.environment.get(_TOKEN, "").encode(),
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _of_cluster(cluster, place, owner),
        "immutable": True,
        "data": {name: base64.b64encode(value).decode() for name, value in data.items()},
    }


def policy(cluster: ClusterSpec, place: Place, owner: Mapping[str, Any]) -> Json:
    """Return the policy by which a cluster's pods reach one another, and no other cluster's.

    Who else comes in is said for all by those that ``qhub-spawner manifests`` prints. Source:
    NetworkPolicy v1, Kubernetes 1.34.
    """
    metadata = _of_cluster(cluster, place, owner)
    same = {"matchLabels": metadata["labels"]}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": {
            "podSelector": same,
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": same}]}],
        },
    }


def _of_cluster(cluster: ClusterSpec, place: Place, owner: Mapping[str, Any]) -> Json:
    """Return the metadata of what belongs to a cluster, and is deleted with its scheduler."""
    pod = owner["metadata"]
    labels = {names.MANAGED_BY: MANAGER, names.HUB: place.gateway_id, CLUSTER: cluster.name}
    reference = {"apiVersion": "v1", "kind": "Pod", "name": pod["name"], "uid": pod["uid"]}
    name = secret_name(place.gateway_id, cluster.name)
    return {"name": name, "labels": labels, "ownerReferences": [reference]}


def scheduler_pod(cluster: ClusterSpec, ref: JobRef, base: Mapping[str, Any], place: Place) -> Json:
    """Return the pod of a scheduler.

    Args:
        cluster: Whose.
        ref: Its job.
        base: The person's pod as ``c.KubeSpawner`` describes it; it is not changed.
        place: Of the gateway.
    """
    profile = _sized(cluster.request, cluster.request.scheduler)
    block = _scheduler_block(profile.kubernetes or KubernetesBlock(), place.scheduler_pool)
    changes = {"gpu": None, "kubernetes": block, "walltime": cluster.request.cluster_walltime}
    profile = profile.model_copy(update=changes)
    pod = _pod(cluster, profile, base, place, "scheduler", cluster.scheduler_argv)
    variables = {_TOKEN: f"{_FOLDER}/token"}
    return _named(with_container(pod, {"env": _listed(variables)}), ref)


def worker_pods(
    cluster: ClusterSpec, workers: Mapping[str, JobRef], base: Mapping[str, Any], place: Place
) -> dict[JobRef, Json]:
    """Return the pods of workers by their jobs; see `scheduler_pod`.

    Args:
        cluster: Whose.
        workers: Their jobs by their names.
        base: As there.
        place: As there.
    """
    request = cluster.request
    profile = _sized(request, request.worker)
    gpu = profile.gpu
    if request.worker.gpus:
        update: dict[str, Any] = {"count": request.worker.gpus}
        profile = profile.model_copy(update={"gpu": gpu.model_copy(update=update) if gpu else None})
    else:
        profile = profile.model_copy(update={"gpu": None})
    pod = _pod(cluster, profile, base, place, "worker", cluster.worker_argv)
    words = server_container(pod)["args"]
    made = {}
    for name, ref in workers.items():
        own = [name if word == WORKER_NAME else word for word in words]
        made[ref] = _named(with_container(pod, {"args": own}), ref)
    return made


def _pod(
    cluster: ClusterSpec,
    profile: Profile,
    base: Mapping[str, Any],
    place: Place,
    role: str,
    argv: Sequence[str],
) -> Json:
    owner = cluster.request.owner
    pod = completed(
        _stripped(base, argv),
        profile,
        user=owner.name,
        identity=owner.identity,
        labels={CLUSTER: cluster.name, ROLE: role},
        annotations=names.owner_annotations(owner.name, ""),
        settings=place.settings,
        shell=_SHELL,  # nosec B604 - a constant, and no process is started here
    )
    pod["metadata"]["labels"].update(names.labels(place.gateway_id, "", MANAGER))
    variables = {name: literal(value) for name, value in cluster.environment.items()}
    variables.pop(_TOKEN, None)
    variables |= {
        f"{_COMM}__CA_FILE": f"{_FOLDER}/dask.crt",
        f"{_COMM}__{role.upper()}__CERT": f"{_FOLDER}/dask.crt",
        f"{_COMM}__{role.upper()}__KEY": f"{_FOLDER}/dask.pem",
    }
    mount = {"name": _VOLUME, "mountPath": _FOLDER, "readOnly": True}
    pod = with_container(pod, {"env": _listed(variables), "volumeMounts": [mount]})
    keys = ["dask.crt", "dask.pem", *(["token"] if role == "scheduler" else [])]
    own = {
        "secretName": secret_name(place.gateway_id, cluster.name),
        "items": [{"key": key, "path": key} for key in keys],
        "defaultMode": 0o444,
    }
    spec = {
        "volumes": [{"name": _VOLUME, "secret": own}],
        # what ends is replaced by the gateway, by a pod of another name
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
    }
    return merged(pod, {"apiVersion": "v1", "kind": "Pod", "spec": spec})  # type: ignore[no-any-return]


def _stripped(base: Mapping[str, Any], argv: Sequence[str]) -> Json:
    """Return the person's pod without what makes it a server, and with another command."""
    pod: Json = {"metadata": {}, "spec": dict(base["spec"])}
    server = server_container(pod)
    changed = {key: value for key, value in server.items() if key not in _NOT_OF_SERVERS}
    changed["command"] = [literal(word) for word in argv]
    pod["spec"]["containers"] = [
        changed if each is server else each for each in base["spec"]["containers"]
    ]
    return pod


def _sized(request: ClusterRequest, size: Size) -> Profile:
    """Return the profile with the size of a scheduler or worker; no more is kept free than that."""
    profile = request.profile
    block = profile.kubernetes or KubernetesBlock()
    kept: dict[str, Cpu | Memory] = {}
    if block.cpu_request is not None and block.cpu_request.millicores > size.cpu.millicores:
        kept["cpu_request"] = size.cpu
    if block.memory_request is not None and block.memory_request.bytes > size.memory.bytes:
        kept["memory_request"] = size.memory
    container = {key: value for key, value in block.container.items() if key not in _NOT_OF_SERVERS}
    changes: dict[str, Any] = {
        "cpu": size.cpu,
        "memory": size.memory,
        "walltime": request.walltime,
        "kubernetes": block.model_copy(update={**kept, "container": container}),
    }
    return profile.model_copy(update=changes)


def _scheduler_block(block: KubernetesBlock, pool: Mapping[str, Any]) -> KubernetesBlock:
    """Return the profile's block for a scheduler: on nodes that stay, wherever its workers are."""
    changes: dict[str, Any] = {"spot": False}
    if pool:
        changes |= {
            "node_selector": dict(pool.get("node_selector") or {}),
            "tolerations": tuple(pool.get("tolerations") or ()),
            "affinity": dict(pool.get("affinity") or {}),
        }
        if pool.get("priority_class"):
            changes["priority_class"] = pool["priority_class"]
    return block.model_copy(update=changes)


def _named(pod: Json, ref: JobRef) -> Json:
    label = {names.SPAWN: spawn_of(ref.name)}
    return merged(pod, {"metadata": {"name": ref.name, "labels": label}})  # type: ignore[no-any-return]


def spawn_of(name: str) -> str:
    """Return the spawn id that a pod of this name carries as its label."""
    return name.rpartition("-")[2]


def _listed(variables: Mapping[str, str]) -> list[Json]:
    return [{"name": name, "value": value} for name, value in variables.items()]
