"""What hub and gateway need in a cluster: their rights, and who may reach whom. Pure.

``qhub-spawner manifests`` prints them. Sources: RBAC v1 and NetworkPolicy v1, Kubernetes 1.34.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qhub_spawner.kubernetes.names import GATEWAY, MANAGED_BY, MANAGER

Json = dict[str, Any]

_RBAC = "rbac.authorization.k8s.io"
METADATA_ADDRESSES = ("169.254.0.0/16", "168.63.129.16/32", "fd00:ec2::254/128")
"""Where clouds tell a machine its own secrets: the usual ones, and Azure's host."""
_PRIVATE_NETWORKS = (
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "fc00::/7",
    "fe80::/10",
)


@dataclass(frozen=True)
class Site:
    """Where the hub and its people's servers are.

    Attributes:
        namespace: Of the servers.
        hub_namespace: Of the hub; empty for the same.
        service_account: Of the hub.
        gateway_account: Of the Dask gateway, in the hub's namespace; empty if there is none.
        hub_labels: Labels of the hub's pods, and of the proxy's.
        server_port: Where servers listen.
        see_nodes: Whether ``KubernetesBackend.availability_from`` is ``nodes``.
        storage_claims: Whether ``KubeSpawner.storage_pvc_ensure`` is on.
        internal_ssl: Whether the hub and the servers talk over TLS.
        user_namespaces: Whether every person has a namespace.
        api_servers: Networks of the API server, as CIDR, which servers must not reach.
        hub_networks: Networks that the hub's connections come from, where it is not a pod.
        name_servers: Networks of name servers that are not pods; by default NodeLocal DNSCache's.
    """

    namespace: str
    hub_namespace: str = ""
    service_account: str = "hub"
    gateway_account: str = ""
    hub_labels: Mapping[str, str] | None = None
    server_port: int = 8888
    see_nodes: bool = False
    storage_claims: bool = False
    internal_ssl: bool = False
    user_namespaces: bool = False
    api_servers: tuple[str, ...] = ()
    hub_networks: tuple[str, ...] = ()
    name_servers: tuple[str, ...] = ("169.254.20.10/32",)


def manifests(site: Site) -> list[Json]:
    """Return everything a hub needs: a Role and its binding, the policies, and no more.

    With a gateway, everything that it needs, too.
    """
    found = [_role(site), _binding(site), *policies(site)]
    if site.gateway_account:
        found += [_gateway_role(site), _gateway_binding(site), *_gateway_policies(site)]
    if site.see_nodes or site.user_namespaces:
        found += [_cluster_role(site), _cluster_binding(site)]
    return found


def _rules(site: Site) -> list[Json]:
    rules = [
        _rule(["pods"], ["get", "list", "watch", "create", "delete"]),
        _rule(["events"], ["get", "list", "watch"]),
        _rule(["resourcequotas"], ["get", "list"]),
    ]
    if site.storage_claims:
        rules.append(_rule(["persistentvolumeclaims"], ["get", "create", "delete"]))
    if site.internal_ssl:
        # a server's key travels in a secret of its own; none can be read
        rules.append(_rule(["secrets", "services"], ["create", "delete"]))
    return rules


def _role(site: Site) -> Json:
    return _role_of("qhub-hub", site, _rules(site))


def _binding(site: Site) -> Json:
    return _binding_of("qhub-hub", site, site.service_account)


def _gateway_role(site: Site) -> Json:
    rules = [
        _rule(["pods"], ["get", "list", "watch", "create", "delete", "deletecollection"]),
        _rule(["pods/log"], ["get"]),
        _rule(["events"], ["list", "watch"]),
        # a cluster's key travels in a secret of its own; none can be read
        _rule(["secrets"], ["create", "delete"]),
        # each cluster is let alone by the others
        _rule(["networkpolicies"], ["create", "delete"], "networking.k8s.io"),
    ]
    return _role_of("qhub-gateway", site, rules)


def _gateway_binding(site: Site) -> Json:
    return _binding_of("qhub-gateway", site, site.gateway_account)


def _role_of(name: str, site: Site, rules: list[Json]) -> Json:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "Role",
        "metadata": _named(name, site.namespace),
        "rules": rules,
    }


def _binding_of(name: str, site: Site, account: str) -> Json:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": _named(name, site.namespace),
        "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": name},
        "subjects": [_subject(site, account)],
    }


