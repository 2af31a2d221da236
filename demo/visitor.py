"""A browser without a screen: cookies, pages, forms, events."""

from __future__ import annotations

import json
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit
from urllib.request import Request

SECONDS = 60


@dataclass
class Form:
    """A form as it stands on a page: where it goes, and what it sends if nobody touches it."""

    action: str
    name: str
    multipart: bool
    fields: dict[str, str] = field(default_factory=dict)
    offered: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """What an address showed, after all its redirects."""

    url: str
    text: str
    forms: tuple[Form, ...]

    def form(self, name: str) -> Form:
        """Return the form with that id, or whose action ends so.

        Raises:
            LookupError: The page has none; says what it has.
        """
        found = self._found(name)
        if found is not None:
            return found
        has = ", ".join(form.name or form.action for form in self.forms) or "none"
        raise LookupError(f"{self.url} has no form {name!r}; its forms: {has}")

    def has(self, name: str) -> bool:
        """Whether the page has that form."""
        return self._found(name) is not None

    def _found(self, name: str) -> Form | None:
        for form in self.forms:
            if form.name == name or urlsplit(form.action).path.endswith(name):
                return form
        return None


class _Forms(HTMLParser):
    """Collects forms: hidden and text fields, what is checked or selected, what is offered."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.forms: list[Form] = []
        self._form: Form | None = None
        self._select = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = {name: value or "" for name, value in attrs}
        if tag == "form":
            multipart = has.get("enctype", "") == "multipart/form-data"
            action = urljoin(self.url, has.get("action", ""))
            self._form = Form(action, has.get("id", ""), multipart)
            self.forms.append(self._form)
        elif self._form is not None and tag == "input" and has.get("name"):
            self._input(self._form, has)
        elif tag == "select":
            self._select = has.get("name", "")
        elif self._form is not None and tag == "option" and self._select:
            self._form.offered.setdefault(self._select, []).append(has.get("value", ""))
            if "selected" in has:
                self._form.fields[self._select] = has.get("value", "")
            self._form.fields.setdefault(self._select, has.get("value", ""))

    @staticmethod
    def _input(form: Form, has: Mapping[str, str]) -> None:
        name, value, kind = has["name"], has.get("value", ""), has.get("type", "text")
        if kind in {"radio", "checkbox"}:
            if "disabled" not in has:
                form.offered.setdefault(name, []).append(value)
            if "checked" in has and "disabled" not in has:
                form.fields[name] = value
        elif kind not in {"submit", "button", "file"}:
            form.fields[name] = value

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None
        elif tag == "select":
            self._select = ""


class Visitor:
    """One person at one browser."""

    def __init__(self) -> None:
        """Begin without cookies."""
        # as a browser does at 127.0.0.1, which is as good as https to it
        trusted = DefaultCookiePolicy(secure_protocols=("http", "https"))
        self.cookies = CookieJar(trusted)
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self.cookies)
        )

    def open(self, url: str) -> Page:
        """Go to an address.

        Raises:
            VisitError: The answer is not a page; has its status, and what the page says.
        """
        return self._page(Request(url))

    def submit(self, form: Form, **values: str) -> Page:
        """Fill in fields of a form and send it.

        Raises:
            VisitError: As for `open`.
        """
        fields = {**form.fields, **values}
        body, kind = _multipart(fields) if form.multipart else _urlencoded(fields)
        headers = {"Content-Type": kind}
        return self._page(Request(form.action, body, headers, method="POST"))

    def events(self, url: str, seconds: float) -> Iterator[dict[str, Any]]:
        """Yield what an event stream sends (server-sent events whose data is JSON), so long."""
        deadline = time.monotonic() + seconds
        with self._answer(Request(url)) as answer:
            for line in answer:
                if time.monotonic() > deadline:  # the hub sends a comment every few seconds
                    return
                if line.startswith(b"data:"):
                    yield json.loads(line[5:])

    def delete(self, url: str) -> None:
        """Ask an API to remove something, as a page's script does."""
        request = Request(url, headers=self.credentials(url), method="DELETE")
        with self._answer(request):
            return

    def credentials(self, url: str) -> dict[str, str]:
        """Return the headers that a page's script sends to `url`: cookies and the XSRF token."""
        request = Request(url)
        self.cookies.add_cookie_header(request)
        path = urlsplit(url).path
        tokens = [
            (cookie.path, cookie.value or "")
            for cookie in self.cookies
            if cookie.name == "_xsrf" and path.startswith(cookie.path)
        ]
        longest = max(tokens, default=("", ""))[1]
        return {"Cookie": request.get_header("Cookie") or "", "X-XSRFToken": longest}

    def _page(self, request: Request) -> Page:
        with self._answer(request) as answer:
            text, url = answer.read().decode(), answer.url
        parser = _Forms(url)
        parser.feed(text)
        return Page(url, text, tuple(parser.forms))

    def _answer(self, request: Request) -> Any:  # noqa: ANN401 - http.client's
        try:
            return self._opener.open(request, timeout=SECONDS)
        except urllib.error.HTTPError as error:
            said = _words(error.read().decode(errors="replace"))
            path = urlsplit(request.full_url).path
            message = f"{request.get_method()} {path} was answered with {error.code}: {said}"
            raise VisitError(message) from error


class VisitError(Exception):
    """An address answered with an error."""


def _urlencoded(fields: Mapping[str, str]) -> tuple[bytes, str]:
    return urlencode(fields).encode(), "application/x-www-form-urlencoded"


def _multipart(fields: Mapping[str, str]) -> tuple[bytes, str]:
    boundary = secrets.token_hex(16)
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    body = "".join([*parts, f"--{boundary}--\r\n"])
    return body.encode(), f"multipart/form-data; boundary={boundary}"


class _Text(HTMLParser):
    """What of a page a person reads."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        del attrs
        self._hidden += tag in {"script", "style", "head"}

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in {"script", "style", "head"}

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words += data.split()


def _words(text: str, most: int = 300) -> str:
    if not text.lstrip().startswith("<"):
        return text[:most]
    parser = _Text()
    parser.feed(text)
    return " ".join(parser.words)[:most]
