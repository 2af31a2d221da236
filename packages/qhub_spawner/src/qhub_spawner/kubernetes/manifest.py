"""From KubeSpawner's pod to the pod that is submitted: profile, identity, hardening. Pure.

KubeSpawner makes the manifest that its traits describe. `completed` lays the profile over it (its
neutral fields, then its ``kubernetes`` block), then the person's identity, and fills in what the
Pod Security level `restricted` asks for wherever nothing else has been configured. Whose server it
is stands in labels and annotations. Source: Pod v1, Kubernetes 1.34.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from qhub_spawner.identity import Identity, group_file, passwd_file, plain_name
from qhub_spawner.kubernetes.names import GROUP, PASSWD, SERVER_CONTAINER
from qhub_spawner.profiles import Profile
from qhub_spawner.resources import KubernetesBlock

Json = dict[str, Any]

_LONGEST_PART, _LONGEST_KEPT = 240, 150
NSS_FOLDER = "/etc/qhub"
NSS_VOLUME = "qhub-names"
# What runs beside the server is the shell's child, and so the server's, which the shell becomes.
# Its program is in the text and not in a volume, which the kubelet would take 0.3 s to mount.
_SHELL = (
    "umask 0002; command -v python3 >/dev/null && qhub_work={work} && export qhub_work && "
    """exec python3 -IS -c 'import os; exec(os.environ["qhub_work"])' >/dev/null 2>&1 & """
    'exec "$@"'
)
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


@dataclass(frozen=True)
class Storage:
    """Where homes and shared folders are.

    Attributes:
        home_volume: A pod's volume without its name, e.g. ``{"persistentVolumeClaim": {…}}``;
            empty if homes are mounted by other means.
        home_folder: The folder of one home in that volume; ``{user}`` and ``{home}`` are filled in.
        shared_volume: As `home_volume`, for the groups' shared folders.
        shared_folder: The folder of one group in that volume; ``{path}`` is its full path.
        shared_mount: Where the folder is mounted; ``{path}`` is its full path.
    """

    home_volume: Mapping[str, Any] = field(default_factory=dict)
    home_folder: str = "{user}"
    shared_volume: Mapping[str, Any] = field(default_factory=dict)
    shared_folder: str = "{path}"
    shared_mount: str = "/shared/{path}"


@dataclass(frozen=True)
class Settings:
    """What a hub's configuration adds to every pod."""

    storage: Storage = Storage()
    spot_pool: Mapping[str, Any] = field(default_factory=dict)
    gpu_type_label: str = "nvidia.com/gpu.product"
    nss_wrapper: str = "libnss_wrapper.so"
    restricted: bool = True


def merged(base: Any, over: Any, key: str = "") -> Any:  # noqa: ANN401 - JSON
    """Lay one JSON value over another: objects by key, Kubernetes' keyed lists by their key.

    ``None`` takes away what was there.
    """
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        result = dict(base)
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


