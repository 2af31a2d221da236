"""A real Dask-Gateway with qhub's backend as a process of its own, on a Slurm system or alone.

The proxy is started apart from the gateway, so that the gateway alone may be killed and started again.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from qhub_spawner.kubernetes import rights
from qhub_spawner.slurm import door_command

from .kubernetes import USER_IMAGE
from .kubernetes_hub import RESTRICTED
from .processes import Daemon, Ports, listening, wait_until
from .userenv import dask_environment

CONFIG = """
from qhub_gateway.options import ProfileOptions
from qhub_gateway.requests import Owner, Site
from qhub_spawner.catalogue import Catalogue
from qhub_spawner.profiles import Profile

c.DaskGateway.backend_class = "qhub_gateway.backend.QHubGatewayBackend"
c.DaskGateway.authenticator_class = "dask_gateway_server.auth.SimpleAuthenticator"
c.SimpleAuthenticator.password = "{password}"
c.DaskGateway.address = "127.0.0.1:{api_port}"
c.DaskGateway.log_level = "DEBUG"
c.Proxy.address = "{host}:{port}"
c.Proxy.tcp_address = "{host}:{tcp_port}"
c.Proxy.externally_managed = True
c.QHubGatewayBackend.db_url = "sqlite:///{folder}/gateway.sqlite"
c.QHubGatewayBackend.stop_clusters_on_shutdown = False
c.QHubGatewayBackend.cluster_heartbeat_period = 5
c.QHubGatewayBackend.cluster_heartbeat_timeout = 60
c.QHubGatewayBackend.gateway_id = "{gateway_id}"
c.QHubGatewayBackend.api_url = "http://{host}:{port}/api"

catalogue = Catalogue(tuple(Profile.model_validate(each) for each in {profiles!r}))
identities = {identities!r}


def options_of(user):
    owner = Owner(name=user.name, identity=identities.get(user.name))
    return ProfileOptions(catalogue, owner, site=Site())


