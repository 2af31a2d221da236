"""What a person may choose, as JSON: the API answers it, and the page is rendered from it.

Every quantity stands in it twice, as people write it and as a number; every time as ISO 8601 in
UTC. The parts called ``words`` are for people to read, and may change from one version to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from qhub_spawner.access import Offer
from qhub_spawner.availability import Availability
from qhub_spawner.errors import ValueRefusedError
from qhub_spawner.free_values import accepted_words, overrides_of
from qhub_spawner.page.live import NOTHING_KNOWN, clock, count, iso, live_figures
from qhub_spawner.profiles import Choice, FreeValue, Gpu, Option, Profile
from qhub_spawner.quantities import Cpu, Duration, Memory

__all__ = ["profiles_model"]

_KEPT_PROFILES = 4096
_KEPT_VARIANTS = 16
_NUMBERS = {"cpu": "cpu_millicores", "memory": "memory_bytes", "walltime": "walltime_seconds"}
_QUANTITIES: Mapping[str, type[Cpu | Memory | Duration]] = {
    "cpu": Cpu,
    "memory": Memory,
    "walltime": Duration,
}
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
        availability: What is known about each profile, by slug; of one that is missing, nothing.
        person_name: The hub's name of the person.
        last: ``user_options`` of the person's last server; anything that is not of that shape, or
            names a profile that is no longer offered, counts as none.
        now: The time, aware; clocks in the words are in its time zone.

    Returns:
        JSON, as the reference "JSON interface" describes it.

    Raises:
        ValueError: `now` has no time zone.
    """
    if now.tzinfo is None:
        raise ValueError(f"profiles_model(now={now!r}) has no time zone; give an aware time")
    profiles = [
        {
            **_profile(offer),
            **_limited(offer),
            "availability": live_figures(
                availability.get(offer.profile.slug, NOTHING_KNOWN),
                now,
                one_of_several=len(offer.backends or offer.profile.backends) > 1,
            ),
        }
        for offer in offers
    ]
    return {
        "user": person_name,
        "as_of": iso(now),
        "words": {"as_of": clock(now, now)},
        "profiles": profiles,
        "last": _last(last, {profile["slug"] for profile in profiles}),
    }


# --- what a profile is. It is made anew for every person, from parts that they share; to compare
# two such profiles is fast, to describe one is not. So each is described once, and found again by
# being equal.

_Described = tuple[Profile, dict[str, Any]]
_described: dict[tuple[str, tuple[str, ...]], list[_Described]] = {}


def _profile(offer: Offer) -> dict[str, Any]:
    backends = offer.backends or offer.profile.backends
    variants = _described.setdefault((offer.profile.slug, backends), [])
    for profile, described in variants:
        if profile is offer.profile or profile == offer.profile:
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
        "options": {
            slug: _option(profile, slug, option) for slug, option in profile.options.items()
        },
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
        "gpu": f"{count(gpu['count'], 'GPU')}{kind}" if gpu else "no GPU",
        "walltime": "" if profile.walltime is None else f"up to {profile.walltime}",
        "nodes": "" if profile.nodes == 1 else f"on each of {profile.nodes} nodes",
    }


def _where(profile: Profile, backends: tuple[str, ...]) -> str:
    """Say where it runs, by the profile's policy."""
    places = [_place(profile, backend) for backend in backends]
    if len(places) == 1:
        words = ", ".join(places[0])
    else:
        joint = ", else " if profile.policy == "first" else " or "
        words = joint.join(f"{name} ({rest})" if rest else name for name, rest in map(_two, places))
        if profile.policy == "soonest":
            words += ", where it starts soonest"
    return words[:1].upper() + words[1:]


def _two(place: list[str]) -> tuple[str, str]:
    return place[0], ", ".join(place[1:])


def _place(profile: Profile, backend: str) -> list[str]:
    """Return a backend's name, and what more is to say of it."""
    if backend == "slurm":
        block = profile.slurm
        parts = {"partition": block and block.partition, "cluster": block and block.cluster}
        return ["Slurm", *(f"{name} {value}" for name, value in parts.items() if value)]
    if backend == "kubernetes":
        spot = profile.kubernetes is not None and profile.kubernetes.spot
        return ["Kubernetes", *(["on nodes that may be taken away"] if spot else [])]
    return [{"local": "the hub's own machine"}.get(backend, backend)]


def _option(profile: Profile, slug: str, option: Option) -> dict[str, Any]:
    others = [other for name, other in profile.options.items() if name != slug]
    alone = _set_by(option).difference(*map(_set_by, others))
    return {
        "display_name": option.display_name,
        "description": option.description,
        "default": _default(option),
        "choices": [
            _choice(profile, name, choice, alone) for name, choice in option.choices.items()
        ],
        "free": None if option.free is None else _free(option.free),
    }


def _set_by(option: Option) -> set[str]:
    """Return the facts about cost that an option can change."""
    names = {
        name
        for choice in option.choices.values()
        for name in _FREE_FACTS
        if getattr(choice.overrides, name) is not None
    }
    return names if option.free is None else {*names, option.free.sets}


def _default(option: Option) -> str | None:
    """Return what is taken when nothing is chosen, as `qhub_spawner.access.select` takes it."""
    default = option.default
    if default in option.choices or (
        default is not None and option.free and _takes(option.free, default)
    ):
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
        alone: The facts that no other option changes: all choices say these, to be compared.
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
        "minimum": _bound(free, free.minimum),
        "maximum": _bound(free, free.maximum),
        "words": {"accepted": _accepted(free), "fact": fact, "says": words},
    }


def _bound(free: FreeValue, bound: str | None) -> str | None:
    """Write a bound as the page writes quantities, however the configuration does."""
    if bound is None or free.sets not in _QUANTITIES:
        return bound
    return str(_QUANTITIES[free.sets].parse(bound))


def _accepted(free: FreeValue) -> str:
    """Say what a free field takes, as short as it can be beside the field."""
    if free.message or free.sets not in _AMOUNTS:
        return accepted_words(free)
    kind, example = _AMOUNTS[free.sets]
    least, most = _bound(free, free.minimum), _bound(free, free.maximum)
    bounds = [("from ", least), ("up to " if least is None else "to ", most)]
    words = " ".join([kind, *(word + bound for word, bound in bounds if bound is not None)])
    return f"{words}, e.g. {free.example or example}"


def _limited(offer: Offer) -> dict[str, Any]:
    longest = offer.max_walltime
    return {
        "blocked": offer.blocked,
        "max_walltime": None if longest is None else str(longest),
        "max_walltime_seconds": None if longest is None else longest.seconds,
    }


def _last(last: object, offered: set[str]) -> dict[str, Any] | None:
    """Take the last choice if it still means something: another spawner may have written it."""
    if not isinstance(last, Mapping):
        return None
    profile, options = last.get("profile"), last.get("options", {})
    if not isinstance(profile, str) or profile not in offered or not isinstance(options, Mapping):
        return None
    kept = {
        key: value
        for key, value in options.items()
        if isinstance(key, str) and isinstance(value, str)
    }
    return {"profile": profile, "options": kept}
