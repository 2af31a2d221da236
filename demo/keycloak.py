"""The demo with log-in at a real Keycloak, before any of the other demos."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.systems.slurm import HUB_USER

from .entrance import Entrance, KeycloakEntrance, folders_made, keycloak_running
from .stage import Stage, need_root

HOMES = Path("/home")

Bring = Callable[[int | None, Entrance], contextlib.AbstractContextManager[Stage]]


@contextlib.contextmanager
def keycloak_stage(port: int | None, name: str, bring: Bring) -> Iterator[Stage]:
    """Bring up Keycloak, and the other systems behind it; at the end stop all.

    Args:
        port: Where the hub is opened; any free one when None.
        name: The other demo: local, slurm, kubernetes or both.
        bring: Brings that up.
    """
    if name != "local":
        need_root("Keycloak with a cluster", f"keycloak {name}")
    with keycloak_running() as (realm, password), contextlib.ExitStack() as stack:
        entrance = KeycloakEntrance(realm, password)
        if name != "local":
            # the accounts of a cluster have their homes already
            homes = None if name == "kubernetes" else HOMES
            entrance.site = stack.enter_context(folders_made(HUB_USER, homes))
            entrance.accounts = "ignore" if name == "kubernetes" else "adopt"
        yield stack.enter_context(bring(port, entrance))
