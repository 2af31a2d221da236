"""Clusters beside the gateway: followed, looked into, and none that nobody owns."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from qhub_gateway.errors import StartRefusedError
from qhub_gateway.targets.local import LocalTarget
from qhub_gateway.targets.target import WORKER_NAME, ClusterSpec, JobRef, Phase
from tests.unit.scripted_door import until
from tests.unit.test_gateway_slurm_script import request_of

LOG = logging.getLogger("test")
WORKER = "fedcba9876543210" * 2
SAYS = "import sys, time; print('here is', sys.argv[1], flush=True); time.sleep(60)"


def spec(*argv: str) -> ClusterSpec:
    """A cluster whose parts are a small program."""
    command = argv or (sys.executable, "-c", SAYS)
    return ClusterSpec(
        name="0123456789abcdef" * 2,
        request=request_of(),
        scheduler_argv=(*command, "scheduler"),
        worker_argv=(*command, WORKER_NAME),
        environment={},
        tls_cert=b"certificate",
        tls_key=b"key",
    )


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[LocalTarget]:
    """A target; afterwards nothing of it is left."""
    made = LocalTarget(tmp_path / "clusters", "g1", LOG)
    await made.open()
    yield made
    refs = list(made._followed)
    await made.stop(refs)
    await until(lambda: made._look() or all(made.state(r).phase is Phase.ENDED for r in refs))


async def test_a_cluster(target: LocalTarget) -> None:
    """Its parts run since they began, write where they are read, and end when they are asked to."""
    cluster = spec()
    before = time.time()
    ref = await target.start_scheduler(cluster, target.plan_scheduler(cluster))
    ((worker,),) = target.plan_workers(cluster, [WORKER])
    (worker_ref,) = await target.start_workers(cluster, [worker])
    state = target.state(ref)
    assert state.phase is Phase.RUNNING
    assert state.since is not None
    assert abs(state.since - before) < 60
    assert await target.find([ref]) == [ref]

    async def says(name: str | None, ref: JobRef) -> str:
        return await target.read_log(cluster, name, ref, 1000)

    for _ in range(600):
        if await says(None, ref) and await says(WORKER, worker_ref):
            break
        await asyncio.sleep(0.1)
    assert await says(None, ref) == "here is scheduler\n"
    assert await target.read_log(cluster, WORKER, worker_ref, 5) == WORKER[-4:] + "\n"
    assert await target.read_log(cluster, "0" * 32, worker_ref, 5) == ""
    await target.stop([ref, worker_ref])
    await until(lambda: target._look() or target.state(ref).phase is Phase.ENDED)
    await until(lambda: target._look() or target.state(worker_ref).phase is Phase.ENDED)


async def test_keys_do_not_stay(target: LocalTarget) -> None:
    """What a cluster has written outlives it; certificate and key do not."""
    cluster = spec()
    ref = await target.start_scheduler(cluster, target.plan_scheduler(cluster))
    folder = target.folder / cluster.name
    assert {path.name for path in folder.iterdir()} == {"dask.crt", "dask.pem", "scheduler.log"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.glob("dask.*"))
    assert folder.stat().st_mode & 0o777 == 0o700
    await target.stop([ref])
    await target.tidy(cluster.name)
    await target.tidy(cluster.name)
    assert {path.name for path in folder.iterdir()} == {"scheduler.log"}


async def test_nobody_owns_it(target: LocalTarget, tmp_path: Path) -> None:
    """A gateway ends what one of its name started off the record; not what it follows, or others."""
    started = {
        name: subprocess.Popen(
            ["sleep", "60"],
            env={"QHUB_GATEWAY_JOB": name, "PATH": os.environ["PATH"]},
            start_new_session=True,
        )
        for name in ("g7-lost", "g7-known", "g70-other")
    }
    try:
        another = LocalTarget(tmp_path / "clusters", "g7", LOG)
        another.follow(JobRef("g7-known", number=started["g7-known"].pid))
        await until(lambda: all(_named(p.pid) for p in started.values()))
        await another.open()
        assert started["g7-lost"].wait(60) == -signal.SIGKILL
        assert started["g7-known"].poll() is None
        assert started["g70-other"].poll() is None
    finally:
        for process in started.values():
            process.kill()
            process.wait()


async def test_nobody_knows_its_number(tmp_path: Path) -> None:
    """A process started by a gateway that was killed at once is found by its name, and ended."""
    name = "g8-unheard"
    started = subprocess.Popen(
        ["sleep", "60"],
        env={"QHUB_GATEWAY_JOB": name, "PATH": os.environ["PATH"]},
        start_new_session=True,
    )
    try:
        await until(lambda: _named(started.pid))
        another, ref = LocalTarget(tmp_path / "clusters", "g8", LOG), JobRef(name)
        another.follow(ref)
        another._look()
        assert another.state(ref).phase is Phase.UNKNOWN, "what is unknown has not ended"
        found = await another.find([ref])
        assert found is not None
        assert found[0].number == started.pid
        await another.stop(found)
        assert started.wait(60) == -signal.SIGTERM
        await until(lambda: another._look() or another.state(ref).phase is Phase.ENDED)
    finally:
        started.kill()
        started.wait()


def _named(pid: int) -> bool:
    return b"QHUB_GATEWAY_JOB" in Path(f"/proc/{pid}/environ").read_bytes()


async def test_no_such_command(target: LocalTarget) -> None:
    """A command that is not there refuses the start, in words."""
    cluster = spec("/no/such/program")
    with pytest.raises(StartRefusedError, match=r"/no/such/program: No such file"):
        await target.start_scheduler(cluster, target.plan_scheduler(cluster))
