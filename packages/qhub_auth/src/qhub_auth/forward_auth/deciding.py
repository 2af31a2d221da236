"""What the web service needs to decide: routes, keys, sessions, Keycloak, and who asks."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from qhub_auth.errors import (
    ConfigurationError,
    KeycloakError,
    KeycloakUnavailableError,
    TokenError,
    shown,
)
from qhub_auth.forward_auth.cookies import cookie_name, set_cookie
from qhub_auth.forward_auth.headers import Headers, bearer_token, cookies_of, origin_of
from qhub_auth.forward_auth.keys import KeyFile
from qhub_auth.forward_auth.policy import Person, Policy
from qhub_auth.forward_auth.readings import AmbiguousError
from qhub_auth.forward_auth.sessions import Session, Sessions
from qhub_auth.forward_auth.signing_in import SigningIn

__all__ = ["SECRET_HEADER", "Deciding", "Known", "Origin", "Settings", "Trust"]

SECRET_HEADER = "X-Qhub-Proxy"  # noqa: S105 - a header's name
# A session that Keycloak could not be asked about is asked about again after so long.
AGAIN_SECONDS = 30.0
LONGEST_RETURN = 1500
_UNIX = "unix"
_UNIX_PEER = "0.0.0.0"  # nosec B104 # noqa: S104 - what tornado calls the other end of a unix socket


@dataclass(frozen=True, slots=True)
class Origin:
    """By which name and scheme somebody reached us."""

    scheme: str
    host: str
    port: int | None

    @property
    def secure(self) -> bool:
        """Whether cookies can be kept to https."""
        return self.scheme == "https"

    @property
    def effective_port(self) -> int:
        """The port, named or not."""
        return self.port or {"http": 80, "https": 443}[self.scheme]

    def __str__(self) -> str:
        """As a browser writes it."""
        usual = {"http": 80, "https": 443}[self.scheme]
        return f"{self.scheme}://{self.host}" + (
            "" if self.port in {None, usual} else f":{self.port}"
        )

    @classmethod
    def read(cls, text: str) -> Origin:
        """Read what ``__str__`` writes.

        Raises:
            AmbiguousError: It is no origin.
        """
        scheme, mark, authority = text.partition("://")
        if not mark:
            raise AmbiguousError("there is no scheme")
        return cls(*origin_of(scheme, authority))


class Trust:
    """Whose word on the original request counts."""

    def __init__(self, proxies: Sequence[str], secret_file: str) -> None:
        """Take networks, or ``unix`` for whoever comes by a unix socket.

        Raises:
            ConfigurationError: One is no network, or the file of the secret cannot be read.
        """
        self._unix = _UNIX in proxies
        self._networks = []
        for each in proxies:
            if each != _UNIX:
                try:
                    self._networks.append(ipaddress.ip_network(each))
                except ValueError as error:
                    raise ConfigurationError(
                        f"c.ForwardAuth.trusted_proxies: {shown(each)} is no address or network; "
                        'write one as 127.0.0.1, 198.51.100.0/24 or "unix"'
                    ) from error
        self._secret = b""
        if secret_file:
            try:
                self._secret = Path(secret_file).read_bytes().strip()
            except OSError as error:
                raise ConfigurationError(
                    f"c.ForwardAuth.proxy_secret_file, {secret_file}: {error.strerror}"
                ) from error
            if not self._secret:
                raise ConfigurationError(
                    f"c.ForwardAuth.proxy_secret_file, {secret_file}: it is empty"
                )

    def covers(self, peer: str, headers: Headers) -> bool:
        """Whether a request is of a proxy that is trusted.

        Args:
            peer: The address it came from, as tornado says it.
            headers: What it brought.
        """
        if self._secret:
            said = headers.get(SECRET_HEADER.lower(), ())
            if len(said) != 1 or not hmac.compare_digest(said[0].encode("latin-1"), self._secret):
                return False
        if peer == _UNIX_PEER:
            return self._unix
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that are plain values; ``c.ForwardAuth`` says what they mean."""

    prefix: str
    cookie: str
    cookie_domain: str
    sign_in_origin: Origin | None
    allow_http: bool
    session_seconds: float
    max_session_seconds: float
    log_in_seconds: float
    bearer_audiences: tuple[str, ...]
    pass_groups: tuple[str, ...]
    pass_roles: tuple[str, ...]
    pass_authorization: bool


@dataclass(frozen=True, slots=True)
class Known:
    """Who it is, as far as that is known.

    Attributes:
        person: `None` for nobody.
        by_token: Whether an access token said so, and no cookie.
        problem: Why an access token does not count, for the program that sent it.
        unavailable: Whether it could not be found out, as Keycloak does not answer.
    """

    person: Person | None = None
    by_token: bool = False
    problem: str = ""
    unavailable: bool = False


