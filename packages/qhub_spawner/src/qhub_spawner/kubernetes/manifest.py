"""From KubeSpawner's pod to the pod that is submitted: profile, identity, hardening. Pure.

KubeSpawner makes the manifest that its traits describe. `completed` lays the profile over it (its
neutral fields, then its ``kubernetes`` block), then the person's identity, and fills in what the
Pod Security level `restricted` asks for wherever nothing else has been configured. Whose server it
is stands in labels and annotations. Source: Pod v1, Kubernetes 1.34.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from qhub_spawner.identity import Identity
from qhub_spawner.kubernetes.merging import merged, server_container, with_container
from qhub_spawner.kubernetes.personal import Storage, path_part, with_identity, with_storage
from qhub_spawner.profiles import Profile
from qhub_spawner.resources import KubernetesBlock

__all__ = ["Settings", "Storage", "completed", "merged", "path_part", "quoted_work"]

Json = dict[str, Any]

# What runs beside the server is the shell's child, and so the server's, which the shell becomes.
# Its program is in the text and not in a volume, which the kubelet would take 0.3 s to mount.
_SHELL = (
    "umask 0002; command -v python3 >/dev/null && qhub_work={work} && export qhub_work && "
    """exec python3 -IS -c 'import os; exec(os.environ["qhub_work"])' >/dev/null 2>&1 & """
    'exec "$@"'
)


@dataclass(frozen=True)
class Settings:
    """What a hub's configuration adds to every pod."""

    storage: Storage = field(default_factory=Storage)
    spot_pool: Mapping[str, Any] = field(default_factory=dict)
    gpu_type_label: str = "nvidia.com/gpu.product"
    nss_wrapper: str = "libnss_wrapper.so"
    restricted: bool = True
    strict_groups: bool = True


def completed(
    base: Mapping[str, Any],
    profile: Profile,
    *,
    user: str,
    identity: Identity | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    settings: Settings | None = None,
    shell: str | None = None,
) -> Json:
    """Return the whole pod.

    Args:
        base: KubeSpawner's pod, as JSON; it is not changed.
        profile: With everything decided.
        user: The person's name.
        identity: Their numbers, home and groups, if these are known.
        labels: Further labels.
        annotations: Further annotations.
        settings: Of the hub.
        shell: What a shell does that becomes the command, whose words are its arguments; a server's
            umask and the report of its work when ``None``.
    """
    settings = settings or Settings()
    block = profile.kubernetes or KubernetesBlock()
    pod: Json = merged({}, base)
    pod = merged(
        pod,
        {
            "metadata": {
                "labels": {**block.labels, **(labels or {})},
                "annotations": {**block.annotations, **(annotations or {})},
            },
            "spec": {**_spec(profile, block, settings), **_lists(pod["spec"], block, settings)},
        },
    )
    pod = with_container(pod, _container(profile, block))
    pod = with_storage(pod, user, identity, settings.storage)
    if identity is not None:
        pod = with_identity(
            pod, user, identity, settings.nss_wrapper, strict_groups=settings.strict_groups
        )
    pod = _with_shell(pod, shell or _SHELL.format(work=quoted_work()))
    # Kubernetes' own default would start a server again that its person has ended
    pod["spec"].setdefault("restartPolicy", "Never")
    if settings.restricted:
        # c.KubeSpawner.service_account says that its token is mounted; a profile's does not
        token = bool(base["spec"].get("serviceAccountName")) and not block.service_account
        pod = _restricted(pod, token=token)
    pod = with_container(pod, block.container)
    return {**pod, "spec": merged(pod["spec"], block.pod)}


# --- the profile


