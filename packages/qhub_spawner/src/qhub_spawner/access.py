"""Who may have what: the one decision for the options page, the JSON API and the gateway.

:func:`offered` is what a person is shown, :func:`select` is what they get. The second is built on
the first, so nothing can be had that is not offered. Both are pure.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from qhub_spawner.catalogue import Catalogue
from qhub_spawner.errors import SelectionError, ValueRefusedError, named, shown
from qhub_spawner.fields import control_character
from qhub_spawner.free_values import accepted_words, overrides_of
from qhub_spawner.limits import Limits, conflict, fit
from qhub_spawner.profiles import (
    BACKEND_OPTION,
    Access,
    BackendName,
    Choice,
    Option,
    Overrides,
    Profile,
)
from qhub_spawner.quantities import Duration
from qhub_spawner.user_options import read_user_options, with_flat

__all__ = ["Limits", "Offer", "Person", "Selection", "offered", "select"]

_MOST_REMEMBERED = 2000
_NO_LIMITS = Limits()
_BACKEND_WORDS: Mapping[BackendName, str] = {
    "slurm": "Slurm cluster",
    "local": "This machine",
    "kubernetes": "Kubernetes",
}


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks.

    Attributes:
        name: The hub's user name.
        groups: Names of the hub groups they are in.
    """

    name: str
    groups: frozenset[str] = frozenset()

    def may(self, access: Access) -> bool:
        """Whether a rule lets this person in."""
        if not access.groups and not access.users:
            return True
        return self.name in access.users or not self.groups.isdisjoint(access.groups)


@dataclass(frozen=True, slots=True)
class Offer:
    """A profile as one person may have it.

    Attributes:
        profile: With only the options and choices this person may have, and bounds lowered to
            their limits.
        blocked: Why recorded limits forbid it though the rules of access allow it, in words that
            follow the profile's name ("asks for 8 h; your limit is 1 h"); else ``None``.
        max_walltime: The longest their limits let a server of it run; ``None`` if not known.
        backends: Where it may run for this person, in the order written; empty when blocked.
        limits: Those limits that hold for it: none where it does not run on Slurm.
    """

    profile: Profile
    blocked: str | None = None
    max_walltime: Duration | None = None
    backends: tuple[BackendName, ...] = ()
    limits: Limits = _NO_LIMITS


@dataclass(frozen=True, slots=True)
class Selection:
    """What a person gets: everything decided.

    Attributes:
        profile: With every option applied, so with no options left; ``gpu`` is ``None`` or at
            least one.
        slug: The profile's name.
        options: What was chosen for each option: the name of a choice, or a free value.
        backend: Where it runs. With ``policy: soonest`` it is the first of ``backends``, until
            somebody who knows replaces it.
        backends: Where it could run.
    """

    profile: Profile
    slug: str
    options: Mapping[str, str]
    backend: BackendName
    backends: tuple[BackendName, ...] = ()

    @property
    def user_options(self) -> dict[str, Any]:
        """What the hub stores: it selects the same thing again."""
        return {"profile": self.slug, "options": dict(self.options)}


def offered(
    catalogue: Catalogue, person: Person, limits: Limits | None = None
) -> tuple[Offer, ...]:
    """Return the profiles a person may have, in the order of the catalogue.

    Args:
        catalogue: All profiles.
        person: Who asks.
        limits: What Slurm's accounting records for them; ``None`` if not known, which restricts
            nothing.
    """
    known = limits or _NO_LIMITS
    # Many people open the page at once, and most of them have the same rights.
    user = person.name if person.name in catalogue.named else None
    key = (user, catalogue.named.intersection(person.groups), known)
    memory: dict[Hashable, tuple[Offer, ...]] = catalogue.memory
    offers = memory.get(key)
    if offers is None:
        offers = tuple(
            _offer(profile, person, known)
            for profile in catalogue.profiles
            if person.may(profile.access)
        )
        if len(memory) >= _MOST_REMEMBERED:
            memory.clear()
        memory[key] = offers
    return offers


