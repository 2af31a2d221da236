"""What qhub adds to the hub's own routes: profiles as JSON, servers' addresses, preselection."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import jupyterhub.apihandlers
import jupyterhub.handlers
from batchspawner.api import BatchSpawnerAPIHandler
from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.app import JupyterHub
from jupyterhub.handlers.pages import HealthCheckHandler, SpawnHandler
from jupyterhub.scopes import needs_scope
from tornado import web
from traitlets import TraitError

from qhub_spawner import identity_handlers, idle_handlers
from qhub_spawner.errors import ConfigurationError
from qhub_spawner.launch import AddressRefusedError, ServerAddress
from qhub_spawner.runtime import SETTING, attach

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.\-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:.]{2,45}")
_LARGEST_PORT = 65535


class ProfilesHandler(APIHandler):  # type: ignore[misc]  # jupyterhub has no types
    """``GET /api/users/:name/qhub/profiles``: what the options page shows, for scripts."""

    @needs_scope("read:servers")  # type: ignore[untyped-decorator]
    async def get(self, user_name: str) -> None:
        """Answer the list of profiles that `user_name` may choose from, with live figures."""
        user = self.find_user(user_name)
        if user is None:
            raise web.HTTPError(404)
        server_name = self.get_argument("server", "")
        # the hub forgets the spawner of a server that has ended, but not its record
        known = server_name in user.spawners or server_name in user.orm_user.orm_spawners
        spawner = user.spawners[server_name if known else ""]
        self.set_header("Cache-Control", "no-store")
        self.write(json.dumps(await spawner.options_model()))


class OwnProfilesHandler(ProfilesHandler):
    """``GET /api/qhub/profiles``: the same for the person whose token it is."""

    async def get(self) -> None:
        """Answer as for ``/api/users/:name`` with the asking person's name."""
        user = self.current_user
        if user is None:  # tornado's own answer would be the login page
            raise web.HTTPError(403, "this needs the token of a user")
        if not hasattr(user, "spawners"):
            raise web.HTTPError(403, "a service has no profiles: ask for a user's")
        await super().get(user.name)


class ServerHandler(APIHandler):  # type: ignore[misc]
    """What a server tells the hub of itself, with its own token."""

    def spawner_of_token(self) -> Any:
        """Return the spawner of the server whose token came with the request."""
        token = self.get_auth_token()
        user = self.current_user
        for spawner in getattr(user, "spawners", {}).values():
            if token and getattr(spawner, "backend_server", None) and spawner.owns_token(token):
                return spawner
        raise web.HTTPError(403, "this is not the token of a server that runs or is starting")


class BusyHandler(ServerHandler):
    """``POST /api/qhub/busy``: a server tells that it works though nobody looks."""

    @web.authenticated
    async def post(self) -> None:
        """Take ``{"what": …}``, a phrase; 204."""
        spawner = self.spawner_of_token()
        body = self.get_json_body()
        if not isinstance(body, dict) or set(body) != {"what"}:
            raise web.HTTPError(400, "expected an object with what, and nothing else")
        what = idle_handlers.phrase(body)
        rule = self.settings[SETTING].idle
        if rule is not None and spawner.ready:
            rule.told(spawner, what)
        self.set_status(204)


class AddressHandler(ServerHandler):
    """``POST /api/qhub/address``: a server tells where it listens, with its own token.

    Host and port, and nothing else, can be set this way.
    """

    @web.authenticated
    async def post(self) -> None:
        """Take ``{"host": …, "port": …}``; 204 when the hub has it."""
        spawner = self.spawner_of_token()
        address = self._address()
        try:
            moved = await spawner.backend_server.accept_address(address)
        except AddressRefusedError as error:
            raise web.HTTPError(error.status_code, str(error)) from error
        if moved and spawner.server is not None:
            # the job was requeued and runs elsewhere now: the route follows
            spawner.place(address)
            if spawner.ready:
                await self.proxy.add_user(spawner.user, spawner.name)
        self.set_status(204)

    def _address(self) -> ServerAddress:
        body = self.get_json_body()
        if not isinstance(body, dict) or set(body) != {"host", "port"}:
            raise web.HTTPError(400, "expected an object with host and port, and nothing else")
        host, port = body["host"], body["port"]
        if not isinstance(host, str) or _HOST.fullmatch(host) is None:
            raise web.HTTPError(400, "host: expected a host name or an IP address")
        if not isinstance(port, int) or isinstance(port, bool) or not 0 < port <= _LARGEST_PORT:
            raise web.HTTPError(400, "port: expected a number from 1 to 65535")
        return ServerAddress(host, port)


