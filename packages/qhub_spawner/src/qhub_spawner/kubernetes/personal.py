"""What a person has of their own in a pod: home, shared folders, numbers and names. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qhub_spawner.identity import Identity, group_file, passwd_file, plain_name
from qhub_spawner.kubernetes.merging import merged, server_container, with_container
from qhub_spawner.kubernetes.names import GROUP, PASSWD

Json = dict[str, Any]

_LONGEST_PART, _LONGEST_KEPT = 240, 150
NSS_FOLDER = "/etc/qhub"
NSS_VOLUME = "qhub-names"


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


def with_storage(pod: Json, user: str, identity: Identity | None, storage: Storage) -> Json:
    """Mount the person's home and their groups' folders, each where it belongs."""
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
    return with_container(pod, container)


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


def with_identity(
    pod: Json, user: str, identity: Identity, nss_wrapper: str, *, strict_groups: bool = True
) -> Json:
    """Run as the person, with their names from files that are there before the container starts.

    The files come from annotations of the pod itself, so that they need no further object. The
    person's groups are the only ones: neither a group for volumes that everybody has, nor those
    that the image's own ``/etc/group`` gives to their number.

    Args:
        pod: It is not changed.
        user: The person's name.
        identity: Their numbers, home and groups.
        nss_wrapper: The library that reads the files.
        strict_groups: Whether the node must keep the image from adding groups.
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
                    "supplementalGroupsPolicy": "Strict" if strict_groups else None,
                    # the kubelet would give shared folders to this group as well
                    "fsGroup": None,
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
        "LD_PRELOAD": nss_wrapper,
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
    return with_container(pod, container)


def _file(path: str, annotation: str) -> Json:
    return {"path": path, "fieldRef": {"fieldPath": f"metadata.annotations['{annotation}']"}}
