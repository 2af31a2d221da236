"""Ending somebody's sessions at the hub."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from jupyterhub import orm
from tornado.web import HTTPError

__all__ = ["end_sessions"]

# JupyterHub's own client, for which people make tokens and the hub those of servers; tokens of any
# other client are what a browser got by a log-in.
_HUB_CLIENT = "jupyterhub"
# How the hub notes the token that a server has (jupyterhub.user.User.spawn, 6.1).
_OF_SERVER = "Server at "
# How long the hub may be looking at a server before it is stopped all the same, in seconds.
_CHECK_SECONDS, _LOOK_SECONDS = 10.0, 0.05


async def end_sessions(
    handler: Any,
    user: Any,
    *,
    revoke_tokens: bool,
    stop_servers: bool,
    why: str,
) -> None:
    """End all of a person's sessions in browsers, and more if asked.

    Cookies of the hub are good no more, nor are the tokens by which browsers are logged in at
    servers and services. A server asks the hub again about such a token after five minutes at most
    (JupyterHub's ``HubAuth.cache_max_age``).

    Args:
        handler: Of any request to the hub; servers are stopped by its ``stop_single_user``.
        user: The person, the hub's `User`.
        revoke_tokens: Whether API tokens end too, also those that the person made. The one of a
            server that is still there ends when the server is stopped.
        stop_servers: Whether all their servers are stopped, those that are just starting as well.
        why: For the log.
    """
    db, log = handler.db, handler.log
    user.cookie_id = orm.new_token()
    for code in list(user.orm_user.oauth_codes):
        db.delete(code)
    if stop_servers:
        db.commit()
        # first the sessions, so that nobody starts a server again while others are being stopped
        _delete_tokens(db, user, all_of_them=False)
        await _stop_all(handler, user)
    ended = _delete_tokens(db, user, all_of_them=revoke_tokens)
    user._auth_refreshed = None  # noqa: SLF001 - the hub's own mark: what it knew is old now
    log.info("Ended the sessions of %s, %d tokens with them: %s", user.name, ended, why)


def _delete_tokens(db: Any, user: Any, *, all_of_them: bool) -> int:
    ended = 0
    running = any(spawner.active for spawner in user.spawners.values())
    for token in list(user.orm_user.api_tokens):
        of_browser = token.session_id is not None or token.client_id != _HUB_CLIENT
        of_server = (token.note or "").startswith(_OF_SERVER)
        if of_browser or (all_of_them and not (of_server and running)):
            db.delete(token)
            ended += 1
    db.commit()
    return ended


async def _stop_all(handler: Any, user: Any) -> None:
    """Stop every server of a person; one that does not stop is logged, and the others still are."""

    async def stop(name: str) -> None:
        spawner = user.spawners[name]
        if spawner.pending == "spawn" and spawner._spawn_future is not None:  # noqa: SLF001 - as the hub's own API does
            spawner._spawn_future.cancel()  # noqa: SLF001
            with suppress(Exception, asyncio.CancelledError):
                await asyncio.wait({spawner._spawn_future})  # noqa: SLF001
        with suppress(TimeoutError):
            async with asyncio.timeout(_CHECK_SECONDS):
                while spawner.pending == "check":  # noqa: ASYNC110 - the hub looks whether it runs
                    await asyncio.sleep(_LOOK_SECONDS)
        if spawner.pending == "stop" or not spawner.active:
            return
        try:
            await handler.stop_single_user(user, name)
        except (HTTPError, RuntimeError, KeyError) as error:
            handler.log.error("The server %s could not be stopped: %s", spawner._log_name, error)  # noqa: SLF001, TRY400 - one line says it

    names = [name for name, spawner in user.spawners.items() if spawner.active]
    await asyncio.gather(*map(stop, names))
