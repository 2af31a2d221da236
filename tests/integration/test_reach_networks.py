"""Servers are reached wherever hub and nodes stand: any address, TLS inside, IPv6, another host."""

from __future__ import annotations

import asyncio
import json
import pwd
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.systems.processes import wait_until
from tests.systems.slurm_hub import SlurmHub

# The hub starts its proxy itself: it alone knows the certificates, and the addresses of both.
OWN_PROXY = """
c.ConfigurableHTTPProxy.should_start = True
c.JupyterHub.cleanup_proxy = True
"""
TLS = """
c.JupyterHub.internal_ssl = True
c.JupyterHub.hub_bind_url = c.JupyterHub.hub_bind_url.replace("http:", "https:")
c.ConfigurableHTTPProxy.api_url = c.ConfigurableHTTPProxy.api_url.replace("http:", "https:")
"""
IPV6 = """
c.JupyterHub.hub_bind_url = c.JupyterHub.hub_bind_url.replace("127.0.0.1", "[::1]")
"""
# The address by the server's name.
ADDRESSES = """
def address(spawner):
    spawner.ip = {"four": "0.0.0.0", "six": "::", "other": "127.0.0.2"}.get(spawner.name, "")
c.Spawner.pre_spawn_hook = address
"""
LOOK = """
import json, os
names = ("JUPYTERHUB_SERVICE_URL", "JUPYTERHUB_API_URL", "JUPYTERHUB_SSL_KEYFILE", "SLURM_JOB_ID")
print(json.dumps({name: os.environ.get(name, "") for name in names}))
"""
# From a notebook, with the server's own certificate, as JupyterHub's documentation has it.
ASK_THE_HUB = """
import json, os, ssl, urllib.request
context = ssl.create_default_context(cafile=os.environ["JUPYTERHUB_SSL_CLIENT_CA"])
context.load_cert_chain(os.environ["JUPYTERHUB_SSL_CERTFILE"], os.environ["JUPYTERHUB_SSL_KEYFILE"])
request = urllib.request.Request(
    os.environ["JUPYTERHUB_API_URL"] + "/user",
    headers={"Authorization": "token " + os.environ["JUPYTERHUB_API_TOKEN"]},
)
print(json.load(urllib.request.urlopen(request, context=context))["name"])
"""


class OwnProxyHub(SlurmHub):
    """A hub that starts its own proxy, through which it is asked."""

    wrapped: Sequence[str] = ()

    def start(self) -> None:
        """Start the hub, in a network of its own if it has one."""
        self.hub_url = self.url
        if self.wrapped:
            self.hub.argv = [*self.wrapped, *self.hub.argv]
            self.hub.user = None
        self.hub.launch()
        self.hub.wait_ready()

    async def look(self, server: str = "") -> dict[str, str]:
        """Return where a server's kernel says that it is."""
        found: dict[str, str] = json.loads(await self.run_code("alice", LOOK, server))
        return found


Make = Callable[..., OwnProxyHub]


@pytest.fixture
def own_proxy_hub(slurm: Any, user_bin: Any) -> Iterator[Make]:
    """Make hubs with their own proxy; afterwards nothing of them is left."""
    hubs = []

    def make(config: str, system: Any = slurm, wrapped: Sequence[str] = ()) -> OwnProxyHub:
        hub = OwnProxyHub(system, config=OWN_PROXY + config)
        hubs.append(hub)
        hub.wrapped = wrapped
        return hub

    try:
        yield make
    finally:
        for hub in hubs:
            hub.stop()
        slurm.run(["scancel", "--user=alice"])


def started(hub: OwnProxyHub, server: str = "") -> None:
    """Start alice's server and wait until it is up."""
    hub.add_user("alice")
    answer = hub.start_server("alice", {"profile": "general"}, server)
    assert answer.status in {201, 202}, answer.text
    hub.wait_ready("alice", server)


def stopped(hub: OwnProxyHub, server: str = "") -> None:
    """Stop it, and wait until it is."""
    assert hub.stop_server("alice", server).status in {202, 204}
    hub.wait_stopped("alice", server)


def test_configured_addresses(own_proxy_hub: Make) -> None:
    """A configured ip is where the server listens, and it is reached there."""
    hub = own_proxy_hub(ADDRESSES)
    hub.start()

    def port(url: str) -> int:
        return int(url.rpartition(":")[2].partition("/")[0])

    async def look(server: str) -> str:
        return (await hub.look(server))["JUPYTERHUB_SERVICE_URL"]

    started(hub, "other")
    other = asyncio.run(look("other"))
    assert other.startswith("http://127.0.0.2:")
    assert not accepts("127.0.0.1", port(other))
    stopped(hub, "other")

    started(hub, "four")
    four = asyncio.run(look("four"))
    assert four.startswith("http://0.0.0.0:")
    assert accepts("127.0.0.1", port(four))
    assert accepts("127.0.0.9", port(four))
    stopped(hub, "four")

    # a server of IPv6 only is of no use to a hub that is reached by IPv4: it says so, at once
    answer = hub.start_server("alice", {"profile": "general"}, "six")
    words = answer.text if answer.status == 500 else hub.progress("alice", "six")[-1]["message"]
    assert "exit code 1" in words
    log = Path("/home/alice/.local/state/qhub", words.rpartition("qhub/")[2].partition(".log")[0])
    assert "c.QHubSpawner.ip is '::'" in log.with_suffix(".log").read_text()


