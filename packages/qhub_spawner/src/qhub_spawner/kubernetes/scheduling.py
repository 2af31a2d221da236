"""Why no node is found for a pod, and whether one is added: from the words of the scheduler.

The forms are those of kube-scheduler 1.34 (framework ``FitError`` and the reasons of its plugins;
older forms where they differ), cluster-autoscaler 1.34 and Karpenter 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from qhub_spawner.kubernetes.amounts import Amounts, amount_words
from qhub_spawner.kubernetes.documents import said
from qhub_spawner.kubernetes.events import Event, Told, in_order, latest, read_all
from qhub_spawner.kubernetes.pods import Pod

__all__ = ["Growth", "Want", "find_growth", "find_verdict", "for_want_of_capacity"]


class Want(Enum):
    """What kind of thing is missing."""

    ROOM = "room"
    """Nodes of the right kind are there, and full."""
    CLOSED = "closed"
    """Nodes of the right kind are there, and take no pods now."""
    KIND = "kind"
    """No node is of the kind that is asked for."""
    RESERVED = "reserved"
    """Nodes have taints; the scheduler of 1.34 no longer says which."""
    RULE = "rule"
    """Rules about the places of pods among each other."""
    VOLUME = "volume"
    """A volume is missing, or is bound to other nodes."""
    RELEASE = "release"
    """The pod itself is held back."""
    OTHER = "other"
    """Something this module has no words for."""


_OF_CAPACITY = frozenset({Want.ROOM, Want.CLOSED, Want.KIND, Want.RESERVED, Want.RULE})
# Which of several reasons a person is told: the one that is nearest to a start.
_NEAREST = (
    Want.RELEASE,
    Want.ROOM,
    Want.CLOSED,
    Want.VOLUME,
    Want.RULE,
    Want.KIND,
    Want.RESERVED,
    Want.OTHER,
)

# 0/3 nodes are available: 1 Insufficient memory, 2 node(s) had untolerated taint(s). no new claims
# to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.
_NODES = re.compile(r"0/(?P<nodes>[0-9]+) nodes are available:\s*(?P<rest>.*)", re.DOTALL)
_AFTERWARDS = re.compile(r"\.?\s*(?:no new claims to deallocate,?\s*)?preemption: .*", re.DOTALL)
_REASON = re.compile(r"(?:(?P<count>[0-9]+) )?(?P<text>.+)", re.DOTALL)
_INSUFFICIENT = re.compile(r"Insufficient (?P<resource>\S+)")
# node(s) had untolerated taint {node.kubernetes.io/not-ready: }
_NODE_TROUBLE = re.compile(
    r"taint \{node\.(?:kubernetes|cloudprovider\.kubernetes)\.io/"
    r"(?:not-ready|unreachable|unschedulable|memory-pressure|disk-pressure|pid-pressure"
    r"|network-unavailable|out-of-service|uninitialized|shutdown)\b"
)
_CLAIM = re.compile(r'persistentvolumeclaim "(?P<claim>[^"]*)" (?P<rest>.*)', re.DOTALL)

_REASONS: Sequence[tuple[str, Want, str]] = (
    ("Too many pods", Want.ROOM, "the nodes for it run as many pods as they may"),
    ("didn't have free ports", Want.ROOM, "no node has the ports free that it asks for"),
    ("were unschedulable", Want.CLOSED, "the nodes for it are drained or take no new pods"),
    ("had unknown conditions", Want.CLOSED, "the nodes for it are not ready"),
    ("volume node affinity", Want.VOLUME, "its volume cannot be reached from the free nodes"),
    ("taint", Want.RESERVED, "every node is reserved for others, or in trouble (taints)"),
    ("node affinity", Want.KIND, "no node of the cluster is of the kind it asks for"),
    ("requested node name", Want.KIND, "the node it asks for is not in the cluster"),
    ("affinity", Want.RULE, "no node fits its rules of affinity to other pods"),
    ("topology spread", Want.RULE, "no node fits its rules of topology"),
    ("max volume count", Want.ROOM, "the nodes for it have as many volumes as they may"),
    ("enough free storage", Want.ROOM, "no node has room for its volume"),
    ("volume zone", Want.VOLUME, "its volume is in a zone without a free node"),
    ("available disk", Want.VOLUME, "another pod uses its volume"),
    ("ReadWriteOncePod", Want.VOLUME, "another pod uses its volume"),
    ("non-existent pv", Want.VOLUME, "its volume does not exist any more"),
    ("unbound immediate", Want.VOLUME, "its storage has not been provided yet"),
    ("persistentvolumeclaim", Want.VOLUME, "its storage is not there"),
    ("scheduling gate", Want.RELEASE, "something in the cluster holds it back (scheduling gates)"),
)


@dataclass(frozen=True)
class Verdict:
    """Why the scheduler finds no node.

    Attributes:
        nodes: How many nodes it has looked at.
        want: What is missing.
        words: The same for a person, a phrase.
    """

    nodes: int
    want: Want
    words: str


def find_verdict(pod: Pod, events: Sequence[Event]) -> Verdict | None:
    """Return what the scheduler says of the pod; ``None`` while it has said nothing."""
    if pod.unscheduled.reason == "SchedulingGated":
        return Verdict(0, Want.RELEASE, _reason("waiting for scheduling gates")[1])
    message = pod.unscheduled.message
    if pod.unscheduled.reason != "Unschedulable" or not message:
        ours = [event for event in events if not _of_karpenter(event)]
        found = latest(ours, "FailedScheduling")
        message = found.message if found is not None else ""
    return parse_verdict(message, pod.requests) if message else None


def parse_verdict(message: str, requests: Amounts) -> Verdict:
    """Read a message of the scheduler.

    >>> parse_verdict(
    ...     "0/3 nodes are available: 1 Insufficient nvidia.com/gpu, 2 Insufficient cpu.",
    ...     {"nvidia.com/gpu": 2, "cpu": 4000},
    ... ).words
    'no node has 4 cores and 2 GPUs free'
    """
    if message.startswith("no nodes available"):
        return Verdict(0, Want.CLOSED, "the cluster has no node now")
    found = _NODES.search(message)
    if found is None:
        return Verdict(0, Want.OTHER, f"Kubernetes says: {said(message).rstrip('. ')}")
    rest = _AFTERWARDS.sub("", found["rest"]).rstrip(". ")
    short: list[str] = []
    known: dict[Want, str] = {}
    for part in re.split(r", (?=[0-9]+ )", rest) if rest else ():
        reason = _REASON.fullmatch(part)
        what = reason["text"] if reason is not None else part
        lack = _INSUFFICIENT.fullmatch(what)
        if lack is not None:
            short.append(lack["resource"])
        else:
            want, words = _reason(what)
            known.setdefault(want, words)
    if short:
        known[Want.ROOM] = f"no node has {_together(short, requests)} free"
    want = next((each for each in _NEAREST if each in known), Want.OTHER)
    return Verdict(int(found["nodes"]), want, known.get(want, "no node takes it now"))


def _reason(text: str) -> tuple[Want, str]:
    claim = _CLAIM.search(text)
    if claim is not None and "not found" in claim["rest"]:
        return Want.VOLUME, f"its storage claim {said(claim['claim'], 80)} does not exist"
    if claim is not None and "being deleted" in claim["rest"]:
        return Want.VOLUME, f"its storage claim {said(claim['claim'], 80)} is being deleted"
    if _NODE_TROUBLE.search(text):
        return Want.CLOSED, "the nodes for it are not ready, drained or in trouble"
    for part, want, words in _REASONS:
        if part in text:
            return want, words
    return Want.OTHER, f"Kubernetes says: {said(text).rstrip('. ')}"


def _together(resources: Sequence[str], requests: Amounts) -> str:
    words = [amount_words(name, requests.get(name, 0)) for name in sorted(set(resources))]  # nosec B113
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


# --- scale-up


class Growth(Enum):
    """Whether the cluster adds a node for a pod."""

    SILENT = "silent"
    """Nothing is said: there may be no autoscaler."""
    UNDERWAY = "underway"
    AT_LIMIT = "at limit"
    """The pools have their largest size, or the cluster its largest."""
    FAILED = "failed"
    """A node was asked for, and the cloud has not given it."""
    USELESS = "useless"
    """No node that could be added would be of use."""


_LASTS = timedelta(minutes=15)
"""cluster-autoscaler's ``--max-node-provision-time``: after that the node is not awaited."""

