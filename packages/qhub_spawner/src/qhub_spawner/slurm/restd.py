"""The door by slurmrestd: HTTP and short-lived tokens; no sudo, nothing as root.

Secrets travel in the request's body and headers only: put slurmrestd on loopback or behind TLS.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import jwt
from tornado.httpclient import AsyncHTTPClient, HTTPError, HTTPRequest

from qhub_spawner.access import Limits
from qhub_spawner.errors import SlurmRejectedError, SlurmUnavailableError, SubmitUnknownError
from qhub_spawner.slurm.capacity import Node
from qhub_spawner.slurm.door import AccountingSilentError, Cancellation, Door, Machines
from qhub_spawner.slurm.jobs import Job, JobEnding, JobState, Queue
from qhub_spawner.slurm.parsing import limits_of
from qhub_spawner.slurm.rest_documents import (
    NoRouteError,
    Partition,
    association_of,
    checked,
    ending_of,
    job_description,
    job_of,
    nodes_of,
    partition_of,
    rows,
    task_endings_of,
    unsupported_options,
)
from qhub_spawner.slurm.script import Submission

__all__ = ["RestDoor", "RestService", "unsupported_options"]

_LONGEST_BODY = 512 * 1024 * 1024
_NO_SUCH_JOB = "Invalid job id"
_SERVICE_ACCOUNTS = frozenset({"root", "slurm", "munge", "nobody"})
_FIRST_PERSON = 1000  # uid; man login.defs, UID_MIN


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
        return Queue(taken, tuple(rows(answer, "jobs", job_of)))

    async def machines(self) -> Machines:
        """Return every node: ``GET …/nodes`` and ``GET …/partitions``, side by side."""
        taken = datetime.now(UTC)
        nodes, partitions = await asyncio.gather(
            self._get("/slurm/{version}/nodes"), self._get("/slurm/{version}/partitions")
        )
        known = {each.name: each for each in rows(partitions, "partitions", partition_of)}
        default = next((each.name for each in known.values() if each.default), None)
        found = [node for each in rows(nodes, "nodes", nodes_of) for node in each]
        return Machines(taken, tuple(_in_partition(node, known) for node in found), default)

    async def endings(self, job_ids: Collection[int]) -> Mapping[int, JobEnding]:
        """Ask accounting: ``GET /slurmdb/VERSION/job/ID`` for each, four at a time."""
        gate = asyncio.Semaphore(4)

        async def one(job_id: int) -> list[JobEnding]:
            async with gate:
                answer = await self._get(f"/slurmdb/{{version}}/job/{job_id}", accounting=True)
                found = list(rows(answer, "jobs", ending_of))
                return [await self._with_status(*each) for each in found]

        every = await asyncio.gather(*(one(job_id) for job_id in job_ids))
        # a requeued job stands several times, the newest last
        return {ending.job_id: ending for each in every for ending in each}

    async def task_endings(
        self, array_ids: Collection[int]
    ) -> Mapping[int, Mapping[int, JobEnding]]:
        """Ask accounting: ``GET /slurmdb/VERSION/job/ID`` for each array, one after the other."""
        found: dict[int, dict[int, JobEnding]] = defaultdict(dict)
        for array_id in array_ids:
            answer = await self._get(f"/slurmdb/{{version}}/job/{array_id}", accounting=True)
            for own, tasks, ending, by in rows(answer, "jobs", task_endings_of):
                told = await self._with_status(ending, by)
                found[own].update(dict.fromkeys(tasks, told))
        return dict(found)

    async def array(self, array_id: int) -> Sequence[Job]:
        """Ask for the one array: ``GET /slurm/VERSION/job/ID``."""
        try:
            answer = await self._get(f"/slurm/{{version}}/job/{array_id}")
        except SlurmRejectedError as error:
            if _NO_SUCH_JOB in str(error):
                return ()
            raise SlurmUnavailableError(str(error)) from error
        return tuple(rows(answer, "jobs", job_of))

    async def cancel_many(self, user: str, jobs: Sequence[Cancellation]) -> None:
        """``DELETE /slurm/VERSION/job/ID`` for a whole job or array, ``…/ID_TASK`` for a task.

        Eight at a time, each array looked at once whether the id still is that job's.
        """
        gate = asyncio.Semaphore(8)

        async def one(path: str) -> None:
            async with gate:
                try:
                    await self._request("DELETE", f"/slurm/{{version}}/job/{path}", user)
                except SlurmRejectedError as error:
                    if _NO_SUCH_JOB not in str(error) and "already" not in str(error).lower():
                        raise SlurmUnavailableError(str(error)) from error

        for job in jobs:
            lines = await self.array(job.job_id)
            if all(line.name != job.name for line in lines):
                continue
            if job.tasks is None:
                await one(str(job.job_id))
            else:
                await asyncio.gather(*(one(f"{job.job_id}_{task}") for task in job.tasks))

    async def _with_status(self, ending: JobEnding, cancelled_by: str) -> JobEnding:
        """Add the uid of who cancelled it, and the exit status that 22.05 leaves out here."""
        if cancelled_by:
            with suppress(KeyError):
                ending = replace(ending, cancelled_by=pwd.getpwnam(cancelled_by).pw_uid)
        if ending.state is not JobState.FAILED or ending.exit_status or ending.exit_signal:
            return ending
        try:
            answer = await self._get(f"/slurm/{{version}}/job/{ending.job_id}")
        except (SlurmRejectedError, SlurmUnavailableError):
            return ending  # slurmctld has forgotten the job
        for status in rows(answer, "jobs", lambda row: int(row.get("exit_code") or 0)):
            ending = replace(ending, exit_status=status >> 8 & 0xFF)
        return ending

    async def gone(self, job: Job) -> bool:
        """Ask for the one job: ``GET /slurm/VERSION/job/ID``."""
        try:
            answer = await self._get(f"/slurm/{{version}}/job/{job.job_id}")
        except SlurmRejectedError as error:
            return _NO_SUCH_JOB in str(error)
        found = answer.get("jobs") or []
        return bool(found) and all(row.get("name") != job.name for row in found)

    async def limits(self) -> Mapping[str, Limits]:
        """Ask for all associations: ``GET /slurmdb/VERSION/associations``."""
        try:
            answer = await self._get("/slurmdb/{version}/associations", accounting=True)
        except AccountingSilentError:
            return {}
        return limits_of(rows(answer, "associations", association_of))

    async def submit(self, user: str, submission: Submission) -> int:
        """``POST /slurm/VERSION/job/submit`` with a token of `user`."""
        self._refuse_service_account(user)
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

    def _refuse_service_account(self, user: str) -> None:
        """Refuse accounts that are nobody's: who has the key could submit as any of them.

        With the command line it is the sudo rule that names the people.
        """
        system = any(entry.pw_uid < _FIRST_PERSON for entry in _accounts(user))
        if system or user in {*_SERVICE_ACCOUNTS, self.service.user}:
            msg = f"the account {user} is a service's or the system's, not a person's"
            raise SlurmRejectedError(msg)

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
        except NoRouteError as error:
            if accounting:
                # without slurmdbd, slurmrestd only starts without the routes of accounting
                raise AccountingSilentError(str(error)) from error
            raise

    async def _request(
        self, method: str, path: str, user: str, body: dict[str, Any] | None = None
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
        return checked(what, response.code, response.body or b"")

    async def close(self) -> None:
        """See `Door.close`."""
        return


def _accounts(user: str) -> list[pwd.struct_passwd]:
    try:
        return [pwd.getpwnam(user)]
    except KeyError:
        return []  # the hub's machine need not know the people of the cluster


def _in_partition(node: Node, known: Mapping[str, Partition]) -> Node:
    partition = known.get(node.partition)
    if partition is None:
        return node
    return replace(
        node,
        partition_walltime_seconds=partition.longest_seconds,
        partition_up=partition.up,
    )
