"""People and groups of an LDAP directory, and log-in by Kerberos tickets. Pure.

Keycloak's names of settings: ``LDAPConstants``, ``GroupMapperConfig`` and ``KerberosConstants`` of
version 26.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictInt

from qhub_auth.realm.fields import Json, Model, Name, Seconds, Secret

__all__ = ["Kerberos", "LdapFederation", "LdapGroups", "kerberos_component", "ldap_component"]

Dn = Annotated[str, Field(pattern=r"^[^\x00-\x1f=]+=[^\x00-\x1f]+$", max_length=1024)]
LdapUrl = Annotated[str, Field(pattern=r"^ldaps?://[^\s]+$", max_length=1024)]
Filter = Annotated[str, Field(pattern=r"^\(.*\)$", max_length=1024)]

_MAPPER = "org.keycloak.storage.ldap.mappers.LDAPStorageMapper"


class Kerberos(Model):
    """Log-in by a ticket that the browser has already (SPNEGO)."""

    realm: Name
    """The Kerberos realm, e.g. ``EXAMPLE.ORG``."""
    server_principal: Name
    """Keycloak's own, e.g. ``HTTP/login.example.org@EXAMPLE.ORG``; its host is the one in the
    address that people use."""
    key_tab: Name
    """Path of the key tab of that principal, on the machine that Keycloak runs on."""
    principal_attribute: Name | None = None
    """The LDAP attribute with a person's principal; without it, the principal's name before the
    ``@`` is the user name."""
    password_log_in: bool = False
    """Whether passwords are checked by Kerberos too, rather than by the directory."""


class LdapGroups(Model):
    """Groups of the directory."""

    dn: Dn
    """Where they are."""
    object_classes: tuple[Name, ...] = ("groupOfNames",)
    name_attribute: Name = "cn"
    membership: Literal["dn", "uid"] = "dn"
    """Whether groups name their members by DN (``member``) or by user name (``memberUid``)."""
    member_attribute: Name | None = None
    """``member`` or ``memberUid`` by default."""
    nested: bool = False
    """Whether groups that are members of groups become subgroups. For that every group may be in
    one other at most, and members are named by DN."""
    filter: Filter | None = None
    under: Name = "/"
    """The group here that they are put below; ``/`` for none."""
    attributes: tuple[Name, ...] = ("gidNumber",)
    """Attributes that become attributes of the group here."""
    drop_absent: bool = False
    """Whether groups below `under` that the directory has not are removed when it is read."""


class LdapFederation(Model):
    """People of an LDAP directory; passwords are checked by the directory."""

    name: Name = "ldap"
    vendor: Literal["openldap", "active-directory"] = "openldap"
    """Decides what is standing for the attributes below where they are not given."""
    url: LdapUrl
    """E.g. ``ldaps://ldap.example.org``."""
    start_tls: bool = False
    """Whether an ``ldap:`` connection is encrypted before anything is said."""
    bind_dn: Dn | None = None
    """Whom Keycloak is to the directory; nobody in particular by default."""
    bind_password: Secret | None = None
    """That one's password, or a reference to it."""
    people_dn: Dn
    """Where people are."""
    subtree: bool = True
    """Whether also below that, at any depth."""
    filter: Filter | None = None
    """E.g. ``(memberOf=cn=hub,ou=groups,dc=example,dc=org)``; all people by default."""
    object_classes: tuple[Name, ...] = ()
    username_attribute: Name | None = None
    rdn_attribute: Name | None = None
    uuid_attribute: Name | None = None
    uid_attribute: Name = "uidNumber"
    gid_attribute: Name = "gidNumber"
    home_attribute: Name | None = None
    writable: bool = False
    """Whether what is changed here (names, addresses, passwords, groups) is written there."""
    groups: LdapGroups | None = None
    kerberos: Kerberos | None = None
    full_sync_seconds: Seconds | None = None
    """How often all people are read; never by default, as each is read when they log in."""
    changed_sync_seconds: Seconds | None = None
    """How often those that changed are read."""
    connection_timeout_seconds: Annotated[StrictInt, Field(ge=1, le=300)] = 5
    read_timeout_seconds: Annotated[StrictInt, Field(ge=1, le=300)] = 10

    def _or(self, given: str | None, openldap: str, active_directory: str) -> str:
        return given or (active_directory if self._is_ad else openldap)

    @property
    def _is_ad(self) -> bool:
        return self.vendor == "active-directory"

    @property
    def username(self) -> str:
        """The attribute with the name that people log in by."""
        return self._or(self.username_attribute, "uid", "sAMAccountName")

    @property
    def home(self) -> str:
        """The attribute with a person's home."""
        return self._or(self.home_attribute, "homeDirectory", "unixHomeDirectory")

    @property
    def classes(self) -> str:
        """The object classes of people."""
        default = "person, organizationalPerson, user"
        given = ", ".join(self.object_classes)
        return self._or(given, "inetOrgPerson, posixAccount", default)


