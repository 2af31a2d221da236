"""The one door to the hub: whose a token is, and who a person is."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import aiohttp

from qhub_gateway.bodies import BodyTooLargeError, whole
from qhub_gateway.errors import HubUnavailableError, PersonUnclearError, TokenRefusedError
from qhub_gateway.requests import Here
from qhub_spawner.identity import NOBODY, Identity, IdentityError, identity_of

__all__ = ["HubDoor", "HubPerson", "TokenModel"]

_LARGEST_ANSWER_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class TokenModel:
    """What the hub says of a token.

    Attributes:
        name: Whose it is.
        kind: ``user`` or ``service``.
        groups: Names of the groups, as far as the token may read them.
        scopes: What it may be used for, expanded.
    """

    name: str
    kind: str
    groups: frozenset[str]
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class HubPerson:
    """Who somebody is.

    Attributes:
        name: The hub's user name.
        groups: Names of their hub groups.
        admin: Whether they administer the hub.
        identity: Their numbers, home and shared folders, if the authenticator gives them.
        servers: What was chosen for each of their servers, by its name.
    """

    name: str
    groups: frozenset[str] = frozenset()
    admin: bool = False
    identity: Identity | None = None
    servers: Mapping[str, Here] = field(default_factory=dict)


class HubDoor:
    """Asks the hub's REST API (JupyterHub 6), each question within a deadline, and never twice.

    Args:
        api_url: The hub's API, e.g. ``http://127.0.0.1:8081/hub/api``.
        token: The gateway's own; it needs the scopes ``custom:qhub:identity`` and, for `busy`,
            ``custom:qhub:busy``.
        tls: For a hub with internal TLS.
        timeout_seconds: How long an answer may take.
    """

    def __init__(
        self,
        api_url: str,
        token: Callable[[], str],
        *,
        tls: ssl.SSLContext | None = None,
        timeout_seconds: float = 10.0,
    ) -> None:
        """Take the settings; nothing is opened before the first question."""
        self._api_url = api_url.rstrip("/")
        self._token = token
        self._tls = tls
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def token_model(self, token: str) -> TokenModel:
        """Return whose a token is.

        Raises:
            TokenRefusedError: The hub does not know it, or no longer.
            HubUnavailableError: There is no usable answer.
        """
        status, data = await self._get("/user", token)
        if status in {401, 403, 404}:
            raise TokenRefusedError("the hub does not know this token")
        if status != 200 or not isinstance(data, dict):  # noqa: PLR2004 - HTTP
            raise HubUnavailableError(f"the hub answered {status} to the question whose a token is")
        name, kind = data.get("name"), data.get("kind")
        if not isinstance(name, str) or not isinstance(kind, str):
            raise HubUnavailableError("the hub's answer to whose a token is names nobody")
        groups, scopes = _names(data.get("groups")), _names(data.get("scopes"))
        return TokenModel(name, kind, groups, scopes)

    async def person(self, name: str) -> HubPerson | None:
        """Return who somebody is; ``None`` if the hub says that there is nobody of that name.

        Raises:
            PersonUnclearError: The answer about this person is of no use: nothing may be concluded.
            HubUnavailableError: There is no answer: nothing may be concluded about anybody.
        """
        status, data = await self._get(
            f"/users/{quote(name, safe='')}/qhub/identity", self._token()
        )
        if _is_nobody(status, data):
            return None
        if status in {403, 404}:
            raise PersonUnclearError(
                f"the hub answered {status} to who {name!r} is: it needs qhub-spawner, and the "
                "gateway's token the scope custom:qhub:identity"
            )
        if status != 200 or not isinstance(data, dict) or data.get("name") != name:  # noqa: PLR2004 - HTTP
            raise PersonUnclearError(f"the hub answered {status} to who {name!r} is")
        try:
            identity = identity_of({"qhub": data["identity"]} if data.get("identity") else None)
        except IdentityError as error:
            raise PersonUnclearError(f"the identity of {name!r} is not usable: {error}") from error
        return HubPerson(
            name,
            _names(data.get("groups")),
            data.get("admin") is True,
            identity,
            _servers(data.get("servers")),
        )

    async def busy(self, name: str, server: str | None, what: str) -> None:
        """Tell the hub what somebody's server is busy with; it is then not idle.

        That there is nobody of that name is no error: there is no server either.

        Args:
            name: The person.
            server: The server's name; ``None`` for all of theirs.
            what: A phrase.

        Raises:
            PersonUnclearError: The hub does not take it, of this person.
            HubUnavailableError: It takes nothing.
        """
        path = f"/users/{quote(name, safe='')}/qhub/busy"
        said = {"what": what, "server": server}
        status, data = await self._ask("POST", path, self._token(), said)
        if _is_nobody(status, data):
            return
        if status in {403, 404}:
            raise HubUnavailableError(
                f"the hub answered {status} to what a server of {name!r} is busy with: it needs "
                "qhub-spawner, and the gateway's token the scope custom:qhub:busy"
            )
        if status != 204:  # noqa: PLR2004 - HTTP
            raise PersonUnclearError(
                f"the hub answered {status} to what a server of {name!r} is busy with"
            )

    async def _get(self, path: str, token: str) -> tuple[int, Any]:
        return await self._ask("GET", path, token)

    async def _ask(
        self, method: str, path: str, token: str, said: object = None
    ) -> tuple[int, Any]:
        if self._session is None:
            # the hub is asked as whoever has the token, never as a cookie says
            self._session = aiohttp.ClientSession(
                timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar()
            )
        headers = {"Authorization": f"token {token}", "Accept": "application/json"}
        try:
            async with self._session.request(
                method,
                self._api_url + path,
                json=said,
                headers=headers,
                ssl=self._tls if self._tls is not None else True,
                allow_redirects=False,
            ) as response:
                body = await whole(response.content.iter_any(), _LARGEST_ANSWER_BYTES)
                return response.status, _json(body)
        except BodyTooLargeError as error:
            most = _LARGEST_ANSWER_BYTES // 2**20
            raise PersonUnclearError(f"the hub's answer is larger than {most} MiB") from error
        except (aiohttp.ClientError, OSError) as error:
            # the error's own text may hold the address, and never the headers
            raise HubUnavailableError(
                f"the hub does not answer ({type(error).__name__})"
            ) from error


def _is_nobody(status: int, data: object) -> bool:
    """Whether the hub says that there is nobody of that name, and not that it has no such route."""
    return status == 404 and isinstance(data, dict) and data.get("message") == NOBODY  # noqa: PLR2004 - HTTP


def _json(body: bytes) -> Any:  # noqa: ANN401 - whatever the hub says
    try:
        return json.loads(body)
    except ValueError:
        return None


def _names(value: object) -> frozenset[str]:
    if not isinstance(value, list):
        return frozenset()
    return frozenset(each for each in value if isinstance(each, str))


def _servers(value: object) -> dict[str, Here]:
    if not isinstance(value, dict):
        return {}
    found = {}
    for name, chosen in value.items():
        profile = chosen.get("profile") if isinstance(chosen, dict) else None
        options = chosen.get("options") if isinstance(chosen, dict) else None
        if isinstance(profile, str):
            texts = options.items() if isinstance(options, dict) else ()
            chosen_options = {k: v for k, v in texts if isinstance(v, str)}
            backend = chosen.get("backend")
            found[name] = Here(profile, chosen_options, backend if isinstance(backend, str) else "")
    return found
