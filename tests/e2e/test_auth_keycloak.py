"""Keycloak's own pages in a real browser, over plain http on loopback, where its cookies are marked Secure."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e import browsing
from tests.systems.keycloak import Realm, sign_in


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A browser that nobody has logged in with."""
    context = browser.new_context(**browsing.DESK)
    context.set_default_timeout(browsing.DEADLINE_SECONDS * 1000)
    yield context.new_page()
    context.close()


def test_a_session_holds_over_plain_http_on_loopback(page: Page, realm: Realm) -> None:
    """Chromium keeps and sends Keycloak's Secure cookies to 127.0.0.1: the second visit needs no password."""
    console = f"{realm.issuer}/account/"
    page.goto(console)
    sign_in(page, "alice", "wrong")
    expect(page.locator("#input-error, #input-error-username").first).to_contain_text("Invalid")
    sign_in(page, "alice", realm.password_of("alice"))
    expect(page.locator("#email")).to_have_value("alice@example.org")
    page.goto(console)
    expect(page.locator("#email")).to_have_value("alice@example.org")
    assert "login-actions" not in page.url


def test_the_account_console_shows_numbers_and_lets_nobody_edit_them(
    page: Page, realm: Realm
) -> None:
    """In the account console, name, numbers and home stand there read-only; what is a person's own is theirs to edit."""
    realm.admin.update_person("bob", attributes={"uidNumber": ["20002"]})
    page.goto(f"{realm.issuer}/account/")
    sign_in(page, "bob", realm.password_of("bob"))
    expect(page.locator("#uidNumber")).to_have_value("20002")
    for name in ("username", "uidNumber", "gidNumber", "homeDirectory"):
        box = page.locator(f"#{name}")
        frozen = box.get_attribute("readonly") is not None or box.is_disabled()
        assert frozen, name
    expect(page.locator("#firstName")).to_be_editable()
    expect(page.get_by_role("heading", name="Numbers and home")).to_be_visible()
