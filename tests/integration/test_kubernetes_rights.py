"""What the hub's service account may and may not do, as the API server says."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qhub_spawner.kubernetes.rights import Site, manifests
from tests.systems.kubernetes import USER_IMAGE, KubernetesSystem

POD = {
    "metadata": {"name": "tried"},
    "spec": {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "notebook",
                "image": USER_IMAGE,
                "command": ["sleep", "100"],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
    },
}


class Account:
    """The API server as the holder of a service account's token."""

    def __init__(self, kubeconfig: Path) -> None:
        document = json.loads(kubeconfig.read_text())
        cluster = document["clusters"][0]["cluster"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self.url = cluster["server"]
        self._token = document["users"][0]["user"]["token"]
        self._context = ssl.create_default_context(cadata=authority)

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Return status and answer."""
        request = urllib.request.Request(
            f"{self.url}{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30, context=self._context) as answer:
                endless = "watch=true" in path
                return answer.status, None if endless else json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def rules(self, namespace: str) -> set[tuple[str, str, str]]:
        """Group, resource and verb of all it may do in a namespace (SelfSubjectRulesReview v1)."""
        path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
        status, answer = self.ask("POST", path, {"spec": {"namespace": namespace}})
        assert status == 201
        assert answer["status"]["incomplete"] is False
        return {
            (group, resource, verb)
            for rule in answer["status"]["resourceRules"]
            for group in rule.get("apiGroups", [""])
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }


AccountOn = Callable[..., tuple[Account, str]]


@pytest.fixture(scope="module")
def account_on(kubernetes: KubernetesSystem) -> AccountOn:
    """Make a namespace with a hub's account in it, and its rights."""

    def account_on(**settings: Any) -> tuple[Account, str]:
        namespace = kubernetes.make_namespace()
        config = kubernetes.service_account_kubeconfig(namespace, "hub")
        kubernetes.apply(*manifests(Site(namespace=namespace, **settings)))
        return Account(config), namespace

    return account_on


@pytest.fixture(scope="module")
def least(account_on: AccountOn) -> tuple[Account, str]:
    """The rights of a hub for which nothing is switched on."""
    return account_on()


# Everybody may ask who they are, and what they may.
ABOUT_ONESELF = {
    ("authentication.k8s.io", "selfsubjectreviews", "create"),
    ("authorization.k8s.io", "selfsubjectaccessreviews", "create"),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "create"),
}
NEEDED = {
    *(("", "pods", verb) for verb in ("get", "list", "watch", "create", "delete")),
    *(("", "events", verb) for verb in ("get", "list", "watch")),
    *(("", "resourcequotas", verb) for verb in ("get", "list")),
}


def test_all_that_the_account_may(least: tuple[Account, str], kubernetes: KubernetesSystem) -> None:
    """Kubernetes' own list of its rights, in its namespace and elsewhere, has nothing else."""
    account, namespace = least
    assert account.rules(namespace) == NEEDED | ABOUT_ONESELF
    for other in ("default", "kube-system", kubernetes.make_namespace()):
        assert account.rules(other) == ABOUT_ONESELF


def test_what_the_account_may(least: tuple[Account, str]) -> None:
    """Real requests: pods, events and quotas of its namespace."""
    account, namespace = least
    core = f"/api/v1/namespaces/{namespace}"
    assert account.ask("POST", f"{core}/pods", POD)[0] == 201
    assert account.ask("GET", f"{core}/pods/tried")[0] == 200
    for what in ("pods", "events", "resourcequotas"):
        assert account.ask("GET", f"{core}/{what}")[0] == 200, what
    for what in ("pods", "events"):
        assert account.ask("GET", f"{core}/{what}?watch=true")[0] == 200, what
    assert account.ask("DELETE", f"{core}/pods/tried?gracePeriodSeconds=0")[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        # of its namespace
        ("GET", "{core}/secrets"),
        ("GET", "{core}/secrets/any"),
        ("POST", "{core}/secrets"),
        ("GET", "{core}/configmaps"),
        ("GET", "{core}/services"),
        ("GET", "{core}/persistentvolumeclaims"),
        ("GET", "{core}/serviceaccounts"),
        ("POST", "{core}/serviceaccounts/default/token"),
        ("GET", "{core}/pods/tried/log"),
        ("POST", "{core}/pods/tried/exec?command=id"),
        ("POST", "{core}/pods/tried/attach"),
        ("POST", "{core}/pods/tried/portforward"),
        ("GET", "{core}/pods/tried/proxy/"),
        ("POST", "{core}/pods/tried/eviction"),
        ("POST", "{core}/pods/tried/binding"),
        ("PATCH", "{core}/pods/tried"),
        ("PUT", "{core}/pods/tried"),
        ("PATCH", "{core}/pods/tried/status"),
        ("PATCH", "{core}/pods/tried/ephemeralcontainers"),
        ("DELETE", "{core}/pods"),
        ("POST", "{core}/resourcequotas"),
        ("DELETE", "{core}/events"),
        ("GET", "/apis/apps/v1/namespaces/{namespace}/deployments"),
        ("GET", "/apis/batch/v1/namespaces/{namespace}/jobs"),
        ("GET", "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"),
        (
            "DELETE",
            "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies/qhub-servers-in",
        ),
        ("GET", "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles"),
        ("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings"),
        # of others
        ("GET", "/api/v1/namespaces/default/pods"),
        ("POST", "/api/v1/namespaces/default/pods"),
        ("GET", "/api/v1/namespaces/kube-system/secrets"),
        ("GET", "/api/v1/namespaces/default/events"),
        # of the cluster
        ("GET", "/api/v1/pods"),
        ("GET", "/api/v1/events"),
        ("GET", "/api/v1/secrets"),
        ("GET", "/api/v1/nodes"),
        ("GET", "/api/v1/nodes/node1/proxy/pods"),
        ("GET", "/api/v1/namespaces"),
        ("POST", "/api/v1/namespaces"),
        ("DELETE", "/api/v1/namespaces/{namespace}"),
        ("GET", "/api/v1/persistentvolumes"),
        ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles"),
        ("GET", "/apis/storage.k8s.io/v1/storageclasses"),
        ("GET", "/apis/scheduling.k8s.io/v1/priorityclasses"),
    ],
)
def test_what_the_account_may_not(least: tuple[Account, str], method: str, path: str) -> None:
    """Real requests: each is forbidden by its rights, not for another reason."""
    account, namespace = least
    core = f"/api/v1/namespaces/{namespace}"
    asked = path.format(core=core, namespace=namespace)
    body = {"metadata": {"name": "tried"}} if method in {"POST", "PUT"} else None
    status, answer = account.ask(method, asked, body)
    if method == "PATCH" and status == 415:  # asked in no dialect of a patch: was it allowed to?
        pytest.fail("a patch got past its rights")
    assert (status, answer["reason"]) == (403, "Forbidden"), answer
    assert f'"system:serviceaccount:{namespace}:hub" cannot' in answer["message"]


