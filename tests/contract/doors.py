"""A door and what stands behind it, real or not, as the contract of doors sees it."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qhub_spawner.slurm import door_command
from qhub_spawner.slurm.commandline import CommandLine, CommandLineDoor
from qhub_spawner.slurm.door import Door
from qhub_spawner.slurm.jobs import Job, JobEnding, job_name, new_spawn_id
from qhub_spawner.slurm.restd import RestDoor, RestService
from qhub_spawner.slurm.script import Submission, comment

_HUB = "contract"
SECONDS = 60.0


@dataclass
class Cluster:
    """One door, and the means to look behind it.

    Attributes:
        door: The door.
        nowhere: A door of the same kind that leads nowhere.
        silence: Make the controller silent (True) or let it speak again (False).
        real: Whether a real Slurm is behind it.
    """

    door: Door
    nowhere: Door
    silence: Callable[[bool], None]
    real: bool
    folder: Path
    _numbers: Any = field(default_factory=itertools.count)

    def submission(
        self,
        script: str,
        options: Mapping[str, str | None] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Submission:
        """Return a submission whose script may write to "$OUT"."""
        spawn_id = new_spawn_id()
        return Submission(
            name=job_name(_HUB, spawn_id),
            comment=comment(_HUB, "alice", "", spawn_id),
            options={"time": "0:10:00", "mem": "100M", "ntasks-per-node": "1", **(options or {})},
            script=f"#!/bin/bash\n{script}\n",
            environment={"OUT": str(self.folder / spawn_id), **(environment or {})},
        )

    def output(self, submission: Submission) -> str:
        """Return what the script has written so far."""
        path = Path(submission.environment["OUT"])
        return path.read_text(errors="surrogateescape") if path.exists() else ""

    async def written(self, submission: Submission, text: str) -> str:
        """Wait until the script has written `text`."""

        async def look() -> str:
            found = self.output(submission)
            return found if text in found else ""

        return await until(look, f"{text!r} in the output of the job")

    async def job(self, job_id: int) -> Job | None:
        """Return a job as the queue has it."""
        queue = await self.door.queue()
        return next((job for job in queue.jobs if job.job_id == job_id), None)

    async def running(self, job_id: int) -> Job:
        """Wait until a job runs."""

        async def look() -> Job | None:
            job = await self.job(job_id)
            return job if job is not None and job.state.value == "RUNNING" else None

        return await until(look, f"job {job_id} running")

    async def ended(self, job_id: int) -> JobEnding:
        """Wait until accounting says that a job is over."""

        async def look() -> JobEnding | None:
            ending = (await self.door.endings([job_id])).get(job_id)
            return ending if ending is not None and ending.state.over else None

        return await until(look, f"the end of job {job_id}")


async def until(look: Callable[[], Any], what: str) -> Any:
    """Wait until `look` returns something true."""
    deadline = time.monotonic() + SECONDS
    while True:
        found = await look()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} did not come within {SECONDS:g} s"
        await asyncio.sleep(0.1)


def shared_folder() -> Path:
    """Return a folder in which everybody may write."""
    folder = Path(tempfile.mkdtemp(prefix="qhub-contract-"))
    folder.chmod(0o1777)
    return folder


def real_cluster(slurm: Any, transport: str) -> Cluster:
    """Return the real Slurm, by one transport. Root's own sudo stands in for the sudo rule."""
    folder = shared_folder()

    def silence(on: bool) -> None:
        (slurm.stop_daemon if on else slurm.start_daemon)("slurmctld")

    if transport == "rest":
        service = RestService(slurm.rest_url, "v0.0.38", "slurm", str(slurm.jwt_key), 60, 8)
        nowhere = replace(service, url="http://127.0.0.1:9")
        return Cluster(RestDoor(service), RestDoor(nowhere), silence, True, folder)
    door = folder / "door"
    door.write_text(Path(door_command.__file__).read_text())
    door.chmod(0o755)
    # clients give up sooner than after Slurm's ten seconds
    conf = client_conf(slurm, folder / "slurm.conf", MessageTimeout="2")
    # a controller and an accounting that are not there
    lost = {"SlurmctldPort": "9", "AccountingStoragePort": "9", "MessageTimeout": "2"}
    away = client_conf(slurm, folder / "nowhere.conf", **lost)
    how = CommandLine(slurm_conf=str(conf), door=str(door), timeout_seconds=20)
    nowhere = replace(how, slurm_conf=str(away))
    return Cluster(CommandLineDoor(how), CommandLineDoor(nowhere), silence, True, folder)


def client_conf(slurm: Any, path: Path, **settings: str) -> Path:
    """Write a slurm.conf for clients, in which some settings are others."""
    lines = slurm.slurm_conf.read_text().splitlines()
    kept = [line for line in lines if line.partition("=")[0] not in settings]
    path.write_text("\n".join([*kept, *(f"{key}={value}" for key, value in settings.items()), ""]))
    return path


def fake_cluster() -> Cluster:
    """Return the fake one."""
    from tests.contract.fake_door import FakeDoor

    door, nowhere = FakeDoor(), FakeDoor()
    nowhere.silent = True

    def silence(on: bool) -> None:
        door.silent = on

    return Cluster(door, nowhere, silence, False, shared_folder())


async def close(cluster: Cluster) -> None:
    """End its jobs and remove its folder."""
    await cluster.door.close()
    shutil.rmtree(cluster.folder)
