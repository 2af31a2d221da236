"""A person at a browser: Debian's Chromium, driven by Playwright, and what they do on our page."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Error, Locator, Page, expect, sync_playwright

from tests.systems.processes import SystemUnavailableError

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DEADLINE_SECONDS = 60
DESK = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 375, "height": 800}, "has_touch": True, "is_mobile": True}

Visit = Callable[..., Page]
"""The fixture `visit`: open the hub as somebody, `visit(name, path, **context options)`."""

_NOTE_EVENTS = """
const Source = window.EventSource;
window.EventSource = class extends Source {
  constructor(...args) {
    super(...args);
    this.addEventListener("message", (event) => {
      const before = JSON.parse(sessionStorage.events);
      sessionStorage.events = JSON.stringify([...before, event.data]);
    });
  }
};
"""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium with a profile of its own.

    Raises:
        SystemUnavailableError: It is not installed, or does not start.
    """
    if not CHROMIUM.exists():
        raise SystemUnavailableError(f"{CHROMIUM} is absent: as root, apt-get install chromium")
    expect.set_options(timeout=DEADLINE_SECONDS * 1000)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=str(CHROMIUM), args=list(ARGUMENTS)
            )
        except Error as error:
            raise SystemUnavailableError(f"{CHROMIUM} does not start: {error}") from error
        try:
            yield browser
        finally:
            browser.close()


def sign_in(page: Page, url: str, name: str) -> None:
    """Log in on the hub's own login page, and come to the page that shows the profiles."""
    page.goto(f"{url}hub/login")
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill("any")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(re.compile(r"/hub/(spawn|home)|/user/"))


def settled(page: Page) -> None:
    """Wait until the buttons of a page of the hub do something; its scripts come last."""
    page.wait_for_function("window._jupyterhub_page_loaded")


def card(page: Page, slug: str) -> Locator:
    """The card of a profile."""
    return page.locator(f'.qhub-card[data-slug="{slug}"]')


def live(page: Page, slug: str) -> Locator:
    """What is free for a profile now."""
    return card(page, slug).locator(".qhub-live")


def choose(page: Page, slug: str) -> None:
    """Click on a profile."""
    card(page, slug).locator(".qhub-name").click()


def option(page: Page, profile: str, name: str, value: str) -> Locator:
    """The radio button of a choice; `_other` is the free value."""
    return page.locator(f'input[name="options.{profile}.{name}"][value="{value}"]')


def free(page: Page, profile: str, name: str) -> Locator:
    """The text field of an option."""
    return page.locator(f'input[name="options.{profile}.{name}.free"]')


def chosen(page: Page) -> dict[str, Any]:
    """What pressing Start would ask for, as the browser would send it."""
    fields: dict[str, str] = page.evaluate(
        "Object.fromEntries(new FormData(document.getElementById('spawn_form')))"
    )
    profile = fields["profile"]
    start = f"options.{profile}."
    options = {
        name.removeprefix(start): value
        for name, value in fields.items()
        if name.startswith(start) and not name.endswith(".free")
    }
    for name, value in options.items():
        if value == "_other":
            options[name] = fields[f"{start}{name}.free"]
    return {"profile": profile, "options": options}


def start(page: Page) -> int:
    """Press Start; return the status of the page that comes."""
    with page.expect_navigation(timeout=DEADLINE_SECONDS * 1000) as navigation:
        page.get_by_role("button", name="Start", exact=True).click()
    answer = navigation.value
    assert answer is not None
    return answer.status


def alerts(page: Page) -> list[str]:
    """Everything that the page says went wrong, or is to know."""
    return [text.strip() for text in page.locator(".alert:visible").all_inner_texts()]


def listen(page: Page) -> None:
    """Note, from now on, the events that waiting pages get."""
    page.evaluate("sessionStorage.events = '[]'")
    page.add_init_script(_NOTE_EVENTS)


def heard(page: Page) -> list[dict[str, Any]]:
    """What has been noted since `listen`; it outlives the page, in its tab."""
    return list(
        page.evaluate("JSON.parse(sessionStorage.events).map((event) => JSON.parse(event))")
    )


def messages(page: Page) -> Locator:
    """What the waiting page has said so far, one event each."""
    return page.locator("#progress-log .progress-log-event")