def select(
    catalogue: Catalogue, person: Person, user_options: object, limits: Limits | None = None
) -> Selection:
    """Decide what a person gets for what they ask.

    Args:
        catalogue: All profiles.
        person: Who asks.
        user_options: ``{"profile": slug, "options": {option: value}}`` as it came over the wire:
            trusted in nothing. ``None`` or ``{}`` is the default profile. Options may stand beside
            ``profile`` as well, as KubeSpawner takes them: ``{option: name of a choice}`` or
            ``{"OPTION--unlisted-choice": value}``, under names from which the slugs were made too.
        limits: As for :func:`offered`.

    Raises:
        SelectionError: They may not have it, or it makes no sense; says what they may have.
    """
    _refuse_odd_name(person)
    slug, wanted, flat = read_user_options(user_options)
    offers = {offer.profile.slug: offer for offer in offered(catalogue, person, limits)}
    offer = _chosen_offer(catalogue, offers, slug)
    # The same profile before limits and access took anything away, for the words of a refusal.
    whole = catalogue.get(offer.profile.slug) or offer.profile
    wanted = with_flat(wanted, flat, {**offer.profile.options, **whole.options})
    _refuse_unknown_options(whole, offer, wanted)
    chosen: dict[str, str] = {}
    profile = offer.profile
    for name, option in offer.profile.options.items():
        value = wanted[name] if name in wanted else _default_value(option)
        if value is not None:
            asked = _Asked(name, value, option, whole.options.get(name, option))
            profile = profile.merged(_overrides(asked, offer, person))
            chosen[name] = value
    gpu = profile.gpu if profile.gpu is not None and profile.gpu.count else None
    profile = profile.model_copy(update={"options": {}, "gpu": gpu})
    backends = _backends_of(profile, offer, chosen)
    return Selection(profile, profile.slug, chosen, backends[0], backends)


def _refuse_odd_name(person: Person) -> None:
    """Refuse a name that the environment of a server cannot hold, or that breaks lines."""
    odd = control_character(person.name)
    if odd is not None:
        message = (
            f"No server can be started for a user name with the character U+{ord(odd):04X}: "
            f"{shown(person.name)}."
        )
        raise SelectionError(message, name="user")


def _chosen_offer(catalogue: Catalogue, offers: Mapping[str, Offer], slug: str | None) -> Offer:
    """Find the offer a person asks for, or their default."""
    free = [name for name, offer in offers.items() if offer.blocked is None]
    if slug is None:
        slug = _default_slug(offers, free)
    offer = offers.get(slug)
    if offer is None and catalogue.get(slug) is not None:
        message = f"You may not use the profile {shown(slug)}."
        raise SelectionError(message, status_code=403, name=named(slug), accepted=free)
    if offer is None:
        message = f"There is no profile {shown(slug)}."
        raise SelectionError(message, status_code=400, name=named(slug), accepted=free)
    if offer.blocked is not None:
        message = f"The profile {shown(slug)} is not available to you: it {offer.blocked}."
        raise SelectionError(message, status_code=403, name=slug, accepted=free)
    return offer


def _default_slug(offers: Mapping[str, Offer], free: list[str]) -> str:
    """Return the default among what is free, else the first of it, else the first at all."""
    marked = (name for name in free if offers[name].profile.default)
    slug = next(marked, next(iter(free or offers), None))
    if slug is None:
        raise SelectionError("There is no profile that you may use.", status_code=403)
    return slug


def _refuse_unknown_options(whole: Profile, offer: Offer, wanted: Mapping[str, str]) -> None:
    for name in wanted:
        if name in offer.profile.options:
            continue
        accepted = tuple(offer.profile.options)
        if name in whole.options:
            message = f"You may not set the option {shown(name)} of the profile {whole.slug!r}."
            raise SelectionError(message, status_code=403, name=named(name), accepted=accepted)
        message = f"The profile {whole.slug!r} has no option {shown(name)}."
        raise SelectionError(message, status_code=400, name=named(name), accepted=accepted)


def _default_value(option: Option) -> str | None:
    """Return what is taken when the person says nothing; ``option`` is what they may have."""
    if option.default is not None:
        if option.default in option.choices:
            return option.default
        if option.free is not None and _takes(option, option.default):
            return option.default
    marked = (slug for slug, choice in option.choices.items() if choice.default)
    return next(marked, next(iter(option.choices), None))


def _takes(option: Option, value: str) -> bool:
    try:
        return option.free is not None and overrides_of(option.free, value) is not None
    except ValueRefusedError:
        return False


@dataclass(frozen=True, slots=True)
class _Asked:
    """One value of one option: as the person may have the option, and as it is written."""

    name: str
    value: str
    mine: Option
    whole: Option


