"""The one door to Keycloak as an OpenID provider: where its pages are, its keys, its tokens.

Discovery is OpenID Connect Discovery 1.0; everything it gives is kept, so that a log-in is one
call. While Keycloak does not answer, that is remembered for some seconds: nobody waits in vain a
second time. Nothing is tried again here, since codes and refresh tokens are good only once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from qhub_auth.errors import (
    ConfigurationError,
    KeycloakError,
    KeycloakRefusedError,
    KeycloakUnavailableError,
    TokenError,
    shown,
)
from qhub_auth.keycloak.settings import Keycloak
from qhub_auth.keycloak.tokens import Expected, Key, key_id, keys_of

__all__ = ["Endpoints", "OpenIDProvider"]

# How long what discovery gave is taken for true while Keycloak answers; and the keys, so that one
# that was withdrawn is not trusted for ever.
_DISCOVERY_SECONDS, _KEYS_SECONDS = 12 * 3600.0, 3600.0
# An unknown key makes us ask for the keys at most this often: anybody can send one.
_NEW_KEYS_SECONDS = 5.0
# For how long an answer, or that none came, stands for "Keycloak is up" or "is down".
_PULSE_SECONDS = 5.0
_LONGEST_ANSWER = 1024 * 1024
_REFUSALS = frozenset({400, 401, 403})


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where things are, as discovery said.

    Attributes:
        authorization: Where browsers go to log in.
        token: Where codes and refresh tokens become tokens, as reached from here.
        keys: Where the keys are, as reached from here.
        end_session: Where browsers go to log out; empty if there is no such place.
        names_issuer: Whether the answer to a log-in names its issuer (RFC 9207).
    """

    authorization: str
    token: str
    keys: str
    end_session: str
    names_issuer: bool


