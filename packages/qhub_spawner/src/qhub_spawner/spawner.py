"""`QHubSpawner`: the plugin that JupyterHub loads. Traits, validation, delegation."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from batchspawner import SlurmSpawner
from jupyterhub.spawner import Spawner, SpawnException
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import object_session
from traitlets import Any as AnyTrait
from traitlets import Float, Integer, Unicode, default

from qhub_spawner import adoption, certificates, choosing, handlers, inherited, page, starting
from qhub_spawner.access import Person, Selection
from qhub_spawner.choosing import refused, said
from qhub_spawner.errors import QHubSpawnerError, SelectionError
from qhub_spawner.launch import BackendServer, ServerAddress, StartFailedError
from qhub_spawner.runtime import SETTING, HubRuntime, attach
from qhub_spawner.slurm.script import Defaults


class QHubSpawner(SlurmSpawner):  # type: ignore[misc]  # batchspawner has no types
    """One spawner for Slurm partitions and local processes, from one list of profiles.

    Give it a list with ``c.QHubSpawner.profiles``. Where a profile is silent, the resource traits
    of batchspawner's ``SlurmSpawner`` (``req_partition``, ``req_account``, …) go on to apply.
    """

    profiles = AnyTrait(
        default_value=[],
        config=True,
        help="""
        What people may choose from: a list of profiles, the path of a YAML file that holds one,
        or a callable, plain or async, that takes the spawner and returns either.

        A list or file is checked when the hub starts, which a mistake stops; a file that changes
        later is taken up without a restart if it is valid. Default: empty, which offers nothing.

        Example: ``c.QHubSpawner.profiles = "/etc/qhub/profiles.yaml"``
        """,
    )
    start_timeout = Integer(
        7 * 24 * 3600,
        config=True,
        help="""
        How long a server may take to start, time in a queue included, in seconds. Default: a
        week, because waiting in a queue is not a failure; how long the server itself may take is
        `SlurmBackend.startup_timeout`.
        """,
    )
    http_timeout = Integer(
        60,
        config=True,
        help="""
        How long a server that has reported its address may take to answer, in seconds.
        Default: 60.
        """,
    )
    ip = Unicode(
        "",
        config=True,
        help="""
        The address that servers listen at, where they run. Default: empty, the interface that
        faces the hub, and no other.

        Example: ``c.QHubSpawner.ip = "0.0.0.0"`` or ``"::"``
        """,
    )
    stop_grace = Float(
        10.0,
        min=0.0,
        max=600.0,
        config=True,
        help="""
        How long a server may take to end by itself after SIGTERM, in seconds, before it is ended
        by force. Default: 10.
        """,
    )

    if TYPE_CHECKING:  # traits of JupyterHub's Spawner that are set here
        user_options: dict[str, Any]
        ssl_alt_names: Any

    selection: Selection | None = None
    last_ended: str = ""
    last_failed: str = ""
    notes: list[str]
    # the backends that are left to try while a server starts
    later: tuple[str, ...] = ()
    backend_server: BackendServer | None = None
    forgotten: asyncio.Event | None = None
    _backend_name: str = ""
    _recorded_digest: str = ""
    # What the last form asked for, if it was refused: the hub renders the page anew with the
    # spawner of the default server, whichever server it was for.
    attempted: dict[str, Any] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take over what was chosen last time."""
        super().__init__(*args, **kwargs)
        self._chosen_before: dict[str, Any] = self.user_options
        self.configured = inherited.configured(self)
        self.notes = []

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        inherited.note_set(self, name)

    def __getattr__(self, name: str) -> Any:
        # asked for only where there is nothing of that name
        return inherited.trait_of_a_pod(self, name)

    @default("apply_user_options")
    def _apply_user_options_default(self) -> Any:
        # the choice is decided in run_pre_spawn_hook, whose refusals the hub logs in one line
        return lambda _spawner, _user_options: None

    def _find_my_config(self, cfg: Any) -> Any:
        own = super()._find_my_config(cfg)
        return inherited.with_kubespawner(own, cfg, self.section_names())

    # ---- who and what ----

    @property
    def runtime(self) -> HubRuntime:
        """What all spawners of this hub share."""
        settings = self.user.settings
        if SETTING not in settings:
            attach(settings["app"], type(self))
        runtime: HubRuntime = settings[SETTING]
        return runtime

    @property
    def backend_name(self) -> str:
        """Where the server is, or is being started; empty where there is none."""
        return self._backend_name if self.backend_server is not None else ""

    @property
    def person(self) -> Person:
        """The person as the rules of access see them."""
        return Person(self.user.name, frozenset(group.name for group in self.user.groups))

    async def decide(self, user_options: object) -> Selection:
        """Return what the person gets for `user_options`.

        Raises:
            SpawnException: A 4xx that names what is wrong and what this person may have.
        """
        return await choosing.decide(self, user_options)

    def warn_of_replaced_traits(self) -> None:
        """Say which configured traits of batchspawner and KubeSpawner have no effect any more.

        Raises:
            ConfigurationError: One that has an effect holds what could never be submitted.
        """
        inherited.warn_of_replaced(self)
        inherited.check(self)

    # ---- the options page ----

    async def options_model(self) -> dict[str, Any]:
        """Return what the options page shows, as JSON."""
        return await choosing.options_model(self)

    async def get_options_form(self) -> Any:
        """Render the list of profiles; an `options_form` of the configuration wins."""
        if self.options_form:
            return await super().get_options_form()
        return await choosing.form(self)

    def run_options_from_form(self, form_data: Any) -> Any:
        """Read the submitted page; a function of the configuration wins.

        Raises:
            SpawnException: The form holds what the page does not have.
        """
        if self.options_from_form != self._passthrough_options_from_form:
            return super().run_options_from_form(form_data)
        try:
            self.user.spawner.attempted = page.read_form(form_data)
            return page.parse_form(form_data)
        except SelectionError as error:
            raise refused(error) from error

    # ---- start, poll, stop ----

    async def run_pre_spawn_hook(self) -> None:
        """Decide what the person gets, before anything is made for them; then run the hook."""
        try:
            self.selection = await self.decide(self.user_options)
        except SpawnException:
            # the hub has written it down already: it would try it again next time, however long
            self._keep_options(self._chosen_before)
            raise
        self.user.spawner.attempted = None
        inherited.fit_start_timeout(self, self.selection)
        # what was decided is what the hub keeps, shows to its administrators and offers next time
        self._keep_options(self.selection.user_options)
        if self.internal_ssl:
            self.ssl_alt_names = await starting.certificate_names(self, self.selection)
        result = super().run_pre_spawn_hook()
        if result is not None:
            await result

    def _keep_options(self, options: dict[str, Any]) -> None:
        self.user_options = self._chosen_before = options
        if self.orm_spawner is not None:
            self.orm_spawner.user_options = options
            # at once: a request that ends before the hub's next commit would take it back
            self.db.commit()

    async def start(self) -> tuple[str, int]:
        """Start what was selected; returns host and port.

        Raises:
            SpawnException: It did not start; says why, in words for the person.
        """
        selection = self.selection or await self.decide(self.user_options)
        self.last_ended = self.last_failed = ""
        if not self.later:  # else an earlier hub has begun, and told already
            self.notes = []
        try:
            address = await starting.start(self, selection)
        except SelectionError as error:
            raise refused(error) from error
        except StartFailedError as error:
            self.last_failed = error.words
            raise said(error.words, reason="start-failed", status_code=error.status_code) from error
        endpoint = adoption.PatientEndpoint(orm_server=self.server.orm_server, spawner=self)
        self._server = endpoint
        self.place(address)
        return address.host, address.port

    def use(self, backend_name: str, server: BackendServer) -> None:
        """Start on this backend from here on."""
        self._backend_name, self.backend_server = backend_name, server

    def server_is_placed(self) -> bool:
        """Whether the start is over and the hub knows where the server listens."""
        return self.backend_server is None or self.backend_server.address is not None

    def place(self, address: ServerAddress) -> None:
        """Tell the hub where the server listens: first, or since its job was requeued."""
        self.server.proto = "https" if self.internal_ssl else "http"
        self.server.ip, self.server.port = address.host, address.port
        with suppress(StartFailedError):  # it stands in the log; no server ends for that
            self.persist()

    async def get_url(self) -> str:
        """Return where the server listens, which the hub asks for after its own restart."""
        self._place_if_moved()
        url: str = self.server.url
        return url

    def launch_environment(self, selection: Selection, backend: str) -> dict[str, str]:
        """Return the server's whole environment on a backend; it holds the server's token."""
        environment: dict[str, str] = self.get_env()
        if self.internal_ssl and self.cert_paths and backend == "slurm":
            certificates.carry(environment, self.cert_paths)
        environment.update(selection.profile.environment.variables)
        # what runs in the server may say where it runs, as Dask's gateway does
        environment.update({"QHUB_PROFILE": selection.slug, "QHUB_BACKEND": backend})
        return {key: str(value) for key, value in environment.items()}

    def get_env(self) -> Any:
        """Return the environment as every spawner has it; the target adds the account's own."""
        return Spawner.get_env(self)

    async def poll(self) -> int | None:
        """Return ``None`` while the server lives or nothing certain is known."""
        if self.backend_server is None:
            return 0
        if self._check_pending and self.backend_server.unfinished:
            return await adoption.take_up(self)
        ended = await self.backend_server.poll()
        if ended is None:
            self._place_if_moved()
            return None
        if ended.exit_code and not self.last_failed and ended.words != self.last_ended:
            self.last_ended = ended.words
            self.log.info("server %s is over: %s", self._log_name, ended.words)
        return ended.exit_code

    def _place_if_moved(self) -> None:
        address = self.backend_server.address if self.backend_server else None
        if address is not None and self.server is not None:
            known = ServerAddress(self.server.ip, self.server.port)
            if known != address:
                self.place(address)

    async def stop(self, now: bool = False) -> None:
        """End the server; returns when its system agrees, or says that it could not."""
        if self.backend_server is None:
            return
        try:
            await self.backend_server.stop(now=now)
        except QHubSpawnerError as error:
            self.last_ended = str(error).rstrip(".")
            self.log.error("stopping %s: %s", self._log_name, error)  # noqa: TRY400 - all is said
            raise

    async def delete_forever(self) -> None:
        """Delete what outlives the server: the hub forgets its person, or the named server."""
        await self.runtime.delete_forever(self)

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the hub's progress events."""
        async for step in starting.progress(self):
            yield {"progress": step.percent, "message": step.message}

    # ---- state ----

    def get_state(self) -> dict[str, Any]:
        """Return what must outlive the hub."""
        state: dict[str, Any] = Spawner.get_state(self)
        if self.backend_server is not None:
            state["backend"] = self._backend_name
            state["qhub"] = self.backend_server.state()
            state["token_digest"] = self._token_digest
            if not self.server_is_placed():
                state["later"], state["notes"] = [*self.later], [*self.notes]
            if self.runtime.idle is not None:
                state["idle"] = dict(self.runtime.idle.state(self))
        if self.last_ended:
            state["last_ended"] = self.last_ended
        if self.last_failed:
            state["last_failed"] = self.last_failed
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up a server that an earlier hub started."""
        Spawner.load_state(self, state)
        self.last_ended = str(state.get("last_ended", ""))
        self.last_failed = str(state.get("last_failed", ""))
        # what stands there without a server is left over from a stop that the hub did not survive
        if state.get("qhub") and state.get("backend") and self.server is not None:
            self._backend_name = str(state["backend"])
            self.backend_server = self.runtime.backend(self._backend_name).server(self)
            self.backend_server.restore(state["qhub"])
            self.later = tuple(map(str, state.get("later", ())))
            self.notes = [*map(str, state.get("notes", ()))]
            self._recorded_digest = str(state.get("token_digest", ""))
            if self.runtime.idle is not None:
                self.runtime.idle.restore(self, state.get("idle") or {})
            self._server = adoption.PatientEndpoint(
                orm_server=self.server.orm_server,
                spawner=self,
                adopted=not self.backend_server.unfinished,
            )

    def clear_state(self) -> None:
        """Forget the server."""
        Spawner.clear_state(self)
        if self.backend_server is not None:
            self.backend_server.release()
        self.backend_server = None
        self.selection = None
        self._recorded_digest = ""
        if self._stop_pending:  # and not before a start, which may go on with an earlier one
            self.later = ()
            if self.forgotten is not None:
                self.forgotten.set()

    def owns_token(self, token: str) -> bool:
        """Whether `token` is the server's own, given to it by this hub or an earlier one."""
        known = self._token_digest
        return bool(known) and hmac.compare_digest(_digest(token), known)

    @property
    def _token_digest(self) -> str:
        return _digest(self.api_token) if self.api_token else self._recorded_digest

    # ---- what a backend's server needs of its owner ----

    def persist(self) -> None:
        """Write the state to the hub's database, now: it must be there before Slurm has the job.

        Raises:
            StartFailedError: The database does not take it.
        """
        if self.orm_spawner is None:
            return
        self.orm_spawner.state = self.get_state()
        session = object_session(self.orm_spawner)
        if session is None:
            return
        try:
            session.commit()
        except SQLAlchemyError as error:
            session.rollback()
            msg = "The hub cannot write to its database now; its administrator can see why."
            self.log.error("the state of %s is not written: %s", self._log_name, error)  # noqa: TRY400
            raise StartFailedError(msg, status_code=503) from error

    def server_ended(self) -> None:
        """Tell the hub at once that the server has ended, instead of at its next poll."""
        if self.ready and self._callbacks:
            asyncio.ensure_future(self.poll_and_notify())  # noqa: RUF006 - the hub's own poll backs it

    def slurm_defaults(self) -> Defaults:
        """Return what the traits of batchspawner's SlurmSpawner say."""
        return inherited.defaults(self)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


handlers.register(QHubSpawner)
