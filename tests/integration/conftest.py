"""The cluster of the drills, and hubs on it that several drills share."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import missing
from tests.systems.processes import NotReadyError, SystemUnavailableError

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A Slurm with room for many servers, for drills; what they break in it they mend."""
    from tests.integration.drills import MANY
    from tests.systems.slurm import SlurmSystem

    system = SlurmSystem(MANY)
    try:
        system.start()
    except SystemUnavailableError as error:
        missing("Slurm", error)
    system.run(["scontrol", "update", "partition=closed", "state=down"])
    try:
        yield system
    finally:
        system.stop()


@pytest.fixture(scope="session")
def shared_drills() -> Iterator[dict[str, Any]]:
    """Hubs that one drill after the other uses, by transport."""
    drills: dict[str, Any] = {}
    yield drills
    for drill in drills.values():
        drill.hub.stop()


@pytest.fixture
def drill_on(
    cluster: Any, user_bin: Any, shared_drills: dict[str, Any]
) -> Iterator[Callable[..., Any]]:
    """Give a drill its hub: a shared one, or (with any argument but transport) one of its own.

    After the drill everything is stopped; a shared hub that cannot be cleaned is given up.
    """
    from tests.integration.drills import clean, make_drill

    used: dict[str, Any] = {}
    own: list[Any] = []

    def drill_on(transport: str = "command-line", **options: Any) -> Any:
        if options:
            drill = make_drill(cluster, f"own{next(_NUMBERS)}", transport=transport, **options)
            own.append(drill)
            return drill
        if transport not in shared_drills:
            shared_drills[transport] = make_drill(
                cluster, f"drill{next(_NUMBERS)}", transport=transport
            )
        used[transport] = shared_drills[transport]
        return used[transport]

    yield drill_on
    for transport, drill in used.items():
        try:
            clean(drill)
        except (AssertionError, OSError, NotReadyError, KeyError, TypeError):
            shared_drills.pop(transport)
            drill.hub.stop()
            cancel_all(cluster)
            raise
    for drill in own:
        drill.hub.stop()
    if own:
        for drill in own:
            cancel_all(cluster, drill.hub_id)


def cancel_all(cluster: Any, hub_id: str = "") -> None:
    """Cancel every job of a hub that is no more, or of all hubs."""
    with contextlib.suppress(NotReadyError):
        out = cluster.run(["squeue", "-h", "-a", "-o", "%A %j"]).stdout
        ids = [
            line.split()[0]
            for line in out.splitlines()
            if line.split()[1].startswith(f"qhub-{hub_id}")
        ]
        if ids:
            cluster.run(["scancel", *ids], check=False)


@pytest.fixture
def drill(drill_on: Callable[..., Any]) -> Any:
    """The shared hub on the command line."""
    return drill_on()


@pytest.fixture
def drill_by(drill_on: Callable[..., Any], transport: str) -> Any:
    """The shared hub of each transport in turn."""
    return drill_on(transport)


@pytest.fixture(scope="session")
def shared_kubernetes_drill() -> Iterator[dict[str, Any]]:
    """The hub on Kubernetes that one drill after the other uses."""
    from tests.integration.kubernetes_drills import end

    drills: dict[str, Any] = {}
    yield drills
    for drill in drills.values():
        end(drill)


@pytest.fixture
def kubernetes_drill(
    kubernetes: Any, user_bin: Any, shared_kubernetes_drill: dict[str, Any]
) -> Iterator[Any]:
    """Give a drill the hub on Kubernetes; after it everything is stopped.

    A hub that cannot be cleaned is given up.
    """
    from tests.integration.kubernetes_drills import clean, end, make_drill

    drills = shared_kubernetes_drill
    if "shared" not in drills:
        drills["shared"] = make_drill(kubernetes, f"drill{next(_NUMBERS)}")
    drill = drills["shared"]
    yield drill
    try:
        clean(drill)
    except (AssertionError, OSError, NotReadyError, KeyError, TypeError):
        drills.pop("shared")
        end(drill)
        raise
