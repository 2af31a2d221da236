"""From what a person asks for a cluster to what they get: one pure function for every door.

The profile decides where workers run and the most that each of them may have; within that a person
chooses their size. Who may have which profile is decided by :func:`qhub_spawner.access.select`, the
same function as for servers, so nothing can be had here that a server could not be.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard, TypeVar

from pydantic import TypeAdapter, ValidationError

from qhub_gateway.errors import RequestRefusedError
from qhub_gateway.requests import OWN, ClusterRequest, ClusterRules, Here, Owner, Site, Size
from qhub_spawner.access import Offer, Person, Selection, offered, select
from qhub_spawner.catalogue import Catalogue
from qhub_spawner.errors import SelectionError, ValueRefusedError, named, shown
from qhub_spawner.fields import EnvironmentValue, VariableName
from qhub_spawner.limits import Limits, conflict
from qhub_spawner.profiles import BACKENDS, Option, Overrides
from qhub_spawner.quantities import Cpu, Duration, Memory, Quantity
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

LEAST_MEMORY = Memory(128 * 2**20)
"""Less than this no worker and no scheduler starts in."""

NEVER = "never"
"""An idle timeout of a cluster that is kept for ever."""

_GIB = 2**30
_MOST_VARIABLES = 64
_LONGEST_VARIABLES = 32 * 1024
_MOST_THREADS = 1024
_SOFTWARE = {
    "environment",
    "kubernetes.image",
    "kubernetes.image_pull_policy",
    "kubernetes.image_pull_secrets",
    "slurm.modules",
    "slurm.prologue",
    "slurm.epilogue",
}
# What the gateway, Dask's transport, the hub and Slurm say to their own processes.
_RESERVED = ("DASK_GATEWAY_", "DASK_DISTRIBUTED__COMM__", "JUPYTERHUB_", "QHUB_", "SLURM_")
_NAMES = TypeAdapter[str](VariableName)
_VALUES = TypeAdapter[str](EnvironmentValue)

_Q = TypeVar("_Q", bound=Quantity)


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
    decided = _Decided(selection, offer, site.of(slug))
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
        worker_threads=_threads(said.get("worker_threads"), worker),
        scheduler=scheduler,
        walltime=walltime,
        idle_timeout=decided.idle_timeout(said.get("idle_timeout")),
        max_workers=decided.rules.max_workers,
        **decided.lasting(walltime),
        own_variables=_variables(said.get("variables")),
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


# ---- size ----


@dataclass(frozen=True)
class _Decided:
    """A profile that was decided, and what bounds it."""

    selection: Selection
    offer: Offer
    rules: ClusterRules

    def worker(self, said: Mapping[str, Any]) -> Size:
        """Return one worker, at most as large as the profile."""
        profile = self.selection.profile
        most = self._cores(profile.cpu)
        cpu = self._cores(_amount(Cpu, "worker_cores", said, most=most) or most)
        said_by_site = profile.memory or self.rules.worker_memory
        own = said_by_site or Memory(cpu.cores * 2 * _GIB)
        largest = said_by_site or Memory(most.cores * 2 * _GIB)
        memory = _memory("worker_memory", said, most=largest) or own
        have = profile.gpu.count if profile.gpu is not None else 0
        gpus = _count("worker_gpus", said.get("worker_gpus"), most=have)
        gpus = have if gpus is None else gpus
        return Size(cpu=cpu, memory=memory, gpus=gpus, nodes=profile.nodes)

    def scheduler(self, said: Mapping[str, Any]) -> Size:
        """Return the scheduler, at most as large as the site allows."""
        rules = self.rules
        most_cpu = self._cores(rules.scheduler_cores_max or rules.scheduler_cores)
        most_memory = rules.scheduler_memory_max or rules.scheduler_memory
        asked = _amount(Cpu, "scheduler_cores", said, most=most_cpu)
        cpu = self._cores(asked or rules.scheduler_cores)
        memory = _memory("scheduler_memory", said, most=most_memory) or rules.scheduler_memory
        return Size(cpu=cpu, memory=memory)

    def _cores(self, cpu: Cpu) -> Cpu:
        """Return what the target gives: Slurm knows whole cores only."""
        return Cpu(cpu.cores * 1000) if self.selection.backend == "slurm" else cpu

    def walltime(self, value: object) -> Duration | None:
        """Return how long the jobs may run, at most as long as profile and limits allow."""
        profile = self.selection.profile
        own = profile.walltime or self.rules.walltime
        most = own or self.offer.max_walltime
        asked = _amount(Duration, "walltime", {"walltime": value}, most=most)
        walltime = asked or own
        if asked is not None:
            words = conflict(Overrides(walltime=asked), self.offer.limits)
            if words is not None:
                raise RequestRefusedError(f"walltime: it {words}.")
        return walltime

    def lasting(self, walltime: Duration | None) -> dict[str, Any]:
        """Return what lets a cluster outlive its workers' walltime; nothing where there is none."""
        rules = self.rules
        found: dict[str, Any] = {}
        if rules.scheduler_slurm is not None:
            found["scheduler_slurm"] = rules.scheduler_slurm
        if walltime is None:
            return found
        if rules.replace_before is not None:
            found["replace_before"] = min(rules.replace_before, Duration(walltime.seconds // 2))
        if rules.scheduler_walltime is not None and rules.scheduler_walltime > walltime:
            found["scheduler_walltime"] = rules.scheduler_walltime
        return found

    def idle_timeout(self, value: object) -> Duration | None:
        """Return how long the cluster is kept without work."""
        most = self.rules.idle_timeout_max
        own = self.rules.idle_timeout
        if own is None or (most is not None and own > most):
            own = most
        if value is None:
            return own
        accepted = "a time with its unit, e.g. '30 min'"
        if most is None and value == NEVER:
            return None
        if not isinstance(value, str) or value.strip(" ").isdigit():
            message = f"idle_timeout: {shown(value)} has no unit."
            raise RequestRefusedError(message, accepted=(accepted,))
        return _amount(Duration, "idle_timeout", {"idle_timeout": value}, most=most)


def _amount(kind: type[_Q], name: str, said: Mapping[str, Any], *, most: _Q | None) -> _Q | None:
    """Read an amount; ``None`` if it is not said, or 0: as the profile says."""
    value = said.get(name)
    if value is None or (_is_number(value) and value == 0):
        return None
    try:
        amount = kind.parse(value)
    except ValueRefusedError as error:
        raise RequestRefusedError(
            f"{name}: {error.message}.", accepted=(error.accepted,)
        ) from error
    if most is not None and amount.amount > most.amount:
        raise RequestRefusedError(f"{name}: {amount} is more than you may have: at most {most}.")
    return amount


def _memory(name: str, said: Mapping[str, Any], *, most: Memory) -> Memory | None:
    """Read an amount of memory, of which a bare number is GiB as in other gateways."""
    value = said.get(name)
    # compared, and nothing else: a whole number may be too large to be made a float
    if _is_number(value) and 0 < value < 2**32:
        value = f"{int(value * _GIB)} B"
    amount = _amount(Memory, name, {name: value}, most=most)
    if amount is not None and amount < min(LEAST_MEMORY, most):
        message = f"{name}: {amount} is too little to start in: at least {LEAST_MEMORY}."
        raise RequestRefusedError(message)
    return amount


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(name: str, value: object, *, most: int) -> int | None:
    """Read a whole number from 0; ``None`` if it is not said, or -1: as the profile says."""
    if value is None or (value == -1 and _is_number(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        message = f"{name}: {shown(value)} is not a whole number of 0 or more."
        raise RequestRefusedError(message)
    if value > most:
        message = f"{name}: {shown(value)} is more than you may have: at most {most}."
        raise RequestRefusedError(message)
    return value


def _threads(value: object, worker: Size) -> int:
    return _count("worker_threads", value, most=_MOST_THREADS) or worker.cpu.cores


def _variables(value: object) -> dict[str, str]:
    """Read environment variables; those by which parts of this system speak are refused."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        message = f"variables: {shown(value)} is not an object of names and values."
        raise RequestRefusedError(message)
    if len(value) > _MOST_VARIABLES:
        raise RequestRefusedError(f"variables: there are more than {_MOST_VARIABLES}.")
    found: dict[str, str] = {}
    for name, text in value.items():
        try:
            _NAMES.validate_python(name)
        except ValidationError as error:
            message = f"variables: {shown(name)} is not the name of a variable to set."
            raise RequestRefusedError(message) from error
        if name.startswith(_RESERVED):
            raise RequestRefusedError(f"variables: {named(name)} is set by the system itself.")
        try:
            found[name] = _VALUES.validate_python(text)
        except ValidationError as error:
            message = f"variables: {shown(text)} is not a text on one line, for {named(name)}."
            raise RequestRefusedError(message) from error
    if sum(len(name) + len(text) for name, text in found.items()) > _LONGEST_VARIABLES:
        raise RequestRefusedError("variables: they are longer than 32 KiB together.")
    return found
