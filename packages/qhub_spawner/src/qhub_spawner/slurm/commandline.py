"""The door by Slurm's own commands: argument lists, no shell, scripts and secrets on stdin.

Queries (squeue, sinfo, sacct, sacctmgr) run as the hub's account. What must happen as a person
goes through `door_command`, which one sudo rule allows; when the hub's account *is* that person,
without sudo.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import re
import secrets
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from qhub_spawner.access import Limits
from qhub_spawner.errors import SlurmRejectedError, SlurmUnavailableError, SubmitUnknownError
from qhub_spawner.slurm import parsing
from qhub_spawner.slurm.capacity import Node
from qhub_spawner.slurm.door import AccountingSilentError, Cancellation, Door, Machines
from qhub_spawner.slurm.jobs import GarbledAnswerError, Job, JobEnding, Queue, write_tasks
from qhub_spawner.slurm.script import Submission

_NO_SUCH_JOB = "Invalid job id specified"
# sacct: "Slurm accounting storage is disabled"; sacctmgr: the other
_NO_ACCOUNTING = re.compile(
    r"[Aa]ccounting storage is disabled|not running a supported accounting_storage plugin"
)
# What sudo says when it did not run the door; other words of its may be mere warnings.
_SUDO_REFUSED = re.compile(
    r"sudo: a (?:password|terminal) is required|sudo: unknown user|not allowed to (?:execute|run)"
    r"|is not in the sudoers file|sudo: .*command not found|sudo: PAM |account validation failure"
)
# Those of them that are about the person: asking again does not help, nor is Slurm to blame.
_NO_RULE = re.compile(
    r"sudo: a password is required|not allowed to (?:execute|run)|is not in the sudoers file"
)


@dataclass(frozen=True)
class Answer:
    """What one command said."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class CommandLine:
    """How commands are found and run.

    Attributes:
        slurm_bin: The folder of Slurm's commands.
        slurm_conf: The value of ``SLURM_CONF``, if not the built-in place.
        door: The command sudo lets the hub run; ``None`` runs this package's own copy.
        sudo: The words before it; ``{user}`` becomes the account.
        timeout_seconds: How long one command may take before it counts as no answer.
    """

    slurm_bin: str = "/usr/bin"
    slurm_conf: str | None = None
    door: str | None = None
    sudo: tuple[str, ...] = ("sudo", "-n", "-u", "{user}", "--")
    timeout_seconds: float = 30.0

    @property
    def door_arguments(self) -> tuple[str, ...]:
        """The arguments that the sudo rule fixes."""
        conf = (f"--slurm-conf={self.slurm_conf}",) if self.slurm_conf else ()
        return (f"--slurm-bin={self.slurm_bin}", *conf)

    def door_argv(self, user: str) -> list[str]:
        """Return the command that acts as `user`."""
        own = str(files("qhub_spawner.slurm") / "door_command.py")
        command = [self.door] if self.door else [sys.executable, "-IS", own]
        words = [*command, *self.door_arguments]
        if user == pwd.getpwuid(os.geteuid()).pw_name:
            return words
        return [*(word.replace("{user}", user) for word in self.sudo), *words]


