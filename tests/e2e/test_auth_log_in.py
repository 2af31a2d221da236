"""A person at a real browser logs in by Keycloak's page, works in two tabs, and logs out once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.browsing import DESK
from tests.integration.auth_login import hub_with
from tests.systems.keycloak.pages import sign_in
from tests.systems.keycloak_hub import KeycloakHub


@pytest.fixture(scope="module")
def auth_hub(keycloak: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeycloakHub]:
    """A hub with a realm of its own."""
    with hub_with(keycloak, tmp_path_factory.mktemp("browser") / "hub") as hub:
        yield hub


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A browser that nobody used before."""
    context = browser.new_context(**DESK)
    yield context.new_page()
    context.close()


def test_in_and_out(auth_hub: KeycloakHub, page: Page) -> None:
    """By the hub's own button, to the page that was asked for, and out of both by one click."""
    page.goto(f"{auth_hub.url}hub/token")
    page.get_by_role("button", name="Sign in with Keycloak").click()
    sign_in(page, "alice", "alice-demo")
    page.wait_for_url(f"{auth_hub.url}hub/token")
    expect(page.get_by_text("alice", exact=True).first).to_be_visible()
    page.locator("#logout").click()
    page.wait_for_url(f"{auth_hub.url}hub/login*")
    assert auth_hub.realm.admin.sessions("alice") == []
    page.get_by_role("button", name="Sign in with Keycloak").click()
    expect(page.locator("#username")).to_be_visible()


def test_two_tabs_at_once(auth_hub: KeycloakHub, page: Page) -> None:
    """Both were opened before anybody was logged in; each goes to its own page."""
    other = page.context.new_page()
    page.goto(f"{auth_hub.url}hub/oauth_login?next=/hub/token")
    other.goto(f"{auth_hub.url}hub/oauth_login?next=/hub/home")
    sign_in(page, "bob", "bob-demo")
    page.wait_for_url(f"{auth_hub.url}hub/token")
    # Keycloak's page in the other tab notices, or is sent once more
    other.goto(f"{auth_hub.url}hub/oauth_login?next=/hub/home")
    other.wait_for_url(f"{auth_hub.url}hub/home")
    cookies = {cookie["name"]: cookie for cookie in page.context.cookies(auth_hub.url + "hub/")}
    assert cookies["qhub-login"]["httpOnly"]
    assert cookies["qhub-login"]["sameSite"] == "Lax"


def test_who_may_not_come_in(auth_hub: KeycloakHub, page: Page) -> None:
    """The page has a way out, by which somebody else can log in."""
    auth_hub.realm.admin.add_person(
        "frank", "frank-demo", groups=["/biology"], email="f@example.org", firstName="F", lastName="F"
    )  # fmt: skip
    page.goto(f"{auth_hub.url}hub/oauth_login")
    sign_in(page, "frank", "frank-demo")
    expect(page.get_by_role("heading", name="You cannot use this hub")).to_be_visible()
    page.get_by_role("button", name="as somebody else").click()
    page.locator("#kc-logout").click()
    page.wait_for_url(f"{auth_hub.url}hub/login*")
    page.get_by_role("button", name="Sign in with Keycloak").click()
    sign_in(page, "alice", "alice-demo")
    page.wait_for_url(re.compile(r"/hub/spawn|/user/alice/"))
    assert auth_hub.model("alice")["name"] == "alice"
