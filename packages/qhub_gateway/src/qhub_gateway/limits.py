"""How much people, groups and all together may have: the rules, and the ledger that holds to them.

A ledger is made for one decision, from everything that the gateway's database holds, and is thrown
away: `limiting` says how a decision and what is written for it cannot be parted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, StrictFloat, StrictInt

from qhub_gateway.errors import LimitReachedError
from qhub_gateway.requests import ClusterRequest, Size
from qhub_spawner.fields import Name
from qhub_spawner.quantities import Cpu, Duration, Memory
from qhub_spawner.resources import Model

__all__ = [
    "Amount",
    "Granted",
    "Holder",
    "Ledger",
    "Limit",
    "Limits",
    "Scope",
    "Use",
    "amount_of",
]

Count = Annotated[StrictInt, Field(ge=0, le=10_000_000)]
Resource = Literal["clusters", "workers", "cores", "memory", "gpus"]
RESOURCES: tuple[Resource, ...] = ("clusters", "workers", "cores", "memory", "gpus")

_HOUR = 3600.0


class Limit(Model):
    """The most of each that somebody may have at once; without limit where nothing is said."""

    clusters: Count | None = None
    """Clusters that start or run."""
    workers: Count | None = None
    """Workers, queued ones among them."""
    cores: Cpu | None = None
    """Cores of workers and schedulers."""
    memory: Memory | None = None
    """Memory of workers and schedulers."""
    gpus: Count | None = None
    """GPUs of workers."""
    cluster_hours: Annotated[StrictInt | StrictFloat, Field(ge=0)] | None = None
    """Hours that clusters ran, added up over the last `Limits.hours_within`."""

    def most(self, resource: Resource) -> int | None:
        """Return the limit as a whole number: of thousandths for cores, of bytes for memory."""
        value = getattr(self, resource)
        return value.amount if isinstance(value, Cpu | Memory) else value


class Limits(Model):
    """All limits of a site."""

    user: Limit = Limit()
    """For each person."""
    members: dict[Name, Limit] = Field(default_factory=dict)
    """For each member of a group, in place of `user` in what it says; of several groups the most
    generous counts. A value of nothing is without limit."""
    users: dict[Name, Limit] = Field(default_factory=dict)
    """For a person by name, in place of both in what it says."""
    groups: dict[Name, Limit] = Field(default_factory=dict)
    """For all members of a group together."""
    everyone: Limit = Limit()
    """For all people together."""
    hours_within: Duration = Duration(30 * 86400)
    """Over which time cluster-hours are added up."""

    @property
    def counts_hours(self) -> bool:
        """Whether any limit is about cluster-hours, so that the past matters."""
        named = (*self.members.values(), *self.users.values(), *self.groups.values())
        return any(each.cluster_hours is not None for each in (self.user, self.everyone, *named))

    def of_user(self, name: str, groups: Collection[str]) -> Limit:
        """Return the limit that holds for a person."""
        said: dict[str, object] = {}
        members = [self.members[group] for group in sorted(set(groups)) if group in self.members]
        for key in Limit.model_fields:
            values = [getattr(each, key) for each in members if key in each.model_fields_set]
            if values:
                said[key] = None if None in values else max(values)
        own = self.users.get(name)
        if own is not None:
            said |= {key: getattr(own, key) for key in own.model_fields_set}
        return self.user.model_copy(update=said)


class Scope(NamedTuple):
    """Who has a limit: a person, a group's members together, or everyone together."""

    kind: Literal["user", "group", "everyone"]
    name: str = ""

    def words(self) -> tuple[str, str]:
        """Return whose limit it is, and who uses it, in words."""
        if self.kind == "user":
            return f"for {self.name}", "you have"
        if self.kind == "group":
            return f"for the group {self.name}", "its members have"
        return "for everyone together", "all people have"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a cluster.

    Attributes:
        user: The person's name.
        groups: Their groups when it was made; it counts for those all its life.
    """

    user: str
    groups: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Amount:
    """How much something takes: ``cores`` in thousandths, ``memory`` in bytes."""

    clusters: int = 0
    workers: int = 0
    cores: int = 0
    memory: int = 0
    gpus: int = 0

    def times(self, number: int) -> Amount:
        """Return so many of it."""
        return Amount(*(getattr(self, each) * number for each in RESOURCES))

    def plus(self, other: Amount) -> Amount:
        """Return both together."""
        return Amount(*(getattr(self, each) + getattr(other, each) for each in RESOURCES))


def amount_of(size: Size, *, clusters: int = 0, workers: int = 0) -> Amount:
    """Return how much a scheduler or worker of a size takes, on all its nodes."""
    return Amount(
        clusters=clusters,
        workers=workers,
        cores=size.cpu.millicores * size.nodes,
        memory=size.memory.bytes * size.nodes,
        gpus=size.gpus * size.nodes,
    )


@dataclass(frozen=True, slots=True)
class Granted:
    """How many workers may be made.

    Attributes:
        count: At most as many as asked for.
        words: Why it is fewer, naming the limit; ``None`` if it is not.
    """

    count: int
    words: str | None = None


@dataclass(frozen=True, slots=True)
class Use:
    """How much of a limit is in use: ``cores`` in cores, ``memory`` in bytes, hours in hours."""

    scope: Scope
    resource: str
    used: float
    limit: float | None


@dataclass(slots=True)
class _Held:
    holder: Holder
    worker: Amount
    began: float | None = None


@dataclass(slots=True)
class _Total:
    """What is held in one scope, and the past."""

    amount: Amount = field(default_factory=Amount)
    past: list[tuple[float, float]] = field(default_factory=list)


class Ledger:
    """Who holds what at one moment.

    Times are seconds since the epoch.
    """

    def __init__(self, limits: Limits) -> None:
        """Begin with nothing held."""
        self.limits = limits
        self._held: dict[str, _Held] = {}
        self._totals: dict[Scope, _Total] = {}

    # ---- what there is ----

    def adopt(
        self,
        cluster: str,
        holder: Holder,
        *,
        scheduler: Amount,
        worker: Amount,
        workers: int = 0,
        began: float | None = None,
    ) -> None:
        """Write down a cluster that is there; no limit is asked.

        Raises:
            KeyError: There is a cluster of that name.
        """
        if cluster in self._held:
            msg = f"the cluster {cluster!r} is held already"
            raise KeyError(msg)
        held = _Held(holder, replace(worker, workers=1), began)
        self._held[cluster] = held
        taken = replace(scheduler, clusters=1).plus(held.worker.times(workers))
        for scope in _scopes(holder):
            total = self._totals.setdefault(scope, _Total())
            total.amount = total.amount.plus(taken)

    def remember(self, holder: Holder, began: float, ended: float) -> None:
        """Write down the time of a cluster that is over."""
        for scope in _scopes(holder):
            self._totals.setdefault(scope, _Total()).past.append((began, ended))

    # ---- deciding ----

    def admit(self, holder: Holder, *, scheduler: Amount, now: float) -> None:
        """Let a new cluster be made, which has a scheduler and no workers yet.

        Raises:
            LimitReachedError: A limit does not allow it.
        """
        needed = replace(scheduler, clusters=1)
        for scope, limit in self._limits_of(holder):
            words = self._hours_words(scope, limit, now) or self._shortage(scope, limit, needed)
            if words is not None:
                raise LimitReachedError(words)

    def room_for_workers(self, cluster: str, wanted: int) -> Granted:
        """Say how many workers a cluster can have more, at most `wanted`.

        Raises:
            KeyError: There is no such cluster.
        """
        return self._room(self._held[cluster], max(0, wanted))

    def exhausted(self, now: float) -> Mapping[str, str]:
        """Return running clusters whose hours are used up, and why in words."""
        found: dict[str, str] = {}
        # to add up the hours of all people for each cluster again would take long
        known: dict[tuple[Scope, float | None], str | None] = {}
        for cluster, held in self._held.items():
            for scope, limit in self._limits_of(held.holder):
                key = scope, limit.cluster_hours
                if key not in known:
                    known[key] = self._hours_words(scope, limit, now)
                words = known[key]
                if words is not None:
                    found.setdefault(cluster, words)
        return found

    def uses(self, now: float, asker: Holder | None = None) -> list[Use]:
        """Return what is in use, for every scope that has a limit or holds something.

        Args:
            now: The time.
            asker: Somebody who is told of in any case, as of their groups now.
        """
        groups: dict[str, frozenset[str]] = {}
        for held in self._held.values():
            # what a person may have is what the most generous of their groups says
            groups[held.holder.user] = (
                groups.get(held.holder.user, frozenset()) | held.holder.groups
            )
        scopes = {*self._totals, Scope("everyone")}
        scopes |= {Scope("group", name) for name in self.limits.groups}
        if asker is not None:
            scopes.add(Scope("user", asker.user))
            groups[asker.user] = asker.groups
        found: list[Use] = []
        for scope in sorted(scopes):
            limit = self._limit_of(scope, groups.get(scope.name, frozenset()))
            found += self._uses_of(scope, limit, now)
        return found

    # ---- counting ----

    def _uses_of(self, scope: Scope, limit: Limit, now: float) -> Iterator[Use]:
        total = self._totals.get(scope, _Total())
        for resource in RESOURCES:
            most = limit.most(resource)
            worth = 1000 if resource == "cores" else 1
            used = getattr(total.amount, resource) / worth
            yield Use(scope, resource, used, most / worth if most is not None else None)
        yield Use(scope, "cluster_hours", self._hours(scope, now), limit.cluster_hours)

    def _limit_of(self, scope: Scope, groups: Collection[str]) -> Limit:
        if scope.kind == "user":
            return self.limits.of_user(scope.name, groups)
        if scope.kind == "group":
            return self.limits.groups.get(scope.name, Limit())
        return self.limits.everyone

    def _limits_of(self, holder: Holder) -> Iterator[tuple[Scope, Limit]]:
        for scope in _scopes(holder):
            yield scope, self._limit_of(scope, holder.groups)

    def _room(self, held: _Held, wanted: int) -> Granted:
        count, words = wanted, None
        for scope, limit in self._limits_of(held.holder):
            have = self._totals[scope].amount
            for resource in RESOURCES:
                most, each = limit.most(resource), getattr(held.worker, resource)
                if most is None or not each:
                    continue
                fits = max(0, most - getattr(have, resource)) // each
                if fits < count:
                    count = fits
                    words = self._words(scope, resource, most, each * wanted)
        return Granted(count, words)

    def _shortage(self, scope: Scope, limit: Limit, needed: Amount) -> str | None:
        have = self._totals.get(scope, _Total()).amount
        for resource in RESOURCES:
            most, more = limit.most(resource), getattr(needed, resource)
            if most is not None and more and getattr(have, resource) + more > most:
                return self._words(scope, resource, most, more)
        return None

    def _words(self, scope: Scope, resource: Resource, most: int, asked: int) -> str:
        used = getattr(self._totals.get(scope, _Total()).amount, resource)
        whose, who = scope.words()
        return (
            f"The limit {whose} is {_said(resource, most)}: {who} {_said(resource, used)} in use, "
            f"and you asked for {_said(resource, asked)} more."
        )

    def _hours(self, scope: Scope, now: float) -> float:
        oldest = now - self.limits.hours_within.seconds
        spans = list(self._totals.get(scope, _Total()).past)
        spans += [
            (held.began, now)
            for held in self._held.values()
            if held.began is not None and scope in _scopes(held.holder)
        ]
        return sum(max(0.0, end - max(start, oldest)) for start, end in spans) / _HOUR

    def _hours_words(self, scope: Scope, limit: Limit, now: float) -> str | None:
        """Say that all hours are used up, if they are."""
        if limit.cluster_hours is None:
            return None
        used = self._hours(scope, now)
        if used < limit.cluster_hours:
            return None
        whose, who = scope.words()
        return (
            f"The limit {whose} is {limit.cluster_hours:g} cluster-hours in "
            f"{self.limits.hours_within}: {who} used {used:.1f}, and you asked for more."
        )


def _scopes(holder: Holder) -> tuple[Scope, ...]:
    groups = (Scope("group", name) for name in sorted(holder.groups))
    return (Scope("user", holder.user), *groups, Scope("everyone"))


def _said(resource: Resource, amount: int) -> str:
    """Say an amount: ``1 cluster``, ``3 workers``, ``1.5 cores``, ``4 GiB memory``, ``0 GPUs``."""
    if resource == "memory":
        return f"{Memory(amount)} of memory" if amount else "no memory"
    if resource == "cores":
        return f"{Cpu(amount)} core{'' if amount == 1000 else 's'}" if amount else "no cores"  # noqa: PLR2004
    word = {"clusters": "cluster", "workers": "worker", "gpus": "GPU"}[resource]
    return f"{amount or 'no'} {word}{'' if amount == 1 else 's'}"


def amounts_of(request: ClusterRequest) -> tuple[Amount, Amount]:
    """Return what the scheduler and what each worker of a cluster takes."""
    return (
        amount_of(request.scheduler, clusters=1),
        amount_of(request.worker, workers=1),
    )
