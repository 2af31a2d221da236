"""What a node cannot prepare for a pod: image, volumes, network; recognised in the kubelet's words.

The messages themselves are never passed on: a mount's may hold its options, and so a password.
Forms of kubelet 1.34 and containerd 2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from qhub_spawner.kubernetes.documents import said
from qhub_spawner.kubernetes.events import Event, in_order, latest, since
from qhub_spawner.kubernetes.pods import Pod

__all__ = [
    "IMAGE_REASONS",
    "PREPARING",
    "container_words",
    "image_name",
    "image_words",
    "missing_for_volume",
    "missing_object",
    "missing_program",
    "node_trouble",
]

# secret "jupyter-alice" not found; configmap "settings" not found
_MISSING = re.compile(r"(?P<kind>secret|configmap) \\?\"(?P<name>[\w.-]{1,253})\\?\" not found")
# exec: "jupyterhub-singleuser": executable file not found in $PATH: unknown
_NO_PROGRAM = re.compile(
    r'exec: \\?"(?P<program>[\w./-]{1,80})\\?": (?:executable file not found|'
    r"stat [^:]*: no such file|permission denied)"
)


def missing_object(message: str) -> str:
    """Return which secret or config map a message misses; empty if none."""
    found = _MISSING.search(message)
    if found is None:
        return ""
    return f"{'secret' if found['kind'] == 'secret' else 'config map'} {found['name']}"


def missing_program(message: str) -> str:
    """Return which program the runtime could not run; empty if it is about something else."""
    found = _NO_PROGRAM.search(message)
    return found["program"] if found is not None else ""


# What the kubelet says of a container that it cannot make, by reason CreateContainerConfigError.
# container has runAsNonRoot and image has non-numeric user (jovyan), cannot verify user is non-root
# failed to create subPath directory for volumeMount "qhub-homes" of container "notebook"
# couldn't find key password in Secret people/jupyter-alice
_CONFIG_FAILURES: Sequence[tuple[str, str]] = (
    (
        r"image has non-numeric user \((?P<name>[\w.-]{1,32})\)",
        (
            "its image names its user ({name}) and not a number, so that nobody can tell that it "
            "is not root: it needs another image, or a number from the administrator"
        ),
    ),
    (
        r"image will run as root|breaks non-root policy",
        (
            "its image would run as root, which is not allowed: it needs another image, or a "
            "number from the administrator"
        ),
    ),
    (
        r"image has an invalid user id",
        "its image's user is no number that a server may have: it needs another image",
    ),
    (
        r'(?:create subPath directory|prepare subPath) for volumeMount "(?P<name>[\w.-]{1,63})"',
        (
            "its folder in the volume {name} cannot be had: the administrator has to make it, or "
            "to let nodes make it"
        ),
    ),
    (
        r"couldn't find key (?P<name>[\w.-]{1,253}) in Secret",
        "the secret that its container needs has no {name}",
    ),
    (
        r"couldn't find key (?P<name>[\w.-]{1,253}) in ConfigMap",
        "the config map that its container needs has no {name}",
    ),
)


def container_words(message: str) -> str:
    """Say why a container cannot be made as it is described; empty if that is not known."""
    for pattern, words in _CONFIG_FAILURES:
        found = re.search(pattern, message)
        if found is not None:
            names = {key: said(value, 80) for key, value in found.groupdict().items()}
            return words.format(**names)
    return ""


def image_name(pod: Pod) -> str:
    """Return the image that is waited for."""
    return said(pod.image, 160) if pod.image else "of the server"


IMAGE_REASONS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
_PULL_FAILURES: Sequence[tuple[str, str]] = (
    (
        (
            r"may require auth|unauthori[sz]ed|\bdenied\b|forbidden|\b40[13]\b|authorization failed"
            r"|no basic auth"
        ),
        "there is no such image, or the registry does not let the cluster have it",
    ),
    (r"toomanyrequests|too many requests|\b429\b", "the registry allows no more downloads now"),
    (r"x509|certificate", "the registry's certificate is not trusted"),
    (r"no space left", "the disk of the node is full"),
    (r"no match for platform|exec format", "it is not made for the node's kind of processor"),
    (r"manifest unknown|name unknown|not found|\b404\b|does not exist", "there is no such image"),
    (
        (
            r"no such host|lookup |timeout|timed out|refused|reset by peer|unreachable|\b50\d\b|EOF"
            r"|try again|HTTP response to HTTPS"
        ),
        "the registry cannot be reached",
    ),
)


def image_words(pod: Pod, events: Sequence[Event]) -> str:
    """Say why the image cannot be had, for a reason of `IMAGE_REASONS`."""
    reason, message = pod.waits_for
    image = image_name(pod)
    if reason == "InvalidImageName":
        return f"{image} is not the name of an image"
    if reason == "ErrImageNeverPull":
        return f"the image {image} is not on the node, and may not be fetched (pull policy Never)"
    if reason == "SignatureValidationFailed":
        return f"the signature of the image {image} is not valid"
    for known in (message, *_pull_messages(events)):
        # the image's own name may hold any of the words that are looked for
        plain = known.replace(pod.image, "") if pod.image else known
        for pattern, words in _PULL_FAILURES:
            if re.search(pattern, plain, re.IGNORECASE):
                return f"the image {image} cannot be fetched: {words}"
    return f"the image {image} cannot be fetched"


def _pull_messages(events: Sequence[Event]) -> list[str]:
    """Return what the kubelet says of pulls that failed, the last first."""
    failed = [event for event in in_order(events) if event.reason in {"Failed", "InspectFailed"}]
    return [event.message for event in reversed(failed) if "image" in event.message.lower()]


PREPARING = (
    "FailedMount",
    "FailedMapVolume",
    "FailedAttachVolume",
    "FailedCreatePodSandBox",
    "FailedPrepareDynamicResources",
    "NetworkNotReady",
)
# MountVolume.SetUp failed for volume "home" : hostPath type check failed: /srv is not a directory
_VOLUME = re.compile(r'volume "(?P<name>[^"]{1,253})"')
# Unable to attach or mount volumes: unmounted volumes=[home], unattached volumes=[home shm]: ...
_UNMOUNTED = re.compile(r"unmounted volumes=\[(?P<names>[^\]]+)\]")
_MOUNT_FAILURES: Sequence[tuple[str, str]] = (
    (r"Multi-Attach|already (?:used by|exclusively attached)", "another node still uses it"),
    (
        r"is not a directory|no such file|does not exist|type check failed|stale file handle",
        "its folder is not there",
    ),
    (r"permission denied|access denied|not permitted", "the storage does not allow it"),
    (
        r"timed? ?out|deadline exceeded|no route|refused|unreachable|host is down",
        "the storage does not answer",
    ),
    (r"driver name \S+ not found", "the node has no driver for it"),
)


def node_trouble(event: Event) -> str:
    """Say what keeps a node from preparing a pod. Mount options may hold a password: no quoting."""
    message = event.message
    if event.reason in {"FailedCreatePodSandBox", "NetworkNotReady"}:
        return "the pod's network cannot be set up on its node"
    if event.reason == "FailedPrepareDynamicResources":
        return "the node cannot prepare the devices that it asks for"
    found = _VOLUME.search(message) or _UNMOUNTED.search(message)
    name = said(next(iter(found.groupdict().values())), 80) if found is not None else ""
    volume = f"the volume {name}" if name else "a volume"
    missing = missing_object(message)
    if missing:
        return f"{volume} needs the {missing}, which does not exist"
    for pattern, words in _MOUNT_FAILURES:
        if re.search(pattern, message, re.IGNORECASE):
            return f"{volume} cannot be mounted: {words}"
    return f"{volume} cannot be mounted"


def missing_for_volume(events: Sequence[Event]) -> str | None:
    """Say which object a volume needs that is not there; ``None`` where a volume may still come."""
    problem = latest(events, *PREPARING)
    if problem is None or not missing_object(problem.message):
        return None
    # the volumes were there before its image was fetched
    return None if since(events, problem, "Pulling") else node_trouble(problem)
