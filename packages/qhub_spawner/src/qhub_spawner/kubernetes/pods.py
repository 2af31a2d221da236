"""A pod as the hub needs to know it, read from the API's JSON (API reference v1.34, ``Pod``).

Nothing is ever concluded from a field that is missing or odd: such a pod's state is `UNKNOWN`,
which is neither running nor over.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, NamedTuple

from qhub_spawner.kubernetes import names
from qhub_spawner.kubernetes.amounts import Amounts, requests_of
from qhub_spawner.kubernetes.documents import (
    Document,
    integer,
    items,
    mapping,
    moment,
    said,
    text,
    texts,
)
from qhub_spawner.kubernetes.slimming import START_FAILURES, slim

__all__ = ["NOT_SAID", "Pod", "PodState", "Why", "slim"]


class PodState(Enum):
    """What becomes of a pod's server. `UNKNOWN` is never an end."""

    PENDING = "pending"
    """No node has been found yet."""
    SCHEDULED = "scheduled"
    """A node has it, and prepares volumes and network."""
    PULLING = "pulling"
    """The node has prepared all that, and fetches the image or makes the container."""
    STARTING = "starting"
    """The container is started, or is started again, or has no address yet."""
    RUNNING = "running"
    """The container runs and the pod has an address."""
    TERMINATING = "terminating"
    """It is being deleted, and its container has not ended yet as far as is known."""
    SUCCEEDED = "succeeded"
    """The server has ended with exit code 0 and will not run again."""
    FAILED = "failed"
    """The server has ended in another way and will not run again."""
    UNKNOWN = "unknown"
    """Kubernetes does not say, or its node does not answer."""

    @property
    def over(self) -> bool:
        """Whether Kubernetes says that the server has ended and will not run again."""
        return self in {PodState.SUCCEEDED, PodState.FAILED}

    @property
    def waiting(self) -> bool:
        """Whether the server is still to come."""
        return self in _WAITING


_WAITING = frozenset({PodState.PENDING, PodState.SCHEDULED, PodState.PULLING, PodState.STARTING})


class Why(NamedTuple):
    """A reason, one word of Kubernetes, and the message that goes with it, as `said` leaves it."""

    reason: str = ""
    message: str = ""


NOT_SAID = Why()

