"""Who may come in, and as what: what Keycloak says of a person, as the hub's model of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from jupyterhub import orm
from jupyterhub.roles import get_default_roles
from jupyterhub.scopes import scope_definitions

from qhub_auth.directory import Directory, PersonFacts
from qhub_auth.errors import (
    IdentityError,
    IdentityUnavailableError,
    NameTakenError,
    RefusedError,
    shown,
)
from qhub_auth.identity import KEY, Identity
from qhub_auth.login.roles import hub_roles
from qhub_auth.login.rules import Decision, Rules, decide

if TYPE_CHECKING:
    from qhub_auth.authenticator import KeycloakAuthenticator

__all__ = ["Admission", "kept_folders", "same_roles"]

# Made once: to put a query together takes longer than to ask it.
_ROLES = sa.select(orm.Role.name, orm.Role.description, orm.Role.scopes)
_ROLES_OF = _ROLES.join(orm.Role.users).where(orm.User.name == sa.bindparam("name"))
_ROLES_NAMED = _ROLES.where(orm.Role.name.in_(sa.bindparam("names", expanding=True)))


class Admission:
    """Makes the hub's models of people, the same way at log-in, refresh and sync."""

    def __init__(self, authenticator: KeycloakAuthenticator) -> None:
        self._authenticator = authenticator

    @property
    def rules(self) -> Rules:
        """Who may come in, as configured."""
        it = self._authenticator
        return Rules(
            allow_all=it.allow_all,
            allowed_users={it.normalize_username(name) for name in it.allowed_users},
            allowed_groups=it.allowed_groups,
            allowed_roles=it.allowed_roles,
            admin_users={it.normalize_username(name) for name in it.admin_users},
            admin_groups=it.admin_groups,
            admin_roles=it.admin_roles,
            blocked_users={it.normalize_username(name) for name in it.blocked_users},
            blocked_groups=it.blocked_groups,
            blocked_roles=it.blocked_roles,
        )

    async def model_of(
        self,
        facts: PersonFacts,
        tokens: Mapping[str, Any] | None,
        identity: Identity | IdentityError | None,
    ) -> dict[str, Any]:
        """See `KeycloakAuthenticator.auth_model_of`."""
        it = self._authenticator
        name = await self.name_of(facts, by_token=tokens is not None)
        directory = await it.directory_keeper.directory()
        if it.disguised:
            facts = replace(facts, groups=facts.groups - it.disguised)
        groups = facts.all_groups
        decision = self.decision(self.rules, facts, name, tokens)
        if not facts.enabled:
            raise RefusedError(it.custom_403_message, reason=f"{name} is disabled in Keycloak")
        if not decision.allowed:
            raise RefusedError(it.custom_403_message, reason=f"{name}: {decision.reason}")
        contract = await self._contract(facts, name, directory, identity)
        model: dict[str, Any] = {
            "name": name,
            "admin": decision.admin,
            "auth_state": {**(tokens or {}), KEY: contract.model_dump(mode="json")},
        }
        if it.manage_groups:
            model["groups"] = sorted(groups)
        if it.manage_roles:
            model["roles"] = self._roles_of(facts, directory, admin=decision.admin)
        return model

    def decision(
        self,
        rules: Rules,
        facts: PersonFacts,
        name: str,
        tokens: Mapping[str, Any] | None = None,
    ) -> Decision:
        """Return whether somebody may come in, and as what, whether or not they are disabled.

        Args:
            rules: :attr:`rules`.
            facts: What Keycloak says of them.
            name: Theirs at the hub.
            tokens: What is kept of a log-in; `None` where the service account said it.
        """
        found = decide(rules, name=name, groups=facts.all_groups, roles=facts.roles)
        if found.allowed or found.blocked or not self._by_scopes(tokens):
            return found
        return Decision(allowed=True, admin=False, reason="allowed_scopes")

    def _by_scopes(self, tokens: Mapping[str, Any] | None) -> bool:
        allowed = self._authenticator.allowed_scopes
        if not allowed:
            return False
        # whoever is in came in by a log-in with these scopes; the service account cannot say
        return tokens is None or set(allowed) <= set(tokens.get("scope") or ())

    async def name_of(self, facts: PersonFacts, *, by_token: bool) -> str:
        """See `KeycloakAuthenticator.name_of`."""
        it = self._authenticator
        raw: str | None = facts.name
        if not by_token and it.username_claim != "preferred_username":
            # what the claim would say only a log-in shows; the store has kept it
            person = await asyncio.to_thread(it.identities.store.find, facts.sub)
            raw = person.name if person is not None else None
        if raw is None:
            raise RefusedError(it.custom_403_message, reason=f"{facts.sub} never logged in")
        name: str = it.normalize_username(raw)
        if not it.validate_username(name) or not name.isprintable():
            raise RefusedError(
                f"Your name, {shown(name)}, cannot be the name of an account here. "
                "Please ask the administrators for another one.",
                reason=f"the name {shown(name)} does not match {it.username_pattern}",
            )
        if it.normalize_username(name) != name:
            raise RefusedError(
                it.custom_403_message,
                reason=f"username_map turns {shown(raw)} into {shown(name)}, and that into "
                "another name: JupyterHub applies it twice",
            )
        return name

    async def _contract(
        self,
        facts: PersonFacts,
        name: str,
        directory: Directory | None,
        identity: Identity | IdentityError | None,
    ) -> Identity:
        """Return somebody's numbers and folders."""
        try:
            if isinstance(identity, IdentityError):
                raise identity
            if identity is not None:
                return identity
            return await asyncio.to_thread(
                self._authenticator.identities.resolve, facts, directory or Directory(), name
            )
        except NameTakenError as error:
            raise RefusedError(
                f"The name {name} belongs to somebody else here. Please tell the administrators; "
                f"if it is to be yours, they run: qhub-identity release {name}",
                reason=str(error),
            ) from error
        except IdentityUnavailableError:
            raise
        except IdentityError as error:
            raise RefusedError(
                "No account could be made for you. Please tell the administrators.",
                reason=f"{name}: {error}",
            ) from error

    def _roles_of(
        self, facts: PersonFacts, directory: Directory | None, *, admin: bool
    ) -> list[dict[str, Any]] | None:
        """Return the hub's roles of somebody; `None`, which changes none, if they are not known."""
        if directory is None:
            return None
        it = self._authenticator
        own = {role["name"] for role in get_default_roles()}
        configured = [role.get("name") for role in getattr(it.parent, "load_roles", None) or ()]
        found = hub_roles(
            facts.roles,
            directory.roles,
            known_scopes=scope_definitions,
            reserved=own.union(configured),
        )
        for role, problem in found.problems.items():
            it.tell_once(f"The role {shown(role)} of Keycloak's is not given: {problem}")
        # whatever is not listed is taken from them, JupyterHub's own roles as well
        return [*map(dict, found.roles), *self._default_roles(admin=admin)]

    def _default_roles(self, *, admin: bool) -> list[dict[str, Any]]:
        """Return JupyterHub's own roles of somebody as they are, so that nothing changes them."""
        names = ["user", "admin"] if admin else ["user"]
        roles = {role["name"]: role for role in get_default_roles() if role["name"] in names}
        db = getattr(self._authenticator.parent, "db", None)
        if db is not None:
            for name, description, scopes in db.execute(_ROLES_NAMED, {"names": names}):
                roles[name] = {"name": name, "description": description, "scopes": scopes or []}
        return list(roles.values())


