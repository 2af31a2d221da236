"""What a person may choose and what is free now, as JSON: the API answers it, the page is rendered from it.

Every quantity stands in it twice, as people write it and as a number; every time as ISO 8601 in UTC. The parts
called ``words`` are for people to read, and may change from one version to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict

from qhub_spawner.access import Offer
from qhub_spawner.availability import Availability, StartEstimate
from qhub_spawner.errors import ValueRefusedError
from qhub_spawner.free_values import accepted_words, overrides_of
from qhub_spawner.profiles import Choice, FreeValue, Gpu, Option, Profile

__all__ = ["Preselect", "profiles_model"]

_NOTHING_KNOWN = Availability()
_KEPT_PROFILES = 4096
_KEPT_VARIANTS = 16
_NUMBERS = {"cpu": "cpu_millicores", "memory": "memory_bytes", "walltime": "walltime_seconds"}
_FREE_FACTS = {
    "cpu": ("cpu", "{} cores"),
    "memory": ("memory", "{} memory"),
    "gpu": ("gpu", "GPUs: {}"),
    "walltime": ("walltime", "up to {}"),
    "nodes": ("nodes", "on each of {} nodes"),
}
_AMOUNTS = {
    "cpu": ("cores", "2"),
    "memory": ("memory", "4 GiB"),
    "gpu": ("a whole number", "1"),
    "walltime": ("a time", "90 min"),
    "nodes": ("a whole number", "2"),
}
_SOURCES = {"slurm": "Slurm's estimate", "calculated": "calculated from what is idle", "": ""}


class Preselect(TypedDict):
    """What the page shows as chosen: the same shape as ``user_options``."""

    profile: str
    options: dict[str, str]


def profiles_model(
    offers: Iterable[Offer],
    availability: Mapping[str, Availability],
    *,
    person_name: str,
    last: object,
    now: datetime,
) -> dict[str, Any]:
    """Describe everything a person may choose from.

    Parts of the result are shared between calls: treat it as read-only.

    Args:
        offers: What the person is offered, in the order to show it.
        availability: What is known about each profile, by slug; one that is missing has nothing known.
        person_name: The hub's name of the person.
        last: ``user_options`` of the person's last server; anything that is not of that shape, or names a
            profile that is no longer offered, counts as none.
        now: The time, aware; clocks in the words are in its time zone.

    Returns:
        JSON, see the how-to "Profiles as JSON".

    Raises:
        ValueError: `now` has no time zone.
    """
    if now.tzinfo is None:
        raise ValueError(f"profiles_model(now={now!r}) has no time zone; give an aware time")
    profiles = [
        {
            **_profile(offer),
            **_limited(offer),
            "availability": _availability(availability.get(offer.profile.slug, _NOTHING_KNOWN), now),
        }
        for offer in offers
    ]
    return {
        "user": person_name,
        "as_of": _iso(now),
        "profiles": profiles,
        "last": _last(last, {profile["slug"] for profile in profiles}),
    }


# --- what a profile is. It is made anew for every person, from parts that they share; comparing two such profiles
# is fast, describing one is not. So each is described once, and found again by being equal.

_Described = tuple[Profile, dict[str, Any]]
_described: dict[tuple[str, tuple[str, ...]], list[_Described]] = {}


def _profile(offer: Offer) -> dict[str, Any]:
    backends = offer.backends or offer.profile.backends
    variants = _described.setdefault((offer.profile.slug, backends), [])
    for profile, described in variants:
        if profile == offer.profile:
            return described
    described = _describe(offer.profile, backends)
    if len(_described) > _KEPT_PROFILES:
        _described.clear()
    del variants[_KEPT_VARIANTS - 1 :]
    variants.insert(0, (offer.profile, described))
    return described


def _describe(profile: Profile, backends: tuple[str, ...]) -> dict[str, Any]:
    return {
        "slug": profile.slug,
        "display_name": profile.display_name,
        "description": profile.description,
        "default": profile.default,
        "backends": list(backends),
        **_amounts(profile),
        "words": {**_facts(profile), "where": _where(profile, backends)},
        "options": {slug: _option(profile, slug, option) for slug, option in profile.options.items()},
    }


def _amounts(profile: Profile) -> dict[str, Any]:
    memory, walltime = profile.memory, profile.walltime
    return {
        "cpu": str(profile.cpu),
        "cpu_millicores": profile.cpu.millicores,
        "memory": None if memory is None else str(memory),
        "memory_bytes": None if memory is None else memory.bytes,
        "gpu": _gpu(profile.gpu),
        "walltime": None if walltime is None else str(walltime),
        "walltime_seconds": None if walltime is None else walltime.seconds,
        "nodes": profile.nodes,
    }


def _gpu(gpu: Gpu | None) -> dict[str, Any] | None:
    return {"count": gpu.count, "type": gpu.type} if gpu is not None and gpu.count else None


def _facts(profile: Profile) -> dict[str, str]:
    """Say what one server costs; what is not set is left to the backend and said as nothing."""
    cores = str(profile.cpu)
    gpu = _gpu(profile.gpu)
    kind = f" ({gpu['type']})" if gpu and gpu["type"] else ""
    return {
        "cpu": "1 core" if cores == "1" else f"{cores} cores",
        "memory": "" if profile.memory is None else f"{profile.memory} memory",
        "gpu": f"{_count(gpu['count'], 'GPU')}{kind}" if gpu else "no GPU",
        "walltime": "" if profile.walltime is None else f"up to {profile.walltime}",
        "nodes": "" if profile.nodes == 1 else f"on each of {profile.nodes} nodes",
    }


def _where(profile: Profile, backends: tuple[str, ...]) -> str:
    """Say where it runs, by the profile's policy."""
    places = [_place(profile, backend) for backend in backends]
    words = places[0]
    if len(places) > 1 and profile.policy != "first":
        words = " or ".join(places) + (", where it starts soonest" if profile.policy == "soonest" else "")
    return words[:1].upper() + words[1:]


