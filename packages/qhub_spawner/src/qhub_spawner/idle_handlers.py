"""How long a server is kept: as JSON, and as a page with one button."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import Any

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.handlers.base import BaseHandler
from jupyterhub.scopes import Scope, needs_scope
from tornado import web

from qhub_spawner.identity import NOBODY
from qhub_spawner.idle import BUSY_SCOPE, IdleRule
from qhub_spawner.runtime import SETTING

_PHRASE = re.compile(r"[A-Za-z0-9 .,%-]{1,100}")
_CHOICES_SECONDS = (3600, 4 * 3600, 12 * 3600)


def _rule(handler: Any) -> IdleRule:
    runtime = handler.settings.get(SETTING)
    if runtime is None or runtime.idle is None:
        raise web.HTTPError(404, "this hub has no rule for idle servers")
    rule: IdleRule = runtime.idle
    return rule


def _running(user: Any, server_name: str) -> Any:
    spawner = user.spawners.get(server_name) if server_name in user.spawners else None
    if spawner is None or not spawner.ready:
        raise web.HTTPError(404, f"the server {server_name!r} does not run")
    return spawner


def phrase(body: object) -> str:
    """Return what somebody says that a server is busy with.

    Raises:
        HTTPError: It is no phrase.
    """
    what = body.get("what") if isinstance(body, dict) else None
    if not isinstance(what, str) or _PHRASE.fullmatch(what) is None:
        raise web.HTTPError(400, "what: expected at most 100 plain characters on one line")
    return what


class WorkHandler(APIHandler):  # type: ignore[misc]  # jupyterhub has no types
    """``POST /api/users/:name/qhub/busy``: a service tells that something of a person works.

    Tokens only, no cookies; the scope exists only where a service is configured, so it is looked at
    by hand.
    """

    _accept_cookie_auth = False

    async def prepare(self) -> None:
        """Let in only who has the scope."""
        await super().prepare()
        if not self.current_user:
            raise web.HTTPError(403, "Missing or invalid credentials.")
        if getattr(self, "parsed_scopes", {}).get(BUSY_SCOPE) is not Scope.ALL:
            raise web.HTTPError(403, f"this needs a token with the scope {BUSY_SCOPE}")

    async def post(self, user_name: str) -> None:
        """Take ``{"what": …, "server": …}``; 204, whether a server of theirs runs or not.

        Without a server, or with null, it is all of theirs.
        """
        body = self.get_json_body()
        if not isinstance(body, dict) or not {"what"} <= set(body) <= {"what", "server"}:
            raise web.HTTPError(400, "expected an object with what and server, and nothing else")
        what, server = phrase(body), body.get("server")
        if server is not None and not isinstance(server, str):
            raise web.HTTPError(400, "server: expected a server's name, or null for all")
        user, rule = self.find_user(user_name), _rule(self)
        if user is None:
            raise web.HTTPError(404, NOBODY)
        for name, spawner in list(user.spawners.items()):
            if server in {None, name} and spawner.ready and hasattr(spawner, "backend_server"):
                rule.told(spawner, what)
        self.set_status(204)


class IdleHandler(APIHandler):  # type: ignore[misc]  # jupyterhub has no types
    """``GET`` and ``POST /api/users/:name/qhub/idle[/:server]``."""

    @needs_scope("read:servers")  # type: ignore[untyped-decorator]
    async def get(self, user_name: str, server_name: str = "") -> None:
        """Answer when the server is ended if nobody uses it."""
        spawner = _running(self._user(user_name), server_name)
        self.set_header("Cache-Control", "no-store")
        self.write(json.dumps(await _rule(self).described(spawner)))

    @needs_scope("servers")  # type: ignore[untyped-decorator]
    async def post(self, user_name: str, server_name: str = "") -> None:
        """Take ``{"seconds": …}``: keep the server for so long from now."""
        spawner = _running(self._user(user_name), server_name)
        body = self.get_json_body()
        seconds = body.get("seconds") if isinstance(body, dict) else None
        if not isinstance(body, dict) or set(body) != {"seconds"}:
            raise web.HTTPError(400, "expected an object with seconds, and nothing else")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise web.HTTPError(400, "seconds: expected a number")
        _extend(self, spawner, float(seconds))
        self.write(json.dumps(await _rule(self).described(spawner, ask=False)))

    def _user(self, name: str) -> Any:
        user = self.find_user(name)
        if user is None:
            raise web.HTTPError(404)
        return user


class ServersPage(BaseHandler):  # type: ignore[misc]
    """``/hub/qhub/servers``: a person's own running servers, and how long they are kept."""

    @web.authenticated
    async def get(self) -> None:
        """Show them."""
        user, rule = self.current_user, _rule(self)
        servers = [
            {"name": name, "url": spawner.user.server_url(name), **await rule.described(spawner)}
            for name, spawner in sorted(user.spawners.items())
            if spawner.ready and hasattr(spawner, "backend_server")
        ]
        choices = [seconds for seconds in _CHOICES_SECONDS if seconds <= rule.max_extension]
        self.set_header("Cache-Control", "no-store")
        html = await self.render_template(
            "qhub-servers.html", servers=servers, choices=choices, timeout=rule.timeout
        )
        self.finish(html)

    @web.authenticated
    async def post(self) -> None:
        """Keep one of them."""
        spawner = _running(self.current_user, self.get_body_argument("server", ""))
        try:
            seconds = float(self.get_body_argument("seconds"))
        except ValueError as error:
            raise web.HTTPError(400, "seconds: expected a number") from error
        _extend(self, spawner, seconds)
        self.redirect(self.request.path)

    def get_template(self, name: str, sync: bool = False) -> Any:
        """Return our own page, which extends the hub's."""
        if name != "qhub-servers.html":
            return super().get_template(name, sync)
        env = self.settings["jinja2_env_sync" if sync else "jinja2_env"]
        source = files("qhub_spawner.page") / "templates" / "servers.html.j2"
        return env.from_string(source.read_text(encoding="utf-8"))


def _extend(handler: Any, spawner: Any, seconds: float) -> None:
    try:
        _rule(handler).extend(spawner, seconds)
    except ValueError as error:
        raise web.HTTPError(400, str(error)) from error
    spawner.persist()


ROUTES = [
    (r"/api/users/([^/]+)/qhub/busy", WorkHandler),
    (r"/api/users/([^/]+)/qhub/idle", IdleHandler),
    (r"/api/users/([^/]+)/qhub/idle/([^/]*)", IdleHandler),
]
PAGES = [(r"/qhub/servers", ServersPage)]