_LONGEST_MESSAGE = 1024


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod; times are aware UTC.

    Attributes:
        name: Its name; `namespace` and `uid` as the API has them.
        state: What becomes of the server.
        phase: Kubernetes' own word for the whole pod.
        node: Where it runs, or will.
        nominated_node: Where the scheduler makes room for it by ending others.
        ip: The first address, v4 or v6 without brackets; empty until there is one.
        created: When the API server took it.
        started: Since when the server's container runs; ``None`` while it does not.
        deadline: When Kubernetes ends it, if it has a walltime.
        deleting: Whether it is being deleted.
        exit_code: Of the server's container, or of the init container that failed.
        restarts: How often the server's container was started again.
        image: Of the container that is waited for.
        failed_before: The init container that failed, so that the server never ran.
        why: The pod's own reason, e.g. ``Evicted``, ``DeadlineExceeded``, ``NodeLost``.
        unscheduled: Of the condition ``PodScheduled``, while it is false.
        waits_for: Why the server's container waits, or the init container before it.
        terminated: How the server's container ended, e.g. ``OOMKilled``.
        disruption: Of the condition ``DisruptionTarget``: why the pod has to go.
        hub_id: Of the hub it belongs to; empty if it is not one of qhub's.
        spawn_id: Of the start that made it.
        user: Whose server it is, in full; `server` is that server's name.
        requests: What it occupies, see `amounts`.
        node_selector: Labels that its node must have.
        tolerations: Taints that its node may have, as in ``PodSpec``.
        owner: The kind of what made it, e.g. ``DaemonSet``; empty for the hub's pods.
    """

    name: str = ""
    namespace: str = ""
    uid: str = ""
    state: PodState = PodState.UNKNOWN
    phase: str = ""
    node: str = ""
    nominated_node: str = ""
    ip: str = ""
    created: datetime | None = None
    started: datetime | None = None
    deadline: datetime | None = None
    deleting: bool = False
    exit_code: int | None = None
    restarts: int = 0
    image: str = ""
    failed_before: str = ""
    why: Why = NOT_SAID
    unscheduled: Why = NOT_SAID
    waits_for: Why = NOT_SAID
    terminated: Why = NOT_SAID
    disruption: Why = NOT_SAID
    hub_id: str = ""
    spawn_id: str = ""
    user: str = ""
    server: str = ""
    requests: Amounts = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Document] = ()
    owner: str = ""

    @property
    def over(self) -> bool:
        """Whether Kubernetes says that the server has ended and will not run again."""
        return self.state.over

    @property
    def running(self) -> bool:
        """Whether the server's container runs and the pod has an address."""
        return self.state is PodState.RUNNING

    @property
    def waiting(self) -> bool:
        """Whether the server is still to come."""
        return self.state.waiting

    @property
    def holds_room(self) -> bool:
        """Whether the scheduler counts its requests on its node: until all containers ended."""
        return bool(self.node) and self.phase not in _TERMINAL_PHASES

    @property
    def unschedulable(self) -> bool:
        """Whether the scheduler has found no node for it."""
        return self.state is PodState.PENDING and self.unscheduled.reason == "Unschedulable"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Every reason that Kubernetes gives, the pod's own first."""
        all_of_them = (
            self.why,
            self.disruption,
            self.terminated,
            self.waits_for,
            self.unscheduled,
        )
        return tuple(each.reason for each in all_of_them if each.reason)

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Pod:
        """Read a pod, or what `slim` left of it; never raises.

        Source: API reference v1.34, ``Pod``, ``PodStatus``, ``ContainerStatus``.
        """
        metadata, spec = mapping(manifest, "metadata"), mapping(manifest, "spec")
        status = mapping(manifest, "status")
        labels, notes = texts(metadata, "labels"), texts(metadata, "annotations")
        server = _server_container(spec, status)
        own = _status_of(status, "containerStatuses", text(server, "name"))
        ended = mapping(own, "state", "terminated")
        if not ended and not _runs(own):
            ended = mapping(own, "lastState", "terminated")
        failed = _failed_before(status, own)
        if failed:
            ended = mapping(failed, "state", "terminated")
        waits_for, waiting_container = _waits_for(spec, status, own, server)
        return cls(
            name=text(metadata, "name"),
            namespace=text(metadata, "namespace"),
            uid=text(metadata, "uid"),
            state=_state(manifest, own),
            phase=text(status, "phase"),
            node=text(spec, "nodeName"),
            nominated_node=text(status, "nominatedNodeName"),
            ip=_address(status),
            created=moment(metadata, "creationTimestamp"),
            started=moment(own, "state", "running", "startedAt"),
            deadline=_deadline(spec, status),
            deleting=bool(metadata.get("deletionTimestamp")),
            exit_code=integer(ended, "exitCode"),
            restarts=integer(own, "restartCount") or 0,
            image=text(waiting_container, "image"),
            failed_before=text(failed, "name"),
            why=_why(status),
            unscheduled=_condition(status, "PodScheduled", "False"),
            waits_for=waits_for,
            terminated=_ending(ended),
            disruption=_condition(status, "DisruptionTarget", "True"),
            hub_id=labels.get(names.HUB, ""),
            spawn_id=labels.get(names.SPAWN, ""),
            user=notes.get(names.USER, ""),
            server=notes.get(names.SERVER, ""),
            requests=requests_of(manifest),
            node_selector=texts(spec, "nodeSelector"),
            tolerations=tuple(items(spec, "tolerations")),
            owner=_owner(metadata),
        )


# --- parts of a manifest


def _server_container(spec: Document, status: Document) -> Document:
    """Return the container that the server runs in: the one of that name, else the first."""
    known = items(spec, "containers") or items(status, "containerStatuses")
    named = (each for each in known if text(each, "name") == names.SERVER_CONTAINER)
    return next(named, known[0] if known else {})


def _status_of(status: Document, kind: str, name: str) -> Document:
    return next((each for each in items(status, kind) if text(each, "name") == name), {})


def _runs(own: Document) -> bool:
    return isinstance(mapping(own, "state").get("running"), Mapping)


def _why(holder: Document) -> Why:
    return Why(text(holder, "reason"), said(text(holder, "message"), _LONGEST_MESSAGE))


def _ending(ended: Document) -> Why:
    reason = text(ended, "reason")
    return _why(ended) if reason in START_FAILURES else Why(reason)


def _condition(status: Document, kind: str, value: str) -> Why:
    for condition in items(status, "conditions"):
        if text(condition, "type") == kind and text(condition, "status") == value:
            return _why(condition)
    return NOT_SAID


def _condition_is(status: Document, kind: str, value: str) -> bool:
    return any(
        text(condition, "type") == kind and text(condition, "status") == value
        for condition in items(status, "conditions")
    )