def same_roles(db: Any, model: Mapping[str, Any]) -> bool:
    """Return whether somebody's roles in the hub's database are those of a model already.

    One query for plain values: the hub's objects would be read one by one.
    """
    query = (
        sa.select(orm.Role.name, orm.Role.description, orm.Role.scopes)
        .join(orm.Role.users)
        .where(orm.User.name == model["name"])
    )
    have = {
        name: (description, sorted(scopes or ())) for name, description, scopes in db.execute(query)
    }
    return have == {
        role["name"]: (role.get("description"), sorted(role["scopes"])) for role in model["roles"]
    }


def kept_folders(
    new: Mapping[str, Any], old: Mapping[str, Any] | None, groups: frozenset[str]
) -> dict[str, Any]:
    """Return a contract with the folders that somebody had, as far as they are in the groups still.

    For when Keycloak cannot be asked which groups have folders: that it did not answer takes
    nothing away.

    Args:
        new: Made without knowing any groups.
        old: What was kept of them; `None` if nothing was.
        groups: Full paths of their groups, those above them included.
    """
    if not old or old.get("version") != new.get("version"):
        return dict(new)
    folders = [folder for folder in old.get("groups", ()) if folder.get("path") in groups]
    lost = {folder["gid"] for folder in old.get("groups", ()) if folder not in folders}
    gids = {gid for gid in old.get("gids", ()) if gid not in lost} | {*new.get("gids", ())}
    gids |= {folder["gid"] for folder in folders}
    return {**new, "groups": folders, "gids": sorted(gids)}
