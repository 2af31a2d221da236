"""The configuration of who may have what, and its use for each request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

from traitlets import Any as AnyTrait
from traitlets import Dict, default
from traitlets.config import LoggingConfigurable

from qhub_gateway.auth import GatewayUser
from qhub_gateway.deciding import startable
from qhub_gateway.limits import Limits
from qhub_gateway.options import ProfileOptions
from qhub_gateway.requests import Owner, Site
from qhub_spawner.access import Limits as AccountLimits
from qhub_spawner.catalogue import Catalogue, load
from qhub_spawner.errors import ConfigurationError
from qhub_spawner.profiles import BACKENDS

__all__ = ["NO_RIGHT", "People"]

NO_RIGHT = "You may not make clusters here; the hub's administrator can give you the right."


class People(LoggingConfigurable):
    """Profiles, rules and limits: what people may have."""

    profiles = AnyTrait(
        default_value=[],
        config=True,
        help="""
        The profiles, as for ``c.QHubSpawner.profiles``: a list, or the path of a YAML file, best
        the same. A file that changes is taken up without a restart if it is valid. Default: empty,
        which offers nothing.

        Example: ``c.People.profiles = "/etc/qhub/profiles.yaml"``
        """,
    )
    clusters = Dict(
        config=True,
        help="""
        What clusters may be beyond what a profile says: ``rules`` for all, ``profiles`` for some by
        their slug, each with ``offered``, ``worker_memory``, ``max_workers``, ``scheduler_cores``,
        ``scheduler_memory``, ``idle_timeout``, ``walltime``, and the most a person may ask for in
        ``scheduler_cores_max``, ``scheduler_memory_max``, ``idle_timeout_max``. Default: clusters
        of every profile, with a scheduler of one core and 2 GiB, ended after an hour without work.

        Example: ``{"rules": {"idle_timeout": "30 min"}, "profiles": {"tiny": {"offered": False}}}``
        """,
    )
    limits = Dict(
        config=True,
        help="""
        The most there may be at once: ``user`` for each person, ``members`` for each member of a
        group, ``users`` for some by name, ``groups`` for the members of a group together,
        ``everyone`` for all together; each with ``clusters``, ``workers``, ``cores``, ``memory``,
        ``gpus`` and ``cluster_hours`` (within ``hours_within``). Default: no limit.

        Example: ``{"user": {"clusters": 3, "cores": 64}, "groups": {"/physics": {"gpus": 8}}}``
        """,
    )

    account_limits: Callable[[str], Awaitable[AccountLimits | None]] | None = None
    """Asks Slurm's accounting about a person; set where there is a Slurm."""

    backends: Collection[str] = BACKENDS
    """Where this gateway starts clusters; what runs nowhere of it is not offered."""

    site: Site
    most: Limits

    @default("log")
    def _log_default(self) -> Any:  # noqa: ANN401 - a logger
        return self.parent.log if self.parent is not None else super()._log_default()

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - traitlets
        """Read the configuration; a mistake in it stops the gateway.

        Raises:
            ConfigurationError: The profiles are not usable; names every problem.
            ValueError: The rules or limits are not.
        """
        super().__init__(**kwargs)
        self.site = Site.model_validate(self.clusters)
        self.most = Limits.model_validate(self.limits)
        self._stamp = self._stamp_of_file()
        self._catalogue = load(self.profiles, where="c.People.profiles")
        self._startable: tuple[Catalogue, Collection[str], Catalogue] | None = None

    async def options(self, user: Any) -> ProfileOptions:  # noqa: ANN401 - of any authenticator
        """Return what somebody may ask for."""
        known = isinstance(user, GatewayUser)
        owner = user.owner if known else Owner(name=user.name, groups=tuple(sorted(user.groups)))
        catalogue = self.startable(await self.catalogue())
        limits = None
        if self.account_limits is not None and any(p.slurm for p in catalogue.profiles):
            limits = await self.account_limits(owner.name)
        return ProfileOptions(
            catalogue,
            owner,
            site=self.site,
            here=user.here if known else None,
            limits=limits,
            refused=NO_RIGHT if known and not user.rights.create else None,
        )

    async def catalogue(self) -> Catalogue:
        """Return the profiles; of a file that has changed the new ones, if they are usable."""
        stamp = self._stamp_of_file()
        if stamp is not None and stamp != self._stamp:
            self._stamp = stamp
            try:
                self._catalogue = await asyncio.to_thread(load, self.profiles)
                self.log.info("took up the changed profiles of %s", self.profiles)
            except ConfigurationError as error:
                self.log.error(  # noqa: TRY400 - the problems say all, a trace nothing
                    "%s has changed and is not usable; going on as before:\n%s",
                    self.profiles,
                    error,
                )
        return self._catalogue

    def startable(self, catalogue: Catalogue) -> Catalogue:
        """Return what of the profiles this gateway can start; worked out once for each list."""
        known = self._startable
        if known is None or known[0] is not catalogue or known[1] is not self.backends:
            known = (catalogue, self.backends, startable(catalogue, self.backends))
            self._startable = known
        return known[2]

    def _stamp_of_file(self) -> tuple[int, int, int] | None:
        """Return what changes with the file of profiles; ``None`` without one, or while away."""
        if not isinstance(self.profiles, str | Path):
            return None
        try:
            status = Path(self.profiles).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