class OpenIDProvider:
    """Keycloak as the provider of log-ins.

    Args:
        settings: Where it is, and who we are.
        log: Of the hub.

    Attributes:
        calls: Requests made so far.
        basic_auth: Whether client and secret go into a header instead of the form.
        extra: More parameters for getting tokens.
    """

    def __init__(
        self, settings: Keycloak, log: logging.Logger | logging.LoggerAdapter[Any]
    ) -> None:
        self.settings = settings
        self.log = log
        self.calls = 0
        self.basic_auth = False
        self.extra: Mapping[str, str] = {}
        self._endpoints: Endpoints | None = None
        self._endpoints_at = 0.0
        self._keys: dict[str, Key] = {}
        self._keys_at = float("-inf")
        self._keys_asked = float("-inf")
        self._heard = float("-inf")
        self._down_until = float("-inf")
        self._waited = 0.0
        self._lock = asyncio.Lock()
        self._keys_lock = asyncio.Lock()

    # ---- whether it answers ----

    @property
    def known_down(self) -> bool:
        """Whether it did not answer just now, at least not soon."""
        return time.monotonic() < self._down_until

    def _is_down(self, why: str, *, waited: float = math.inf) -> KeycloakUnavailableError:
        """Note that no answer came, to whoever waits as long as that (seconds) or less.

        A page that looks in passing waits 1.5 s; who logs in has more patience with a Keycloak that
        has just started.
        """
        longest = max(waited, self._waited) if self.known_down else waited
        self._down_until, self._waited = time.monotonic() + _PULSE_SECONDS, longest
        return KeycloakUnavailableError(f"Keycloak at {self.settings.realm_url}: {why}")

    async def _call(
        self,
        method: str,
        url: str,
        *,
        seconds: float | None = None,
        **options: Any,  # noqa: ANN401 - as httpx takes them
    ) -> httpx.Response:
        """Make one call, and see that an answer came that is Keycloak's own.

        Raises:
            KeycloakUnavailableError: None came, in the time there was.
        """
        limit = seconds or self.settings.timeout_seconds
        if self.known_down and limit <= self._waited:
            raise KeycloakUnavailableError(
                f"Keycloak at {self.settings.realm_url} did not answer some seconds ago"
            )
        self.calls += 1
        try:
            async with asyncio.timeout(limit):
                answer = await self.settings.http().request(method, url, timeout=limit, **options)
        except TimeoutError as error:
            raise self._is_down(f"no answer within {limit:g} s", waited=limit) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._is_down(type(error).__name__) from error
        if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR or answer.status_code in {
            httpx.codes.REQUEST_TIMEOUT,
            httpx.codes.TOO_MANY_REQUESTS,
        }:
            raise self._is_down(f"it answered {answer.status_code}")
        self._down_until = float("-inf")
        return answer

    def _document(self, answer: httpx.Response) -> dict[str, Any]:
        """Return the JSON object of an answer that had to have one."""
        if answer.status_code == httpx.codes.OK and len(answer.content) <= _LONGEST_ANSWER:
            with suppress(ValueError, RecursionError):
                document = answer.json()
                if isinstance(document, dict):
                    self._heard = time.monotonic()
                    return document
        raise self._is_down(
            f"it answered {answer.status_code} on {shown(answer.url.path, 128)}, "
            "and not with a JSON object"
        )

    # ---- discovery ----

    async def endpoints(self) -> Endpoints:
        """Return where things are; asked for once, then kept.

        Raises:
            KeycloakUnavailableError: Nobody ever said, and nobody answers now.
            ConfigurationError: The realm's address is not that of the issuer.
        """
        fresh = time.monotonic() - self._endpoints_at < _DISCOVERY_SECONDS
        if self._endpoints is not None and fresh:
            return self._endpoints
        async with self._lock:
            if self._endpoints is not None and (
                time.monotonic() - self._endpoints_at < _DISCOVERY_SECONDS
            ):
                return self._endpoints
            try:
                return await self._discover()
            except KeycloakUnavailableError:
                if self._endpoints is None:
                    raise
                return self._endpoints

    async def _discover(self, seconds: float | None = None) -> Endpoints:
        url = f"{self.settings.realm_url}/.well-known/openid-configuration"
        document = self._document(await self._call("GET", url, seconds=seconds))
        if document.get("issuer") != self.settings.issuer:
            raise ConfigurationError(
                f"c.Keycloak.issuer is {self.settings.issuer}, but Keycloak calls itself "
                f"{shown(document.get('issuer'), 256)}: write it just so, or mend Keycloak's "
                "option hostname"
            )

        def where(name: str, *, needed: bool = True) -> str:
            value = document.get(name)
            if isinstance(value, str) and value.startswith(("https://", "http://")):
                return value
            if needed:
                raise self._is_down(f"its discovery document names no {name}")
            return ""

        self._endpoints = Endpoints(
            authorization=where("authorization_endpoint"),
            token=self.settings.inside(where("token_endpoint")),
            keys=self.settings.inside(where("jwks_uri")),
            end_session=where("end_session_endpoint", needed=False),
            names_issuer=document.get("authorization_response_iss_parameter_supported") is True,
        )
        self._endpoints_at = time.monotonic()
        return self._endpoints

    async def look(self, seconds: float) -> Endpoints:
        """See that Keycloak answers before somebody is sent there; return where things are.

        It costs a small call if nothing was heard for some seconds, however many ask at once.

        Args:
            seconds: How long to wait at most.

        Raises:
            KeycloakUnavailableError: It does not answer.
            ConfigurationError: See :meth:`endpoints`.
        """
        async with self._lock:
            if self._endpoints is not None and time.monotonic() - self._heard < _PULSE_SECONDS:
                return self._endpoints
            return await self._discover(seconds)

    # ---- keys ----

    async def key_for(self, token: object, *, anybody: bool = False) -> Key:
        """Return the key that is said to have signed `token`.

        A key that is not known makes Keycloak's keys be read anew: it may be a new one.

        Args:
            token: As it came.
            anybody: Whether anybody may have sent it, and not Keycloak when we asked it; the keys
                are then read anew once in some seconds at most.

        Raises:
            TokenError: It is not a token to accept, or no key of Keycloak's signed it.
            KeycloakUnavailableError: The keys are needed and cannot be had.
        """
        identifier = key_id(token)
        key = self._fresh_key(identifier)
        if key is not None:
            return key
        endpoints = await self.endpoints()
        async with self._keys_lock:
            key = self._fresh_key(identifier)
            if key is not None:
                return key
            known = self._keys.get(identifier)
            now = time.monotonic()
            if not anybody or now - self._keys_asked >= _NEW_KEYS_SECONDS:
                self._keys_asked = now
                try:
                    self._keys = await self._read_keys(endpoints.keys)
                except KeycloakUnavailableError:
                    self._keys_asked = float("-inf")  # no answer is no reason not to ask again
                    if known is None:
                        raise
            key = self._keys.get(identifier)
            if key is None:
                raise TokenError(f"no key of Keycloak's is called {shown(identifier)}")
            return key

    async def _read_keys(self, url: str) -> dict[str, Key]:
        try:
            keys = keys_of(self._document(await self._call("GET", url)))
        except TokenError as error:
            raise self._is_down(str(error)) from error
        self._keys_at = time.monotonic()
        return keys

    def _fresh_key(self, identifier: str) -> Key | None:
        if time.monotonic() - self._keys_at < _KEYS_SECONDS:
            return self._keys.get(identifier)
        return None

    def expected(self) -> Expected:
        """Return what a token has to be just now."""
        return Expected(
            issuer=self.settings.issuer,
            client_id=self.settings.client_id,
            now=time.time(),
            skew=self.settings.clock_skew_seconds,
        )

    # ---- tokens ----

    async def exchange(self, code: str, *, redirect_uri: str, verifier: str) -> dict[str, Any]:
        """Return the tokens for the code of a log-in.

        Raises:
            KeycloakRefusedError: Keycloak said no, ``invalid_grant`` if the code is not good.
            KeycloakUnavailableError: No usable answer came.
        """
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri}
        if verifier:
            form["code_verifier"] = verifier
        return await self._tokens(form, self.settings.timeout_seconds)

    async def renewed(self, refresh_token: str, *, seconds: float) -> dict[str, Any]:
        """Return new tokens for a refresh token.

        Args:
            refresh_token: From the tokens before.
            seconds: How long to wait at most.

        Raises:
            KeycloakRefusedError: Keycloak said no, ``invalid_grant`` if the session is over.
            KeycloakUnavailableError: No usable answer came.
        """
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        return await self._tokens(form, seconds)

    async def end_session(self, refresh_token: str, *, seconds: float) -> None:
        """End the session of a refresh token, without a browser.

        Raises:
            KeycloakError: It was not ended, or nobody knows.
        """
        endpoints = await self.endpoints()
        url = self.settings.inside(endpoints.end_session)
        answer = await self._post(url, {"refresh_token": refresh_token}, seconds)
        if not answer.is_success:
            self._refuse(answer)

    async def _post(self, url: str, form: dict[str, str], seconds: float) -> httpx.Response:
        client_id, secret = self.settings.client_id, self.settings.secret()
        data = {**self.extra, **form}
        if self.basic_auth:  # RFC 6749, 2.3.1: each part is encoded first
            auth = httpx.BasicAuth(quote(client_id, safe=""), quote(secret, safe=""))
            return await self._call("POST", url, seconds=seconds, data=data, auth=auth)
        data |= {"client_id": client_id, "client_secret": secret}
        return await self._call("POST", url, seconds=seconds, data=data)

    async def _tokens(self, form: dict[str, str], seconds: float) -> dict[str, Any]:
        endpoints = await self.endpoints()
        answer = await self._post(endpoints.token, form, seconds)
        if answer.status_code in _REFUSALS:
            self._refuse(answer)
        tokens = self._document(answer)
        if not isinstance(tokens.get("access_token"), str):
            raise KeycloakError("Keycloak's answer has no access token")
        return tokens

    def _refuse(self, answer: httpx.Response) -> None:
        """Raise what Keycloak's refusal says; one that is not its own says nothing."""
        code: object = None
        with suppress(ValueError, RecursionError):
            document = answer.json()
            code = document.get("error") if isinstance(document, dict) else None
        if not isinstance(code, str) or not code:
            raise self._is_down(f"it answered {answer.status_code}, and not as OAuth does")
        self._heard = time.monotonic()
        hint = (
            "; look at c.Keycloak.client_id and its secret"
            if code in {"invalid_client", "unauthorized_client"}
            else ""
        )
        raise KeycloakRefusedError(
            f"Keycloak refuses: {answer.status_code} {shown(code)}{hint}",
            status=answer.status_code,
            code=code,
        )
