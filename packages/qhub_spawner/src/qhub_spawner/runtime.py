"""What all spawners of one hub share: the profiles, the backends, and their start with the hub.

The hub makes a spawner for each person, and only when it needs one. Profiles and backends belong
to the hub as a whole, and a mistake in them must stop it at once: `attach` therefore runs while the
hub sets itself up, after its database and before its first request.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyterhub import orm
from traitlets.config import LoggingConfigurable

from qhub_spawner.access import Limits, Offer, Person, Selection, offered, select
from qhub_spawner.availability import Availability
from qhub_spawner.catalogue import Catalogue, load
from qhub_spawner.errors import ConfigurationError, Problem
from qhub_spawner.idle import IdleRule
from qhub_spawner.launch import Backend
from qhub_spawner.local.backend import LocalBackend
from qhub_spawner.slurm.backend import SlurmBackend

if TYPE_CHECKING:
    from qhub_spawner.profiles import Profile

SETTING = "qhub_runtime"


class HubRuntime(LoggingConfigurable):
    """The shared part of every `QHubSpawner` of one hub."""

    def __init__(self, *, source: Any, cookie_secret: bytes, **kwargs: Any) -> None:
        """Take the configured profiles; `check` reads them."""
        super().__init__(**kwargs)
        self.source = source
        self.cookie_secret = cookie_secret
        self.recorded: Callable[[], set[str]] = set
        self._backends: dict[str, Backend] = {}
        self._catalogue: Catalogue | None = None
        self._catalogue_stamp: tuple[int, int, int] | None = None
        self._opened: dict[str, asyncio.Task[None]] = {}
        self.idle: IdleRule | None = None

    # ---- profiles ----

    def check(self) -> None:
        """Read the profiles, unless a callable gives them, and ask their backends about them.

        Raises:
            ConfigurationError: Names every problem.
        """
        if isinstance(self.source, (str, Path)):
            # before it is read: what changes from here on is taken up
            self._catalogue_stamp = _stamp(Path(self.source))
        if not callable(self.source):
            self._take(load(self.source))

    def _take(self, catalogue: Catalogue) -> Catalogue:
        if catalogue != self._catalogue:
            for name in {name for profile in catalogue.profiles for name in profile.backends}:
                self.backend(name).check(catalogue.profiles)
            self._catalogue = catalogue
        return catalogue

    async def catalogue(self, spawner: Any) -> Catalogue:
        """Return the profiles; a configured callable is asked each time, with the spawner."""
        if callable(self.source):
            source = self.source(spawner)
            if inspect.isawaitable(source):
                source = await source
            return self._take(load(source, where="c.QHubSpawner.profiles()"))
        if isinstance(self.source, (str, Path)):
            self._reread(Path(self.source))
        return self._catalogue or self._take(load(self.source))

    def _reread(self, path: Path) -> None:
        """Take up a changed file; a faulty one is reported, and the last good one stays."""
        stamp = _stamp(path)
        if stamp is not None and stamp != self._catalogue_stamp:
            self._catalogue_stamp = stamp
            try:
                self._take(load(self.source))
                self.log.info("took up the changed profiles of %s", path)
            except ConfigurationError as error:
                self.log.error(  # noqa: TRY400 - the problems say all, a trace nothing
                    "%s has changed and is not usable; going on as before:\n%s", path, error
                )

    # ---- backends ----

    def backend(self, name: str) -> Backend:
        """Return the backend `name`, made and opened when it is first needed."""
        if name not in self._backends:
            backend: Backend
            if name == "slurm":
                slurm = SlurmBackend(parent=self, cookie_secret=self.cookie_secret)
                slurm.reaper.recorded = lambda: self.recorded()  # noqa: PLW0108 - it is set later
                backend = slurm
            elif name == "kubernetes":
                backend = self._kubernetes()
            elif name == "local":
                backend = LocalBackend(parent=self)
            else:
                msg = f"there is no backend {name!r}; there are kubernetes, local and slurm"
                raise KeyError(msg)
            self._backends[name] = backend
            self._opened[name] = asyncio.ensure_future(backend.open())
        return self._backends[name]

    def has_backend(self, name: str) -> bool:
        """Whether a profile has been seen that uses the backend `name`."""
        return name in self._backends

    def _kubernetes(self) -> Backend:
        try:
            # its client is heavy, and an extra: a hub without such profiles needs none of it
            from qhub_spawner.kubernetes.backend import KubernetesBackend  # noqa: PLC0415
        except ImportError as error:
            problem = Problem(
                "a profile's kubernetes block",
                str(error),
                "what the Kubernetes backend needs is not installed",
                "pip install 'qhub-spawner[kubernetes]' for the hub's Python",
            )
            raise ConfigurationError([problem]) from error
        backend = KubernetesBackend(parent=self, cookie_secret=self.cookie_secret)
        backend.recorded = lambda: self.recorded()  # type: ignore[method-assign]  # noqa: PLW0108
        return backend

    async def delete_forever(self, spawner: Any) -> None:
        """Delete what outlives servers, as a person or a named server is forgotten: their storage.

        Raises:
            ConfigurationError: What the Kubernetes backend needs is not installed.
        """
        if spawner.config.get("KubeSpawner", {}).get("storage_pvc_ensure"):
            backend: Any = self.backend("kubernetes")
            await self._opened["kubernetes"]
            await backend.delete_forever(spawner)

    def problems(self) -> list[str]:
        """Say what does not work any more, and will not by itself; empty where all is well."""
        found = (getattr(backend, "problem", None) for backend in self._backends.values())
        return [str(problem) for problem in found if problem]

    def watch_idle(self, app: Any) -> None:
        """Begin to look for idle servers."""
        self.idle = IdleRule(app)
        self.idle.queue = self._queue  # type: ignore[method-assign]
        self._watching = asyncio.ensure_future(self.idle.run())

    def _queue(self) -> Any:
        """Return Slurm's queue, if the hub has to do with Slurm and knows it."""
        slurm: Any = self._backends.get("slurm")
        return slurm.poller.queue if slurm is not None else None

    async def close(self) -> None:
        """End background work; servers go on."""
        for backend in self._backends.values():
            await backend.close()

    # ---- decisions: the one place that form, API and URL ask ----

    async def limits(self, profiles: tuple[Profile, ...], account: str) -> Limits | None:
        """Return the limits that Slurm records for a person, if a profile could use Slurm."""
        if any("slurm" in profile.backends for profile in profiles):
            return await self.backend("slurm").limits(account)
        return None

    async def offers(self, spawner: Any, person: Person, account: str) -> tuple[Offer, ...]:
        """Return what a person may have."""
        catalogue = await self.catalogue(spawner)
        return offered(catalogue, person, await self.limits(catalogue.profiles, account))

    async def select(
        self, spawner: Any, person: Person, account: str, user_options: object
    ) -> Selection:
        """Decide what a person gets.

        Raises:
            SelectionError: They may not have it, or it does not exist.
        """
        catalogue = await self.catalogue(spawner)
        limits = await self.limits(catalogue.profiles, account)
        selection = select(catalogue, person, user_options, limits)
        if selection.profile.policy == "soonest" and len(selection.backends) > 1:
            return replace(selection, backend=await self._soonest(selection, account))
        return selection

    async def _soonest(self, selection: Selection, account: str) -> Any:
        """Return the backend whose estimated start is earliest; of equals, the first written."""
        profile = selection.profile
        views = [
            (await self.backend(name).availability((profile,), account)).get(profile.slug)
            for name in selection.backends
        ]
        return selection.backends[_earliest(views)]

    async def availability(
        self, spawner: Any, offers: tuple[Offer, ...], account: str
    ) -> Mapping[str, Availability]:
        """Return what each offered profile would meet now, from its backends' caches.

        Of several backends it is the first one's, or with ``policy: soonest`` the earliest's.
        """
        catalogue = await self.catalogue(spawner)
        wholes = [catalogue.get(offer.profile.slug) for offer in offers]
        asked: dict[str, list[Profile]] = {}
        for whole in filter(None, wholes):
            names = whole.backends if whole.policy == "soonest" else whole.backends[:1]
            for name in names:
                asked.setdefault(name, []).append(whole)
        views = {
            name: await self.backend(name).availability(tuple(profiles), account)
            for name, profiles in asked.items()
        }
        found: dict[str, Availability] = {}
        for whole in filter(None, wholes):
            mine = [
                replace(view, backend=name)
                for name in whole.backends
                if (view := views.get(name, {}).get(whole.slug)) is not None
            ]
            if mine:
                found[whole.slug] = mine[_earliest(mine)]
        return found


