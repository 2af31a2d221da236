"""A Slurm without Slurm: jobs are processes of ours, answers have the recorded form of 22.05.8.

It stands where the commands stand, so that requests and answers go through the real door's code:
what it prints of jobs is the recorded output with the job's own values, nodes and associations are
the recorded output itself, and a refusal is the recorded refusal.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import pwd
import re
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from qhub_spawner.slurm.commandline import Answer, CommandLine, CommandLineDoor
from tests.unit import recorded

HEADINGS = recorded.text("queue.txt").splitlines()[0]
_KNOWN = {
    "partition": {"general", "highmem", "gpu"},
    "account": {"research", "physics"},
    "qos": {"normal", "gpu", "short", "single"},
}


@dataclass
class FakeJob:
    """One job: a process group of ours."""

    job_id: int
    user: str
    options: dict[str, str]
    process: asyncio.subprocess.Process | None
    submitted: int = field(default_factory=lambda: int(time.time()))
    cancelled_by: str | None = None
    ended: int = 0

    @property
    def name(self) -> str:
        """Its name."""
        return self.options["job-name"]

    @property
    def state(self) -> str:
        """Its state as squeue has it."""
        code = self.process.returncode if self.process else None
        if self.process is None or code is None:
            return "RUNNING"
        self.ended = self.ended or int(time.time())
        if self.cancelled_by:
            return "CANCELLED"
        return "FAILED" if code else "COMPLETED"

    def signal(self, number: int, *, everybody: bool) -> None:
        """Send a signal to the batch script, or to every process."""
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                send = os.killpg if everybody else os.kill
                send(self.process.pid, number)


class FakeDoor(CommandLineDoor):
    """The command-line door, with nothing behind it but this process."""

    def __init__(self) -> None:
        """An empty cluster that can be reached."""
        super().__init__(CommandLine(door="/fake/door"))
        self.jobs: dict[int, FakeJob] = {}
        self.silent = False
        self._ids = itertools.count(4711)

    async def _run(
        self, argv: list[str], *, extra: Mapping[str, str] | None = None, stdin: bytes = b""
    ) -> Answer:
        command = argv[0].rpartition("/")[2]
        if command == "sudo":
            return await self._door(argv[3], json.loads(stdin))
        if self.silent:
            return Answer(1, "", recorded.text("silent-controller-squeue.txt"))
        if command == "squeue":
            assert extra is not None
            return self._squeue(extra["SQUEUE_FORMAT"].partition("|")[0])
        if command == "sacct":
            asked = next(word for word in argv if word.startswith("--jobs=")).partition("=")[2]
            return self._sacct([int(job_id) for job_id in asked.split(",")])
        if command == "scontrol":
            job = self.jobs.get(int(argv[-1]))
            if job is None:
                return Answer(1, "", recorded.text("unknown-scontrol.txt"))
            return Answer(0, f"JobId={job.job_id} JobName={job.name}\n", "")
        return Answer(0, recorded.text(f"{_FILES[command]}.txt"), "")

    # ---- what would be printed ----

    def _squeue(self, mark: str) -> Answer:
        lines = [HEADINGS.replace(recorded.MARK, mark)]
        for job in self.jobs.values():
            times = f"{job.submitted}|{job.submitted}|{job.submitted + 600}|10:00"
            lines.append(
                f"{mark}|{job.job_id}|{job.state}|None|{job.user}|general|1|1|1|N/A|{times}"
                f"|cn01|cn01|{job.name}|{mark}"
            )
        return Answer(0, "\n".join(lines) + "\n", "")

    def _sacct(self, job_ids: list[int]) -> Answer:
        lines = []
        for job in (self.jobs[job_id] for job_id in job_ids if job_id in self.jobs):
            state, end, code = job.state, "Unknown", "0:0"
            if state != "RUNNING" and job.process is not None:
                end = str(job.ended)
                returned = job.process.returncode or 0
                code = f"{returned}:0" if returned >= 0 else f"0:{-returned}"
            if job.cancelled_by:
                state += f" by {pwd.getpwnam(job.cancelled_by).pw_uid}"
            lines.append(f"{job.job_id}|{state}|{code}|{end}|cn01\n")
        return Answer(0, "".join(lines), "")

    # ---- the door ----

    async def _door(self, user: str, request: dict[str, Any]) -> Answer:
        if self.silent:
            command = "scancel" if request["verb"] == "cancel" else "sbatch"
            return _said(1, stderr=recorded.text(f"silent-controller-{command}.txt"))
        if request["verb"] == "cancel":
            return self._cancel(user, request)
        pairs = (word.removeprefix("--").partition("=") for word in request["arguments"])
        options = {name: value for name, _, value in pairs}
        for option, known in _KNOWN.items():
            if options.get(option, next(iter(known))) not in known:
                return _said(1, stderr=recorded.text(f"refused-{option}.txt"))
        if request["verb"] == "estimate":
            text = recorded.text("sbatch-test-only.txt")
            return _said(0, stderr=re.sub(r"at \d+", f"at {int(time.time())}", text))
        job_id = next(self._ids)
        script = os.memfd_create("script")
        os.write(script, request["script"].encode())
        process = await asyncio.create_subprocess_exec(
            "bash",
            f"/dev/fd/{script}",
            pass_fds=(script,),
            env={"SLURM_JOB_ID": str(job_id), "PATH": os.defpath, **request["environment"]},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(script)
        self.jobs[job_id] = FakeJob(job_id, user, options, process)
        return _said(0, stdout=f"{job_id}\n")

    def _cancel(self, user: str, request: dict[str, Any]) -> Answer:
        job = self.jobs.get(request["job_id"])
        if job is None or job.state != "RUNNING":
            return _said(1, stderr=f"Kill job error on job id {request['job_id']}: {_UNKNOWN}\n")
        if job.user != user:
            return _said(210, stderr="scancel: error: Kill job error: Access/permission denied\n")
        if job.name == request["name"]:
            if request["signal"]:
                job.signal(signal.SIGTERM, everybody=False)
            else:
                job.cancelled_by = user
                job.signal(signal.SIGKILL, everybody=True)
        return _said(0)

    async def close(self) -> None:
        """End every job."""
        for job in self.jobs.values():
            job.signal(signal.SIGKILL, everybody=True)
            if job.process is not None:
                await job.process.wait()


_FILES = {"sinfo": "machines", "sacctmgr": "limits"}
_UNKNOWN = "Invalid job id specified"


def _said(exit_code: int, stdout: str = "", stderr: str = "") -> Answer:
    return Answer(0, json.dumps({"exit_code": exit_code, "stdout": stdout, "stderr": stderr}), "")
