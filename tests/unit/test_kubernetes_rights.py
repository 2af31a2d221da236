"""What a hub may do in a cluster, and who may reach whom: the manifests, taken at their word."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from qhub_spawner.kubernetes.names import labels
from qhub_spawner.kubernetes.rights import Site, manifests, policies

SERVER_LABELS = labels("prod", "0123456789abcdef")


@dataclass(frozen=True)
class End:
    """One end of a connection: a pod, or (without labels) whatever else has that address."""

    address: str
    labels: Mapping[str, str] | None = field(default=None, hash=False)
    namespace: str = "people"


SERVER = End("10.1.0.5", SERVER_LABELS)
OTHER = End("10.1.0.6", labels("prod", "fedcba9876543210"))
HUB = End("10.1.0.2", {"component": "hub", "app": "jupyterhub"})
PROXY = End("10.1.0.3", {"component": "proxy"})
GATEWAY = End("10.1.0.4", {"component": "gateway"})
STRANGER = End("10.1.0.7", {"app": "database"})
DNS = End("10.1.9.9", {"k8s-app": "kube-dns"}, "kube-system")
API_SERVER = End("10.96.0.1")


def selects(selector: Mapping[str, Any], found: Mapping[str, str]) -> bool:
    """Whether a label selector (of the kinds that are used here) selects."""
    assert set(selector) <= {"matchLabels"}
    return all(found.get(name) == value for name, value in selector.get("matchLabels", {}).items())


def is_peer(peer: Mapping[str, Any], end: End, policy_namespace: str) -> bool:
    """NetworkPolicyPeer v1: an ipBlock, or a podSelector in the namespaces selected."""
    if "ipBlock" in peer:
        assert set(peer) == {"ipBlock"}
        address, block = ipaddress.ip_address(end.address), peer["ipBlock"]
        blocked = (ipaddress.ip_network(each) for each in block.get("except", ()))
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in each for each in blocked
        )
    if end.labels is None:
        return False
    if "namespaceSelector" in peer:
        named = {"kubernetes.io/metadata.name": end.namespace}
        if not selects(peer["namespaceSelector"], named):
            return False
    elif end.namespace != policy_namespace:
        return False
    return selects(peer["podSelector"], end.labels)


def passes(
    found: list[dict[str, Any]], way: str, who: End, other: End, port: int, protocol: str
) -> bool:
    """Whether the policies let `who` (a pod) talk with `other`, in or out."""
    chosen = [
        policy
        for policy in found
        if policy["metadata"]["namespace"] == who.namespace
        and way in policy["spec"]["policyTypes"]
        and who.labels is not None
        and selects(policy["spec"]["podSelector"], who.labels)
    ]
    side, peers = ("ingress", "from") if way == "Ingress" else ("egress", "to")
    return not chosen or any(
        any(is_peer(peer, other, policy["metadata"]["namespace"]) for peer in rule[peers])
        and any(
            each == {"protocol": protocol, "port": port}
            for each in rule.get("ports", [{"protocol": protocol, "port": port}])
        )
        for policy in chosen
        for rule in policy["spec"][side]
    )


def reaches(site: Site, source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection is let through at both of its ends."""
    found = policies(site)
    return passes(found, "Egress", source, target, port, protocol) and passes(
        found, "Ingress", target, source, port, protocol
    )


@pytest.mark.parametrize(
    ("source", "target", "port", "allowed"),
    [
        # in
        (HUB, SERVER, 8888, True),
        (PROXY, SERVER, 8888, True),
        (GATEWAY, SERVER, 8888, True),
        (HUB, SERVER, 22, False),
        (STRANGER, SERVER, 8888, False),
        (End("10.1.0.2", HUB.labels, "elsewhere"), SERVER, 8888, False),
        (End("10.9.9.9"), SERVER, 8888, False),
        (End("198.51.100.7"), SERVER, 8888, False),
        # servers among themselves, of one hub or of two
        (SERVER, OTHER, 8888, False),
        (SERVER, OTHER, 22, False),
        (SERVER, End("10.1.0.8", labels("test", "00"), "others"), 8888, False),
        # out
        (SERVER, HUB, 8081, True),
        (SERVER, PROXY, 8000, True),
        (SERVER, GATEWAY, 8786, True),
        (SERVER, STRANGER, 5432, False),
        (SERVER, End("198.51.100.7"), 443, True),
        (SERVER, End("2001:db8::7"), 443, True),
        (SERVER, End("192.168.1.9"), 22, False),
        (SERVER, End("172.20.0.9"), 10250, False),
        (SERVER, End("100.100.100.200"), 80, False),
        (SERVER, End("fd12::9"), 443, False),
        (SERVER, End("fe80::1"), 443, False),
        # the clouds' metadata
        (SERVER, End("169.254.169.254"), 80, False),
        (SERVER, End("169.254.170.2"), 80, False),
        (SERVER, End("168.63.129.16"), 80, False),
        (SERVER, End("168.63.129.16"), 32526, False),
        (SERVER, End("fd00:ec2::254"), 80, False),
        # the API server, by its service and where it really is
        (SERVER, API_SERVER, 443, False),
        (SERVER, End("203.0.113.5"), 6443, False),
        (SERVER, End("2001:db8:5::1"), 443, False),
        # names
        (SERVER, DNS, 53, True),
        (SERVER, DNS, 9153, False),
        (SERVER, End("169.254.20.10"), 53, True),
        (SERVER, End("169.254.20.10"), 80, False),
        (SERVER, End("169.254.169.254"), 53, False),
    ],
)
def test_who_may_reach_whom(source: End, target: End, port: int, allowed: bool) -> None:
    """Hub, proxy and gateway come in; servers reach them, names and the world outside; no more."""
    site = Site(namespace="people", api_servers=("203.0.113.0/24", "2001:db8:5::/48"))
    assert reaches(site, source, target, port) is allowed
    if port == 53:
        assert reaches(site, source, target, port, "UDP") is allowed


