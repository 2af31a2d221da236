"""What `qhub-identity` works on: the settings, Keycloak's people and groups, the numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from traitlets.config.loader import Config
from traitlets.traitlets import TraitError

from qhub_auth.authenticator import KeycloakAuthenticator
from qhub_auth.directory import Directory, PersonFacts
from qhub_auth.errors import ConfigurationError, RefusedError
from qhub_auth.homes.ensuring import Folders
from qhub_auth.keycloak.admin import KeycloakAdmin
from qhub_auth.keycloak.snapshot import Realm
from qhub_auth.login.admission import Admission
from qhub_auth.login.rules import Rules
from qhub_auth.numbers.identities import Identities
from qhub_auth.numbers.resolving import with_shares
from qhub_auth.settings_file import read_settings
from qhub_auth.sync.reading import read_everything

__all__ = ["Everybody", "Site", "group_ids"]


@dataclass(frozen=True)
class Everybody:
    """All people of the realm at one time.

    Attributes:
        directory: All groups.
        people: What Keycloak says of everybody, by sub.
        names: Their names at the hub, by sub; who cannot have one is not there.
        refused: Why somebody may not come in, by sub.
        odd: What Keycloak has of people and groups that counts for nothing, in words.
        odd_numbers: Subs of those whose own numbers count for nothing.
        group_ids: Of all groups that Keycloak has, those that count for nothing included.
    """

    directory: Directory
    people: Mapping[str, PersonFacts]
    names: Mapping[str, str]
    refused: Mapping[str, str] = field(default_factory=dict)
    odd: tuple[str, ...] = ()
    odd_numbers: frozenset[str] = frozenset()
    group_ids: frozenset[str] = frozenset()

    def welcome(self) -> dict[str, PersonFacts]:
        """Return those who may come in, by sub."""
        return {sub: each for sub, each in self.people.items() if sub not in self.refused}


def group_ids(realm: Realm, directory: Directory) -> frozenset[str]:
    """Return the identifiers of all groups that there are.

    The directory lacks those that count for nothing: a group that looks like another one hides
    both, and what is hidden is not gone. It has those by the settings alone, which Keycloak lacks.
    """
    return frozenset(realm.groups).union(directory.by_id)


class Site:
    """The settings of one hub and what they lead to.

    Args:
        path: The file of settings, as the hub and the sync service read it.
        may_create: Whether a database of numbers is made if there is none.
    """

    def __init__(self, path: Path, *, may_create: bool = True) -> None:
        self.path = path
        self._may_create = may_create

    @cached_property
    def config(self) -> Config:
        """The settings.

        Raises:
            ConfigurationError: There is no such file, or it fails.
        """
        return read_settings(self.path)

    @cached_property
    def authenticator(self) -> KeycloakAuthenticator:
        """The authenticator of the hub, to which no hub belongs here.

        Raises:
            ConfigurationError: A setting is wrong.
        """
        try:
            made = KeycloakAuthenticator(config=self.config)
            _ = made.identities, made.folders  # made when they are first asked for
            made.identities.settings_file = self.path
            made.identities.may_create = self._may_create
        except TraitError as error:
            msg = f"{self.path}: {error}"
            raise ConfigurationError(msg) from error
        return made

    @property
    def identities(self) -> Identities:
        """How numbers are given."""
        return self.authenticator.identities

    @property
    def folders(self) -> Folders:
        """How folders are made."""
        return self.authenticator.folders

    @property
    def admin(self) -> KeycloakAdmin:
        """The door to Keycloak."""
        return self.authenticator.admin_api

    def directory_of(self, realm: Realm) -> tuple[Directory, frozenset[str]]:
        """Return the groups, with the shares that the settings add, and paths that count for none.

        A group with a slash in its name may look like one further down: both count for nobody.
        """
        disguised = frozenset(each.path for each in realm.groups.values() if each.disguised)
        groups = {
            path: group for path, group in realm.directory.groups.items() if path not in disguised
        }
        directory = replace(realm.directory, groups=groups)
        return with_shares(directory, self.identities.shares), disguised

    def _rules(self, admission: Admission) -> Rules:
        """Return who may come in.

        Raises:
            ConfigurationError: Nobody, so these are hardly the hub's rules.
        """
        rules = admission.rules
        if rules.let_somebody_in or self.authenticator.allowed_scopes:
            return rules
        msg = (
            f"{self.path} has no rule that lets anybody in, so everybody would count as locked "
            "out. The rules of the hub (c.KeycloakAuthenticator.allow_all, allowed_users, "
            "allowed_groups, allowed_roles, admin_users, admin_groups, admin_roles or "
            "allowed_scopes) belong into the file that it shares with this command"
        )
        raise ConfigurationError(msg)

    async def everybody(self) -> Everybody:
        """Read all people and groups; some seconds for thousands.

        Raises:
            ConfigurationError: The settings say of nobody that they may come in.
            KeycloakError: Something could not be read; there is no half of an answer.
        """
        self.authenticator.keycloak.check()
        admission = Admission(self.authenticator)
        rules = self._rules(admission)
        snapshot = await read_everything(self.admin)
        directory, disguised = self.directory_of(snapshot.realm)
        people = {
            each.sub: replace(each, groups=each.groups - disguised) for each in snapshot.everybody()
        }
        names: dict[str, str] = {}
        refused: dict[str, str] = {}
        for sub, facts in people.items():
            try:
                name = await self.authenticator.name_of(facts, by_token=False)
            except RefusedError as error:
                refused[sub] = error.reason
                continue
            names[sub] = name
            decision = admission.decision(rules, facts, name)
            if not facts.enabled:
                refused[sub] = "disabled in Keycloak"
            elif not decision.allowed:
                refused[sub] = decision.reason
        odd_numbers = frozenset(sub for sub, each in snapshot.people.items() if each.account.odd)
        odd, ids = tuple(snapshot.odd()), group_ids(snapshot.realm, directory)
        return Everybody(directory, people, names, refused, odd, odd_numbers, ids)

    async def close(self) -> None:
        """Close the connections to Keycloak and to the database."""
        await self.authenticator.keycloak.aclose()
        await asyncio.to_thread(self.identities.store.close)