c.QHubGatewayBackend.cluster_options = options_of
"""


KUBERNETES = """
c.KubeSpawner.namespace = "{namespace}"
c.KubeSpawner.image = "{image}"
c.KubeSpawner.image_pull_policy = "Never"
c.KubeSpawner.uid = 1000
c.KubeSpawner.gid = 1000
c.KubeSpawner.working_dir = "/tmp"
c.KubeSpawner.environment = {{"HOME": "/tmp"}}
# as in kubernetes_hub
c.KubernetesBackend.supplemental_groups_policy = "Merge"
"""


class GatewaySystem:
    """One gateway and its proxy.

    Attributes:
        folder: Where everything of it stands.
        url: Where clients come in.
        proxy_address: Where schedulers are reached, for clients.
        password: What anybody logs in with, by any name.
        namespace: Where its pods are, on Kubernetes; Pod Security `restricted` is enforced there.
        kubeconfig: That of its account there.
    """

    def __init__(
        self,
        folder: Path,
        *,
        slurm: Any = None,
        kubernetes: Any = None,
        transport: str = "command-line",
        config: str = "",
        profiles: Sequence[Mapping[str, Any]] = (),
        identities: Mapping[str, Any] | None = None,
        namespace: str | None = None,
    ) -> None:
        """Write the configuration; nothing is started.

        Args:
            folder: An empty folder for it.
            slurm: The Slurm system that clusters run on.
            kubernetes: The Kubernetes system that clusters run on; beside the gateway with neither.
            transport: How the gateway talks to Slurm.
            config: More lines of configuration, which win.
            profiles: In the place of "small" on the one system, or "job" and "pod" on both.
            identities: Those of people, by name.
            namespace: For pods; one of its own when None.
        """
        self.folder = folder
        self.ports = Ports()
        host = kubernetes.host_address if kubernetes else "127.0.0.1"
        api, http, tcp = self.ports.reserve(3)
        self.url, self.proxy_address = f"http://{host}:{http}", f"gateway://{host}:{tcp}"
        self.password, self._http = secrets.token_hex(8), http
        self.gateway_id = f"g{secrets.token_hex(4)}"
        text = CONFIG.format(
            password=self.password,
            api_port=api,
            host=host,
            port=http,
            tcp_port=tcp,
            folder=folder,
            gateway_id=self.gateway_id,
            profiles=[*profiles] or _profiles(slurm=bool(slurm), kubernetes=bool(kubernetes)),
            identities=dict(identities or {}),
        )
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "DASK_GATEWAY_PROXY_TOKEN": secrets.token_hex(16),
            "DASK_GATEWAY_ENCRYPT_KEYS": base64.b64encode(secrets.token_bytes(32)).decode(),
        }
        backends = [
            *(["slurm"] if slurm else []),
            *(["kubernetes"] if kubernetes else []),
        ] or ["local"]
        text += f"c.QHubGatewayBackend.backends = {json.dumps(backends)}\n"
        text += f'c.QHubGatewayBackend.local_folder = "{folder}/local"\n'
        if slurm:
            text += self._slurm(slurm, transport)
        if kubernetes:
            self.namespace = namespace or kubernetes.make_namespace(labels=RESTRICTED)
            self.kubeconfig = self._account(kubernetes)
            environment["KUBECONFIG"] = str(self.kubeconfig)
            text += KUBERNETES.format(namespace=self.namespace, image=USER_IMAGE)
        (folder / "config.py").write_text(text + config)
        self.proxy = self._daemon("proxy", ["proxy"], (http, host), environment)
        self.gateway = self._daemon("gateway", [], (api, "127.0.0.1"), environment)

    def _daemon(
        self, name: str, words: list[str], door: tuple[int, str], environment: Mapping[str, str]
    ) -> Daemon:
        argv = [sys.executable, "-m", "dask_gateway_server", *words]
        return Daemon(
            name=name,
            argv=[*argv, f"--config={self.folder}/config.py"],
            log=self.folder / f"{name}.log",
            record=self.folder / f"{name}.pid",
            ready=lambda: listening(*door),
            environment=environment,
            deadline_seconds=60,
        )

    def _account(self, kubernetes: Any) -> Path:
        """Give the gateway an account with its Role in the namespace; returns its kubeconfig."""
        given = kubernetes.service_account_kubeconfig(self.namespace, "gateway")
        site = rights.Site(namespace=self.namespace, gateway_account="gateway")
        kubernetes.apply(*rights.manifests(site))
        kubeconfig = self.folder / "kubeconfig"
        shutil.copy(given, kubeconfig)
        return kubeconfig

    def _slurm(self, slurm: Any, transport: str) -> str:
        lines = [
            f'c.SlurmBackend.transport = "{transport}"',
            f'c.SlurmBackend.slurm_conf = "{slurm.slurm_conf}"',
        ]
        if transport == "rest":
            lines += [
                f'c.SlurmBackend.rest_url = "{slurm.rest_url}"',
                'c.SlurmBackend.rest_user = "slurm"',
                f'c.SlurmBackend.jwt_key_file = "{slurm.jwt_key}"',
            ]
        else:
            # root's own sudo stands in for the sudo rule
            door = self.folder / "door"
            door.write_text(Path(door_command.__file__).read_text(encoding="utf-8"))
            door.chmod(0o755)
            lines.append(f'c.SlurmBackend.door_command = "{door}"')
        return "\n".join([*lines, ""])

    def start(self) -> None:
        """Start the proxy and the gateway, or what of them does not run."""
        for daemon in (self.proxy, self.gateway):
            daemon.launch()
        for daemon in (self.proxy, self.gateway):
            daemon.wait_ready()
        # the proxy asks the gateway for its routes, from time to time until it answers
        wait_until(self.answers, 60, "the gateway behind its proxy")

    def answers(self) -> bool:
        """Whether clients are answered, through the proxy."""
        # with another authenticator nobody is let in by a password
        accepted = {HTTPStatus.OK, HTTPStatus.UNAUTHORIZED}
        try:
            return self.api("GET", "clusters/", "nobody")[0] in accepted
        except OSError:
            return False

    def stop(self) -> None:
        """End both; clusters go on."""
        self.stop_parts()
        self.ports.release()

    def stop_parts(self) -> None:
        """End both, to be started again."""
        self.gateway.end()
        self.proxy.end()

    def api(self, method: str, path: str, user: str, body: Any = None) -> tuple[int, Any]:
        """Ask the gateway's API as `user`; returns the status and the JSON.

        Args:
            method: Of the request.
            path: Of dask-gateway's own API, or ``qhub/…``.
            user: Anybody.
            body: Sent as JSON.
        """
        basic = base64.b64encode(f"{user}:{self.password}".encode()).decode()
        request = urllib.request.Request(
            f"{self.url}/api/{path if path.startswith('qhub/') else f'v1/{path}'}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Basic {basic}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(errors="replace")

    def log(self) -> str:
        """Return what the gateway has written."""
        return (self.folder / "gateway.log").read_text(errors="replace")


def _profiles(*, slurm: bool, kubernetes: bool) -> list[dict[str, Any]]:
    common = {"cpu": 1, "memory": "300 MiB", "environment": {"prefix": str(dask_environment())}}
    job = {**common, "walltime": "1h", "slurm": {"partition": "general"}}
    pod = {
        "cpu": 1,
        "memory": "400 MiB",
        "walltime": "1h",
        "kubernetes": {"cpu_request": "10m", "memory_request": "64 MiB"},
    }
    if slurm and kubernetes:
        named = {"job": job, "pod": pod}
    else:
        named = {"small": job if slurm else pod if kubernetes else {**common, "local": {}}}
    return [{"slug": slug, "display_name": slug.title(), **each} for slug, each in named.items()]
