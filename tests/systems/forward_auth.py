"""The forward-auth service behind a real Traefik, in front of an echo, with a realm to log in to."""

from __future__ import annotations

import os
import shutil
import ssl
import sys
import tempfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx
from cryptography.fernet import Fernet

from .echo import Echo
from .processes import Daemon, Ports

APPS, OTHER = "apps.localhost", "other.localhost"
HOSTS = (APPS, OTHER)
PREFIX = "/_qhub/"
ROUTES: list[dict[str, Any]] = [
    {"hosts": [APPS], "path": "/public", "public": True},
    {"hosts": [APPS], "path": "/grafana", "any_role": ["grafana_viewer"], "name": "Grafana"},
    {"hosts": [APPS], "path": "/prometheus", "all_roles": ["monitoring_viewer"]},
    {"hosts": [APPS], "path": "/physics", "any_group": ["/physics"], "name": "The physics pages"},
    {"hosts": [APPS], "path": "/team", "all_groups": ["/physics", "/physics/team-a"]},
    {"hosts": [APPS], "path": "/report", "methods": ["GET"], "signed_in": True},
    {"hosts": [APPS], "path": "/report", "any_role": ["jupyterhub_admin"]},
    {"hosts": [APPS], "path": "/api", "signed_in": True, "api": True},
    {"hosts": [APPS], "path": "/home", "signed_in": True},
    {"hosts": [OTHER], "signed_in": True},
]
HIDDEN = ["X-Qhub-Proxy", "Cookie", "Authorization"]
NAMED = ["X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups", "X-Forwarded-Roles"]


class Loopback(httpx.HTTPTransport):
    """Finds every name ending in ``.localhost`` on this machine, as browsers do."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send it to 127.0.0.1, by its own name."""
        host = request.url.host
        if host.endswith(".localhost"):
            request.url = request.url.copy_with(host="127.0.0.1")
            request.extensions = {**request.extensions, "sni_hostname": host}
        answer = super().handle_request(request)
        request.url = request.url.copy_with(host=host)
        return answer


