"""Dask clusters on the real Slurm, from the stock client of dask-gateway."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.systems.dask_client import run_client
from tests.systems.gateway import GatewaySystem
from tests.systems.processes import wait_until

pytestmark = pytest.mark.timeout(300)

NEW = """
cluster = client.new_cluster(shutdown_on_close=False)
cluster.scale(values["workers"])
dask = cluster.get_client(set_as_default=False)
dask.wait_for_workers(min(values["workers"], values.get("wait_for", 1000)), timeout=90)
assert sum(dask.gather(dask.map(lambda x: x * x, range(20)))) == 2470
answer = cluster.name
"""
AGAIN = """
cluster = client.connect(values["name"], shutdown_on_close=False)
dask = cluster.get_client(set_as_default=False)
if "workers" in values:
    cluster.scale(values["workers"])
    dask.wait_for_workers(values["workers"], timeout=90)
answer = dask.submit(sum, [1, 2, 3]).result(timeout=30)
"""
SCALE = 'client.scale_cluster(values["name"], values["workers"])'
STOP = 'client.stop_cluster(values["name"])'


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
    wait_until(lambda: not squeue(slurm), 60, "the end of every job")


def processes() -> list[Path]:
    """Return the folders of all processes."""
    return list(Path("/proc").glob("[0-9]*"))


def environment_of(process: Path) -> bytes:
    """Return the environment of a process of Dask's, nothing of any other."""
    return _read(process / "environ") if b"distributed.cli" in _read(process / "cmdline") else b""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""


def squeue(slurm: Any) -> dict[str, tuple[str, str, str]]:
    """Return name, state and user of every job that is not over, by its id."""
    lines = slurm.run(["squeue", "-h", "-a", "-r", "-o", "%i|%j|%T|%u"]).stdout.splitlines()
    fields = (line.split("|") for line in lines)
    return {job: (name, state, user) for job, name, state, user in fields}


def running(slurm: Any) -> set[str]:
    """Return the jobs that run."""
    return {job for job, (_, state, _) in squeue(slurm).items() if state == "RUNNING"}


def test_a_cluster(slurm: Any, gateway_on: Callable[..., GatewaySystem], transport: str) -> None:
    """New, its workers one array, computed on, smaller, gone: as the person, and nothing is left."""
    gateway = gateway_on(transport=transport)
    # with the scheduler, what two nodes of two CPUs hold
    name = run_client(gateway, NEW, workers=3)
    jobs = squeue(slurm)
    assert len({job.partition("_")[0] for job in jobs if "_" in job}) == 1
    assert {user for _, _, user in jobs.values()} == {"alice"}
    assert all(job.startswith(f"qhub-{gateway.gateway_id}-") for job, _, _ in jobs.values())
    run_client(gateway, SCALE, name=name, workers=1)
    wait_until(lambda: len(squeue(slurm)) == 2, 60, "two jobs")
    assert run_client(gateway, AGAIN, name=name) == 6
    run_client(gateway, STOP, name=name)
    wait_until(lambda: not squeue(slurm), 60, "the end of every job")
    # one that Slurm killed at the worst moment may leave the name, and never what was in it
    left = Path(tempfile.gettempdir()).glob("qhub-dask-*")
    assert not any(path.stat().st_size for path in left)


def test_nothing_secret_is_shown(slurm: Any, gateway_on: Callable[..., GatewaySystem]) -> None:
    """Neither the cluster's token nor its key is in a process list, in Slurm, or in a log."""
    gateway = gateway_on()
    name = run_client(gateway, NEW, workers=1)
    environments = [
        each for each in map(environment_of, processes()) if gateway.url.encode() in each
    ]
    tokens = {
        word.partition(b"=")[2].decode()
        for environment in environments
        for word in environment.split(b"\0")
        if word.startswith(b"DASK_GATEWAY_API_TOKEN=")
    }
    assert len(tokens) == 1
    assert not any(b"PRIVATE KEY" in environment for environment in environments)
    secret = tokens.pop()
    shown = [
        slurm.run(["scontrol", "show", "job"]).stdout,
        slurm.run(["sacct", "-a", "-P", "--format=ALL"]).stdout,
        gateway.log(),
        *(_read(path / "cmdline").decode(errors="replace") for path in processes()),
    ]
    assert name in "".join(shown)
    assert not any(secret in text or "PRIVATE KEY" in text for text in shown)


def test_waiting_is_no_failure(slurm: Any, gateway_on: Callable[..., GatewaySystem]) -> None:
    """Workers that find no room keep their place; a smaller number gives up exactly the rest."""
    gateway = gateway_on(config="c.QHubGatewayBackend.worker_start_timeout = 20\n")
    name = run_client(gateway, NEW, workers=8, wait_for=3)
    before = squeue(slurm)
    at_work = running(slurm)
    assert (len(before), len(at_work)) == (9, 4)
    # longer than the start timeout, which counts from when a worker runs
    deadline = "time.sleep(22)\n" + AGAIN
    assert run_client(gateway, deadline, name=name) == 6
    assert squeue(slurm) == before
    run_client(gateway, SCALE, name=name, workers=7)
    wait_until(lambda: len(squeue(slurm)) == 8, 60, "one job less")
    run_client(gateway, SCALE, name=name, workers=4)
    wait_until(lambda: len(squeue(slurm)) == 5, 60, "three jobs less")
    assert at_work <= set(squeue(slurm))
    run_client(gateway, STOP, name=name)
    wait_until(lambda: not squeue(slurm), 60, "the end of every job")


def test_killed_and_started_again(slurm: Any, gateway_on: Callable[..., GatewaySystem]) -> None:
    """Clusters go on without a gateway; the next takes them up, submits none again, and ends them."""
    gateway = gateway_on()
    name = run_client(gateway, NEW, workers=2)
    before = set(squeue(slurm))
    gateway.gateway.signal(signal.SIGKILL)
    wait_until(lambda: not gateway.gateway.running, 10, "the end of the gateway")
    gateway.start()
    assert run_client(gateway, "answer = [each.name for each in client.list_clusters()]") == [name]
    assert run_client(gateway, AGAIN, name=name) == 6
    assert set(squeue(slurm)) == before
    assert run_client(gateway, AGAIN, name=name, workers=3) == 6
    after = set(squeue(slurm))
    assert before < after
    assert len(after) == 4
    run_client(gateway, STOP, name=name)
    wait_until(lambda: not squeue(slurm), 60, "the end of every job")