# How long a machine that is added takes to be there, roughly: to compare it with other estimates.
_SCALE_UP_SECONDS = 300.0


def _earliest(views: Sequence[Availability | None]) -> int:
    """Return which of several is estimated to start first; of equals, the first.

    A quota allows a start and knows of no machine: who knows of one that is free comes before it.
    """

    def wait(view: Availability | None) -> tuple[float, bool]:
        if view is None:
            return math.inf, False
        guess = view.start.source == "quota"
        if view.start.at is not None:
            return max(0.0, view.start.at.timestamp() - time.time()), guess
        if view.start.kind == "now":
            return 0.0, guess
        return (_SCALE_UP_SECONDS if view.scale_up else math.inf), guess

    waits = [wait(view) for view in views]
    return waits.index(min(waits))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what changes with a file; ``None`` while it cannot be looked at."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def attach(app: Any, spawner_class: Any) -> HubRuntime:
    """Make the runtime of `app` (a JupyterHub), checked and running; once.

    Raises:
        ConfigurationError: The profiles are not usable.
        TraitError: A trait of the spawner is not.
    """
    existing = app.tornado_settings.get(SETTING)
    if existing is not None:
        return existing  # type: ignore[no-any-return]
    # a spawner of nobody, to read the configuration as every later one will
    probe = spawner_class(config=app.config)
    runtime = HubRuntime(parent=app, source=probe.profiles, cookie_secret=app.cookie_secret or b"")
    runtime.check()
    probe.warn_of_replaced_traits()
    runtime.recorded = lambda: _recorded(app.db)
    app.tornado_settings[SETTING] = runtime
    runtime.watch_idle(app)
    return runtime


def _recorded(session: Any) -> set[str]:
    """Return the job names of all servers that the hub's database holds as running."""
    running = session.query(orm.Spawner).filter(orm.Spawner.server != None)  # noqa: E711 - SQL
    return {
        str(state["qhub"]["name"])
        for state in (spawner.state for spawner in running)
        if isinstance(state, dict) and "name" in (state.get("qhub") or {})
    }