def test_nodes_are_seen_where_that_is_switched_on(account_on: AccountOn) -> None:
    """Then nodes and all pods can be listed and watched; neither changed, nor anything else seen."""
    account, namespace = account_on(see_nodes=True)
    for what in ("nodes", "pods"):
        assert account.ask("GET", f"/api/v1/{what}")[0] == 200
        assert account.ask("GET", f"/api/v1/{what}?watch=true")[0] == 200
    for what in ("secrets", "events", "configmaps"):
        assert account.ask("GET", f"/api/v1/{what}")[0] == 403
    assert account.ask("DELETE", "/api/v1/nodes/node1")[0] == 403
    assert account.ask("GET", "/api/v1/namespaces/default/pods/any")[0] == 403
    assert account.ask("POST", "/api/v1/namespaces/default/pods", POD)[0] == 403
    seen = {("", what, verb) for what in ("nodes", "pods") for verb in ("list", "watch")}
    assert account.rules(namespace) == NEEDED | ABOUT_ONESELF | seen


def test_secrets_cannot_be_read_even_where_they_are_made(account_on: AccountOn) -> None:
    """With TLS inside, the hub puts a server's key into a secret, and can read none."""
    account, namespace = account_on(internal_ssl=True)
    secrets = f"/api/v1/namespaces/{namespace}/secrets"
    assert account.ask("POST", secrets, {"metadata": {"name": "key"}})[0] == 201
    for path in (secrets, f"{secrets}/key"):
        assert account.ask("GET", path)[0] == 403
    assert account.ask("PATCH", f"{secrets}/key", {})[0] == 403
    assert account.ask("DELETE", f"{secrets}/key")[0] == 200


def test_claims_where_they_are_switched_on(account_on: AccountOn) -> None:
    """Then storage can be claimed for a person."""
    account, namespace = account_on(storage_claims=True)
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    claims = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
    assert account.ask("POST", claims, {"metadata": {"name": "hers"}, "spec": spec})[0] == 201
    assert account.ask("GET", f"{claims}/hers")[0] == 200
    assert account.ask("DELETE", f"{claims}/hers")[0] == 200


def test_namespace_for_each_person(account_on: AccountOn, kubernetes: KubernetesSystem) -> None:
    """Then namespaces can be made, and servers in them, wherever people's namespaces are."""
    account, namespace = account_on(user_namespaces=True)
    theirs = f"{namespace}-alice"
    assert account.ask("POST", "/api/v1/namespaces", {"metadata": {"name": theirs}})[0] == 201
    kubernetes.make_namespace(f"{namespace}-bob")
    for name in (f"{namespace}-bob", namespace):
        assert account.rules(name) >= NEEDED
    assert account.ask("DELETE", f"/api/v1/namespaces/{theirs}")[0] == 403
    assert account.ask("GET", "/api/v1/secrets")[0] == 403


def test_api_server_takes_every_manifest(kubernetes: KubernetesSystem) -> None:
    """Whatever is switched on, with networks of both versions of IP."""
    namespace, hub_namespace = kubernetes.make_namespace(), kubernetes.make_namespace()
    site = Site(
        namespace=namespace,
        hub_namespace=hub_namespace,
        hub_labels={"app": "jupyterhub", "component": "hub"},
        see_nodes=True,
        storage_claims=True,
        internal_ssl=True,
        user_namespaces=True,
        api_servers=("203.0.113.4/32", "2001:db8::/48", kubernetes.host_address + "/32"),
        hub_networks=("10.20.0.0/28", "fd00:1::/64"),
        name_servers=("10.0.0.10/32", "169.254.20.10/32"),
    )
    kubernetes.apply(*manifests(site))
    path = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
    sent = [each for each in manifests(site) if each["kind"] == "NetworkPolicy"]
    for policy in sent:
        stored = kubernetes.request("GET", f"{path}/{policy['metadata']['name']}")
        assert stored["spec"] == policy["spec"]