@dataclass
class Deciding:
    """All there is to decide with."""

    settings: Settings
    policy: Policy
    keys: KeyFile
    sessions: Sessions
    signing_in: SigningIn
    trust: Trust
    log: logging.Logger | logging.LoggerAdapter[Any]
    _asking: dict[str, asyncio.Task[Session | None]] = field(default_factory=dict, init=False)
    _again: dict[str, float] = field(default_factory=dict, init=False)
    _replayed: dict[str, float] = field(default_factory=dict, init=False)

    # ---- who it is ----

    def cookie_names(self, *, secure: bool) -> tuple[str, str]:
        """Return the names of the cookies for the session and for log-ins that have begun."""
        settings = self.settings
        return (
            cookie_name(settings.cookie, secure=secure, domain=settings.cookie_domain),
            cookie_name(f"{settings.cookie}-log-in", secure=secure, domain=""),
        )

    def session_of(self, headers: Headers, *, secure: bool) -> Session | None:
        """Return the session that a cookie names; `None` if there is none or it is not certain."""
        if not secure and not self.settings.allow_http:
            return None
        values = set(cookies_of(headers, self.cookie_names(secure=secure)[0]))
        if len(values) != 1:  # of two, one was planted by another host
            return None
        now = time.time()
        limit = self.settings.max_session_seconds
        found = self.keys.sealer.open("cookie", values.pop(), seconds=limit, now=now)
        if found is None or not found[1]:
            return None
        return self.sessions.get(str(found[0].get("id")), now=now)

    def session_cookie(self, session: Session | None, origin: Origin) -> str:
        """Return the header that gives the browser a session, or takes the one it has away."""
        settings = self.settings
        value, seconds = "", 0
        if session is not None:
            seconds = int(settings.max_session_seconds)
            value = self.keys.sealer.seal("cookie", {"id": session.id}, now=time.time())
        name = self.cookie_names(secure=origin.secure)[0]
        return set_cookie(
            name, value, secure=origin.secure, domain=settings.cookie_domain, seconds=seconds
        )

    async def who(self, headers: Headers, *, secure: bool) -> Known:
        """Say who a request is of: by an access token, where those count, or else by cookie."""
        known = await self._by_token(headers) if self.settings.bearer_audiences else Known()
        if known.person is not None:
            return known
        session = self.session_of(headers, secure=secure)
        if session is not None:
            session = await self.fresh(session)
        return known if session is None else Known(session.person)

    async def _by_token(self, headers: Headers) -> Known:
        token = bearer_token(headers)
        if token is None:
            return Known()
        try:
            bearer = await self.signing_in.bearer(token, self.settings.bearer_audiences)
        except TokenError as error:
            return Known(problem=str(error))
        except (KeycloakError, ConfigurationError) as error:
            self.log.warning("An access token could not be checked: %s", error)
            return Known(unavailable=True)
        if self.sessions.ended(sid=bearer.sid, sub=bearer.person.sub, issued=bearer.issued):
            return Known(problem="the person has signed out")
        return Known(bearer.person, by_token=True)

    # ---- whether it goes on ----

    async def fresh(self, session: Session) -> Session | None:
        """Return the session as Keycloak sees it now and then; `None` if it is over.

        However many requests wait for it, Keycloak is asked once. While it does not answer, the
        session goes on as it is.
        """
        now = time.time()
        if now - session.checked < self.settings.session_seconds:
            return session
        if self._again.get(session.id, 0.0) > now:
            return session
        task = self._asking.get(session.id)
        if task is None:
            task = asyncio.create_task(self._ask(session))
            self._asking[session.id] = task
            task.add_done_callback(lambda _: self._asking.pop(session.id, None))
        return await asyncio.shield(task)

    async def _ask(self, session: Session) -> Session | None:
        try:
            changes = await self.signing_in.renewed(session)
        except (KeycloakError, TokenError, ConfigurationError) as error:
            level = logging.INFO if isinstance(error, KeycloakUnavailableError) else logging.ERROR
            self.log.log(
                level, "Whether %s is still signed in is not known, and stands: %s",
                shown(session.person.name), error,
            )  # fmt: skip
            now = time.time()
            for other in [each for each, when in self._again.items() if when < now]:
                del self._again[other]
            self._again[session.id] = now + AGAIN_SECONDS
            return self.sessions.get(session.id, now=now)
        if changes is None:
            self.log.info(
                "%s is signed out: Keycloak's session is over", shown(session.person.name)
            )
            self.sessions.remove(session.id)
            return None
        return self.sessions.renew(session, now=time.time(), **changes)

    async def log_out(self, token: str) -> int:
        """End the sessions that a log-out token of Keycloak's names; return how many.

        Raises:
            TokenError: It is not to be trusted, or has come before.
            KeycloakUnavailableError: The key that signed it cannot be had.
        """
        sid, sub, jti = await self.signing_in.logged_out(token)
        now = time.time()
        for other in [each for each, when in self._replayed.items() if when < now]:
            del self._replayed[other]
        if jti in self._replayed:
            raise TokenError("the log-out token has come before (jti)")
        # a log-out token is good for minutes; for that long its identifier is kept
        self._replayed[jti] = now + 3600
        return self.sessions.end(now=now, sid=sid, sub=sub)

    # ---- where people may be sent ----

    def page_origin(self, asked: Origin) -> Origin:
        """Return where the pages to sign in are for somebody who is at `asked`."""
        return self.settings.sign_in_origin or asked

    def safe_return(self, url: str, here: Origin) -> str:
        """Return `url` if people may be sent there after a log-in, else the start of this host.

        They may be sent to hosts that have a route, by the scheme and port by which they came.
        """
        fallback = f"{here}/"
        if not 0 < len(url) <= LONGEST_RETURN or not url.isascii() or not url.isprintable():
            return fallback
        if any(each in url for each in '\\ "<>'):
            return fallback
        parts = urlsplit(url)
        try:
            origin = Origin(*origin_of(parts.scheme, parts.netloc))
        except AmbiguousError:
            return fallback
        fits = origin.scheme == here.scheme and origin.effective_port == here.effective_port
        if not fits or not (self.policy.knows(origin.host) or origin == here):
            return fallback
        # put together anew: what a browser reads is what was checked
        rest = parts.path or "/"
        return f"{origin}{rest}" + (f"?{parts.query}" if parts.query else "")
