"""A person's storage goes when the hub forgets the person, so that no later one finds it."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from qhub_spawner.errors import KubernetesRefusedError, KubernetesUnavailableError
from qhub_spawner.kubernetes import claims, creating
from qhub_spawner.kubernetes.pod_spawner import PodSpawner
from qhub_spawner.runtime import HubRuntime
from tests.unit.test_kubespawner_traits import owner

ENSURED = {"storage_pvc_ensure": True, "namespace": "people"}
SHARED = {**ENSURED, "pvc_name_template": "claim-{username}"}


class Api:
    """An API server that answers what it is told to."""

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.deleted: list[tuple[str, str, str]] = []

    async def delete(self, kind: str, namespace: str, name: str, *, grace: int | None) -> bool:
        assert grace is None
        if self.faults:
            raise self.faults.pop(0)
        self.deleted.append((kind, namespace, name))
        return True


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster's address is said, and nobody is asked."""
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")
    monkeypatch.setattr(claims, "_PAUSE_SECONDS", 0)
    monkeypatch.setattr("kubespawner.spawner.load_config", lambda **_: None)


async def forget(api: Api, traits: dict[str, Any], server: str = "") -> None:
    """As the hub does when a user, or a named server, is deleted."""
    found = owner(KubeSpawner=traits)
    found.orm_spawner = SimpleNamespace(name=server, server=None)
    await claims.delete_claim(api, found)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("traits", "server", "deleted"),
    [
        (ENSURED, "", ["claim-ann-other---1a8c9ba2"]),
        ({**ENSURED, "delete_pvc": False}, "", []),
        ({"namespace": "people"}, "", []),  # the administrator's own
        (SHARED, "lab", []),  # the person has it for their other servers
        (ENSURED, "lab", ["claim-ann-other---1a8c9ba2--lab"]),
        (SHARED, "", ["claim-ann-other---1a8c9ba2"]),
    ],
)
async def test_what_goes(traits: dict[str, Any], server: str, deleted: list[str]) -> None:
    """The claim that the hub made, unless it is to stay or others need it."""
    api = Api()
    await forget(api, traits, server)
    assert api.deleted == [("persistentvolumeclaims", "people", name) for name in deleted]


async def test_an_api_server_that_is_silent() -> None:
    """It is asked again."""
    api = Api(KubernetesUnavailableError("silent"), KubernetesUnavailableError("silent"))
    await forget(api, ENSURED)
    assert len(api.deleted) == 1


@pytest.mark.parametrize("kind", ["refused", "silent"])
async def test_what_could_not_be_deleted_is_said(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The hub forgets the person anyway: somebody has to know."""
    monkeypatch.setattr(claims, "_PATIENCE_SECONDS", -1)
    silent = KubernetesUnavailableError("no answer")
    error = silent if kind == "silent" else KubernetesRefusedError(403, {"reason": "Forbidden"})
    with caplog.at_level(logging.ERROR, "hub"):
        await forget(Api(error), ENSURED)
    assert "the storage claim claim-ann-other" in caplog.text
    assert "in the namespace people is not deleted" in caplog.text
    assert "delete it by hand" in caplog.text


@pytest.mark.parametrize(
    ("traits", "profile", "hook", "warned"),
    [
        (ENSURED, {}, {}, False),
        ({"delete_pvc": False}, {"storage_pvc_ensure": True}, {}, False),
        ({}, {"storage_pvc_ensure": True}, {}, True),
        # a name is made once for all, as in KubeSpawner: before a profile is heeded
        (ENSURED, {"pvc_name_template": "other-{username}"}, {}, False),
        (ENSURED, {"namespace": "elsewhere"}, {}, True),
        ({}, {}, {"storage_pvc_ensure": True}, True),
    ],
)
async def test_a_claim_that_will_stay_is_said(
    traits: Any, profile: Any, hook: Any, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """When it is made: what `delete_claim` goes by is the configuration, not what one start had."""
    found = owner(KubeSpawner=traits)
    found.orm_spawner = SimpleNamespace(name="", server=None)
    for name, value in hook.items():
        setattr(found, name, value)
    pods = PodSpawner.beside(found, cluster=False)
    pods.apply(profile)

    class Making:
        async def create(self, *_: Any) -> None:
            pass

    with caplog.at_level(logging.INFO, "hub"):
        await creating._ensure_claim(
            SimpleNamespace(  # type: ignore[arg-type]
                pods=pods,
                namespace=pods.namespace,
                owner=found,
                backend=SimpleNamespace(api=Making()),
            )
        )
    name = pods.claim()["metadata"]["name"]
    assert f"made the storage claim {name} in the namespace {pods.namespace}" in caplog.text
    stays = f"the storage claim {name} in the namespace {pods.namespace} stays when"
    assert (stays in caplog.text) is warned


@pytest.mark.parametrize(("traits", "asked"), [(ENSURED, 1), ({}, 0)])
async def test_the_hub_asks_kubernetes_where_it_made_claims(
    traits: dict[str, Any], asked: int
) -> None:
    """Also right after its start; a hub without such claims has nothing to do with Kubernetes."""
    runtime = HubRuntime(source=[], cookie_secret=b"x")
    opened, forgotten = [], []

    class Backend:
        async def open(self) -> None:
            opened.append(self)

        async def delete_forever(self, spawner: Any) -> None:
            assert opened
            forgotten.append(spawner)

    runtime._kubernetes = Backend  # type: ignore[method-assign,assignment]
    found = owner(KubeSpawner=traits)
    found.user.settings = {"qhub_runtime": runtime}
    await found.delete_forever()
    assert forgotten == [found] * asked
