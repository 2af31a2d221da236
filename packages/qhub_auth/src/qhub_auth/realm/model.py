"""A realm as an administrator writes it down. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, StrictInt, model_validator

from qhub_auth.paths import joined
from qhub_auth.realm.brokers import Broker
from qhub_auth.realm.clients import ForwardAuthClient, HubClient, ServiceAccount
from qhub_auth.realm.federation import Kerberos, LdapFederation
from qhub_auth.realm.fields import GroupPath, Model, Name, Number, Seconds, Secret
from qhub_auth.realm.profile import Personal

__all__ = ["GroupModel", "Lifetimes", "PersonModel", "RealmModel", "RoleModel"]

RealmName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
Attributes = Annotated[dict[Name, tuple[Name, ...]], Field(default_factory=dict)]


class GroupModel(Model):
    """A group, with those below it."""

    name: Name
    """Its own name, without the groups above it."""
    share: Literal["rw", "ro"] | None = None
    """``rw``: it has a shared folder. ``ro``: its members may read the folders of the groups
    above it, and it has none itself."""
    gid: Number | None = None
    """Its number, if it is not to be allocated."""
    attributes: Attributes
    """Other attributes, each with its values."""
    groups: tuple[GroupModel, ...] = ()
    """The groups below it."""

    def paths(self, above: tuple[str, ...] = ()) -> Iterator[str]:
        """Its full path, and those of all groups below it."""
        here = (*above, self.name)
        yield joined(here)
        for group in self.groups:
            yield from group.paths(here)


class RoleModel(Model):
    """A role of the hub's client."""

    name: Name
    description: str = ""
    scopes: tuple[Name, ...] = ()
    """The hub's scopes that it gives, e.g. ``admin-ui``, ``list:users``."""
    attributes: Attributes
    """Other attributes, each with its values."""
    groups: tuple[GroupPath, ...] = ()
    """Groups whose members have it."""
    contains: tuple[Name, ...] = ()
    """Other roles of the hub's client that whoever has this one has too."""


class PersonModel(Model):
    """A person. Only for tests and demos: real people are not kept in files."""

    name: Name
    """The name they log in by."""
    password: Secret | None = None
    first_name: Name | None = None
    last_name: Name | None = None
    email: Name | None = None
    enabled: bool = True
    groups: tuple[GroupPath, ...] = ()
    roles: tuple[Name, ...] = ()
    """Roles of the hub's client that they have by themselves, not by a group."""
    uid: Number | None = None
    gid: Number | None = None
    home: Name | None = None


class Lifetimes(Model):
    """How long things hold good, in seconds."""

    access_token: Seconds = 300
    """How long a token is taken by those who do not ask Keycloak; what changed is seen after it."""
    session_idle: Seconds = 8 * 3600
    """How long a person may do nothing before they log in again. The hub renews what it holds
    only while they use it, so half a working day away should not be too much."""
    session_max: Seconds = 12 * 3600
    """After how long they log in again in any case."""
    log_in: Seconds = 1800
    """How long a log-in page may be left open."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.access_token <= self.session_idle <= self.session_max:
            message = (
                f"access_token ({self.access_token}) <= session_idle ({self.session_idle}) <= "
                f"session_max ({self.session_max}) has to hold"
            )
            raise ValueError(message)
        return self


class RealmModel(Model):
    """A realm for one hub."""

    name: RealmName
    """Its name in addresses."""
    display_name: Name | None = None
    """Its name for people."""
    hub: HubClient
    forward_auth: ForwardAuthClient | None = None
    service: ServiceAccount | None = None
    """Without it groups and roles are known only from what people's log-ins say."""
    groups: tuple[GroupModel, ...] = ()
    roles: tuple[RoleModel, ...] = ()
    people: tuple[PersonModel, ...] = ()
    lifetimes: Lifetimes = Lifetimes()
    refresh_token_rotation: bool = False
    """Whether each refresh token holds good once. The hub keeps to it; it gains little for
    clients with a secret, as all of these are."""
    remember_me: bool = False
    brute_force_protection: bool = True
    """Whether an account is barred for a while after wrong passwords."""
    password_policy: str | None = None
    """Keycloak's own syntax, e.g. ``length(12) and notUsername``."""
    require_https: Literal["all", "external", "none"] = "external"
    """Who has to use it: ``external`` spares loopback and private addresses."""
    admin_events_days: Annotated[StrictInt, Field(ge=1, le=365)] = 7
    """How long changes are kept; the group-sync service follows them."""
    required_of_people: tuple[Personal, ...] = ()
    """What people are asked for when they log in without it."""
    brokers: tuple[Broker, ...] = ()
    ldap: tuple[LdapFederation, ...] = ()
    kerberos: Kerberos | None = None
    """For people who are known by Kerberos alone; with a directory it is the directory's."""

    @property
    def uses_kerberos(self) -> bool:
        """Whether anybody may log in by a ticket."""
        return self.kerberos is not None or any(ldap.kerberos for ldap in self.ldap)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        paths = [path for group in self.groups for path in group.paths()]
        _once("groups", paths)
        _once("roles", (role.name for role in self.roles))
        _once("people", (person.name.lower() for person in self.people))
        _once("brokers", (broker.alias for broker in self.brokers))
        _once("ldap", (ldap.name for ldap in self.ldap))
        clients = (self.hub, self.forward_auth, self.service)
        _once("clients", (client.client_id for client in clients if client))
        self._known(paths)
        return self

    def _known(self, paths: list[str]) -> None:
        roles = [role.name for role in self.roles]
        for role in self.roles:
            _among(f"roles: {role.name}: groups", role.groups, paths)
            _among(f"roles: {role.name}: contains", role.contains, roles)
        for person in self.people:
            _among(f"people: {person.name}: groups", person.groups, paths)
            _among(f"people: {person.name}: roles", person.roles, roles)
        for broker in self.brokers:
            claimed = [each.group for each in getattr(broker, "claim_groups", ())]
            _among(f"brokers: {broker.alias}: groups", (*broker.groups, *claimed), paths)


def _once(what: str, names: Iterable[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        message = f"{what}: each may stand there once; more than once: {', '.join(twice)}"
        raise ValueError(message)


def _among(where: str, names: Iterable[str], known: list[str]) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        there_are = ", ".join(sorted(known)) or "none"
        message = f"{where}: {', '.join(unknown)} is not defined; there are: {there_are}"
        raise ValueError(message)
