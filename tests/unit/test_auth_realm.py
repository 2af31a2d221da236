"""A realm in a few lines: what is refused, what is rendered, and where secrets go."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from qhub_auth.errors import ConfigurationError
from qhub_auth.realm import RealmModel, filled, references, render
from qhub_auth.realm.brokers import mappers_of, provider_of
from qhub_auth.realm.commands import add_to, read
from tests.systems.keycloak.demo import REALM, demo_model

HUB = {"secret": "${HUB_CLIENT_SECRET}", "url": "https://hub.example.org"}


def model(**fields: Any) -> RealmModel:
    return RealmModel.model_validate({"name": "hub", "hub": HUB, **fields})


def client(rendered: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in rendered["clients"] if each["clientId"] == name)


def run(*words: str) -> str:
    parser = argparse.ArgumentParser()
    add_to(parser.add_subparsers())
    arguments = parser.parse_args(["realm", *words])
    text: str = arguments.run(arguments)
    return text


def test_it_is_the_same_each_time() -> None:
    """The same model gives the same text, so that a change of the file is a change of the realm."""
    once, again = (json.dumps(render(read(REALM))) for _ in range(2))
    assert once == again
    assert " at 0x" not in once


def test_no_secret_is_invented() -> None:
    """References stay, and each has to be given: none is made up, none is left out in silence."""
    rendered = render(demo_model())
    names = {"HUB_CLIENT_SECRET", "FORWARD_AUTH_CLIENT_SECRET", "SERVICE_CLIENT_SECRET"}
    assert set(references(rendered)) == names
    with pytest.raises(ConfigurationError, match="FORWARD_AUTH_CLIENT_SECRET, HUB_CLIENT_SECRET"):
        filled(rendered, {"SERVICE_CLIENT_SECRET": "x"})
    done = filled(rendered, dict.fromkeys(names, 'a"b\\c'))
    assert not set(references(done))
    assert client(done, "jupyterhub")["secret"] == 'a"b\\c'
    # Keycloak's own texts are no references
    assert "${email}" in json.dumps(done)


def test_a_secret_is_not_shown(canary: str) -> None:
    """Neither the model's text nor an error repeats a secret or a password."""
    fields: dict[str, Any] = {
        "hub": {**HUB, "secret": canary},
        "service": {"secret": canary},
        "people": [{"name": "alice", "password": canary}],
        "ldap": [
            {"url": "ldap://l", "people_dn": "ou=p", "bind_dn": "cn=b", "bind_password": canary}
        ],
    }
    assert canary not in repr(model(**fields))


def test_an_error_names_the_field_and_not_its_value(tmp_path: Path, canary: str) -> None:
    """A wrong field is named by its place; what stands there may be a secret."""
    path = tmp_path / "realm.yaml"
    path.write_text(
        "name: hub\nhub: {secret: ok, url: 'https://h'}\n"
        f"people: [{{name: alice, password: [{canary}]}}]\nservice: {{secrte: {canary}}}\n"
    )
    with pytest.raises(ConfigurationError) as caught:
        read(path)
    words = str(caught.value)
    assert "people[0].password" in words
    assert "service.secrte" in words
    assert canary not in words


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"groups": [{"name": "a"}, {"name": "a"}]}, "groups: each may stand there once"),
        ({"roles": [{"name": "r", "groups": ["/none"]}]}, "/none is not defined"),
        ({"roles": [{"name": "r", "contains": ["s"]}]}, "s is not defined; there are: r"),
        ({"people": [{"name": "a", "groups": ["/none"]}]}, "people: a: groups"),
        ({"people": [{"name": "a"}, {"name": "A"}]}, "people: each may stand there once"),
        ({"lifetimes": {"access_token": 900, "session_idle": 600}}, "has to hold"),
        ({"groups": [{"name": "a", "share": "write"}]}, "'rw' or 'ro'"),
        ({"groups": [{"name": "a", "gid": 0}]}, "greater than or equal to 1"),
        ({"groups": [{"name": "a\nb"}]}, "should match pattern"),
        ({"name": "a/b"}, "should match pattern"),
        ({"hub": {**HUB, "url": "javascript:alert(1)"}}, "should match pattern"),
        ({"service": {"client_id": "jupyterhub", "secret": "s"}}, "clients: each may stand"),
        ({"people": [{"name": "a", "group": []}]}, "Extra inputs"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], words: str) -> None:
    """What would not do what was meant is refused, with what would be accepted."""
    with pytest.raises(ValidationError, match=words):
        model(**fields)


