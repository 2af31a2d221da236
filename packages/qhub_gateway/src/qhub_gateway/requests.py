"""What a cluster is once everything is decided: what the database keeps and a target starts. Pure.

:func:`qhub_gateway.deciding.build` makes one from what a person asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, StrictBool, StrictInt, field_serializer

from qhub_spawner.identity import Identity
from qhub_spawner.profiles import BackendName, Profile
from qhub_spawner.quantities import Cpu, Duration, Memory
from qhub_spawner.resources import Model, SlurmBlock, merged

__all__ = ["OWN", "ClusterRequest", "ClusterRules", "Here", "Owner", "Site", "Size"]

OWN = "default"
"""The environment that the server has, or else the profile's own."""

_GIB = 2**30

PositiveCount = Annotated[StrictInt, Field(ge=1, le=100_000)]


class ClusterRules(Model):
    """What clusters of a profile may be, beyond what the profile itself says."""

    offered: StrictBool = True
    """Whether there are clusters of it at all."""
    worker_memory: Memory | None = None
    """Memory of a worker where the profile says none; 2 GiB for each core if left out."""
    max_workers: PositiveCount = 1000
    """Most workers of one cluster, whatever the limits."""
    scheduler_cores: Cpu = Cpu(1000)
    """Cores of a scheduler."""
    scheduler_cores_max: Cpu | None = None
    """The most a person may ask for; `scheduler_cores` if left out."""
    scheduler_memory: Memory = Memory(2 * _GIB)
    """Memory of a scheduler."""
    scheduler_memory_max: Memory | None = None
    """The most a person may ask for; `scheduler_memory` if left out."""
    idle_timeout: Duration | None = Duration(3600)
    """How long a cluster without work is kept; for ever if set to nothing."""
    idle_timeout_max: Duration | None = None
    """The longest a person may ask for; without bound if left out."""
    walltime: Duration | None = None
    """How long a cluster's jobs may run where the profile says nothing."""
    replace_before: Duration | None = None
    """How long before the end of its walltime another worker takes a worker's place, with its data;
    at most half of the walltime. Workers end with their walltime, and are replaced then, if left
    out."""
    scheduler_walltime: Duration | None = None
    """How long a scheduler, and with it the cluster, may run, where that is longer than its workers
    may; useful with `replace_before`. As its workers if left out."""
    scheduler_slurm: SlurmBlock | None = None
    """What is different for the scheduler's job on Slurm, e.g. a partition with a long time limit;
    what is left out is as for the workers."""


class Site(Model):
    """The rules for all profiles, and what is different for some."""

    rules: ClusterRules = ClusterRules()
    """For every profile."""
    profiles: dict[str, ClusterRules] = Field(default_factory=dict)
    """By the profile's slug; what they leave out is as in `rules`."""

    def of(self, slug: str) -> ClusterRules:
        """Return the rules for a profile."""
        own = self.profiles.get(slug)
        if own is None:
            return self.rules
        # "for ever" is a value of its own, which `merged` would take for "left out"
        endless = "idle_timeout" in own.model_fields_set and own.idle_timeout is None
        rules = merged(self.rules, own)
        return rules.model_copy(update={"idle_timeout": None}) if endless else rules


@dataclass(frozen=True, slots=True)
class Here:
    """The server that a request comes from, whose choices are the defaults.

    Attributes:
        profile: The slug of its profile.
        options: What was chosen for each of the profile's options.
        backend: Where it runs; empty if that is not known.
    """

    profile: str
    options: Mapping[str, str] = field(default_factory=dict)
    backend: str = ""


class Owner(Model):
    """Whose cluster it is."""

    name: str
    """The hub's name of the person or service."""
    groups: tuple[str, ...] = ()
    """Their groups when the cluster was made."""
    identity: Identity | None = None
    """Their numbers, home and groups on every target."""
    server: str | None = None
    """The hub's name of the server that the cluster was made from; ``None`` if from none."""


class Size(Model):
    """What one scheduler or worker has, on each of its nodes."""

    cpu: Cpu
    """Cores."""
    memory: Memory
    """Memory."""
    gpus: Annotated[StrictInt, Field(ge=0, le=64)] = 0
    """GPUs."""
    nodes: Annotated[StrictInt, Field(ge=1, le=100_000)] = 1
    """Number of nodes."""


class ClusterRequest(Model):
    """One cluster, everything decided; what the gateway's database keeps of it."""

    owner: Owner
    """Whose it is."""
    slug: str
    """The profile's name."""
    options: dict[str, str]
    """What was chosen for each of its options, the one for the environment left out."""
    profile: Profile
    """With every option applied; its cores, memory, GPUs and walltime are those of one worker."""
    environment: str = OWN
    """The name of the software environment: a choice of the profile's, or its own."""
    backend: BackendName
    """Where it runs."""
    backends: tuple[BackendName, ...]
    """Where it could run."""
    worker: Size
    """One worker."""
    worker_threads: Annotated[StrictInt, Field(ge=1)]
    """Threads of one worker."""
    scheduler: Size
    """The scheduler."""
    walltime: Duration | None
    """The longest its jobs may run."""
    idle_timeout: Duration | None
    """How long it is kept without work; ``None``: for ever."""
    max_workers: PositiveCount | None
    """Most workers."""
    replace_before: Duration | None = None
    """How long before the end of its walltime another worker takes a worker's place."""
    scheduler_walltime: Duration | None = None
    """How long the scheduler may run, where that is longer than `walltime`."""
    scheduler_slurm: SlurmBlock | None = None
    """What is different for the scheduler's job on Slurm."""
    own_variables: dict[str, str] = Field(default_factory=dict)
    """Environment variables that the person asked for."""

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of scheduler and workers beside the gateway's own."""
        return {**self.profile.environment.variables, **self.own_variables}

    @property
    def cluster_walltime(self) -> Duration | None:
        """How long the cluster may run: as long as its scheduler."""
        return self.scheduler_walltime or self.walltime

    @field_serializer("profile", mode="wrap")
    def _in_order(self, profile: Profile, handler: SerializerFunctionWrapHandler) -> Any:  # noqa: ANN401
        """Write the backends in the order that the profile has them, which counts."""
        data = handler(profile)
        return data | {name: data.pop(name) for name in profile.backends if name in data}

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return self.model_dump(mode="json", exclude_unset=True)

    def asked(self) -> dict[str, Any]:
        """Return what gets the same cluster again, every field said; people are shown this."""
        return {
            "profile": self.slug,
            "environment": self.environment,
            "options": dict(self.options),
            "worker_cores": self.worker.cpu.millicores / 1000,
            "worker_memory": str(self.worker.memory),
            "worker_gpus": self.worker.gpus,
            "worker_threads": self.worker_threads,
            "walltime": str(self.walltime or ""),
            "idle_timeout": str(self.idle_timeout or "never"),
            "scheduler_cores": self.scheduler.cpu.millicores / 1000,
            "scheduler_memory": str(self.scheduler.memory),
            "variables": dict(self.own_variables),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ClusterRequest:
        """Read what :meth:`to_json` wrote."""
        return cls.model_validate(dict(data))