class CommandLineDoor(Door):
    """Slurm by squeue, sinfo, sacct, sacctmgr, sbatch and scancel (22.05 and later)."""

    def __init__(self, how: CommandLine, clusters: Sequence[str | None] = (None,)) -> None:
        """Take how to run commands; nothing is run yet."""
        super().__init__(clusters)
        self.how = how

    # ---- questions, as the hub's account ----

    async def queue(self) -> Queue:
        """Return every job: one squeue a cluster, text of about 150 bytes a job."""
        taken, jobs = datetime.now(UTC), []
        for cluster in self.clusters:
            mark = secrets.token_hex(8)
            argv = ["squeue", "--all", "--states=all", *_of(cluster)]
            answer = await self._ask(argv, _queue_environment(mark))
            jobs += parsing.parse_queue(answer.stdout, mark, cluster=cluster)
        return Queue(taken, tuple(jobs))

    async def machines(self) -> Machines:
        """Return every node: one sinfo a cluster."""
        taken = datetime.now(UTC)
        nodes: list[Node] = []
        default = None
        for cluster in self.clusters:
            argv = ["sinfo", "--Node", "--noheader", "--all", *_of(cluster)]
            answer = await self._ask([*argv, f"--Format={parsing.NODE_FIELDS}"])
            nodes += parsing.parse_nodes(answer.stdout)
            default = default or parsing.default_partition(answer.stdout)
        return Machines(taken, tuple(nodes), default)

    async def endings(self, job_ids: Collection[int]) -> Mapping[int, JobEnding]:
        """Ask accounting: one sacct for all of `job_ids`."""
        if not job_ids:
            return {}
        return parsing.parse_accounting(await self._account(job_ids, parsing.ACCOUNTING_FIELDS))

    async def task_endings(
        self, array_ids: Collection[int]
    ) -> Mapping[int, Mapping[int, JobEnding]]:
        """Ask accounting: one sacct for all of `array_ids`."""
        if not array_ids:
            return {}
        return parsing.parse_task_endings(await self._account(array_ids, parsing.TASK_FIELDS))

    async def _account(self, job_ids: Collection[int], fields: str) -> str:
        argv = ["sacct", "--noheader", "--parsable2", "--allocations", "--duplicates"]
        argv += [f"--format={fields}"]
        argv += [f"--jobs={','.join(str(job_id) for job_id in sorted(job_ids))}"]
        if any(self.clusters):
            argv.append(f"--clusters={','.join(filter(None, self.clusters))}")
        everything = {"SLURM_BITSTR_LEN": "0"}
        answer = await self._run([f"{self.how.slurm_bin}/{argv[0]}", *argv[1:]], extra=everything)
        if _NO_ACCOUNTING.search(answer.stderr):
            raise AccountingSilentError(answer.stderr)
        if answer.exit_code or "error:" in answer.stderr:
            msg = "sacct gave no answer"
            raise SlurmUnavailableError(msg, exit_code=answer.exit_code, stderr=answer.stderr)
        return answer.stdout

    async def array(self, array_id: int) -> Sequence[Job]:
        """Ask squeue for the one array."""
        mark = secrets.token_hex(8)
        argv = ["squeue", "--all", "--states=all", *_of(self.clusters[0]), f"--jobs={array_id}"]
        try:
            answer = await self._ask(argv, _queue_environment(mark))
        except SlurmUnavailableError as error:
            # slurm_load_jobs error: Invalid job id specified
            # squeue: error: Invalid job id: 4294000000
            if "Invalid job id" in error.stderr:
                return ()
            raise
        return parsing.parse_queue(answer.stdout, mark, cluster=self.clusters[0])

    async def gone(self, job: Job) -> bool:
        """Ask scontrol; only its own sentence counts as "no such job"."""
        argv = [f"{self.how.slurm_bin}/scontrol", *_of(job.cluster), "show", "job", str(job.job_id)]
        answer = await self._run(argv)
        if answer.exit_code:
            return _NO_SUCH_JOB in answer.stderr or _NO_SUCH_JOB in answer.stdout
        # JobId=4711 JobName=qhub-demo-00112233445566ff
        other = re.match(rf"JobId={job.job_id} .*?JobName=(\S*)", answer.stdout.strip())
        return other is not None and other[1] != job.name

    async def limits(self) -> Mapping[str, Limits]:
        """Ask for all associations: one sacctmgr."""
        argv = ["sacctmgr", "--readonly", "--noheader", "--parsable2", "show", "associations"]
        argv.append(f"format={parsing.ASSOCIATION_FIELDS}")
        answer = await self._run([f"{self.how.slurm_bin}/{argv[0]}", *argv[1:]])
        if answer.exit_code and _NO_ACCOUNTING.search(answer.stderr):
            return {}
        if answer.exit_code:
            msg = "sacctmgr gave no answer"
            raise SlurmUnavailableError(msg, exit_code=answer.exit_code, stderr=answer.stderr)
        return parsing.limits_of(parsing.parse_associations(answer.stdout))

    # ---- deeds, as a person ----

    async def submit(self, user: str, submission: Submission) -> int:
        """Submit by sbatch, run as `user`."""
        answer = await self._as_user(user, _submission("submit", submission))
        if answer.exit_code:
            raise _refusal(answer)
        try:
            return parsing.parse_submitted(answer.stdout)
        except GarbledAnswerError as error:
            raise SubmitUnknownError(str(error)) from error

    async def estimate(self, user: str, submission: Submission) -> datetime | None:
        """Ask ``sbatch --test-only`` as `user`; nothing is submitted."""
        answer = await self._as_user(user, _submission("estimate", submission))
        if answer.exit_code:
            raise _refusal(answer)
        return parsing.parse_estimate(answer.stderr + answer.stdout)

    async def cancel(
        self, user: str, job_id: int, name: str, *, signal: Literal["TERM"] | None = None
    ) -> None:
        """Cancel by scancel, run as `user`, by id and name at once."""
        request = {"verb": "cancel", "job_id": job_id, "name": name, "signal": signal}
        if self.clusters != (None,):
            request["cluster"] = self.clusters[0]
        answer = await self._as_user(user, request)
        if answer.exit_code and _NO_SUCH_JOB not in answer.stderr:
            msg = f"scancel of job {job_id} failed"
            raise SlurmUnavailableError(msg, exit_code=answer.exit_code, stderr=answer.stderr)

    async def cancel_many(self, user: str, jobs: Sequence[Cancellation]) -> None:
        """Cancel by one squeue, for the names, and one scancel, run as `user`."""
        if not jobs:
            return
        asked = [
            {
                "job_id": job.job_id,
                "name": job.name,
                "tasks": None if job.tasks is None else write_tasks(job.tasks),
            }
            for job in jobs
        ]
        request: dict[str, Any] = {"verb": "cancel_many", "jobs": asked}
        if self.clusters != (None,):
            request["cluster"] = self.clusters[0]
        answer = await self._as_user(user, request)
        if answer.exit_code and _NO_SUCH_JOB not in answer.stderr:
            msg = f"scancel of {len(jobs)} jobs failed"
            raise SlurmUnavailableError(msg, exit_code=answer.exit_code, stderr=answer.stderr)

    async def read_log(self, user: str, cluster: str, name: str, most_bytes: int) -> str | None:
        """Read it as `user`."""
        request = {"verb": "read_log", "cluster": cluster, "name": name, "most_bytes": most_bytes}
        log = (await self._answer(user, request)).get("log")
        return log if isinstance(log, str) else None

    # ---- processes ----

    async def _as_user(self, user: str, request: Mapping[str, Any]) -> Answer:
        answer = await self._answer(user, request)
        return Answer(answer["exit_code"], answer["stdout"], answer["stderr"])

    async def _answer(self, user: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        argv = self.how.door_argv(user)
        said = await self._run(argv, stdin=json.dumps(request).encode())
        submitting = request["verb"] == "submit"
        if said.exit_code or not said.stdout:
            # sudo itself said no, or the door did not run to its end
            if submitting:
                _refuse_person(user, said)
            before = _SUDO_REFUSED.search(said.stderr) or "usage: door" in said.stderr
            kind = SubmitUnknownError if submitting and not before else SlurmUnavailableError
            msg = f"cannot act as {user}: {Path(argv[0]).name}"
            raise kind(msg, exit_code=said.exit_code, stderr=said.stderr)
        answer = parsing.parse_json("the door", said.stdout)
        if "refused" in answer:
            raise SlurmRejectedError(f"the request was refused: {answer['refused']}")
        if "timeout" in answer:
            kind = SubmitUnknownError if submitting else SlurmUnavailableError
            raise kind(f"{request['verb']} had no answer within {answer['timeout']} s")
        return answer

    async def _ask(self, argv: list[str], extra: Mapping[str, str] | None = None) -> Answer:
        answer = await self._run([f"{self.how.slurm_bin}/{argv[0]}", *argv[1:]], extra=extra)
        if answer.exit_code:
            msg = f"{argv[0]} gave no answer"
            raise SlurmUnavailableError(msg, exit_code=answer.exit_code, stderr=answer.stderr)
        return answer

    async def _run(
        self, argv: list[str], *, extra: Mapping[str, str] | None = None, stdin: bytes = b""
    ) -> Answer:
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "SLURM_TIME_FORMAT": "%s",
            "LC_ALL": "C.UTF-8",
            **(extra or {}),
        }
        if self.how.slurm_conf:
            environment["SLURM_CONF"] = self.how.slurm_conf
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
            )
        except OSError as error:
            msg = f"cannot run {argv[0]}: {error.strerror}"
            raise SlurmUnavailableError(msg) from error
        try:
            async with asyncio.timeout(self.how.timeout_seconds):
                stdout, stderr = await process.communicate(stdin)
        except TimeoutError as error:
            msg = f"{Path(argv[0]).name} had no answer within {self.how.timeout_seconds:g} s"
            late = SubmitUnknownError if b'"verb": "submit"' in stdin[:40] else None
            raise (late or SlurmUnavailableError)(msg) from error
        finally:
            if process.returncode is None:
                # sudo runs as root, out of the hub's reach; what it runs has its own time limit
                with suppress(PermissionError, ProcessLookupError):
                    process.kill()
                # what it started may hold the pipes open for longer; nobody reads them any more
                with suppress(PermissionError, ProcessLookupError):
                    process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001
        return Answer(
            process.returncode or 0,
            stdout.decode(errors="replace"),
            stderr.decode(errors="replace"),
        )


