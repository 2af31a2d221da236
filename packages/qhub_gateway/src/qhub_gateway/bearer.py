"""Bearer tokens of Keycloak, for services that are no users of the hub."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt

from qhub_gateway.errors import HubUnavailableError, TokenRefusedError

__all__ = ["BearerRules", "BearerTokens"]

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA")
"""Asymmetric ones only: with a shared secret whoever can verify could also forge."""

_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_LONGEST_TOKEN = 16 * 1024


@dataclass(frozen=True)
class BearerRules:
    """Which tokens are accepted.

    Attributes:
        issuer: Exactly as in the token's ``iss``, e.g. ``https://auth.example.org/realms/lab``.
        audience: What has to be in its ``aud``.
        services: The hub user as whom a service acts, by its client in Keycloak; no other client
            is accepted.
        leeway_seconds: How far clocks may differ.
    """

    issuer: str
    audience: str
    services: Mapping[str, str] = field(default_factory=dict)
    leeway_seconds: float = 10.0


class BearerTokens:
    """Verifies tokens with the issuer's published keys (RFC 7519, RFC 9068; Keycloak 26).

    Args:
        rules: Which are accepted.
        keys: Where the keys come from; its network access is run in a thread.
    """

    def __init__(self, rules: BearerRules, keys: jwt.PyJWKClient) -> None:
        """See the class."""
        self._rules = rules
        self._keys = keys

    async def user_of(self, token: str) -> str:
        """Return the hub user as whom the service of a token acts.

        Raises:
            TokenRefusedError: It is not accepted; says why, without the token.
            HubUnavailableError: The keys cannot be had now.
        """
        if len(token) > _LONGEST_TOKEN or _JWT.fullmatch(token) is None:
            raise TokenRefusedError("this is not a signed token")
        self._look_at_claims(token)
        try:
            key = await asyncio.to_thread(self._keys.get_signing_key_from_jwt, token)
        except jwt.PyJWKClientConnectionError as error:
            raise HubUnavailableError("the issuer's keys cannot be had now") from error
        except jwt.PyJWTError as error:
            raise TokenRefusedError("the token is signed with a key that is not known") from error
        claims = self._verified(token, key)
        client = str(claims["azp"])
        if claims.get("preferred_username") != f"service-account-{client.lower()}":
            raise TokenRefusedError("the token is a person's: people use the hub's tokens here")
        return self._rules.services[client]

    def _look_at_claims(self, token: str) -> None:
        """Refuse without a look at any key what could not be accepted however it is signed."""
        try:
            header = jwt.get_unverified_header(token)
            claims = jwt.decode(token, options={"verify_signature": False})
        except jwt.PyJWTError as error:
            raise TokenRefusedError("this is not a signed token") from error
        if header.get("alg") not in ALGORITHMS:
            raise TokenRefusedError("the token is signed in a way that is not accepted")
        if claims.get("iss") != self._rules.issuer:
            raise TokenRefusedError("the token is from another issuer")
        client = claims.get("azp")
        if not isinstance(client, str) or client not in self._rules.services:
            raise TokenRefusedError("the token is of a service that is not listed here")

    def _verified(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                audience=self._rules.audience,
                issuer=self._rules.issuer,
                leeway=self._rules.leeway_seconds,
                options={"require": ["exp", "iat", "iss", "aud", "sub", "azp"]},
            )
        except jwt.ExpiredSignatureError as error:
            raise TokenRefusedError("the token has expired") from error
        except jwt.InvalidAudienceError as error:
            raise TokenRefusedError("the token is for another audience") from error
        except jwt.PyJWTError as error:
            raise TokenRefusedError("the token is not valid") from error
        # of a refresh, log-out or ID token Keycloak says so here
        if claims.get("typ") != "Bearer":
            raise TokenRefusedError("this is not an access token")
        return claims
