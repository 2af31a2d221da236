"""What the claims of a token say of a person. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from qhub_auth.directory import PersonFacts
from qhub_auth.errors import TokenError, shown
from qhub_auth.keycloak.representations import number
from qhub_auth.paths import usable

__all__ = ["client_roles", "full_paths", "person_facts", "value_at"]


def value_at(claims: Mapping[str, Any], *names: str) -> object:
    """Return a value deep in `claims`, or `None` if nothing is there."""
    value: object = claims
    for name in names:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def client_roles(
    claims: Mapping[str, Any], client_id: str, claim: str = "roles"
) -> frozenset[str] | None:
    """Return the roles of the hub's client, or `None` if the token does not speak of them.

    Args:
        claims: Of a token.
        client_id: The hub's client. Where Keycloak's mapper "User Client Role" puts its roles as it
            comes, ``resource_access.<client>.roles``, is looked at as well.
        claim: Where they stand, with dots for what is deeper; one of that very name goes first.
    """
    for names in ((claim,), claim.split("."), ("resource_access", client_id, "roles")):
        roles = value_at(claims, *names)
        if isinstance(roles, list):
            return frozenset(role for role in roles if isinstance(role, str) and role)
    return None


def full_paths(names: Iterable[object]) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return those of `names` that are full paths of groups, and what the others are, for the log.

    What :func:`qhub_auth.paths.usable` does not take gives nothing.
    """
    good, bad = set(), []
    for name in names:
        if isinstance(name, str) and usable(name):
            good.add(name)
        else:
            bad.append(shown(name))
    return frozenset(good), tuple(bad)


def person_facts(
    claims: Mapping[str, Any], *, name: str, groups: frozenset[str], roles: frozenset[str]
) -> PersonFacts:
    """Return what `claims` say of a person.

    Args:
        claims: Of a token that is trusted already.
        name: By which they log in.
        groups: Full paths of their groups.
        roles: Their roles of the hub's client.

    Raises:
        TokenError: There is no ``sub``, or a number in them is none.
    """
    sub = claims.get("sub")
    if not isinstance(sub, str) or not sub:
        raise TokenError("the token does not say whose it is (sub)")
    uid = _number(claims, "uidNumber")
    return PersonFacts(
        sub=sub,
        name=name,
        groups=groups,
        roles=roles,
        uid=uid,
        # Keycloak's mapper takes the attribute of a person's group if they have none themselves:
        # a gidNumber that comes alone may be any group's
        gid=_number(claims, "gidNumber") if uid is not None else None,
        home=_text(claims, "homeDirectory") or None,
        email=_text(claims, "email"),
        full_name=_text(claims, "name"),
    )


def _one(claims: Mapping[str, Any], name: str) -> object:
    # an attribute of Keycloak's may have many values; a mapper may hand over the list
    value = claims.get(name)
    return (value[0] if value else None) if isinstance(value, list) else value


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = _one(claims, name)
    return value if isinstance(value, str) else ""


def _number(claims: Mapping[str, Any], name: str) -> int | None:
    """Return a number that somebody gave the person; a wrong one must not become another one."""
    value = _one(claims, name)
    if value is None or value == "":
        return None
    whole = isinstance(value, int) and not isinstance(value, bool)
    text = value if isinstance(value, str) else str(value) if whole else ""
    found = number([text]) if text == text.strip() else None
    if found is None:
        raise TokenError(f"the claim {name} is {shown(value)}; it takes a number, e.g. 20001")
    return found
