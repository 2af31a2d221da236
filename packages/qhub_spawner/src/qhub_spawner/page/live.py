"""What is free now, as JSON and in words."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from qhub_spawner.availability import Availability, StartEstimate

__all__ = ["NOTHING_KNOWN", "clock", "count", "iso", "live_figures"]

NOTHING_KNOWN = Availability()
"""What a backend knows that says nothing, such as the local one."""

_PLACES = {"slurm": " on Slurm", "kubernetes": " on Kubernetes", "local": " here"}
_SOURCES = {
    "slurm": "Slurm's estimate",
    "calculated": "calculated from what is idle",
    "quota": "as far as the quota goes",
    "": "",
}


def live_figures(
    known: Availability, now: datetime, *, one_of_several: bool = False
) -> dict[str, Any]:
    """Describe what is free for one profile.

    Args:
        known: What its backend knows.
        now: The time, aware; clocks in the words are in its time zone.
        one_of_several: Whether it may run on other backends, too: the words then name this one.
    """
    jobs, noun = known.jobs_waiting, "pod" if known.backend == "kubernetes" else "job"
    unbuilt = known.scale_up and not known.nodes_total  # to count what is not there helps nobody
    return {
        "nodes_idle": known.nodes_idle,
        "nodes_total": known.nodes_total,
        "cpus_free": known.cpus_free,
        "gpus_free": known.gpus_free,
        "gpus_total": known.gpus_total,
        "jobs_waiting": known.jobs_waiting,
        "start": _start(known.start, now),
        "scale_up": known.scale_up,
        "backend": known.backend or None,
        "as_of": None if known.as_of is None else iso(known.as_of),
        "stale": known.stale,
        "problem": known.problem,
        "words": {
            **_headline(known, now, _PLACES.get(known.backend, "") if one_of_several else ""),
            "gpus": "" if unbuilt else _of_total(known.gpus_free, known.gpus_total, "GPU", "free"),
            "nodes": "" if unbuilt else _nodes(known),
            "jobs": "" if jobs is None else f"{count(jobs, noun)} waiting",
            "stale": _stale(known, now),
        },
    }


def _start(start: StartEstimate, now: datetime) -> dict[str, Any]:
    at_clock: str | None = None
    words: str = start.kind
    if start.at is not None:
        at_clock = clock(start.at, now)
        words = f"about {at_clock} ({_from_now(start.at - now)})"
    return {
        "kind": start.kind,
        "at": None if start.at is None else iso(start.at),
        "source": start.source,
        "clock": at_clock,
        "words": words,
    }


def _headline(known: Availability, now: datetime, where: str) -> dict[str, str]:
    """Say when it would start and who says so; nothing where the backend has nothing to say."""
    start = known.start
    source = _SOURCES[start.source]
    if start.kind == "now":
        return {"headline": f"Starts now{where}", "source": source}
    if start.at is not None:
        return {"headline": f"Starts {_from_now(start.at - now)}{where}", "source": source}
    if known.scale_up:
        words = f"Starts in some minutes{where}"
        return {"headline": words, "source": "a node has to be added first"}
    if _explained(known):
        return {"headline": f"Does not start now{where}", "source": ""}
    nothing = replace(known, backend="", as_of=None) == NOTHING_KNOWN
    return {"headline": "" if nothing else "Start time unknown", "source": ""}


def _explained(known: Availability) -> bool:
    """Whether the problem is about the cluster as it is now, and not about reading it."""
    figures = (known.nodes_total, known.cpus_free, known.gpus_free)
    return bool(known.problem) and not known.stale and any(each is not None for each in figures)


def _nodes(known: Availability) -> str:
    nodes = _of_total(known.nodes_idle, known.nodes_total, "node", "idle")
    if known.cpus_free is None:
        return nodes
    cores = f"{count(known.cpus_free, 'core')} free"
    return f"{nodes}, {cores}" if nodes else cores


def _stale(known: Availability, now: datetime) -> str:
    why = f": {known.problem}" if known.problem else ""
    if known.stale and known.as_of is not None:
        return f"Figures are {_age(now - known.as_of)} old{why}"
    if known.problem and _explained(known):
        return known.problem[:1].upper() + known.problem[1:]
    if known.stale or known.problem:
        return f"No live figures{why}"
    return ""


def count(number: int, noun: str) -> str:
    """Say how many: ``no nodes``, ``1 node``, ``2 nodes``."""
    if number == 0:
        return f"no {noun}s"
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _of_total(number: int | None, total: int | None, noun: str, state: str) -> str:
    if number is None:
        return ""
    if total:
        return f"{number} of {count(total, noun)} {state}"
    return f"{count(number, noun)} {state}"


def iso(at: datetime) -> str:
    """Write a time in ISO 8601, in UTC and to the second."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def clock(at: datetime, now: datetime) -> str:
    """Say a time in the zone of `now`: as short as it can be understood."""
    here = at.astimezone(now.tzinfo)
    if here.date() == now.date():
        return here.strftime("%H:%M %Z")
    if here - now < timedelta(days=6):
        return here.strftime("%a %H:%M %Z")
    return here.strftime("%-d %b %H:%M %Z")


def _from_now(left: timedelta) -> str:
    if left < timedelta(0):
        return "any moment"
    if left < timedelta(minutes=1):
        return "in less than a minute"
    return f"in {_span(left)}"


def _age(age: timedelta) -> str:
    if age < timedelta(minutes=1):
        return f"{max(0, round(age.total_seconds()))} s"
    return _span(age)


def _span(span: timedelta) -> str:
    """Say a length of time with the precision that a person wants: two units at most."""
    minutes = round(span.total_seconds() / 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return count(days, "day") + (f" {hours} h" if hours else "")
    if hours:
        return f"{hours} h" + (f" {minutes} min" if minutes else "")
    return f"{minutes} min"
