"""People and groups of a real slapd, in a realm that the renderer made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing
from tests.systems.keycloak import AdminError, PageError, Realm, claims
from tests.systems.keycloak_hub import until
from tests.systems.ldap import GROUPS_DN, PEOPLE_DN, READER_DN, LdapSystem, sweep
from tests.systems.processes import SystemUnavailableError
from tests.systems.synced_hub import SyncedHub


@pytest.fixture
def ldap() -> Iterator[LdapSystem]:
    """A directory for one test."""
    sweep()
    system = LdapSystem()
    try:
        system.start()
    except SystemUnavailableError as error:
        missing("LDAP", error)
    try:
        yield system
    finally:
        system.stop()


def federation(ldap: LdapSystem, **fields: Any) -> dict[str, Any]:
    return {
        "url": ldap.url,
        "bind_dn": READER_DN,
        "bind_password": ldap.reader_password,
        "people_dn": PEOPLE_DN,
        "groups": {"dn": GROUPS_DN, "nested": True},
        **fields,
    }


def test_a_person_of_the_directory_logs_in(
    ldap: LdapSystem, make_realm: Callable[..., Realm]
) -> None:
    """With the directory's password; numbers, home and nested groups of the directory arrive in the id token."""
    realm = make_realm(ldap=[federation(ldap)])
    for name, groups in (("georg", ["/chemistry/lab"]), ("heidi", ["/chemistry"])):
        said = claims(realm.tokens(name, f"{name}-ldap")["id_token"])
        person = ldap.people[name]
        assert said["preferred_username"] == name
        assert said["uidNumber"] == str(person.uid)
        assert said["gidNumber"] == str(person.gid)
        assert said["homeDirectory"] == person.home
        assert said["groups"] == groups
        assert said["email"] == person.mail
    group = realm.admin.group("/chemistry/lab")
    assert group["attributes"] == {"gidNumber": ["32001"]}
    # an administrator's word about shares is kept beside the directory's numbers
    realm.admin.update_group("/chemistry/lab", {**group["attributes"], "share": ["rw"]})
    realm.tokens("frida", "frida-ldap")
    assert realm.admin.group("/chemistry/lab")["attributes"]["share"] == ["rw"]
    # those that Keycloak keeps itself are not kept from it
    assert claims(realm.tokens("alice")["id_token"])["groups"] == ["/physics/team-a"]
    for name, password in (("georg", "wrong"), ("georg", ""), ("reader", ldap.reader_password)):
        with pytest.raises(PageError, match="not let in"):
            realm.tokens(name, password or " ")


def test_a_change_in_the_directory_is_seen(
    ldap: LdapSystem, make_realm: Callable[..., Realm]
) -> None:
    """What changed in the directory stands in the next token, and makes no admin event."""
    realm = make_realm(ldap=[federation(ldap)])
    tokens = realm.tokens("georg", "georg-ldap")
    events = len(realm.admin.events())
    ldap.set_number("georg", "uidNumber", 31099)
    ldap.remove_member("georg", "lab")
    # Keycloak keeps a person it has read for a while; the administrator's button empties that
    realm.admin.api.post(f"{realm.admin.path}/clear-user-cache")
    said = claims(realm.refreshed(tokens["refresh_token"])["id_token"])
    assert said["uidNumber"] == "31099"
    assert "groups" not in said or said["groups"] == []
    # the cache's own event aside
    assert len(realm.admin.events()) <= events + 1
    assert realm.admin.groups_of("georg") == set()


def test_at_the_hub(ldap: LdapSystem, make_realm: Callable[..., Realm], tmp_path: Path) -> None:
    """A person of the directory logs in at the hub with its numbers, home and groups, and group sync follows what changes there, which makes no event."""
    realm = make_realm(ldap=[federation(ldap)])
    with SyncedHub(tmp_path / "hub", realm, "c.GroupSync.full_seconds = 10\n") as hub:
        with hub.browser() as georg:
            start = f"{hub.url}hub/oauth_login"
            realm.log_in(georg, start, "georg", "georg-ldap", until=f"{hub.url}hub/spawn")
        who, person = hub.state("georg")["qhub"], ldap.people["georg"]
        assert (who["uid"], who["gid"], who["home"]) == (person.uid, person.gid, person.home)
        assert hub.groups_of("georg") == {"/chemistry", "/chemistry/lab"}
        ldap.remove_member("georg", "lab")
        realm.admin.api.post(f"{realm.admin.path}/clear-user-cache")
        until(lambda: not hub.groups_of("georg"), 60, "georg is in no group any more")


def test_a_read_only_directory_is_not_written(
    ldap: LdapSystem, make_realm: Callable[..., Realm]
) -> None:
    """An administrator of Keycloak cannot change what the directory says."""
    realm = make_realm(ldap=[federation(ldap)])
    realm.tokens("frida", "frida-ldap")
    with pytest.raises(AdminError):
        realm.admin.update_person("frida", attributes={"uidNumber": ["40000"]})
    with pytest.raises(AdminError):
        realm.admin.set_password("frida", "another")
    assert claims(realm.tokens("frida", "frida-ldap")["id_token"])["uidNumber"] == "31001"


def test_a_stranger_to_the_filter_is_not_let_in(
    ldap: LdapSystem, make_realm: Callable[..., Realm]
) -> None:
    """A filter decides who of the directory is known at all."""
    realm = make_realm(ldap=[federation(ldap, filter="(!(uid=heidi))")])
    assert realm.tokens("frida", "frida-ldap")
    with pytest.raises(PageError, match="not let in"):
        realm.tokens("heidi", "heidi-ldap")


def test_a_directory_that_is_down_bars_nobody_else(
    ldap: LdapSystem, make_realm: Callable[..., Realm]
) -> None:
    """While the directory is away its people are refused, and those of Keycloak are let in."""
    realm = make_realm(ldap=[federation(ldap, connection_timeout_seconds=1)])
    assert realm.tokens("frida", "frida-ldap")
    ldap.stop()
    with pytest.raises(PageError):
        realm.tokens("frida", "frida-ldap")
    assert claims(realm.tokens("alice")["id_token"])["preferred_username"] == "alice"


def test_active_directory_is_accepted(make_realm: Callable[..., Realm]) -> None:
    """The rendered configuration for Active Directory imports whole; no such directory is asked."""
    realm = make_realm(
        ldap=[
            {
                "name": "ad",
                "vendor": "active-directory",
                "url": "ldaps://ad.example.org",
                "bind_dn": "cn=reader,dc=example,dc=org",
                "bind_password": "${AD_PASSWORD}",
                "people_dn": "ou=people,dc=example,dc=org",
                "writable": True,
                "groups": {"dn": "ou=groups,dc=example,dc=org", "object_classes": ["group"]},
                "changed_sync_seconds": 600,
            }
        ]
    )
    path = f"{realm.admin.path}/components"
    kept = realm.admin.api.get(path, type="org.keycloak.storage.UserStorageProvider")
    (wanted,) = realm.representation["components"]["org.keycloak.storage.UserStorageProvider"]
    assert [each["name"] for each in kept] == ["ad"]
    for name, value in wanted["config"].items():
        expected = ["**********"] if name == "bindCredential" else value
        assert kept[0]["config"][name] == expected, name
    mappers = realm.admin.api.get(path, parent=kept[0]["id"])
    (rendered,) = wanted["subComponents"].values()
    assert {each["name"]: each["config"] for each in mappers} == {
        each["name"]: each["config"] for each in rendered
    }
