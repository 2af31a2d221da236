"""Stands for a Dask scheduler: says to the gateway what its plug-in would say, and no more.

It starts in a twentieth of the time and memory of Dask's own, so that a hundred of them fit on one
machine. As dask-gateway's scheduler plug-in does, it tells of itself with a heartbeat, soon at
first and then every so often, takes a number of workers, and tells of it at once. No worker joins.
Standard library only: it runs as people whose cluster it is.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FIRST_SECONDS = 0.25
TIMEOUT_SECONDS = 60


class Scheduler:
    """What the gateway knows of it."""

    def __init__(self, port: int, period: float) -> None:
        """Take the gateway's address and the cluster's name and token from the environment."""
        self.token = os.environ["DASK_GATEWAY_API_TOKEN"]
        name = os.environ["DASK_GATEWAY_CLUSTER_NAME"]
        self.url = f"{os.environ['DASK_GATEWAY_API_URL']}/v1/clusters/{name}/heartbeat"
        self.port = port
        self.period = period
        self.count = 0
        self.changed = threading.Event()

    def message(self) -> dict[str, object]:
        """Return a heartbeat."""
        address = f"127.0.0.1:{self.port}"
        return {
            "scheduler_address": f"tls://{address}",
            "dashboard_address": f"http://{address}",
            "api_address": f"http://{address}",
            "count": self.count,
            "active_workers": [],
            "closing_workers": [],
            "closed_workers": [],
        }

    def tell(self) -> None:
        """Send heartbeats for ever."""
        pause = FIRST_SECONDS
        while True:
            self.changed.wait(pause)
            self.changed.clear()
            request = urllib.request.Request(  # noqa: S310 - the gateway's own address
                self.url,
                data=json.dumps(self.message()).encode(),
                headers={
                    "Authorization": f"token {self.token}",
                    "Content-Type": "application/json",
                },
            )
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310
                    pause = self.period
            except OSError:
                # as the plug-in: sooner than by itself, and less and less often
                pause = min(self.period, 2 * pause)


def handler(scheduler: Scheduler) -> type[BaseHTTPRequestHandler]:
    """Return what answers the gateway."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            allowed = self.headers.get("Authorization") == f"token {scheduler.token}"
            if allowed and body.get("op") == "scale":
                scheduler.count = int(body["count"])
                scheduler.changed.set()
            self.send_response(200 if allowed else 403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    return Handler


def main(arguments: list[str]) -> None:
    """Serve until somebody ends it."""
    period = float(arguments[arguments.index("--dg-heartbeat-period") + 1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    scheduler = Scheduler(server.server_address[1], period)
    server.RequestHandlerClass = handler(scheduler)
    threading.Thread(target=scheduler.tell, daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