def accepts(address: str, port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.settimeout(2)
        return probe.connect_ex((address, port)) == 0


async def test_tls_inside(own_proxy_hub: Make, slurm: Any) -> None:
    """With internal SSL hub, proxy and server speak TLS to each other; no key is in any file."""
    hub = own_proxy_hub(TLS)
    hub.start()
    started(hub)
    seen = await hub.look()
    assert seen["JUPYTERHUB_SERVICE_URL"].startswith("https://127.0.0.1:")
    assert seen["JUPYTERHUB_API_URL"].startswith("https://127.0.0.1:")
    assert await hub.run_code("alice", ASK_THE_HUB) == "alice\n"
    # nobody without a certificate of the hub's is let in
    port = int(seen["JUPYTERHUB_SERVICE_URL"].rpartition(":")[2].partition("/")[0])
    curl = ["curl", "--insecure", "--silent", "--max-time", "10", f"https://127.0.0.1:{port}/"]
    assert slurm.run(curl, "alice", check=False).returncode != 0
    # the key is memory of the server's, which bob cannot open
    keyfile = seen["JUPYTERHUB_SSL_KEYFILE"]
    assert slurm.run(["cat", keyfile], "alice").stdout.startswith("-----BEGIN")
    assert slurm.run(["cat", keyfile], "bob", check=False).returncode != 0
    assert "memfd:" in slurm.run(["readlink", keyfile], "alice").stdout
    stopped(hub)
    assert slurm.run(["cat", keyfile], check=False).returncode != 0


async def test_ipv6(own_proxy_hub: Make) -> None:
    """A hub on ::1 is faced from ::1, and the server is reached there."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        from tests.conftest import missing

        missing("IPv6", error)
    hub = own_proxy_hub(IPV6 + ADDRESSES)
    hub.start()
    for server, host in (("", "[::1]"), ("six", "[::]")):
        started(hub, server)
        seen = await hub.look(server)
        assert seen["JUPYTERHUB_SERVICE_URL"].startswith(f"http://{host}:")
        assert seen["JUPYTERHUB_API_URL"].startswith("http://[::1]:")
        stopped(hub, server)


# ---- another host -------------------------------------------------------------------------------

NODES, HUB = "198.18.77.1", "198.18.77.2"
ELSEWHERE = f"""
for name in ("bind_url", "hub_bind_url"):
    c.JupyterHub[name] = c.JupyterHub[name].replace("127.0.0.1", "{HUB}")
c.SlurmBackend.server_networks = ["198.18.77.0/24"]
"""
FORWARD = """
import asyncio, sys
address, port = sys.argv[1], int(sys.argv[2])

async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()

async def serve(reader, writer):
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
    pumps = pump(reader, far_writer), pump(far_reader, writer)
    await asyncio.gather(*pumps, return_exceptions=True)

async def main():
    await (await asyncio.start_server(serve, address, port)).serve_forever()

asyncio.run(main())
"""


@contextmanager
def another_host() -> Iterator[str]:
    """Make a network namespace with one wire to ours; yields its name."""
    name = f"qhub{secrets.token_hex(3)}"
    wire = f"q{secrets.token_hex(3)}"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    ip("netns", "add", name)
    try:
        ip("link", "add", wire, "type", "veth", "peer", "name", "hub0", "netns", name)
        ip("address", "add", f"{NODES}/24", "dev", wire)
        ip("link", "set", wire, "up")
        ip("-n", name, "address", "add", f"{HUB}/24", "dev", "hub0")
        ip("-n", name, "link", "set", "hub0", "up")
        ip("-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        ip("netns", "delete", name)


@contextmanager
def forwarded(address: str, port: int) -> Iterator[None]:
    """Let others reach a daemon that listens on our loopback only."""
    with subprocess.Popen([sys.executable, "-c", FORWARD, address, str(port)]) as process:
        try:
            wait_until(lambda: accepts(address, port), 20, f"{address}:{port}")
            yield
        finally:
            process.terminate()


class SeenFromElsewhere:
    """The same Slurm, with a slurm.conf for a machine that is none of its nodes."""

    def __init__(self, slurm: Any) -> None:
        self._slurm = slurm
        self.slurm_conf = slurm.run_folder / "elsewhere.conf"
        lines = [
            line.replace("127.0.0.1", NODES)
            if line.startswith(("SlurmctldHost=", "AccountingStorageHost="))
            else line
            for line in slurm.slurm_conf.read_text().splitlines()
        ]
        self.slurm_conf.write_text("\n".join(lines) + "\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._slurm, name)


async def test_a_hub_on_another_host(own_proxy_hub: Make, slurm: Any) -> None:
    """The server listens on the interface that faces the hub, on no other, and is reached there."""
    from tests.systems.slurm import HUB_USER

    account = pwd.getpwnam(HUB_USER)
    identity = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups"]
    places = slurm.places
    with ExitStack() as stack:
        name = stack.enter_context(another_host())
        for port in (places.slurmctld_port, places.slurmdbd_port):
            stack.enter_context(forwarded(NODES, port))
        wrapped = ["ip", "netns", "exec", name, "setpriv", *identity, "--"]
        hub = own_proxy_hub(ELSEWHERE, SeenFromElsewhere(slurm), wrapped)
        hub.url = hub.url.replace("127.0.0.1", HUB)
        stack.callback(hub.stop)
        hub.start()
        started(hub)
        seen = await hub.look()
        assert seen["JUPYTERHUB_API_URL"].startswith(f"http://{HUB}:")
        assert seen["JUPYTERHUB_SERVICE_URL"].startswith(f"http://{NODES}:")
        port = int(seen["JUPYTERHUB_SERVICE_URL"].rpartition(":")[2].partition("/")[0])
        assert not accepts("127.0.0.1", port)
        assert slurm.job_state(int(seen["SLURM_JOB_ID"])) == "RUNNING"
        stopped(hub)
        assert slurm.job_state(int(seen["SLURM_JOB_ID"])) in {"COMPLETED", "FAILED", "CANCELLED"}
