"""The documents that go to slurmrestd and come from it. Pure.

Fields are those of the OpenAPI plugins v0.0.38 and dbv0.0.38, and how Slurm 22.05.8 takes them: its
description is wrong in places (tests hold each option to what the job then has).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from qhub_spawner.errors import SlurmRejectedError, SlurmUnavailableError, shown
from qhub_spawner.slurm.capacity import Node, parse_gres
from qhub_spawner.slurm.jobs import GarbledAnswerError, Job, JobEnding, JobState, read_tasks
from qhub_spawner.slurm.parsing import NOT_HEARD, Association, moment, parse_json, walltime_seconds
from qhub_spawner.slurm.script import Submission

# slurm_errno.h: slurmctld's own refusals are numbered from 2000; 2027 is a standby controller's.
# Numbers below are of the connection to it, 7000 and up of that to slurmdbd.
_REFUSALS = frozenset(range(2000, 3000)) - {2027}
_NOTHING_FOUND = 9003
_OK, _BAD_REQUEST = 200, 400
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _minutes(text: str) -> int:
    return -(-(walltime_seconds(text) or 0) // 60)


def _mebibytes(text: str) -> int:
    # 4000M, 4G, 4000: man sbatch, --mem
    match = re.fullmatch(r"(\d+)([KMGT]?)", text.upper().removesuffix("B"))
    if match is None:
        raise ValueError(text)
    kibibytes = int(match[1]) << 10 * "KMGT".index(match[2] or "M")
    return -(-kibibytes // 1024)


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
    for name, text in submission.environment.items():
        if "\0" in text or _VARIABLE.fullmatch(name) is None:
            raise SlurmRejectedError(f"the environment cannot hold a variable {shown(name)}")
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
    if submission.array_size is not None:
        job["array"] = f"0-{submission.array_size - 1}"
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


# ---- verdicts -----------------------------------------------------------------------------------


class NoRouteError(SlurmUnavailableError):
    """This slurmrestd was started without the plugin that would answer."""


def checked(what: str, code: int, body: bytes) -> dict[str, Any]:
    """Return the answer of slurmrestd if it is one.

    Args:
        what: The request, for messages.
        code: The HTTP status; 599 is tornado's "no answer".
        body: As it came.

    Raises:
        SlurmRejectedError: slurmctld itself said no.
        SlurmUnavailableError: Everything else: nothing may be concluded.
    """
    if code in {401, 403}:
        msg = f"{what}: slurmrestd refuses the hub's token (HTTP {code})"
        raise SlurmUnavailableError(msg, stderr=body.decode(errors="replace"))
    if code == 599 or code in {502, 503, 504}:  # noqa: PLR2004 - tornado's "no answer"
        raise SlurmUnavailableError(f"{what}: HTTP {code}")
    if code == 404 and not body.startswith(b"{"):  # noqa: PLR2004
        raise NoRouteError(f"{what}: slurmrestd has no such route; is rest_version right?")
    answer = parse_json(what, body)
    errors = answer.get("errors") or []
    if code == _OK and isinstance(answer.get("job_id"), int) and answer["job_id"] > 0:
        # the job was taken, and waits: its nodes are down, drained or reserved (2068); sbatch says
        # nothing of that
        return answer
    numbers = {_number(error) for error in errors}
    if not errors or numbers == {_NOTHING_FOUND}:
        if code >= 300:  # noqa: PLR2004 - anything but success
            raise SlurmUnavailableError(f"{what}: HTTP {code}")
        return answer
    said = _said(errors[0])
    if code == _BAD_REQUEST or (numbers & _REFUSALS and NOT_HEARD.search(said) is None):
        raise SlurmRejectedError(f"Slurm refused it: {said}")
    raise SlurmUnavailableError(f"{what}: {said}")


def _number(error: object) -> int:
    """Return the number of an error: each route of 22.05 has its own name for it."""
    if not isinstance(error, dict):
        return 0
    found = error.get("error_number") or error.get("error_code") or error.get("errno")
    return found if isinstance(found, int) else 0


def _said(error: object) -> str:
    if not isinstance(error, dict):
        return shown(error)
    said = error.get("error") or error.get("description") or "no reason given"
    more = error.get("description")
    # "Unspecified error" alone helps nobody
    vague = said in {"Unspecified error", "Operation not permitted"}
    return f"{said}: {more}" if more and vague else str(said)


# ---- rows ---------------------------------------------------------------------------------------

Row = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Partition:
    """What a node's partition adds to it."""

    name: str
    longest_seconds: int | None
    up: bool
    default: bool


