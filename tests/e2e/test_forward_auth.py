"""People at a browser: log in by Keycloak's page to what stands behind the proxy, and sign out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.e2e import browsing
from tests.systems.forward_auth import HOSTS, PREFIX, ForwardAuthSite
from tests.systems.keycloak.pages import sign_in


@pytest.fixture(scope="module")
def site(make_traefik: Callable[..., Any], realm: Any) -> Iterator[ForwardAuthSite]:
    """Traefik, the service, and something to reach."""
    with ForwardAuthSite(make_traefik(hosts=HOSTS), realm) as made:
        yield made


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A fresh browser; the certificate is one that it does not know."""
    made = browser.new_context(ignore_https_errors=True, **browsing.DESK)
    made.set_default_timeout(browsing.DEADLINE_SECONDS * 1000)
    yield made
    made.close()


def log_in(page: Page, site: ForwardAuthSite, path: str, name: str) -> None:
    """Open a page that takes a log-in, and log in."""
    page.goto(site.url + path)
    assert page.url.startswith(site.realm.issuer)
    sign_in(page, name, site.realm.password_of(name))
    page.wait_for_url(site.url + path)


def test_in_and_out(site: ForwardAuthSite, context: BrowserContext) -> None:
    """From an address through Keycloak's page to what was asked for, to a refusal, and out of both."""
    page = context.new_page()
    log_in(page, site, "/grafana/d/1?x=y", "alice")
    expect(page.locator("#user")).to_have_text("alice")
    answer = page.goto(f"{site.url}/prometheus")
    assert answer is not None
    assert answer.status == 403
    expect(page.locator("main")).to_contain_text("needs the role monitoring_viewer")
    expect(page.locator("main")).to_contain_text("signed in as alice")
    page.get_by_role("link", name="Sign out").click()
    expect(page.get_by_role("heading")).to_have_text("Sign out?")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(f"{site.url}{PREFIX}signed-out")
    expect(page.get_by_role("heading")).to_have_text("You are signed out")
    page.goto(f"{site.url}/home")
    assert page.url.startswith(site.realm.issuer)  # Keycloak's own session is over as well


def test_the_next_host_asks_for_nothing(site: ForwardAuthSite, context: BrowserContext) -> None:
    """Who has logged in at one host is let in at another, with a cookie of its own."""
    page = context.new_page()
    log_in(page, site, "/home", "dave")
    page.goto(f"{site.other_url}/x")
    assert page.url == f"{site.other_url}/x"
    expect(page.locator("#user")).to_have_text("dave")
    ours = [each for each in context.cookies() if each["name"] == "__Host-qhub-forward-auth"]
    assert len(ours) == 2
    for cookie in ours:
        assert cookie["httpOnly"]
        assert cookie["secure"]
        assert cookie["sameSite"] == "Lax"


def test_scripts_and_sockets(site: ForwardAuthSite, context: BrowserContext) -> None:
    """A page's own requests are let in with its person, and get a plain 401 when that is over."""
    page = context.new_page()
    log_in(page, site, "/grafana", "alice")
    ask = "path => fetch(path).then(answer => answer.status)"
    assert page.evaluate(ask, "/grafana/api") == 200
    assert page.evaluate(ask, "/prometheus/api") == 403
    heard = page.evaluate(
        """path => new Promise((done, failed) => {
            const socket = new WebSocket(`wss://${location.host}${path}`);
            const heard = [];
            socket.onerror = () => failed(new Error("refused"));
            socket.onmessage = (event) => {
                heard.push(event.data);
                if (heard.length == 1) socket.send("hello");
                else { socket.close(); done(heard); }
            };
        })""",
        "/grafana/live",
    )
    assert '"X-Forwarded-User": "alice"' in heard[0]
    assert heard[1] == "hello"
    context.clear_cookies()
    assert page.evaluate(ask, "/grafana/api") == 401


def test_two_tabs(site: ForwardAuthSite, context: BrowserContext) -> None:
    """Two tabs that wait at Keycloak's page both come to where they were going."""
    first, second = context.new_page(), context.new_page()
    second.goto(f"{site.url}/physics")
    log_in(first, site, "/home", "alice")
    second.goto(f"{site.url}/physics")
    expect(second.locator("#user")).to_have_text("alice")
    expect(second.get_by_role("heading")).to_have_text("/physics")


def test_a_link_does_not_sign_in_as_somebody_else(site: ForwardAuthSite, browser: Browser) -> None:
    """A way back that another browser began ends at a page that says so."""
    with site.client(Accept="text/html") as attacker:
        way_back = f"{site.url}{PREFIX}callback"
        caught = site.realm.log_in(attacker, f"{site.url}/home", "erin", until=way_back)
        link = caught.headers["Location"]
    assert link.startswith(way_back)
    victim = browser.new_context(ignore_https_errors=True)
    try:
        other = victim.new_page()
        answer = other.goto(link)
        assert answer is not None
        assert answer.status == 400
        expect(other.get_by_role("heading")).to_have_text("This log-in was not begun here")
        assert not [each for each in victim.cookies() if each["name"].endswith("forward-auth")]
    finally:
        victim.close()


def test_pages_are_for_everybody(site: ForwardAuthSite, context: BrowserContext) -> None:
    """The pages of the service have no accessibility violations, in light and dark."""
    page = context.new_page()
    log_in(page, site, "/home", "alice")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for path in ("/prometheus", f"{PREFIX}sign-out", f"{PREFIX}signed-out"):
            page.goto(site.url + path)
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
