"""The way to Keycloak's log-in page, and back."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from jupyterhub.handlers import BaseHandler
from jupyterhub.utils import get_browser_protocol, url_path_join
from oauthenticator.oauth2 import OAuthCallbackHandler, OAuthLoginHandler
from tornado.httputil import url_concat

from qhub_auth.directory import PersonFacts
from qhub_auth.errors import (
    ConfigurationError,
    IdentityUnavailableError,
    KeycloakError,
    KeycloakRefusedError,
    KeycloakUnavailableError,
    RefusedError,
    TokenError,
    shown,
)
from qhub_auth.login import pages
from qhub_auth.login.attempts import Attempt, AttemptError, Attempts, new_binding
from qhub_auth.login.hints import COOKIE, Hints
from qhub_auth.login.logout import cookie_path

__all__ = ["CallbackHandler", "LoginStartHandler"]

BINDING_COOKIE = "qhub-login"
_SETTING = "qhub_login_attempts"
# How long somebody waits before they read that Keycloak does not answer; and when the page tries
# again by itself, in seconds.
_LOOK_SECONDS, _AGAIN_SECONDS = 3.0, 15
# Errors of Keycloak's page (RFC 6749, 4.1.2.1; OpenID Connect Core 1.0, 3.1.2.6) that say no more
# than "again": it gives temporarily_unavailable when somebody took too long.
_BEGIN_AGAIN = frozenset({"login_required", "interaction_required", "temporarily_unavailable"})


class _LoginPages(BaseHandler):  # type: ignore[misc]  # JupyterHub has no types
    """What both ends of a log-in share."""

    @property
    def attempts(self) -> Attempts:
        """Log-ins on their way; one of these for the whole hub."""
        if _SETTING not in self.settings:
            self.settings[_SETTING] = Attempts(
                self.settings["cookie_secret"],
                seconds=self.authenticator.login_seconds,
                clock=time.time,
            )
        attempts: Attempts = self.settings[_SETTING]
        return attempts

    @property
    def binding_cookie(self) -> str:
        """The name of the cookie that binds log-ins to this browser.

        Where people's servers are subdomains, these could set one for the hub: ``__Host-`` keeps
        them from it (RFC 6265bis, 4.1.3.2). Elsewhere the path keeps it from people's servers.
        """
        return f"__Host-{BINDING_COOKIE}" if self.secure and self.subdomain_host else BINDING_COOKIE

    @property
    def secure(self) -> bool:
        """Whether the browser came by HTTPS."""
        public = self.settings.get("public_url")
        scheme = public.scheme if public else get_browser_protocol(self.request)
        return bool(scheme == "https")

    def begin_again(self, next_url: str = "") -> str:
        """Return the address at which a log-in begins."""
        url = url_path_join(self.hub.base_url, "oauth_login")
        return url_concat(url, {"next": next_url}) if next_url else url

    def safe_next(self, url: str) -> str:
        """Return `url` if it is a page of this hub that one may be sent to, else nothing."""
        if not url or any(c == "\\" or c.isspace() or not c.isprintable() for c in url):
            return ""  # browsers leave some of these out, or take them for slashes
        url = self._validate_next_url(url)
        path = urlsplit(url).path
        pages_of_login = ("oauth_login", "oauth_callback", "logout", "login")
        if path in {url_path_join(self.hub.base_url, page) for page in pages_of_login}:
            return ""
        return str(url)

    async def show_failure(self, error: Exception, next_url: str) -> None:
        """Answer with the page for `error`; log what administrators need to know."""
        again = self.begin_again(next_url)
        if isinstance(error, RefusedError):
            self.log.warning("Log-in refused: %s", error.reason)
            # at the hub there is no session to end; Keycloak asks, since it gets no token along
            logout = await self.authenticator.keycloak_logout_url(self)
            await pages.show(self, 403, "refused", message=str(error), logout=logout)
        elif isinstance(error, KeycloakUnavailableError | IdentityUnavailableError):
            self.log.warning("Log-in is not possible: %s", error)
            headers = {
                "Retry-After": str(_AGAIN_SECONDS),
                "Refresh": f"{_AGAIN_SECONDS}; url={again}",
            }
            of_numbers = isinstance(error, IdentityUnavailableError)
            what = "The hub's database of people" if of_numbers else "Keycloak, for log-in here,"
            await pages.show(
                self,
                503,
                "unavailable",
                headers=headers,
                what=what,
                again=again,
                seconds=_AGAIN_SECONDS,
            )
        elif isinstance(error, KeycloakRefusedError) and error.code == "invalid_grant":
            self.log.info("A log-in came too late: %s", error)
            await pages.show(self, 400, "again", again=again)
        elif isinstance(error, TokenError):
            self.log.error("Log-in refused: %s", error)
            await pages.show(self, 403, "untrusted", again=again)
        else:
            self.log.error("Log-in failed: %s", error)
            await pages.show(self, 500, "misconfigured", again=again)


class LoginStartHandler(OAuthLoginHandler, _LoginPages):  # type: ignore[misc]  # oauthenticator has no types
    """Sends somebody to Keycloak's page."""

    async def get(self) -> None:
        """Begin a log-in; ``next`` names the page of the hub to go to afterwards."""
        next_url = self.safe_next(self.get_argument("next", ""))
        try:
            endpoints = await self.authenticator.provider.look(_LOOK_SECONDS)
        except (KeycloakError, ConfigurationError) as error:
            await self.show_failure(error, next_url)
            return
        attempt = Attempt.begin(
            now=time.time(),
            redirect_uri=self.authenticator.get_callback_url(self),
            next_url=next_url,
        )
        parameters = {
            **self.authenticator.extra_authorize_params,
            "response_type": "code",
            "client_id": self.authenticator.keycloak.client_id,
            "redirect_uri": attempt.redirect_uri,
            "scope": " ".join(self.authenticator.scope),
            "state": self.attempts.sealed(attempt, self._bind()),
            "nonce": attempt.nonce,
            "code_challenge": attempt.challenge,
            "code_challenge_method": "S256",
        }
        self.set_header("Cache-Control", "no-store")
        mark = "&" if "?" in endpoints.authorization else "?"
        self.redirect(f"{endpoints.authorization}{mark}{urlencode(parameters)}")

    def _bind(self) -> str:
        """Return what binds log-ins to this browser, and give it another while."""
        cookie = self.get_secure_cookie(self.binding_cookie, max_age_days=1)
        binding = cookie.decode("ascii", "replace") if cookie else new_binding()
        self._set_cookie(
            self.binding_cookie,
            binding,
            path=self.hub.base_url,
            expires_days=None,
            max_age=self.authenticator.login_seconds,
            httponly=True,
            secure=self.secure,
            samesite="Lax",  # it has to come along when Keycloak sends the browser back
        )
        return binding


