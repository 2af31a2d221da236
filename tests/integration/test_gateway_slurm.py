"""Dask clusters on the real Slurm, from the stock client of dask-gateway."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.systems.gateway import GatewaySystem
from tests.systems.processes import wait_until

# the client's own sockets and threads are closed by its finalizers
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(300),
]


@pytest.fixture
def gateway_on(slurm: Any) -> Iterator[Callable[..., GatewaySystem]]:
    """Make gateways on the Slurm system; afterwards none and no job is left."""
    made: list[GatewaySystem] = []

    def make(**options: Any) -> GatewaySystem:
        folder = Path(tempfile.mkdtemp(prefix="qhub-gateway-"))
        folder.chmod(0o755)
        made.append(GatewaySystem(folder, slurm=slurm, **options))
        made[-1].start()
        return made[-1]

    yield make
    for gateway in made:
        gateway.stop()
        shutil.rmtree(gateway.folder)
    slurm.run(["scancel", "--user=alice"])
    slurm.run(["scancel", "--user=bob"])


def client_of(gateway: GatewaySystem, user: str = "alice") -> Any:
    """Return the stock client."""
    from dask_gateway import BasicAuth, Gateway

    return Gateway(
        gateway.url,
        proxy_address=gateway.proxy_address,
        auth=BasicAuth(user, gateway.password),
    )


def squeue(slurm: Any) -> list[tuple[str, str, str, str]]:
    """Return id, name, state and user of every job that is not over."""
    lines = slurm.run(["squeue", "-h", "-a", "-r", "-o", "%i|%j|%T|%u"]).stdout.splitlines()
    return [tuple(line.split("|")) for line in lines]  # type: ignore[misc]


def gone(slurm: Any) -> bool:
    """Whether no job is left."""
    return not squeue(slurm)


def test_a_cluster(slurm: Any, gateway_on: Callable[..., GatewaySystem], transport: str) -> None:
    """New, four workers as one array, computed on, fewer, and gone: as the person, nothing left."""
    gateway = gateway_on(transport=transport)
    with client_of(gateway) as client:
        cluster = client.new_cluster(shutdown_on_close=True)
        try:
            cluster.scale(3)  # with the scheduler, what two nodes of two CPUs hold
            with cluster.get_client(set_as_default=False) as dask:
                dask.wait_for_workers(3, timeout=90)
                assert sum(dask.gather(dask.map(lambda x: x * x, range(20)))) == 2470
                jobs = squeue(slurm)
                arrays = {job.partition("_")[0] for job, *_ in jobs if "_" in job}
                assert len(arrays) == 1
                assert {user for *_, user in jobs} == {"alice"}
                assert all(name.startswith(f"qhub-{gateway.gateway_id}-") for _, name, *_ in jobs)
                cluster.scale(1)
                wait_until(lambda: len(squeue(slurm)) == 2, 60, "two jobs")
                assert dask.submit(sum, [1, 2, 3]).result(timeout=30) == 6
        finally:
            cluster.shutdown()
        wait_until(lambda: gone(slurm), 60, "the end of every job")
    assert not list(Path(tempfile.gettempdir()).glob("qhub-dask-*"))


def test_waiting_is_no_failure(slurm: Any, gateway_on: Callable[..., GatewaySystem]) -> None:
    """Workers that find no room keep their place; a smaller number gives up exactly the rest."""
    gateway = gateway_on(config="c.QHubGatewayBackend.worker_start_timeout = 3\n")
    with client_of(gateway) as client:
        cluster = client.new_cluster(shutdown_on_close=True)
        try:
            cluster.scale(8)
            wait_until(
                lambda: sum(state == "RUNNING" for _, _, state, _ in squeue(slurm)) == 4,
                60,
                "a full partition",
            )
            before = {job: state for job, _, state, _ in squeue(slurm)}
            assert len(before) == 9
            with cluster.get_client(set_as_default=False) as dask:
                dask.wait_for_workers(3, timeout=90)
                # longer than the start timeout, which counts from when a worker runs
                dask.submit(__import__("time").sleep, 8).result(timeout=60)
            assert set(before) == {job for job, *_ in squeue(slurm)}
            cluster.scale(7)
            wait_until(lambda: len(squeue(slurm)) == 8, 60, "one job less")
            cluster.scale(4)
            wait_until(lambda: len(squeue(slurm)) == 5, 60, "three jobs less")
            assert {job for job, state in before.items() if state == "RUNNING"} <= {
                job for job, *_ in squeue(slurm)
            }
        finally:
            cluster.shutdown()
        wait_until(lambda: gone(slurm), 60, "the end of every job")


def test_killed_and_started_again(slurm: Any, gateway_on: Callable[..., GatewaySystem]) -> None:
    """Clusters go on without a gateway; the next takes them up, submits none again, and ends them."""
    gateway = gateway_on()
    with client_of(gateway) as client:
        cluster = client.new_cluster(shutdown_on_close=False)
        cluster.scale(2)
        with cluster.get_client(set_as_default=False) as dask:
            dask.wait_for_workers(2, timeout=90)
            before = {job for job, *_ in squeue(slurm)}
            gateway.gateway.signal(signal.SIGKILL)
            wait_until(lambda: not gateway.gateway.running, 10, "the end of the gateway")
            assert dask.submit(sum, [1, 2, 3]).result(timeout=30) == 6
            gateway.start()
            assert [each.name for each in client.list_clusters()] == [cluster.name]
            assert dask.submit(sum, [4, 5, 6]).result(timeout=30) == 15
            cluster.scale(3)
            dask.wait_for_workers(3, timeout=90)
            after = {job for job, *_ in squeue(slurm)}
            assert before < after
            assert len(after) == 4
        client.stop_cluster(cluster.name)
        wait_until(lambda: gone(slurm), 60, "the end of every job")
        cluster.close()
