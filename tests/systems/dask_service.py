"""A Dask gateway and its page as services that a hub runs, for the demo and for tests."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .gateway import KUBERNETES
from .hub import HubSystem
from .kubernetes import USER_IMAGE
from .processes import Ports, wait_until

NAME = "dask-gateway"
PAGE = "services/qhub/clusters"

_GATEWAY = """
c.DaskGateway.backend_class = "qhub_gateway.backend.QHubGatewayBackend"
c.DaskGateway.authenticator_class = "qhub_gateway.auth.HubAuthenticator"
c.DaskGateway.address = "{host}:{api_port}"
c.Proxy.address = "{host}:{http_port}"
c.Proxy.tcp_address = "{host}:{tcp_port}"
c.Proxy.prefix = "/services/{name}"
c.QHubGatewayBackend.api_url = "{url}/api"
c.QHubGatewayBackend.backends = {backends}
c.QHubGatewayBackend.local_folder = "{folder}/local"
c.QHubClusterConfig.scheduler_cmd = ["{python}", "-m", "distributed.cli.dask_scheduler"]
c.QHubClusterConfig.worker_cmd = ["{python}", "-m", "distributed.cli.dask_worker"]
c.People.profiles = "{profiles}"
c.People.clusters = {{"rules": {{"scheduler_memory": "500 MiB", "idle_timeout": "30 min"}}}}
"""
# jobs and pods of this machine have its address, or one that is set aside for tests
_PAGE = """
from distributed.utils import get_ip
c.WebService.dashboard_networks = [f"{get_ip()}/32", "127.0.0.0/8", "198.18.0.0/15"]
"""
_HUB = """
from qhub_gateway import configure
configure.gateway(
    c,
    address={url!r},
    proxy_address={proxy_address!r},
    public_address=c.JupyterHub.bind_url.rstrip("/") + "/services/{name}",
    run=configure.Run({gateway!r}, url={address!r}, environment={environment!r}),
)
configure.page(
    c,
    address={url!r},
    url="http://127.0.0.1:{page_port}",
    config_file={page!r},
    environment={environment!r},
)
"""


def on_kubernetes(cluster: Any, namespace: str, folder: Path, account: str) -> str:
    """Give a gateway an account with its Role; returns lines of its configuration.

    Args:
        cluster: A running Kubernetes system.
        namespace: Where pods run.
        folder: Where its kubeconfig is put.
        account: Of this machine, which reads it.
    """
    from qhub_spawner.kubernetes import rights

    given = cluster.service_account_kubeconfig(namespace, "gateway")
    site = rights.Site(namespace=namespace, gateway_account="gateway")
    cluster.apply(*rights.manifests(site))
    kubeconfig = folder / "gateway-kubeconfig"
    shutil.copy(given, kubeconfig)
    kubeconfig.chmod(0o400)
    shutil.chown(kubeconfig, account)
    lines = f'import os\n\nos.environ["KUBECONFIG"] = "{kubeconfig}"\n'
    return lines + KUBERNETES.format(namespace=namespace, image=USER_IMAGE)


@dataclass
class DaskService:
    """One gateway and its page, run by a hub.

    Attributes:
        folder: A folder of its own, which is made.
        backends: Where clusters run.
        profiles: The hub's own list of profiles, a file.
        python: That of clusters, where they run.
        host: This machine's address, as clusters and notebooks reach it.
        account: The hub's; ours when None.
        config: More lines of the gateway's configuration.
        environment: More of the environment of both.
    """

    folder: Path
    backends: Sequence[str]
    profiles: Path
    python: Path
    host: str = "127.0.0.1"
    account: str | None = None
    config: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take ports."""
        self._ports = Ports()
        self._api, self._http, self._tcp, self._page = self._ports.reserve(4)
        self.address = f"http://{self.host}:{self._http}"
        self.url = f"{self.address}/services/{NAME}"
        self.proxy_address = f"gateway://{self.host}:{self._tcp}"

    def _lines(self) -> str:
        """Write what gateway and page read, and return what the hub is configured with."""
        self.folder.mkdir(parents=True, exist_ok=True)
        gateway, page = self.folder / "gateway.py", self.folder / "page.py"
        text = _GATEWAY.format(
            host=self.host,
            api_port=self._api,
            http_port=self._http,
            tcp_port=self._tcp,
            name=NAME,
            url=self.url,
            backends=json.dumps([*self.backends]),
            folder=self.folder,
            python=self.python,
            profiles=self.profiles,
        )
        gateway.write_text(text + self.config)
        page.write_text(_PAGE)
        if self.account is not None:
            account = pwd.getpwnam(self.account)
            for path in (self.folder, gateway, page):
                os.chown(path, account.pw_uid, account.pw_gid)
        self.folder.chmod(0o700)
        return _HUB.format(
            url=self.url,
            proxy_address=self.proxy_address,
            name=NAME,
            gateway=str(gateway),
            page=str(page),
            address=self.address,
            environment=dict(self.environment),
            page_port=self._page,
        )

    def join(self, hub: HubSystem) -> None:
        """Have a hub that has not started yet run both."""
        with (hub.folder / "jupyterhub_config.py").open("a") as file:
            file.write(self._lines())

    def wait_ready(self, hub: HubSystem, deadline_seconds: float = 120) -> None:
        """Wait until both answer behind the hub's proxy, which learns of them a moment later.

        Raises:
            NotReadyError: They do not in time.
        """
        for path in (f"services/{NAME}/api/health", f"{PAGE}/page.css"):
            wait_until(
                lambda path=path: _answers(f"{hub.url}{path}"),
                deadline_seconds,
                f"an answer of {path}; see {hub.log}",
                poll_seconds=0.2,
            )

    def release(self) -> None:
        """Give the ports back."""
        self._ports.release()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
