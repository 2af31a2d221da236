"""Cluster options as dask-gateway's own ``Options``, so that a stock client and its widget work.

The fields are made for each person from the profiles they may have. Everything is decided by
:func:`qhub_gateway.deciding.build`, whichever way a value came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dask_gateway_server.options import Field, Float, Integer, Options, Select, String
from dask_gateway_server.options import Mapping as MappingField

from qhub_gateway.deciding import build, default_profile, environment_choices, offers_for
from qhub_gateway.errors import RequestRefusedError
from qhub_gateway.requests import OWN, ClusterRequest, Here, Owner, Site
from qhub_spawner.access import Person
from qhub_spawner.catalogue import Catalogue
from qhub_spawner.limits import Limits

__all__ = ["ProfileOptions", "configuration_of"]


class ProfileOptions(Options):  # type: ignore[misc]  # dask-gateway has no types
    """What one person may ask for.

    Args:
        catalogue: All profiles that the gateway can start.
        owner: Who asks.
        site: What this site allows clusters to be.
        here: The server that the request comes from.
        limits: What Slurm's accounting records for the person, if that is known.
        refused: Why they may not create clusters at all, in words; ``None`` if they may.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        owner: Owner,
        *,
        site: Site,
        here: Here | None = None,
        limits: Limits | None = None,
        refused: str | None = None,
    ) -> None:
        """See the class."""
        self._catalogue = catalogue
        self._owner = owner
        self._site = site
        self._here = here
        self._limits = limits
        self._refused = refused
        super().__init__(*self._made_fields())

    def parse_options(self, request: object) -> dict[str, Any]:
        """Return what a person gets for what they ask, every field said.

        Raises:
            RequestRefusedError: They may not have it; says what they may have.
        """
        return self._build(request).asked()

    def get_configuration(self, options: Mapping[str, Any], user: object) -> dict[str, Any]:
        """Return the values of the cluster's configuration.

        Args:
            options: As :meth:`parse_options` returned them.
            user: Not looked at: the options are the person's already.

        Raises:
            RequestRefusedError: They may not have it; says what they may have.
        """
        del user
        return configuration_of(self._build(options))

    def _build(self, asked: object) -> ClusterRequest:
        if self._refused is not None:
            raise RequestRefusedError(self._refused)
        if not isinstance(asked, Mapping):
            raise RequestRefusedError("The options must be an object with a value for each.")
        return build(
            self._catalogue,
            self._owner,
            asked,
            site=self._site,
            here=self._here,
            limits=self._limits,
        )

    def _made_fields(self) -> list[Field]:
        person = Person(self._owner.name, frozenset(self._owner.groups))
        offers = offers_for(self._catalogue, person, self._site, self._limits)
        default = default_profile(offers, self._here)
        if default is None:
            return []
        names, free = environment_choices(offers)
        environment: Field = String("environment", label="Environment (empty: the profile's own)")
        if not free:
            choices = [OWN, *(name for name in names if name != OWN)]
            environment = Select("environment", choices, default=OWN, label="Environment")
        slugs = [offer.profile.slug for offer in offers]
        return [
            Select("profile", slugs, default=default, label="Profile"),
            environment,
            MappingField("options", label="Options of the profile"),
            Float("worker_cores", min=0, label="Cores of a worker (0: as the profile says)"),
            String("worker_memory", label="Memory of a worker, e.g. 4 GiB (empty: the profile's)"),
            Integer(
                "worker_gpus", default=-1, min=-1, label="GPUs of a worker (-1: the profile's)"
            ),
            Integer("worker_threads", min=0, label="Threads of a worker (0: one for each core)"),
            String("walltime", label="Walltime of the jobs, e.g. 2h (empty: the profile's)"),
            String("idle_timeout", label="End when idle for, e.g. 30 min (empty: the site's)"),
            Float("scheduler_cores", min=0, label="Cores of the scheduler (0: the site's)"),
            String("scheduler_memory", label="Memory of the scheduler (empty: the site's)"),
            MappingField("variables", label="Environment variables"),
        ]


def configuration_of(request: ClusterRequest) -> dict[str, Any]:
    """Return a decided cluster as values of dask-gateway's ``ClusterConfig`` and ours."""
    idle = request.idle_timeout
    return {
        "worker_cores": request.worker.cpu.millicores / 1000,
        "worker_memory": request.worker.memory.bytes,
        "worker_threads": request.worker_threads,
        "scheduler_cores": request.scheduler.cpu.millicores / 1000,
        "scheduler_memory": request.scheduler.memory.bytes,
        "idle_timeout": float(idle.seconds) if idle is not None else 0.0,
        "cluster_max_workers": request.max_workers,
        "environment": request.variables,
        "request": request.to_json(),
    }
