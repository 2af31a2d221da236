"""Who may reach whom among Dask's pods: the manifests, taken at their word."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from qhub_gateway import kubernetes_manifest as manifest
from qhub_spawner.kubernetes.rights import Site, manifests
from tests.unit.test_gateway_kubernetes_manifest import PLACE, scheduler, spec_of, worker
from tests.unit.test_kubernetes_rights import (
    API_SERVER,
    DNS,
    GATEWAY,
    HUB,
    SERVER,
    STRANGER,
    End,
    passes,
)

OWNER = {"metadata": {"name": "pod", "uid": "u-1"}}
OTHER_NAME = "f" * 32


def dask(address: str, pod: Any, cluster: str = "") -> End:
    """A pod of Dask's, of one cluster or another."""
    labels = dict(pod["metadata"]["labels"])
    return End(address, {**labels, **({manifest.CLUSTER: cluster} if cluster else {})})


SCHEDULER, WORKER = dask("10.1.1.1", scheduler()), dask("10.1.1.2", worker())
OTHER = dask("10.1.1.3", worker(), OTHER_NAME)


def found() -> list[dict[str, Any]]:
    """What is printed for a site, and what the gateway makes for two clusters."""
    site = Site(namespace="people", gateway_account="gateway", api_servers=("10.96.0.0/12",))
    spec = spec_of()
    own = [
        manifest.policy(each, PLACE, OWNER)
        for each in (spec, dataclasses.replace(spec, name=OTHER_NAME))
    ]
    for each in own:
        each["metadata"]["namespace"] = "people"
    return [*(each for each in manifests(site) if each["kind"] == "NetworkPolicy"), *own]


@pytest.mark.parametrize(
    ("source", "target", "allowed"),
    [
        (GATEWAY, SCHEDULER, True),
        (HUB, SCHEDULER, True),
        (SCHEDULER, GATEWAY, True),
        (SCHEDULER, WORKER, True),
        (WORKER, SCHEDULER, True),
        (WORKER, WORKER, True),
        (OTHER, SCHEDULER, False),
        (WORKER, OTHER, False),
        (SERVER, SCHEDULER, False),
        (WORKER, SERVER, False),
        (STRANGER, SCHEDULER, False),
        (WORKER, API_SERVER, False),
        (WORKER, End("169.254.169.254"), False),
        (WORKER, End("192.0.43.7"), True),
        (WORKER, End("10.2.3.4"), False),
    ],
)
def test_who_may_reach_whom(source: End, target: End, allowed: bool) -> None:
    """A cluster's own, the hub and the gateway; nobody else comes in, and the world is reached."""
    policies = found()
    assert allowed is (
        passes(policies, "Egress", source, target, 8786, "TCP")
        and passes(policies, "Ingress", target, source, 8786, "TCP")
    )


def test_names_are_looked_up() -> None:
    """As by servers."""
    assert passes(found(), "Egress", WORKER, DNS, 53, "UDP")
