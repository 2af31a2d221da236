"""One server as one Slurm job: its start, its waiting, its end."""

from __future__ import annotations

import asyncio
import logging
import pwd
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from qhub_spawner.launch import (
    AddressRefusedError,
    BackendServer,
    Ended,
    Launch,
    Progress,
    ServerAddress,
    StartFailedError,
)
from qhub_spawner.slurm import script, stopping, submitting, words
from qhub_spawner.slurm.jobs import Job, JobEnding, JobState, job_name, new_spawn_id
from qhub_spawner.slurm.poller import Pace, Watch

if TYPE_CHECKING:
    from qhub_spawner.slurm.backend import SlurmBackend

STATE_VERSION = 1


class Owner(Protocol):
    """What a server needs of the hub's spawner."""

    log: logging.Logger

    def persist(self) -> None:
        """Write the server's state to the hub's database, now.

        Raises:
            StartFailedError: It cannot be written.
        """

    def server_ended(self) -> None:
        """Take notice that the server has ended."""

    def slurm_defaults(self) -> script.Defaults:
        """Return what applies where a profile is silent."""


class SlurmServer(BackendServer):
    """A single-user server in a Slurm job."""

    def __init__(self, backend: SlurmBackend, owner: Owner) -> None:
        """Belong to `owner`; nothing is asked of Slurm yet."""
        self.backend = backend
        self.owner = owner
        self.log = owner.log
        self.user = ""
        self.watch: Watch | None = None
        self.address: ServerAddress | None = None
        self.granted = words.Granted()
        self.grace_seconds = 10.0
        self._addressed = asyncio.Event()
        self._submitting: asyncio.Task[None] | None = None
        self._restored = False
        self._stopping = False

    # ---- start ----

    async def start(self, launch: Launch) -> ServerAddress:
        """See `BackendServer.start`. The job's name is on record before Slurm hears of it."""
        self.user = script.account_name(launch.user)
        self.grace_seconds = launch.grace_seconds
        profile = launch.selection.profile
        self.granted = words.Granted(str(profile.memory or ""), str(profile.walltime or ""))
        spawn_id = new_spawn_id()
        name = job_name(self.backend.hub_id, spawn_id)
        defaults = self.owner.slurm_defaults()
        submission = script.Submission(
            name=name,
            comment=script.comment(self.backend.hub_id, self.user, launch.server_name, spawn_id),
            options=self.backend.options(profile, defaults),
            script=script.batch_script(profile, launch.argv, defaults),
            environment=launch.environment,
        )
        watch = self._follow(name)
        self.owner.persist()
        self._submitting = asyncio.ensure_future(
            submitting.submit(
                self.backend.door,
                self.backend.poller,
                watch,
                submission,
                self.log,
                lambda: self._stopping,
            )
        )
        # its failure is start's to tell; a cancelled start does not hear of it
        self._submitting.add_done_callback(lambda task: task.cancelled() or task.exception())
        # a cancelled start must not lose the job id: the submission goes on, and stop waits for it
        await asyncio.shield(self._submitting)
        self._note()
        return await self._until_addressed()

    @property
    def unfinished(self) -> bool:
        """See `BackendServer.unfinished`."""
        return self._restored and self.address is None

    async def resume(self) -> ServerAddress:
        """See `BackendServer.resume`. A job whose id is not on record is looked for by its name."""
        watch = self._watched()
        if not await submitting.found(self.backend.poller, watch, lambda: self._stopping):
            msg = "The hub was restarted before Slurm had your server. Start it again."
            raise StartFailedError(msg, status_code=503)
        self._note()
        address = await self._until_addressed()
        self._restored = False
        return address

    def _note(self) -> None:
        """Write down what a later hub can also find out by itself."""
        try:
            self.owner.persist()
        except StartFailedError as error:
            self.log.warning("%s", error)

    def _follow(self, name: str) -> Watch:
        self.watch = self.backend.poller.watch(name, self.user)
        self.watch.on_end = self._ended
        return self.watch

    def _ended(self) -> None:
        self.owner.server_ended()

    async def _until_addressed(self) -> ServerAddress:
        """Wait for the address, for as long as the job waits in the queue and no longer."""
        watch, poller = self._watched(), self.backend.poller
        clock = asyncio.get_running_loop().time
        ran, last = 0.0, clock()
        addressed = asyncio.ensure_future(self._addressed.wait())
        try:
            while self.address is None:
                if watch.ending is not None:
                    raise StartFailedError(f"The server did not start: {self._why(watch.ending)}.")
                job, now = watch.job, clock()
                if job is None or job.state.waiting:
                    ran = 0.0
                elif job.state is not JobState.SUSPENDED and not poller.failures:
                    ran += now - last
                last = now
                self._set_pace(job)
                if ran > self.backend.startup_timeout:
                    msg = (
                        f"The job runs, but the server in it did not report to the hub within "
                        f"{self.backend.startup_timeout:g} s. {self._log_words()}"
                    )
                    raise StartFailedError(msg)
                tick = asyncio.ensure_future(poller.tick())
                try:
                    await asyncio.wait({tick, addressed}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    tick.cancel()
        finally:
            addressed.cancel()
        poller.hurry(watch, Pace.REST)
        return self.address

    def _set_pace(self, job: Job | None) -> None:
        watch = self._watched()
        waits = job is not None and job.state.waiting
        self.backend.poller.hurry(watch, Pace.WAITING if waits else Pace.STARTING)

    async def accept_address(self, address: ServerAddress) -> bool:
        """Take the address the job reports, if it is one of the job's own node."""
        watch = self.watch
        if watch is None or watch.ending is not None:
            msg = "no job of this server runs"
            raise AddressRefusedError(msg)
        if address == self.address:
            return False
        await self._check(watch, address)
        moved = self.address is not None
        self.address = address
        # the job reports once: from here on the address must not be lost
        self._note()
        self._addressed.set()
        return moved

    async def _check(self, watch: Watch, address: ServerAddress) -> None:
        """Refuse an address that is not of the job's node, by an answer that knows the node."""
        poller, fresh = self.backend.poller, False
        while True:
            job = watch.job
            if job is not None and not job.state.waiting and job.node_list:
                try:
                    return await self.backend.check_host(address.host, job)
                except AddressRefusedError:
                    if fresh:
                        raise
            elif fresh:
                msg = "Slurm does not say yet where this job runs; report again"
                raise AddressRefusedError(msg, status_code=503)
            # the job may have begun, or been requeued and moved, since the last answer
            if not await poller.fresh():
                msg = "Slurm does not answer now; report again"
                raise AddressRefusedError(msg, status_code=503)
            fresh = True

    # ---- life ----

    async def poll(self) -> Ended | None:
        """See `BackendServer.poll`: answered from the poller's last answer, without any query."""
        watch = self.watch
        if watch is None:
            return Ended(0, "it was not started")
        if self._submitting is not None and not self._submitting.done():
            return None
        if watch.job_id is None and watch.ending is None:
            return Ended(1, "it was not submitted")
        if self._restored and not self.unfinished:
            await self._learn(watch)
        if watch.ending is None:
            return None
        why = self._why(watch.ending)
        return Ended(words.exit_code(watch.ending), why)

    async def _learn(self, watch: Watch) -> None:
        """Learn, once, what became of a server that an earlier hub started."""
        poller = self.backend.poller
        if poller.queue is None or watch.job is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(poller.fresh(), self.backend.answer_timeout)
        self._restored = poller.queue is None

    @property
    def waits(self) -> bool:
        """Whether the job exists but does not run now (suspended, requeued): be patient."""
        job = self.watch.job if self.watch else None
        return job is not None and (job.state.waiting or job.state is JobState.SUSPENDED)

    def _why(self, ending: JobEnding) -> str:
        by = ""
        if ending.cancelled_by is not None:
            with suppress(KeyError):
                by = pwd.getpwuid(ending.cancelled_by).pw_name
        why = words.ending_words(ending, self.granted, cancelled_by=by)
        if ending.state is JobState.FAILED:
            why += f". {self._log_words()}"
        return why

    def _log_words(self) -> str:
        job_id = self._watched().job_id
        return f"Its log is ~/{script.LOG_FOLDER}/server-{job_id}.log"

    def _watched(self) -> Watch:
        if self.watch is None:
            msg = "this server has no job"
            raise RuntimeError(msg)
        return self.watch

    # ---- stop ----

    async def stop(self, *, now: bool = False) -> None:
        """See `BackendServer.stop`: SIGTERM, the grace time, scancel, and Slurm's agreement."""
        watch = self.watch
        if watch is None:
            return
        self._stopping = True
        if self._submitting is not None:
            await asyncio.wait([self._submitting])
        try:
            if watch.job_id is not None and watch.ending is None:
                await stopping.end_job(
                    self.backend.door,
                    self.backend.poller,
                    watch,
                    grace_seconds=0.0 if now else self.grace_seconds,
                    stop_timeout=self.backend.stop_timeout,
                )
        finally:
            self.release()

    def release(self) -> None:
        """See `BackendServer.release`. From here on the job, if it lives, is nobody's."""
        watch, self.watch = self.watch, None
        if watch is not None:
            watch.on_end = None
            self.backend.poller.forget(watch)

    # ---- what the person sees ----

    async def progress(self) -> AsyncIterator[Progress]:
        """See `BackendServer.progress`: a line whenever the shared answer says something new."""
        poller, last = self.backend.poller, None
        yield Progress("Submitting your server to Slurm.", 5)
        while self.address is None:
            step = self._step()
            if step is not None and step != last:
                last = step
                yield step
            tick = asyncio.ensure_future(poller.tick())
            addressed = asyncio.ensure_future(self._addressed.wait())
            try:
                await asyncio.wait({tick, addressed}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                tick.cancel()
                addressed.cancel()
        where = self.watch.job.node_list if self.watch and self.watch.job else self.address.host
        yield Progress(f"The server is up on {where}; connecting to it.", 90)

    def _step(self) -> Progress | None:
        watch, poller = self.watch, self.backend.poller
        if watch is None:
            return None
        job = watch.job
        if watch.job_id is None:
            return None
        if poller.failures:
            return Progress("Slurm does not answer now; your job keeps its place.", 10)
        if job is None:
            return Progress(f"Job {watch.job_id} is submitted.", 10)
        if job.state.waiting and poller.queue is not None:
            ahead = words.queue_position(job, poller.queue.jobs)
            text = words.waiting_words(job, ahead, datetime.now(UTC))
            return Progress(text, 20)
        if job.state is JobState.SUSPENDED:
            return Progress(f"Job {job.job_id} is suspended by Slurm.", 50)
        return Progress(f"Job {job.job_id} runs on {job.node_list}; the server is starting.", 60)

    # ---- across hubs ----

    def state(self) -> dict[str, Any]:
        """See `BackendServer.state`; no secrets."""
        if self.watch is None:
            return {}
        state: dict[str, Any] = {
            "version": STATE_VERSION,
            "name": self.watch.name,
            "user": self.user,
            "job_id": self.watch.job_id,
            "memory": self.granted.memory,
            "walltime": self.granted.walltime,
            "grace_seconds": self.grace_seconds,
        }
        if self.address is not None:
            state["address"] = {"host": self.address.host, "port": self.address.port}
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `BackendServer.restore`."""
        if "name" not in state:
            return
        self.user = str(state["user"])
        self.granted = words.Granted(state.get("memory", ""), state.get("walltime", ""))
        self.grace_seconds = float(state.get("grace_seconds", self.grace_seconds))
        watch = self._follow(str(state["name"]))
        if state.get("job_id") is not None:
            watch.exists(int(state["job_id"]))
        address = state.get("address")
        if address is not None:
            self.address = ServerAddress(str(address["host"]), int(address["port"]))
            self._addressed.set()
            watch.pace = Pace.REST
        self._restored = True