class CallbackHandler(OAuthCallbackHandler, _LoginPages):  # type: ignore[misc]  # oauthenticator has no types
    """Receives somebody who comes back from Keycloak's page."""

    attempt: Attempt
    facts: PersonFacts | None = None

    async def get(self) -> None:
        """Finish a log-in, or say why it did not come to that."""
        self.set_header("Cache-Control", "no-store")
        self.set_header("Referrer-Policy", "no-referrer")
        try:
            self.attempt = self._opened()
        except AttemptError as error:
            await self._begin_again_or_go_on(str(error))
            return
        next_url = self.attempt.next_url
        refusal = self.get_argument("error", None)
        if refusal is not None:
            await self._show_refusal(refusal, next_url)
            return
        try:
            await self._check_answer()
            user = await self.login_user()
        except (
            ConfigurationError,
            IdentityUnavailableError,
            KeycloakError,
            RefusedError,
            TokenError,
        ) as error:
            await self.show_failure(error, next_url)
            return
        if user is None:  # blocked or not allowed by what the hub itself looks at
            words = self.authenticator.custom_403_message
            await self.show_failure(RefusedError(words, reason="the hub does not allow them"), "")
            return
        self.redirect(self.get_next_url(user))

    def _opened(self) -> Attempt:
        cookie = self.get_secure_cookie(self.binding_cookie, max_age_days=1)
        binding = cookie.decode("ascii", "replace") if cookie else None
        return self.attempts.opened(self.get_argument("state", ""), binding)

    async def _begin_again_or_go_on(self, why: str) -> None:
        if self.current_user is not None:  # the browser's back button; nobody is logged in anew
            self.redirect(self.get_next_url(self.current_user))
            return
        self.log.info("A log-in cannot be finished: %s", why)
        await pages.show(self, 400, "again", again=self.begin_again())

    async def _show_refusal(self, refusal: str, next_url: str) -> None:
        again = self.begin_again(next_url)
        self.log.info("Keycloak's page ended a log-in: %s", shown(refusal))
        if refusal in _BEGIN_AGAIN:
            await pages.show(self, 400, "again", again=again)
        elif refusal == "access_denied":
            await pages.show(self, 403, "cancelled", again=again)
        elif refusal == "server_error":
            await self.show_failure(KeycloakUnavailableError("its page says so"), next_url)
        else:
            await self.show_failure(KeycloakError(f"its page says {shown(refusal)}"), next_url)

    async def _check_answer(self) -> None:
        """See that there is a code, and of our issuer: somebody may have led us to another."""
        if not self.get_argument("code", ""):
            raise TokenError("Keycloak sent somebody back without a code")
        # RFC 9207
        issuer = self.get_argument("iss", None)
        endpoints = await self.authenticator.provider.endpoints()
        if issuer is None and not endpoints.names_issuer:
            return
        if issuer != self.authenticator.keycloak.issuer:
            raise TokenError(f"the answer is of another issuer, {shown(issuer, 128)}")

    def get_next_url(self, user: Any = None) -> str:
        """Return where the person wanted to go, or their home here."""
        attempt = getattr(self, "attempt", None)
        next_url = self.safe_next(attempt.next_url) if attempt is not None else ""
        if next_url:
            return next_url
        self.request.arguments.pop("next", None)  # the one that counts is in the state
        url: str = BaseHandler.get_next_url(self, user)
        return url

    async def auth_to_user(self, authenticated: dict[str, Any], user: Any = None) -> Any:
        """Save what was learnt, in turn with others that change it."""
        async with self.authenticator.saving(authenticated["name"]):
            if self.facts is not None:
                await self.authenticator.settle(authenticated, self.facts, self)
            user = await super().auth_to_user(authenticated, user)
        self.authenticator.remember_session(authenticated)
        self._keep_hint(authenticated["name"], authenticated.get("auth_state") or {})
        return user

    def _keep_hint(self, name: str, state: Mapping[str, Any]) -> None:
        """Let this browser keep what ends its session in Keycloak."""
        hint = Hints(self.settings["cookie_secret"]).sealed(name, state.get("id_token") or "")
        if not hint:  # no token, or none of a session: what the hub itself keeps has to do
            self.clear_cookie(COOKIE, path=cookie_path(self))
            return
        self._set_cookie(
            COOKIE,
            hint,
            encrypted=False,  # it is sealed already
            path=cookie_path(self),
            expires_days=None,
            httponly=True,
            secure=self.secure,
            samesite="Lax",  # links to log out stand on other pages, too
        )

    def set_login_cookie(self, user: Any) -> None:
        """Set the hub's cookies. What stood for the session before, anybody may have set."""
        before = self.get_current_user_cookie()
        if before is None or before.id != user.id:
            self._session_id = uuid.uuid4().hex
            self.set_session_cookie()
        super().set_login_cookie(user)
        self.authenticator.refresher.welcome(user.name)