def ldap_component(ldap: LdapFederation, priority: int) -> Json:
    """Return the component that federates a directory, with its mappers.

    Args:
        ldap: Which.
        priority: Directories with lower ones are asked first.
    """
    config = {
        "enabled": "true",
        "priority": str(priority),
        "vendor": "ad" if ldap.vendor == "active-directory" else "other",
        "connectionUrl": ldap.url,
        "startTls": _yes(ldap.start_tls),
        "useTruststoreSpi": "always",
        "connectionPooling": "true",
        "connectionTimeout": str(ldap.connection_timeout_seconds * 1000),
        "readTimeout": str(ldap.read_timeout_seconds * 1000),
        "authType": "simple" if ldap.bind_dn else "none",
        "usersDn": ldap.people_dn,
        "searchScope": "2" if ldap.subtree else "1",
        "pagination": "true",
        "usernameLDAPAttribute": ldap.username,
        "rdnLDAPAttribute": ldap._or(ldap.rdn_attribute, "uid", "cn"),  # noqa: SLF001 - same module
        "uuidLDAPAttribute": ldap._or(ldap.uuid_attribute, "entryUUID", "objectGUID"),  # noqa: SLF001
        "userObjectClasses": ldap.classes,
        "editMode": "WRITABLE" if ldap.writable else "READ_ONLY",
        "importEnabled": "true",
        "syncRegistrations": "false",
        "validatePasswordPolicy": "false",
        "trustEmail": "true",
        "cachePolicy": "DEFAULT",
        "batchSizeForSync": "1000",
        "fullSyncPeriod": str(ldap.full_sync_seconds or -1),
        "changedSyncPeriod": str(ldap.changed_sync_seconds or -1),
        "removeInvalidUsersEnabled": "true",
        "usePasswordModifyExtendedOp": _yes(ldap.writable and ldap.vendor == "openldap"),
        **_kerberos_settings(ldap.kerberos),
    }
    given = {
        "bindDn": ldap.bind_dn,
        "bindCredential": ldap.bind_password,
        "customUserSearchFilter": ldap.filter,
    }
    config |= {name: value for name, value in given.items() if value}
    return {
        "name": ldap.name,
        "providerId": "ldap",
        "config": _lists(config),
        "subComponents": {_MAPPER: _mappers(ldap)},
    }


def kerberos_component(kerberos: Kerberos) -> Json:
    """Return the component for people who are known by Kerberos alone, without a directory."""
    config = {
        "enabled": "true",
        "priority": "0",
        "cachePolicy": "DEFAULT",
        "kerberosRealm": kerberos.realm,
        "serverPrincipal": kerberos.server_principal,
        "keyTab": kerberos.key_tab,
        "allowPasswordAuthentication": _yes(kerberos.password_log_in),
        "editMode": "UNSYNCED",
        "updateProfileFirstLogin": "false",
        "debug": "false",
    }
    return {
        "name": "kerberos",
        "providerId": "kerberos",
        "config": _lists(config),
        "subComponents": {},
    }


