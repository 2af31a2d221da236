"""The door by slurmrestd: HTTP and short-lived tokens; no sudo, nothing as root.

Routes and fields are those of the OpenAPI plugins v0.0.38 and dbv0.0.38 of Slurm 22.05. Secrets
travel in the request's body and headers only: put slurmrestd on loopback or behind TLS.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import jwt
from tornado.httpclient import AsyncHTTPClient, HTTPError, HTTPRequest

from qhub_spawner.access import Limits
from qhub_spawner.errors import (
    SlurmRejectedError,
    SlurmUnavailableError,
    SubmitUnknownError,
    shown,
)
from qhub_spawner.slurm.capacity import Node, parse_gres
from qhub_spawner.slurm.commandline import SILENCE, limits_of
from qhub_spawner.slurm.door import AccountingSilentError, Door, Machines
from qhub_spawner.slurm.jobs import GarbledAnswerError, Job, JobEnding, JobState, Queue
from qhub_spawner.slurm.parsing import parse_json, walltime_seconds
from qhub_spawner.slurm.script import Submission

_LONGEST_BODY = 512 * 1024 * 1024
_NO_SUCH_JOB = "Invalid job id"
# slurm_errno.h: slurmctld's own refusals are numbered from 2000; 2027 is a standby controller's.
# Numbers below are of the connection to it, 7000 and up of that to slurmdbd.
_REFUSALS = frozenset(range(2000, 3000)) - {2027}
_NOTHING_FOUND = 9003
_BAD_REQUEST = 400


@dataclass(frozen=True)
class RestService:
    """Where slurmrestd is and how the hub proves who it is."""

    url: str
    version: str
    user: str
    jwt_key_file: str
    token_seconds: float
    timeout_seconds: float

    def token(self, user: str) -> str:
        """Mint a token for `user` (man slurm-wlm-jwt: HS256 with the claims iat, exp and sun).

        Raises:
            SlurmUnavailableError: The key cannot be read.
        """
        try:
            key = Path(self.jwt_key_file).read_bytes()
        except OSError as error:
            msg = f"cannot read jwt_key_file {self.jwt_key_file}: {error.strerror}"
            raise SlurmUnavailableError(msg) from error
        now = int(time.time())
        claims = {"iat": now, "exp": now + int(self.token_seconds), "sun": user}
        return jwt.encode(claims, key, algorithm="HS256")

    @property
    def own_user(self) -> str:
        """The account that asks for the queue and the nodes."""
        return self.user or pwd.getpwuid(os.geteuid()).pw_name


# ---- options of sbatch as fields of a job description ------------------------------------------


def _minutes(text: str) -> int:
    return -(-(walltime_seconds(text) or 0) // 60)


def _mebibytes(text: str) -> int:
    return int(text.removesuffix("M"))


_FIELDS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "account": ("account", str),
    "begin": ("begin_time", str),
    "constraint": ("constraints", str),
    "cpus-per-task": ("cpus_per_task", int),
    "dependency": ("dependency", str),
    "distribution": ("distribution", str),
    "exclusive": ("exclusive", lambda text: text or "exclusive"),
    "gres": ("gres", str),
    "licenses": ("licenses", str),
    "mem": ("memory_per_node", _mebibytes),
    "nice": ("nice", str),
    "nodelist": ("nodelist", str),
    # documented as two numbers, which 22.05 takes and does not heed
    "nodes": ("nodes", str),
    "ntasks": ("tasks", int),
    "ntasks-per-node": ("tasks_per_node", int),
    "partition": ("partition", str),
    "priority": ("priority", str),
    "qos": ("qos", str),
    "reservation": ("reservation", str),
    "time": ("time_limit", _minutes),
    "wckey": ("wckey", str),
}
_FLAGS: Mapping[str, tuple[str, Any]] = {
    "requeue": ("requeue", True),
    "no-requeue": ("no_requeue", True),
}


def unsupported_options(options: Iterable[str]) -> list[str]:
    """Return those sbatch options that a job description of v0.0.38 has no field for."""
    return [option for option in options if option not in _FIELDS and option not in _FLAGS]


def job_description(submission: Submission) -> dict[str, Any]:
    """Return the ``job`` of ``POST /job/submit``.

    Raises:
        SlurmRejectedError: An option has no field.
    """
    unknown = unsupported_options(submission.options)
    if unknown:
        msg = f"slurmrestd cannot be given --{unknown[0]}; use the command-line transport for it"
        raise SlurmRejectedError(msg)
    job: dict[str, Any] = {
        "name": submission.name,
        "comment": submission.comment,
        "standard_output": "/dev/null",
        "standard_error": "/dev/null",
        "current_working_directory": "/",
        "environment": {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            **submission.environment,
        },
    }
    for option, value in submission.options.items():
        if option in _FLAGS:
            field, fixed = _FLAGS[option]
            job[field] = fixed
        else:
            field, read = _FIELDS[option]
            try:
                job[field] = read(value or "")
            except ValueError as error:
                msg = f"--{option}={value} cannot be given to slurmrestd"
                raise SlurmRejectedError(msg) from error
    return job


class RestDoor(Door):
    """Slurm by slurmrestd."""

    def __init__(self, service: RestService) -> None:
        """Take where it is; nothing is asked yet."""
        super().__init__()
        self.service = service

    async def queue(self) -> Queue:
        """Return every job: ``GET /slurm/VERSION/jobs``."""
        taken = datetime.now(UTC)
        answer = await self._get("/slurm/{version}/jobs")
        return Queue(taken, tuple(_rows(answer, "jobs", _job)))

    async def machines(self) -> Machines:
        """Return every node: ``GET …/nodes`` and ``GET …/partitions``, side by side."""
        taken = datetime.now(UTC)
        nodes, partitions = await asyncio.gather(
            self._get("/slurm/{version}/nodes"), self._get("/slurm/{version}/partitions")
        )
        limits = {
            str(row["name"]): (_minutes_limit(row.get("max_time_limit")), row.get("state") == "UP")
            for row in partitions.get("partitions", [])
        }
        default = next(
            (
                str(row["name"])
                for row in partitions.get("partitions", [])
                if "default" in row.get("flags", [])
            ),
            None,
        )
        found = [node for each in _rows(nodes, "nodes", _nodes) for node in each]
        known = tuple(_in_partition(node, limits) for node in found)
        return Machines(taken, known, default)

    async def endings(self, job_ids: Collection[int]) -> Mapping[int, JobEnding]:
        """Ask accounting: ``GET /slurmdb/VERSION/job/ID`` for each, four at a time."""
        gate = asyncio.Semaphore(4)

        async def one(job_id: int) -> list[JobEnding]:
            async with gate:
                answer = await self._get(f"/slurmdb/{{version}}/job/{job_id}", accounting=True)
                return [await self._with_status(end) for end in _rows(answer, "jobs", _ending)]

        found = await asyncio.gather(*(one(job_id) for job_id in job_ids))
        return {ending.job_id: ending for each in found for ending in each}

    async def _with_status(self, ending: JobEnding) -> JobEnding:
        """Ask slurmctld for the exit status, which slurmrestd 22.05 leaves out of accounting."""
        if ending.state is not JobState.FAILED or ending.exit_status or ending.exit_signal:
            return ending
        try:
            answer = await self._get(f"/slurm/{{version}}/job/{ending.job_id}")
            statuses = list(_rows(answer, "jobs", lambda row: int(row.get("exit_code") or 0)))
        except (SlurmRejectedError, SlurmUnavailableError):
            return ending  # it has forgotten the job
        return replace(ending, exit_status=os.waitstatus_to_exitcode(statuses[0])) if statuses else ending

    async def gone(self, job: Job) -> bool:
        """Ask for the one job: ``GET /slurm/VERSION/job/ID``."""
        try:
            answer = await self._get(f"/slurm/{{version}}/job/{job.job_id}")
        except SlurmRejectedError as error:
            return _NO_SUCH_JOB in str(error)
        return all(row.get("name") != job.name for row in answer.get("jobs", []))

    async def limits(self) -> Mapping[str, Limits]:
        """Ask for all associations: ``GET /slurmdb/VERSION/associations``."""
        try:
            answer = await self._get("/slurmdb/{version}/associations", accounting=True)
        except AccountingSilentError:
            return {}
        rows = _rows(answer, "associations", _association)
        return limits_of(row for row in rows if row[0])

    async def submit(self, user: str, submission: Submission) -> int:
        """``POST /slurm/VERSION/job/submit`` with a token of `user`."""
        body = {"script": submission.script, "job": job_description(submission)}
        try:
            answer = await self._request("POST", "/slurm/{version}/job/submit", user, body)
        except SlurmUnavailableError as error:
            # once sent, no failure says that the job was not taken
            raise SubmitUnknownError(str(error)) from error
        job_id = answer.get("job_id")
        if not isinstance(job_id, int) or job_id <= 0:
            msg = f"slurmrestd named no job: {answer.get('result')!r}"
            raise SubmitUnknownError(msg)
        return job_id

    async def cancel(
        self, user: str, job_id: int, name: str, *, signal: Literal["TERM"] | None = None
    ) -> None:
        """``DELETE /slurm/VERSION/job/ID`` after a look whether the id still is that job's."""
        try:
            answer = await self._get(f"/slurm/{{version}}/job/{job_id}", user=user)
            if all(row.get("name") != name for row in answer.get("jobs", [])):
                return
            path = f"/slurm/{{version}}/job/{job_id}"
            # unlike scancel's --batch it reaches every process of the job, the script among them
            query = f"?signal={signal}" if signal else ""
            await self._request("DELETE", path + query, user)
        except SlurmRejectedError as error:
            if _NO_SUCH_JOB not in str(error) and "already" not in str(error).lower():
                raise SlurmUnavailableError(str(error)) from error

    async def estimate(self, user: str, submission: Submission) -> datetime | None:
        """Return ``None``: this version of the API has no such question."""
        del user, submission
        return None

    # ---- requests ----

    async def _get(
        self, path: str, *, user: str | None = None, accounting: bool = False
    ) -> dict[str, Any]:
        try:
            return await self._request("GET", path, user or self.service.own_user)
        except _NoRouteError as error:
            if accounting:
                # without slurmdbd, slurmrestd only starts without the routes of accounting
                raise AccountingSilentError(str(error)) from error
            raise

    async def _request(
        self, method: str, path: str, user: str, body: Any = None
    ) -> dict[str, Any]:
        route = path.format(version=self.service.version)
        request = HTTPRequest(
            self.service.url.rstrip("/") + route,
            method=method,
            headers={
                "X-SLURM-USER-NAME": user,
                "X-SLURM-USER-TOKEN": self.service.token(user),
                "Content-Type": "application/json",
            },
            body=None if body is None else json.dumps(body),
            request_timeout=self.service.timeout_seconds,
            connect_timeout=min(5.0, self.service.timeout_seconds),
        )
        what = f"slurmrestd {method} {route.partition('?')[0]}"
        try:
            client = AsyncHTTPClient(max_body_size=_LONGEST_BODY, force_instance=False)
            response = await client.fetch(request, raise_error=False)
        except (OSError, HTTPError) as error:
            msg = f"{what}: no answer: {error}"
            raise SlurmUnavailableError(msg) from error
        return _checked(what, response.code, response.body or b"")

    async def close(self) -> None:
        """See `Door.close`."""
        return


