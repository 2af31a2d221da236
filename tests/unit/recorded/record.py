"""Record what the real Slurm prints, for the unit tests: ``python -m tests.unit.recorded.record``.

A Slurm test system is started, jobs of every kind are made on it, and each question that the
product asks is asked through the product's own doors (three minutes: a walltime has to end). What
came back goes into a folder named by Slurm's version; commit it with the parsers that read it.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from qhub_spawner.errors import SlurmError
from qhub_spawner.slurm import commandline, restd
from qhub_spawner.slurm.commandline import Answer, CommandLine, CommandLineDoor
from qhub_spawner.slurm.restd import RestDoor, RestService
from qhub_spawner.slurm.script import Submission
from tests.systems.slurm import SlurmSystem

HERE = Path(__file__).parent
MARK = "0123456789abcdef"
GUESSED = "fedcba9876543210"
NAME = "qhub-a1-000000000000000{}"
FORGED = f"|4711|CANCELLED|None|alice|general|1|1|1|N/A|1|1|1|1:00|cn01|cn01|{NAME.format(1)}|"
EATS_MEMORY = "python3 -c 'x = b\"x\" * 400_000_000; import time; time.sleep(60)'"
UNKNOWN_ID = 4_294_000_000

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
    "account-of-partition": ["--partition=highmem", "--account=physics"],
}


class RecordingDoor(CommandLineDoor):
    """Keeps the last answer of a command."""

    said: Answer

    async def _run(self, *args: Any, **kwargs: Any) -> Answer:
        self.said = await super()._run(*args, **kwargs)
        return self.said


def make_jobs(slurm: SlurmSystem) -> dict[str, int]:
    """Make a job of every kind; returns when each is what it shall be."""
    sleeper = ("sleep 600", "--mem=100M", "--time=30")
    small = ("--mem=100M",)
    forged = f"x\n{GUESSED}{FORGED}{GUESSED}"
    jobs = {
        "running": slurm.sbatch("alice", *sleeper, f"--job-name={NAME.format(1)}"),
        "gpu": slurm.sbatch(
            *("alice", *sleeper, f"--job-name={NAME.format(2)}"),
            *("--partition=gpu", "--qos=gpu", "--gres=gpu:a100:1"),
        ),
        "suspended": slurm.sbatch("bob", *sleeper, f"--job-name={NAME.format(3)}"),
        "held": slurm.sbatch("alice", *sleeper, "--hold"),
        "array": slurm.sbatch("alice", *sleeper, "--array=1-5%1", "--hold"),
        "forged": slurm.sbatch("bob", *sleeper, "--hold", f"--job-name={forged}"),
        "completed": slurm.sbatch("alice", "true", *small),
        "failed": slurm.sbatch("alice", "exit 3", *small),
        "killed": slurm.sbatch("alice", "kill -9 $$", *small),
        "memory": slurm.sbatch("alice", EATS_MEMORY, "--mem=60M"),
        "timeout": slurm.sbatch("alice", "sleep 600", *small, "--time=1"),
        "node": slurm.sbatch("alice", *sleeper, "--partition=highmem", "--no-requeue"),
        "requeued": slurm.sbatch("alice", *sleeper, "--requeue"),
        "cancelled": slurm.sbatch("alice", *sleeper),
    }

    def until(kind: str, *states: str, seconds: float = 60) -> None:
        slurm.wait_until(lambda: slurm.job_state(jobs[kind]) in states, seconds, f"{kind} {states}")

    for kind in ("running", "gpu", "suspended", "node"):
        until(kind, "RUNNING")
    slurm.run(["scontrol", "suspend", str(jobs["suspended"])])
    slurm.node_down("hm01")
    until("requeued", "RUNNING")
    slurm.run(["scontrol", "requeue", str(jobs["requeued"])])
    until("cancelled", "RUNNING")
    slurm.run(["scancel", str(jobs["cancelled"])], "alice")
    until("memory", "OUT_OF_MEMORY", seconds=120)
    until("timeout", "TIMEOUT", seconds=180)
    for kind in ("completed", "failed", "killed"):
        until(kind, "COMPLETED", "FAILED")
    until("requeued", "RUNNING", seconds=180)
    jobs["wide"] = slurm.sbatch("alice", *sleeper, "--nodes=2", "--exclusive")
    jobs["behind"] = slurm.sbatch("alice", *sleeper, "--nodes=1-2", "--exclusive")
    slurm.wait_until(lambda: "Resources" in slurm.run(["squeue", "-o", "%r"]).stdout, 60)
    slurm.node_down("hm01")  # again: it returned by itself
    time.sleep(2)  # accounting lags
    return jobs


class Recorder:
    """Asks everything and writes everything."""

    def __init__(self, slurm: SlurmSystem, folder: Path) -> None:
        self.slurm = slurm
        self.folder = folder
        self.verdicts: list[tuple[str, int, bytes]] = []
        self.rest = RestDoor(
            RestService(slurm.rest_url, "v0.0.38", "slurm", str(slurm.jwt_key), 60, 30)
        )
        checked = restd.checked

        def listening(what: str, code: int, body: bytes) -> dict[str, Any]:
            self.verdicts.append((what, code, body))
            return checked(what, code, body)

        restd.checked = listening
        commandline.secrets.token_hex = lambda _bytes: MARK  # type: ignore[assignment]

    def keep(self, name: str, text: str) -> None:
        """Write a file, without what is of this run alone."""
        text = text.replace(str(self.slurm.run_folder), "/run-folder")
        (self.folder / name).write_text(re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:6819", text))

    def keep_answers(self, name: str) -> None:
        """Write what slurmrestd has answered since the last time, without jobs' steps."""
        answers = []
        for what, code, body in self.verdicts:
            document = json.loads(body)
            for row in document.get("jobs", []):
                if "steps" in row:
                    row["steps"] = []
            answers.append({"what": what, "code": code, "body": document})
        self.verdicts.clear()
        self.keep(f"rest-{name}.json", json.dumps(answers, indent=1) + "\n")

    async def answers(self, jobs: dict[str, int]) -> None:
        """Ask what both doors can be asked."""
        ids = sorted(jobs.values())
        text = RecordingDoor(CommandLine(slurm_conf=str(self.slurm.slurm_conf)))
        for question in ("queue", "machines", "endings", "limits"):
            arguments = (ids,) if question == "endings" else ()
            await getattr(text, question)(*arguments)
            self.keep(f"{question}.txt", text.said.stdout)
            await getattr(self.rest, question)(*arguments)
            self.keep_answers(question)

    def submissions(self) -> None:
        """Try what is refused, and what goes well."""
        submit = ["sbatch", "--chdir=/tmp", "--output=/dev/null", "--wrap=true"]
        seconds = {"SLURM_TIME_FORMAT": "%s"}
        tested = self.slurm.run([*submit, "--test-only"], "alice", environment=seconds)
        self.keep("sbatch-test-only.txt", tested.stderr)
        self.keep("sbatch-help.txt", self.slurm.run(["sbatch", "--help"]).stdout)
        self.keep("sbatch-parsable.txt", self.slurm.run([*submit, "--parsable"], "alice").stdout)
        for kind, options in REFUSED.items():
            refused = self.slurm.run([*submit, *options], "alice", check=False)
            self.keep(f"refused-{kind}.txt", refused.stderr)

    async def rest_refusals(self) -> None:
        """Try over HTTP what is refused and what is not there."""
        for options in ({"account": "nope"}, {"qos": "nope"}, {"time": "99-0"}):
            submission = Submission(NAME.format(9), "", options, "#!/bin/sh\n", {"A": "b"})
            with suppress(SlurmError):
                await self.rest.submit("alice", submission)
        for path in (
            f"/slurm/{{version}}/job/{UNKNOWN_ID}",
            f"/slurmdb/{{version}}/job/{UNKNOWN_ID}",
        ):
            with suppress(SlurmError):
                await self.rest._get(path)
        self.keep_answers("refused")

    def silence(self) -> None:
        """Ask a controller, a munge and a slurmdbd that are not there."""
        submit = ["sbatch", "--chdir=/tmp", "--output=/dev/null", "--wrap=true"]
        nowhere = {
            "controller": ("SlurmctldPort", "19", (submit, ["squeue"], ["scancel", "1"])),
            "munge": ("AuthInfo", "socket=/nonexistent", (submit, ["squeue"], ["scancel", "1"])),
            "slurmdbd": ("AccountingStoragePort", "19", (["sacct"], ["sacctmgr", "list", "qos"])),
        }
        for kind, (setting, value, commands) in nowhere.items():
            path = self.slurm.run_folder / f"{setting}.conf"
            text = self.slurm.slurm_conf.read_text()
            path.write_text(re.sub(f"(?m)^{setting}=.*$", f"{setting}={value}", text))
            for command in commands:
                environment = {"SLURM_CONF": str(path)}
                said = self.slurm.run(command, "alice", check=False, environment=environment)
                self.keep(f"silent-{kind}-{command[0]}.txt", said.stderr)
        path = self.slurm.run_folder / "none.conf"
        text = re.sub(r"(?m)^Accounting.*\n", "", self.slurm.slurm_conf.read_text())
        path.write_text(text)
        for command in (["sacct"], ["sacctmgr", "--readonly", "show", "associations"]):
            environment = {"SLURM_CONF": str(path)}
            said = self.slurm.run(command, check=False, environment=environment)
            self.keep(f"none-{command[0]}.txt", said.stderr)
        unknown = self.slurm.run(["scontrol", "show", "job", str(UNKNOWN_ID)], check=False)
        self.keep("unknown-scontrol.txt", unknown.stderr)

    async def rest_silence(self) -> None:
        """Ask slurmrestd while what stands behind it is down."""
        self.slurm.stop_daemon("slurmdbd")
        for question in (self.rest.endings([1]), self.rest.limits()):
            with suppress(SlurmError):
                await question
        self.slurm.stop_daemon("slurmctld")
        submission = Submission(NAME.format(9), "", {}, "#!/bin/sh\n", {"A": "b"})
        for question in (self.rest.queue(), self.rest.submit("alice", submission)):
            with suppress(SlurmError):
                await question
        self.keep_answers("silent")


