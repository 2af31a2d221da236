"""What the hub keeps in memory of the pods, events and nodes it watches: little, and no secrets.

Each function leaves what the reader of that kind of object needs, and what a watch needs to tell
versions apart; ``Pod.of(slim(x)) == Pod.of(x)``, and so for the others. None of them raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qhub_spawner.kubernetes import names
from qhub_spawner.kubernetes.documents import Document, items, mapping, picked, text, texts

__all__ = ["START_FAILURES", "slim", "slim_event", "slim_node"]

_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
)
_SPEC = (
    "nodeName",
    "nodeSelector",
    "tolerations",
    "restartPolicy",
    "activeDeadlineSeconds",
    "overhead",
    "resources",
    "priorityClassName",
    "schedulerName",
)
_CONTAINER = ("name", "image", "resources", "ports", "restartPolicy", "restartPolicyRules")
_STATUS = ("phase", "reason", "message", "nominatedNodeName", "podIP", "podIPs", "startTime")
_CONDITION = ("type", "status", "reason", "message", "lastTransitionTime")
_CONTAINER_STATUS = ("name", "restartCount", "ready")
_TERMINATED = ("exitCode", "signal", "reason", "startedAt", "finishedAt")
_NOTES = frozenset({names.USER, names.SERVER})
# What the runtime says of a container that it could not start; any other message of a container
# that has ended may be the end of its log (``terminationMessagePolicy``).
START_FAILURES = frozenset({"StartError", "ContainerCannotRun", "ContainerStatusUnknown"})


def slim(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy that holds only what is read here: what the hub keeps of thousands of pods.

    Secrets have no way in: no ``env``, ``args``, ``command``, probe, managed field, content of a
    volume, nor the message of a container that has ended, which may be the end of its log. Of the
    annotations only those that say whose server it is, and KubeSpawner's, stay.
    ``Pod.of(slim(x)) == Pod.of(x)``; never raises.
    """
    metadata, spec = mapping(manifest, "metadata"), mapping(manifest, "spec")
    status = mapping(manifest, "status")
    kept = picked(metadata, _METADATA)
    kept["annotations"] = {
        name: value
        for name, value in texts(metadata, "annotations").items()
        if name in _NOTES or name.startswith("hub.jupyter.org/")
    }
    kept["ownerReferences"] = [
        picked(each, ("kind", "name", "uid")) for each in items(metadata, "ownerReferences")
    ]
    gates = items(spec, "readinessGates")
    return {
        "metadata": kept,
        "spec": {
            **picked(spec, _SPEC),
            **{
                kind: [picked(each, _CONTAINER) for each in items(spec, kind)]
                for kind in ("containers", "initContainers")
            },
            "readinessGates": [picked(each, ("conditionType",)) for each in gates],
            "volumes": [picked(each, ("name",)) for each in items(spec, "volumes")],
        },
        "status": {
            **picked(status, _STATUS),
            "conditions": [picked(each, _CONDITION) for each in items(status, "conditions")],
            **{
                kind: [_slim_container(each) for each in items(status, kind)]
                for kind in ("containerStatuses", "initContainerStatuses")
            },
        },
    }


def _slim_container(status: Document) -> dict[str, Any]:
    return {
        **picked(status, _CONTAINER_STATUS),
        "state": _slim_state(mapping(status, "state")),
        "lastState": _slim_state(mapping(status, "lastState")),
    }


def _slim_state(state: Document) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, fields in (("waiting", ("reason", "message")), ("running", ("startedAt",))):
        if isinstance(state.get(name), Mapping):
            kept[name] = picked(state[name], fields)
    if isinstance(state.get("terminated"), Mapping):
        ended = mapping(state, "terminated")
        message = ("message",) if text(ended, "reason") in START_FAILURES else ()
        kept["terminated"] = picked(ended, (*_TERMINATED, *message))
    return kept


# --- events

_KEPT = (
    "reason",
    "message",
    "note",
    "type",
    "eventTime",
    "firstTimestamp",
    "lastTimestamp",
    "deprecatedFirstTimestamp",
    "deprecatedLastTimestamp",
    "count",
    "deprecatedCount",
    "reportingComponent",
    "reportingController",
)
_ABOUT = ("kind", "namespace", "name", "uid")


def slim_event(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy that holds only what `Event.of` reads; never raises."""
    metadata = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    kept = picked(manifest, _KEPT)
    kept["metadata"] = picked(mapping(manifest, "metadata"), metadata)
    for name, fields in (
        ("involvedObject", _ABOUT),
        ("regarding", _ABOUT),
        ("series", ("count", "lastObservedTime")),
        ("source", ("component",)),
        ("deprecatedSource", ("component",)),
    ):
        found = mapping(manifest, name)
        if found:
            kept[name] = picked(found, fields)
    return kept


# --- nodes


def slim_node(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a node that holds only what `Node.of` reads; never raises."""
    status = mapping(manifest, "status")
    metadata = ("name", "uid", "resourceVersion", "labels")
    conditions = items(status, "conditions")
    return {
        "metadata": picked(mapping(manifest, "metadata"), metadata),
        "spec": picked(mapping(manifest, "spec"), ("unschedulable", "taints")),
        "status": {
            **picked(status, ("allocatable",)),
            "conditions": [
                picked(each, ("type", "status"))
                for each in conditions
                if text(each, "type") == "Ready"
            ],
        },
    }
