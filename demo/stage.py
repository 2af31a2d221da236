"""What all demos have in common: a hub, the people it knows, and how it all ends."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.systems.dask_service import PAGE
from tests.systems.hub import HubSystem
from tests.systems.processes import NotReadyError, SystemUnavailableError

ENDS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
STOP_SECONDS = 40
DASK_HINT = (
    "A Dask cluster, in a notebook: from dask_gateway import Gateway; "
    "cluster = Gateway().new_cluster(); cluster.scale(2)"
)
# No letters or digits that are taken for one another: people copy it by hand.
_PLAIN = "abcdefghjkmnpqrstuvwxyz23456789"


@dataclass(frozen=True)
class Stage:
    """A hub that is up, and what its visitor needs to know.

    Attributes:
        hub: The hub.
        people: Who can log in.
        password: With this, all of them.
        check_profiles: The profiles that `--check` chooses, one after the other.
        hints: What to try, a line each.
        remains: What goes when the demo ends.
        entrance: How the people come in.
        cluster_profiles: By profile of `check_profiles`, that of the Dask cluster which `--check`
            makes from its server; empty for the server's own.
    """

    hub: HubSystem
    people: tuple[str, ...]
    password: str
    check_profiles: tuple[str, ...]
    hints: tuple[str, ...]
    remains: str
    entrance: Any = None
    cluster_profiles: Mapping[str, str] = field(default_factory=dict)


def say(text: str) -> None:
    """Tell whoever started the demo what it does."""
    print(text, flush=True)


def clusters_hint(url: str) -> str:
    """Say where people see their Dask clusters."""
    return f"Your Dask clusters: {url}{PAGE}"


def need_root(what: str, name: str) -> None:
    """Refuse to begin without root.

    Raises:
        SystemUnavailableError: This is not root; says what can be done instead.
    """
    if os.geteuid() != 0:
        message = (
            f"a {what} of one's own needs root, as it starts servers as other people: "
            f"sudo ./run demo {name}. Without root: ./run demo"
        )
        raise SystemUnavailableError(message)


def new_password() -> str:
    """Make a password of 60 bits."""
    return "-".join("".join(secrets.choice(_PLAIN) for _ in range(4)) for _ in range(3))


def login_lines(people: tuple[str, ...], password: str) -> str:
    """Return the configuration by which exactly these people log in."""
    return f"""
c.JupyterHub.authenticator_class = "shared-password"
c.SharedPasswordAuthenticator.user_password = {password!r}
c.Authenticator.allow_all = False
c.Authenticator.admin_users = set()
c.Authenticator.allowed_users = {set(people)!r}
c.JupyterHub.load_roles[0]["scopes"].append("admin:server_state")
"""


def let_it_end() -> None:
    """Hold back further signals, so that a second Ctrl-C does not break off the ending."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)


@contextlib.contextmanager
def running(hub: HubSystem) -> Iterator[None]:
    """Start a hub; at the end stop every server through it, then the hub itself and its proxy."""
    try:
        hub.start()
        yield
    finally:
        let_it_end()
        if hub.hub.running:
            _end_servers(hub)
        hub.stop()


def _end_servers(hub: HubSystem) -> None:
    """Stop all servers; what does not end this way is ended by its pid later."""
    with contextlib.suppress(OSError, NotReadyError):
        servers = _servers(hub)
        if not servers:
            return
        say(f"Stopping {len(servers)} server{'s' if len(servers) > 1 else ''} …")
        with ThreadPoolExecutor(8) as pool:
            for each in [pool.submit(hub.stop_server, *server) for server in servers]:
                each.result()
        for server in servers:
            hub.wait_stopped(*server, deadline_seconds=STOP_SECONDS)


def _servers(hub: HubSystem) -> list[tuple[str, str]]:
    users: list[dict[str, Any]] = hub.api("GET", "users?state=active").json or []
    return [(user["name"], name) for user in users for name in user.get("servers", {})]
