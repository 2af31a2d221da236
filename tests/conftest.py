"""What all rings share: the systems, one each for the whole run, and the rule about missing ones."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.systems.processes import SystemUnavailableError

REQUIRED = bool(os.environ.get("QHUB_SYSTEMS_REQUIRED") or os.environ.get("CI"))


def missing(system: str, error: Exception) -> None:
    """A missing system is a skip that names it; in CI it is a failure."""
    message = f"{system} cannot be had here: {error}"
    if REQUIRED:
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def slurm() -> Iterator[Any]:
    """One real Slurm for the whole run; leftovers of runs that were killed are ended first."""
    from tests.systems.slurm import SlurmSystem, sweep

    sweep()
    system = SlurmSystem()
    try:
        system.start()
    except SystemUnavailableError as error:
        missing("Slurm", error)
    try:
        yield system
    finally:
        system.stop()


@pytest.fixture(scope="session")
def kubernetes() -> Iterator[Any]:
    """One real Kubernetes for the whole run; leftovers of runs that were killed are ended first."""
    from tests.systems.kubernetes import KubernetesSystem

    system = KubernetesSystem()
    try:
        system.start()
    except SystemUnavailableError as error:
        missing("Kubernetes", error)
    try:
        yield system
    finally:
        system.stop()


@pytest.fixture(scope="session")
def user_bin() -> Any:
    """The folder of commands that everybody may run: jupyterhub, jupyterhub-singleuser, node."""
    from tests.systems.userenv import user_environment

    try:
        return user_environment() / "bin"
    except SystemUnavailableError as error:
        missing("the environment of users", error)


@pytest.fixture
def hub_on(slurm: Any) -> Iterator[Callable[..., Any]]:
    """Make hubs on the Slurm system; all are ended, and their jobs cancelled, after the test."""
    from tests.systems.slurm_hub import SlurmHub

    hubs: list[Any] = []

    def make(*, start: bool = True, **options: Any) -> Any:
        hub = SlurmHub(options.pop("slurm", slurm), **options)
        hubs.append(hub)
        if start:
            hub.start()
        for name in ("alice", "bob"):
            if start:
                hub.add_user(name)
        return hub

    try:
        yield make
    finally:
        for hub in hubs:
            hub.stop()
        slurm.run(["scancel", "--user=alice"])
        slurm.run(["scancel", "--user=bob"])


@pytest.fixture(params=["command-line", "rest"])
def transport(request: pytest.FixtureRequest) -> str:
    """Both ways of talking to Slurm."""
    return str(request.param)


@pytest.fixture
def canary() -> str:
    """A secret that must not turn up anywhere."""
    return f"canary-{secrets.token_hex(12)}"
