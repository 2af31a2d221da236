"""`Keycloak`: where it is and who we are to it, for the hub, the sync service and the commands."""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from weakref import WeakKeyDictionary

import httpx
from traitlets import Float, TraitError, Unicode, default, validate
from traitlets.config import LoggingConfigurable

from qhub_auth import __version__
from qhub_auth.errors import ConfigurationError, shown

if TYPE_CHECKING:
    from typing import Any

__all__ = ["Keycloak"]

# Connections to Keycloak that one process keeps, and for how long an idle one, in seconds: below
# the minute after which proxies usually close theirs.
_CONNECTIONS, _IDLE_CONNECTIONS, _IDLE_SECONDS = 20, 10, 30.0


def _web_address(owner: object, name: str, value: str) -> str:
    """Return `value` without a slash at its end, if it is a plain web address.

    Raises:
        TraitError: It is not; the message says what would be.
    """
    try:
        parts = urlsplit(value)
        _ = parts.port  # a port that is no number is only found when it is asked for
    except ValueError:
        parts = urlsplit("")
    usable = parts.scheme in {"http", "https"} and parts.hostname and not parts.username
    if not usable or parts.query or parts.fragment or any(c.isspace() for c in value):
        where = f"c.{type(owner).__name__}.{name}"
        raise TraitError(
            f"{where}: {shown(value)} is not an address of a realm; write one like "
            "https://keycloak.example.org/realms/hub, without a user, '?' or '#'"
        )
    return value.rstrip("/")


