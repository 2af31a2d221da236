"""A hub whose groups are kept true by `qhub-group-sync`, and what a test does to that service."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from .keycloak.realms import Realm
from .keycloak_hub import KeycloakHub
from .processes import Daemon, tail


class SyncedHub(KeycloakHub):
    """One hub with its sync service; see `KeycloakHub`.

    Args:
        folder: Where everything of it stands.
        realm: Who logs in.
        config: More lines of jupyterhub_config.py, which the service reads as well.
        managed: Whether the hub starts the service; otherwise `start_service` does.
    """

    def __init__(
        self,
        folder: Path,
        realm: Realm,
        config: str = "",
        *,
        managed: bool = True,
        internal_url: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.sync_token = secrets.token_hex(16)
        super().__init__(
            folder,
            realm,
            _CONFIG.format(token=self.sync_token, managed=managed) + config,
            internal_url=internal_url,
            environment=environment,
        )
        self.settings = folder / "jupyterhub_config.py"
        self.service = Daemon(
            "qhub-group-sync",
            [*self._command(), "run"],
            folder / "group-sync.log",
            folder / "group-sync.pid",
            lambda: True,
            environment=self._service_environment(),
        )
        self.managed = managed

    def _command(self) -> list[str]:
        module = "qhub_auth.sync_service"
        return [sys.executable, "-m", module, "--config", str(self.settings)]

    def _service_environment(self) -> dict[str, str]:
        paths = {name: self.hub.environment[name] for name in ("PATH", "HOME")}
        if "PYTHONPATH" in self.hub.environment:
            paths["PYTHONPATH"] = self.hub.environment["PYTHONPATH"]
        return {
            **paths,
            "JUPYTERHUB_API_URL": f"{self.hub_url}hub/api",
            "JUPYTERHUB_API_TOKEN": self.sync_token,
        }

    def start(self) -> None:
        """Start hub, proxy and service."""
        super().start()
        self.start_service()

    def stop(self) -> None:
        """End all of them."""
        self.service.end()
        super().stop()

    def start_service(self) -> None:
        """Start the service, if the hub does not."""
        if not self.managed:
            self.service.launch()

    def kill_service(self) -> None:
        """End the service with SIGKILL; the hub starts it again if it is the hub's."""
        if self.managed:
            os.kill(self.service_pid(), signal.SIGKILL)
        else:
            self.service.end(grace_seconds=0)

    def service_pid(self) -> int:
        """The process of the service that the hub started."""
        for process in psutil.Process(self.hub.pid).children(recursive=True):
            if "qhub_auth.sync_service" in process.cmdline():
                return process.pid
        message = f"the hub has not started the service\n{tail(self.log, 40)}"
        raise RuntimeError(message)

    def service_log(self) -> str:
        """What the service said so far."""
        log = self.log if self.managed else self.service.log
        return log.read_text(errors="replace") if log.exists() else ""

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run another command of the service's program, e.g. ``report --json``."""
        return subprocess.run(
            [*self._command(), *words],
            env=self._service_environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def sync_status(self) -> dict[str, Any]:
        """How the service is."""
        answer = self.ask("status", "--json")
        found: dict[str, Any] = json.loads(answer.stdout)
        return found

    def groups_of(self, name: str) -> set[str]:
        """Somebody's groups at the hub."""
        return set(self.model(name)["groups"])

    def roles_of(self, name: str) -> set[str]:
        """Somebody's roles at the hub."""
        return set(self.model(name)["roles"])


_CONFIG = """
from qhub_auth.configure import group_sync
group_sync(
    c,
    config_file=__file__,
    api_token="{token}",
    managed={managed},
)
c.GroupSync.poll_seconds = 1
c.KeycloakAuthenticator.allow_all = True
"""
