"""The program that starts a server inside a job: its port, whose it is, and the report."""

from __future__ import annotations

import ast
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from qhub_spawner import singleuser
from tests.unit import recorded

LISTENING = {
    (address, int(port, 16)): int(fields[7])
    for table in ("tcp", "tcp6")
    for line in recorded.text(f"proc-net-{table}.txt").splitlines()[1:]
    if (fields := line.split())[3] == "0A"
    for address, _, port in [fields[1].rpartition(":")]
}


@pytest.fixture
def recorded_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have it read the recorded tables in place of the kernel's."""
    paths = tuple(str(recorded.FOLDER / f"proc-net-{table}.txt") for table in ("tcp", "tcp6"))
    monkeypatch.setattr(singleuser, "TABLES", paths)


def port_of(address: str) -> int:
    """Return a port that somebody of the recording listens on there."""
    return next(port for where, port in LISTENING if where == address)


@pytest.mark.usefixtures("recorded_tables")
class TestListener:
    """Whose a port is, out of /proc/net/tcp."""

    def test_recorded_loopback(self) -> None:
        """A listener of a person, told by uid."""
        for (address, port), uid in LISTENING.items():
            if address == "0100007F":
                assert singleuser.listener_uid("127.0.0.1", port) == uid

    def test_recorded_wildcard(self) -> None:
        """Who listens everywhere listens here too."""
        assert singleuser.listener_uid("127.0.0.1", port_of("00000000")) is not None
        assert singleuser.listener_uid("198.18.0.7", port_of("00000000")) is not None

    def test_recorded_ipv6(self) -> None:
        """The other table, the other form."""
        loopback = port_of("00000000000000000000000001000000")
        assert singleuser.listener_uid("::1", loopback) == 0
        assert singleuser.listener_uid("::2", loopback) is None
        assert singleuser.listener_uid("::1", port_of("0" * 32)) == 0
        assert singleuser.listener_uid("fe80::1%eth0", port_of("0" * 32)) == 0
        # a socket of :: takes IPv4 as well
        assert singleuser.listener_uid("127.0.0.1", port_of("0" * 32)) == 0

    def test_another_address_is_none_of_ours(self) -> None:
        """Somebody else on the same port of another address takes nothing from us."""
        assert singleuser.listener_uid("198.18.0.7", port_of("0100007F")) is None

    def test_nobody(self) -> None:
        """A connection, or one that is closing, is no listener."""
        for line in recorded.text("proc-net-tcp.txt").splitlines()[1:]:
            fields = line.split()
            port = int(fields[1].rpartition(":")[2], 16)
            if fields[3] != "0A" and port not in {number for _, number in LISTENING}:
                assert singleuser.listener_uid("127.0.0.1", port) is None

    def test_no_tables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where there is no such file, nothing is known."""
        monkeypatch.setattr(singleuser, "TABLES", ("/nonexistent", "/dev/null"))
        assert singleuser.listener_uid("127.0.0.1", 80) is None


@pytest.mark.enable_socket
class TestBind:
    """A port of the kernel's choice, kept until the server has it."""

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    def test_the_server_can_have_it(self, host: str) -> None:
        """The server binds the same port while it is still held."""
        with singleuser.bind(host) as held:
            where = held.getsockname()[:2]
            assert not singleuser.accepts(where)
            with socket.create_server(where, family=held.family):
                assert singleuser.accepts(where)
                assert singleuser.listener_uid(*where) == os.getuid()

    def test_nobody_else_is_given_it(self) -> None:
        """While it is held, the kernel gives the port to nobody who asks for any."""
        with singleuser.bind("127.0.0.1") as held:
            port = held.getsockname()[1]
            others = [singleuser.bind("127.0.0.1") for _ in range(200)]
            try:
                assert port not in {other.getsockname()[1] for other in others}
            finally:
                for other in others:
                    other.close()

    def test_a_foreign_host(self) -> None:
        """An address that is not of this machine cannot be bound."""
        with pytest.raises(
            SystemExit, match=r"listen at 198.18.255.254.*is c.QHubSpawner.ip right"
        ):
            singleuser.bind("198.18.255.254")

    def test_facing(self) -> None:
        """The address from which the hub is reached."""
        assert singleuser.facing_address("http://127.0.0.1:8081/hub/api") == "127.0.0.1"
        assert singleuser.facing_address("http://[::1]:8081/hub/api") == "::1"
        assert singleuser.facing_address("https://127.0.0.1/hub/api") == "127.0.0.1"


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub that answers what it is told to."""

    statuses: ClassVar[list[int]]
    requests: ClassVar[list[tuple[str, str | None, Any]]]

    def do_POST(self) -> None:
        """Take a report."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.requests.append((self.path, self.headers["Authorization"], json.loads(body)))
        status = self.statuses.pop(0) if self.statuses else 204
        self.send_response(status)
        self.end_headers()
        if status != 204:
            self.wfile.write(b"words")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    """A hub on loopback: its API's address, and what it was asked."""

    class Fresh(Hub):
        statuses: ClassVar[list[int]] = []
        requests: ClassVar[list[tuple[str, str | None, Any]]] = []

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fresh) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hub/api", Fresh
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Keep the pauses that it would make."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


