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
import time
from urllib.parse import urlsplit, urlunsplit

LISTEN_SECONDS = 600.0
REPORT_SECONDS = 3600.0
TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
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
    try:
        bound.bind((host, 0))
    except OSError as error:
        bound.close()
        raise SystemExit(
            f"qhub: this node cannot listen at {host}: {error.strerror}; is c.QHubSpawner.ip right?"
        ) from error
    bound.set_inheritable(True)
    return bound


def listener_uid(host: str, port: int) -> int | None:
    """Return the uid that listens where `host` and `port` lead, or ``None`` while nobody does.

    Another user's listener on the same port of another address is none of ours.
    """
    addresses, found = _as_the_kernel_writes(host), None
    for table in TABLES:
        try:
            with open(table, encoding="ascii") as lines:  # noqa: PTH123 - no pathlib here
                next(lines)
                for line in lines:
                    # 0: 0100007F:9C41 00000000:0000 0A 00000000:00000000 00:00000000 0 1000 0 ...
                    fields = line.split()
                    address, _, number = fields[1].rpartition(":")
                    if fields[3] == _LISTEN and int(number, 16) == port and address in addresses:
                        found = int(fields[7])
                        if found == os.getuid():
                            return found
        except (OSError, StopIteration):
            continue
    return found


def _as_the_kernel_writes(host: str) -> set[str]:
    """Return `host`, and the addresses that mean all of them, as /proc/net/tcp has them."""
    plain = host.partition("%")[0]
    packed = socket.inet_pton(socket.AF_INET6 if ":" in plain else socket.AF_INET, plain)
    mapped = b"\0" * 10 + b"\xff\xff" + packed[:4]
    return {
        "".join(
            f"{int.from_bytes(each[start : start + 4], sys.byteorder):08X}"
            for start in range(0, len(each), 4)
        )
        for each in (packed, mapped, bytes(4), bytes(16))
    }


def accepts(address: tuple[str, int]) -> bool:
    """Return whether somebody listens at `address`."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(address) == 0


def wait_until_listening(address: tuple[str, int], server: int) -> bool:
    """Wait until this user listens at `address`; ``False`` when the server ended or took too long.

    A connection that is refused costs next to nothing. The kernel's table, which tells whose the
    listener is, takes milliseconds on a busy node, from the one core that the server starts on:
    it is read at the end only.
    """
    deadline = time.monotonic() + LISTEN_SECONDS
    while time.monotonic() < deadline:
        uid = listener_uid(address[0], address[1]) if accepts(address) else None
        if uid == os.getuid():
            return True
        if uid is not None:
            sys.stderr.write(f"qhub: port {address[1]} was taken by uid {uid}; not reporting it\n")
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
    import http.client  # noqa: PLC0415 - only the reporter needs it, not the start
    import ssl  # noqa: PLC0415

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
            if answer.status < 300:  # noqa: PLR2004 - success
                return True
            sys.stderr.write(f"qhub: the hub answered {answer.status}: {text}\n")
            if answer.status in {400, 409}:
                return False
        time.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
        pause = min(10.0, pause * 2)
    return False


def write_certificates() -> None:
    """Put internal-SSL keys, which come in the environment, where only the server can read them.

    That is memory without a name in any folder: the keys are gone with the server.
    """
    names = {"QHUB_SSL_KEY": "KEYFILE", "QHUB_SSL_CERT": "CERTFILE", "QHUB_SSL_CA": "CLIENT_CA"}
    for name, kind in names.items():
        if name in os.environ:
            memory = os.memfd_create(name, 0)  # without MFD_CLOEXEC: the server inherits it
            with open(memory, "w", encoding="ascii", closefd=False) as target:
                target.write(os.environ.pop(name))
            os.environ[f"JUPYTERHUB_SSL_{kind}"] = f"/proc/{os.getpid()}/fd/{memory}"


def main(argv: list[str]) -> None:
    """Start ``argv`` as the server. Returns only when it cannot be started."""
    if not argv:
        raise SystemExit("usage: singleuser.py COMMAND [ARGUMENT ...]")
    write_certificates()
    api_url = os.environ["JUPYTERHUB_API_URL"]
    wanted = urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])
    facing = facing_address(api_url)
    everywhere = {"0.0.0.0", "::"}  # nosec B104 # noqa: S104 - a comparison
    if wanted.hostname in everywhere and (":" in wanted.hostname) != (":" in facing):
        raise SystemExit(
            f"qhub: c.QHubSpawner.ip is {wanted.hostname!r}, but the hub is reached from {facing}: "
            "the server would listen with another version of IP than the hub uses"
        )
    bound = bind(wanted.hostname or facing)
    address = bound.getsockname()
    host, port = address[:2]
    bracketed = f"[{host}]" if ":" in host else host
    os.environ["JUPYTERHUB_SERVICE_URL"] = urlunsplit(wanted._replace(netloc=f"{bracketed}:{port}"))
    # a server that listens everywhere is reached where it faces the hub
    reported = facing if host in everywhere else host
    server = os.getpid()
    first = os.fork()
    if first == 0:
        # a grandchild, so that the server has no child it would have to wait for
        if os.fork() == 0:
            os.setsid()
            bound.close()
            if wait_until_listening(address, server):
                report(api_url, os.environ["JUPYTERHUB_API_TOKEN"], reported, port, server)
        os._exit(0)
    os.waitpid(first, 0)
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - there is no shell on purpose
    except OSError as error:
        raise SystemExit(
            f"qhub: cannot start {argv[0]}: {error.strerror}; is it installed in this environment?"
        ) from error


if __name__ == "__main__":
    main(sys.argv[1:])
