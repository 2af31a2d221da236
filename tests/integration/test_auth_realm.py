"""What is rendered, on the real Keycloak: it imports, every setting arrives, and it holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.systems.keycloak import AdminError, KeycloakSystem, PageError, Realm, claims, demo_model
from tests.systems.keycloak.realms import challenge

BACK = "http://127.0.0.1:8000/hub/oauth_callback"
VERIFIER = "v" * 64
ESCAPING = "--spi-group--jpa--escape-slashes-in-group-path=true"
SLASHES: dict[str, Any] = {
    "groups": [{"name": "a", "groups": [{"name": "b"}]}, {"name": "a/b", "share": "rw"}],
    "roles": (),
    "people": [
        {"name": "ann", "password": "ann-demo"},
        {"name": "ben", "password": "ben-demo", "groups": ["/a/b"]},
    ],
}
DEMO_SECRETS = {
    "HUB_CLIENT_SECRET": "hub-secret",
    "FORWARD_AUTH_CLIENT_SECRET": "forward-secret",
    "SERVICE_CLIENT_SECRET": "service-secret",
}


def missing_from(wanted: Any, found: Any, place: str = "") -> list[str]:
    """What was asked for and is not there, or is another; more may be there."""
    if isinstance(wanted, dict):
        if not isinstance(found, dict):
            return [f"{place}: {found!r}"]
        return [
            each
            for name, value in wanted.items()
            for each in missing_from(value, found.get(name), f"{place}.{name}")
        ]
    if isinstance(wanted, list):
        found = found or []
        return [
            f"{place}: {each!r} not among {found!r}"
            for each in wanted
            if not any(not missing_from(each, other) for other in found)
        ]
    return [] if wanted == found or (wanted == "" and found is None) else [f"{place}: {found!r}"]


def test_every_setting_arrives(make_realm: Callable[..., Realm]) -> None:
    """Keycloak's own export has all that was rendered, with nothing changed on the way."""
    realm = make_realm(
        remember_me=True,
        refresh_token_rotation=True,
        password_policy="length(8)",
        lifetimes={"access_token": 60, "session_idle": 120, "session_max": 180, "log_in": 240},
        admin_events_days=2,
        required_of_people=("email",),
        forward_auth={
            "secret": "x",
            "redirect_uris": ("https://a.example.org/cb",),
            "back_channel_logout_url": "https://a.example.org/out",
        },
    )
    wanted: dict[str, Any] = dict(realm.representation)
    found = realm.admin.export()
    for client in wanted["clients"]:
        assert realm.secret_of(client["clientId"])
    # an export has stars for secrets, and nobody of the people; they are looked at one by one
    wanted["clients"] = [{**client, "secret": "**********"} for client in wanted["clients"]]
    people = wanted.pop("users")
    assert missing_from(wanted, found) == []
    for person in people:
        wanted_groups = set(person.get("groups", ()))
        assert realm.admin.groups_of(person["username"]) == wanted_groups
        kept = realm.admin.person(person["username"])
        for name in ("firstName", "lastName", "email", "enabled"):
            assert kept.get(name) == person.get(name)
    # a client has what it was given, and nothing that Keycloak would have added
    for client in wanted["clients"]:
        kept = next(each for each in found["clients"] if each["clientId"] == client["clientId"])
        for name in ("redirectUris", "webOrigins", "defaultClientScopes", "optionalClientScopes"):
            assert sorted(kept[name]) == sorted(client[name])


@pytest.mark.parametrize(
    ("name", "groups", "roles"),
    [
        ("alice", {"/physics/team-a"}, {"dask_user", "grafana_viewer"}),
        ("carol", {"/physics/team-a/readers"}, {"dask_user", "grafana_viewer"}),
        ("dave", {"/physics"}, {"dask_user", "grafana_viewer"}),
        (
            "erin",
            {"/admins"},
            {"jupyterhub_admin", "dask_admin", "dask_user", "grafana_admin", "grafana_viewer",
             "monitoring_viewer"},
        ),
    ],
)  # fmt: skip
def test_what_a_log_in_says(realm: Realm, name: str, groups: set[str], roles: set[str]) -> None:
    """The id token has full paths of direct groups, roles of the hub with what they contain, and no number of a group's."""
    tokens = realm.tokens(name, nonce="n")
    said = claims(tokens["id_token"])
    assert said["iss"] == realm.issuer
    assert said["aud"] == realm.client_id
    assert said["nonce"] == "n"
    assert said["preferred_username"] == name
    assert said["sub"]
    assert set(said["groups"]) == groups
    assert set(said["roles"]) == roles
    assert not {"uidNumber", "gidNumber", "homeDirectory"} & set(said)
    # nothing about Keycloak itself travels with it
    assert "realm_access" not in claims(tokens["access_token"])
    assert "resource_access" not in claims(tokens["access_token"])


