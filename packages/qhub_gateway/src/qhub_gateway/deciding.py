"""From what a person asks for a cluster to what they get: one pure function for every door.

The profile decides where workers run and the most that each of them may have; within that a person
chooses their size. Who may have which profile is decided by :func:`qhub_spawner.access.select`, the
same function as for servers, so nothing can be had here that a server could not be.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from qhub_gateway.errors import RequestRefusedError
from qhub_gateway.requests import OWN, ClusterRequest, Here, Owner, Site
from qhub_gateway.sizing import Bounds, threads, variables
from qhub_spawner.access import Offer, Person, Selection, offered, select
from qhub_spawner.catalogue import Catalogue
from qhub_spawner.errors import SelectionError, shown
from qhub_spawner.limits import Limits
from qhub_spawner.profiles import BACKENDS, Option, Overrides
from qhub_spawner.resources import Gpu

__all__ = ["FIELDS", "build", "default_profile", "environment_choices", "offers_for", "startable"]

FIELDS = (
    "profile",
    "environment",
    "options",
    "worker_cores",
    "worker_memory",
    "worker_gpus",
    "worker_threads",
    "walltime",
    "idle_timeout",
    "scheduler_cores",
    "scheduler_memory",
    "variables",
)
"""What may be asked for, in the order it is shown."""

_SOFTWARE = {
    "environment",
    "kubernetes.image",
    "kubernetes.image_pull_policy",
    "kubernetes.image_pull_secrets",
    "slurm.modules",
    "slurm.prologue",
    "slurm.epilogue",
}


def startable(catalogue: Catalogue, backends: Collection[str]) -> Catalogue:
    """Return what of the profiles this gateway can start: each on the backends that it has.

    Of several of a profile's blocks the first that is left is taken, whatever the profile's
    ``policy``: a cluster's workers come and go for days, so that the estimate of one moment says
    little. Of ``policy: ask`` a person chooses among those that are left.
    """
    found = (
        profile.on([name for name in profile.backends if name in backends])
        for profile in catalogue.profiles
    )
    return Catalogue(tuple(profile for profile in found if profile is not None))


def _as_here(catalogue: Catalogue, here: Here | None) -> Catalogue:
    """Return the profiles with the server's own on the backend where the server is, first of all.

    There is the data that its notebook has, and the software that it was started with.
    """
    own = catalogue.get(here.profile) if here is not None else None
    if here is None or own is None or here.backend not in own.backends[1:]:
        return catalogue
    order = (here.backend, *(name for name in own.backends if name != here.backend))
    moved = own.on(order) or own
    return Catalogue(tuple(moved if each is own else each for each in catalogue.profiles))


def offers_for(
    catalogue: Catalogue, person: Person, site: Site, limits: Limits | None = None
) -> tuple[Offer, ...]:
    """Return the profiles of which a person may have clusters, in the order of the catalogue."""
    return tuple(
        offer
        for offer in offered(catalogue, person, limits)
        if offer.blocked is None and site.of(offer.profile.slug).offered
    )


def default_profile(offers: Sequence[Offer], here: Here | None) -> str | None:
    """Return what is taken when none is named: the server's, else the marked, else the first."""
    slugs = [offer.profile.slug for offer in offers]
    if here is not None and here.profile in slugs:
        return here.profile
    marked = (offer.profile.slug for offer in offers if offer.profile.default)
    return next(marked, slugs[0] if slugs else None)


def environment_choices(offers: Sequence[Offer]) -> tuple[tuple[str, ...], bool]:
    """Return the names of all environments that are offered, and whether one may be written."""
    names: dict[str, None] = {}
    free = False
    for offer in offers:
        option = offer.profile.options.get(_environment_option(offer.profile.options) or "")
        if option is not None:
            names.update(dict.fromkeys(option.choices))
            free = free or option.free is not None
    return tuple(names), free


def build(
    catalogue: Catalogue,
    owner: Owner,
    asked: Mapping[str, Any],
    *,
    site: Site,
    here: Here | None = None,
    limits: Limits | None = None,
) -> ClusterRequest:
    """Decide what a person gets for what they ask.

    Args:
        catalogue: All profiles that this gateway can start: see :func:`startable`.
        owner: Who asks.
        asked: As it came over the wire: trusted in nothing. What is left out, or nothing, is as
            on the server it is asked from, and else as the profile says.
        site: What this site allows clusters to be.
        here: The server it is asked from, if it is one of the same person.
        limits: What Slurm's accounting records for the person, if that is known.

    Raises:
        RequestRefusedError: They may not have it, or it makes no sense; says what they may have.
    """
    said = _said(asked)
    person = Person(owner.name, frozenset(owner.groups))
    catalogue = _as_here(catalogue, here)
    offers = offers_for(catalogue, person, site, limits)
    offer = _offer(catalogue, offers, said.get("profile"), here)
    slug = offer.profile.slug
    selection = _selection(catalogue, person, offer, said, here, limits)
    decided = Bounds(selection, offer, site.of(slug))
    worker = decided.worker(said)
    scheduler = decided.scheduler(said)
    walltime = decided.walltime(said.get("walltime"))
    changes: dict[str, Any] = {"cpu": worker.cpu, "memory": worker.memory}
    if selection.profile.gpu is not None and worker.gpus:
        changes["gpu"] = Gpu(count=worker.gpus)
    if walltime is not None:
        changes["walltime"] = walltime
    profile = selection.profile.merged(Overrides(**changes))
    if not worker.gpus:
        profile = profile.model_copy(update={"gpu": None})
    option = _environment_option(offer.profile.options)
    return ClusterRequest(
        owner=owner,
        slug=slug,
        options={name: value for name, value in selection.options.items() if name != option},
        environment=selection.options.get(option, OWN) if option else OWN,
        profile=profile,
        backend=selection.backend,
        backends=selection.backends,
        worker=worker,
        worker_threads=threads(said.get("worker_threads"), worker),
        scheduler=scheduler,
        walltime=walltime,
        idle_timeout=decided.idle_timeout(said.get("idle_timeout")),
        max_workers=decided.rules.max_workers,
        **decided.lasting(walltime),
        own_variables=variables(said.get("variables")),
    )


