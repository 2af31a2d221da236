"""The pages to sign in and out, and where Keycloak says that somebody has logged out."""

from __future__ import annotations

import hmac
import re
import time
from urllib.parse import urlencode

from tornado import web

from qhub_auth.errors import (
    ConfigurationError,
    KeycloakError,
    KeycloakRefusedError,
    KeycloakUnavailableError,
    QHubAuthError,
    TokenError,
    shown,
)
from qhub_auth.forward_auth import headers as reading
from qhub_auth.forward_auth.base import DOWN, Base
from qhub_auth.forward_auth.cookies import LogIn, form_token, set_cookie
from qhub_auth.forward_auth.deciding import Origin
from qhub_auth.forward_auth.pages import Answer, Form
from qhub_auth.forward_auth.readings import AmbiguousError
from qhub_auth.forward_auth.sessions import new_id

__all__ = ["BackChannel", "Callback", "SignIn", "SignOut", "SignedOut"]

LOG_IN_COOKIE_SECONDS = 3600
_BROWSER = re.compile(r"[A-Za-z0-9_-]{43}")
_LONGEST_STATE = 6000


class Page(Base):
    """What the pages have in common: they are opened by browsers, through the proxy."""

    def here(self) -> Origin:
        """Return by which name we were reached.

        Raises:
            web.HTTPError: 400 when no route has that name, or it is not https.
        """
        deciding, sent = self.deciding, self.sent()
        scheme, authority = "http", self.request.headers.get("Host", "")
        if deciding.trust.covers(self.request.remote_ip or "", sent):
            protos = sent.get("x-forwarded-proto", ())
            hosts = sent.get("x-forwarded-host", ())
            scheme = protos[0].split(",")[0].strip() if protos else scheme
            authority = hosts[0] if len(hosts) == 1 else authority
        try:
            here = Origin(*reading.origin_of(scheme, authority))
        except AmbiguousError as error:
            raise web.HTTPError(400, reason="This request is not clear") from error
        wanted = deciding.settings.sign_in_origin
        if here != wanted if wanted else not deciding.policy.knows(here.host):
            raise web.HTTPError(400, reason="Nobody signs in at this address")
        if not here.secure and not deciding.settings.allow_http:
            raise web.HTTPError(400, reason="Sign in by https")
        return here

    def url(self, here: Origin, name: str) -> str:
        """Return the address of one of the pages."""
        return f"{here}{self.deciding.settings.prefix}{name}"

    def one(self, name: str) -> str:
        """Return a parameter of the address that stands there once; empty otherwise."""
        values = self.request.query_arguments.get(name, [])
        return values[0].decode("utf-8", "replace") if len(values) == 1 else ""

    def browser_cookie(self, here: Origin) -> str:
        """Return what the cookie of log-ins holds; empty when there is none."""
        name = self.deciding.cookie_names(secure=here.secure)[1]
        values = set(reading.cookies_of(self.sent(), name))
        value = values.pop() if len(values) == 1 else ""
        return value if _BROWSER.fullmatch(value) else ""

    def failed(self, title: str, why: str, here: Origin, return_to: str = "") -> None:
        """Say that a log-in did not come about, and where to try again."""
        query = f"?{urlencode({'return_to': return_to})}" if return_to else ""
        self.answer(Answer(400, title, (why,), {"Sign in": self.url(here, "sign-in") + query}))

    def broken(self, error: QHubAuthError) -> None:
        """Say that Keycloak is not there, or not as it is configured."""
        if isinstance(error, KeycloakUnavailableError):
            self.deciding.log.warning("A log-in was not possible: %s", error)
            self.answer(DOWN)
            return
        self.deciding.log.error("A log-in was not possible: %s", error)
        self.answer(
            Answer(
                500,
                "Log-in does not work",
                ("The log of qhub-forward-auth says why; please tell whoever runs this hub.",),
            )
        )


class SignIn(Page):
    """The way to Keycloak's page."""

    async def get(self) -> None:
        """Send the browser there."""
        deciding, here = self.deciding, self.here()
        return_to = deciding.safe_return(self.one("return_to"), here)
        browser = self.browser_cookie(here) or new_id()
        try:
            url = await deciding.signing_in.begin(
                deciding.keys.sealer,
                return_to=return_to,
                redirect_uri=self.url(here, "callback"),
                browser=browser,
                now=time.time(),
            )
        except (KeycloakError, ConfigurationError) as error:
            self.broken(error)
            return
        name = deciding.cookie_names(secure=here.secure)[1]
        cookie = set_cookie(name, browser, secure=here.secure, seconds=LOG_IN_COOKIE_SECONDS)
        self.add_header("Set-Cookie", cookie)
        self.redirect(url)


