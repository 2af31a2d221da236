"""One log-out: the hub's ends Keycloak's session, and Keycloak's ends the hub's."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from jupyterhub.handlers import BaseHandler
from jupyterhub.utils import url_path_join
from oauthenticator.oauth2 import OAuthLogoutHandler

from qhub_auth.errors import (
    ConfigurationError,
    IdentityUnavailableError,
    KeycloakError,
    KeycloakUnavailableError,
    TokenError,
)
from qhub_auth.keycloak.tokens import Claims, logout_claims
from qhub_auth.login import pages
from qhub_auth.login.hints import COOKIE, Hints, session_of, whole
from qhub_auth.login.sessions import end_sessions

__all__ = ["BackChannelLogoutHandler", "SingleLogoutHandler", "cookie_path"]

_LOOK_SECONDS = 3.0
# An address longer than that some proxies refuse; the session is ended without the browser then,
# or after a question of Keycloak's.
_LONGEST_HINT = 4000
_FORM = "application/x-www-form-urlencoded"


def cookie_path(handler: Any) -> str:
    """Return the page of log-out, to which alone the browser sends what it keeps of its log-in."""
    return str(url_path_join(handler.hub.base_url, "logout"))


class SingleLogoutHandler(OAuthLogoutHandler):  # type: ignore[misc]  # oauthenticator has no types
    """Log-out at the hub: ends the session here first, then the one in Keycloak.

    OpenID Connect RP-Initiated Logout 1.0.
    """

    _next: str | None = None
    _unreachable = False

    async def get(self) -> None:
        """End the sessions, and send the browser by way of Keycloak's log-out page."""
        user = self.current_user
        self._state: dict[str, Any] = {}
        name = None
        if user is not None and getattr(user, "kind", "") == "user":
            self._state, name = await user.get_auth_state() or {}, user.name
        self._own = self._of_this_browser(name)
        self.set_header("Cache-Control", "no-store")
        await super().get()

    async def handle_logout(self) -> None:
        """Find the way to Keycloak's log-out page; the hub's own session has ended by now."""
        if not self._state and not self._own:
            return
        try:
            self._next = await self._keycloak_logout(self._state)
            self.clear_cookie(COOKIE, path=cookie_path(self))
        except KeycloakUnavailableError as error:
            self._unreachable = True
            self.log.warning("Logged out here, but maybe not in Keycloak: %s", error)
        except (KeycloakError, ConfigurationError) as error:
            self.log.error("Logged out here, but not in Keycloak: %s", error)  # noqa: TRY400 - one line says it

    def _of_this_browser(self, name: str | None) -> str:
        """Return what this browser keeps of its own log-in; empty if it has nothing.

        Who is logged out here already, because another browser of theirs was, may still have a
        session in Keycloak by this one.
        """
        kept = Hints(self.settings["cookie_secret"]).opened(self.get_cookie(COOKIE, "") or "")
        return kept[1] if kept is not None and name in {None, kept[0]} else ""

    async def _keycloak_logout(self, state: dict[str, Any]) -> str | None:
        provider = self.authenticator.provider
        endpoints = await provider.look(_LOOK_SECONDS)
        if not endpoints.end_session:
            return None
        hint, refresh_token = state.get("id_token"), state.get("refresh_token")
        if self._own and not (hint and _same_session(self._own, hint)):
            # what is kept of them here is another browser's, or gone: so is the refresh token
            hint, refresh_token = whole(self._own), None
        if hint and len(hint) > _LONGEST_HINT and refresh_token:
            await provider.end_session(refresh_token, seconds=_LOOK_SECONDS)
            return None
        hint = hint if hint and len(hint) <= _LONGEST_HINT else ""
        url: str = await self.authenticator.keycloak_logout_url(self, hint=hint)
        return url

    async def render_logout_page(self) -> None:
        """Send the browser on, or show the hub's own page."""
        if self._unreachable:
            await pages.show(self, 200, "logged-out-here")
        elif self._next:
            self.redirect(self._next)
        else:
            await super().render_logout_page()