def test_a_client_may_do_its_own_work_and_no_more() -> None:
    """Each client has a secret and one way in; PKCE is required of those that people log in to."""
    rendered = render(demo_model())
    for name in ("jupyterhub", "qhub-forward-auth", "qhub-service"):
        each = client(rendered, name)
        assert each["secret"]
        assert not each["publicClient"]
        assert not each["directAccessGrantsEnabled"]
        assert not each["implicitFlowEnabled"]
        assert not each["fullScopeAllowed"]
        assert each["standardFlowEnabled"] == (name != "qhub-service")
        assert each["serviceAccountsEnabled"] == (name == "qhub-service")
    for name in ("jupyterhub", "qhub-forward-auth"):
        attributes = client(rendered, name)["attributes"]
        assert attributes["pkce.code.challenge.method"] == "S256"
        assert attributes["backchannel.logout.session.required"] == "true"
    hub = client(rendered, "jupyterhub")
    assert hub["redirectUris"] == ["http://127.0.0.1:8000/hub/oauth_callback"]
    assert hub["webOrigins"] == []


@pytest.mark.parametrize("write_back", [False, True])
def test_the_service_account_reads(write_back: bool) -> None:
    """Its roles are those that reading takes; people may be changed only if numbers go back."""
    rendered = render(model(service={"secret": "s", "write_back": write_back}))
    wanted = {
        "query-groups",
        "query-users",
        "view-clients",
        "view-events",
        "view-realm",
        "view-users",
    }
    wanted |= {"manage-users"} if write_back else set()
    users: Any = rendered["users"]
    assert [user["clientRoles"] for user in users] == [{"realm-management": sorted(wanted)}]
    scope: Any = rendered["clientScopeMappings"]
    assert scope["realm-management"] == [{"client": "qhub-service", "roles": sorted(wanted)}]


def test_a_groups_number_is_not_called_as_a_persons() -> None:
    """Keycloak hands a group's attribute to members without one: theirs must have another name."""
    groups: Any = render(model(groups=[{"name": "a", "gid": 7001, "share": "rw"}]))["groups"]
    assert groups[0]["attributes"] == {"gid": ["7001"], "share": ["rw"]}


def test_a_person_cannot_edit_their_numbers_or_name() -> None:
    """Only administrators edit user name, numbers and home."""
    components: Any = render(model())["components"]
    (profile,) = components["org.keycloak.userprofile.UserProfileProvider"]
    declared = json.loads(profile["config"]["kc.user.profile.config"][0])
    editors = {each["name"]: each["permissions"]["edit"] for each in declared["attributes"]}
    for name in ("username", "uidNumber", "gidNumber", "homeDirectory"):
        assert editors[name] == ["admin"]
    assert "unmanagedAttributePolicy" not in declared


def test_addresses_follow_from_the_hubs() -> None:
    """The hub's address, with a base URL, gives the callback, log-out and back-channel addresses."""
    base = "https://example.org/jupyter"
    hub = client(render(model(hub={"secret": "s", "url": f"{base}/"})), "jupyterhub")
    assert hub["redirectUris"] == [f"{base}/hub/oauth_callback"]
    assert hub["attributes"]["backchannel.logout.url"] == f"{base}/hub/qhub/backchannel-logout"
    assert hub["attributes"]["post.logout.redirect.uris"] == f"{base}##{base}/*"


def test_tickets_bring_their_own_flow() -> None:
    """Kerberos needs a log-in flow with tickets; without it Keycloak's own is left as it is."""
    kerberos = {"realm": "R", "server_principal": "HTTP/h@R", "key_tab": "/k"}
    assert "browserFlow" not in render(model())
    for fields in (
        {"kerberos": kerberos},
        {"ldap": [{"url": "ldaps://l", "people_dn": "ou=p", "kerberos": kerberos}]},
    ):
        rendered = render(model(**fields))
        flows: Any = rendered["authenticationFlows"]
        top = next(flow for flow in flows if flow["alias"] == rendered["browserFlow"])
        steps = [step.get("authenticator") for step in top["authenticationExecutions"]]
        assert steps[:2] == ["auth-cookie", "auth-spnego"]
        assert {step["requirement"] for step in top["authenticationExecutions"]} == {"ALTERNATIVE"}