def _cluster_role(site: Site) -> Json:
    rules: list[Json] = []
    if site.see_nodes:
        rules.append(_rule(["nodes", "pods"], ["list", "watch"]))
    if site.user_namespaces:
        rules += [*_rules(site), _rule(["namespaces"], ["get", "create"])]
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": _named(f"qhub-hub-{site.namespace}"),
        "rules": rules,
    }


def _cluster_binding(site: Site) -> Json:
    name = f"qhub-hub-{site.namespace}"
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": _named(name),
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": name},
        "subjects": [_subject(site, site.service_account)],
    }


def policies(site: Site) -> list[Json]:
    """Return who may reach whom: hub and gateway come in; servers do not reach one another.

    A cluster enforces them only where its network does.
    """
    servers = {MANAGED_BY: MANAGER}
    hub_peers = _hub_peers(site)
    incoming = {"from": hub_peers, "ports": [{"protocol": "TCP", "port": site.server_port}]}
    outgoing = [{"to": hub_peers}, *_everybody_reaches(site)]
    return [
        _policy("qhub-servers-in", site, servers, "Ingress", [incoming]),
        _policy("qhub-servers-out", site, servers, "Egress", outgoing),
    ]


def _gateway_policies(site: Site) -> list[Json]:
    """Hub and gateway come in to Dask's pods, and others of the same cluster.

    For those the gateway makes a policy for each cluster; policies add up.
    """
    labels = {MANAGED_BY: GATEWAY}
    hub_peers = _hub_peers(site)
    dask: Json = {"podSelector": {"matchLabels": labels}}
    outgoing = [{"to": [dask, *hub_peers]}, *_everybody_reaches(site)]
    return [
        _policy("qhub-dask-in", site, labels, "Ingress", [{"from": hub_peers}]),
        _policy("qhub-dask-out", site, labels, "Egress", outgoing),
    ]


def _hub_peers(site: Site) -> list[Json]:
    peers: list[Json] = [_hub_peer(site, site.hub_labels or {"component": "hub"})]
    peers += [_hub_peer(site, {"component": name}) for name in ("proxy", "gateway")]
    peers += [{"ipBlock": {"cidr": network}} for network in site.hub_networks]
    return peers


def _everybody_reaches(site: Site) -> list[Json]:
    """Return what every pod of a person may reach: name servers, and the outside world."""
    outside4 = {"cidr": "0.0.0.0/0", "except": _inside(4, site)}
    outside6 = {"cidr": "::/0", "except": _inside(6, site)}
    dns = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    name_servers: list[Json] = [{"namespaceSelector": {}, "podSelector": {}}]
    name_servers += [{"ipBlock": {"cidr": network}} for network in site.name_servers]
    return [
        {"to": name_servers, "ports": dns},
        {"to": [{"ipBlock": outside4}, {"ipBlock": outside6}]},
    ]


def _policy(name: str, site: Site, labels: Mapping[str, str], way: str, rules: list[Json]) -> Json:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _named(name, site.namespace),
        "spec": {
            "podSelector": {"matchLabels": dict(labels)},
            "policyTypes": [way],
            way.lower(): rules,
        },
    }


def _inside(version: int, site: Site) -> list[str]:
    """Return the networks of one version of IP that are not the outside world."""
    blocked = (*_PRIVATE_NETWORKS, *METADATA_ADDRESSES, *site.api_servers)
    return [network for network in blocked if (":" in network) == (version == 6)]  # noqa: PLR2004


def _hub_peer(site: Site, labels: Mapping[str, str]) -> Json:
    peer: Json = {"podSelector": {"matchLabels": dict(labels)}}
    if site.hub_namespace and site.hub_namespace != site.namespace:
        name = {"kubernetes.io/metadata.name": site.hub_namespace}
        peer["namespaceSelector"] = {"matchLabels": name}
    return peer


def _rule(resources: list[str], verbs: list[str], group: str = "") -> Json:
    return {"apiGroups": [group], "resources": resources, "verbs": verbs}


def _subject(site: Site, account: str) -> Json:
    namespace = site.hub_namespace or site.namespace
    return {"kind": "ServiceAccount", "name": account, "namespace": namespace}


def _named(name: str, namespace: str = "") -> Json:
    labels = {MANAGED_BY: MANAGER}
    return {"name": name, "labels": labels, **({"namespace": namespace} if namespace else {})}
