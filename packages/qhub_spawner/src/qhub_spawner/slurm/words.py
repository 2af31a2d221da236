"""Slurm's states and reasons, in words for the person who waits or whose server ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from qhub_spawner.slurm.jobs import Job, JobEnding, JobState

# man squeue 22.05, "JOB REASON CODES"
_REASONS: Mapping[str, str] = {
    "Resources": "it is next, and starts as soon as enough is free",
    "Priority": "jobs with a higher priority come first",
    "None": "Slurm has not looked at it yet",
    "": "Slurm has not looked at it yet",
    "Dependency": "it waits for another job",
    "BeginTime": "its begin time has not come",
    "Licenses": "it waits for a licence",
    "Reservation": "it waits for its reservation",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition takes no jobs to run now",
    "PartitionTimeLimit": "it asks for more time than the partition allows",
    "PartitionNodeLimit": "it asks for more nodes than the partition has",
    "NodeDown": "a node that it needs is down",
    "ReqNodeNotAvail": "a node that it needs is down, drained or reserved",
    "JobHeldUser": "it is held; release it with scontrol release",
    "JobHeldAdmin": "an administrator holds it",
    "InvalidAccount": "its account is not valid",
    "InvalidQOS": "its quality of service is not valid",
    "QOSNotAllowed": "its quality of service is not allowed in this partition",
    "AccountNotAllowed": "its account is not allowed in this partition",
    "AssocMaxJobsLimit": "your account already runs as many jobs as it may",
    "AssocGrpCpuLimit": "your account already uses all the cores it may",
    "AssocGrpMemLimit": "your account already uses all the memory it may",
    "AssocGrpGRES": "your account already uses all the GPUs it may",
    "QOSMaxJobsPerUserLimit": "you already run as many jobs as this quality of service allows",
    "QOSMaxCpuPerUserLimit": "you already use all the cores this quality of service allows",
    "QOSMaxMemoryPerUser": "you already use all the memory this quality of service allows",
    "QOSMaxGRESPerUser": "you already use all the GPUs this quality of service allows",
    "QOSGrpGRES": "all GPUs of this quality of service are in use",
    "QOSGrpCpuLimit": "all cores of this quality of service are in use",
    "QOSMaxWallDurationPerJobLimit": "it asks for more time than the quality of service allows",
    "BadConstraints": "no node of the partition can ever satisfy it",
    "Prolog": "the node is being prepared",
    "Cleaning": "the node is being cleaned up",
}


_ENDINGS: Mapping[JobState, str] = {
    JobState.PREEMPTED: "a job with a higher priority took its place (preempted)",
    JobState.NODE_FAIL: "its node failed",
    JobState.BOOT_FAIL: "its node did not boot",
    JobState.DEADLINE: "its deadline passed",
    JobState.REVOKED: "another cluster took the job",
    JobState.UNKNOWN: "Slurm no longer knows its job, and keeps no accounting that could say why",
}


def reason_words(reason: str) -> str:
    """Return why a job waits; an unknown reason is passed on as Slurm's own word.

    >>> reason_words("Resources")
    'it is next, and starts as soon as enough is free'
    >>> reason_words("NewReason")
    'Slurm gives the reason NewReason'
    """
    key = reason.partition(",")[0].strip("() ")
    return _REASONS.get(key, f"Slurm gives the reason {key}")


@dataclass(frozen=True)
class Granted:
    """What a server was granted, as its person knows it; for the words of its end."""

    memory: str = ""
    walltime: str = ""


def ending_words(ending: JobEnding, granted: Granted, *, cancelled_by: str = "") -> str:
    """Return why a job is over.

    Args:
        ending: What Slurm says.
        granted: The limits the person chose.
        cancelled_by: The account name of the uid that cancelled it, if known.
    """
    state = ending.state
    on = f" on {ending.node_list}" if ending.node_list else ""
    if state is JobState.OUT_OF_MEMORY:
        limit = f" of {granted.memory}" if granted.memory else ""
        return f"its memory limit{limit} was reached"
    if state is JobState.TIMEOUT:
        limit = f" of {granted.walltime}" if granted.walltime else ""
        return f"its walltime{limit} ended"
    if state is JobState.CANCELLED:
        if not cancelled_by and ending.cancelled_by is not None:
            cancelled_by = f"uid {ending.cancelled_by}"
        return f"it was cancelled by {cancelled_by}" if cancelled_by else "it was cancelled"
    if state is JobState.FAILED and ending.exit_signal:
        return f"it was killed by signal {ending.exit_signal}{on}"
    if state is JobState.FAILED:
        status = f" with exit code {ending.exit_status}" if ending.exit_status else ""
        return f"it failed{status}{on}"
    if state in {JobState.NODE_FAIL, JobState.BOOT_FAIL}:
        return f"{_ENDINGS[state]}{on}"
    return _ENDINGS.get(state, "it ended by itself")


def exit_code(ending: JobEnding) -> int:
    """Return what `Spawner.poll` answers: 0 only for a job that completed."""
    if ending.state is JobState.COMPLETED:
        return ending.exit_status
    if ending.exit_signal:
        return 128 + ending.exit_signal
    return ending.exit_status or 1


def waiting_words(job: Job, ahead: int, now: datetime) -> str:
    """Return what a person reads while the job waits: its place or the reason, then the estimate.

    Args:
        job: The waiting job.
        ahead: How many waiting jobs of its partition have a higher priority.
        now: The present, UTC.
    """
    name = f"Job {job.job_id}"
    if job.state is JobState.CONFIGURING:
        return f"{name} has been given {job.node_list or 'a node'}, which Slurm prepares."
    why = reason_words(job.reason)
    if ahead and job.reason in {"Priority", "Resources"}:
        why = f"{ahead} waiting {'job is' if ahead == 1 else 'jobs are'} ahead of it"
    parts = [f"{name} waits in partition {job.partition}: {why}."]
    if job.start is not None and job.start > now:
        parts.append(f"Slurm expects it to start {moment_words(job.start, now)}.")
    return " ".join(parts)


def moment_words(moment: datetime, now: datetime) -> str:
    """Return a moment to come in words, the more roughly the further off: ``in about 25 min``.

    >>> from datetime import UTC, timedelta
    >>> now = datetime(2026, 1, 1, tzinfo=UTC)
    >>> moment_words(now + timedelta(hours=3, minutes=10), now)
    'in about 3 h 10 min'
    """
    minutes = max(0, round((moment - now).total_seconds() / 60))
    if minutes < 1:
        return "within a minute"
    if minutes > 60:  # noqa: PLR2004 - an hour; a line that changes every minute is noise
        minutes = round(minutes, -1)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        minutes = 0
    parts = [(days, "d"), (hours, "h"), (minutes, "min")]
    return "in about " + " ".join(f"{count} {unit}" for count, unit in parts if count)


def queue_position(job: Job, jobs: tuple[Job, ...]) -> int:
    """Return how many waiting jobs of the same partition have a higher priority."""
    return sum(
        other.state is JobState.PENDING
        and other.partition == job.partition
        and other.job_id != job.job_id
        and (other.priority, -other.job_id) > (job.priority, -job.job_id)
        for other in jobs
    )
