"""Nodes, what keeps pods off them, and pools that the cluster lets grow (API reference v1.34)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from qhub_spawner.kubernetes.amounts import PODS, Amounts, amounts_of
from qhub_spawner.kubernetes.documents import Document, flag, items, mapping, text, texts

__all__ = ["Node", "ScalablePool", "Taint", "tolerates"]


class Taint(NamedTuple):
    """What keeps pods off a node; `effect` is ``NoSchedule``, ``PreferNoSchedule``, ``NoExecute``.

    An effect that is empty stands for every effect, as in a toleration.
    """

    key: str
    value: str = ""
    effect: str = "NoSchedule"


def tolerates(tolerations: Iterable[Document], taint: Taint) -> bool:
    """Whether one of a pod's tolerations covers a taint.

    ``Equal`` (the default) wants the same value, ``Exists`` any; an empty key with ``Exists``
    covers every taint, an empty effect every effect (API reference v1.34, ``Toleration``).
    """
    return any(_covers(toleration, taint) for toleration in tolerations)


def _covers(toleration: Document, taint: Taint) -> bool:
    key, effect = text(toleration, "key"), text(toleration, "effect")
    operator = text(toleration, "operator") or "Equal"
    if effect and effect != taint.effect:
        return False
    if key and key != taint.key:
        return False
    if operator == "Exists":
        return True
    return bool(key) and operator == "Equal" and text(toleration, "value") == taint.value


@dataclass(frozen=True, slots=True)
class Node:
    """One node.

    Attributes:
        name: Its name.
        allocatable: What pods may have of it, see `amounts`.
        ready: Whether its kubelet says that it is.
        unschedulable: Whether it is closed to new pods (``kubectl cordon``).
        taints: What keeps pods off it.
        labels: Its labels.
    """

    name: str
    allocatable: Amounts
    ready: bool = True
    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Node:
        """Read a node, or what `slimming.slim_node` left of it; never raises."""
        spec, status = mapping(manifest, "spec"), mapping(manifest, "status")
        return cls(
            name=text(manifest, "metadata", "name"),
            allocatable=amounts_of(mapping(status, "allocatable")),
            ready=any(
                text(condition, "type") == "Ready" and text(condition, "status") == "True"
                for condition in items(status, "conditions")
            ),
            unschedulable=flag(spec, "unschedulable"),
            taints=tuple(
                Taint(text(taint, "key"), text(taint, "value"), text(taint, "effect"))
                for taint in items(spec, "taints")
            ),
            labels=texts(manifest, "metadata", "labels"),
        )

    @property
    def up(self) -> bool:
        """Whether it takes new pods."""
        return self.ready and not self.unschedulable


@dataclass(frozen=True)
class ScalablePool:
    """Nodes that the cluster adds when they are needed, as the hub's configuration says.

    Attributes:
        labels: Labels that its nodes have, and no others have all of.
        taints: Taints that its nodes have.
        max_nodes: How many it may grow to.
        allocatable: What pods may have of one node of it, see `amounts`.
    """

    labels: Mapping[str, str]
    max_nodes: int
    allocatable: Amounts
    taints: tuple[Taint, ...] = ()

    @classmethod
    def of(cls, pool: Mapping[str, Any]) -> ScalablePool:
        """Read one of ``c.KubernetesBackend.scalable_pools``."""
        return cls(
            labels=pool["labels"],
            max_nodes=pool["max_nodes"],
            allocatable=amounts_of(pool.get("allocatable", {})),
            taints=tuple(
                Taint(taint["key"], taint.get("value", ""), taint["effect"])
                for taint in pool.get("taints", ())
            ),
        )

    @property
    def new_node(self) -> Node:
        """A node as it would be added."""
        return Node("", {PODS: 1, **self.allocatable}, taints=self.taints, labels=self.labels)

    def may_grow(self, nodes: Iterable[Node]) -> bool:
        """Whether it has fewer nodes than it may have."""
        wanted = self.labels.items()
        return sum(wanted <= node.labels.items() for node in nodes) < self.max_nodes
