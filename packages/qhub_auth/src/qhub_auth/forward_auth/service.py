"""`qhub-forward-auth --config FILE`: the service that says to the proxy who may open what."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet
from traitlets import Bool, Dict, Float, List, TraitError, Unicode, default, validate
from traitlets.config import Application, catch_config_error

from qhub_auth import __version__
from qhub_auth.errors import ConfigurationError, QHubAuthError, shown
from qhub_auth.forward_auth.deciding import Deciding, Origin, Settings, Trust
from qhub_auth.forward_auth.keys import KeyFile
from qhub_auth.forward_auth.policy import Policy
from qhub_auth.forward_auth.readings import AmbiguousError
from qhub_auth.forward_auth.serving import serve
from qhub_auth.forward_auth.sessions import Sessions
from qhub_auth.forward_auth.signing_in import ClaimNames, SigningIn
from qhub_auth.keycloak.settings import Keycloak

__all__ = ["ForwardAuth", "main"]

_PREFIX = re.compile(r"/(?:[A-Za-z0-9_~-][A-Za-z0-9_.~-]*/)+")
_DOMAIN = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)+")
_COOKIE = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ForwardAuth(Application):
    """The service that Traefik's ForwardAuth asks: who may open which route, and who they are.

    Where Keycloak is, and by which client people sign in here, is said by ``c.Keycloak``, or by
    ``c.ForwardAuth.Keycloak`` where it is another client than the hub's.
    """

    name = "qhub-forward-auth"
    version = __version__
    description = "Answers Traefik's ForwardAuth by Keycloak's groups and roles."
    aliases = {  # noqa: RUF012 - traitlets' own
        "config": "ForwardAuth.config_file",
        "log-level": "Application.log_level",
    }
    flags = {  # noqa: RUF012 - traitlets' own
        "new-key": (
            {"ForwardAuth": {"print_new_key": True}},
            "Print a new line for c.ForwardAuth.keys_file, and end.",
        )
    }
    classes = [Keycloak]  # noqa: RUF012 - traitlets' own

    config_file = Unicode(
        config=True,
        help="""
        The file with the settings, Python as JupyterHub's; the hub's own will do. Default: none.

        Example: ``qhub-forward-auth --config /etc/qhub/forward_auth_config.py``
        """,
    )
    print_new_key = Bool(
        False,
        config=True,
        help="""
        Whether to print a line for `keys_file` and end; for the command line, as ``--new-key``.
        """,
    )
    routes = List(
        Dict(),
        config=True,
        help="""
        Who may open what, in order: the first route that fits a request decides, and what none
        fits is refused. Each has ``hosts`` (names without port; ``*.apps.example.org`` is every
        name with one part more) and, if it is not for all of them, ``path`` (how it begins, in
        whole parts) and ``methods``; and exactly one of

        - ``public``: True, for everybody;
        - ``signed_in``: True, for whoever has signed in;
        - any of ``any_role``, ``all_roles``, ``any_group``, ``all_groups``: lists of names; all
          that are given have to be fulfilled. A group is named by its full path, and includes the
          members of the groups below it.

        ``name`` is what pages call it; ``api``: True gives programs a plain 401 and never a page to
        log in. Default: none, so that nobody may open anything.

        Example::

            c.ForwardAuth.routes = [
                {"hosts": ["example.org"], "path": "/grafana", "any_role": ["grafana_viewer"]},
                {"hosts": ["example.org"], "path": "/prometheus", "any_group": ["/admins"]},
            ]
        """,
    )
    bind = Unicode(
        config=True,
        help="""
        Where the service listens: ``http://ADDRESS:PORT`` or ``unix:/path/to/socket``. Only the
        proxy should reach it. Default: ``JUPYTERHUB_SERVICE_URL`` where the hub starts it, else
        ``http://127.0.0.1:9180``.
        """,
    )
    prefix = Unicode(
        config=True,
        help="""
        The beginning of the addresses of its pages (``sign-in``, ``callback``, ``sign-out``,
        ``signed-out``, ``back-channel``), on each host with a route; it begins and ends with a
        slash. The proxy hands them on to the service without asking it first. Default:
        ``JUPYTERHUB_SERVICE_PREFIX`` where the hub starts it, else ``/_qhub/``.
        """,
    )
    trusted_proxies = List(
        Unicode(),
        default_value=["127.0.0.0/8", "::1/128", "unix"],
        config=True,
        help="""
        Addresses and networks that may ask ``/verify``, and whose ``X-Forwarded-*`` are believed;
        ``unix`` stands for whoever comes by a unix socket. Default: this machine. Name the
        proxy's address where it runs elsewhere, and set `proxy_secret_file` where others share it.
        """,
    )
    proxy_secret_file = Unicode(
        config=True,
        help="""
        A file with a secret that the proxy has to send in the header ``X-Qhub-Proxy``, for networks
        in which addresses prove little. Name that header in Traefik's ``authResponseHeaders``, so
        that it goes no further. Default: none is needed.
        """,
    )
    keys_file = Unicode(
        config=True,
        help="""
        A file with the keys that cookies and sessions are sealed with, one a line as
        ``qhub-forward-auth --new-key`` prints them, readable by the service alone (0600). The first
        seals, all of them open. It is read anew when it changes: to change the key, put a new line
        before the others, and take the old one out after `max_session_seconds`. Default: none; a
        key is made at start, and everybody signs in again after a restart.
        """,
    )
    sessions_file = Unicode(
        config=True,
        help="""
        A file (SQLite) in which sessions outlive a restart, sealed; it takes `keys_file` too. One
        file is for one process. Default: none, sessions are kept in memory alone.
        """,
    )
    cookie_name = Unicode(
        "qhub-forward-auth",
        config=True,
        help="""
        The name of the session's cookie, to which ``__Host-`` or ``__Secure-`` is added on https.
        """,
    )
    cookie_domain = Unicode(
        config=True,
        help="""
        The domain that the session's cookie is for, so that one log-in is for all hosts below it,
        e.g. ``example.org``. Every host of that domain gets the cookie then, those of people's own
        programs included. Default: none, each host has a cookie of its own, and signing in at the
        next one is a redirect that nobody sees.
        """,
    )
    sign_in_origin = Unicode(
        config=True,
        help="""
        Where the pages of the service are, if they are on one host alone; it takes `cookie_domain`.
        Default: none, they are on each host.

        Example: ``c.ForwardAuth.sign_in_origin = "https://auth.example.org"``
        """,
    )
    allow_http = Bool(
        False,
        config=True,
        help="""
        Whether people may sign in over plain http. Their cookies can be read on the way then: for
        trying out on one machine alone. Default: False.
        """,
    )
    session_seconds = Float(
        300.0,
        min=5.0,
        config=True,
        help="""
        For how long what Keycloak said of somebody counts, in seconds: their roles and groups, and
        that they are signed in at all. After that their next request asks anew, by a refresh token
        that never leaves the service. While Keycloak does not answer, what it said last goes on to
        count. A log-out counts at once. Default: 300, five minutes.
        """,
    )
    max_session_seconds = Float(
        36_000.0,
        min=60.0,
        config=True,
        help="""
        After how long everybody signs in again, whatever they do, in seconds. Keycloak's own limits
        may end a session before. Default: 36000, ten hours, which is Keycloak's default as well.
        """,
    )
    log_in_seconds = Float(
        1800.0,
        min=30.0,
        config=True,
        help="""
        How long somebody may take on Keycloak's page before they are sent there anew, in seconds.
        Default: 1800, half an hour.
        """,
    )
    bearer_audiences = List(
        Unicode(),
        config=True,
        help="""
        Access tokens of Keycloak in ``Authorization: Bearer`` open routes if one of these names
        stands in their ``aud``; signature, issuer and time are checked here, without asking
        Keycloak. Default: none, ``Authorization`` is left to the programs behind the proxy.

        Example: ``c.ForwardAuth.bearer_audiences = ["qhub-api"]``
        """,
    )
    pass_authorization = Bool(
        False,
        config=True,
        help="""
        Whether an access token that has been used here goes on to the program behind the proxy,
        which could use it elsewhere. Default: False. It takes ``Authorization`` in Traefik's
        ``authResponseHeaders`` to hold it back.
        """,
    )
    scopes = List(
        Unicode(),
        default_value=["openid", "profile", "email"],
        config=True,
        help="""
        What is asked of Keycloak at log-in; ``openid`` is always among it.
        """,
    )
    username_claim = Unicode(
        "preferred_username",
        config=True,
        help="""
        The claim that names the person, for ``X-Forwarded-User``. Default: ``preferred_username``.
        """,
    )
    groups_claim = Unicode(
        "groups",
        config=True,
        help="""
        The claim with the full paths of the person's groups. Default: ``groups``.
        """,
    )
    roles_claim = Unicode(
        "roles",
        config=True,
        help="""
        The claim with the person's roles, with dots for what is deeper. Default: ``roles``, as
        rendered realms have it. Without it, Keycloak's own ``resource_access`` is looked at.
        """,
    )
    roles_client = Unicode(
        config=True,
        help="""
        The client whose roles count, where they stand in ``resource_access``. Default: the one by
        which people sign in here.

        Example: ``c.ForwardAuth.roles_client = "jupyterhub"``, to share the hub's roles
        """,
    )
    pass_groups = List(
        Unicode(),
        default_value=["*"],
        config=True,
        help="""
        Patterns of groups that ``X-Forwarded-Groups`` names to programs behind the proxy; at most
        4 KB of them. Default: all.

        Example: ``c.ForwardAuth.pass_groups = ["/grafana/*"]``
        """,
    )
    pass_roles = List(
        Unicode(),
        default_value=["*"],
        config=True,
        help="""
        Patterns of roles that ``X-Forwarded-Roles`` names to programs behind the proxy; at most
        4 KB of them. Default: all.
        """,
    )

    @default("log_level")
    def _log_level_default(self) -> int:
        return logging.INFO

    @default("log_format")
    def _log_format_default(self) -> str:
        return "[%(levelname)1.1s %(asctime)s.%(msecs).03d %(name)s] %(message)s"

    @default("bind")
    def _bind_default(self) -> str:
        return os.environ.get("JUPYTERHUB_SERVICE_URL") or "http://127.0.0.1:9180"

    @default("prefix")
    def _prefix_default(self) -> str:
        return os.environ.get("JUPYTERHUB_SERVICE_PREFIX") or "/_qhub/"

    @validate("prefix")
    def _validate_prefix(self, proposal: Any) -> str:  # noqa: ANN401 - a traitlets Bunch
        return self._matching(proposal, _PREFIX, "a path as /_qhub/, with a slash at both ends")

    @validate("cookie_domain")
    def _validate_domain(self, proposal: Any) -> str:  # noqa: ANN401 - a traitlets Bunch
        proposal["value"] = proposal["value"].removeprefix(".").lower()
        return self._matching(proposal, _DOMAIN, "a domain of at least two parts, as example.org")

    @validate("cookie_name")
    def _validate_cookie(self, proposal: Any) -> str:  # noqa: ANN401 - a traitlets Bunch
        return self._matching(proposal, _COOKIE, "letters, digits, - and _, at most 64")

    def _matching(self, proposal: Any, pattern: re.Pattern[str], wanted: str) -> str:  # noqa: ANN401 - a traitlets Bunch
        value: str = proposal["value"]
        if value and not pattern.fullmatch(value):
            name = proposal["trait"].name
            raise TraitError(f"c.ForwardAuth.{name}: {shown(value)} does not fit; write {wanted}")
        return value

    @catch_config_error
    def initialize(self, argv: list[str] | None = None) -> None:
        """Read the command line and the file it names.

        Raises:
            ConfigurationError: The file cannot be read.
        """
        self.raise_config_file_errors = True
        self.parse_command_line(argv)
        if self.config_file:
            path = Path(self.config_file).resolve()
            if not path.is_file():
                raise ConfigurationError(f"--config {path}: there is no such file")
            self.load_config_file(path.name, path=str(path.parent))
            self.parse_command_line(argv)  # it goes before the file

    def deciding(self) -> Deciding:
        """Check all settings, and return what decides by them.

        Raises:
            ConfigurationError: One is missing or wrong; the message names it.
        """
        keycloak = Keycloak(parent=self)
        keycloak.check()
        if self.sessions_file and not self.keys_file:
            raise ConfigurationError(
                "c.ForwardAuth.sessions_file takes c.ForwardAuth.keys_file too: sessions are "
                "sealed by those keys, or nobody could read them after a restart"
            )
        policy = Policy.read(self.routes)
        if not policy.routes:
            self.log.warning("c.ForwardAuth.routes is empty: every request is refused")
        keys = KeyFile(self.keys_file)
        if not self.keys_file:
            self.log.warning(
                "c.ForwardAuth.keys_file is not set: everybody signs in again after a restart"
            )
        names = ClaimNames(
            username=self.username_claim,
            groups=self.groups_claim,
            roles=self.roles_claim,
            roles_client=self.roles_client or keycloak.client_id,
        )
        return Deciding(
            settings=self._settings(),
            policy=policy,
            keys=keys,
            sessions=Sessions(
                self.sessions_file,
                lambda: keys.sealer,
                seconds=self.max_session_seconds,
                log=self.log,
            ),
            signing_in=SigningIn(
                keycloak,
                names,
                scopes=list(dict.fromkeys(["openid", *self.scopes])),
                log=self.log,
            ),
            trust=Trust(self.trusted_proxies, self.proxy_secret_file),
            log=self.log,
        )

    def _settings(self) -> Settings:
        origin = None
        if self.sign_in_origin:
            try:
                origin = Origin.read(self.sign_in_origin.rstrip("/"))
            except AmbiguousError as error:
                raise ConfigurationError(
                    f"c.ForwardAuth.sign_in_origin: {shown(self.sign_in_origin)} does not fit "
                    f"({error}); write one as https://auth.example.org"
                ) from error
            below = f".{origin.host}".endswith(f".{self.cookie_domain}")
            if not self.cookie_domain or not below:
                raise ConfigurationError(
                    "c.ForwardAuth.sign_in_origin takes c.ForwardAuth.cookie_domain too, and has "
                    "to be below it: the cookie that is set there has to reach the other hosts"
                )
        return Settings(
            prefix=self.prefix,
            cookie=self.cookie_name,
            cookie_domain=self.cookie_domain,
            sign_in_origin=origin,
            allow_http=self.allow_http,
            session_seconds=self.session_seconds,
            max_session_seconds=self.max_session_seconds,
            log_in_seconds=self.log_in_seconds,
            bearer_audiences=tuple(self.bearer_audiences),
            pass_groups=tuple(self.pass_groups),
            pass_roles=tuple(self.pass_roles),
            pass_authorization=self.pass_authorization,
        )

    def start(self) -> None:
        """Serve, or print a key."""
        if self.print_new_key:
            print(Fernet.generate_key().decode("ascii"))  # noqa: T201 - a command line prints
            return
        asyncio.run(serve(self.deciding(), self.bind, self.log))


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    app = ForwardAuth()
    try:
        app.initialize(sys.argv[1:] if argv is None else argv)
        app.start()
    except QHubAuthError as error:
        print(f"{app.name}: {error}", file=sys.stderr)  # noqa: T201 - a command line prints
        sys.exit(1)


if __name__ == "__main__":
    main()
