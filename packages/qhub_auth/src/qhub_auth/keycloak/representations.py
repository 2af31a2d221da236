"""What Keycloak's admin API answers, read into plain records, or refused. Pure.

Field names are those of Keycloak 26's REST representations (``GroupRepresentation`` and so on).
Nothing is guessed: an answer of another shape than expected raises, so that a broken answer is
never taken for "nobody".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qhub_auth.directory import ClientRole
from qhub_auth.errors import KeycloakUnavailableError, shown

__all__ = [
    "Account",
    "GroupRecord",
    "Role",
    "RoleKey",
    "account",
    "attributes",
    "group",
    "listed",
    "mapped_roles",
    "number",
    "objects",
    "role",
    "role_of_client",
]

# The largest number that a system has for people and groups, and its digits.
_LARGEST_NUMBER = 2**32 - 1
_DIGITS = len(str(_LARGEST_NUMBER))

REALM = ""
"""Stands for the realm itself where a role's client is named."""

RoleKey = tuple[str, str]
"""Client id (:data:`REALM` for a role of the realm) and name of a role."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user of the realm, without groups and roles, which are asked for apart.

    Attributes:
        sub: Their identifier in the realm.
        name: Their user name.
        enabled: Whether they may log in.
        uid: Their ``uidNumber``, if they have one that is a number.
        gid: Their ``gidNumber``, likewise; it counts only beside a ``uidNumber``.
        home: Their ``homeDirectory``.
        email: For people.
        full_name: For people.
        service: It is the service account of a client, and nobody.
        odd: Which of their attributes count for nothing, and why, in words.
    """

    sub: str
    name: str
    enabled: bool = True
    uid: int | None = None
    gid: int | None = None
    home: str | None = None
    email: str = ""
    full_name: str = ""
    service: bool = False
    odd: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """A group, with the roles that are mapped to it itself.

    Attributes:
        id: Keycloak's identifier.
        path: Its full path.
        attributes: Its attributes, all values of each.
        roles: Roles mapped to it directly.
        name: Its own name, the end of its path.
    """

    id: str
    path: str
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    roles: frozenset[RoleKey] = frozenset()
    name: str = ""

    @property
    def disguised(self) -> bool:
        """Whether a slash in its name makes its path look like that of a group further down.

        Keycloak writes ``~/`` for it only with its option ``escape-slashes-in-group-path``.
        """
        return "/" in self.name and not self.path.endswith("/" + self.name.replace("/", "~/"))


@dataclass(frozen=True, slots=True)
class Role:
    """A role of the realm or of a client.

    Attributes:
        id: Keycloak's identifier.
        name: Its name.
        composite: Whether it contains other roles.
        container: The identifier (not the client id) of the client that has it, or of the realm.
        of_client: Whether a client has it.
        attributes: All values of each; empty if a brief answer was asked for.
        description: For people.
    """

    id: str
    name: str
    composite: bool = False
    container: str = ""
    of_client: bool = False
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    description: str = ""


def _refuse(what: str, value: object) -> KeycloakUnavailableError:
    return KeycloakUnavailableError(f"Keycloak's answer: {what}, but it is {shown(value)}")