def _container(profile: Profile, block: KubernetesBlock) -> Json:
    limits: Json = {}
    requests: Json = {}
    # a profile that says nothing of cores leaves them to KubeSpawner's traits
    cpu = profile.cpu if "cpu" in profile.model_fields_set else None
    if cpu is not None:
        limits["cpu"] = f"{cpu.millicores}m"
    cpu_request = block.cpu_request or cpu
    if cpu_request is not None:
        requests["cpu"] = f"{cpu_request.millicores}m"
    if profile.memory is not None:
        limits["memory"] = str(profile.memory.bytes)
    memory = block.memory_request or profile.memory
    if memory is not None:
        requests["memory"] = str(memory.bytes)
    if profile.gpu is not None and profile.gpu.count:
        limits[block.gpu_resource] = requests[block.gpu_resource] = str(profile.gpu.count)
    if block.ephemeral_storage is not None:
        room = str(block.ephemeral_storage.bytes)
        limits["ephemeral-storage"] = requests["ephemeral-storage"] = room
    container: Json = {"resources": {"limits": limits, "requests": requests}}
    if block.image is not None:
        container["image"] = block.image
    if block.image_pull_policy is not None:
        container["imagePullPolicy"] = block.image_pull_policy
    variables = profile.environment.variables
    container["env"] = [{"name": name, "value": value} for name, value in variables.items()]
    mounts = [{**mount, "mountPath": path} for path, mount in block.mounts.items()]
    if block.shared_memory is not None:
        mounts.append({"name": "shared-memory", "mountPath": "/dev/shm"})  # noqa: S108 # nosec B108
    container["volumeMounts"] = mounts
    return container


def _spec(profile: Profile, block: KubernetesBlock, settings: Settings) -> Json:
    selector = dict(block.node_selector)
    if profile.gpu is not None and profile.gpu.count and profile.gpu.type is not None:
        selector.setdefault(settings.gpu_type_label, profile.gpu.type)
    if block.spot:
        selector |= settings.spot_pool.get("node_selector", {})
    names = {
        "priorityClassName": block.priority_class,
        "runtimeClassName": block.runtime_class,
        "schedulerName": block.scheduler,
        "serviceAccountName": block.service_account,
    }
    spec: Json = {name: value for name, value in names.items() if value is not None}
    if selector:
        spec["nodeSelector"] = selector
    if block.affinity:
        spec["affinity"] = block.affinity
    if profile.walltime is not None:
        spec["activeDeadlineSeconds"] = profile.walltime.seconds
    volumes: list[Json] = [{**volume, "name": name} for name, volume in block.volumes.items()]
    if block.shared_memory is not None:
        size = str(block.shared_memory.bytes)
        volumes.append(
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": size}}
        )
    spec["volumes"] = volumes
    spec["imagePullSecrets"] = [{"name": name} for name in block.image_pull_secrets]
    return spec


def _lists(spec: Mapping[str, Any], block: KubernetesBlock, settings: Settings) -> Json:
    """Return the lists that have no key: what was there, then what the profile adds."""
    spot = settings.spot_pool.get("tolerations", ()) if block.spot else ()
    tolerations = [*spec.get("tolerations", ()), *block.tolerations, *spot]
    return {"tolerations": tolerations} if tolerations else {}


def _with_shell(pod: Json, shell: str) -> Json:
    """Start the command by a shell that becomes it.

    A server's has umask 0002: what it makes in a shared folder belongs to the group. Beside it runs
    what tells the hub what it works at (`qhub_spawner.work`), if there is Python.

    The shell gets a fixed text; the command's own words are its arguments.
    """
    container = server_container(pod)
    words = [*(container.get("command") or ()), *(container.get("args") or ())]
    if not container.get("command") and not words:
        return pod  # the image's own command is not known here
    if not container.get("command"):
        words = list(container["args"])
    return with_container(pod, {"command": ["/bin/sh", "-c", shell, "qhub"], "args": words})


@cache
def quoted_work() -> str:
    """Return the program that tells the hub what the server works at, as one word of a shell."""
    return shlex.quote((files("qhub_spawner") / "work.py").read_text(encoding="utf-8"))


# --- hardening


def _restricted(pod: Json, *, token: bool) -> Json:
    """Fill in what Pod Security `restricted` asks for, where nothing else is configured.

    Args:
        pod: It is not changed.
        token: Whether the token of its service account is mounted, if it does not say.
    """
    spec = pod["spec"]
    context = {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
        **(spec.get("securityContext") or {}),
    }
    containers = [_restricted_container(each) for each in spec["containers"]]
    changed = {**spec, "securityContext": context, "containers": containers}
    if spec.get("initContainers"):
        changed["initContainers"] = [_restricted_container(each) for each in spec["initContainers"]]
    if not token:
        changed.setdefault("automountServiceAccountToken", False)
    changed.setdefault("enableServiceLinks", False)
    return {**pod, "spec": changed}


def _restricted_container(container: Mapping[str, Any]) -> Json:
    context = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        **(container.get("securityContext") or {}),
    }
    return {**container, "securityContext": context}