def _place(profile: Profile, backend: str) -> str:
    if backend == "slurm" and profile.slurm is not None:
        block = profile.slurm
        partition = f", partition {block.partition}" if block.partition else ""
        cluster = f", cluster {block.cluster}" if block.cluster else ""
        return f"Slurm{partition}{cluster}"
    return {"local": "the hub's own machine", "kubernetes": "Kubernetes"}.get(backend, backend)


def _option(profile: Profile, slug: str, option: Option) -> dict[str, Any]:
    others = [other for name, other in profile.options.items() if name != slug]
    alone = _set_by(option).difference(*map(_set_by, others))
    return {
        "display_name": option.display_name,
        "description": option.description,
        "default": _default(option),
        "choices": [_choice(profile, name, choice, alone) for name, choice in option.choices.items()],
        "free": None if option.free is None else _free(option.free),
    }


def _set_by(option: Option) -> set[str]:
    """Return the facts about cost that an option can change."""
    overrides = [choice.overrides for choice in option.choices.values()]
    fixed = {name for name in _FREE_FACTS if any(getattr(over, name) is not None for over in overrides)}
    return fixed | ({option.free.sets} if option.free is not None else set())


def _default(option: Option) -> str | None:
    """Return what is taken when nothing is chosen, as `qhub_spawner.access.select` takes it."""
    default = option.default
    if default in option.choices or (default is not None and option.free and _takes(option.free, default)):
        return default
    marked = (slug for slug, choice in option.choices.items() if choice.default)
    return next(marked, next(iter(option.choices), None))


def _takes(free: FreeValue, value: str) -> bool:
    try:
        overrides_of(free, value)
    except ValueRefusedError:
        return False
    return True


def _choice(profile: Profile, slug: str, choice: Choice, alone: set[str]) -> dict[str, Any]:
    """Describe a choice.

    Args:
        profile: Which it changes.
        slug: Its name.
        choice: Itself.
        alone: The facts that only choices of this option change: all of them say these, to be compared.
    """
    chosen = profile.merged(choice.overrides)
    amounts, facts = _amounts(chosen), _facts(chosen)
    set_here = [name for name in facts if getattr(choice.overrides, name) is not None]
    names = [key for name in set_here for key in (name, _NUMBERS.get(name)) if key]
    said = [facts[name] for name in facts if facts[name] and (name in set_here or name in alone)]
    return {
        "slug": slug,
        "display_name": choice.display_name,
        "description": choice.description,
        "sets": {name: amounts[name] for name in names},
        "words": {"summary": ", ".join(said), "facts": {name: facts[name] for name in set_here}},
    }


def _free(free: FreeValue) -> dict[str, Any]:
    fact, words = _FREE_FACTS.get(free.sets, (None, None))
    return {
        "pattern": free.pattern,
        "message": free.message,
        "example": free.example,
        "sets": free.sets,
        "minimum": free.minimum,
        "maximum": free.maximum,
        "words": {"accepted": _accepted(free), "fact": fact, "says": words},
    }