def test_hub_in_a_namespace_of_its_own() -> None:
    """Then pods that call themselves hub in the servers' namespace are strangers."""
    site = Site(namespace="people", hub_namespace="hub")
    hub = End("10.1.0.2", HUB.labels, "hub")
    assert reaches(site, hub, SERVER, 8888)
    assert reaches(site, SERVER, hub, 8081)
    assert not reaches(site, HUB, SERVER, 8888)
    assert not reaches(site, SERVER, HUB, 8081)


def test_hub_outside_the_cluster() -> None:
    """Its networks are let in, and servers reach it there, though the address is private."""
    site = Site(namespace="people", hub_networks=("10.20.0.0/28",))
    hub, neighbour = End("10.20.0.3"), End("10.20.0.99")
    assert reaches(site, hub, SERVER, 8888)
    assert reaches(site, SERVER, hub, 8081)
    assert not reaches(site, neighbour, SERVER, 8888)
    assert not reaches(site, SERVER, neighbour, 8081)


def test_other_hub_labels_and_port() -> None:
    """The hub's pods are known by the labels given, servers listen at the port given."""
    site = Site(namespace="people", hub_labels={"app": "mine"}, server_port=9999)
    mine = End("10.1.0.2", {"app": "mine"})
    assert reaches(site, mine, SERVER, 9999)
    assert not reaches(site, mine, SERVER, 8888)
    assert not reaches(site, HUB, SERVER, 9999)


def test_other_pods_are_left_alone() -> None:
    """The policies are of servers only: the hub's own pods stay as they are."""
    site = Site(namespace="people")
    assert reaches(site, STRANGER, HUB, 8081)
    assert reaches(site, HUB, API_SERVER, 443)


def granted(site: Site, kind: str) -> set[tuple[str, str]]:
    """Resource and verb of every rule of the roles of one kind."""
    return {
        (resource, verb)
        for manifest in manifests(site)
        if manifest["kind"] == kind
        for rule in manifest["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


NEEDED = {
    *(("pods", verb) for verb in ("get", "list", "watch", "create", "delete")),
    *(("events", verb) for verb in ("get", "list", "watch")),
    *(("resourcequotas", verb) for verb in ("get", "list")),
}


def test_least_rights() -> None:
    """One Role: pods, events and quotas; nothing in the cluster, no secret, no change of a pod."""
    site = Site(namespace="people")
    assert granted(site, "Role") == NEEDED
    assert granted(site, "ClusterRole") == set()
    kinds = [manifest["kind"] for manifest in manifests(site)]
    assert kinds == ["Role", "RoleBinding", "NetworkPolicy", "NetworkPolicy"]
    assert {manifest["metadata"]["namespace"] for manifest in manifests(site)} == {"people"}


@pytest.mark.parametrize(
    ("setting", "role", "cluster_role"),
    [
        (
            "see_nodes",
            set(),
            {(what, verb) for what in ("nodes", "pods") for verb in ("list", "watch")},
        ),
        (
            "storage_claims",
            {("persistentvolumeclaims", verb) for verb in ("get", "create", "delete")},
            set(),
        ),
        (
            "internal_ssl",
            {(what, verb) for what in ("secrets", "services") for verb in ("create", "delete")},
            set(),
        ),
        ("user_namespaces", set(), {*NEEDED, ("namespaces", "get"), ("namespaces", "create")}),
    ],
)
def test_each_setting_adds_what_it_needs(
    setting: str, role: set[tuple[str, str]], cluster_role: set[tuple[str, str]]
) -> None:
    """And no more; a secret can never be read."""
    site = Site(namespace="people", **{setting: True})
    assert granted(site, "Role") == NEEDED | role
    assert granted(site, "ClusterRole") == cluster_role
    everything = granted(site, "Role") | granted(site, "ClusterRole")
    assert not {("secrets", verb) for verb in ("get", "list", "watch")} & everything


def test_no_rule_has_a_wildcard() -> None:
    """Whatever is switched on."""
    site = Site(
        namespace="people",
        hub_namespace="hub",
        see_nodes=True,
        storage_claims=True,
        internal_ssl=True,
        user_namespaces=True,
    )
    for manifest in manifests(site):
        assert "*" not in str(manifest.get("rules", ""))
        for subject in manifest.get("subjects", ()):
            assert subject == {"kind": "ServiceAccount", "name": "hub", "namespace": "hub"}
