"""Start a single-user server inside a job: bind a port, start the server, report the address.

This file runs in the job, with the person's own Python and environment, and needs nothing but
the standard library: the hub puts its text into the batch script. What it does, in order:

1. find the interface that faces the hub (the one a connection to the hub's API leaves by), unless
   the hub's ``ip`` names another;
2. bind a port there that the kernel chooses, and keep it bound: nobody else is given that port
   while the server starts;
3. become the server (``exec``), told its port by ``JUPYTERHUB_SERVICE_URL``;
4. from a detached process, wait until a socket of this user listens on the port, then tell the hub
   host and port, once, with the server's own token, again and again until the hub has it.

Usage: ``python3 singleuser.py COMMAND [ARGUMENT ...]``
"""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import tempfile
import time
from urllib.parse import urlsplit, urlunsplit

LISTEN_SECONDS = 600.0
REPORT_SECONDS = 3600.0
_LISTEN = "0A"  # st column of /proc/net/tcp, see proc(5)


def facing_address(api_url: str) -> str:
    """Return the local address from which this machine reaches `api_url`.

    Nothing is sent: connecting a datagram socket only asks for the route.
    """
    parts = urlsplit(api_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    error: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(
        parts.hostname, port, type=socket.SOCK_DGRAM
    ):
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(address)
                return str(probe.getsockname()[0])
        except OSError as failure:
            error = failure
    message = f"no route to the hub at {parts.hostname}:{port}: {error}"
    raise SystemExit(message)


def bind(host: str) -> socket.socket:
    """Bind a port of the kernel's choice on `host` without listening on it.

    With SO_REUSEADDR on both, the server may bind the same port as long as this socket does not
    listen, while the kernel gives the port to nobody who asks for any free one (socket(7)).
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, 0))
    bound.set_inheritable(True)
    return bound


def listener_uid(port: int) -> int | None:
    """Return the uid that listens on `port`, or ``None`` while nobody does."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as lines:
                next(lines)
                for line in lines:
                    # 0: 0100007F:9C41 00000000:0000 0A 00000000:00000000 00:00000000 0 1000 0 ...
                    fields = line.split()
                    if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                        return int(fields[7])
        except (OSError, StopIteration):
            continue
    return None


def wait_until_listening(port: int, server: int) -> bool:
    """Wait until this user listens on `port`; ``False`` when the server ended or took too long."""
    deadline = time.monotonic() + LISTEN_SECONDS
    while time.monotonic() < deadline:
        uid = listener_uid(port)
        if uid == os.getuid():
            return True
        if uid is not None:
            sys.stderr.write(f"qhub: port {port} was taken by uid {uid}; not reporting it\n")
            return False
        try:
            os.kill(server, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.02)
    sys.stderr.write(f"qhub: the server did not listen within {LISTEN_SECONDS:.0f} s\n")
    return False


def report(api_url: str, token: str, host: str, port: int, server: int) -> bool:
    """Tell the hub the address, until it answers; ``False`` when it refuses or the server ended."""
    import http.client
    import ssl

    parts = urlsplit(api_url)
    body = json.dumps({"host": host, "port": port})
    headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}
    pause, deadline = 0.1, time.monotonic() + REPORT_SECONDS
    while time.monotonic() < deadline:
        try:
            os.kill(server, 0)
            connection: http.client.HTTPConnection
            if parts.scheme == "https":
                context = ssl.create_default_context(
                    cafile=os.environ.get("JUPYTERHUB_SSL_CLIENT_CA") or None
                )
                if os.environ.get("JUPYTERHUB_SSL_CERTFILE"):
                    context.load_cert_chain(
                        os.environ["JUPYTERHUB_SSL_CERTFILE"], os.environ["JUPYTERHUB_SSL_KEYFILE"]
                    )
                connection = http.client.HTTPSConnection(
                    parts.hostname or "", parts.port, timeout=20, context=context
                )
            else:
                connection = http.client.HTTPConnection(
                    parts.hostname or "", parts.port, timeout=20
                )
            connection.request("POST", f"{parts.path}/qhub/address", body, headers)
            answer = connection.getresponse()
            text = answer.read(2000).decode(errors="replace")
            connection.close()
        except ProcessLookupError:
            return False
        except (OSError, http.client.HTTPException) as error:
            sys.stderr.write(f"qhub: cannot reach the hub yet: {error}\n")
        else:
            if answer.status < 300:
                return True
            sys.stderr.write(f"qhub: the hub answered {answer.status}: {text}\n")
            if answer.status in {400, 409}:
                return False
        time.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
        pause = min(10.0, pause * 2)
    return False


def write_certificates() -> None:
    """Put internal-SSL keys, which come in the environment, into files only this user reads."""
    names = {"QHUB_SSL_KEY": "KEYFILE", "QHUB_SSL_CERT": "CERTFILE", "QHUB_SSL_CA": "CLIENT_CA"}
    present = {name: os.environ.pop(name) for name in names if name in os.environ}
    if not present:
        return
    folder = tempfile.mkdtemp(prefix="qhub-ssl-")
    for name, text in present.items():
        path = os.path.join(folder, name)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as target:
            target.write(text)
        os.environ[f"JUPYTERHUB_SSL_{names[name]}"] = path


def main(argv: list[str]) -> None:
    """Start ``argv`` as the server. Returns only when it cannot be started."""
    if not argv:
        raise SystemExit("usage: singleuser.py COMMAND [ARGUMENT ...]")
    write_certificates()
    api_url = os.environ["JUPYTERHUB_API_URL"]
    wanted = urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])
    facing = facing_address(api_url)
    bound = bind(wanted.hostname or facing)
    port = bound.getsockname()[1]
    host = bound.getsockname()[0]
    bracketed = f"[{host}]" if ":" in host else host
    os.environ["JUPYTERHUB_SERVICE_URL"] = urlunsplit(
        wanted._replace(netloc=f"{bracketed}:{port}")
    )
    # a server that listens everywhere is reached where it faces the hub
    reported = facing if host in {"0.0.0.0", "::"} else host  # noqa: S104 - a comparison
    server = os.getpid()
    first = os.fork()
    if first == 0:
        # a grandchild, so that the server has no child it would have to wait for
        if os.fork() == 0:
            os.setsid()
            bound.close()
            if wait_until_listening(port, server):
                report(api_url, os.environ["JUPYTERHUB_API_TOKEN"], reported, port, server)
        os._exit(0)
    os.waitpid(first, 0)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        raise SystemExit(
            f"qhub: cannot start {argv[0]}: {error.strerror}; is it installed in this environment?"
        ) from error


if __name__ == "__main__":
    main(sys.argv[1:])