# ---- the outer form ----


def _said(asked: object) -> dict[str, Any]:
    """Return what was said: known fields, none that is empty."""
    if not isinstance(asked, Mapping):
        raise RequestRefusedError(f"The options must be an object, not {shown(asked)}.")
    for name in list(asked)[: len(FIELDS) + 1]:
        if name not in FIELDS:
            raise RequestRefusedError(f"There is no option {shown(name)}.", accepted=FIELDS)
    return {name: value for name, value in asked.items() if value is not None and value != ""}


def _offer(catalogue: Catalogue, offers: Sequence[Offer], slug: object, here: Here | None) -> Offer:
    free = [offer.profile.slug for offer in offers]
    wanted = default_profile(offers, here) if slug is None else slug
    if wanted is None:
        raise RequestRefusedError("There is no profile of which you may have a cluster here.")
    if not isinstance(wanted, str):
        raise RequestRefusedError(f"profile: {shown(wanted)} is not a text.", accepted=free)
    found = next((offer for offer in offers if offer.profile.slug == wanted), None)
    if found is None and catalogue.get(wanted) is not None:
        message = f"You may not have a cluster of the profile {shown(wanted)}."
        raise RequestRefusedError(message, accepted=free)
    if found is None:
        raise RequestRefusedError(
            f"There is no profile {shown(wanted)} for clusters.", accepted=free
        )
    return found


# ---- profile, options and environment: as for a server ----


def _selection(
    catalogue: Catalogue,
    person: Person,
    offer: Offer,
    said: Mapping[str, Any],
    here: Here | None,
    limits: Limits | None,
) -> Selection:
    slug = offer.profile.slug
    wanted = _wanted_options(offer, said)
    inherited: dict[str, str] = {}
    if here is not None and here.profile == slug:
        inherited = {
            name: value
            for name, value in here.options.items()
            if name not in wanted and name in offer.profile.options
        }
    tries = [{**inherited, **wanted}]
    if inherited:
        # the server may have been started with what its person may not have any more
        tries.append(wanted)
    while True:
        try:
            options = {"profile": slug, "options": tries.pop(0)}
            return select(catalogue, person, options, limits)
        except SelectionError as error:
            if not tries:
                raise RequestRefusedError(error.message, accepted=error.accepted) from error


def _wanted_options(offer: Offer, said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options a person asks for, the environment among them."""
    options = said.get("options", {})
    if not isinstance(options, Mapping):
        message = f"options: {shown(options)} is not an object of the profile's options."
        raise RequestRefusedError(message, accepted=tuple(offer.profile.options))
    wanted = dict(options)
    environment = said.get("environment")
    if environment is None:
        return wanted
    name = _environment_option(offer.profile.options)
    option = offer.profile.options.get(name or "")
    own = environment == OWN and (option is None or OWN not in option.choices)
    if own:
        return wanted
    if option is None or name is None:
        message = (
            f"The profile {offer.profile.slug!r} has one environment, not {shown(environment)}."
        )
        raise RequestRefusedError(message, accepted=(OWN,))
    if not isinstance(environment, str) or (
        environment not in option.choices and option.free is None
    ):
        message = (
            f"The profile {offer.profile.slug!r} has no environment {shown(environment)} for you."
        )
        raise RequestRefusedError(message, accepted=tuple(option.choices))
    if wanted.get(name, environment) != environment:
        message = f"The environment is there twice: {shown(environment)} and {shown(wanted[name])}."
        raise RequestRefusedError(message)
    return {**wanted, name: environment}


def _environment_option(options: Mapping[str, Option]) -> str | None:
    """Find the option by which a person chooses software, and nothing else."""
    return next((name for name, option in options.items() if _is_of_environment(option)), None)


def _is_of_environment(option: Option) -> bool:
    if option.free is not None:
        return option.free.sets in ("environment", "kubernetes.image")
    changed = [_changed(choice.overrides) for choice in option.choices.values()]
    return any(changed) and all(each <= _SOFTWARE for each in changed)


def _changed(overrides: Overrides) -> set[str]:
    """Return what is changed by some overrides, as dotted names of fields."""
    found: set[str] = set()
    for name in overrides.model_fields_set:
        block = getattr(overrides, name)
        if name in BACKENDS and block is not None:
            found.update(f"{name}.{each}" for each in block.model_fields_set)
        elif block is not None:
            found.add(name)
    return found