def _same_session(one: str, other: str) -> bool:
    """Whether two id tokens are of the same session in Keycloak."""
    return one == other or session_of(one) == session_of(other) != ""


class BackChannelLogoutHandler(BaseHandler):  # type: ignore[misc]  # JupyterHub has no types
    """Where Keycloak says that somebody has logged out, or was.

    OpenID Connect Back-Channel Logout 1.0. There is no cookie in these requests and nobody who is
    logged in: what counts is the token, signed by Keycloak.
    """

    _accept_cookie_auth = False
    _accept_token_auth = False

    def check_xsrf_cookie(self) -> None:
        """Let Keycloak in, which has no cookie of ours: the token is what is checked."""

    def set_default_headers(self) -> None:
        """Keep answers out of caches (2.8 of the standard)."""
        super().set_default_headers()
        self.set_header("Cache-Control", "no-store")

    async def post(self) -> None:
        """End the sessions that a log-out token names."""
        try:
            claims = await self._claims()
            users = await self._users(claims)
        except TokenError as error:
            self._refuse("invalid_request", str(error))
            return
        except (KeycloakError, ConfigurationError, IdentityUnavailableError) as error:
            self._refuse("temporarily_unavailable", str(error))
            return
        for user in users:
            await self._log_out(user, claims)
        self.set_status(200)
        self.finish()

    def _refuse(self, code: str, why: str) -> None:
        self.log.warning("A log-out by Keycloak was refused: %s", why)
        self.set_status(400)
        self.set_header("Content-Type", "application/json")
        self.finish({"error": code, "error_description": why})

    async def _claims(self) -> Claims:
        if self.request.headers.get("Content-Type", "").partition(";")[0].strip() != _FORM:
            raise TokenError(f"a log-out is sent as {_FORM}")
        tokens = self.get_body_arguments("logout_token")
        if len(tokens) != 1:
            raise TokenError("a log-out has one logout_token")
        provider = self.authenticator.provider
        key = await provider.key_for(tokens[0], anybody=True)
        claims = logout_claims(tokens[0], key, provider.expected())
        ends = datetime.fromtimestamp(
            claims["exp"] + self.authenticator.keycloak.clock_skew_seconds, UTC
        )
        store = self.authenticator.identities.store
        if not await asyncio.to_thread(store.first_use, claims["jti"], ends):
            raise TokenError("the log-out token was used before (jti)")
        return claims

    async def _users(self, claims: Claims) -> list[Any]:
        """Return the people of the hub whose session, or all of whose sessions, it is."""
        store = self.authenticator.identities.store
        sid, sub = claims.get("sid"), claims.get("sub")
        names: set[str] = set()
        if sid is not None:
            names = set(await asyncio.to_thread(store.names_of_session, sid))
            await asyncio.to_thread(store.forget_session, sid)
        if sub is not None:
            person = await asyncio.to_thread(store.find, sub)
            names = {person.name} if person is not None else names
        found = [self.find_user(name) for name in sorted(names)]
        return [user for user in found if user is not None]

    async def _log_out(self, user: Any, claims: Claims) -> None:
        authenticator = self.authenticator
        async with authenticator.saving(user.name):
            state = await user.get_auth_state() or {}
            known = state.get(authenticator.user_auth_state_key) or {}
            if claims.get("sid") in {None, known.get("sid")} and state.get("refresh_token"):
                # its tokens are good no more; numbers and folders stay what they are
                gone = ("access_token", "refresh_token", "id_token", "token_response")
                await user.save_auth_state({**state, **dict.fromkeys(gone)})
        stop = bool(self.settings.get("shutdown_on_logout", False))
        await end_sessions(
            self, user, revoke_tokens=False, stop_servers=stop, why="logged out by Keycloak"
        )
