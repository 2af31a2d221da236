"""One Traefik as a process of its own, on loopback, configured by a file that it watches."""

from __future__ import annotations

import json
import shutil
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Self

from ..kubernetes.certificates import Authority
from ..processes import Daemon, Ports, wait_until
from .binaries import TRAEFIK

READY_SECONDS = 30
DEADLINE_SECONDS = 20


class TraefikSystem:
    """One Traefik.

    Attributes:
        folder: Where everything of it stands.
        http: Where it listens for http, ``127.0.0.1:PORT``.
        https: Where it listens for https.
        ca_file: What its certificate is to be checked by.
    """

    def __init__(
        self,
        *,
        hosts: Sequence[str] = ("localhost",),
        entry_point: Mapping[str, Any] | None = None,
        log_level: str = "INFO",
    ) -> None:
        """Write the static configuration; nothing is started.

        Args:
            hosts: Names in its certificate, besides 127.0.0.1.
            entry_point: More settings of both entry points, as Traefik's documentation has them.
            log_level: Of its log.

        Raises:
            SystemUnavailableError: It cannot be built.
        """
        program = TRAEFIK.ensure(lambda message: print(message, flush=True)) / "traefik"
        self.folder = Path(tempfile.mkdtemp(prefix="qtraefik-"))
        self.folder.chmod(0o755)
        self._ports = Ports()
        http, https, api = self._ports.reserve(3)
        self.http, self.https = f"127.0.0.1:{http}", f"127.0.0.1:{https}"
        self._api = f"http://127.0.0.1:{api}"
        self._configured = 0
        self.certificates = self.folder / "certificates"
        self.certificates.mkdir()
        Authority(self.certificates).issue(
            "traefik", "traefik", hosts=[*hosts, IPv4Address("127.0.0.1")]
        )
        self.ca_file = self.certificates / "ca.crt"
        self._dynamic = self.folder / "dynamic"
        self._dynamic.mkdir()
        more = dict(entry_point or {})
        static = {
            "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
            "log": {"level": log_level, "noColor": True},
            "entryPoints": {
                "web": {"address": self.http, **more},
                "websecure": {
                    "address": self.https,
                    **more,
                    "http": {**more.get("http", {}), "tls": {}},
                },
                "traefik": {"address": f"127.0.0.1:{api}"},
            },
            "api": {"insecure": True},
            "ping": {},
            "metrics": {"prometheus": {}},
            "providers": {"file": {"directory": str(self._dynamic), "watch": True}},
        }
        # YAML includes JSON
        (self.folder / "traefik.yml").write_text(json.dumps(static))
        self.log = self.folder / "traefik.log"
        self.daemon = Daemon(
            "traefik",
            [str(program), f"--configFile={self.folder}/traefik.yml"],
            self.log,
            self.folder / "traefik.pid",
            self._ready,
            environment={"PATH": "/usr/bin:/bin", "HOME": str(self.folder)},
            deadline_seconds=READY_SECONDS,
        )

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self._api}{path}", timeout=5) as answer:
            return answer.read()

    def _ready(self) -> bool:
        try:
            return bool(self._get("/ping") == b"OK")
        except OSError:
            return False

    def start(self) -> None:
        """Start it, and wait until it serves (1 s)."""
        self.daemon.launch()
        self.daemon.wait_ready()

    def stop(self, *, keep: bool = False) -> None:
        """End it, and remove its folder unless `keep`."""
        self.daemon.end()
        self._ports.release()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def configure(
        self,
        *,
        routers: Mapping[str, Mapping[str, Any]],
        services: Mapping[str, str],
        middlewares: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Set routers, services (each an address) and middlewares, and wait until they hold.

        Raises:
            NotReadyError: Traefik did not take a router; its log says why.
        """
        certificate = self.certificates / "traefik"
        tls = {"certFile": f"{certificate}.crt", "keyFile": f"{certificate}.key"}
        self._configured += 1
        # a router that only this configuration has shows when it holds
        mark = {"rule": f"Host(`configured-{self._configured}.invalid`)"}
        named = {
            **routers,
            f"configured-{self._configured}": {**mark, "service": next(iter(services))},
        }
        content = {
            "http": {
                "routers": named,
                "services": {
                    name: {"loadBalancer": {"servers": [{"url": url}], "passHostHeader": True}}
                    for name, url in services.items()
                },
                **({"middlewares": dict(middlewares)} if middlewares else {}),
            },
            "tls": {"stores": {"default": {"defaultCertificate": tls}}},
        }
        part = self.folder / "dynamic.part"
        part.write_text(json.dumps(content))
        part.rename(self._dynamic / "dynamic.yml")

        def enabled() -> set[str]:
            found = json.loads(self._get("/api/http/routers?per_page=1000"))
            return {each["name"] for each in found if each["status"] == "enabled"}

        wait_until(
            lambda: {f"{name}@file" for name in named} <= enabled(),
            DEADLINE_SECONDS,
            "Traefik's routers",
            poll_seconds=0.05,
        )
