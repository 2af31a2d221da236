"""Keycloak is not there: the hub starts, whoever is in stays in, who comes reads why not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import missing
from tests.integration.auth_login import hub_with
from tests.systems.keycloak_hub import KeycloakHub, until
from tests.systems.processes import SystemUnavailableError

CONFIG = """
c.Authenticator.auth_refresh_age = 1
c.KeycloakAuthenticator.refresh_timeout_seconds = 1.5
"""
SECONDS = 60


@pytest.fixture(scope="module")
def own_keycloak() -> Iterator[Any]:
    """A Keycloak that may be stopped and frozen."""
    from tests.systems.keycloak import KeycloakSystem

    try:
        with KeycloakSystem() as system:
            yield system
    except SystemUnavailableError as error:
        missing("Keycloak", error)


@pytest.fixture(scope="module")
def hub(own_keycloak: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeycloakHub]:
    """A hub on it."""
    with hub_with(own_keycloak, tmp_path_factory.mktemp("outages") / "hub", CONFIG) as hub:
        yield hub


def says_unavailable(hub: KeycloakHub) -> bool:
    """Whether somebody who comes reads that log-in is not possible."""
    answer = httpx.get(f"{hub.url}hub/oauth_login?next=/hub/token", timeout=60)
    if answer.status_code != 503:
        return False
    words = " ".join(answer.text.split())
    assert "Log-in is not possible right now" in words
    assert "Servers that are running go on" in words
    assert 0 < int(answer.headers["Retry-After"]) <= 60
    assert answer.headers["Refresh"].endswith("url=/hub/oauth_login?next=%2Fhub%2Ftoken")
    return True


def drill(hub: KeycloakHub, browser: Any, token: str) -> None:
    """What goes on without Keycloak: pages, API tokens, starting and stopping servers."""
    until(lambda: says_unavailable(hub), SECONDS, "the page that says so")
    slowest = 0.0
    for _ in range(6):
        begun = time.monotonic()
        assert browser.open("hub/home").status_code == 200
        assert hub.api("GET", "user", token=token).status == 200
        slowest = max(slowest, time.monotonic() - begun)
    assert slowest < 8, "nobody waits for long"
    before = hub.model("alice")
    assert hub.api("POST", "users/alice/server", token=token).status in {201, 202}
    hub.wait_ready("alice")
    hub.stop_server("alice")
    hub.wait_stopped("alice")
    after = hub.model("alice")
    assert (after["groups"], after["roles"]) == (before["groups"], before["roles"])
    assert after["auth_state"]["qhub"] == before["auth_state"]["qhub"]


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_keycloak_goes_and_comes(hub: KeycloakHub, own_keycloak: Any, how: str) -> None:
    """Nothing is lost, nobody is sent away; afterwards everything is as before, with no restart."""
    until(lambda: not says_unavailable(hub), SECONDS, "log-in is possible")
    with hub.browser() as alice:
        alice.log_in("alice")
        token = hub.user_token("alice")
        if how == "stopped":
            own_keycloak.stop_daemon()
        else:
            own_keycloak.pause()
        try:
            drill(hub, alice, token)
        finally:
            if how == "stopped":
                own_keycloak.start_daemon()
            else:
                own_keycloak.resume()
        until(lambda: not says_unavailable(hub), SECONDS, "log-in is possible again")
        assert alice.open("hub/home").status_code == 200
    with hub.browser() as bob:
        assert bob.log_in("bob").status_code == 200


def test_logging_out_meanwhile(hub: KeycloakHub, own_keycloak: Any) -> None:
    """The session here ends, and the page says what is not certain."""
    until(lambda: not says_unavailable(hub), SECONDS, "log-in is possible")
    with hub.browser() as dave:
        dave.log_in("dave")
        own_keycloak.pause()
        try:
            until(lambda: says_unavailable(hub), SECONDS, "the page that says so")
            answer = dave.open("hub/logout")
            assert answer.status_code == 200
            assert "your session there may go on" in " ".join(answer.text.split())
            assert dave.known_as is None
        finally:
            own_keycloak.resume()


def test_the_hub_starts_without_keycloak(hub: KeycloakHub, own_keycloak: Any) -> None:
    """Whoever was in is in; the first to come afterwards logs in, with folders and roles."""
    until(lambda: not says_unavailable(hub), SECONDS, "log-in is possible")
    with hub.browser() as erin:
        erin.log_in("erin")
        roles = hub.model("erin")["roles"]
        own_keycloak.stop_daemon()
        try:
            hub.kill()
            hub.restart()
            assert says_unavailable(hub)
            assert erin.open("hub/home").status_code == 200
            assert hub.model("erin")["roles"] == roles
            assert hub.model("erin")["admin"]
        finally:
            own_keycloak.start_daemon()
        until(lambda: not says_unavailable(hub), SECONDS, "log-in is possible again")
    with hub.browser() as carol:
        assert carol.log_in("carol").status_code == 200
    assert {each["path"] for each in hub.state("carol")["qhub"]["groups"]} == {
        "/physics",
        "/physics/team-a",
    }
