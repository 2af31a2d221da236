"""What all handlers have in common, and what is logged of a request."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import httpx
from tornado import web
from tornado.log import access_log

from qhub_auth.errors import shown
from qhub_auth.forward_auth import headers as reading
from qhub_auth.forward_auth.deciding import Deciding
from qhub_auth.forward_auth.pages import Answer, content_security_policy

__all__ = ["DOWN", "Base", "log_request"]

DOWN = Answer(
    503,
    "Log-in is not possible at the moment",
    (
        "The server that people log in at (Keycloak) does not answer.",
        "Whoever is signed in already goes on working. Please try again in a minute.",
    ),
)


def log_request(handler: web.RequestHandler) -> None:
    """Log a request without its query and its headers, in which secrets are."""
    request = handler.request
    status = handler.get_status()
    log = handler.deciding.log if isinstance(handler, Base) else access_log
    level = logging.DEBUG if status < httpx.codes.BAD_REQUEST else logging.INFO
    log.log(
        level if status < httpx.codes.INTERNAL_SERVER_ERROR else logging.WARNING,
        "%d %s %s (%s) %.1f ms",
        status,
        shown(request.method, 16),
        shown(request.path, 128),
        request.remote_ip,
        1000 * request.request_time(),
    )


class Base(web.RequestHandler):
    """What all handlers have in common."""

    deciding: Deciding

    def initialize(self, deciding: Deciding) -> None:
        """Take what decides."""
        self.deciding = deciding

    def set_default_headers(self) -> None:
        """Nothing is kept or guessed, and no other site learns where people were.

        Our own form has to say where it comes from: with `no-referrer` browsers hide that too.
        """
        self.clear_header("Server")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "same-origin")

    def compute_etag(self) -> None:
        """Have none: nothing here may be kept."""

    def check_xsrf_cookie(self) -> None:
        """Leave it out: the one form there is has a token of its own."""

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log what went wrong; not the request as tornado does, in which secrets are."""
        if typ is not None and value is not None and not isinstance(value, web.HTTPError):
            self.deciding.log.error("%s failed", self._request_summary(), exc_info=(typ, value, tb))

    def _request_summary(self) -> str:
        return f"{shown(self.request.method, 16)} {shown(self.request.path, 128)}"

    def sent(self) -> Mapping[str, Sequence[str]]:
        """Return all headers, by their names in small letters."""
        got = self.request.headers
        return {name.lower(): got.get_list(name) for name in got}

    def answer(self, answer: Answer, *, as_json: bool | None = None) -> None:
        """Send a page, or the same as JSON to who cannot use a page."""
        self.set_status(answer.status)
        if answer.status == DOWN.status:
            self.set_header("Retry-After", "30")
        if reading.wants_json(self.sent()) if as_json is None else as_json:
            self.set_header("Content-Type", "application/json")
            self.finish(answer.json())
            return
        self.set_header("Content-Type", "text/html; charset=utf-8")
        policy = content_security_policy(self.deciding.signing_in.origin)
        self.set_header("Content-Security-Policy", policy)
        self.finish(answer.html())

    def write_error(self, status_code: int, **_: Any) -> None:  # noqa: ANN401 - tornado's
        """Say that something went wrong, and nothing of what."""
        self.clear_header("Set-Cookie")
        self.answer(Answer(status_code, self._reason or "Something went wrong"))
