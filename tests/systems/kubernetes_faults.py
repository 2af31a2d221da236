"""Faults that a test switches on between a hub and the API server: a proxy before it.

The hub talks to it without TLS; its token goes on to the API server.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

Kind = Literal["never-sent", "reply-lost", "held", "reply-held"]
_HELD_SECONDS = 120
_NOT_PASSED_ON = frozenset({"host", "connection", "content-length", "accept-encoding"})


@dataclass
class Fault:
    """What happens to requests of one kind, until it is over.

    Attributes:
        kind: ``never-sent`` (the connection closes, the API server hears nothing), ``reply-lost``
            (it closes when the API server has answered), ``held`` (the request waits before it is
            passed on), ``reply-held`` (the answer waits).
        method: Of the requests.
        part: What their path and query have in them.
        hits: How many there have been.
    """

    kind: Kind
    method: str
    part: str
    hits: int = 0
    over: threading.Event = field(default_factory=threading.Event)


class FaultyApi:
    """Stands before the API server, and spoils what a test says.

    Attributes:
        url: Where it listens, on loopback.
        asked: Method and path of every request.
    """

    def __init__(self, url: str, ca: Path) -> None:
        """Pass requests on to `url`; listens at once."""
        self.asked: list[tuple[str, str]] = []
        self._behind = urlsplit(url)
        self._context = ssl.create_default_context(cafile=str(ca))
        self._faults: list[Fault] = []
        self._streams: set[socket.socket] = set()
        self._closed = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.pass_on(self)

            do_POST = do_DELETE = do_PUT = do_PATCH = do_GET

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing of each request."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                """Connections break here all the time; that is what it is for."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    # ---- what a test says

    @contextlib.contextmanager
    def fault(self, kind: Kind, method: str, part: str) -> Iterator[Fault]:
        """Switch a fault on for the block; what it holds goes on after it."""
        fault = Fault(kind, method, part)
        self._faults.append(fault)
        try:
            yield fault
        finally:
            self._faults.remove(fault)
            fault.over.set()

    def drop_streams(self) -> int:
        """Break every watch there is; returns how many."""
        streams = list(self._streams)
        for stream in streams:
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
        return len(streams) // 2

    def count(self, method: str, part: str) -> int:
        """How many requests there were whose path and query have this in them."""
        return sum(asked == method and part in path for asked, path in list(self.asked))

    def lend(self, kubeconfig: Path) -> None:
        """Have the holder of a kubeconfig come through here."""
        document = json.loads(kubeconfig.read_text())
        document["clusters"][0]["cluster"] = {"server": self.url}
        owner = kubeconfig.stat()
        kubeconfig.write_text(json.dumps(document))
        os.chown(kubeconfig, owner.st_uid, owner.st_gid)

    def close(self) -> None:
        """Listen no longer, and let go of what is held."""
        self._closed.set()
        for fault in self._faults:
            fault.over.set()
        self.drop_streams()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    # ---- one request

    def pass_on(self, handler: BaseHTTPRequestHandler) -> None:
        """Ask the API server, and answer what the fault makes of its answer."""
        self.asked.append((handler.command, handler.path))
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        fault = self._fault_of(handler)
        handler.close_connection = True  # unless all goes well
        if fault is not None:
            fault.hits += 1
            if fault.kind == "never-sent":
                return
            if fault.kind == "held":
                fault.over.wait(_HELD_SECONDS)
        watches = "watch=true" in handler.path
        headers = {
            name: value
            for name, value in handler.headers.items()
            if name.lower() not in _NOT_PASSED_ON
        }
        behind = http.client.HTTPSConnection(
            str(self._behind.hostname),
            self._behind.port,
            context=self._context,
            timeout=None if watches else 60,
        )
        try:
            behind.request(handler.command, handler.path, body or None, headers)
            answer = behind.getresponse()
            if watches:
                self._stream(handler, behind, answer)
                return
            text = answer.read()
        except (OSError, http.client.HTTPException):
            return
        finally:
            behind.close()
        if fault is not None and fault.kind == "reply-held":
            fault.over.wait(_HELD_SECONDS)
        if fault is not None and fault.kind == "reply-lost":
            return
        handler.close_connection = False
        handler.send_response(answer.status)
        handler.send_header("Content-Type", answer.headers.get("Content-Type", ""))
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    def _fault_of(self, handler: BaseHTTPRequestHandler) -> Fault | None:
        for fault in list(self._faults):
            if fault.method == handler.command and fault.part in handler.path:
                return fault
        return None

    def _stream(
        self,
        handler: BaseHTTPRequestHandler,
        behind: http.client.HTTPSConnection,
        answer: http.client.HTTPResponse,
    ) -> None:
        handler.send_response(answer.status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        both = {handler.connection, behind.sock}
        self._streams |= both
        try:
            while piece := answer.read1(65536):
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            handler.wfile.write(b"0\r\n\r\n")
        finally:
            self._streams -= both
