"""Signing in through Keycloak, asking it again, and what its tokens say: by the package's one door.

Nothing here is called for a request that is let through on what is known already.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from qhub_auth.errors import KeycloakRefusedError, TokenError
from qhub_auth.forward_auth.cookies import LogIn, Sealer, challenge_of
from qhub_auth.forward_auth.policy import Person
from qhub_auth.forward_auth.sessions import Session, new_id
from qhub_auth.keycloak.claims import client_roles, full_paths, value_at
from qhub_auth.keycloak.oidc import OpenIDProvider
from qhub_auth.keycloak.settings import Keycloak
from qhub_auth.keycloak.tokens import Claims, access_claims, bearer_claims, id_claims, logout_claims
from qhub_auth.paths import with_parents

__all__ = ["Bearer", "ClaimNames", "SigningIn"]

# People wait for these: shorter than what c.Keycloak.timeout_seconds gives everything else.
LOOK_SECONDS, RENEW_SECONDS = 5.0, 4.0
_LONGEST_NAME = 255


@dataclass(frozen=True, slots=True)
class ClaimNames:
    """Where in a token things stand.

    Attributes:
        username: The claim that is the person's name.
        groups: The claim with the full paths of their groups.
        roles: The claim with their roles; where it is deeper, with dots.
        roles_client: The client whose roles count, where Keycloak put them by its own mapper.
    """

    username: str
    groups: str
    roles: str
    roles_client: str

    def person(self, claims: Claims, more: Claims | None = None) -> Person:
        """Return who a trusted token is about.

        Args:
            claims: Of the token.
            more: Of the access token that came with it; it is asked for what the other lacks.

        Raises:
            TokenError: It does not say.
        """
        sources = [claims, *([more] if more is not None else [])]
        name = next((each[self.username] for each in sources if self.username in each), None)
        sub = claims.get("sub")
        if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
            raise TokenError(f"the token does not say who it is about ({self.username})")
        if not isinstance(sub, str) or not sub:
            raise TokenError("the token does not say whose it is (sub)")
        named: object = next((each[self.groups] for each in sources if self.groups in each), [])
        groups, _ = full_paths(named if isinstance(named, list) else [])
        found = (self.roles_in(each) for each in sources)
        email = next((each["email"] for each in sources if "email" in each), "")
        return Person(
            sub=sub,
            name=name,
            email=email if isinstance(email, str) else "",
            roles=next((roles for roles in found if roles is not None), frozenset()),
            groups=with_parents(groups),
        )

    def roles_in(self, claims: Claims) -> frozenset[str] | None:
        """Return the roles that a token names; `None` if it does not speak of them."""
        return client_roles(claims, self.roles_client, self.roles)


@dataclass(frozen=True, slots=True)
class Bearer:
    """Who an access token is of.

    Attributes:
        person: Them.
        sid: Keycloak's session; empty for a service account.
        issued: When it was made, in seconds since 1970.
    """

    person: Person
    sid: str
    issued: float


class SigningIn:
    """All that is done with Keycloak."""

    def __init__(
        self,
        settings: Keycloak,
        names: ClaimNames,
        *,
        scopes: Sequence[str],
        log: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        """Take the settings; nothing is asked yet."""
        self.settings = settings
        self.names = names
        self.scopes = tuple(scopes)
        self.provider = OpenIDProvider(settings, log)

    @property
    def origin(self) -> str:
        """Where Keycloak's pages are, for the policy of what a form may lead to."""
        parts = urlsplit(self.settings.issuer)
        return f"{parts.scheme}://{parts.netloc}"

    async def begin(
        self, sealer: Sealer, *, return_to: str, redirect_uri: str, browser: str, now: float
    ) -> str:
        """Return Keycloak's page to log in at.

        Raises:
            KeycloakUnavailableError: Nobody would be there.
            ConfigurationError: Keycloak is not the one that is configured.
        """
        endpoints = await self.provider.look(LOOK_SECONDS)
        login = LogIn(
            return_to=return_to,
            redirect_uri=redirect_uri,
            nonce=secrets.token_urlsafe(24),
            verifier=secrets.token_urlsafe(48),
            browser=browser,
        )
        query = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(self.scopes),
            "state": login.sealed(sealer, now=now),
            "nonce": login.nonce,
            "code_challenge": challenge_of(login.verifier),
            "code_challenge_method": "S256",
        }
        mark = "&" if "?" in endpoints.authorization else "?"
        return f"{endpoints.authorization}{mark}{urlencode(query)}"

    async def finish(self, login: LogIn, code: str, *, issuer: str | None) -> Session:
        """Return the session of somebody who comes back with a code.

        Args:
            login: What this browser began.
            code: As Keycloak gave it.
            issuer: Who gave it, as the address says (RFC 9207).

        Raises:
            TokenError: The answer is not Keycloak's, or not to this log-in.
            KeycloakRefusedError: The code is not good.
            KeycloakUnavailableError: No usable answer came.
        """
        endpoints = await self.provider.endpoints()
        if issuer != self.settings.issuer and (issuer is not None or endpoints.names_issuer):
            raise TokenError("the answer to the log-in is of another issuer")
        now = time.time()  # a log-out that comes from here on is one of this session
        tokens = await self.provider.exchange(
            code, redirect_uri=login.redirect_uri, verifier=login.verifier
        )
        claims, person = await self._read(tokens, nonce=login.nonce, sub=None)
        return Session(
            id=new_id(),
            person=person,
            sid=_text(claims, "sid"),
            started=now,
            checked=now,
            refresh_token=_text(tokens, "refresh_token"),
            id_token=_text(tokens, "id_token"),
        )

    async def renewed(self, session: Session) -> dict[str, Any] | None:
        """Ask Keycloak whether a session goes on; return what has changed, `None` if it is over.

        Raises:
            TokenError: What came is not to be trusted, so nothing is known.
            KeycloakError: The same, as no usable answer came, or Keycloak does not know us.
        """
        if not session.refresh_token:
            return None
        try:
            tokens = await self.provider.renewed(session.refresh_token, seconds=RENEW_SECONDS)
        except KeycloakRefusedError as error:
            if error.code != "invalid_grant":
                raise
            return None
        _, person = await self._read(tokens, nonce=None, sub=session.person.sub)
        return {
            "person": person,
            "checked": time.time(),
            "refresh_token": _text(tokens, "refresh_token") or session.refresh_token,
            "id_token": _text(tokens, "id_token") or session.id_token,
        }

    async def _read(
        self, tokens: dict[str, Any], *, nonce: str | None, sub: str | None
    ) -> tuple[Claims, Person]:
        expected = self.provider.expected()
        access = tokens["access_token"]
        token = tokens.get("id_token")
        key = await self.provider.key_for(token)
        claims = id_claims(token, key, expected, nonce=nonce, sub=sub, access_token=access)
        more = None
        if self.names.roles_in(claims) is None or self.names.groups not in claims:
            # Keycloak's mapper for client roles leaves the id token out as it comes
            key = await self.provider.key_for(access)
            more = access_claims(access, key, expected, sub=str(claims["sub"]))
        return claims, self.names.person(claims, more)

    async def bearer(self, token: str, audiences: Sequence[str]) -> Bearer:
        """Return who a program's access token is of.

        Raises:
            TokenError: It is not one to trust.
            KeycloakUnavailableError: The key that signed it cannot be had.
        """
        key = await self.provider.key_for(token, anybody=True)
        claims = bearer_claims(token, key, self.provider.expected(), audiences=audiences)
        return Bearer(self.names.person(claims), _text(claims, "sid"), float(claims["iat"]))

    async def logged_out(self, token: str) -> tuple[str, str, str]:
        """Return ``sid``, ``sub`` and ``jti`` of a log-out token.

        Raises:
            TokenError: It is not one to trust.
            KeycloakUnavailableError: The key that signed it cannot be had.
        """
        key = await self.provider.key_for(token, anybody=True)
        claims = logout_claims(token, key, self.provider.expected())
        return _text(claims, "sid"), _text(claims, "sub"), _text(claims, "jti")

    async def log_out_url(self, session: Session, *, return_to: str) -> str:
        """Return the page that ends Keycloak's own session; empty if there is none."""
        endpoints = await self.provider.look(LOOK_SECONDS)
        if not endpoints.end_session:
            return ""
        query = {
            "client_id": self.settings.client_id,
            "post_logout_redirect_uri": return_to,
            **({"id_token_hint": session.id_token} if session.id_token else {}),
        }
        mark = "&" if "?" in endpoints.end_session else "?"
        return f"{endpoints.end_session}{mark}{urlencode(query)}"


def _text(source: Claims, name: str) -> str:
    value = value_at(source, name)
    return value if isinstance(value, str) else ""