async def record(recorder: Recorder) -> None:
    """Record everything, what does harm last."""
    slurm = recorder.slurm
    recorder.keep("version.txt", slurm.run(["squeue", "--version"]).stdout)
    jobs = make_jobs(slurm)
    recorder.keep("jobs.json", json.dumps(jobs, indent=1) + "\n")
    await recorder.answers(jobs)
    recorder.submissions()
    await recorder.rest_refusals()
    recorder.silence()
    await recorder.rest_silence()


def excerpt(table: str) -> str:
    """Return the heading of /proc/net/tcp, whoever listens, and some of those that do not."""
    heading, *lines = table.splitlines(keepends=True)
    listening = [line for line in lines if line.split()[3] == "0A"]
    others = [line for line in lines if line.split()[3] != "0A"]
    return "".join([heading, *listening, *others[:20]])


def main() -> None:
    """Record into a fresh folder named by Slurm's version."""
    with SlurmSystem() as slurm:
        version = slurm.run(["squeue", "--version"]).stdout.split()[1]
        folder = HERE / ".".join(version.split(".")[:2])
        fresh = folder.with_suffix(".part")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        recorder = Recorder(slurm, fresh)
        v6 = {"family": socket.AF_INET6}
        with socket.create_server(("::1", 0), **v6), socket.create_server(("::", 0), **v6):
            for table in ("tcp", "tcp6"):
                text = excerpt(Path(f"/proc/net/{table}").read_text())
                recorder.keep(f"proc-net-{table}.txt", text)
        asyncio.run(record(recorder))
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


if __name__ == "__main__":
    main()
