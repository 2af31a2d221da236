"""Who may make clusters, and who may see and stop those of others: decided from plain data."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass

from qhub_spawner.fields import Name
from qhub_spawner.resources import Model

__all__ = [
    "CREATE_SCOPE",
    "SEE_SCOPE",
    "STOP_SCOPE",
    "Action",
    "Asker",
    "Grant",
    "Rights",
    "Roles",
    "admitted",
    "may",
    "rights_of",
    "server_of",
]

CREATE_SCOPE = "custom:qhub:clusters:create"
SEE_SCOPE = "custom:qhub:clusters:see"
STOP_SCOPE = "custom:qhub:clusters:stop"

_ACCESS = "access:services"
_SERVER = "access:servers!server="


class Grant(Model):
    """Who is given a role; an empty one is given to nobody."""

    everyone: bool = False
    """Everyone who may use the gateway at all."""
    admins: bool = False
    """The hub's administrators."""
    users: tuple[Name, ...] = ()
    """Names of hub users."""
    groups: tuple[Name, ...] = ()
    """Names of hub groups: a member of any."""
    roles: tuple[Name, ...] = ()
    """Names of roles in the person's identity, e.g. of Keycloak: who has any."""


class Roles(Model):
    """What there is to be allowed, and to whom; a token's scope may allow it as well."""

    create: Grant = Grant(everyone=True)
    """Make clusters, and see, scale and stop one's own."""
    see: Grant = Grant(admins=True)
    """See the clusters of everyone: what they are, never their keys."""
    stop: Grant = Grant(admins=True)
    """Stop the clusters of everyone."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, and with what token.

    Attributes:
        name: The hub's user name.
        groups: Names of their hub groups.
        roles: Names of the roles in their identity.
        admin: Whether they administer the hub.
        scopes: Of the token, expanded as the hub says them.
        server: Whether the token is that of one of their servers.
    """

    name: str
    groups: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    admin: bool = False
    scopes: frozenset[str] = frozenset()
    server: bool = False


@dataclass(frozen=True, slots=True)
class Rights:
    """What one asker may do.

    Attributes:
        create: Make clusters.
        see: See everyone's.
        stop: Stop everyone's.
    """

    create: bool = False
    see: bool = False
    stop: bool = False


class Action(enum.Enum):
    """What is done to one cluster."""

    USE = "use"
    """Get its keys, connect, scale: its owner only."""
    SEE = "see"
    """Read what it is, and its logs."""
    STOP = "stop"
    """End it."""


def server_of(name: str, scopes: Collection[str]) -> str | None:
    """Return the name of the server whose own token has these scopes; ``None`` if it is of none.

    The token of a server may reach that one server (JupyterHub 6, role ``server``). One that may
    reach several, or a server of somebody else, was made by a person.
    """
    prefix = f"{_SERVER}{name}/"
    servers = [scope for scope in scopes if scope.startswith("access:servers")]
    if len(servers) != 1 or not servers[0].startswith(prefix):
        return None
    return servers[0].removeprefix(prefix)


def admitted(scopes: Collection[str], service: str, *, server: bool) -> bool:
    """Whether a token may be used here: it is for this service, or a server's own.

    Args:
        scopes: Of the token, expanded.
        service: The hub's name of the gateway.
        server: Whether it is the token of the asker's own server.
    """
    return server or not {_ACCESS, f"{_ACCESS}!service={service}"}.isdisjoint(scopes)


def rights_of(asker: Asker, roles: Roles) -> Rights:
    """Decide what somebody may do.

    The token of a server never reaches further than its owner's clusters, whoever the owner is:
    whatever runs in a notebook of an administrator has no power over others.
    """
    create = CREATE_SCOPE in asker.scopes or _given(roles.create, asker)
    if asker.server:
        return Rights(create=create)
    stop = STOP_SCOPE in asker.scopes or _given(roles.stop, asker)
    see = SEE_SCOPE in asker.scopes or _given(roles.see, asker)
    return Rights(create=create, see=see or stop, stop=stop)


def may(action: Action, *, asker: str, owner: str, rights: Rights) -> bool:
    """Whether somebody may do something to a cluster."""
    if asker == owner:
        return True
    if action is Action.SEE:
        return rights.see
    return action is Action.STOP and rights.stop


def _given(grant: Grant, asker: Asker) -> bool:
    return (
        grant.everyone
        or (grant.admins and asker.admin)
        or asker.name in grant.users
        or not asker.groups.isdisjoint(grant.groups)
        or not asker.roles.isdisjoint(grant.roles)
    )