def rows(answer: Mapping[str, Any], key: str, read: Callable[[Row], T]) -> Iterator[T]:
    """Read each row of an answer.

    Raises:
        GarbledAnswerError: There is no list of rows, or one cannot be read.
    """
    found = answer.get(key)
    if not isinstance(found, list):
        raise GarbledAnswerError("slurmrestd", str(answer)[:200])
    for row in found:
        try:
            yield read(row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GarbledAnswerError("slurmrestd", str(row)[:200]) from error


def _moment(value: object) -> datetime | None:
    # what is not known is written as 0, or as the largest number that fits
    if not value or not isinstance(value, int):
        return None
    with contextlib.suppress(ValueError):
        return moment(value)
    return None


def job_of(row: Row) -> Job:
    """Read one job of ``GET …/jobs``."""
    minutes = row.get("time_limit")
    tasks = _tasks_of(row)
    return Job(
        # each task that was started has a number of its own; the array's is what all share
        job_id=int(row["array_job_id"] if tasks else row["job_id"]),
        tasks=tasks,
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


def _tasks_of(row: Row) -> tuple[range, ...]:
    task = row.get("array_task_id")
    if row.get("array_job_id") and isinstance(task, int):
        return (range(task, task + 1),)
    text = str(row.get("array_task_string") or "")
    return read_tasks(text) if text else ()


def task_endings_of(row: Row) -> tuple[int, tuple[int, ...], JobEnding, str]:
    """Read one job of an array: the array's id, the tasks it stands for, and as `ending_of`."""
    array = row.get("array") or {}
    task, waiting = array.get("task_id"), array.get("task")
    if isinstance(task, int):
        tasks: tuple[int, ...] = (task,)
    else:
        # tasks that wait, as the bits of a number: "0x3F0" are 4 to 9
        bits = int(waiting, 16) if isinstance(waiting, str) and waiting else 0
        tasks = tuple(each for each in range(bits.bit_length()) if bits >> each & 1)
    return int(array.get("job_id") or row["job_id"]), tasks, *ending_of(row)


def ending_of(row: Row) -> tuple[JobEnding, str]:
    """Read one job of ``GET /slurmdb/…/job/ID``, and the name of who cancelled it."""
    code = row.get("exit_code") or {}
    state = row["state"]
    ending = JobEnding(
        job_id=int(row["job_id"]),
        state=JobState.parse(str(state["current"])),
        exit_status=int(code.get("return_code") or 0),
        exit_signal=int((code.get("signal") or {}).get("signal_id") or 0),
        ended=_moment((row.get("time") or {}).get("end")),
        node_list=str(row.get("nodes") or "").replace("None assigned", ""),
    )
    return ending, str(row.get("kill_request_user") or "")


def nodes_of(row: Row) -> list[Node]:
    """Read one node of ``GET …/nodes``, once for each of its partitions."""
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


def partition_of(row: Row) -> Partition:
    """Read one partition of ``GET …/partitions``."""
    return Partition(
        name=str(row["name"]),
        longest_seconds=_minutes_limit(row.get("max_time_limit")),
        up=row.get("state") == "UP",
        default="default" in (row.get("flags") or []),
    )


def association_of(row: Row) -> Association:
    """Read one row of ``GET /slurmdb/…/associations``; accounts themselves name no user."""
    limits = ((row.get("max") or {}).get("jobs") or {}).get("per") or {}
    return (
        str(row.get("user") or ""),
        str(row.get("account") or ""),
        str(row.get("partition") or ""),
        _minutes_limit(limits.get("wall_clock")),
        frozenset(str(name) for name in row.get("qos") or []),
    )


def _minutes_limit(value: object) -> int | None:
    return value * 60 if isinstance(value, int) and 0 < value < 2**31 else None