class PreselectingSpawnHandler(SpawnHandler):  # type: ignore[misc]
    """The hub's spawn page, but an address that names a choice only preselects it.

    The hub itself starts a server for whoever follows such a link.
    """

    async def prepare(self) -> None:
        """Refuse what is not UTF-8, at which the hub itself would fail with a 500."""
        await super().prepare()
        for arguments in (self.request.query_arguments, self.request.body_arguments):
            try:
                for values in arguments.values():
                    for value in values:
                        value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise web.HTTPError(400, "a field or parameter is not UTF-8 text") from error

    def _get_user_options(self, query_options: Any) -> Any:
        if self.settings.get("spawner_class") is not None and hasattr(
            self.settings["spawner_class"], "options_model"
        ):
            return {}
        return super()._get_user_options(query_options)


class HealthHandler(HealthCheckHandler):  # type: ignore[misc]
    """``/health``: also says when a backend has stopped working for good."""

    def get(self) -> None:
        """Answer 200, or 503 with what is wrong where only the administrator can mend it."""
        runtime = self.settings.get(SETTING)
        problems = runtime.problems() if runtime is not None else []
        if problems:
            self.set_status(503)
            self.finish("\n".join(problems) + "\n")
            return
        super().get()

    head = get


_API = [
    (r"/api/qhub/profiles", OwnProfilesHandler),
    (r"/api/users/([^/]+)/qhub/profiles", ProfilesHandler),
    (r"/api/qhub/address", AddressHandler),
    (r"/api/qhub/busy", BusyHandler),
    *identity_handlers.ROUTES,
    *idle_handlers.ROUTES,
]
_PAGES = [
    (r"/spawn", PreselectingSpawnHandler),
    (r"/spawn/([^/]+)", PreselectingSpawnHandler),
    (r"/spawn/([^/]+)/([^/]+)", PreselectingSpawnHandler),
    (r"/health$", HealthHandler),
    (r"/api/health$", HealthHandler),
    *idle_handlers.PAGES,
]


def register(spawner_class: Any) -> None:
    """Add the routes to every hub of this process, and start the runtime with the hub.

    Called when `spawner_class` is loaded, which the hub does before it sets up its routes.
    """
    jupyterhub.apihandlers.default_handlers.extend(_API)
    jupyterhub.handlers.default_handlers[:0] = _PAGES
    _follow_setup(spawner_class)


def _follow_setup(spawner_class: Any) -> None:
    """Start the runtime right after a hub has set up its routes.

    JupyterHub has no hook for it, and loads the classes of all entry points while its application
    object is still being made, so that there is nothing yet to observe: the method is wrapped.
    """
    set_up = JupyterHub.init_handlers

    @functools.wraps(set_up)
    def init_handlers(app: Any) -> None:
        set_up(app)
        _hub_is_set_up(app, spawner_class)

    JupyterHub.init_handlers = init_handlers


def _close_open_route(routes: list[Any]) -> None:
    """Take out batchspawner's route, by which a server may set any attribute of its spawner."""
    routes[:] = [route for route in routes if route[1] is not BatchSpawnerAPIHandler]


def _hub_is_set_up(app: Any, spawner_class: Any) -> None:
    """Check the configuration and start the runtime, after the hub's database is there."""
    configured = app.spawner_class
    if not issubclass(configured, spawner_class):
        return
    _close_open_route(app.handlers)
    try:
        attach(app, configured)
    except ConfigurationError as error:
        app.log.critical("The hub cannot start, its profiles are not usable:\n%s", error)
        app.exit(1)
    except TraitError as error:
        app.log.critical("The hub cannot start, its configuration is not usable: %s", error)
        app.exit(1)
