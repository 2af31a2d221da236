"""What qhub writes on its objects, by which it finds them again.

Labels are for selecting and hold only what qhub makes itself. The names of people and servers,
which may hold anything, stand whole in annotations, so that every name is found back as it was.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

HUB = "qhub.dev/hub"
SPAWN = "qhub.dev/spawn"
USER = "qhub.dev/user"
SERVER = "qhub.dev/server"
PASSWD = "qhub.dev/passwd"  # noqa: S105 - a file's name
GROUP = "qhub.dev/group"
LONG_GROUPS = "qhub.dev/long-group-paths"
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "qhub-spawner"
GATEWAY = "qhub-gateway"
SERVER_CONTAINER = "notebook"


def new_spawn_id() -> str:
    """Return a name for one start that no other start has: 16 hexadecimal digits."""
    return secrets.token_hex(8)


def record_name(hub_id: str, spawn_id: str) -> str:
    """Return the name under which the hub's database knows one start."""
    return f"qhub-{hub_id}-{spawn_id}"


def labels(hub_id: str, spawn_id: str, manager: str = MANAGER) -> dict[str, str]:
    """Return the labels of one server's objects; `manager` is the program that makes them."""
    return {MANAGED_BY: manager, HUB: hub_id, SPAWN: spawn_id}


def owner_annotations(user: str, server_name: str) -> dict[str, str]:
    """Return the annotations that say whose server it is."""
    return {USER: user, SERVER: server_name}


def selector(hub_id: str, manager: str = MANAGER) -> str:
    """Return the label selector of everything of one hub, or of one of another `manager`."""
    return f"{MANAGED_BY}={manager},{HUB}={hub_id}"


def spawn_of(manifest: Mapping[str, object]) -> str:
    """Return the spawn id that an object carries; empty if it is not one of qhub's."""
    metadata = manifest.get("metadata")
    found = metadata.get("labels") if isinstance(metadata, Mapping) else None
    return str(found.get(SPAWN, "")) if isinstance(found, Mapping) else ""
