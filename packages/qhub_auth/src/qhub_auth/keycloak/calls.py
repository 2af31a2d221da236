"""Calls to Keycloak's admin API: the service account's token, and whole, checked answers.

Nothing here knows what is asked for; that is :mod:`qhub_auth.keycloak.admin`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import httpx

from qhub_auth.errors import KeycloakRefusedError, KeycloakUnavailableError, shown
from qhub_auth.keycloak import representations as read
from qhub_auth.keycloak.settings import Keycloak

__all__ = ["KeycloakCalls"]

# At once, so that one service never keeps Keycloak from answering people.
_AT_ONCE = 8
# Long lists take Keycloak longer than what people wait for.
_LIST_SECONDS = 60.0
# A token is given back this long before it ends.
_TOKEN_MARGIN_SECONDS = 10.0
# Nobody's fault but the server's, or it is too busy: to be asked again later.
_LATER = frozenset({408, 429, *range(500, 600)})


class KeycloakCalls:
    """Calls as the service account.

    Args:
        settings: Where Keycloak is, and who we are.
        http: Connections to use instead of those of `settings`.

    Attributes:
        calls: Requests made so far, those for tokens included.
    """

    def __init__(self, settings: Keycloak, http: httpx.AsyncClient | None = None) -> None:
        self.settings = settings
        self.calls = 0
        self._http = http
        self._token, self._token_ends = "", 0.0
        self._ahead_seconds: float | None = None
        self._token_lock = asyncio.Lock()
        self._free = asyncio.Semaphore(_AT_ONCE)

    @property
    def now_ms(self) -> int | None:
        """Keycloak's clock, in milliseconds since 1970, to the second; `None` if not known yet."""
        if self._ahead_seconds is None:
            return None
        return int((time.time() + self._ahead_seconds) * 1000)

    async def _send(self, method: str, url: str, **options: Any) -> httpx.Response:  # noqa: ANN401 - as httpx takes them
        self.calls += 1
        http = self._http or self.settings.http()
        try:
            async with self._free:
                answer = await http.request(method, url, **options)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise KeycloakUnavailableError(
                f"Keycloak at {self.settings.realm_url} does not answer: {type(error).__name__}"
            ) from error
        if answer.status_code in _LATER:
            raise KeycloakUnavailableError(
                f"Keycloak at {self.settings.realm_url} answers {answer.status_code} "
                f"{shown(answer.reason_phrase)} on {method} {answer.url.path}"
            )
        return answer

    async def _new_token(self, worn: str) -> str:
        """Return a token other than `worn`; of many callers one asks for it."""
        async with self._token_lock:
            if self._token and self._token != worn and time.monotonic() < self._token_ends:
                return self._token
            client_id, secret = self.settings.service_credentials()
            asked = time.monotonic()
            answer = await self._send(
                "POST",
                f"{self.settings.realm_url}/protocol/openid-connect/token",
                data={
                    "grant_type": "client_credentials",
                    "client_id": client_id,
                    "client_secret": secret,
                },
            )
            data = _json(answer)
            if answer.status_code != httpx.codes.OK or not isinstance(data, dict):
                code = data.get("error") if isinstance(data, dict) else None
                raise KeycloakRefusedError(
                    f"Keycloak gives the service account of client {shown(client_id)} no token: "
                    f"{answer.status_code} {shown(code)}. The client needs 'Service accounts "
                    "roles' switched on, and the right secret here",
                    status=answer.status_code,
                    code=code if isinstance(code, str) else "",
                )
            token, lasts = data.get("access_token"), data.get("expires_in")
            if not isinstance(token, str) or not token or not isinstance(lasts, int | float):
                raise KeycloakUnavailableError("Keycloak's answer has no usable access_token")
            self._token = token
            issued = _issued(token)
            self._ahead_seconds = None if issued is None else issued - time.time()
            self._token_ends = asked + max(lasts / 2, lasts - _TOKEN_MARGIN_SECONDS)
            return token

    async def authorized(self, method: str, path: str, **options: Any) -> httpx.Response:  # noqa: ANN401 - as httpx takes them
        """Call the admin API as the service account, with a new token if Keycloak wants one.

        Args:
            method: Of HTTP.
            path: Below the realm's address in the admin API.
            options: For httpx.

        Raises:
            KeycloakRefusedError: Keycloak said no.
            KeycloakUnavailableError: There was no usable answer.
        """
        url = f"{self.settings.admin_url}{path}"
        token = self._token if time.monotonic() < self._token_ends else await self._new_token("")
        answer = await self._send(method, url, headers=_bearer(token), **options)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            token = await self._new_token(token)
            answer = await self._send(method, url, headers=_bearer(token), **options)
        if answer.is_success:
            return answer
        data = _json(answer, strict=False)
        said = data.get("error") or data.get("errorMessage") if isinstance(data, dict) else None
        remedy = (
            "; its service account lacks a role of realm-management for it"
            if answer.status_code == httpx.codes.FORBIDDEN
            else ""
        )
        raise KeycloakRefusedError(
            f"Keycloak answers {answer.status_code} ({shown(said)}) on "
            f"{method} {shown(answer.url.path, 128)}{remedy}",
            status=answer.status_code,
            code=said if isinstance(said, str) else "",
        )

    async def get(self, path: str, **params: object) -> Any:  # noqa: ANN401 - JSON of any shape
        """Return the JSON of a resource of the realm.

        Args:
            path: Below the realm's address in the admin API, e.g. ``/groups/count``.
            params: Of the query; `None` is left out, true and false are written as JSON does.

        Raises:
            KeycloakRefusedError: Keycloak said no, e.g. 404.
            KeycloakUnavailableError: There was no usable answer.
        """
        query = {
            name: ("true" if value else "false") if isinstance(value, bool) else value
            for name, value in params.items()
            if value is not None
        }
        seconds = max(_LIST_SECONDS, self.settings.timeout_seconds)
        timeout = httpx.Timeout(seconds, connect=self.settings.timeout_seconds)
        return _json(await self.authorized("GET", path, params=query, timeout=timeout))

    async def pages(self, path: str, size: int, **params: object) -> AsyncIterator[Sequence[Any]]:
        """Yield the pages of a list until there is nothing more.

        Where people come from LDAP, a page may be shorter than asked for though more follow: those
        that LDAP no longer has were left out of it. So only a page that is less than half full is
        taken for the last one.
        """
        first = 0
        while True:
            page = read.objects(
                await self.get(path, first=first, max=size, **params), "parts of a list"
            )
            if page:
                yield page
            if len(page) < size / 2:
                return
            first += size


def _issued(token: str) -> float | None:
    """Return when a token was issued, in seconds since 1970, by the clock of who issued it.

    It is not verified: nothing is allowed because of it, and it came from Keycloak itself.
    """
    with suppress(IndexError, KeyError, ValueError, TypeError):
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["iat"])
    return None


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _json(answer: httpx.Response, *, strict: bool = True) -> Any:  # noqa: ANN401 - JSON of any shape
    with suppress(ValueError):
        return answer.json()
    if strict:
        kind = answer.headers.get("content-type", "")
        raise KeycloakUnavailableError(
            f"Keycloak's answer on {shown(answer.url.path, 128)} is not JSON but {shown(kind)}, "
            f"{len(answer.content)} bytes"
        )
    return None
