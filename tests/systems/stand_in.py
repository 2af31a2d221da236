"""A server that costs next to nothing, for drills with many: standard library only.

It listens where JUPYTERHUB_SERVICE_URL says and answers every request with who and where it is.
``?allocate=MIB`` makes it use so much memory, ``?touch=NAME`` make a file in its home. While the file that STAND_IN_HOLD names exists, it
does not listen yet. SIGTERM ends it, and stands in its log then.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

kept: list[bytearray] = []
LIFE = secrets.token_hex(8)


class Handler(BaseHTTPRequestHandler):
    """Answers everything."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Say who and where this is."""
        wanted = parse_qs(urlsplit(self.path).query).get("allocate", [])
        for name in parse_qs(urlsplit(self.path).query).get("touch", []):
            (Path.home() / name).touch()
        kept.extend(bytearray(b"x") * (int(mebibytes) * 2**20) for mebibytes in wanted)
        body = json.dumps(
            {
                "job": int(os.environ.get("SLURM_JOB_ID", "0")),
                "node": os.environ.get("SLURMD_NODENAME", ""),
                "user": os.environ.get("JUPYTERHUB_USER", ""),
                "scopes": os.environ.get("JUPYTERHUB_OAUTH_SCOPES", ""),
                "server": os.environ.get("JUPYTERHUB_SERVER_NAME", ""),
                "restarts": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "life": LIFE,
            }
        ).encode()
        self.send_response(200)
        self.send_header("X-JupyterHub-Version", "6.1.1")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Say nothing of each request."""


def asked_to_end(*_: object) -> None:
    """End as a server does that saves its work."""
    print("asked to end, ending", flush=True)
    os._exit(0)


def main() -> None:
    """Serve until ended."""
    signal.signal(signal.SIGTERM, asked_to_end)
    hold = os.environ.get("STAND_IN_HOLD")
    while hold and Path(hold).exists():
        time.sleep(0.05)
    url = urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])
    server = ThreadingHTTPServer((url.hostname or "", url.port or 0), Handler)
    print(f"listening on {url.hostname}:{url.port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
