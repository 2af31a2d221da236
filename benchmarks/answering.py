"""What stands for the HTTP side of many servers: one that says yes to every path."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from types import TracebackType
from typing import Self


class _Handler(BaseHTTPRequestHandler):
    # the hub looks whether a server speaks its version before it believes that it runs
    def do_GET(self) -> None:
        body = b"{}"
        self.send_response(200)
        self.send_header("X-JupyterHub-Version", version("jupyterhub"))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 4096

    def handle_error(self, *_arguments: object) -> None:
        """Say nothing: a busy hub may give up, and asks again."""


class AnsweringServer:
    """A server for as long as the context lasts."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        """Bind a port of this address."""
        self._server = _Server((address, 0), _Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
