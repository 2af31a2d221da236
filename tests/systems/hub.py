"""A real JupyterHub with a real proxy as processes of their own, for the demo, tests and benches.

The proxy is started apart from the hub, so that the hub alone may be killed and started again.
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from .kernel import run_in_kernel
from .processes import Daemon, NotReadyError, Ports, identity, listening, tail, wait_until

API_SECONDS = 60


@dataclass(frozen=True)
class Answer:
    """What the hub's API answered; `json` is None where the body is not JSON."""

    status: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def json(self) -> Any:
        """The body as JSON."""
        try:
            return json.loads(self.text)
        except ValueError:
            return None


class HubSystem:
    """One hub and its proxy.

    Attributes:
        folder: Where everything of it stands; readable by its account alone.
        url: What people open; ends in a slash.
        token: An API token that may do everything.
    """

    def __init__(
        self,
        folder: Path,
        config: str,
        *,
        environment_bin: Path,
        python_path: Path | None = None,
        user: str | None = None,
        port: int | None = None,
        hub_address: str = "127.0.0.1",
        environment: Mapping[str, str] | None = None,
        log_level: str = "INFO",
    ) -> None:
        """Write the configuration; nothing is started.

        Args:
            folder: A folder of its own, which is made.
            config: More lines of jupyterhub_config.py.
            environment_bin: Where jupyterhub and configurable-http-proxy are.
            python_path: Put before the environment's own packages, e.g. a built product.
            user: The account that hub and proxy run as; ours when None.
            port: Where people come in; any free one when None.
            hub_address: Where the hub itself listens, for servers and the proxy.
            environment: More of the hub's environment.
            log_level: Of the hub.
        """
        self.folder = folder
        self.user = user
        self.ports = Ports()
        public, self.hub_port, api = self.ports.reserve(3)
        self.port = port or public
        self.url = f"http://127.0.0.1:{self.port}/"
        self.hub_url = f"http://{hub_address}:{self.hub_port}/"
        self.token = secrets.token_hex(16)
        proxy_token = secrets.token_hex(16)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "jupyterhub_config.py").write_text(
            _CONFIG.format(
                port=self.port,
                hub_url=self.hub_url,
                api=api,
                proxy_token=proxy_token,
                token=self.token,
                log_level=log_level,
            )
            + config
        )
        if user is not None:
            account = pwd.getpwnam(user)
            for path in (folder, folder / "jupyterhub_config.py"):
                os.chown(path, account.pw_uid, account.pw_gid)
            folder.chmod(0o700)
        path = f"{environment_bin}:{os.environ.get('PATH', os.defpath)}"
        own = {
            "PATH": path if user is None else f"{environment_bin}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "CONFIGPROXY_AUTH_TOKEN": proxy_token,
            **({"PYTHONPATH": str(python_path)} if python_path else {}),
            **(environment or {}),
        }
        self.log = folder / "hub.log"
        self.proxy = Daemon(
            "proxy",
            [
                str(environment_bin / "configurable-http-proxy"),
                f"--port={self.port}",
                "--ip=127.0.0.1",
                "--api-ip=127.0.0.1",
                f"--api-port={api}",
                f"--error-target={self.hub_url}hub/error",
                f"--default-target={self.hub_url}",
                "--log-level=warn",
            ],
            folder / "proxy.log",
            folder / "proxy.pid",
            lambda: listening(self.port) and listening(api),
            user=user,
            environment=own,
        )
        argv = [str(environment_bin / "jupyterhub"), "-f", str(folder / "jupyterhub_config.py")]
        self.hub = Daemon(
            "hub",
            ["sh", "-c", 'cd "$0" && exec "$@"', str(folder), *argv],
            self.log,
            folder / "hub.pid",
            self._healthy,
            user=user,
            environment=own,
            deadline_seconds=60,
        )

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}hub/api/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    # ---- processes ----

    def start(self) -> None:
        """Start proxy and hub, and wait until the hub answers through the proxy."""
        try:
            self.proxy.launch()
            self.proxy.wait_ready()
            self.hub.launch()
            self.hub.wait_ready()
        except BaseException:
            self.hub.end()
            self.proxy.end()
            raise

    def stop(self) -> None:
        """End hub and proxy; the servers of people go on."""
        self.hub.end()
        self.proxy.end()
        self.ports.release()

    def kill(self) -> None:
        """End the hub with SIGKILL."""
        self.hub.end(grace_seconds=0)

    def restart(self) -> None:
        """Start the hub again after `kill`."""
        self.hub.launch()
        self.hub.wait_ready()

    def pause(self) -> None:
        """Stop the hub's clockwork (SIGSTOP)."""
        self.hub.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.hub.signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def run(self, argv: Sequence[str]) -> str:
        """Run a command as the hub's account, with its environment."""
        import subprocess

        extra: dict[str, Any] = identity(self.user) if self.user else {}
        return subprocess.run(
            argv, env=self.hub.environment, check=True, capture_output=True, text=True, **extra
        ).stdout

    # ---- the API ----

    def api(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        raw: bytes | None = None,
        timeout: float = API_SECONDS,
    ) -> Answer:
        """Ask ``/hub/api/PATH``; every status is an answer, none is raised."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.hub_url}hub/api/{path}",
            data=data,
            method=method,
            headers={"Authorization": f"token {token or self.token}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return Answer(answer.status, answer.read().decode(), dict(answer.headers))
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read().decode(errors="replace"), dict(error.headers))

    def add_user(self, name: str) -> None:
        """Make a user of the hub; one that is there already is left as it is."""
        self.api("POST", f"users/{quote(name)}")

    def user_token(self, name: str) -> str:
        """Return a token of a user, with the user's own rights."""
        answer = self.api("POST", f"users/{quote(name)}/tokens", {"note": "test"})
        return str(answer.json["token"])

    def start_server(self, name: str, options: object = None, server: str = "") -> Answer:
        """Ask the hub to start a server; 201 when it is up, 202 when it is still starting."""
        return self.api("POST", _server(name, server), options)

    def stop_server(self, name: str, server: str = "") -> Answer:
        """Ask the hub to stop a server; 204 when it is down, 202 when it is still stopping."""
        return self.api("DELETE", _server(name, server))

    def server(self, name: str, server: str = "") -> dict[str, Any] | None:
        """Return the hub's model of a user's server; None when there is none."""
        answer = self.api("GET", f"users/{quote(name)}?include_stopped_servers=1")
        servers = (answer.json or {}).get("servers") or {}
        found: dict[str, Any] | None = servers.get(server)
        return found

    def wait_ready(self, name: str, server: str = "", deadline_seconds: float = 120) -> None:
        """Wait until a server is ready.

        Raises:
            NotReadyError: It is not in time, or is neither ready nor starting; with the hub's log.
        """

        def ready_or_over() -> str:
            model = self.server(name, server) or {}
            return "ready" if model.get("ready") else "" if model.get("pending") else "over"

        what = f"the server {name}/{server}"
        if wait_until(ready_or_over, deadline_seconds, what, poll_seconds=0.1) == "over":
            message = f"{what} is not starting any more; the hub's log:\n{tail(self.log, 40)}"
            raise NotReadyError(message)

    def wait_stopped(self, name: str, server: str = "", deadline_seconds: float = 60) -> None:
        """Wait until the hub says that a server is neither there nor pending."""

        def stopped() -> bool:
            model = self.server(name, server)
            return (
                model is None
                or model.get("stopped") is True
                or (not model.get("ready") and not model.get("pending"))
            )

        wait_until(stopped, deadline_seconds, f"the end of {name}/{server}", poll_seconds=0.1)

    def progress(self, name: str, server: str = "", seconds: float = 60) -> list[dict[str, Any]]:
        """Return the events of a start, as the waiting page gets them."""
        request = urllib.request.Request(
            f"{self.hub_url}hub/api/{_server(name, server)}/progress",
            headers={"Authorization": f"token {self.token}"},
        )
        events = []
        deadline = time.monotonic() + seconds
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            for line in answer:
                if line.startswith(b"data:"):
                    events.append(json.loads(line[5:]))
                if time.monotonic() > deadline:
                    break
        return events

    async def run_code(self, name: str, code: str, server: str = "", token: str = "") -> str:
        """Run code in a new kernel of a running server, over its websocket; return what it prints.

        Raises:
            RuntimeError: The kernel reported an error.
        """
        token = token or self.user_token(name)
        base = f"{self.url}user/{quote(name)}/" + (f"{quote(server)}/" if server else "")
        return await run_in_kernel(base, {"Authorization": f"token {token}"}, code)


def _server(name: str, server: str) -> str:
    return f"users/{quote(name)}/" + (f"servers/{quote(server)}" if server else "server")


_CONFIG = """\
c = get_config()
c.JupyterHub.bind_url = "http://127.0.0.1:{port}/"
c.JupyterHub.hub_bind_url = "{hub_url}"
c.JupyterHub.cleanup_servers = False
c.JupyterHub.cleanup_proxy = False
c.JupyterHub.allow_named_servers = True
c.JupyterHub.log_level = "{log_level}"
c.JupyterHub.spawner_class = "qhub"
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api}"
c.ConfigurableHTTPProxy.auth_token = "{proxy_token}"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.Authenticator.admin_users = {{"admin"}}
c.JupyterHub.services = [{{"name": "check", "api_token": "{token}"}}]
c.JupyterHub.load_roles = [
    {{
        "name": "check-everything",
        "services": ["check"],
        "scopes": ["admin:users", "admin:servers", "admin:groups", "tokens", "access:servers"],
    }}
]
"""