_UNDERWAY = frozenset({"TriggeredScaleUp", "Nominated"})
_AT_LIMIT = ("max node group size reached", "limit reached", "exceed limits", "exceeds limits")


def find_growth(events: Sequence[Event], now: datetime | None = None) -> Growth:
    """Return what cluster-autoscaler or Karpenter said last about the pod.

    Args:
        events: About the pod.
        now: The present; a scale-up that began more than 15 minutes ago is taken as failed. Left
            out, it is awaited for ever.
    """
    for event in reversed(in_order(events)):
        if event.reason in _UNDERWAY:
            late = now is not None and event.last is not None and now - event.last > _LASTS
            return Growth.FAILED if late else Growth.UNDERWAY
        if event.reason == "FailedScaleUp":
            return Growth.FAILED
        if event.reason == "NotTriggerScaleUp" or _of_karpenter(event):
            return _not_grown(event.message)
    return Growth.SILENT


def _of_karpenter(event: Event) -> bool:
    """Whether Karpenter (or a service made from it) says that it has no node for the pod."""
    if event.reason != "FailedScheduling":
        return False
    # Failed to schedule pod, incompatible with nodepool "gpu", daemonset overhead={"cpu":"150m"}
    return event.source == "karpenter" or event.message.startswith("Failed to schedule pod")


