"""Whose a request is: JupyterHub tokens of people and servers, Keycloak's of services.

Nothing is open, and nothing is remembered for long: what the hub says of a token counts for
``HubAuthenticator.cache_seconds``, so a token that is revoked stops within them.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import jwt
from aiohttp import web
from dask_gateway_server.auth import JupyterHubAuthenticator, unauthorized
from dask_gateway_server.models import User
from traitlets import Dict, Float, Unicode

from qhub_gateway.bearer import BearerRules, BearerTokens
from qhub_gateway.errors import HubUnavailableError, TokenRefusedError
from qhub_gateway.hub import HubDoor
from qhub_gateway.requests import Here, Owner
from qhub_gateway.rights import (
    Action,
    Asker,
    Rights,
    Roles,
    admitted,
    may,
    rights_of,
    server_of,
)
from qhub_spawner.identity import Identity

__all__ = ["GatewayUser", "HubAuthenticator"]

_MOST_REMEMBERED = 10_000
_LONGEST_TOKEN = 16 * 1024
_KEYS_SECONDS = 5.0
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class GatewayUser(User):  # type: ignore[misc]  # dask-gateway has no types
    """Somebody who asks, with what they may do.

    Attributes:
        rights: What they may do.
        identity: Their numbers, home and groups on every target.
        here: What was chosen for the server they ask from; ``None`` if it is none of theirs.
        server: That server's name.
        action: What this request does to a cluster.
    """

    name: str
    groups: set[str]
    admin: bool

    def __init__(
        self,
        name: str,
        *,
        groups: frozenset[str] = frozenset(),
        admin: bool = False,
        rights: Rights | None = None,
        identity: Identity | None = None,
        here: Here | None = None,
        server: str | None = None,
        action: Action = Action.USE,
    ) -> None:
        """See the class."""
        super().__init__(name, groups=groups, admin=admin)
        self.rights = rights or Rights()
        self.identity = identity
        self.here = here
        self.server = server
        self.action = action

    @property
    def owner(self) -> Owner:
        """This person as the owner of a new cluster."""
        groups = tuple(sorted(self.groups))
        return Owner(name=self.name, groups=groups, identity=self.identity, server=self.server)

    def has_permissions(self, cluster: Any) -> bool:  # noqa: ANN401 - a cluster of dask-gateway
        """Whether this request may do to a cluster what it is for."""
        return may(self.action, asker=self.name, owner=cluster.username, rights=self.rights)

    def doing(self, action: Action) -> GatewayUser:
        """Return the same person, doing this."""
        return GatewayUser(
            self.name,
            groups=frozenset(self.groups),
            admin=self.admin,
            rights=self.rights,
            identity=self.identity,
            here=self.here,
            server=self.server,
            action=action,
        )


@dataclass(slots=True)
class _Known:
    """What was found out about a token, and when (`time.monotonic`)."""

    user: GatewayUser
    at: float


class HubAuthenticator(JupyterHubAuthenticator):  # type: ignore[misc]
    """Asks the hub whose a token is, and who that person is."""

    cache_seconds = Float(
        5.0,
        min=0.0,
        max=60.0,
        config=True,
        help="""
        How long what the hub says of a token counts, in seconds: as long may a token that was
        revoked go on. Default: 5, which spares the hub most questions of a busy notebook.
        """,
    )
    stale_seconds = Float(
        60.0,
        min=0.0,
        max=3600.0,
        config=True,
        help="""
        How long it counts while the hub does not answer, in seconds. Default: 60, so that a
        restart of the hub is not noticed.
        """,
    )
    roles = Dict(
        config=True,
        help="""
        Who may make clusters, and see or stop those of everyone: ``create``, ``see`` and ``stop``,
        each with ``everyone``, ``admins``, ``users``, ``groups``, ``roles``. Default: everyone who
        may use the gateway makes clusters; the hub's administrators see and stop all.

        Example: ``{"create": {"groups": ["/physics"]}, "stop": {"groups": ["/operators"]}}``
        """,
    )
    keycloak_issuer = Unicode(
        config=True,
        help="""
        The issuer whose tokens services may use, as it stands in them. Default: empty, no such
        token is accepted.

        Example: ``https://auth.example.org/realms/lab``
        """,
    )
    keycloak_audience = Unicode(
        "qhub-gateway",
        config=True,
        help="What has to be in the audience of a service's token. Default: ``qhub-gateway``.",
    )
    keycloak_keys_url = Unicode(
        config=True,
        help="""
        Where the issuer publishes its keys. Default: empty, where Keycloak does
        (``ISSUER/protocol/openid-connect/certs``).
        """,
    )
    keycloak_services = Dict(
        value_trait=Unicode(),
        key_trait=Unicode(),
        config=True,
        help="""
        The hub user as whom a service acts, by its client in Keycloak. A client that is not
        listed is not let in. Default: empty.

        Example: ``{"nightly-reports": "reports"}``
        """,
    )

    hub: HubDoor
    bearer: BearerTokens | None = None

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - traitlets
        """Read the configuration; a mistake in it stops the gateway."""
        super().__init__(**kwargs)
        self._roles = Roles.model_validate(self.roles)
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._asking: dict[bytes, asyncio.Future[GatewayUser]] = {}

    async def setup(self, app: web.Application) -> None:
        """Open the doors."""
        await super().setup(app)
        self.hub = HubDoor(
            self.jupyterhub_api_url, lambda: str(self.jupyterhub_api_token), tls=self.ssl_context
        )
        if self.keycloak_issuer:
            issuer = self.keycloak_issuer
            url = self.keycloak_keys_url or f"{issuer}/protocol/openid-connect/certs"
            rules = BearerRules(issuer, self.keycloak_audience, dict(self.keycloak_services))
            keys = jwt.PyJWKClient(url, timeout=10)
            # how soon after its last look it looks for a key that is new (30 s by default)
            keys.cooldown_duration = _KEYS_SECONDS
            self.bearer = BearerTokens(rules, keys)

    async def cleanup(self) -> None:
        """Close the doors."""
        if hasattr(self, "hub"):
            await self.hub.close()
        await super().cleanup()

    async def authenticate_and_handle(
        self, request: web.Request, handler: _Handler
    ) -> web.StreamResponse:
        """Find out whose the request is each time; no cookie ever stands for a token."""
        user = await self.authenticate(request)
        request["user"] = user.doing(_action(request))
        return await handler(request)

    async def authenticate(self, request: web.Request) -> GatewayUser:
        """Return whose the request is.

        Raises:
            web.HTTPUnauthorized: It has no token that is accepted.
            web.HTTPServiceUnavailable: Nobody can say now whose it is.
        """
        kind, token = _token(request)
        key = hashlib.sha256(f"{kind} {token}".encode()).digest()
        known = self._known.get(key)
        if known is not None and time.monotonic() - known.at < self.cache_seconds:
            return known.user
        try:
            user = await self._once(key, kind, token)
        except TokenRefusedError as error:
            self._known.pop(key, None)
            self.log.info("a token is not accepted: %s", error)
            raise unauthorized("jupyterhub") from error
        except HubUnavailableError as error:
            if known is not None and time.monotonic() - known.at < self.stale_seconds:
                self.log.warning("%s; %s goes on for now", error, known.user.name)
                return known.user
            self.log.error("nobody can be let in: %s", error)  # noqa: TRY400 - it says all
            raise web.HTTPServiceUnavailable(
                reason="It cannot be found out now who you are; try again in a moment."
            ) from error
        return user

    async def _once(self, key: bytes, kind: str, token: str) -> GatewayUser:
        """Ask once for however many requests that come at the same time with one token."""
        asking = self._asking.get(key)
        if asking is None:
            asking = asyncio.ensure_future(self._ask(kind, token))
            self._asking[key] = asking
            asking.add_done_callback(lambda done: self._answered(key, done))
        return await asyncio.shield(asking)

    def _answered(self, key: bytes, asking: asyncio.Future[GatewayUser]) -> None:
        self._asking.pop(key, None)
        if asking.cancelled() or asking.exception() is not None:
            return
        self._known[key] = _Known(asking.result(), time.monotonic())
        self._known.move_to_end(key)
        while len(self._known) > _MOST_REMEMBERED:
            self._known.popitem(last=False)

    async def _ask(self, kind: str, token: str) -> GatewayUser:
        if kind == "bearer":
            if self.bearer is None:
                raise TokenRefusedError("no issuer of such tokens is configured")
            return await self._user(await self.bearer.user_of(token), frozenset(), None)
        model = await self.hub.token_model(token)
        if model.kind != "user":
            raise TokenRefusedError(
                "it is a service's; services use tokens of Keycloak, or a user's"
            )
        server = server_of(model.name, model.scopes)
        if not admitted(model.scopes, self.jupyterhub_service_name, server=server is not None):
            raise TokenRefusedError(
                f"it lacks access:services!service={self.jupyterhub_service_name}"
            )
        return await self._user(model.name, model.scopes, server)

    async def _user(self, name: str, scopes: frozenset[str], server: str | None) -> GatewayUser:
        person = await self.hub.person(name)
        if person is None:
            raise TokenRefusedError("the hub knows nobody of its name")
        roles = frozenset(person.identity.roles) if person.identity is not None else frozenset()
        asker = Asker(name, person.groups, roles, person.admin, scopes, server is not None)
        return GatewayUser(
            name,
            groups=person.groups,
            admin=person.admin,
            rights=rights_of(asker, self._roles),
            identity=person.identity,
            here=person.servers.get(server) if server is not None else None,
            server=server,
        )


def _token(request: web.Request) -> tuple[str, str]:
    """Return the kind of token and the token.

    Raises:
        web.HTTPUnauthorized: There is none that makes sense.
    """
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    kind, token = kind.lower(), token.strip(" ")
    if kind not in {"jupyterhub", "token", "bearer"} or not 0 < len(token) <= _LONGEST_TOKEN:
        raise unauthorized("jupyterhub")
    if any(not "!" <= character <= "~" for character in token):
        raise unauthorized("jupyterhub")
    # the hub's own tokens may come as bearer tokens as well, and have no dots
    return ("bearer" if kind == "bearer" and "." in token else "jupyterhub"), token


def _action(request: web.Request) -> Action:
    """Return what a request does to a cluster, by dask-gateway's routes."""
    return Action.STOP if request.method == "DELETE" else Action.USE
