"""Why a pod waits or has ended, in words for the person whose server it is.

Text that the cluster wrote itself goes through `documents.said`; messages that may quote a command
or a mount's options are never passed on, only what is recognised in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from qhub_spawner.errors import ValueRefusedError
from qhub_spawner.kubernetes.amounts import MEMORY, amount_words, left_words, parse_bytes
from qhub_spawner.kubernetes.documents import said
from qhub_spawner.kubernetes.events import Event, Told, in_order, latest, read_all, since
from qhub_spawner.kubernetes.pods import Pod, PodState
from qhub_spawner.kubernetes.refusals import quota_words, refusal_words
from qhub_spawner.kubernetes.scheduling import (
    Growth,
    find_growth,
    find_verdict,
    for_want_of_capacity,
    sent_away,
)
from qhub_spawner.kubernetes.troubles import (
    IMAGE_REASONS,
    PREPARING,
    container_words,
    image_name,
    image_words,
    missing_for_volume,
    missing_object,
    missing_program,
    node_trouble,
)

__all__ = [
    "Granted",
    "ending_words",
    "for_want_of_capacity",
    "quota_words",
    "refusal_words",
    "stuck_words",
    "waiting_words",
]


@dataclass(frozen=True)
class Granted:
    """What a server was granted, as its person knows it; for the words of its end."""

    memory: str = ""
    walltime: str = ""


# --- while it waits

_GROWTH: Mapping[Growth, str] = {
    Growth.SILENT: "it starts as soon as one has",
    Growth.UNDERWAY: "the cluster adds one now, which takes some minutes",
    Growth.AT_LIMIT: "the cluster adds no more nodes of this kind",
    Growth.FAILED: "the cluster could not add one and tries again later",
    Growth.USELESS: "adding a node would not help",
}


def waiting_words(pod: Pod, events: Iterable[Told], *, now: datetime) -> tuple[str, int]:
    """Return what a person reads while the server starts, and how far it is in percent.

    Args:
        pod: The pod.
        events: About it, read or as JSON, in any order.
        now: The present.
    """
    known = read_all(events)
    on = f"node {said(pod.node, 80)}" if pod.node else "its node"
    state = pod.state
    if state is PodState.PENDING:
        return _waiting_for_a_node(pod, known, now)
    if state in {PodState.SCHEDULED, PodState.PULLING, PodState.STARTING}:
        return _starting(pod, known, on, now)
    if state is PodState.RUNNING:
        return f"The server runs on {on}; it is starting to listen.", 75
    if state is PodState.TERMINATING:
        return f"The pod is being ended: {_disrupted(pod, known) or 'it was deleted'}.", 90
    if state.over:
        return "The server has ended.", 90
    if pod.node:
        return f"{_sentence(on)} does not answer Kubernetes; the server may still run there.", 50
    return "Kubernetes says nothing of the pod now.", 10


def _waiting_for_a_node(pod: Pod, events: Sequence[Event], now: datetime) -> tuple[str, int]:
    if pod.nominated_node:
        node = said(pod.nominated_node, 80)
        return f"Kubernetes ends pods of lower priority on node {node} to make room for it.", 25
    verdict = find_verdict(pod, events)
    growth = find_growth(events, now)
    if verdict is None:
        return "Kubernetes looks for a node.", 10
    if growth is Growth.SILENT and not verdict.words.startswith("no node has "):
        return f"{_sentence(verdict.words)}.", 15
    percent = 20 if growth is Growth.UNDERWAY else 15
    return f"{_sentence(verdict.words)}: {_GROWTH[growth]}.", percent


def _starting(pod: Pod, events: Sequence[Event], on: str, now: datetime) -> tuple[str, int]:
    stuck = stuck_words(pod, events)
    if stuck is not None:
        percent = 30 if pod.waits_for.reason in _BEFORE_IMAGES else 45
        return f"{_sentence(stuck)}; Kubernetes tries again.", percent
    if pod.state is PodState.SCHEDULED:
        return _preparing(events, on)
    if pod.state is PodState.STARTING:
        return f"The container starts on {on}.", 65
    return _pulling(pod, events, on, now)


_BEFORE_IMAGES = frozenset({"", "ContainerCreating", "PodInitializing"})


def _preparing(events: Sequence[Event], on: str) -> tuple[str, int]:
    problem = latest(events, *PREPARING)
    if problem is None or since(events, problem, "SuccessfulAttachVolume"):
        return f"The server was given {on}, which prepares its volumes and network.", 30
    return f"{_sentence(node_trouble(problem))}; Kubernetes tries again.", 30


def _pulling(pod: Pod, events: Sequence[Event], on: str, now: datetime) -> tuple[str, int]:
    pulling, pulled = latest(events, "Pulling"), latest(events, "Pulled")
    if pulling is not None and (pulled is None or not since(events, pulling, "Pulled")):
        so_far = _minutes(pulling, now)
        return f"{_sentence(on)} fetches the image {image_name(pod)}{so_far}.", 40
    if pulled is not None:
        return f"The image is on {on}, which makes the container.", 60
    return f"{_sentence(on)} prepares the container.", 45


def _minutes(event: Event, now: datetime) -> str:
    if event.last is None:
        return ""
    minutes = int((now - event.last).total_seconds()) // 60
    return f" ({minutes} min so far)" if minutes >= 1 else ""


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


# --- what does not mend itself

_STUCK: Mapping[str, str] = {
    "CreateContainerConfigError": "its container cannot be made as it is described",
    "CreateContainerError": "its container cannot be made",
    "RunContainerError": "its container cannot be started",
    "PreCreateHookError": "its container cannot be made",
    "PreStartHookError": "its container cannot be started",
    "PostStartHookError": "what runs after the start of its container (postStart) failed",
    "CreatePodSandboxError": "the pod's network cannot be set up on its node",
    "ConfigPodSandboxError": "the pod's network cannot be set up on its node",
}


def stuck_words(pod: Pod, events: Iterable[Told]) -> str | None:
    """Return why the container cannot start as things are, a phrase; ``None`` where it may.

    The kubelet goes on trying; whoever waits decides how long that is worth it. A registry that
    cannot be reached may come back, a misspelt image never does.
    """
    reason, message = pod.waits_for
    if reason in IMAGE_REASONS:
        return image_words(pod, read_all(events))
    if reason == "CrashLoopBackOff" or (pod.state is PodState.STARTING and pod.terminated.reason):
        again = f" {pod.restarts + 1} times" if pod.restarts else ""
        return f"the server ended{again}: {_container_words(pod, Granted())[1]}"
    missing, program = missing_object(message), missing_program(message)
    if missing:
        return f"the {missing} that its container needs does not exist"
    if program:
        return f"the program {program} cannot be run in the image {image_name(pod)}"
    known = container_words(message) or _STUCK.get(reason)
    if known is None and pod.state is PodState.SCHEDULED:
        return missing_for_volume(read_all(events))
    return known


# --- when it has ended

_ENDED_BY_ITSELF = "it ended by itself"
_PREEMPTED = "a pod with a higher priority took its place on {node} (preempted)"
_LOST = "{node} stopped answering"
_DISRUPTIONS: Mapping[str, str] = {
    # reasons of the condition DisruptionTarget
    "PreemptionByScheduler": _PREEMPTED,
    "DeletionByTaintManager": "{node} was closed to it (a taint was set)",
    "EvictionByEvictionAPI": "{node} was drained, and it was evicted",
    "DeletionByPodGC": "{node} is gone",
    # reasons of events
    "Preempted": _PREEMPTED,
    "Preempting": _PREEMPTED,
    "TaintManagerEviction": "{node} was closed to it (a taint was set)",
    "NodeControllerEviction": _LOST,
    "ScaleDown": "{node} was removed to make the cluster smaller",
    "DisruptionTerminating": "{node} was replaced",
}
_KUBELET_ENDINGS: Mapping[str, str] = {
    # reasons of the pod's status
    "NodeLost": _LOST,
    "NodeShutdown": "{node} was shutting down",
    "Terminated": "{node} was shut down",
    "Shutdown": "{node} was shut down",
    "Preempting": _PREEMPTED,
    "NodeAffinity": "{node} is no longer of the kind it asks for",
    "TopologyAffinityError": "{node} could not give it what it asks for in one place",
    "UnexpectedAdmissionError": "{node} did not take it",
    "SupplementalGroupsPolicyNotSupported": (
        "{node} cannot keep an image from adding groups (supplementalGroupsPolicy); the "
        "administrator can help"
    ),
}
_TERMINATIONS: Mapping[str, str] = {
    "ContainerCannotRun": "its container could not be run on {node}",
    "StartError": "its container could not be started on {node}",
    "DeadlineExceeded": "its walltime ended",
    "ContainerStatusUnknown": "{node} lost sight of it",
}


def ending_words(pod: Pod | None, events: Iterable[Told], granted: Granted) -> tuple[int, str]:
    """Return the exit code and why a server is over, a phrase.

    The exit code is 0 only for a server that ended by itself with 0; what others have ended has
    another even where the server took it well.

    Args:
        pod: As it was seen last, and if it was not over then it is gone now; ``None`` where it
            never was seen.
        events: About it, read or as JSON, in any order.
        granted: The limits that the person chose.
    """
    if pod is None:
        return 1, "Kubernetes has no pod of it any more, and keeps nothing that could say why"
    outside = _ended_from_outside(pod, read_all(events), granted)
    if outside:
        return pod.exit_code or 1, outside
    if pod.over:
        return _container_words(pod, granted)
    return pod.exit_code or 1, _deleted(pod)


def _ended_from_outside(pod: Pod, events: Sequence[Event], granted: Granted) -> str:
    reason, message = pod.why
    if reason == "DeadlineExceeded":
        return f"its walltime{_of(granted.walltime)} ended"
    if reason == "Evicted":
        return _evicted(message, events)
    if sent_away(pod):
        return f"{_node(pod)} had no room for it any more{_asked(pod)}"
    if reason in _KUBELET_ENDINGS:
        return _KUBELET_ENDINGS[reason].format(node=_node(pod))
    if pod.terminated.reason == "OOMKilled":
        return f"its memory limit{_of(granted.memory)} was reached"
    return _disrupted(pod, events)


def _disrupted(pod: Pod, events: Sequence[Event]) -> str:
    """Say who makes the pod go; empty where nothing points at anybody."""
    reason = pod.disruption.reason
    if reason == "TerminationByKubelet":
        return _evicted(pod.disruption.message, events)
    for event in reversed(in_order(events)):
        # TaintManagerEviction: Cancelling deletion of Pod lab/jupyter-alice
        if reason or event.message.startswith("Cancelling"):
            break
        if event.reason == "Evicted":
            return _evicted(event.message, events)
        if event.reason in _DISRUPTIONS:
            reason = event.reason
    if reason in _BY_TAINT and latest(events, "NodeNotReady") is not None:
        return _LOST.format(node=_node(pod))
    return _DISRUPTIONS.get(reason, "").format(node=_node(pod))


_BY_TAINT = frozenset({"DeletionByTaintManager", "TaintManagerEviction"})


# The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi.
_LOW = re.compile(r"low on resource: (?P<resource>[\w.-]+?)\.(?:\s|$)")
# Usage of EmptyDir volume "scratch" exceeds the limit "64Mi".
_FULL_VOLUME = re.compile(
    r'EmptyDir volume "(?P<name>[^"]{1,63})" exceeds the limit "(?P<limit>[^"]{1,32})"'
)
# Container notebook exceeded its local ephemeral storage limit "1Gi".
_FULL_DISK = re.compile(
    r'ephemeral (?:local )?storage (?:limit|usage)[^"]*"(?P<limit>[^"]{1,32})"'
    r"|ephemeral local storage usage exceeds the total limit of containers (?P<total>\w{1,32})"
)
_SHORT: Mapping[str, str] = {
    "memory": "its node ran out of memory",
    "ephemeral-storage": "the disk of its node was full",
    "inodes": "the disk of its node could hold no more files",
    "pids": "its node could run no more processes",
}


def _evicted(message: str, events: Sequence[Event]) -> str:
    if not message:
        found = latest(events, "Evicted")
        message = found.message if found is not None else ""
    volume = _FULL_VOLUME.search(message)
    if volume is not None:
        limit = _size_words(volume["limit"])
        return f"its volume {said(volume['name'])} held more than the limit of {limit}"
    disk = _FULL_DISK.search(message)
    if disk is not None:
        limit = _size_words(disk["limit"] or disk["total"])
        return f"its limit of {limit} of local disk space was reached"
    low = _LOW.search(message)
    if low is not None:
        resource = low["resource"]
        why = _SHORT.get(resource, f"its node had no {said(resource, 40)} left")
        return f"{why}, and it was evicted"
    if "drain" in message.lower() or "eviction API" in message:
        return "its node was drained, and it was evicted"
    return "it was evicted from its node"


def _size_words(quantity: str) -> str:
    try:
        return left_words(MEMORY, parse_bytes(quantity))
    except ValueRefusedError:
        return said(quantity, 20)


def _container_words(pod: Pod, granted: Granted) -> tuple[int, str]:
    """Say how the server's container ended by itself, or was made to."""
    if pod.state is PodState.SUCCEEDED and not pod.deleting:
        return 0, _ENDED_BY_ITSELF
    code = pod.exit_code or 1
    never_ran = _never_ran(pod, code)
    if never_ran:
        return code, never_ran
    if pod.terminated.reason == "OOMKilled":
        return code, f"its memory limit{_of(granted.memory)} was reached"
    if pod.deleting:
        return code, _deleted(pod)
    if _SIGNALS.start < code < _SIGNALS.stop:
        return code, f"it was killed by signal {code - _SIGNALS.start}{_on(pod)}"
    if pod.exit_code is None:
        return code, said(pod.why.message) or "Kubernetes does not say why"
    return code, f"it failed with exit code {code}{_on(pod)}"


