"""Nodes and pods by the thousand that do not run: kwok plays their kubelets.

The API server, the scheduler and the controllers are the real ones; a pod on a fake node is soon
Running, and nothing runs. Fake nodes are tainted, so that no pod lands there unasked.
"""

from __future__ import annotations

from collections.abc import Mapping

from .places import Addresses, Places

TAINT = "kwok.x-k8s.io/node"
SELECTOR = {"type": "kwok"}
TOLERATION = {"key": TAINT, "operator": "Equal", "value": "fake", "effect": "NoSchedule"}
PORT = 10247
CAPACITY = {"cpu": "32", "memory": "256Gi", "pods": "110", "ephemeral-storage": "1Ti"}


def command(places: Places, program: str) -> list[str]:
    """The command of kwok, for the nodes that `node` describes."""
    return [
        program,
        f"--kubeconfig={places.kubeconfigs}/admin.yaml",
        "--manage-all-nodes=false",
        f"--manage-nodes-with-annotation-selector={TAINT}=fake",
        f"--cidr={places.addresses.fake_pods}",
        f"--node-ip={fake_node_address(places.addresses)}",
        "--node-lease-duration-seconds=40",
        f"--server-address=127.0.0.1:{PORT}",
    ]


def fake_node_address(addresses: Addresses) -> str:
    """The address that fake nodes say they have; nothing is there."""
    return str(addresses.fake_pods[-2])


def node(name: str, capacity: Mapping[str, str] | None = None) -> dict[str, object]:
    """The manifest of a fake node.

    Args:
        name: Its name.
        capacity: Resources that it has, beside or instead of those in `CAPACITY`.
    """
    resources = {**CAPACITY, **(capacity or {})}
    labels = {**SELECTOR, "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": {TAINT: "fake"}},
        "spec": {"taints": [{"key": TAINT, "value": "fake", "effect": "NoSchedule"}]},
        "status": {"capacity": resources, "allocatable": resources},
    }