class _NoRouteError(SlurmUnavailableError):
    """This slurmrestd was started without the plugin that would answer."""


def _checked(what: str, code: int, body: bytes) -> dict[str, Any]:
    if code in {401, 403}:
        msg = f"{what}: slurmrestd refuses the hub's token (HTTP {code})"
        raise SlurmUnavailableError(msg, stderr=body.decode(errors="replace"))
    if code == 599 or code in {502, 503, 504}:  # noqa: PLR2004 - tornado's "no answer"
        raise SlurmUnavailableError(f"{what}: HTTP {code}")
    if code == 404 and not body.startswith(b"{"):  # noqa: PLR2004
        raise _NoRouteError(f"{what}: slurmrestd has no such route; is rest_version right?")
    answer = parse_json(what, body)
    errors = answer.get("errors") or []
    numbers = {_number(error) for error in errors}
    if not errors or numbers == {_NOTHING_FOUND}:
        if code >= 300:  # noqa: PLR2004 - anything but success
            raise SlurmUnavailableError(f"{what}: HTTP {code}")
        return answer
    said = _said(errors[0])
    if code == _BAD_REQUEST or (numbers & _REFUSALS and SILENCE.search(said) is None):
        raise SlurmRejectedError(f"Slurm refused it: {said}")
    raise SlurmUnavailableError(f"{what}: {said}")


