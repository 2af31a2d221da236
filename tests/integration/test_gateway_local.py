"""Dask clusters beside the gateway, from the stock client of dask-gateway."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.test_gateway_slurm import AGAIN, NEW, STOP
from tests.systems.dask_client import run_client
from tests.systems.gateway import GatewaySystem
from tests.systems.processes import wait_until


@pytest.fixture
def gateway() -> Iterator[GatewaySystem]:
    """A gateway whose clusters are processes; afterwards none is left."""
    folder = Path(tempfile.mkdtemp(prefix="qhub-gateway-"))
    made = GatewaySystem(folder)
    made.start()
    yield made
    made.api("DELETE", "clusters/none", "alice")
    made.stop()
    shutil.rmtree(folder)


CLOSED = """
kept = client.new_cluster(shutdown_on_close=False)
ended = client.new_cluster()
kept.close()
ended.close()
answer = [kept.name, ended.name]
"""


def processes(gateway: GatewaySystem) -> set[int]:
    """Return the processes of all clusters of a gateway."""
    mark = f"{gateway.folder}/local".encode()
    return {
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/environ")
        if mark in _read(path)
    }


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_cluster(gateway: GatewaySystem) -> None:
    """New, computed on, taken up by another gateway, gone: and no process is left."""
    name = run_client(gateway, NEW, workers=2)
    before = processes(gateway)
    assert before
    gateway.gateway.signal(signal.SIGKILL)
    wait_until(lambda: not gateway.gateway.running, 10, "the end of the gateway")
    gateway.start()
    assert run_client(gateway, AGAIN, name=name) == 6
    assert before <= processes(gateway)
    run_client(gateway, STOP, name=name)
    wait_until(lambda: not processes(gateway), 60, "the end of every process")
    assert (gateway.folder / "local" / name).stat().st_mode & 0o777 == 0o700


def test_shutdown_on_close(gateway: GatewaySystem) -> None:
    """Closed in the client, a cluster ends, unless it was made with shutdown_on_close=False."""
    kept, ended = run_client(gateway, CLOSED)

    def status(name: str) -> str:
        return str(gateway.api("GET", f"clusters/{name}", "alice")[1]["status"])

    wait_until(lambda: status(ended) == "STOPPED", 60, "the end of the one that was closed")
    assert status(kept) == "RUNNING"
    run_client(gateway, STOP, name=kept)


def test_the_proxy_comes_back(gateway: GatewaySystem) -> None:
    """A gateway that runs its proxy itself starts another when that ends."""
    gateway.stop_parts()
    with (gateway.folder / "config.py").open("a") as file:
        file.write("c.Proxy.externally_managed = False\n")
    gateway.gateway.launch()
    gateway.gateway.wait_ready()
    wait_until(gateway.answers, 60, "the gateway behind its own proxy")
    (proxy,) = proxies(gateway)
    os.kill(proxy, signal.SIGKILL)
    wait_until(lambda: proxies(gateway) - {proxy}, 60, "another proxy")
    wait_until(gateway.answers, 60, "the gateway behind it")
    assert "Proxy process exited unexpectedly" in gateway.log()


def proxies(gateway: GatewaySystem) -> set[int]:
    """Return the proxies that a gateway has started."""
    return {each.pid for each in psutil.Process(gateway.gateway.pid).children()}