def completed(
    base: Mapping[str, Any],
    profile: Profile,
    *,
    user: str,
    identity: Identity | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    settings: Settings | None = None,
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
    pod = _with_container(pod, _container(profile, block))
    pod = _with_storage(pod, user, identity, settings.storage)
    if identity is not None:
        pod = _with_identity(pod, user, identity, settings)
    pod = _with_umask(pod)
    # Kubernetes' own default would start a server again that its person has ended
    pod["spec"].setdefault("restartPolicy", "Never")
    if settings.restricted:
        pod = _restricted(pod)
    pod = _with_container(pod, block.container)
    return {**pod, "spec": merged(pod["spec"], block.pod)}


def server_container(pod: Mapping[str, Any]) -> Json:
    """Return the container that the server runs in: the one of that name, else the first."""
    containers: list[Json] = pod["spec"]["containers"]
    named = (each for each in containers if each.get("name") == SERVER_CONTAINER)
    return next(named, containers[0])


def _with_container(pod: Json, changes: Mapping[str, Any]) -> Json:
    name = server_container(pod)["name"]
    return merged(pod, {"spec": {"containers": [{**changes, "name": name}]}})  # type: ignore[no-any-return]


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


# --- the person


def _with_storage(pod: Json, user: str, identity: Identity | None, storage: Storage) -> Json:
    mounts: list[Json] = []
    volume = ""
    home = identity.home if identity is not None else f"/home/{plain_name(user)}"
    if storage.home_volume:
        pod, volume = _with_volume(pod, "qhub-homes", storage.home_volume)
        folder = storage.home_folder.format(user=path_part(user), home=home.strip("/"))
        mounts.append({"name": volume, "mountPath": home, "subPath": folder})
    groups = identity.groups if identity is not None and storage.shared_volume else ()
    if groups:
        pod, volume = _with_volume(pod, "qhub-shared", storage.shared_volume)
    for group in groups:
        path = "/".join(path_part(part) for part in group.path.strip("/").split("/"))
        mounts.append(
            {
                "name": volume,
                "mountPath": storage.shared_mount.format(path=path),
                "subPath": storage.shared_folder.format(path=path),
                "readOnly": group.access == "ro",
            }
        )
    container: Json = {"volumeMounts": mounts}
    if storage.home_volume:
        container["workingDir"] = home
        container["env"] = [{"name": "HOME", "value": home}]
    return _with_container(pod, container)


def _with_volume(pod: Json, name: str, source: Mapping[str, Any]) -> tuple[Json, str]:
    """Add a volume unless it is there, maybe by another name; returns the name it has.

    A pod that names one claim twice never starts: the kubelet waits for the second one for ever.
    """
    for known in pod["spec"].get("volumes") or ():
        if {key: value for key, value in known.items() if key != "name"} == source:
            return pod, known["name"]
    return merged(pod, {"spec": {"volumes": [{**source, "name": name}]}}), name


def path_part(name: str) -> str:
    """Return `name` as one part of a path: no two names give the same, none leaves its folder.

    Letters, digits, ``-``, ``_``, ``@`` and a dot that is not the first stay; every other byte of
    its UTF-8 becomes ``%`` and two hexadecimal digits, so that the name can be read back. One that
    gets longer than a file's name may be ends in ``%-`` and its SHA-256.
    """
    plain = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_@"
    data = name.encode("utf-8", "surrogatepass")
    part = "".join(
        chr(byte) if byte in plain or (byte == ord(".") and at) else f"%{byte:02x}"
        for at, byte in enumerate(data)
    )
    if len(part) > _LONGEST_PART:
        part = f"{part[:_LONGEST_KEPT]}%-{hashlib.sha256(data).hexdigest()}"
    return part or "%"


def _with_identity(pod: Json, user: str, identity: Identity, settings: Settings) -> Json:
    """Run as the person, with their names from files that are there before the container starts.

    The files come from annotations of the pod itself, so that they need no further object.
    """
    pod = merged(
        pod,
        {
            "metadata": {
                "annotations": {
                    PASSWD: passwd_file(user, identity),
                    GROUP: group_file(user, identity),
                }
            },
            "spec": {
                "securityContext": {
                    "runAsUser": identity.uid,
                    "runAsGroup": identity.gid,
                    "supplementalGroups": list(identity.supplementary),
                },
                "volumes": [
                    {
                        "name": NSS_VOLUME,
                        "downwardAPI": {
                            "items": [
                                _file("passwd", PASSWD),
                                _file("group", GROUP),
                            ]
                        },
                    }
                ],
            },
        },
    )
    name = plain_name(user)
    variables = {
        "HOME": identity.home,
        "USER": name,
        "LOGNAME": name,
        "LD_PRELOAD": settings.nss_wrapper,
        "NSS_WRAPPER_PASSWD": f"{NSS_FOLDER}/passwd",
        "NSS_WRAPPER_GROUP": f"{NSS_FOLDER}/group",
    }
    container = {
        "env": [{"name": key, "value": value} for key, value in variables.items()],
        "volumeMounts": [{"name": NSS_VOLUME, "mountPath": NSS_FOLDER, "readOnly": True}],
    }
    # what a container says of its own beats the pod, and would run it as somebody else
    own = dict(server_container(pod).get("securityContext") or {})
    for key in ("runAsUser", "runAsGroup"):
        if key in own:
            container["securityContext"] = {**container.get("securityContext", {}), key: None}  # type: ignore[dict-item]
    return _with_container(pod, container)


def _file(path: str, annotation: str) -> Json:
    return {"path": path, "fieldRef": {"fieldPath": f"metadata.annotations['{annotation}']"}}


def _with_umask(pod: Json) -> Json:
    """Start the server with umask 0002: what it makes in a shared folder belongs to the group.

    Beside it runs what tells the hub what it works at (`qhub_spawner.work`), if there is Python.

    The shell gets a fixed text; the command's own words are its arguments.
    """
    container = server_container(pod)
    words = [*(container.get("command") or ()), *(container.get("args") or ())]
    if not container.get("command") and not words:
        return pod  # the image's own command is not known here
    if not container.get("command"):
        words = list(container["args"])
    shell = _SHELL.format(work=quoted_work())
    return _with_container(pod, {"command": ["/bin/sh", "-c", shell, "qhub"], "args": words})


@cache
def quoted_work() -> str:
    """Return the program that tells the hub what the server works at, as one word of a shell."""
    return shlex.quote((files("qhub_spawner") / "work.py").read_text(encoding="utf-8"))


# --- hardening


def _restricted(pod: Json) -> Json:
    """Fill in what Pod Security `restricted` asks for, where nothing else is configured."""
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