class Callback(Page):
    """The way back from Keycloak's page."""

    async def get(self) -> None:
        """Make a session of the code, and send the browser to where it was going."""
        deciding, here = self.deciding, self.here()
        settings, state = deciding.settings, self.one("state")
        opened = None
        if 0 < len(state) <= _LONGEST_STATE:
            opened = LogIn.opened(
                deciding.keys.sealer,
                state,
                browser=self.browser_cookie(here),
                seconds=settings.log_in_seconds,
                now=time.time(),
            )
        if opened is None or opened[0].redirect_uri != self.url(here, "callback"):
            self.failed(
                "This log-in was not begun here",
                "The browser that began it is another one, keeps no cookies, or it was long ago.",
                here,
            )
            return
        login, fresh = opened
        if not fresh:
            query = urlencode({"return_to": login.return_to})
            self.redirect(f"{self.url(here, 'sign-in')}?{query}")
            return
        error, code = self.one("error"), self.one("code")
        if error or not code:
            deciding.log.info("Keycloak sent somebody back without a code: %s", shown(error))
            why = "Keycloak did not let you in, or you broke off."
            self.failed("You are not signed in", why, here, login.return_to)
            return
        issuers = self.request.query_arguments.get("iss")
        issuer = None if issuers is None else self.one("iss")
        try:
            session = await deciding.signing_in.finish(login, code, issuer=issuer)
        except (TokenError, KeycloakRefusedError) as problem:
            deciding.log.warning("A log-in failed: %s", problem)
            why = "Keycloak's answer was not good; it may have been used already."
            self.failed("You are not signed in", why, here, login.return_to)
            return
        except (KeycloakError, ConfigurationError) as problem:
            self.broken(problem)
            return
        if deciding.sessions.ended(sid=session.sid, sub=session.person.sub, issued=session.started):
            why = "You signed out somewhere else at that moment."
            self.failed("You are not signed in", why, here, login.return_to)
            return
        before = deciding.session_of(self.sent(), secure=here.secure)
        if before is not None:  # a new log-in is a new session: nobody gives another one theirs
            deciding.sessions.remove(before.id)
        deciding.sessions.add(session, now=session.started)
        deciding.log.info("%s signed in at %s", shown(session.person.name), here.host)
        self.add_header("Set-Cookie", deciding.session_cookie(session, here))
        self.redirect(deciding.safe_return(login.return_to, here))


class SignOut(Page):
    """Signing out: a page that asks, and what its button does."""

    def get(self) -> None:
        """Ask: a link on another site must not sign anybody out."""
        here = self.here()
        session = self.deciding.session_of(self.sent(), secure=here.secure)
        if session is None:
            self.redirect(self.url(here, "signed-out"))
            return
        form = Form(
            f"{self.deciding.settings.prefix}sign-out",
            "Sign out",
            {"token": form_token(session.id)},
        )
        who = f"You are signed in as {session.person.name}."
        everywhere = "This ends your session everywhere that you came to by the same log-in."
        self.answer(Answer(200, "Sign out?", (who, everywhere), form=form), as_json=False)

    async def post(self) -> None:
        """End the session here, and go on to end Keycloak's."""
        deciding, here = self.deciding, self.here()
        session = deciding.session_of(self.sent(), secure=here.secure)
        if session is None:
            self.redirect(self.url(here, "signed-out"), status=303)
            return
        origins = self.request.headers.get_list("Origin")
        said = self.get_body_argument("token", "").encode()
        right = hmac.compare_digest(said, form_token(session.id).encode())
        if not right or any(each != str(here) for each in origins):
            raise web.HTTPError(403, reason="This was not sent by our own page")
        if session.sid:
            deciding.sessions.end(now=time.time(), sid=session.sid)
        deciding.sessions.remove(session.id)
        deciding.log.info("%s signed out", shown(session.person.name))
        self.add_header("Set-Cookie", deciding.session_cookie(None, here))
        target = self.url(here, "signed-out")
        try:
            url = await deciding.signing_in.log_out_url(session, return_to=target)
        except (KeycloakError, ConfigurationError) as error:
            deciding.log.warning("Keycloak's own session could not be ended: %s", error)
            self.answer(
                Answer(
                    503,
                    "You are signed out here, but not at Keycloak",
                    ("It does not answer. Close the browser, or sign out again in a minute.",),
                )
            )
            return
        self.redirect(url or target, status=303)


class SignedOut(Page):
    """Where Keycloak sends the browser after a log-out."""

    def get(self) -> None:
        """Say so."""
        here = self.here()
        links = {"Sign in": self.url(here, "sign-in")}
        self.answer(Answer(200, "You are signed out", links=links), as_json=False)


class BackChannel(Base):
    """Where Keycloak itself says that somebody has logged out (Back-Channel Logout 1.0, 2.5)."""

    async def post(self) -> None:
        """End what its token names."""
        tokens = self.request.body_arguments.get("logout_token", [])
        token = tokens[0].decode("ascii", "replace") if len(tokens) == 1 else ""
        try:
            count = await self.deciding.log_out(token)
        except (TokenError, KeycloakError, ConfigurationError) as error:
            self.deciding.log.warning("A log-out by Keycloak was refused: %s", error)
            self.set_status(400)
            self.finish({"error": "invalid_request"})
            return
        self.deciding.log.info("Keycloak ended %d sessions", count)
        self.finish()