def _accepted(free: FreeValue) -> str:
    """Say what a free field takes, as short as it can be beside the field."""
    if free.message or free.sets not in _AMOUNTS:
        return accepted_words(free)
    kind, example = _AMOUNTS[free.sets]
    bounds = [("from ", free.minimum), ("up to " if free.minimum is None else "to ", free.maximum)]
    words = " ".join([kind, *(word + bound for word, bound in bounds if bound is not None)])
    return f"{words}, e.g. {free.example or example}"


def _limited(offer: Offer) -> dict[str, Any]:
    longest = offer.max_walltime
    return {
        "blocked": offer.blocked,
        "max_walltime": None if longest is None else str(longest),
        "max_walltime_seconds": None if longest is None else longest.seconds,
    }


def _last(last: object, offered: set[str]) -> Preselect | None:
    """Take the last choice only if it still means something: it may be of an older version, or of another spawner."""
    if not isinstance(last, Mapping):
        return None
    profile, options = last.get("profile"), last.get("options", {})
    if not isinstance(profile, str) or profile not in offered or not isinstance(options, Mapping):
        return None
    kept = {key: value for key, value in options.items() if isinstance(key, str) and isinstance(value, str)}
    return {"profile": profile, "options": kept}


# --- what is free now


def _availability(known: Availability, now: datetime) -> dict[str, Any]:
    return {
        "nodes_idle": known.nodes_idle,
        "nodes_total": known.nodes_total,
        "cpus_free": known.cpus_free,
        "gpus_free": known.gpus_free,
        "gpus_total": known.gpus_total,
        "jobs_waiting": known.jobs_waiting,
        "start": _start(known.start, now),
        "as_of": None if known.as_of is None else _iso(known.as_of),
        "stale": known.stale,
        "problem": known.problem,
        "words": {
            **_headline(known, now),
            "gpus": _of_total(known.gpus_free, known.gpus_total, "GPU", "free"),
            "nodes": _nodes(known),
            "jobs": "" if known.jobs_waiting is None else f"{_count(known.jobs_waiting, 'job')} waiting",
            "stale": _stale(known, now),
        },
    }


def _start(start: StartEstimate, now: datetime) -> dict[str, Any]:
    clock, words = None, start.kind if start.kind != "at" else ""
    if start.at is not None:
        clock = _clock(start.at, now)
        words = f"about {clock} ({_from_now(start.at - now)})"
    return {
        "kind": start.kind,
        "at": None if start.at is None else _iso(start.at),
        "source": start.source,
        "clock": clock,
        "words": words,
    }


def _headline(known: Availability, now: datetime) -> dict[str, str]:
    """Say when it would start, and who says so; nothing at all of a backend that has nothing to say."""
    start = known.start
    source = _SOURCES[start.source]
    if start.kind == "now":
        return {"headline": "Starts now", "source": source}
    if start.at is not None:
        return {"headline": f"Starts {_from_now(start.at - now)}", "source": source}
    return {"headline": "" if known == _NOTHING_KNOWN else "Start time unknown", "source": ""}


def _nodes(known: Availability) -> str:
    nodes = _of_total(known.nodes_idle, known.nodes_total, "node", "idle")
    if known.cpus_free is None:
        return nodes
    cores = f"{_count(known.cpus_free, 'core')} free"
    return f"{nodes}, {cores}" if nodes else cores


def _stale(known: Availability, now: datetime) -> str:
    why = f": {known.problem}" if known.problem else ""
    if known.stale and known.as_of is not None:
        return f"Figures are {_age(now - known.as_of)} old{why}"
    if known.stale or known.problem:
        return f"No live figures{why}"
    return ""


def _count(number: int, noun: str) -> str:
    if number == 0:
        return f"no {noun}s"
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _of_total(number: int | None, total: int | None, noun: str, state: str) -> str:
    if number is None:
        return ""
    return f"{_count(number, noun)} {state}" if total is None else f"{number} of {_count(total, noun)} {state}"


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _clock(at: datetime, now: datetime) -> str:
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
        return _count(days, "day") + (f" {hours} h" if hours else "")
    if hours:
        return f"{hours} h" + (f" {minutes} min" if minutes else "")
    return f"{minutes} min"
