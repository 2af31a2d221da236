"""Readers of what Slurm prints. Pure: text in, values out, `GarbledAnswerError` otherwise.

The queue is read as text, a few dozen bytes a job, because a JSON answer of 3,000 jobs costs
the hub seconds of CPU. Other people's job names are hostile input: a name may hold newlines and
so forge whole lines. Each record therefore begins and ends with a mark that is drawn anew for
each query and handed to squeue in its environment, where other users cannot see it.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from qhub_spawner.access import Limits
from qhub_spawner.quantities import Duration
from qhub_spawner.slurm.capacity import Node, parse_gres
from qhub_spawner.slurm.jobs import GarbledAnswerError, Job, JobEnding, JobState, read_tasks

SEPARATOR = "|"
# man squeue 22.05, --format: id (of an array with its tasks), state, reason, user, partition,
# nodes, cpus, priority, gres, submit, start, end, time limit, node list, batch host; name last.
_QUEUE_FIELDS = "%i|%T|%r|%u|%P|%D|%C|%Q|%b|%V|%S|%e|%l|%N|%B|%j"
_QUEUE_WIDTH = _QUEUE_FIELDS.count(SEPARATOR) + 1
_KEPT_RECORDS = 16_384
# man sacct 22.05, --format
ACCOUNTING_FIELDS = "JobIDRaw,State,ExitCode,End,NodeList"
TASK_FIELDS = ACCOUNTING_FIELDS.replace("JobIDRaw", "JobID")
# man sinfo 22.05, --Format with a suffix for each field
NODE_FIELDS = (
    "NodeList:|,NodeAddr:|,Partition:|,StateLong:|,CPUsState:|,Memory:|,AllocMem:|,"
    "Gres:|,GresUsed:|,Features:|,Time:|,Available:|"
)
_NODE_WIDTH = NODE_FIELDS.count("|")
# man sacctmgr 22.05, "show associations"
ASSOCIATION_FIELDS = "User,Account,Partition,MaxWall,QOS,DefaultQOS"

# What Slurm prints when it did not hear the controller's answer (src/common/slurm_errno.c).
# Only a sentence of this list says that nothing may be concluded.
NOT_HEARD = re.compile(
    r"Unable to contact slurm controller|Socket timed out|Zero Bytes were transmitted"
    r"|Connection (?:refused|reset|timed out)|Slurm backup controller in standby"
    r"|[Cc]ommunication connection failure|Unspecified error|Protocol authentication error"
    r"|[Mm]unge|auth_g_|Insane message length|Message (?:send|receive) failure"
    r"|Slurm controller (?:not responding|is not)|Resource temporarily unavailable",
)

_NOTHING = frozenset(
    {"", "N/A", "n/a", "NONE", "(null)", "None", "NOT_SET", "INVALID"}
    | {"UNLIMITED", "INFINITE", "Partition_Limit"}
)

# User, account, partition (empty for all), longest walltime in seconds, QOS names.
Association = tuple[str, str, str, int | None, frozenset[str]]


def queue_format(mark: str) -> str:
    """Return the value of ``SQUEUE_FORMAT`` for one query."""
    return f"{mark}{SEPARATOR}{_QUEUE_FIELDS}{SEPARATOR}{mark}"


def parse_queue(text: str, mark: str, *, cluster: str | None = None) -> list[Job]:
    """Read squeue's answer to `queue_format`, its line of headings included.

    Raises:
        GarbledAnswerError: The headings are missing, a record is cut or malformed, or something
            stands between records. The whole answer is then worth nothing: a job that is not in
            it proves nothing. (An answer that is cut between two records cannot be told from a
            whole one; a job that is missing is therefore never taken for over without
            accounting's word.)
    """
    jobs: list[Job] = []
    headings = False
    head, tail = mark + SEPARATOR, SEPARATOR + mark
    record = ""
    for line in text.split("\n"):
        if not record:
            if not line or line.startswith("CLUSTER: "):
                continue
            if not line.startswith(head):
                raise GarbledAnswerError("squeue", line)
            record = line
        else:
            # a job's name may hold a newline: the record goes on until its closing mark
            record += "\n" + line
        if record.endswith(tail) and len(record) >= len(head) + len(tail):
            content, record = record[len(head) : -len(tail)], ""
            if headings:
                jobs.append(_queue_job(content, cluster))
            elif content.startswith(f"JOBID{SEPARATOR}"):
                headings = True
            else:
                raise GarbledAnswerError("squeue", content)
    if record or not headings:
        raise GarbledAnswerError("squeue", record)
    return jobs


@lru_cache(maxsize=_KEPT_RECORDS)  # from one answer to the next most records are the same
def _queue_job(record: str, cluster: str | None) -> Job:
    # 4711|RUNNING|None|alice|general|1|2|4294901755|gpu:1|1763700000|1763700001|1763703601|
    # 1:00:00|cn01|cn01|qhub-demo-00112233445566ff   (one line; times by SLURM_TIME_FORMAT=%s)
    fields = record.split(SEPARATOR, _QUEUE_WIDTH - 1)
    if len(fields) != _QUEUE_WIDTH:
        raise GarbledAnswerError("squeue", record)
    try:
        job_id, tasks = _id_and_tasks(fields[0])
        return Job(
            job_id=job_id,
            state=JobState.parse(fields[1]),
            reason="" if fields[2] in _NOTHING else fields[2],
            user=fields[3],
            partition=fields[4],
            nodes=_count(fields[5]),
            cpus=_count(fields[6]),
            priority=int(fields[7] or 0),
            gres="" if fields[8] in _NOTHING else fields[8],
            submitted=_time(fields[9]),
            start=_time(fields[10]),
            end=_time(fields[11]),
            walltime_seconds=walltime_seconds(fields[12]),
            node_list="" if fields[13] in _NOTHING else fields[13],
            batch_host="" if fields[14] in _NOTHING else fields[14],
            name=fields[15],
            cluster=cluster,
            tasks=tasks,
        )
    except ValueError as error:
        raise GarbledAnswerError("squeue", record) from error


# 4711, one task of an array 4711_3, those that wait 4711_[4,6-9%2], a part of a job 4711+1
_JOB_ID = re.compile(r"([0-9]+)(?:\+[0-9]+)?(?:_(?:([0-9]+)|\[([^]]*)\]))?")


def _id_and_tasks(text: str) -> tuple[int, tuple[range, ...]]:
    match = _JOB_ID.fullmatch(text)
    if match is None:
        raise ValueError(text)
    tasks = match[2] or match[3]
    return int(match[1]), read_tasks(tasks) if tasks else ()


def _count(text: str) -> int:
    # a pending range of nodes is written "2-4", a large count "1K"
    match = re.match(r"(\d+)([KM]?)", text)
    if match is None:
        raise ValueError(text)
    return int(match[1]) * {"": 1, "K": 1024, "M": 1024**2}[match[2]]


def _time(text: str) -> datetime | None:
    if text in _NOTHING:
        return None
    if not text.isdigit():
        raise ValueError(text)
    return moment(int(text)) if int(text) else None


def moment(seconds: int) -> datetime:
    """Return a moment that Slurm gives as seconds since the epoch.

    Raises:
        ValueError: It is none of any job: platforms differ in what else they make of it.
    """
    if not 0 <= seconds < _NO_MOMENT:
        raise ValueError(seconds)
    return datetime.fromtimestamp(seconds, UTC)


def walltime_seconds(text: str) -> int | None:
    """Read a time limit as Slurm prints it; ``None`` where there is none.

    >>> walltime_seconds("1-02:03:04"), walltime_seconds("30:00"), walltime_seconds("UNLIMITED")
    (93784, 1800, None)
    """
    if text in _NOTHING:
        return None
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if not 1 <= len(parts) <= 3:  # noqa: PLR2004 - hours, minutes, seconds
        raise ValueError(text)
    if dash:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    elif len(parts) == 1:
        hours, minutes, seconds = 0, parts[0], 0
    else:
        hours, minutes, seconds = [0, *parts][-3:]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def parse_accounting(text: str) -> dict[int, JobEnding]:
    """Read ``sacct --parsable2 --noheader --allocations`` with `ACCOUNTING_FIELDS`.

    Lines of jobs still running are part of the answer: their state is not `JobState.over`.

    Raises:
        GarbledAnswerError: A line is not of that form.
    """
    endings = {}
    for line in text.splitlines():
        # 4711|CANCELLED by 1000|0:15|1763700000|cn01
        fields = line.split(SEPARATOR)
        if not line:
            continue
        if len(fields) != ACCOUNTING_FIELDS.count(",") + 1 or not fields[0].isdigit():
            raise GarbledAnswerError("sacct", line)
        status, _, signal = fields[2].partition(":")
        by = re.search(r" by (\d+)", fields[1])
        try:
            ending = JobEnding(
                job_id=int(fields[0]),
                state=JobState.parse(fields[1]),
                exit_status=int(status or 0),
                exit_signal=int(signal or 0),
                cancelled_by=int(by[1]) if by else None,
                ended=None if fields[3] == "Unknown" else _time(fields[3]),
                node_list="" if fields[4] == "None assigned" else fields[4],
            )
        except ValueError as error:
            raise GarbledAnswerError("sacct", line) from error
        # a requeued job stands several times, the newest last
        endings[ending.job_id] = ending
    return endings


def parse_task_endings(text: str) -> dict[int, dict[int, JobEnding]]:
    """Read what sacct says of job arrays, with `TASK_FIELDS`: by the array's id and the task.

    Accounting has a line for each task that was started, and one for those that wait; tasks that
    were cancelled one by one while they waited never have a line of their own.

    Raises:
        GarbledAnswerError: A line is not of that form.
    """
    found: dict[int, dict[int, JobEnding]] = defaultdict(dict)
    for line in text.splitlines():
        # 4711_3|CANCELLED by 1000|0:15|1763700000|cn01
        if not line:
            continue
        first, separator, rest = line.partition(SEPARATOR)
        try:
            array_id, tasks = _id_and_tasks(first)
        except ValueError as error:
            raise GarbledAnswerError("sacct", line) from error
        ending = parse_accounting(f"{array_id}{separator}{rest}")[array_id]
        for task in (task for each in tasks for task in each):
            found[array_id][task] = ending
    return dict(found)


def parse_nodes(text: str) -> list[Node]:
    """Read ``sinfo --Node --noheader`` with `NODE_FIELDS`: one entry a node and partition.

    Raises:
        GarbledAnswerError: A line is not of that form.
    """
    nodes = []
    for line in text.splitlines():
        # cn01|127.0.0.1|general|idle|0/2/0/2|4000|0|(null)|gpu:0|general|8:00:00|up|
        if not line.strip():
            continue
        fields = [field.strip() for field in line.split(SEPARATOR)]
        if len(fields) != _NODE_WIDTH + 1:
            raise GarbledAnswerError("sinfo", line)
        try:
            allocated, idle, _other, total = (int(part) for part in fields[4].split("/"))
            nodes.append(
                Node(
                    name=fields[0],
                    address=fields[1],
                    partition=fields[2].rstrip("*"),
                    state=fields[3],
                    cpus_total=total,
                    cpus_allocated=allocated,
                    cpus_idle=idle,
                    memory_mebibytes=int(fields[5]),
                    memory_allocated_mebibytes=int(fields[6]),
                    gpus=parse_gres(fields[7]),
                    gpus_used=parse_gres(fields[8]),
                    features=frozenset(filter(None, fields[9].replace("(null)", "").split(","))),
                    partition_walltime_seconds=walltime_seconds(fields[10].upper()),
                    partition_up=fields[11] == "up",
                )
            )
        except ValueError as error:
            raise GarbledAnswerError("sinfo", line) from error
    return nodes


def parse_associations(text: str) -> Iterator[Association]:
    """Read ``sacctmgr --parsable2 --noheader show associations`` with `ASSOCIATION_FIELDS`.

    Yields:
        User, account, partition (empty for all), the longest walltime in seconds or ``None``,
        and the QOS names; lines of accounts themselves, which name no user, are left out.

    Raises:
        GarbledAnswerError: A line is not of that form.
    """
    for line in text.splitlines():
        # alice|research||08:00:00|gpu,normal|normal
        fields = line.split(SEPARATOR)
        if not line.strip():
            continue
        if len(fields) != ASSOCIATION_FIELDS.count(",") + 1:
            raise GarbledAnswerError("sacctmgr", line)
        if fields[0]:
            try:
                longest = walltime_seconds(fields[3])
            except ValueError as error:
                raise GarbledAnswerError("sacctmgr", line) from error
            yield fields[0], fields[1], fields[2], longest, _names(fields[4])


def _names(text: str) -> frozenset[str]:
    return frozenset(filter(None, text.split(",")))


def limits_of(rows: Iterable[Association]) -> dict[str, Limits]:
    """Gather associations by user; those of accounts themselves, without one, are left out.

    The longest walltime of a user is the most generous of their associations, and known only if
    each of them has one.
    """
    accounts: dict[str, set[str]] = defaultdict(set)
    qos: dict[str, set[str]] = defaultdict(set)
    longest: dict[str, list[int | None]] = defaultdict(list)
    for user, account, _partition, seconds, names in rows:
        if not user:
            continue
        accounts[user].add(account)
        qos[user] |= names
        longest[user].append(seconds)
    return {
        user: Limits(
            accounts=frozenset(accounts[user]),
            qos=frozenset(qos[user]) or None,
            max_walltime=_longest(longest[user]),
        )
        for user in accounts
    }


def _longest(seconds: list[int | None]) -> Duration | None:
    known = [value for value in seconds if value is not None]
    if not known or len(known) < len(seconds):
        return None
    return Duration(seconds=max(known))


_SUBMITTED = re.compile(r"(\d+)(?:;(\S+))?\s*")
_NO_MOMENT = 2**33  # seconds, in the year 2242
_STARTS = re.compile(r"Job \d+ to start at (\S+) using \d+ processors?")


def parse_submitted(text: str) -> int:
    """Read ``sbatch --parsable``: ``4711`` or ``4711;cluster``, in the last line.

    Raises:
        GarbledAnswerError: It is not of that form.
    """
    lines = text.strip().splitlines() or [""]
    match = _SUBMITTED.fullmatch(lines[-1])
    if match is None:
        raise GarbledAnswerError("sbatch", text)
    return int(match[1])


def parse_estimate(text: str) -> datetime | None:
    """Read ``sbatch --test-only``; ``None`` when it names no time.

    >>> parse_estimate("sbatch: Job 12 to start at 1763700000 using 2 processors on nodes cn01")
    datetime.datetime(2025, 11, 21, 4, 40, tzinfo=datetime.timezone.utc)
    """
    match = _STARTS.search(text)
    if match is None:
        return None
    try:
        if match[1].isdigit():
            return moment(int(match[1]))
        return datetime.fromisoformat(match[1]).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def parse_json(source: str, text: str | bytes) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        GarbledAnswerError: It is not one.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise GarbledAnswerError(source, str(text)) from error
    if not isinstance(value, dict):
        raise GarbledAnswerError(source, str(text))
    return value


def default_partition(text: str) -> str | None:
    """Return the partition that sinfo marks with a star; ``None`` without one."""
    for line in text.splitlines():
        fields = line.split(SEPARATOR)
        if len(fields) > 2 and fields[2].strip().endswith("*"):  # noqa: PLR2004 - third field
            return fields[2].strip().rstrip("*")
    return None