def test_numbers_of_a_person_arrive(make_realm: Callable[..., Realm]) -> None:
    """A person's numbers and home are in the id token, as text."""
    model = demo_model().model_dump()
    frida = {"name": "frida", "password": "frida-demo", "first_name": "F", "last_name": "F",
             "uid": 20123, "gid": 20124, "home": "/data/frida"}  # fmt: skip
    realm = make_realm(people=[*model["people"], frida])
    said = claims(realm.tokens("frida")["id_token"])
    numbers = {name: said[name] for name in ("uidNumber", "gidNumber", "homeDirectory")}
    assert numbers == {"uidNumber": "20123", "gidNumber": "20124", "homeDirectory": "/data/frida"}


def test_a_password_is_not_enough_without_a_proof(realm: Realm) -> None:
    """Log-in without PKCE, to another address, and a code without its verifier get nothing."""
    with httpx.Client(timeout=60) as client:
        answer = client.get(realm.authorization_url(BACK))
        assert "error=invalid_request" in answer.headers["Location"]
        assert "code_challenge" in answer.headers["Location"]
        more = {"code_challenge": challenge(VERIFIER), "code_challenge_method": "S256"}
        for stranger in ("https://evil.example.org/", f"{BACK}/more", "http://127.0.0.1:8001/hub"):
            assert client.get(realm.authorization_url(stranger, **more)).status_code == 400
        answer = realm.log_in(client, realm.authorization_url(BACK, **more), "alice", until=BACK)
        with pytest.raises(PageError, match="invalid_grant"):
            realm.redeem(answer, "w" * 64, client)


def test_nobody_gets_tokens_for_a_password_directly(realm: Realm) -> None:
    """No client of ours takes a person's password from anybody but Keycloak's own page."""
    for name in (realm.client_id, realm.forward_auth_client_id, realm.service_client_id):
        form = {"grant_type": "password", "username": "alice", "password": "alice-demo"}
        answer = httpx.post(
            f"{realm.issuer}/protocol/openid-connect/token",
            data=form,
            auth=(name, realm.secret_of(name)),
            timeout=60,
        )
        assert answer.json()["error"] == "unauthorized_client"


def test_the_service_account_reads_and_changes_nothing(realm: Realm) -> None:
    """It reads people, groups, roles and events; every change is refused."""
    admin = realm.admin
    headers = {"Authorization": f"Bearer {realm.service_token()}"}
    base = realm.issuer.replace("/realms/", "/admin/realms/")
    sub, group, hub = admin.sub("bob"), admin.group_id("/physics"), admin.client()["id"]
    with httpx.Client(headers=headers, timeout=60) as client:
        for path in (
            "/users",
            f"/users/{sub}/groups",
            "/groups?briefRepresentation=false",
            f"/groups/{group}/members",
            f"/clients/{hub}/roles",
            "/admin-events",
        ):
            assert client.get(base + path).status_code == 200, path
        for method, path, body in (
            ("PUT", f"/users/{sub}", {"enabled": False}),
            ("PUT", f"/users/{sub}/groups/{group}", None),
            ("DELETE", f"/users/{sub}", None),
            ("POST", "/users", {"username": "mallory"}),
            ("PUT", f"/users/{sub}/reset-password", {"type": "password", "value": "x"}),
            ("POST", "/groups", {"name": "mine"}),
            ("PUT", f"/clients/{hub}", {"secret": "x"}),
            ("POST", f"/clients/{hub}/roles", {"name": "mine"}),
            ("PUT", "", {"enabled": False}),
            ("POST", f"/users/{sub}/impersonation", None),
        ):
            assert client.request(method, base + path, json=body).status_code == 403, path


