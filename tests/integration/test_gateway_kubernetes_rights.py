"""What the gateway's service account may and may not do, as the API server says."""

from __future__ import annotations

from typing import Any

import pytest

from qhub_spawner.kubernetes.rights import Site, manifests
from tests.integration.test_kubernetes_rights import ABOUT_ONESELF, POD, Account

NEEDED = {
    *(
        ("", "pods", verb)
        for verb in ("get", "list", "watch", "create", "delete", "deletecollection")
    ),
    ("", "pods/log", "get"),
    *(("", "events", verb) for verb in ("list", "watch")),
    *(("", "secrets", verb) for verb in ("create", "delete")),
    *(("networking.k8s.io", "networkpolicies", verb) for verb in ("create", "delete")),
}


@pytest.fixture(scope="module")
def least(kubernetes: Any) -> tuple[Account, str]:
    """A namespace with a hub and a gateway, each with an account of its own."""
    namespace = kubernetes.make_namespace()
    config = kubernetes.service_account_kubeconfig(namespace, "gateway")
    kubernetes.apply(*manifests(Site(namespace=namespace, gateway_account="gateway")))
    return Account(config), namespace


def test_all_that_the_account_may(least: tuple[Account, str], kubernetes: Any) -> None:
    """Kubernetes' own list of its rights, in its namespace and elsewhere, has nothing else."""
    account, namespace = least
    assert account.rules(namespace) == NEEDED | ABOUT_ONESELF
    assert account.rules(kubernetes.make_namespace()) == ABOUT_ONESELF


def test_what_the_account_may(least: tuple[Account, str]) -> None:
    """Real requests: pods of its namespace, their logs and events; secrets made, and none read."""
    account, namespace = least
    core = f"/api/v1/namespaces/{namespace}"
    assert account.ask("POST", f"{core}/pods", POD)[0] == 201
    assert account.ask("GET", f"{core}/pods/tried")[0] == 200
    # it has no log yet: the answer is about the container, and not about rights
    assert account.ask("GET", f"{core}/pods/tried/log")[0] in {200, 400}
    for what in ("pods", "events"):
        assert account.ask("GET", f"{core}/{what}")[0] == 200, what
        assert account.ask("GET", f"{core}/{what}?watch=true")[0] == 200, what
    path = f"{core}/pods?labelSelector=none%3Dsuch"
    assert account.ask("DELETE", path)[0] == 200
    assert account.ask("DELETE", f"{core}/pods/tried?gracePeriodSeconds=0")[0] == 200
    assert account.ask("POST", f"{core}/secrets", {"metadata": {"name": "key"}})[0] == 201
    for path in (f"{core}/secrets", f"{core}/secrets/key", f"{core}/secrets?watch=true"):
        assert account.ask("GET", path)[0] == 403
    assert account.ask("DELETE", f"{core}/secrets/key")[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        # of its namespace
        ("GET", "{core}/secrets"),
        ("GET", "{core}/secrets/any"),
        ("PUT", "{core}/secrets/any"),
        ("DELETE", "{core}/secrets"),
        ("GET", "{core}/configmaps"),
        ("GET", "{core}/services"),
        ("POST", "{core}/services"),
        ("GET", "{core}/resourcequotas"),
        ("GET", "{core}/persistentvolumeclaims"),
        ("GET", "{core}/serviceaccounts"),
        ("POST", "{core}/serviceaccounts/default/token"),
        ("POST", "{core}/serviceaccounts/hub/token"),
        ("POST", "{core}/pods/tried/exec?command=id"),
        ("POST", "{core}/pods/tried/attach"),
        ("POST", "{core}/pods/tried/portforward"),
        ("GET", "{core}/pods/tried/proxy/"),
        ("POST", "{core}/pods/tried/eviction"),
        ("POST", "{core}/pods/tried/binding"),
        ("PUT", "{core}/pods/tried"),
        ("PUT", "{core}/pods/tried/status"),
        ("PUT", "{core}/pods/tried/ephemeralcontainers"),
        ("DELETE", "{core}/events"),
        ("GET", "/apis/apps/v1/namespaces/{namespace}/deployments"),
        ("GET", "/apis/batch/v1/namespaces/{namespace}/jobs"),
        ("GET", "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"),
        ("GET", "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles"),
        ("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings"),
        # of others, and of the cluster
        ("GET", "/api/v1/namespaces/default/pods"),
        ("POST", "/api/v1/namespaces/default/pods"),
        ("GET", "/api/v1/pods"),
        ("GET", "/api/v1/secrets"),
        ("GET", "/api/v1/nodes"),
        ("GET", "/api/v1/namespaces"),
        ("POST", "/api/v1/namespaces"),
        ("GET", "/api/v1/persistentvolumes"),
        ("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"),
        ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles"),
    ],
)
def test_what_the_account_may_not(least: tuple[Account, str], method: str, path: str) -> None:
    """Real requests: each is forbidden by its rights, not for another reason."""
    account, namespace = least
    asked = path.format(core=f"/api/v1/namespaces/{namespace}", namespace=namespace)
    body = {"metadata": {"name": "tried"}} if method in {"POST", "PUT"} else None
    status, answer = account.ask(method, asked, body)
    assert (status, answer["reason"]) == (403, "Forbidden"), answer
    assert f'"system:serviceaccount:{namespace}:gateway" cannot' in answer["message"]