def test_active_directory_differs_where_it_does() -> None:
    """The vendor decides attribute names and object classes, unless they are given."""
    common = {"url": "ldaps://l", "people_dn": "ou=p,dc=e", "bind_dn": "cn=b"}

    def settings(**fields: Any) -> dict[str, Any]:
        components: Any = render(model(ldap=[{**common, **fields}]))["components"]
        (found,) = components["org.keycloak.storage.UserStorageProvider"]
        (mappers,) = found["subComponents"].values()
        return {**found["config"], "mappers": {each["name"]: each["config"] for each in mappers}}

    ours, theirs = settings(), settings(vendor="active-directory")
    assert ours["usernameLDAPAttribute"] == ["uid"]
    assert theirs["usernameLDAPAttribute"] == ["sAMAccountName"]
    assert theirs["uuidLDAPAttribute"] == ["objectGUID"]
    assert theirs["mappers"]["homeDirectory"]["ldap.attribute"] == ["unixHomeDirectory"]
    assert "account control" in theirs["mappers"]
    assert "account control" not in ours["mappers"]
    assert ours["editMode"] == ["READ_ONLY"]
    writable = settings(writable=True)
    assert writable["editMode"] == ["WRITABLE"]
    # who may change their address must not be able to change their number on the way
    assert writable["mappers"]["email"]["read.only"] == ["false"]
    assert writable["mappers"]["uidNumber"]["read.only"] == ["true"]


def test_brokers_check_signatures_and_give_no_group_by_themselves() -> None:
    """Every broker of OpenID Connect is checked by its keys, and none decides a group unasked."""
    secret = {"client_id": "kc", "client_secret": "${B}"}
    brokers = model(
        brokers=[
            {"kind": "auth0", "alias": "auth0", "domain": "example.eu.auth0.com", **secret},
            {"kind": "github", "alias": "github", **secret},
            {"kind": "keycloak", "alias": "kc", "issuer": "https://k/realms/p", **secret},
        ]
    ).brokers
    for broker in brokers:
        assert mappers_of(broker) == []
        rendered: Any = provider_of(broker)
        assert rendered["trustEmail"] is False
        assert rendered["storeToken"] is False
        if broker.kind != "github":
            assert rendered["config"]["validateSignature"] == "true"
            assert rendered["config"]["pkceMethod"] == "S256"
    auth0: Any = provider_of(brokers[0])
    # with the slash at its end, as it stands in Auth0's tokens
    assert auth0["config"]["issuer"] == "https://example.eu.auth0.com/"


def test_the_command_prints_what_keycloak_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a source references stay; with one all are filled in, or it says which are not."""
    assert set(references(json.loads(run(str(REALM)))))
    secrets = tmp_path / "secrets"
    secrets.write_text(
        "# for the demo\nHUB_CLIENT_SECRET=one\nSERVICE_CLIENT_SECRET='two='\n"
        "FORWARD_AUTH_CLIENT_SECRET=three\n"
    )
    done = json.loads(run(str(REALM), f"--secrets={secrets}"))
    assert client(done, "qhub-service")["secret"] == "two="
    monkeypatch.setenv("HUB_CLIENT_SECRET", "x")
    monkeypatch.delenv("SERVICE_CLIENT_SECRET", raising=False)
    with pytest.raises(ConfigurationError, match="SERVICE_CLIENT_SECRET"):
        run(str(REALM), "--env")
    with pytest.raises(ConfigurationError, match="No such file"):
        run(str(tmp_path / "absent"))


def test_a_file_that_is_no_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    """What cannot be read is said with its line."""
    path = tmp_path / "realm.yaml"
    path.write_text("name: hub\nhub: [\n")
    with pytest.raises(ConfigurationError, match="line 3"):
        read(path)