def test_the_hubs_client_cannot_read_people(realm: Realm) -> None:
    """What the hub holds for somebody who is logged in opens nothing of the admin API."""
    token = realm.tokens("erin")["access_token"]
    base = realm.issuer.replace("/realms/", "/admin/realms/")
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx.get(f"{base}/users", headers=headers, timeout=60).status_code in {401, 403}


def account_token(realm: Realm, name: str) -> str:
    """A token for the account API, as a person's own account console has."""
    redirect = f"{realm.issuer}/account/"
    start = (
        f"{realm.issuer}/protocol/openid-connect/auth?client_id=account-console&scope=openid"
        f"&response_type=code&redirect_uri={redirect}&code_challenge={challenge(VERIFIER)}"
        "&code_challenge_method=S256"
    )
    with httpx.Client(timeout=60) as client:
        answer = realm.log_in(client, start, name, until=redirect)
        code = httpx.URL(answer.headers["Location"]).params["code"]
        form = {"grant_type": "authorization_code", "client_id": "account-console", "code": code,
                "redirect_uri": redirect, "code_verifier": VERIFIER}  # fmt: skip
        url = f"{realm.issuer}/protocol/openid-connect/token"
        return str(client.post(url, data=form).json()["access_token"])


def test_a_person_cannot_change_who_they_are(realm: Realm) -> None:
    """In their own account, people change what they are called, and never name, numbers, home or groups."""
    headers = {"Authorization": f"Bearer {account_token(realm, 'dave')}"}
    headers["Accept"] = "application/json"
    url = f"{realm.issuer}/account/"
    with httpx.Client(headers=headers, timeout=60) as client:
        mine = client.get(url).json()
        for change in (
            {"username": "root"},
            {"attributes": {"uidNumber": ["1000"]}},
            {"attributes": {"gidNumber": ["1000"]}},
            {"attributes": {"homeDirectory": ["/root"]}},
        ):
            answer = client.post(url, json={**mine, **change})
            assert answer.status_code == 400, answer.text
            assert "read-only" in answer.text
        # what is not declared is dropped; groups are none of an account's business
        more = {"attributes": {"share": ["rw"], "gid": ["1"]}, "groups": ["/admins"]}
        client.post(url, json={**mine, **more})
        assert client.post(url, json={**mine, "firstName": "David"}).status_code == 204
    kept = realm.admin.person("dave")
    assert kept["username"] == "dave"
    assert kept["firstName"] == "David"
    assert not kept.get("attributes")
    assert realm.admin.groups_of("dave") == {"/physics"}


def test_an_administrator_renames_people(make_realm: Callable[..., Realm]) -> None:
    """An administrator can give a person another name, and numbers; those that are none are refused."""
    realm = make_realm()
    sub = realm.admin.sub("dave")
    realm.admin.rename("dave", "david")
    assert realm.admin.sub("david") == sub
    numbers = {"uidNumber": ["20001"], "homeDirectory": ["/home/david"]}
    realm.admin.update_person("david", attributes=numbers)
    assert realm.admin.person("david")["attributes"] == numbers
    for wrong in ({"uidNumber": ["0"]}, {"uidNumber": ["1e3"]}, {"homeDirectory": ["relative"]}):
        with pytest.raises(AdminError, match="400"):
            realm.admin.update_person("david", attributes=wrong)


def test_a_number_of_a_group_under_a_persons_name_would_leak(
    make_realm: Callable[..., Realm],
) -> None:
    """Why a group's number is not called gidNumber: Keycloak hands that one to its members."""
    realm = make_realm()
    assert "gidNumber" not in claims(realm.tokens("bob")["id_token"])
    realm.admin.update_group("/physics/team-a", {"gidNumber": ["7001"]})
    assert claims(realm.tokens("bob")["id_token"])["gidNumber"] == "7001"


def test_a_refresh_token_is_good_once_when_rotated(make_realm: Callable[..., Realm]) -> None:
    """With rotation a refresh token is good once; without, again and again."""
    for rotated in (True, False):
        realm = make_realm(refresh_token_rotation=rotated)
        first = realm.tokens("alice")["refresh_token"]
        assert realm.refreshed(first)["id_token"]
        if rotated:
            with pytest.raises(PageError, match="invalid_grant"):
                realm.refreshed(first)
        else:
            assert realm.refreshed(first)["id_token"]