class Keycloak(LoggingConfigurable):
    """Where Keycloak is, and the client by which the hub speaks to it.

    The hub, ``qhub-group-sync`` and ``qhub-identity`` read the same settings.
    """

    issuer = Unicode(
        config=True,
        help="""
        The address of the realm, as Keycloak writes it into its tokens (``iss``) and as people's
        browsers reach it. Every other address is found through it. There is no default.

        Example: ``c.Keycloak.issuer = "https://keycloak.example.org/realms/hub"``
        """,
    )
    internal_url = Unicode(
        config=True,
        help="""
        The address of the same realm as the hub itself reaches it, if that is another one: a
        service inside the cluster, a name behind the proxy. Browsers are never sent there, and
        tokens are still checked against the issuer. Default: empty, the issuer's.

        Example: ``c.Keycloak.internal_url = "http://keycloak.auth.svc:8080/realms/hub"``
        """,
    )
    client_id = Unicode(
        config=True,
        help="""
        The hub's client in the realm. Default: the environment variable ``OAUTH_CLIENT_ID``.

        Example: ``c.Keycloak.client_id = "jupyterhub"``
        """,
    )
    client_secret = Unicode(
        config=True,
        help="""
        The secret of that client. Better name a file with `client_secret_file`, so that it stands
        in no configuration. Default: the environment variable ``OAUTH_CLIENT_SECRET``.
        """,
    )
    client_secret_file = Unicode(
        config=True,
        help="""
        A file that holds the client's secret and nothing else; it is read each time it is needed,
        so that a changed secret needs no restart. It goes before `client_secret`. Default: none.

        Example: ``c.Keycloak.client_secret_file = "/run/secrets/keycloak-client"``
        """,
    )
    service_client_id = Unicode(
        config=True,
        help="""
        The client whose service account reads groups, roles and people. Default: `client_id`, so
        that one client does both.
        """,
    )
    service_client_secret = Unicode(
        config=True,
        help="""
        The secret of `service_client_id`, if that is another client. Default: none.
        """,
    )
    service_client_secret_file = Unicode(
        config=True,
        help="""
        A file that holds the secret of `service_client_id`, if that is another client. It goes
        before `service_client_secret`. Default: none.
        """,
    )
    ca_file = Unicode(
        config=True,
        help="""
        The certificates (PEM) that are trusted for Keycloak's address, and no others. Default:
        those of the system. The check itself cannot be turned off.

        Example: ``c.Keycloak.ca_file = "/etc/ssl/our-ca.pem"``
        """,
    )
    timeout_seconds = Float(
        10.0,
        min=0.1,
        max=120.0,
        config=True,
        help="""
        How long Keycloak may take for one answer, in seconds, connecting included. What people
        wait for has shorter limits of its own. Default: 10.
        """,
    )
    clock_skew_seconds = Float(
        30.0,
        min=0.0,
        max=300.0,
        config=True,
        help="""
        By how much Keycloak's clock and this one may differ, in seconds, when it is decided
        whether a token is still good. Default: 30, plenty where clocks are kept by NTP.
        """,
    )

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - whatever traitlets take
        super().__init__(**kwargs)
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = (
            WeakKeyDictionary()
        )

    @default("client_id")
    def _client_id_default(self) -> str:
        return os.environ.get("OAUTH_CLIENT_ID", "")

    @default("client_secret")
    def _client_secret_default(self) -> str:
        return os.environ.get("OAUTH_CLIENT_SECRET", "")

    @default("service_client_id")
    def _service_client_id_default(self) -> str:
        return self.client_id

    @validate("issuer", "internal_url")
    def _validate_address(self, proposal: Any) -> str:  # noqa: ANN401 - a traitlets Bunch
        value: str = proposal["value"]
        return _web_address(self, proposal["trait"].name, value) if value else value

    # ---- who we are ----

    def secret(self) -> str:
        """Return the secret of the hub's client, read anew.

        Raises:
            ConfigurationError: None is set, or its file cannot be read or is empty.
        """
        return self._secret_of("client_secret")

    def service_credentials(self) -> tuple[str, str]:
        """Return identifier and secret of the client that has the service account.

        Raises:
            ConfigurationError: There is none, or its secret cannot be read.
        """
        if self.service_client_id == self.client_id:
            return self._client_id(), self.secret()
        return self.service_client_id, self._secret_of("service_client_secret")

    def _secret_of(self, name: str) -> str:
        path: str = getattr(self, f"{name}_file")
        if not path:
            secret: str = getattr(self, name).strip()
            if not secret:
                raise ConfigurationError(
                    f"no secret for the client in Keycloak: set c.Keycloak.{name}_file, or "
                    f"c.Keycloak.{name}"
                )
            return secret
        try:
            secret = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise ConfigurationError(f"c.Keycloak.{name}_file, {path}: {reason}") from error
        if not secret:
            raise ConfigurationError(f"c.Keycloak.{name}_file, {path}: it is empty")
        return secret

    def _client_id(self) -> str:
        if not self.client_id:
            raise ConfigurationError(
                "c.Keycloak.client_id is not set: name the hub's client in the realm"
            )
        return self.client_id

    def check(self) -> None:
        """See that what everything else needs is set.

        Raises:
            ConfigurationError: Something is missing; the message names it.
        """
        if not self.issuer:
            raise ConfigurationError(
                "c.Keycloak.issuer is not set: write the address of the realm, e.g. "
                "https://keycloak.example.org/realms/hub"
            )
        self._client_id()
        self.secret()
        self.tls()

    # ---- where it is ----

    @property
    def realm_url(self) -> str:
        """The address of the realm for calls from here."""
        return self.internal_url or self.issuer

    @property
    def realm(self) -> str:
        """The name of the realm."""
        return unquote(self._split_realm()[1])

    @property
    def admin_url(self) -> str:
        """The address of the realm in Keycloak's admin API, for calls from here.

        Raises:
            ConfigurationError: The issuer is not the address of a realm of Keycloak's.
        """
        base, realm = self._split_realm()
        return f"{base}/admin/realms/{realm}"

    def _split_realm(self) -> tuple[str, str]:
        base, found, realm = self.realm_url.rpartition("/realms/")
        if not found or not realm or "/" in realm:
            raise ConfigurationError(
                f"c.Keycloak.issuer: {shown(self.realm_url)} is not a realm of Keycloak's; its "
                "address ends in /realms/NAME"
            )
        return base, realm

    def inside(self, url: str) -> str:
        """Return `url`, which Keycloak named, as it is reached from here."""
        if self.internal_url and url.startswith(f"{self.issuer}/"):
            return self.internal_url + url.removeprefix(self.issuer)
        return url

    # ---- how it is called ----

    def tls(self) -> ssl.SSLContext:
        """Return what decides which certificates are trusted.

        Raises:
            ConfigurationError: The file of certificates cannot be read or holds none.
        """
        try:
            return ssl.create_default_context(cafile=self.ca_file or None)
        except OSError as error:  # ssl.SSLError is one
            reason = error.strerror or "it holds no certificate"
            raise ConfigurationError(f"c.Keycloak.ca_file, {self.ca_file}: {reason}") from error

    def http(self) -> httpx.AsyncClient:
        """Return the connections to Keycloak of the running event loop; they are kept open.

        Redirects are not followed: none of what is asked has one.

        Raises:
            ConfigurationError: See :meth:`tls`.
        """
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None or client.is_closed:
            client = self._clients[loop] = self.new_client()
        return client

    def new_client(self) -> httpx.AsyncClient:
        """Return new connections to Keycloak, which nobody shares."""
        return httpx.AsyncClient(
            verify=self.tls(),
            timeout=self.timeout_seconds,
            limits=httpx.Limits(
                max_connections=_CONNECTIONS,
                max_keepalive_connections=_IDLE_CONNECTIONS,
                keepalive_expiry=_IDLE_SECONDS,
            ),
            headers={"User-Agent": f"qhub-auth/{__version__}", "Accept": "application/json"},
        )

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()
