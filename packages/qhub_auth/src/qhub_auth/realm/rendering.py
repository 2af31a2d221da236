"""The realm as Keycloak imports it. Pure, and the same for the same model.

Names of fields are those of ``RealmRepresentation`` (Keycloak 26).
"""

from __future__ import annotations

from collections.abc import Mapping

from qhub_auth.paths import joined
from qhub_auth.realm.brokers import mappers_of, provider_of
from qhub_auth.realm.clients import REALM_MANAGEMENT, account_of, client_of
from qhub_auth.realm.federation import kerberos_component, ldap_component
from qhub_auth.realm.fields import Json
from qhub_auth.realm.flows import TICKETS, ticket_flows
from qhub_auth.realm.model import GroupModel, PersonModel, RealmModel
from qhub_auth.realm.profile import profile_component

__all__ = ["render"]

_DAY_SECONDS = 86_400
_PROFILE = "org.keycloak.userprofile.UserProfileProvider"
_STORAGE = "org.keycloak.storage.UserStorageProvider"


def render(model: RealmModel) -> Json:
    """Return the realm's representation; references to secrets stay in it as they are."""
    users = [_person(model, person) for person in model.people]
    realm: Json = {
        "realm": model.name,
        "enabled": True,
        "displayName": model.display_name or model.name,
        **_settings(model),
        "roles": {"client": {model.hub.client_id: [_role(model, name) for name in _roles(model)]}},
        "groups": [_group(model, group) for group in model.groups],
        "users": users,
        "components": _components(model),
    }
    clients = [client_of(model.hub, model.hub)]
    scoped: dict[str, list[Json]] = {}
    if model.forward_auth:
        clients.append(client_of(model.forward_auth, model.hub))
        if model.roles:
            scoped[model.hub.client_id] = [_in_scope(model.forward_auth.client_id, _roles(model))]
    if model.service:
        clients.append(client_of(model.service, model.hub))
        scoped[REALM_MANAGEMENT] = [_in_scope(model.service.client_id, model.service.roles)]
        users.append(account_of(model.service))
    realm["clients"] = clients
    realm["clientScopeMappings"] = scoped
    if model.uses_kerberos:
        realm["authenticationFlows"] = ticket_flows()  # the others are added by Keycloak
        realm["browserFlow"] = TICKETS
    if model.brokers:
        realm["identityProviders"] = [provider_of(broker) for broker in model.brokers]
        mappers = [mapper for broker in model.brokers for mapper in mappers_of(broker)]
        realm["identityProviderMappers"] = mappers
    return realm


def _settings(model: RealmModel) -> Json:
    lifetimes = model.lifetimes
    settings: Json = {
        "sslRequired": model.require_https,
        "registrationAllowed": False,
        "registrationEmailAsUsername": False,
        "loginWithEmailAllowed": False,
        "duplicateEmailsAllowed": False,
        "resetPasswordAllowed": False,
        # by administrators: the user profile keeps people from renaming themselves
        "editUsernameAllowed": True,
        "rememberMe": model.remember_me,
        "bruteForceProtected": model.brute_force_protection,
        "accessTokenLifespan": lifetimes.access_token,
        "ssoSessionIdleTimeout": lifetimes.session_idle,
        "ssoSessionMaxLifespan": lifetimes.session_max,
        "accessCodeLifespanLogin": lifetimes.log_in,
        "revokeRefreshToken": model.refresh_token_rotation,
        "refreshTokenMaxReuse": 0,
        "adminEventsEnabled": True,
        # Whom or what a change concerns stands in its path; the details would repeat what people's
        # accounts hold, in a table that is only ever read by time.
        "adminEventsDetailsEnabled": False,
        "attributes": {"adminEventsExpiration": str(model.admin_events_days * _DAY_SECONDS)},
    }
    if model.password_policy:
        settings["passwordPolicy"] = model.password_policy
    return settings


def _components(model: RealmModel) -> Json:
    storage = [ldap_component(ldap, at) for at, ldap in enumerate(model.ldap)]
    if model.kerberos:
        storage.append(kerberos_component(model.kerberos))
    components: Json = {_PROFILE: [profile_component(model.required_of_people)]}
    if storage:
        components[_STORAGE] = storage
    return components


def _roles(model: RealmModel) -> list[str]:
    return [role.name for role in model.roles]


def _role(model: RealmModel, name: str) -> Json:
    role = next(role for role in model.roles if role.name == name)
    attributes: dict[str, tuple[str, ...]] = dict(role.attributes)
    if role.scopes:
        attributes["scopes"] = role.scopes
    rendered: Json = {
        "name": role.name,
        "description": role.description,
        "composite": bool(role.contains),
        "clientRole": True,
        "attributes": _lists(attributes),
    }
    if role.contains:
        rendered["composites"] = {"client": {model.hub.client_id: list(role.contains)}}
    return rendered


def _group(model: RealmModel, group: GroupModel, above: tuple[str, ...] = ()) -> Json:
    here = (*above, group.name)
    path = joined(here)
    attributes: dict[str, tuple[str, ...]] = dict(group.attributes)
    if group.share:
        attributes["share"] = (group.share,)
    if group.gid is not None:
        # Not gidNumber: Keycloak puts a group's attribute into the tokens of members who have none
        # of that name themselves, and theirs would be taken for the number of their own group.
        attributes["gid"] = (str(group.gid),)
    roles = [role.name for role in model.roles if path in role.groups]
    return {
        "name": group.name,
        "attributes": _lists(attributes),
        "clientRoles": {model.hub.client_id: roles} if roles else {},
        "subGroups": [_group(model, each, here) for each in group.groups],
    }


def _person(model: RealmModel, person: PersonModel) -> Json:
    numbers = (
        ("uidNumber", person.uid),
        ("gidNumber", person.gid),
        ("homeDirectory", person.home),
    )
    rendered: Json = {
        "username": person.name,
        "enabled": person.enabled,
        "emailVerified": bool(person.email),
        "attributes": {name: [str(value)] for name, value in numbers if value is not None},
        "groups": list(person.groups),
        "realmRoles": [f"default-roles-{model.name}".lower()],
        "clientRoles": {model.hub.client_id: list(person.roles)} if person.roles else {},
    }
    for name, value in (
        ("email", person.email),
        ("firstName", person.first_name),
        ("lastName", person.last_name),
    ):
        if value:
            rendered[name] = value
    if person.password:
        credential = {"type": "password", "value": person.password, "temporary": False}
        rendered["credentials"] = [credential]
    return rendered


def _in_scope(client_id: str, roles: list[str]) -> Json:
    return {"client": client_id, "roles": list(roles)}


def _lists(attributes: Mapping[str, tuple[str, ...]]) -> Json:
    return {name: list(values) for name, values in sorted(attributes.items())}