def _text(data: Mapping[str, Any], name: str, kind: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not value or "\0" in value:
        raise _refuse(f"a {kind} has a text {name!r}", value)
    return value


def _optional(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _refuse(f"{name!r} is a text", value)
    return value


def objects(data: object, kind: str) -> list[Mapping[str, Any]]:
    """Return the objects of a list.

    Raises:
        KeycloakUnavailableError: It is no list, or something in it is no object.
    """
    if not isinstance(data, list):
        raise _refuse(f"{kind} come as a list", data)
    for each in data:
        if not isinstance(each, dict):
            raise _refuse(f"each of the {kind} is an object", each)
    return data


def attributes(data: object) -> dict[str, tuple[str, ...]]:
    """Return attributes with all their values; what is absent has none.

    Raises:
        KeycloakUnavailableError: They are not names with lists of texts.
    """
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise _refuse("attributes are an object", data)
    found: dict[str, tuple[str, ...]] = {}
    for name, values in data.items():
        if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
            raise _refuse(f"the attribute {shown(name)} is a list of texts", values)
        found[name] = tuple(values)
    return found


def number(values: Iterable[str]) -> int | None:
    """Return the first value as a number, or `None` where there is none or it is not one.

    Keycloak keeps attributes as text. What is not a plain decimal number, e.g. ``"10_0"``, was not
    meant as one and gives nobody a number; one above 2**32 - 1 is no system's.
    """
    first = next(iter(values), "").strip()
    plain = first.isascii() and first.isdigit() and len(first) <= _DIGITS
    return int(first) if plain and int(first) <= _LARGEST_NUMBER else None


def account(data: object) -> Account:
    """Read a ``UserRepresentation``, a full one if the attributes count.

    Raises:
        KeycloakUnavailableError: It is not one.
    """
    if not isinstance(data, dict):
        raise _refuse("a user is an object", data)
    enabled = data.get("enabled")
    if not isinstance(enabled, bool):
        raise _refuse("a user has 'enabled', true or false", enabled)
    values = attributes(data.get("attributes"))
    uid = number(values.get("uidNumber", ()))
    return Account(
        sub=_text(data, "id", "user"),
        name=_text(data, "username", "user"),
        enabled=enabled,
        uid=uid,
        # as at log-in, where one that comes alone may be that of a group of theirs
        gid=number(values.get("gidNumber", ())) if uid is not None else None,
        home=next(iter(values.get("homeDirectory", ())), None) or None,
        email=_optional(data, "email"),
        full_name=" ".join(
            part for name in ("firstName", "lastName") if (part := _optional(data, name))
        ),
        service=data.get("serviceAccountClientId") is not None,
        odd=_odd_numbers(values),
    )


def _odd_numbers(values: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Say which numbers of a person are none."""
    found = {name: next(iter(values.get(name, ())), "") for name in ("uidNumber", "gidNumber")}
    odd = [
        f"{name} is {shown(text)}, and it takes a number up to {_LARGEST_NUMBER}"
        for name, text in found.items()
        if text.strip() and number([text]) is None
    ]
    if not odd and found["gidNumber"].strip() and not found["uidNumber"].strip():
        odd.append(f"gidNumber is {shown(found['gidNumber'])}, and counts only with a uidNumber")
    return tuple(odd)


def group(data: object) -> GroupRecord:
    """Read a ``GroupRepresentation``, a full one if attributes and roles count.

    Raises:
        KeycloakUnavailableError: It is not one.
    """
    if not isinstance(data, dict):
        raise _refuse("a group is an object", data)
    path = _text(data, "path", "group")
    if not path.startswith("/"):
        raise _refuse("the path of a group begins with a slash", path)
    realm_roles = data.get("realmRoles") or []
    client_roles = data.get("clientRoles") or {}
    if not isinstance(realm_roles, list) or not isinstance(client_roles, dict):
        raise _refuse("the roles of a group are lists by client", realm_roles)
    roles = {(REALM, str(name)) for name in realm_roles}
    for client, names in client_roles.items():
        if not isinstance(names, list):
            raise _refuse("the roles of a group are lists by client", names)
        roles |= {(str(client), str(name)) for name in names}
    return GroupRecord(
        id=_text(data, "id", "group"),
        path=path,
        attributes=attributes(data.get("attributes")),
        roles=frozenset(roles),
        name=_optional(data, "name"),
    )


def role(data: Mapping[str, Any]) -> Role:
    """Read a ``RoleRepresentation``.

    Raises:
        KeycloakUnavailableError: It is not one.
    """
    return Role(
        id=_text(data, "id", "role"),
        name=_text(data, "name", "role"),
        composite=data.get("composite") is True,
        container=_optional(data, "containerId"),
        of_client=data.get("clientRole") is True,
        attributes=attributes(data.get("attributes")),
        description=_optional(data, "description"),
    )


def role_of_client(record: Role) -> ClientRole:
    """Return a role of the hub's client with the scopes that its attribute ``scopes`` names.

    The attribute may have several values, and each may name several, with commas or spaces between.
    """
    values = record.attributes.get("scopes", ())
    scopes = [scope for value in values for scope in value.replace(",", " ").split()]
    return ClientRole(
        name=record.name,
        scopes=tuple(dict.fromkeys(scopes)),
        attributes=record.attributes,
        description=record.description,
    )


def mapped_roles(data: object) -> frozenset[RoleKey]:
    """Read a ``MappingsRepresentation``: the roles that somebody has directly.

    Raises:
        KeycloakUnavailableError: It is not one.
    """
    if not isinstance(data, dict):
        raise _refuse("role mappings are an object", data)
    found = {
        (REALM, _text(each, "name", "role"))
        for each in objects(data.get("realmMappings") or [], "roles of the realm")
    }
    clients = data.get("clientMappings") or {}
    if not isinstance(clients, dict):
        raise _refuse("role mappings of clients are an object", clients)
    for client, mapping in clients.items():
        if not isinstance(mapping, dict):
            raise _refuse("role mappings of a client are an object", mapping)
        names = objects(mapping.get("mappings") or [], "roles of a client")
        found |= {(str(client), _text(each, "name", "role")) for each in names}
    return frozenset(found)


def listed(data: object, name: str, kind: str) -> list[str]:
    """Return one text field of every object of a list, e.g. the ``id`` of all members.

    Raises:
        KeycloakUnavailableError: It is not such a list.
    """
    return [_text(each, name, kind) for each in objects(data, f"{kind}s")]