def _not_grown(message: str) -> Growth:
    # pod didn't trigger scale-up: 1 max node group size reached, 2 node(s) had untolerated taint(s)
    if any(part in message for part in _AT_LIMIT):
        return Growth.AT_LIMIT
    if "backoff" in message or "had a required offering" in message:
        return Growth.FAILED
    return Growth.USELESS


def for_want_of_capacity(pod: Pod, events: Iterable[Told], now: datetime | None = None) -> bool:
    """Whether the pod cannot run for lack of room, and no node is on its way.

    True where every node is full, closed, or of another kind (a pool that could have been scaled up
    from nothing looks like that), and where a node has sent the pod away for lack of room. False
    where more nodes would not help: a volume is missing, or something holds the pod back. A caller
    gives an autoscaler some time to speak: it takes cluster-autoscaler 10 to 30 s.

    Args:
        pod: The pod.
        events: About it, read or as JSON, in any order.
        now: See `find_growth`.
    """
    if pod.over:
        return sent_away(pod)
    if not pod.unschedulable or pod.deleting or pod.nominated_node:
        return False
    known = read_all(events)
    verdict = find_verdict(pod, known)
    if verdict is None or verdict.want not in _OF_CAPACITY:
        return False
    return find_growth(known, now) is not Growth.UNDERWAY


def sent_away(pod: Pod) -> bool:
    """Whether the node has refused the pod because it has no room after all (kubelet admission)."""
    reason, message = pod.why
    # OutOfcpu; UnexpectedAdmissionError with: Pod was rejected: Allocate failed due to requested
    # number of devices unavailable for nvidia.com/gpu. Requested: 2, Available: 1, which is
    # unexpected
    return reason.startswith("OutOf") or (
        reason == "UnexpectedAdmissionError" and "devices unavailable" in message
    )