def _number(error: Any) -> int:
    """Return the number of an error: each route of 22.05 has its own name for it."""
    if not isinstance(error, dict):
        return 0
    found = error.get("error_number") or error.get("error_code") or error.get("errno")
    return found if isinstance(found, int) else 0


def _said(error: Any) -> str:
    if not isinstance(error, dict):
        return shown(error)
    said = error.get("error") or error.get("description") or "no reason given"
    more = error.get("description")
    # "Unspecified error" alone helps nobody
    return f"{said}: {more}" if more and said in {"Unspecified error", "Operation not permitted"} else str(said)


# ---- rows ---------------------------------------------------------------------------------------


def _rows(answer: Mapping[str, Any], key: str, read: Callable[[dict[str, Any]], Any]) -> Iterator[Any]:
    rows = answer.get(key)
    if not isinstance(rows, list):
        raise GarbledAnswerError("slurmrestd", str(answer)[:200])
    for row in rows:
        try:
            yield read(row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GarbledAnswerError("slurmrestd", str(row)[:200]) from error


def _moment(value: Any) -> datetime | None:
    return datetime.fromtimestamp(int(value), UTC) if value else None


def _job(row: dict[str, Any]) -> Job:
    minutes = row.get("time_limit")
    return Job(
        job_id=int(row["job_id"]),
        state=JobState.parse(str(row["job_state"])),
        name=str(row.get("name") or ""),
        user=str(row.get("user_name") or ""),
        reason=str(row.get("state_reason") or "").replace("None", ""),
        partition=str(row.get("partition") or ""),
        nodes=int(row.get("node_count") or 0),
        cpus=int(row.get("cpus") or 0),
        priority=int(row.get("priority") or 0),
        gres=str(row.get("tres_per_node") or ""),
        submitted=_moment(row.get("submit_time")),
        start=_moment(row.get("start_time")),
        end=_moment(row.get("end_time")),
        walltime_seconds=int(minutes) * 60 if minutes and int(minutes) < 2**31 else None,
        node_list=str(row.get("nodes") or ""),
        batch_host=str(row.get("batch_host") or ""),
    )


def _ending(row: dict[str, Any]) -> JobEnding:
    code = row.get("exit_code") or {}
    killer = (row.get("state") or {}).get("kill_request_user") or None
    uid = None
    if killer:
        try:
            uid = pwd.getpwnam(str(killer)).pw_uid
        except KeyError:
            uid = None
    return JobEnding(
        job_id=int(row["job_id"]),
        state=JobState.parse(str(row["state"]["current"])),
        exit_status=int(code.get("return_code") or 0),
        exit_signal=int((code.get("signal") or {}).get("signal_id") or 0),
        cancelled_by=uid,
        ended=_moment((row.get("time") or {}).get("end")),
        node_list=str(row.get("nodes") or "").replace("None assigned", ""),
    )


def _nodes(row: dict[str, Any]) -> list[Node]:
    flags = {str(flag).lower() for flag in row.get("state_flags") or []}
    state = str(row["state"]).lower()
    if flags & {"drain", "down", "fail", "maintenance", "not_responding", "powered_down"}:
        state = "drained"
    total, allocated = int(row["cpus"]), int(row.get("alloc_cpus") or 0)
    return [
        Node(
            name=str(row["name"]),
            address=str(row.get("address") or row["name"]),
            partition=str(partition),
            state=state,
            cpus_total=total,
            cpus_allocated=allocated,
            cpus_idle=int(row.get("idle_cpus") or 0),
            memory_mebibytes=int(row.get("real_memory") or 0),
            memory_allocated_mebibytes=int(row.get("alloc_memory") or 0),
            gpus=parse_gres(str(row.get("gres") or "")),
            gpus_used=parse_gres(str(row.get("gres_used") or "")),
            features=frozenset(filter(None, str(row.get("features") or "").split(","))),
        )
        for partition in row.get("partitions") or []
    ]


def _minutes_limit(value: Any) -> int | None:
    return int(value) * 60 if isinstance(value, int) and 0 < value < 2**31 else None


def _in_partition(node: Node, limits: Mapping[str, tuple[int | None, bool]]) -> Node:
    longest, up = limits.get(node.partition, (None, True))
    return replace(node, partition_walltime_seconds=longest, partition_up=up)


def _association(row: dict[str, Any]) -> tuple[str, str, str, int | None, frozenset[str]]:
    limits = ((row.get("max") or {}).get("jobs") or {}).get("per") or {}
    return (
        str(row.get("user") or ""),
        str(row.get("account") or ""),
        str(row.get("partition") or ""),
        _minutes_limit(limits.get("wall_clock")),
        frozenset(str(name) for name in row.get("qos") or []),
    )
