"""``qhub-gateway-web``: the page of clusters and their dashboards, as a service of the hub.

Whoever looks is logged in by the hub (OAuth), and every question to the gateway is asked with the
token of that person: the service may do nothing by itself.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from typing import Any
from urllib.parse import urlsplit

from jupyterhub.services.auth import HubOAuthCallbackHandler
from jupyterhub.utils import url_path_join
from tornado import web
from tornado.httpserver import HTTPServer
from traitlets import List, Unicode
from traitlets.config import Application

from qhub_gateway.lifetime import end_with_hub
from qhub_gateway.web.addresses import networks_of
from qhub_gateway.web.dashboards import LARGEST_MESSAGE_BYTES, Dashboard
from qhub_gateway.web.gateway_door import GatewayDoor
from qhub_gateway.web.pages import Clusters, Json, Logs, Rows, Share, Static, Stop

__all__ = ["WebService", "main"]

_NAME = r"([0-9a-f]{32})"


class WebService(Application):
    """The page of clusters, as a service of the hub."""

    name = Unicode("qhub-gateway-web")
    description = Unicode("The page of Dask clusters, as a service of the hub.")
    gateway_address = Unicode(
        config=True,
        help="""
        The gateway's address, as this service reaches it. Default: ``QHUB_GATEWAY_ADDRESS``.

        Example: ``http://127.0.0.1:8000``
        """,
    )
    dashboard_networks = List(
        Unicode(),
        default_value=["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"],
        config=True,
        help="""
        The networks where schedulers run; dashboards elsewhere are not shown. A scheduler says
        itself where its dashboard is, so list no network with anything else that must not be
        looked at. Default: the private ones; never this machine itself.
        """,
    )
    config_file = Unicode(config=True, help="A file with more configuration. Default: none.")
    aliases = {  # noqa: RUF012 - as traitlets has it
        "config": "WebService.config_file",
        "gateway": "WebService.gateway_address",
    }

    base: str
    door: GatewayDoor

    def initialize(self, argv: Any = None) -> None:  # noqa: ANN401 - as traitlets has it
        """Read the configuration."""
        super().initialize(argv)
        if self.config_file:
            self.load_config_file(self.config_file)
        prefix = os.environ.get("JUPYTERHUB_SERVICE_PREFIX", "/services/qhub/")
        self.prefix = prefix
        self.base = url_path_join(prefix, "clusters")
        self.networks = networks_of(self.dashboard_networks)
        self.door = GatewayDoor(self.gateway_address or os.environ["QHUB_GATEWAY_ADDRESS"])

    def application(self) -> web.Application:
        """Return the service."""
        own, base = {"service": self}, self.base
        return web.Application(
            [
                (base, Clusters, own),
                (f"{base}/rows", Rows, own),
                (f"{base}/list.json", Json, own),
                (f"{base}/(page[.]css|page[.]js)", Static),
                (f"{base}/{_NAME}/stop", Stop, own),
                (f"{base}/{_NAME}/logs", Logs, own),
                (f"{base}/{_NAME}/sharing", Share, own),
                (f"{base}/{_NAME}/dashboard/(.*)", Dashboard, own),
                (url_path_join(self.prefix, "oauth_callback"), HubOAuthCallbackHandler),
                (r"/?|" + self.prefix.rstrip("/") + "/?", web.RedirectHandler, {"url": base}),
            ],
            cookie_secret=secrets.token_bytes(32),
            xsrf_cookies=True,
            websocket_ping_interval=30,
            websocket_max_message_size=LARGEST_MESSAGE_BYTES,
        )

    def start(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        url = urlsplit(os.environ.get("JUPYTERHUB_SERVICE_URL", "http://127.0.0.1:9190"))
        server = HTTPServer(self.application(), xheaders=True)
        server.listen(url.port or 9190, url.hostname or "127.0.0.1")
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        watching = asyncio.ensure_future(end_with_hub(os.environ))
        await ended.wait()
        watching.cancel()
        server.stop()
        await server.close_all_connections()


def main() -> None:
    """Run the service."""
    WebService.launch_instance()


if __name__ == "__main__":
    main()
