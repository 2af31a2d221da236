"""Roles of the hub's client in Keycloak as roles of the hub. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qhub_auth.directory import ClientRole
from qhub_auth.errors import shown

__all__ = ["HubRoles", "hub_roles", "scope_problem"]

# What JupyterHub takes as a role's name (jupyterhub.roles, 6.1): 3 to 255 of these.
_NAME = re.compile(r"[a-z][a-z0-9\-_~.]{1,253}[a-z0-9]\Z")
# What may stand after a scope to narrow it (jupyterhub.scopes, 6.1).
_FILTERS = ("!user=", "!service=", "!group=", "!server=")
_EXACT_FILTERS = frozenset({"!user", "!service", "!server"})
# Scopes that mean something for tokens only.
_OF_TOKENS = frozenset({"inherit", "(no_scope)"})


@dataclass(frozen=True, slots=True)
class HubRoles:
    """Roles as JupyterHub takes them, and what was wrong with others.

    Attributes:
        roles: Name, description and scopes of each.
        problems: By the role's name, why it is not given.
    """

    roles: tuple[Mapping[str, Any], ...]
    problems: Mapping[str, str]


def scope_problem(scope: str, known: Collection[str]) -> str | None:
    """Return what is wrong with a scope, and what it may have been meant to be; or `None`.

    Args:
        scope: As it stands in Keycloak, e.g. ``read:users!group=/physics``.
        known: The names of all scopes the hub has, those of its own included.
    """
    name, mark, narrowed = scope.partition("!")
    if name in _OF_TOKENS:
        return f"{shown(scope)} is for tokens, not for roles"
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        meant = f"; did you mean {' or '.join(near)}?" if near else ""
        return f"the hub has no scope {shown(scope)}{meant}"
    full = mark + narrowed
    if mark and full not in _EXACT_FILTERS and not _named(full):
        return (
            f"{shown(scope)} is narrowed by what the hub does not know; it takes "
            f"{', '.join(f'{each}NAME' for each in _FILTERS)}, !user, !service or !server"
        )
    return None


def _named(narrowed: str) -> bool:
    return any(narrowed.startswith(each) and len(narrowed) > len(each) for each in _FILTERS)


def hub_roles(
    names: Iterable[str],
    roles: Mapping[str, ClientRole],
    *,
    known_scopes: Collection[str],
    reserved: Collection[str],
) -> HubRoles:
    """Return the hub's roles of somebody who has the client's roles `names`.

    A role without scopes is none of the hub's. One with a scope that does not exist is not given
    at all: half of a role would be another role.

    Args:
        names: Roles of the hub's client that the person has.
        roles: All roles of the client, by name.
        known_scopes: The names of all scopes the hub has.
        reserved: Names of roles that are the hub's own.
    """
    given: list[Mapping[str, Any]] = []
    problems: dict[str, str] = {}
    for name in sorted(set(names)):
        role = roles.get(name)
        if role is None:
            continue
        scopes = sorted(_listed(role.scopes))
        if not scopes:
            continue
        problem = _name_problem(name, reserved) or next(
            filter(None, (scope_problem(each, known_scopes) for each in scopes)), None
        )
        if problem:
            problems[name] = problem
        else:
            given.append({"name": name, "description": role.description, "scopes": scopes})
    return HubRoles(tuple(given), problems)


def _listed(values: Iterable[str]) -> set[str]:
    # an attribute may have many values, or one with commas, which is what Keycloak's page invites
    parts = (part.strip() for value in values for part in value.split(","))
    return {part for part in parts if part}


def _name_problem(name: str, reserved: Collection[str]) -> str | None:
    if name in reserved:
        return "the hub has a role of that name already; give it another one in Keycloak"
    if not _NAME.match(name):
        return (
            "the hub takes names of 3 to 255 of the characters a-z, 0-9, '-', '_', '.' and '~' "
            "that begin with a letter and end with a letter or digit"
        )
    return None