def _address(status: Document) -> str:
    own = _ip(text(status, "podIP"))
    others = (_ip(text(each, "ip")) for each in items(status, "podIPs"))
    return own or next(filter(None, others), "")


@functools.lru_cache(maxsize=8192)
def _ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text)) if text and "%" not in text else ""
    except ValueError:
        return ""


def _deadline(spec: Document, status: Document) -> datetime | None:
    begun, seconds = moment(status, "startTime"), integer(spec, "activeDeadlineSeconds")
    if begun is None or seconds is None:
        return None
    try:
        return begun + timedelta(seconds=seconds)
    except OverflowError:
        return None


def _owner(metadata: Document) -> str:
    owners = items(metadata, "ownerReferences")
    return text(owners[0], "kind") if owners else ""


def _waits_for(
    spec: Document, status: Document, own: Document, server: Document
) -> tuple[Why, Document]:
    """Return why the server's container waits, and whose image that is about."""
    waiting = _why(mapping(own, "state", "waiting"))
    if waiting.reason not in {"", "PodInitializing"} or _runs(own):
        return waiting, server
    for before in items(status, "initContainerStatuses"):
        found = _why(mapping(before, "state", "waiting"))
        if found.reason not in {"", "PodInitializing"}:
            all_of_them = items(spec, "initContainers")
            same = (each for each in all_of_them if text(each, "name") == text(before, "name"))
            return found, next(same, {})
    return waiting, server


def _failed_before(status: Document, own: Document) -> Document:
    """Return the init container that failed while the server's own still waited for it."""
    if _runs(own) or mapping(own, "state", "terminated"):
        return {}
    for before in items(status, "initContainerStatuses"):
        if integer(before, "state", "terminated", "exitCode"):
            return before
    return {}


# --- the state

_TERMINAL_PHASES = {"Succeeded": PodState.SUCCEEDED, "Failed": PodState.FAILED}


def _state(manifest: Document, own: Document) -> PodState:
    """Tell the state; `own` is the status of the server's container.

    A phase that is terminal is a promise of Kubernetes ("all containers have terminated, and will
    not be restarted"), whatever else stands there. Anything else of a node that does not answer is
    old news.
    """
    metadata, spec = mapping(manifest, "metadata"), mapping(manifest, "spec")
    status = mapping(manifest, "status")
    phase = text(status, "phase")
    if phase in _TERMINAL_PHASES:
        return _TERMINAL_PHASES[phase]
    believed = phase == "Pending" or (phase == "Running" and bool(text(own, "name")))
    if not believed or _node_lost(spec, status):
        return PodState.UNKNOWN
    deleting = bool(metadata.get("deletionTimestamp"))
    ended = mapping(own, "state", "terminated")
    code = integer(ended, "exitCode")
    if code is not None and (deleting or not _runs_again(spec, text(own, "name"), code)):
        return PodState.FAILED if code else PodState.SUCCEEDED
    if deleting:
        return PodState.TERMINATING
    return _progress(spec, status, own)


def _progress(spec: Document, status: Document, own: Document) -> PodState:
    """Tell how far a pod is that neither ends nor has ended."""
    if not text(spec, "nodeName"):
        return PodState.PENDING
    if _runs(own):
        return PodState.RUNNING if _address(status) else PodState.STARTING
    if mapping(own, "state", "terminated") or integer(own, "restartCount"):
        return PodState.STARTING
    prepared = _condition_is(status, "PodReadyToStartContainers", "True")
    return PodState.PULLING if prepared else PodState.SCHEDULED


def _node_lost(spec: Document, status: Document) -> bool:
    """Whether Kubernetes has lost sight of the pod's node.

    The node lifecycle controller turns ``Ready`` of its pods to false and leaves
    ``ContainersReady`` as the kubelet wrote it last; the kubelet itself never tells the two apart,
    unless the pod has readiness gates.
    """
    if text(status, "reason") == "NodeLost":
        return True
    return (
        not items(spec, "readinessGates")
        and _condition_is(status, "Ready", "False")
        and _condition_is(status, "ContainersReady", "True")
    )


def _runs_again(spec: Document, name: str, code: int) -> bool:
    """Whether a container that has ended may be started again; yes, where that is not known."""
    own = next((each for each in items(spec, "containers") if text(each, "name") == name), {})
    if own.get("restartPolicyRules"):
        return True
    policy = text(own, "restartPolicy") or text(spec, "restartPolicy")
    return not (policy == "Never" or (policy == "OnFailure" and code == 0))