def _kerberos_settings(kerberos: Kerberos | None) -> dict[str, str]:
    if kerberos is None:
        return {"allowKerberosAuthentication": "false"}
    settings = {
        "allowKerberosAuthentication": "true",
        "useKerberosForPasswordAuthentication": _yes(kerberos.password_log_in),
        "kerberosRealm": kerberos.realm,
        "serverPrincipal": kerberos.server_principal,
        "keyTab": kerberos.key_tab,
        "debug": "false",
    }
    if kerberos.principal_attribute:
        settings["krbPrincipalAttribute"] = kerberos.principal_attribute
    return settings


def _mappers(ldap: LdapFederation) -> list[Json]:
    read_only = not ldap.writable
    people = [
        ("username", ldap.username, "username", True),
        ("first name", "givenName", "firstName", False),
        ("last name", "sn", "lastName", True),
        ("email", "mail", "email", False),
    ]
    mappers = [
        _attribute(name, there, here, mandatory=mandatory, read_only=read_only)
        for name, there, here, mandatory in people
    ]
    # The numbers are the directory's own word; they are never written to it, whatever else is.
    numbers = [
        ("uidNumber", ldap.uid_attribute, "uidNumber"),
        ("gidNumber", ldap.gid_attribute, "gidNumber"),
        ("homeDirectory", ldap.home, "homeDirectory"),
    ]
    mappers += [
        _attribute(name, there, here, mandatory=False, read_only=True)
        for name, there, here in numbers
    ]
    if ldap.groups:
        mappers.append(_groups(ldap, ldap.groups))
    if ldap.vendor == "active-directory":
        # an account that is disabled there is disabled here
        name = "account control"
        mappers.append(_component(name, "msad-user-account-control-mapper", {}))
    return mappers


def _attribute(name: str, there: str, here: str, *, mandatory: bool, read_only: bool) -> Json:
    config = {
        "ldap.attribute": there,
        "user.model.attribute": here,
        "read.only": _yes(read_only),
        # of what Keycloak keeps, a number that changed in the directory would be the last to know
        "always.read.value.from.ldap": _yes(read_only and here != "username"),
        "is.mandatory.in.ldap": _yes(mandatory),
    }
    return _component(name, "user-attribute-ldap-mapper", config)


def _groups(ldap: LdapFederation, groups: LdapGroups) -> Json:
    by_dn = groups.membership == "dn"
    config = {
        "groups.dn": groups.dn,
        "group.name.ldap.attribute": groups.name_attribute,
        "group.object.classes": ", ".join(groups.object_classes),
        "preserve.group.inheritance": _yes(groups.nested),
        "ignore.missing.groups": "true",
        "membership.ldap.attribute": groups.member_attribute
        or ("member" if by_dn else "memberUid"),
        "membership.attribute.type": "DN" if by_dn else "UID",
        "membership.user.ldap.attribute": ldap.username,
        "mode": "LDAP_ONLY" if ldap.writable else "READ_ONLY",
        "user.roles.retrieve.strategy": "LOAD_GROUPS_BY_MEMBER_ATTRIBUTE",
        "memberof.ldap.attribute": "memberOf",
        "mapped.group.attributes": ",".join(groups.attributes),
        "drop.non.existing.groups.during.sync": _yes(groups.drop_absent),
        "groups.path": groups.under,
    }
    if groups.filter:
        config["groups.ldap.filter"] = groups.filter
    return _component("groups", "group-ldap-mapper", config)


def _component(name: str, provider: str, config: dict[str, str]) -> Json:
    return {"name": name, "providerId": provider, "subComponents": {}, "config": _lists(config)}


def _lists(config: dict[str, str]) -> Json:
    """A component's settings, each of which is a list for Keycloak."""
    return {name: [value] for name, value in sorted(config.items())}


def _yes(value: bool) -> str:
    return "true" if value else "false"