class ForwardAuthSite:
    """Traefik, the service and the echo.

    Attributes:
        url: Of the first host, by https.
        other_url: Of the second.
        plain: Where Traefik listens for http, for requests that no client makes.
        log: Of the service.
        realm: Where people log in.
    """

    def __init__(
        self,
        traefik: Any,
        realm: Any,
        *,
        settings: Mapping[str, Any] | None = None,
        regex: bool = False,
        trust: bool = False,
    ) -> None:
        """Write everything; only the service and the echo are started.

        Args:
            traefik: A running `TraefikSystem`, which is set up anew.
            realm: A `Realm` with a client for forward-auth, which is set up too.
            settings: More of ``c.ForwardAuth``.
            regex: Whether Traefik takes headers by `authResponseHeadersRegex`.
            trust: What `trustForwardHeader` is.
        """
        self.traefik, self.realm = traefik, realm
        self.folder = Path(tempfile.mkdtemp(prefix="qforward-"))
        self.ports = Ports()
        (self.port,) = self.ports.reserve()
        self.echo = Echo()
        port = traefik.https.rpartition(":")[2]
        self.url, self.other_url = f"https://{APPS}:{port}", f"https://{OTHER}:{port}"
        self.plain = traefik.http
        self.log = self.folder / "forward-auth.log"
        keys = self.folder / "keys"
        keys.write_text(Fernet.generate_key().decode())
        keys.chmod(0o600)
        for name, text in (
            ("client-secret", realm.forward_auth_secret),
            ("proxy-secret", "canary-proxy"),
        ):
            (self.folder / name).write_text(text)
        own = {
            "routes": ROUTES,
            "bind": f"http://127.0.0.1:{self.port}",
            "keys_file": str(keys),
            "sessions_file": str(self.folder / "sessions.sqlite"),
            "proxy_secret_file": str(self.folder / "proxy-secret"),
            **(settings or {}),
        }
        lines = [f"c.ForwardAuth.{name} = {value!r}" for name, value in own.items()]
        lines += [
            f"c.Keycloak.issuer = {realm.issuer!r}",
            f"c.Keycloak.client_id = {realm.forward_auth_client_id!r}",
            f"c.Keycloak.client_secret_file = {str(self.folder / 'client-secret')!r}",
        ]
        config = self.folder / "forward_auth_config.py"
        config.write_text("c = get_config()\n" + "\n".join(lines) + "\n")
        self.service = Daemon(
            "qhub-forward-auth",
            [
                sys.executable,
                "-m",
                "qhub_auth.forward_auth.service",
                "--config",
                str(config),
                "--log-level=DEBUG",
            ],
            self.log,
            self.folder / "forward-auth.pid",
            self._healthy,
            environment={
                "PATH": os.environ.get("PATH", os.defpath),
                "PYTHONPATH": os.pathsep.join(str(Path(each).resolve()) for each in sys.path),
                "HOME": str(self.folder),
                "PYTHONDEVMODE": "1",
            },
            deadline_seconds=60,
        )
        self._regex, self._trust = regex, trust

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/health", timeout=2
            ) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def start(self) -> None:
        """Start the service and the echo, and set up Traefik and the realm's client."""
        origins = [self.url, self.other_url]
        self.realm.admin.update_client(
            self.realm.forward_auth_client_id,
            redirectUris=[f"{each}{PREFIX}callback" for each in origins],
            attributes={
                "post.logout.redirect.uris": "##".join(
                    f"{each}{PREFIX}signed-out" for each in origins
                ),
                "backchannel.logout.url": f"http://127.0.0.1:{self.port}{PREFIX}back-channel",
            },
        )
        self.echo.start()
        try:
            self.service.launch()
            self.service.wait_ready()
            self._set_up_traefik()
        except BaseException:
            self.stop()
            raise

    def _set_up_traefik(self) -> None:
        if self._regex:
            names = {"authResponseHeadersRegex": f"^({'|'.join([*NAMED, *HIDDEN])})$"}
        else:
            names = {"authResponseHeaders": [*NAMED, *HIDDEN]}
        hosts = " || ".join(f"Host(`{host}`)" for host in HOSTS)
        middlewares = ["proxy-secret", "signed-in"]
        routers: dict[str, dict[str, Any]] = {
            "pages": {
                "rule": f"({hosts}) && PathPrefix(`{PREFIX}`)",
                "service": "forward-auth",
                "middlewares": ["proxy-secret"],
                "priority": 1000,
                "tls": {},
            },
            "apps": {
                "rule": hosts, "service": "echo", "middlewares": middlewares, "tls": {},
                "entryPoints": ["websecure"],
            },
            # plain requests, for what no client would send; nobody is signed in there
            "plain": {
                "rule": hosts, "service": "echo", "middlewares": middlewares,
                "entryPoints": ["web"],
            },
        }  # fmt: skip
        self.traefik.configure(
            routers=routers,
            services={"echo": self.echo.url, "forward-auth": f"http://127.0.0.1:{self.port}"},
            middlewares={
                "proxy-secret": {
                    "headers": {"customRequestHeaders": {"X-Qhub-Proxy": "canary-proxy"}}
                },
                "signed-in": {
                    "forwardAuth": {
                        "address": f"http://127.0.0.1:{self.port}/verify",
                        "trustForwardHeader": self._trust,
                        "maxResponseBodySize": 65536,
                        **names,
                    }
                },
            },
        )

    def stop(self) -> None:
        """End the service and the echo."""
        self.service.end()
        self.echo.stop()
        self.ports.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def restart(self) -> None:
        """End the service and start it again."""
        self.service.end()
        self.service.launch()
        self.service.wait_ready()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    # ---- people and programs ----

    def tls(self) -> ssl.SSLContext:
        """What trusts Traefik's certificate."""
        return ssl.create_default_context(cafile=str(self.traefik.ca_file))

    def client(self, **headers: str) -> httpx.Client:
        """A client that keeps cookies, as a program does."""
        return httpx.Client(
            transport=Loopback(verify=self.tls()),
            headers={"Accept": "application/json", **headers},
            timeout=30,
        )

    def signed_in(self, name: str, path: str = "/home") -> httpx.Client:
        """A client of somebody who has logged in by Keycloak's real pages."""
        with self.client(Accept="text/html") as browser:
            answer = self.realm.log_in(browser, self.url + path, name)
            assert answer.status_code in {200, 403}, answer.text
            client = self.client()
            client.cookies = browser.cookies
        return client