def _never_ran(pod: Pod, code: int) -> str:
    """Say why the server's program did not even run, or ran out of sight."""
    reason, message = pod.terminated
    if pod.failed_before:
        return (
            f"what prepares its start ({said(pod.failed_before, 80)}) failed with exit code {code}"
        )
    program = missing_program(message)
    if program:
        return f"the program {program} cannot be run in its image"
    return _TERMINATIONS.get(reason, "").format(node=_node(pod))


_SIGNALS = range(128, 128 + 65)


def _deleted(pod: Pod) -> str:
    return f"its pod was deleted{_on(pod)}, not by the hub"


def _of(limit: str) -> str:
    return f" of {limit}" if limit else ""


def _node(pod: Pod) -> str:
    return f"its node {said(pod.node, 80)}" if pod.node else "its node"


def _on(pod: Pod) -> str:
    return f" on {said(pod.node, 80)}" if pod.node else ""


def _asked(pod: Pod) -> str:
    resource = pod.why.reason.removeprefix("OutOf")
    if pod.why.reason.startswith("OutOf") and pod.requests.get(resource):
        return f" ({amount_words(resource, pod.requests[resource])})"
    for name, amount in pod.requests.items():
        if f"unavailable for {name}." in pod.why.message:
            return f" ({amount_words(name, amount)})"
    return ""
