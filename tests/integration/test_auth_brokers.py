"""Other providers behind Keycloak: a second realm for real, GitHub and Auth0 as far as configuration goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.systems.keycloak import PageError, Realm, claims
from tests.systems.keycloak.pages import forms, log_in_walk, said, walk
from tests.systems.keycloak.realms import challenge

BACK = "http://127.0.0.1:8000/hub/oauth_callback"
VERIFIER = "v" * 64
SECONDS = 60


def brokered(make_realm: Callable[..., Realm], people: Realm, **fields: Any) -> Realm:
    """A realm whose people are those of the realm `people`."""
    broker = {
        "kind": "keycloak",
        "alias": "people",
        "display_name": "Our people",
        "issuer": people.issuer,
        "client_id": people.client_id,
        "client_secret": people.client_secret,
        **fields,
    }
    realm = make_realm(brokers=[broker], people=[])
    path = f"{realm.issuer}/broker/people/endpoint"
    people.admin.update_client(redirectUris=[path])
    return realm


def start(realm: Realm, **more: str) -> str:
    challenged = {"code_challenge": challenge(VERIFIER), "code_challenge_method": "S256"}
    return realm.authorization_url(BACK, **challenged, **more)


def test_a_person_of_another_realm_logs_in(make_realm: Callable[..., Realm]) -> None:
    """Log-in goes to the other realm's pages and comes back; of its groups only those that were mapped count."""
    people = make_realm()
    realm = brokered(
        make_realm,
        people,
        groups=["/biology"],
        claim_groups=[{"claim": "groups", "value": "/physics/team-a", "group": "/physics/team-a"}],
    )
    seen = {}
    for name in ("alice", "dave"):
        with httpx.Client(timeout=SECONDS) as client:
            steps = log_in_walk(start(realm, kc_idp_hint="people"), name, f"{name}-demo", BACK)
            answer = walk(client, steps)
            seen[name] = claims(realm.redeem(answer, VERIFIER, client)["id_token"])
    assert seen["alice"]["preferred_username"] == "alice"
    assert seen["alice"]["iss"] == realm.issuer
    assert seen["alice"]["sub"] != people.admin.sub("alice")
    assert set(seen["alice"]["groups"]) == {"/biology", "/physics/team-a"}
    assert set(seen["dave"]["groups"]) == {"/biology"}
    # what the other realm takes back is gone at the next log-in
    people.admin.remove_member("alice", "/physics/team-a")
    with httpx.Client(timeout=SECONDS) as client:
        steps = log_in_walk(start(realm, kc_idp_hint="people"), "alice", "alice-demo", BACK)
        again = claims(realm.redeem(walk(client, steps), VERIFIER, client)["id_token"])
    assert again["sub"] == seen["alice"]["sub"]
    assert set(again["groups"]) == {"/biology"}


def test_a_stranger_with_the_same_name_does_not_become_somebody(
    make_realm: Callable[..., Realm],
) -> None:
    """Somebody of that name at the provider is asked for this realm's password before both are one."""
    people = make_realm()
    realm = brokered(make_realm, people)
    realm.admin.add_person("alice", "another-password", email="alice@example.org")
    with httpx.Client(timeout=SECONDS) as client:
        steps = log_in_walk(start(realm, kc_idp_hint="people"), "alice", "alice-demo", BACK)
        answer = walk(client, steps)
    assert answer.status_code == 200
    assert "already exists" in said(answer.text)
    names = {name for form in forms(answer.text) for name in form.fields}
    values = {value for form in forms(answer.text) for value in form.fields.values()}
    assert "submitAction" in names
    assert "linkAccount" in values
    assert realm.admin.sessions("alice") == []


def test_a_token_with_another_key_is_refused(make_realm: Callable[..., Realm]) -> None:
    """What is not signed by the provider's keys is nobody's word: log-in fails."""
    people, other = make_realm(), make_realm()
    realm = brokered(make_realm, people)
    path = f"{realm.admin.path}/identity-provider/instances/people"
    kept = realm.admin.api.get(path)
    kept["config"]["jwksUrl"] = f"{other.issuer}/protocol/openid-connect/certs"
    kept["config"]["clientSecret"] = people.client_secret
    realm.admin.api.put(path, kept)
    with httpx.Client(timeout=SECONDS) as client:
        steps = log_in_walk(start(realm, kc_idp_hint="people"), "alice", "alice-demo", BACK)
        answer = walk(client, steps)
        with pytest.raises(PageError, match="not back at the hub"):
            realm.redeem(answer, VERIFIER, client)
    with pytest.raises(KeyError):
        realm.admin.person("alice")


def test_github_and_auth0_are_accepted(make_realm: Callable[..., Realm]) -> None:
    """What is rendered for them imports whole, and Keycloak sends people to the right place. They themselves are not asked."""
    secret = {"client_id": "kc", "client_secret": "s3cret"}
    realm = make_realm(
        brokers=[
            {"kind": "github", "alias": "github", "groups": ["/biology"], **secret},
            {
                "kind": "auth0",
                "alias": "auth0",
                "domain": "example.eu.auth0.com",
                "attributes": {"homeDirectory": "home"},
                "claim_groups": [{"claim": "https://x/g", "value": 'a"b', "group": "/physics"}],
                **secret,
            },
            {
                "kind": "oidc",
                "alias": "other",
                "issuer": "https://id.example.org",
                "authorization_url": "https://id.example.org/a",
                "token_url": "https://id.example.org/t",
                "jwks_url": "https://id.example.org/k",
                **secret,
            },
        ]
    )
    for wanted in realm.representation["identityProviders"]:
        path = f"{realm.admin.path}/identity-provider/instances/{wanted['alias']}"
        kept = realm.admin.api.get(path)
        expected = {**wanted["config"], "clientSecret": "**********"}
        assert {name: kept["config"].get(name) for name in expected} == expected
        for name in ("enabled", "trustEmail", "storeToken", "providerId", "displayName"):
            assert kept[name] == wanted[name], name
        mappers = {each["name"]: each for each in realm.admin.api.get(f"{path}/mappers")}
        for mapper in realm.representation["identityProviderMappers"]:
            if mapper["identityProviderAlias"] == wanted["alias"]:
                assert mappers[mapper["name"]]["config"] == mapper["config"]
    places = {"github": "https://github.com/login/oauth/authorize",
              "auth0": "https://example.eu.auth0.com/authorize",
              "other": "https://id.example.org/a"}  # fmt: skip
    for alias, place in places.items():
        with httpx.Client(timeout=SECONDS) as client:
            walked = log_in_walk(start(realm, kc_idp_hint=alias), "-", "-", place)
            answer = walk(client, walked)
        target = httpx.URL(answer.headers["Location"])
        assert str(target).startswith(place)
        assert target.params["client_id"] == "kc"
        assert target.params["redirect_uri"] == f"{realm.issuer}/broker/{alias}/endpoint"
        assert target.params["state"]