def _overrides(asked: _Asked, offer: Offer, person: Person) -> Overrides:
    """Turn one value into what it changes.

    Raises:
        SelectionError: It may not be had, or it is not there.
    """
    choice = asked.mine.choices.get(asked.value)
    if choice is not None:
        return choice.overrides
    accepted = [*asked.mine.choices]
    if asked.mine.free is not None:
        accepted.append(f"a value of your own ({accepted_words(asked.mine.free)})")
    where = f"the option {asked.name!r} of the profile {offer.profile.slug!r}"
    hidden = asked.whole.choices.get(asked.value)
    if hidden is not None:
        # What limits say is told only to those who may have the choice as such.
        words = conflict(hidden.overrides, offer.limits) if person.may(hidden.access) else None
        why = f": it {words}" if words else ""
        message = f"You may not choose {shown(asked.value)} for {where}{why}."
        raise SelectionError(message, status_code=403, name=asked.value, accepted=accepted)
    name = named(asked.value)
    if asked.mine.free is None:
        message = f"There is no choice {shown(asked.value)} for {where}."
        raise SelectionError(message, status_code=400, name=name, accepted=accepted)
    try:
        overrides = overrides_of(asked.mine.free, asked.value)
    except ValueRefusedError as error:
        message = f"For {where}, {error.message}."
        raise SelectionError(message, status_code=400, name=name, accepted=accepted) from error
    words = conflict(overrides, offer.limits)
    if words:
        message = f"You may not choose {shown(asked.value)} for {where}: it {words}."
        raise SelectionError(message, status_code=403, name=name, accepted=accepted)
    return overrides


def _backends_of(
    profile: Profile, offer: Offer, chosen: Mapping[str, str]
) -> tuple[BackendName, ...]:
    """Return where the finished profile may run, the one it will run on in front.

    Limits are looked at once more, on the whole: whatever the narrowing of options overlooked
    ends here.
    """
    words = conflict(profile, offer.limits)
    usable = tuple(name for name in offer.backends if not words or name != "slurm")
    if BACKEND_OPTION in chosen and profile.policy == "ask":
        usable = tuple(name for name in usable if name == chosen[BACKEND_OPTION])
    if not usable:
        message = f"The profile {profile.slug!r} is not available to you like this: it {words}."
        raise SelectionError(
            message, status_code=403, name=profile.slug, accepted=tuple(offer.profile.options)
        )
    return usable


def _offer(profile: Profile, person: Person, limits: Limits) -> Offer:
    """Make the offer of a profile that the rules of access allow."""
    options = {
        name: mine
        for name, option in profile.options.items()
        if (mine := _option_for(option, person)) is not None
    }
    profile = profile.model_copy(update={"options": options})
    backends = profile.backends
    blocked = None
    if _runs_on_slurm(profile, backends):
        profile, blocked = fit(profile, limits)
        if blocked is not None:
            backends = tuple(name for name in backends if name != "slurm")
            blocked = None if backends else blocked
    holds = limits if _runs_on_slurm(profile, backends) else _NO_LIMITS
    if profile.policy == "ask" and len(profile.backends) > 1:
        ask = _ask_for(backends)
        profile = profile.model_copy(update={"options": {BACKEND_OPTION: ask, **profile.options}})
    return Offer(profile, blocked, holds.max_walltime, backends, holds)


def _runs_on_slurm(profile: Profile, backends: tuple[BackendName, ...]) -> bool:
    """Whether Slurm's limits matter: not for a second backend that is there only to be written."""
    if profile.policy == "first":
        return backends[:1] == ("slurm",)
    return "slurm" in backends


def _ask_for(backends: tuple[BackendName, ...]) -> Option:
    """Make the option that ``policy: ask`` adds."""
    choices: dict[str, Choice] = {
        name: Choice(display_name=_BACKEND_WORDS[name]) for name in backends
    }
    return Option(display_name="Where it runs", choices=choices)


def _option_for(option: Option, person: Person) -> Option | None:
    """Leave of an option what a person may have; ``None`` if that is nothing."""
    choices = {slug: choice for slug, choice in option.choices.items() if person.may(choice.access)}
    free = option.free if option.free is not None and person.may(option.free.access) else None
    return option.narrowed(choices, free)