@pytest.mark.enable_socket
class TestReport:
    """Host and port, with the server's own token, until the hub has them."""

    def report(self, url: str, server: int | None = None) -> bool:
        """Report an address of a server that lives."""
        return singleuser.report(url, "token-7", "198.18.0.7", 4711, server or os.getpid())

    def test_once(self, hub: Any) -> None:
        """One request, with exactly host and port."""
        url, asked = hub
        assert self.report(url)
        assert asked.requests == [
            ("/hub/api/qhub/address", "token token-7", {"host": "198.18.0.7", "port": 4711})
        ]

    @pytest.mark.parametrize("status", [503, 500, 502, 403, 404])
    def test_again(self, hub: Any, no_pauses: list[float], status: int) -> None:
        """A hub that is not ready is asked again, after longer and longer pauses."""
        url, asked = hub
        asked.statuses += [status] * 9
        assert self.report(url)
        assert len(asked.requests) == 10
        assert len(no_pauses) == 9
        assert no_pauses[0] < 0.2
        assert 5 < no_pauses[-1] <= 12

    @pytest.mark.parametrize("status", [400, 409])
    def test_refused(
        self, hub: Any, no_pauses: list[float], status: int, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """An address that the hub does not take is not reported again; the log says its words."""
        url, asked = hub
        asked.statuses.append(status)
        assert not self.report(url)
        assert len(asked.requests) == 1
        assert f"the hub answered {status}: words" in capfd.readouterr().err

    def test_no_hub_yet(
        self, hub: Any, no_pauses: list[float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A hub that is being restarted is waited for."""
        url, asked = hub
        with singleuser.bind("127.0.0.1") as nobody:
            closed = f"http://127.0.0.1:{nobody.getsockname()[1]}/hub/api"
            monkeypatch.setattr(singleuser, "REPORT_SECONDS", 0.2)
            assert not self.report(closed)
        assert no_pauses
        assert self.report(url)
        assert len(asked.requests) == 1

    def test_the_server_has_ended(self, hub: Any) -> None:
        """Nobody reports a server that is not there."""
        url, asked = hub
        with subprocess.Popen(["true"]) as ended:
            ended.wait()
        assert not self.report(url, ended.pid)
        assert asked.requests == []

    def test_the_token_is_not_written(
        self, hub: Any, no_pauses: list[float], capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Not even when all goes wrong."""
        url, asked = hub
        asked.statuses += [500, 403, 400]
        self.report(url)
        captured = capfd.readouterr()
        assert "token-7" not in captured.out + captured.err


@pytest.mark.enable_socket
class TestWaiting:
    """Until the server listens."""

    def test_the_server_ended(self) -> None:
        """A server that ends is not waited for."""
        with subprocess.Popen(["true"]) as ended:
            ended.wait()
        with singleuser.bind("127.0.0.1") as held:
            assert not singleuser.wait_until_listening(held.getsockname(), ended.pid)

    def test_somebody_else_took_the_port(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Another user's listener is never reported as this server."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            real = os.getuid()
            monkeypatch.setattr(os, "getuid", lambda: real + 1)
            assert not singleuser.wait_until_listening(listener.getsockname(), os.getpid())
        assert f"was taken by uid {real}" in capfd.readouterr().err


SERVER = """
import http.server, os, urllib.parse
parts = urllib.parse.urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])
keys = {key: open(path).read() for key, path in os.environ.items() if "JUPYTERHUB_SSL" in key}
left = "QHUB_SSL_KEY" in os.environ
print(os.getpid(), parts.hostname, parts.port, parts.path, keys, left, flush=True)
where = parts.hostname, parts.port
http.server.HTTPServer(where, http.server.BaseHTTPRequestHandler).serve_forever()
"""


@pytest.mark.enable_socket
class TestAsAProgram:
    """The file alone, run as the batch script runs it."""

    def run(self, api_url: str, *argv: str, **more: str) -> subprocess.Popen[str]:
        """Start the program."""
        environment = {
            "PATH": os.environ["PATH"],
            "JUPYTERHUB_API_URL": api_url,
            "JUPYTERHUB_API_TOKEN": "token-7",
            "JUPYTERHUB_SERVICE_URL": "http://:0/user/alice/",
            **more,
        }
        with Path(singleuser.__file__).open() as source:
            return subprocess.Popen(
                [sys.executable, "-I", "-", *argv],
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )

    def error_of(self, process: subprocess.Popen[str]) -> str:
        """Return what it said when it failed."""
        with process:
            assert process.wait(20) == 1
            assert process.stderr is not None
            return process.stderr.read()

    def test_a_server(self, hub: Any) -> None:
        """It becomes the server, which has the port that the hub is told."""
        url, asked = hub
        keys = {"QHUB_SSL_KEY": "k\n", "QHUB_SSL_CERT": "c", "QHUB_SSL_CA": "a"}
        with self.run(url, sys.executable, "-c", SERVER, **keys) as process:
            assert process.stdout is not None
            pid, host, port, path, rest = process.stdout.readline().split(maxsplit=4)
            deadline = time.monotonic() + 20
            while not asked.requests and time.monotonic() < deadline:
                time.sleep(0.01)
            process.terminate()
        assert int(pid) == process.pid
        assert (host, path) == ("127.0.0.1", "/user/alice/")
        assert asked.requests == [
            ("/hub/api/qhub/address", "token token-7", {"host": host, "port": int(port)})
        ]
        assert ast.literal_eval(rest.rpartition("}")[0] + "}") == {
            "JUPYTERHUB_SSL_KEYFILE": "k\n",
            "JUPYTERHUB_SSL_CERTFILE": "c",
            "JUPYTERHUB_SSL_CLIENT_CA": "a",
        }
        assert rest.endswith("False\n")

    def test_a_command_that_is_not_there(self, hub: Any) -> None:
        """It says what is missing."""
        url, _ = hub
        err = self.error_of(self.run(url, "/nonexistent/jupyterhub-singleuser"))
        assert "cannot start /nonexistent/jupyterhub-singleuser: No such file" in err
        assert "Traceback" not in err

    def test_no_command(self) -> None:
        """Its usage."""
        err = self.error_of(self.run("http://127.0.0.1:1/hub/api"))
        assert "usage: singleuser.py COMMAND" in err

    @pytest.mark.parametrize(("ip", "hub"), [("[::]", "127.0.0.1"), ("0.0.0.0", "[::1]")])
    def test_another_version_of_ip(self, ip: str, hub: str) -> None:
        """A server that would listen where the hub cannot come from ends at once, and says why."""
        where = {"JUPYTERHUB_SERVICE_URL": f"http://{ip}:0/user/alice/"}
        err = self.error_of(self.run(f"http://{hub}:1/hub/api", "true", **where))
        assert f"c.QHubSpawner.ip is '{ip.strip('[]')}'" in err
        assert "Traceback" not in err

    def test_an_address_that_the_node_has_not(self) -> None:
        """A configured ip that is wrong for this node is named."""
        where = {"JUPYTERHUB_SERVICE_URL": "http://198.18.255.254:0/user/alice/"}
        err = self.error_of(self.run("http://127.0.0.1:1/hub/api", "true", **where))
        assert "cannot listen at 198.18.255.254" in err
        assert "Traceback" not in err


def test_runs_on_old_pythons() -> None:
    """A node's own interpreter may be much older than the hub's: the grammar of 3.8 is enough."""
    source = Path(singleuser.__file__).read_text()
    ast.parse(source, feature_version=(3, 8))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(source))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= set(sys.stdlib_module_names)