def test_changes_are_kept_as_events(make_realm: Callable[..., Realm]) -> None:
    """Each change of membership, person, role and group is an event that names its object."""
    realm = make_realm()
    admin = realm.admin
    bob, team = admin.sub("bob"), admin.group_id("/physics/team-a")
    admin.remove_member("bob", "/physics/team-a")
    admin.give_role("bob", "grafana_admin")
    admin.disable("bob")
    admin.rename_group("/physics/team-a", "team-b")
    seen = [(each["operationType"], each["resourceType"], each["resourcePath"])
            for each in reversed(admin.events())]  # fmt: skip
    hub = admin.client()["id"]
    assert seen == [
        ("DELETE", "GROUP_MEMBERSHIP", f"users/{bob}/groups/{team}"),
        ("CREATE", "CLIENT_ROLE_MAPPING", f"users/{bob}/role-mappings/clients/{hub}"),
        ("UPDATE", "USER", f"users/{bob}"),
        ("UPDATE", "GROUP", f"groups/{team}"),
    ]
    assert all("representation" not in each for each in admin.events())


@pytest.fixture(scope="module")
def own() -> Iterator[KeycloakSystem]:
    """A Keycloak for drills, which tells slashes in names of groups from those between groups."""
    with KeycloakSystem(options=(ESCAPING,)) as system:
        yield system


def test_sessions_outlive_a_restart(own: KeycloakSystem) -> None:
    """Who is logged in stays so when Keycloak ends and starts; while it is away nobody is answered."""
    realm = own.make_realm()
    tokens = realm.tokens("alice")
    own.stop_daemon()
    with pytest.raises(httpx.TransportError):
        realm.refreshed(tokens["refresh_token"])
    own.start_daemon()
    assert claims(realm.refreshed(tokens["refresh_token"])["id_token"])["sub"]
    own.kill_daemon()
    own.start_daemon()
    assert realm.tokens("alice")


def put_into_the_other(realm: Realm) -> None:
    """Put ann into the group "a/b", by its identifier."""
    groups = realm.admin.api.get(f"{realm.admin.path}/groups")
    (group,) = (each["id"] for each in groups if each["name"] == "a/b")
    realm.admin.api.put(f"{realm.admin.path}/users/{realm.admin.sub('ann')}/groups/{group}")


def test_a_slash_in_a_groups_name_is_told_apart_when_asked_for(own: KeycloakSystem) -> None:
    """With the option that the how-to names, a slash in a group's name is written ~/, in the token and the API."""
    realm = own.make_realm(**SLASHES)
    put_into_the_other(realm)
    assert claims(realm.tokens("ann")["id_token"])["groups"] == ["/a~/b"]
    assert claims(realm.tokens("ben")["id_token"])["groups"] == ["/a/b"]
    assert realm.admin.groups_of("ann") == {"/a~/b"}


def test_a_slash_in_a_groups_name_is_not_told_apart_by_default(
    make_realm: Callable[..., Realm],
) -> None:
    """Why the how-to names that option: as Keycloak comes, two groups have one path."""
    realm = make_realm(**SLASHES)
    put_into_the_other(realm)
    assert claims(realm.tokens("ann")["id_token"])["groups"] == ["/a/b"]
    assert claims(realm.tokens("ben")["id_token"])["groups"] == ["/a/b"]


def test_a_paused_keycloak_does_not_answer(own: KeycloakSystem) -> None:
    """A paused one takes connections and says nothing; resumed, it goes on."""
    realm = own.make_realm()
    own.pause()
    try:
        began = time.monotonic()
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(realm.issuer, timeout=0.5)
        assert time.monotonic() - began < 5
    finally:
        own.resume()
    assert httpx.get(realm.issuer, timeout=60).json()["realm"] == realm.name


def test_a_secret_stands_in_no_log(own: KeycloakSystem, canary: str) -> None:
    """Keycloak's log has no client secret and no password of a realm that is imported."""
    values = {name: f"{canary}-{name}" for name in DEMO_SECRETS}
    realm = own.make_realm(secret_values=values)
    assert realm.client_secret.startswith(canary)
    realm.tokens("alice")
    assert canary not in own.log
    assert "alice-demo" not in own.log
