"""Kept true while people work: what changes in Keycloak reaches the hub without their doing anything."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.integration.auth_login import hub_with
from tests.systems.keycloak_hub import Browser, KeycloakHub, until

# so that every request asks Keycloak again, one second after the last time
CONFIG = "c.Authenticator.auth_refresh_age = 1\n"
SECONDS = 20


@pytest.fixture(scope="module")
def hub(keycloak: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeycloakHub]:
    """A hub whose realm gives refresh tokens that are good once."""
    folder = tmp_path_factory.mktemp("refresh") / "hub"
    realm = keycloak.make_realm(hub_url="http://127.0.0.1:1", refresh_token_rotation=True)
    try:
        with hub_with(keycloak, folder, CONFIG, realm=realm) as hub:
            yield hub
    finally:
        realm.remove()


@pytest.fixture
def alice(hub: KeycloakHub) -> Iterator[Browser]:
    """Alice's browser, logged in."""
    with hub.browser() as browser:
        browser.log_in("alice")
        yield browser


def as_person(hub: KeycloakHub, token: str) -> int:
    """What the hub answers to somebody's API token."""
    return hub.api("GET", "user", token=token).status


def refreshed(hub: KeycloakHub, name: str, browser: Browser) -> None:
    """Wait until a request of theirs has asked Keycloak again."""
    before = hub.state(name)["refresh_token"]

    def asked() -> bool:
        browser.open("hub/home")
        return bool(hub.state(name).get("refresh_token") != before)

    until(asked, SECONDS, f"a refresh of {name}")


def test_six_requests_at_once_with_rotation(hub: KeycloakHub, alice: Browser) -> None:
    """One uses the refresh token; nobody is sent back to log in. Several times over."""
    for _ in range(3):
        refreshed(hub, "alice", alice)
        cookies = dict(alice.cookies)

        def home(_: int) -> int:
            return httpx.get(f"{hub.url}hub/home", cookies=cookies, timeout=60).status_code  # noqa: B023

        until(lambda: alice.open("hub/home").status_code == 200, SECONDS, "the home page")
        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(home, range(6))) == [200] * 6
    assert alice.known_as == "alice"


def test_groups_and_administrators_follow(hub: KeycloakHub, alice: Browser) -> None:
    """Both ways, at the next request after the age."""
    admin = hub.realm.admin
    admin.add_member("alice", "/admins")
    try:
        until(
            lambda: alice.open("hub/home") and hub.model("alice")["admin"],
            SECONDS,
            "an administrator",
        )
        assert "/admins" in hub.model("alice")["groups"]
    finally:
        admin.remove_member("alice", "/admins")
    until(
        lambda: alice.open("hub/home") and not hub.model("alice")["admin"],
        SECONDS,
        "nobody special",
    )
    assert "/admins" not in hub.model("alice")["groups"]
    assert "admin" not in hub.model("alice")["roles"]


def test_who_leaves_the_allowed_group(hub: KeycloakHub) -> None:
    """Rules are checked at each refresh: pages and API tokens end."""
    with hub.browser() as bob:
        bob.log_in("bob")
        token = hub.user_token("bob")
        assert as_person(hub, token) == 200
        hub.realm.admin.remove_member("bob", "/physics/team-a")
        try:
            until(lambda: bob.known_as is None, SECONDS, "bob is sent to log in")
            assert as_person(hub, token) == 403
            answer = hub.realm.log_in(bob, f"{hub.url}hub/oauth_login", "bob")
            assert answer.status_code == 403
        finally:
            hub.realm.admin.add_member("bob", "/physics/team-a")
        assert bob.log_in("bob").status_code == 200
        assert as_person(hub, token) == 200


def test_a_disabled_person(hub: KeycloakHub) -> None:
    """Neither their pages nor their tokens work, and no administrator starts a server for them."""
    with hub.browser() as dave:
        dave.log_in("dave")
        token = hub.user_token("dave")
        hub.realm.admin.disable("dave")
        try:
            until(lambda: dave.known_as is None, SECONDS, "dave is sent to log in")
            until(lambda: as_person(hub, token) == 403, SECONDS, "his token ends")
            started = hub.api("POST", "users/dave/server", token=token)
            assert started.status == 403
            # the check service asks for him, as an administrator does
            assert hub.api("POST", "users/dave/server").status in {400, 403}
        finally:
            hub.realm.admin.enable("dave")


def test_the_session_in_keycloak_ends(hub: KeycloakHub) -> None:
    """Browsers log in again; API tokens go on, for the person may still come in."""
    with hub.browser() as carol:
        carol.log_in("carol")
        token = hub.user_token("carol")
        for session in hub.realm.admin.sessions("carol"):
            hub.realm.admin.end_session(session["id"])
        until(lambda: carol.known_as is None, SECONDS, "carol is sent to log in")
        for _ in range(3):
            assert as_person(hub, token) == 200
        assert hub.state("carol")["qhub"]["uid"]
        assert carol.log_in("carol").status_code == 200


def test_new_keys(hub: KeycloakHub, alice: Browser) -> None:
    """Keycloak signs by another key from now on, and the old one is gone."""
    kid = hub.realm.admin.rotate_keys(drop_old=True)
    assert kid
    refreshed(hub, "alice", alice)
    assert alice.known_as == "alice"
    with hub.browser() as other:
        assert other.log_in("erin").status_code == 200
