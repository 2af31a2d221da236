"""Keeping what the hub knows of a person true, now and then, behind their back.

The hub asks once in ``auth_refresh_age`` for each person (`BaseHandler.refresh_auth`), from any
request of theirs. Of many requests at once one asks Keycloak and saves the answer; the others wait
for it and go on with what is saved, so that a refresh token that is good only once is used once.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jupyterhub.handlers.base import BaseHandler

from qhub_auth.errors import (
    ConfigurationError,
    IdentityError,
    KeycloakError,
    KeycloakRefusedError,
    KeycloakUnavailableError,
    NameTakenError,
    RefusedError,
    TokenError,
)
from qhub_auth.sessions import end_sessions

if TYPE_CHECKING:
    from qhub_auth.authenticator import KeycloakAuthenticator
    from qhub_auth.directory import PersonFacts

__all__ = ["Refresher"]

# For how long it is remembered that somebody may not come in, in seconds: their requests would ask
# Keycloak each time.
_REFUSED_SECONDS = 60.0
_TOKENS = ("access_token", "refresh_token", "id_token", "token_response")


class Outcome(enum.Enum):
    """What came of asking."""

    SAVED = "the answer is saved"
    KEPT = "nothing is known, so nothing changes"
    OVER = "the session in Keycloak is over"
    REFUSED = "they may not come in"


class Refresher:
    """Asks Keycloak again, once for each person at a time."""

    def __init__(self, authenticator: KeycloakAuthenticator) -> None:
        self._authenticator = authenticator
        self._log = authenticator.log
        self._flights: dict[tuple[str, str], asyncio.Task[Outcome]] = {}
        self._refused_until: dict[str, float] = {}

    def welcome(self, name: str) -> None:
        """Note that somebody has just logged in: what was remembered of them is old."""
        self._refused_until.pop(name, None)

    async def refresh(self, user: Any, handler: Any) -> bool:
        """Return whether somebody may go on; what changed is saved by then.

        Args:
            user: The hub's `User`.
            handler: Of the request.
        """
        handler = handler if handler is not None else _NoRequest(user, self._authenticator)
        if time.monotonic() < self._refused_until.get(user.name, 0.0):
            return False
        outcome = await self._once("session", user, handler)
        if outcome is Outcome.OVER and not _of_own_browser(user, handler):
            outcome = await self._once("person", user, handler)
        if outcome is Outcome.REFUSED:
            self._refused_until[user.name] = time.monotonic() + _REFUSED_SECONDS
        return outcome in {Outcome.SAVED, Outcome.KEPT}

    async def _once(self, kind: str, user: Any, handler: Any) -> Outcome:
        key = (kind, user.name)
        flight = self._flights.get(key)
        if flight is None:
            ask = self._by_session if kind == "session" else self._by_service_account
            flight = asyncio.create_task(self._safely(ask(user, handler), user.name))
            self._flights[key] = flight
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        # a browser that goes away must not take the answer of the others with it
        return await asyncio.shield(flight)

    async def _safely(self, asking: Any, name: str) -> Outcome:
        """Await the answer; while Keycloak cannot be asked, or we fail, whoever is in stays in."""
        try:
            return await asking  # type: ignore[no-any-return]
        except KeycloakUnavailableError as error:
            self._log.info("%s stays as known: %s", name, error)
        except (KeycloakError, ConfigurationError, IdentityError) as error:
            self._log.error("%s stays as known: %s", name, error)
        except Exception:  # noqa: BLE001 - whatever we did wrong takes nobody's session
            self._log.exception("%s stays as known", name)
        return Outcome.KEPT

    # ---- by the session in Keycloak ----

    async def _by_session(self, user: Any, handler: Any) -> Outcome:
        state = await user.get_auth_state()
        if not state:
            self._log.info("%s has to log in: nothing is known of their session", user.name)
            return Outcome.OVER
        refresh_token = state.get("refresh_token")
        if not refresh_token:
            return await self._session_is_over(user, handler, state)
        authenticator = self._authenticator
        async with authenticator.saving(user.name):
            # while we waited for our turn somebody may have logged in, or saved newer tokens
            if (await user.get_auth_state() or {}).get("refresh_token") != refresh_token:
                return Outcome.SAVED
            try:
                tokens = await authenticator.provider.renewed(
                    refresh_token, seconds=authenticator.refresh_timeout_seconds
                )
            except KeycloakRefusedError as error:
                if error.code != "invalid_grant":
                    raise
                return await self._session_is_over(user, handler, state)
            tokens.setdefault("refresh_token", refresh_token)
            return await self._take(user, handler, state, tokens)

    async def _take(
        self,
        user: Any,
        handler: Any,
        state: dict[str, Any],
        tokens: dict[str, Any],
    ) -> Outcome:
        """Save new tokens and what they say. The old refresh token may be good no more."""
        authenticator = self._authenticator
        sub = (state.get(authenticator.user_auth_state_key) or {}).get("sub")
        try:
            facts, kept = await authenticator.facts_of_tokens(tokens, nonce=None, sub=sub)
            model = await self._model(user, handler, facts, kept)
        except RefusedError as error:
            await user.save_auth_state(_with_tokens(state, tokens))
            return await self._refused(user, handler, error)
        except TokenError as error:
            self._log.error("%s has to log in again: %s", user.name, error)
            return await self._session_is_over(user, handler, state)
        except BaseException:
            await user.save_auth_state(_with_tokens(state, tokens))
            raise
        await _apply(user, handler, model)
        return Outcome.SAVED

    async def _session_is_over(self, user: Any, handler: Any, state: Mapping[str, Any]) -> Outcome:
        """End what hangs on the session; once, since what is saved then says that it is over."""
        if state.get("refresh_token"):
            await user.save_auth_state({**state, **dict.fromkeys(_TOKENS)})
            await end_sessions(
                handler,
                user,
                revoke_tokens=False,
                stop_servers=False,
                why="their session in Keycloak is over",
            )
        return Outcome.OVER

    async def _refused(self, user: Any, handler: Any, error: RefusedError) -> Outcome:
        """Let somebody go on no longer, unless it is only their numbers that cannot be had.

        They have numbers: that an administrator gave them others, which are somebody's already, or
        none at all, is no reason to send them away from their work.
        """
        cause = error.__cause__
        if isinstance(cause, IdentityError) and not isinstance(cause, NameTakenError):
            self._log.error("%s keeps the numbers they have: %s", user.name, cause)
            return Outcome.KEPT
        self._log.warning("%s may not go on: %s", user.name, error.reason)
        await _take_rights(user, handler)
        return Outcome.REFUSED

    async def _model(
        self,
        user: Any,
        handler: Any,
        facts: PersonFacts | None,
        kept: dict[str, Any] | None,
        sub: str = "",
    ) -> dict[str, Any]:
        """Return the hub's model of somebody whom it knows.

        Raises:
            RefusedError: They may not go on, at least not by this name.
        """
        authenticator = self._authenticator
        if facts is None:
            raise RefusedError("", reason=f"Keycloak has nobody with sub {sub} any more")
        model = await authenticator.auth_model_of(facts, tokens=kept)
        if model["name"] != user.name:
            raise RefusedError("", reason=f"they are called {model['name']} in Keycloak now")
        await authenticator.settle(model, facts, handler)
        return model

    # ---- by the service account ----

    async def _by_service_account(self, user: Any, handler: Any) -> Outcome:
        """Ask about somebody who has no session: their API tokens and servers go on without one."""
        authenticator = self._authenticator
        state = await user.get_auth_state() or {}
        sub = (state.get(authenticator.user_auth_state_key) or {}).get("sub")
        if not sub:
            person = await asyncio.to_thread(authenticator.identities.store.person_named, user.name)
            sub = person.sub if person is not None else None
        if not sub:
            self._log.info("%s is not known to Keycloak", user.name)
            return Outcome.REFUSED
        try:
            async with asyncio.timeout(authenticator.refresh_timeout_seconds):
                facts = await authenticator.admin_api.person(sub)
        except TimeoutError as error:
            raise KeycloakUnavailableError("Keycloak did not answer in time") from error
        except KeycloakRefusedError as error:
            self._log.warning(
                "Whether %s may go on cannot be asked, and auth_refresh_strict is %s: %s",
                user.name,
                authenticator.auth_refresh_strict,
                error,
            )
            return Outcome.REFUSED if authenticator.auth_refresh_strict else Outcome.KEPT
        return await self._take_facts(user, handler, sub, facts)

    async def _take_facts(
        self,
        user: Any,
        handler: Any,
        sub: str,
        facts: PersonFacts | None,
    ) -> Outcome:
        authenticator = self._authenticator
        async with authenticator.saving(user.name):
            try:
                state = await user.get_auth_state() or {}
                model = await self._model(user, handler, facts, None, sub=sub)
            except RefusedError as error:
                return await self._refused(user, handler, error)
            model["auth_state"] = {**state, **model["auth_state"]}
            await _apply(user, handler, model)
        return Outcome.SAVED


class _NoRequest:
    """Stands for a request where there is none: somebody asks on their own account."""

    def __init__(self, user: Any, authenticator: KeycloakAuthenticator) -> None:
        self.db, self.authenticator, self.log = user.db, authenticator, authenticator.log
        self._user = user

    def find_user(self, _name: str) -> Any:
        """Return whom it is about."""
        return self._user


def _of_own_browser(user: Any, handler: Any) -> bool:
    """Whether a request is one that can be sent to the log-in page."""
    return (
        getattr(handler, "_jupyterhub_user", None) is user
        and getattr(handler, "_token_authenticated", False) is not True
    )


def _with_tokens(state: Mapping[str, Any], tokens: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is saved of somebody, with new tokens."""
    names = ("access_token", "refresh_token", "id_token")
    new = {name: tokens[name] for name in names if name in tokens}
    return {**state, **new, "token_response": dict(tokens)}


async def _apply(user: Any, handler: Any, model: dict[str, Any]) -> None:
    # BaseHandler's own: that of the log-in pages takes the turn that we have already
    await BaseHandler.auth_to_user(handler, model, user)
    user._auth_refreshed = time.monotonic()  # noqa: SLF001 - as the hub does after a refresh


async def _take_rights(user: Any, handler: Any) -> None:
    """Take the rights of an administrator from somebody who may not come in."""
    if user.admin:
        user.admin = False
        await BaseHandler.auth_to_user(
            handler,
            {
                "name": user.name,
                "admin": False,
                "groups": None,
                "roles": None,
                "auth_state": await user.get_auth_state(),
            },
            user,
        )
