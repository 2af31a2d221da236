"""Keycloak's pages, walked as a browser does: by HTTP alone, or in a real browser."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from http.cookiejar import CookieJar
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

MOST_STEPS = 30
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class PageError(AssertionError):
    """A page is not the one that was expected; says which it is."""


@dataclass
class Form:
    """A form of a page."""

    identifier: str
    action: str
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """A request that a browser would make now."""

    method: str
    url: str
    data: dict[str, str] | None = None


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(values.get("id", ""), values.get("action", "")))
        elif tag in {"input", "button"} and self.forms and values.get("name"):
            sent = values.get("type") != "checkbox" or "checked" in values
            if sent:
                self.forms[-1].fields[values["name"]] = values.get("value", "")


def forms(page: str) -> list[Form]:
    """The forms of a page, with the values they begin with."""
    parser = _Forms()
    parser.feed(page)
    return parser.forms


def said(page: str) -> str:
    """What a page of Keycloak's says to people: its heading, and what went wrong."""
    # <h1 class="pf-v5-c-login__main-header-title" id="kc-page-title">…</h1>; <span id="input-error" …>
    words = []
    for pattern in (
        r'id="kc-page-title"[^>]*>(.*?)</h1>',
        r'id="input-error[^"]*"[^>]*>(.*?)</span>',
        r'class="[^"]*(?:instruction|kc-feedback-text)[^"]*"[^>]*>(.*?)</(?:p|span|div)>',
    ):
        words += [" ".join(unescape(re.sub(r"<[^>]+>", " ", each)).split())
                  for each in re.findall(pattern, page, re.DOTALL)]  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", page, re.DOTALL)
    return "; ".join(words) or (unescape(title[1]).strip() if title else page[:200])


Walk = Generator[Step, httpx.Response, httpx.Response]


def _hops(step: Step, until: str | None) -> Walk:
    """Make a request and follow where it leads, but not to what begins with `until`."""
    for _ in range(MOST_STEPS):
        answer = yield step
        if not answer.has_redirect_location:
            sent_on = _sent_on(answer)
            if sent_on is None:
                return answer
            step = sent_on
            continue
        target = urljoin(str(answer.url), answer.headers["Location"])
        if until and target.startswith(until):
            return answer
        step = Step("GET", target)
    raise PageError(f"more than {MOST_STEPS} redirects, the last to {urlsplit(step.url).path}")


def _sent_on(answer: httpx.Response) -> Step | None:
    """The form of a page that sends itself, as that for browsers without a ticket does."""
    # <BODY Onload="document.forms[0].submit()"><FORM METHOD="POST" ACTION="http://…">
    if not re.search(
        r"<body[^>]+onload=\W*document\.forms\[0\]\.submit", answer.text, re.IGNORECASE
    ):
        return None
    form = forms(answer.text)[0]
    return Step("POST", urljoin(str(answer.url), form.action), form.fields)


def log_in_walk(start_url: str, user: str, password: str, until: str | None) -> Walk:
    """The requests of a log-in; Keycloak's page is passed when the session is there already."""
    answer = yield from _hops(Step("GET", start_url), until)
    form = _form(answer, "kc-form-login")
    if form is None:
        return answer
    data = form.fields | {"username": user, "password": password}
    data.pop("rememberMe", None)
    answer = yield from _hops(Step("POST", urljoin(str(answer.url), form.action), data), until)
    if _form(answer, "kc-form-login") is not None:
        raise PageError(f"{user} is not let in: {said(answer.text)}")
    return answer


def _form(answer: httpx.Response, identifier: str) -> Form | None:
    if answer.has_redirect_location or "html" not in answer.headers.get("Content-Type", ""):
        return None
    return next((form for form in forms(answer.text) if form.identifier == identifier), None)


def spare_secure(jar: CookieJar) -> None:
    """Let cookies marked Secure go to this machine over plain http, as browsers do."""
    for cookie in jar:
        if cookie.domain.removesuffix(".local") in LOOPBACK:
            cookie.secure = False


def walk(client: httpx.Client, steps: Walk) -> httpx.Response:
    """Make the requests of a walk."""
    step = next(steps)
    while True:
        answer = client.request(step.method, step.url, data=step.data, follow_redirects=False)
        spare_secure(client.cookies.jar)
        try:
            step = steps.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


async def walk_async(client: httpx.AsyncClient, steps: Walk) -> httpx.Response:
    """Make the requests of a walk."""
    step = next(steps)
    while True:
        answer = await client.request(step.method, step.url, data=step.data, follow_redirects=False)
        spare_secure(client.cookies.jar)
        try:
            step = steps.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def log_in(
    client: httpx.Client, start_url: str, user: str, password: str, *, until: str | None = None
) -> httpx.Response:
    """Log in through the real pages.

    Args:
        client: Has the cookies, before and after.
        start_url: Where it begins, e.g. a hub's ``/hub/oauth_login``.
        user: Who.
        password: Theirs.
        until: An address that is not called: the answer that redirects to it is returned.

    Returns:
        The last answer: a page that is no redirect, or one that redirects to `until`.

    Raises:
        PageError: They are not let in; with the page's words.
    """
    return walk(client, log_in_walk(start_url, user, password, until))


async def log_in_async(
    client: httpx.AsyncClient,
    start_url: str,
    user: str,
    password: str,
    *,
    until: str | None = None,
) -> httpx.Response:
    """As `log_in`, for a client of asyncio's."""
    return await walk_async(client, log_in_walk(start_url, user, password, until))


def sign_in(page: Any, user: str, password: str) -> None:
    """Fill in Keycloak's log-in page, which a Playwright page (of the sync API) shows, and send it."""
    page.locator("#username").fill(user)
    page.locator("#password").fill(password)
    page.locator("#kc-login").click()


async def sign_in_async(page: Any, user: str, password: str) -> None:
    """As `sign_in`, for Playwright's async API."""
    await page.locator("#username").fill(user)
    await page.locator("#password").fill(password)
    await page.locator("#kc-login").click()