def _queue_environment(mark: str) -> dict[str, str]:
    # without the second, squeue cuts a long list of tasks
    return {"SQUEUE_FORMAT": parsing.queue_format(mark), "SLURM_BITSTR_LEN": "0"}


def _of(cluster: str | None) -> tuple[str, ...]:
    return (f"--clusters={cluster}",) if cluster else ()


def _submission(verb: str, submission: Submission) -> dict[str, Any]:
    return {
        "verb": verb,
        "arguments": submission.arguments,
        "script": submission.script,
        "environment": dict(submission.environment),
        **({} if submission.array_size is None else {"array_size": submission.array_size}),
    }


def _refuse_person(user: str, said: Answer) -> None:
    """Refuse whom sudo does not know, or does not let the hub act as.

    Raises:
        SlurmRejectedError: In words for the person; with what sudo said, for the log.
    """
    if "sudo: unknown user" in said.stderr:
        words = f"There is no account {user!r} on the hub's machine"
    elif _NO_RULE.search(said.stderr):
        words = f"The hub may not start jobs as {user!r}: its sudo rule does not allow it"
    else:
        return
    raise SlurmRejectedError(words, exit_code=said.exit_code, stderr=said.stderr)


def _refusal(answer: Answer) -> SlurmRejectedError | SubmitUnknownError:
    # one that was killed says nothing: only a sentence of its own tells that there is no job
    said_no = answer.exit_code > 0 and re.search(r"error: |fatal: |failure: ", answer.stderr)
    if not said_no or parsing.NOT_HEARD.search(answer.stderr):
        msg = "sbatch did not hear whether Slurm took the job"
        return SubmitUnknownError(msg, exit_code=answer.exit_code, stderr=answer.stderr)
    # sbatch: error: Batch job submission failed: Invalid account or account/partition combination
    said = [line for line in answer.stderr.splitlines() if "failed:" in line or "failure:" in line]
    words = (said or answer.stderr.splitlines() or ["no reason given"])[-1].split(": ")[-1]
    return SlurmRejectedError(f"Slurm refused it: {words}", exit_code=answer.exit_code)
