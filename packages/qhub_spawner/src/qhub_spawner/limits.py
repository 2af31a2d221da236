"""What Slurm's accounting allows a person, and what of a profile fits it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from qhub_spawner.profiles import FreeValue, Option, Overrides, Profile
from qhub_spawner.quantities import Duration

__all__ = ["Limits", "conflict", "fit"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What is recorded for one person; ``None`` is always "not known", and restricts nothing.

    Attributes:
        accounts: The accounts they may charge.
        qos: The QOS they may ask for.
        max_walltime: The longest a job of theirs may run.
        default_account: The account that is charged when none is named.
    """

    accounts: frozenset[str] | None = None
    qos: frozenset[str] | None = None
    max_walltime: Duration | None = None
    default_account: str | None = None


_Limited = Literal["account", "qos", "walltime"]
_FREE_TARGETS: Mapping[str, _Limited] = {
    "slurm.account": "account",
    "slurm.qos": "qos",
    "walltime": "walltime",
}


def _account(asked: Profile | Overrides, limits: Limits) -> str | None:
    account = asked.slurm.account if asked.slurm else None
    if account is None or limits.accounts is None or account in limits.accounts:
        return None
    return f"asks for the account {account}; {_yours('account', limits.accounts)}"


def _qos(asked: Profile | Overrides, limits: Limits) -> str | None:
    qos = asked.slurm.qos if asked.slurm else None
    if qos is None or limits.qos is None or qos in limits.qos:
        return None
    return f"asks for the QOS {qos}; {_yours('QOS', limits.qos)}"


def _walltime(asked: Profile | Overrides, limits: Limits) -> str | None:
    if (
        asked.walltime is None
        or limits.max_walltime is None
        or asked.walltime <= limits.max_walltime
    ):
        return None
    return f"asks for {asked.walltime}; your limit is {limits.max_walltime}"


_CHECKS: Mapping[_Limited, Callable[[Profile | Overrides, Limits], str | None]] = {
    "account": _account,
    "qos": _qos,
    "walltime": _walltime,
}


def _yours(what: str, names: frozenset[str]) -> str:
    if not names:
        return f"you have no {what}"
    return f"yours: {', '.join(sorted(names))}"


def conflict(asked: Profile | Overrides, limits: Limits) -> str | None:
    """Say in words what of a profile, or of what a choice changes, is beyond a person's limits.

    Returns:
        E.g. ``asks for 8 h; your limit is 1 h``, or ``None`` if it fits.
    """
    return next((words for check in _CHECKS.values() if (words := check(asked, limits))), None)


def fit(profile: Profile, limits: Limits) -> tuple[Profile, str | None]:
    """Leave of a profile's options what fits a person's limits.

    A choice that asks for too much is dropped. When the profile itself asks for too much, the last
    option that can set the same field must do so: its choices that leave the field alone are
    dropped. The upper bound of a free walltime is lowered to the limit.

    Args:
        profile: With only those choices that the rules of access allow.
        limits: The person's.

    Returns:
        The profile that is left, and ``None``; or the profile as it was, and why nothing of it
        fits, in words.
    """
    options: dict[str, Option] = {}
    for name, option in profile.options.items():
        mine = _fitting(option, limits)
        if mine is None:
            return profile, _no_choice_words(option, limits)
        options[name] = mine
    for limited, check in _CHECKS.items():
        beyond = check(profile, limits)
        if beyond is None:
            continue
        last = next((name for name in reversed(options) if _sets(options[name], limited)), None)
        if last is None:
            return profile, beyond
        options[last] = _only_setting(options[last], limited)
    return profile.model_copy(update={"options": options}), None


def _no_choice_words(option: Option, limits: Limits) -> str:
    """Say why nothing is left of an option, by its first choice, else by its free value."""
    beyond = (conflict(choice.overrides, limits) for choice in option.choices.values())
    words = next((words for words in beyond if words is not None), None)
    if words is None:
        least = option.free.minimum if option.free is not None else None
        words = f"asks for at least {Duration.parse(least)}; your limit is {limits.max_walltime}"
    return f"{words} ({option.display_name})"


def _fitting(option: Option, limits: Limits) -> Option | None:
    choices = {
        slug: choice
        for slug, choice in option.choices.items()
        if not conflict(choice.overrides, limits)
    }
    free = _lowered(option.free, limits) if option.free is not None else None
    return option.narrowed(choices, free)


def _lowered(free: FreeValue, limits: Limits) -> FreeValue | None:
    """Lower the bound of a free walltime; ``None`` if nothing is left between the bounds."""
    limit = limits.max_walltime
    if free.sets != "walltime" or limit is None:
        return free
    if free.minimum is not None and Duration.parse(free.minimum) > limit:
        return None
    if free.maximum is not None and Duration.parse(free.maximum) <= limit:
        return free
    return free.model_copy(update={"maximum": str(limit)})


def _overrides_set(overrides: Overrides, limited: _Limited) -> bool:
    if limited == "walltime":
        return overrides.walltime is not None
    return overrides.slurm is not None and getattr(overrides.slurm, limited) is not None


def _sets(option: Option, limited: _Limited) -> bool:
    if option.free is not None and _FREE_TARGETS.get(option.free.sets) == limited:
        return True
    return any(_overrides_set(choice.overrides, limited) for choice in option.choices.values())


def _only_setting(option: Option, limited: _Limited) -> Option:
    """Leave of an option, of which :func:`_sets` holds, what sets the field."""
    choices = {
        slug: choice
        for slug, choice in option.choices.items()
        if _overrides_set(choice.overrides, limited)
    }
    free = (
        option.free
        if option.free is not None and _FREE_TARGETS.get(option.free.sets) == limited
        else None
    )
    return option.narrowed(choices, free) or option
