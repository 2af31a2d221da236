"""What the page says is free counts what the pod of a profile would really take."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from traitlets.config import Config

from qhub_spawner.availability import Availability
from qhub_spawner.kubernetes.backend import KubernetesBackend
from qhub_spawner.kubernetes.views import Views
from qhub_spawner.profiles import Profile

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
QUOTA = {
    "status": {
        "hard": {"requests.cpu": "8", "requests.memory": "32Gi", "requests.example.org/x": "1"}
    }
}


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")


class Api:
    """Kubernetes, as far as it has a quota."""

    async def request(self, method: str, path: str) -> Any:
        assert (method, path) == ("GET", "/api/v1/namespaces/people/resourcequotas")
        return {"items": [QUOTA]}


async def seen(kubespawner: dict[str, Any] | None = None, **fields: Any) -> Availability:
    """What the page says of one profile."""
    sections = {"KubeSpawner": {"namespace": "people", **(kubespawner or {})}}
    sections |= fields.pop("sections", {})
    backend = KubernetesBackend(config=Config(sections), hub_id="x")
    backend.log = logging.getLogger("hub")
    backend.api = Api()  # type: ignore[assignment]
    profile = Profile.model_validate({"slug": "p", "display_name": "P", "kubernetes": {}, **fields})
    return (await Views(backend).look((profile,), now=NOW))["p"]


@pytest.mark.parametrize(
    ("kubespawner", "fields", "lacking"),
    [
        ({}, {}, None),
        ({"mem_guarantee": "64G"}, {}, "64 GiB of memory"),
        ({"mem_limit": "64G"}, {}, "64 GiB of memory"),
        ({"cpu_guarantee": 9}, {}, "9 cores"),
        ({"extra_resource_guarantees": {"example.org/x": "2"}}, {}, "2 example.org/x"),
        ({"mem_guarantee": "64G"}, {"memory": "1 GiB"}, None),
        ({}, {"kubernetes": {"kubespawner": {"mem_guarantee": "64G"}}}, "64 GiB of memory"),
        ({"extra_containers": [{"name": "x", "resources": {"requests": {"cpu": "9"}}}]}, {}, "9 c"),
        ({}, {"sections": {"QHubSpawner": {"cpu_guarantee": 9}}}, "9 cores"),
    ],
)
async def test_what_counts(kubespawner: Any, fields: Any, lacking: str | None) -> None:
    """All that shapes the pod: KubeSpawner's traits, the profile's fields, and its traits."""
    found = await seen(kubespawner, **fields)
    if lacking is None:
        assert (found.start.kind, found.problem) == ("now", None)
    else:
        assert found.start.kind == "unknown"
        assert f"no room for {lacking}" in str(found.problem)


def raising(_spawner: Any) -> Any:
    """A function of the configuration that knows the people of this hub."""
    msg = "no such person"
    raise KeyError(msg)


async def test_functions_that_know_people(caplog: pytest.LogCaptureFixture) -> None:
    """Who a person is does not decide what is free; where it must, nothing is guessed."""
    found = await seen({"uid": raising, "pod_security_context": raising, "mem_guarantee": "64G"})
    assert "64 GiB of memory" in str(found.problem)
    found = await seen({"volumes": [{"name": "{no_such_thing}"}]})
    assert (found.start.kind, found.stale) == ("unknown", False)
    assert found.problem == "what it takes is not known before it starts"
    assert "what a server of the profile p takes is not known" in caplog.text


@pytest.mark.parametrize("what", ["", "pods", "events", "nodes", "pods of the whole cluster"])
async def test_a_watch_that_is_refused_is_a_problem(what: str) -> None:
    """If servers depend on it an administrator must see it: waiting does not mend it. What only the page reads takes no hub out of service."""

    def watch(of: str) -> Any:
        return SimpleNamespace(refused=of == what, problem="no right" if of == what else "silent")

    backend = KubernetesBackend(config=Config(), hub_id="x")
    assert backend.problem is None, "nothing is watched yet"
    running = [asyncio.get_running_loop().create_future()]
    backend._tasks = running  # type: ignore[assignment]
    backend.watch_pods, backend.watch_events = watch("pods"), watch("events")
    backend.views = Views(backend)
    assert backend.problem == {
        "pods": "Kubernetes lets nobody watch the pods: no right",
        "events": "Kubernetes lets nobody watch the events: no right",
    }.get(what)
    backend.views._nodes = watch("nodes")
    backend.views._pods = watch("pods of the whole cluster")
    assert (f"watch the {what}: no right" if what in {"pods", "events"} else "None") in str(
        backend.problem
    )
    backend.views.tasks = running  # type: ignore[assignment]
    running[0].set_result(None)
    assert "a fault ended the watch" in str(backend.problem)
