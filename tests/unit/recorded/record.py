"""Record what the real Slurm prints, for the unit tests: ``python -m tests.unit.recorded.record``.

A Slurm test system is started, jobs of every kind are made on it, and each question that the
product asks is asked through the product's own doors. What came back goes into a folder named by
Slurm's version; commit it together with the parsers that read it.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

from qhub_spawner.errors import SlurmError
from qhub_spawner.slurm import commandline
from qhub_spawner.slurm.commandline import Answer, CommandLine, CommandLineDoor
from qhub_spawner.slurm.jobs import Job, JobState
from qhub_spawner.slurm.restd import RestDoor, RestService
from tests.systems.slurm import SlurmSystem

HERE = Path(__file__).parent
MARK = "0123456789abcdef"
NAME = "qhub-a1-000000000000000{}"
EATS_MEMORY = "python3 -c 'x = b\"x\" * 400_000_000; import time; time.sleep(60)'"


class RecordingCommandLine(CommandLineDoor):
    """Keeps every answer of a command."""

    said: Answer

    async def _run(self, *args: Any, **kwargs: Any) -> Answer:
        self.said = await super()._run(*args, **kwargs)
        return self.said


class RecordingRest(RestDoor):
    """Keeps every answer of slurmrestd."""

    async def _request(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.said = await super()._request(*args, **kwargs)
        return self.said


def make_jobs(slurm: SlurmSystem) -> dict[str, int]:
    """Make a job of every kind; returns when each is what it shall be."""
    sleeper = ("sleep 600", "--mem=100M", "--time=30")
    jobs = {
        "running": slurm.sbatch("alice", *sleeper, "--job-name=" + NAME.format(1), "--comment={}"),
        "gpu": slurm.sbatch(
            "alice", *sleeper, "--job-name=" + NAME.format(2),
            "--partition=gpu", "--qos=gpu", "--gres=gpu:a100:1",
        ),
        "suspended": slurm.sbatch("bob", *sleeper, "--job-name=" + NAME.format(3)),
        "held": slurm.sbatch("alice", *sleeper, "--hold"),
        "array": slurm.sbatch("alice", *sleeper, "--array=1-5%1", "--hold"),
        "forged": slurm.sbatch(
            "bob", *sleeper, "--hold",
            f"--job-name=x\n{MARK}|4711|CANCELLED|None|alice|general|1|1|1|N/A|1|1|1|1:00:00|cn01|cn01|{NAME.format(1)}",
        ),
        "completed": slurm.sbatch("alice", "true", "--mem=100M"),
        "failed": slurm.sbatch("alice", "exit 3", "--mem=100M"),
        "killed": slurm.sbatch("alice", "kill -9 $$", "--mem=100M"),
        "memory": slurm.sbatch("alice", EATS_MEMORY, "--mem=60M"),
        "timeout": slurm.sbatch("alice", "sleep 600", "--mem=100M", "--time=1"),
        "node": slurm.sbatch("alice", *sleeper, "--partition=highmem", "--no-requeue"),
        "requeued": slurm.sbatch("alice", *sleeper, "--requeue"),
    }  # fmt: skip

    def until(kind: str, *states: str, seconds: float = 60) -> None:
        slurm.wait_until(lambda: slurm.job_state(jobs[kind]) in states, seconds, f"{kind} {states}")

    for kind in ("running", "gpu", "suspended", "node"):
        until(kind, "RUNNING")
    slurm.run(["scontrol", "suspend", str(jobs["suspended"])])
    slurm.node_down("hm01")
    until("requeued", "RUNNING")
    slurm.run(["scontrol", "requeue", str(jobs["requeued"])])
    slurm.run(["scancel", str(jobs["requeued"])])
    until("memory", "OUT_OF_MEMORY", seconds=120)
    until("timeout", "TIMEOUT", seconds=180)
    for kind in ("completed", "failed", "killed"):
        until(kind, "COMPLETED", "FAILED")
    jobs["wide"] = slurm.sbatch("alice", *sleeper, "--nodes=2", "--exclusive")
    jobs["behind"] = slurm.sbatch("alice", *sleeper, "--nodes=1-2", "--exclusive")
    slurm.wait_until(lambda: "Resources" in slurm.run(["squeue", "-o", "%r"]).stdout, 60)
    time.sleep(2)  # accounting lags
    return jobs


REFUSED = {
    "account": ["--account=nope"],
    "partition": ["--partition=nope"],
    "qos": ["--qos=nope"],
    "walltime": ["--time=99-0"],
    "constraint": ["--constraint=nope"],
    "memory": ["--mem=999G"],
    "gpus": ["--gres=gpu:9"],
    "reservation": ["--reservation=nope"],
    "nodes": ["--nodes=50"],
    "account of partition": ["--partition=highmem", "--account=physics"],
}


def nowhere(slurm: SlurmSystem, setting: str, value: str) -> Path:
    """Return a copy of slurm.conf in which one setting leads nowhere."""
    path = slurm.run_folder / f"{setting}.conf"
    text = slurm.slurm_conf.read_text()
    path.write_text(re.sub(f"(?m)^{setting}=.*$", f"{setting}={value}", text))
    return path


async def record(slurm: SlurmSystem, folder: Path) -> None:
    """Ask everything, write everything."""

    def keep(name: str, text: str) -> None:
        text = text.replace(str(slurm.run_folder), "/run-folder")
        (folder / name).write_text(re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:6819", text))

    jobs = make_jobs(slurm)
    keep("jobs.json", json.dumps(jobs, indent=1))
    keep("version.txt", slurm.run(["squeue", "--version"]).stdout)
    ids = sorted(jobs.values())
    door = RecordingCommandLine(CommandLine(slurm_conf=str(slurm.slurm_conf)))
    commandline.secrets.token_hex = lambda _bytes: MARK  # type: ignore[assignment]
    rest = RecordingRest(
        RestService(slurm.rest_url, "v0.0.38", "slurm", str(slurm.jwt_key), 60, 30)
    )
    for name, which in (("text", door), ("json", rest)):
        for question in (which.queue(), which.machines(), which.endings(ids), which.limits()):
            await question
            said = which.said
            file = f"{question.__name__}.{'txt' if name == 'text' else 'json'}"
            keep(file, said.stdout if isinstance(said, Answer) else json.dumps(said, indent=1))
    for route in ("nodes", "partitions", f"job/{jobs['running']}"):
        kind = route.partition("/")[0]
        answer = await rest._get(f"/slurm/{{version}}/{route}")
        keep(f"rest-{kind}.json", json.dumps(answer, indent=1))
    for kind, job_id in jobs.items():
        answer = await rest._get(f"/slurmdb/{{version}}/job/{job_id}")
        for row in answer["jobs"]:
            row["steps"] = []
        keep(f"rest-ending-{kind}.json", json.dumps(answer, indent=1))
    submit = ["sbatch", "--chdir=/tmp", "--output=/dev/null", "--wrap=true"]
    seconds = {"SLURM_TIME_FORMAT": "%s"}
    tested = slurm.run([*submit, "--test-only"], "alice", environment=seconds)
    keep("sbatch-test-only.txt", tested.stderr)
    keep("sbatch-parsable.txt", slurm.run([*submit, "--parsable"], "alice").stdout)
    for kind, options in REFUSED.items():
        refused = slurm.run([*submit, *options], "alice", check=False)
        keep(f"refused-{kind.replace(' ', '-')}.txt", refused.stderr)
    silent = {
        "controller": nowhere(slurm, "SlurmctldPort", "19"),
        "munge": nowhere(slurm, "AuthInfo", "socket=/nonexistent"),
    }
    for kind, path in silent.items():
        environment = {"SLURM_CONF": str(path)}
        for command in (submit, ["squeue"], ["scancel", "1"]):
            said_nothing = slurm.run(command, "alice", check=False, environment=environment)
            keep(f"silent-{kind}-{command[0]}.txt", said_nothing.stderr)
    environment = {"SLURM_CONF": str(nowhere(slurm, "AccountingStoragePort", "19"))}
    keep("silent-slurmdbd-sacct.txt", slurm.run(["sacct"], check=False, environment=environment).stderr)
    environment = {
        "SLURM_CONF": str(nowhere(slurm, "AccountingStorageType", "accounting_storage/none"))
    }
    keep("none-sacct.txt", slurm.run(["sacct"], check=False, environment=environment).stderr)
    unknown = slurm.run(["scontrol", "show", "job", "4294000000"], check=False)
    keep("unknown-scontrol.txt", unknown.stderr)
    try:
        await rest.gone(Job(4294000000, JobState.UNKNOWN, "x", "x"))
        await rest._get("/slurm/{version}/job/4294000000")
    except SlurmError as error:
        keep("unknown-rest.txt", str(error))


def main() -> None:
    """Record into a fresh folder named by Slurm's version."""
    with SlurmSystem() as slurm:
        version = slurm.run(["squeue", "--version"]).stdout.split()[1]
        folder = HERE / ".".join(version.split(".")[:2])
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        asyncio.run(record(slurm, folder))


if __name__ == "__main__":
    main()
