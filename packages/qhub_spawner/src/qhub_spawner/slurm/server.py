"""One server as one Slurm job: its start, its waiting, its end."""

from __future__ import annotations

import asyncio
import logging
import pwd
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from qhub_spawner.errors import (
    SlurmError,
    SlurmRejectedError,
    SlurmUnavailableError,
    SubmitUnknownError,
)
from qhub_spawner.launch import (
    AddressRefusedError,
    BackendServer,
    Ended,
    Launch,
    Progress,
    ServerAddress,
    StartFailedError,
    StopFailedError,
)
from qhub_spawner.slurm import script, words
from qhub_spawner.slurm.jobs import Job, JobEnding, JobState, job_name, new_spawn_id
from qhub_spawner.slurm.poller import Pace, Watch

if TYPE_CHECKING:
    from qhub_spawner.slurm.backend import SlurmBackend

STATE_VERSION = 1
_LOST_REPLY_SECONDS = 20.0
_CONFIRMING_ANSWERS = 2


class Owner(Protocol):
    """What a server needs of the hub's spawner."""

    log: logging.Logger

    def persist(self) -> None:
        """Write the server's state to the hub's database, now."""

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
            options=script.options_of(profile, defaults),
            script=script.batch_script(profile, launch.argv, defaults),
            environment=launch.environment,
        )
        self._follow(name)
        self.owner.persist()
        self._submitting = asyncio.ensure_future(self._submit(submission))
        # a cancelled start must not lose the job id: the submission goes on, and stop waits for it
        await asyncio.shield(self._submitting)
        self.owner.persist()
        return await self._until_addressed()

    def _follow(self, name: str) -> Watch:
        self.watch = self.backend.poller.watch(name, self.user)
        self.watch.on_end = self._ended
        return self.watch

    def _ended(self) -> None:
        self.owner.server_ended()

    async def _submit(self, submission: script.Submission) -> None:
        watch = self._watched()
        try:
            watch.exists(await self.backend.door.submit(self.user, submission))
        except SlurmRejectedError as refusal:
            raise StartFailedError(f"{refusal.words}.", status_code=400) from refusal
        except SubmitUnknownError as lost:
            self.log.warning("%s; looking for the job by its name", lost)
            await self._look_for_lost(watch, lost)
        except SlurmUnavailableError as error:
            self.log.warning("cannot submit for %s: %s", self.user, error)
            msg = "Slurm does not answer now, so nothing was started. Try again in a minute."
            raise StartFailedError(msg, status_code=503) from error
        self.log.info("job %s (%s) submitted for %s", watch.job_id, watch.name, self.user)

    async def _look_for_lost(self, watch: Watch, lost: SlurmError) -> None:
        """Find out whether a submission without a reply arrived: adopt the job, or give up.

        Giving up is safe: should the job turn up later, nobody owns it and the reaper ends it.
        """
        poller, loop = self.backend.poller, asyncio.get_running_loop()
        deadline, answers = loop.time() + _LOST_REPLY_SECONDS, 0
        while watch.job_id is None and loop.time() < deadline:
            answers += await poller.fresh()
            if watch.job_id is None:
                if answers > _CONFIRMING_ANSWERS and loop.time() > deadline - 10:
                    break
                await asyncio.sleep(0.5)
        if watch.job_id is None:
            msg = (
                "Slurm did not confirm the job, and no such job has appeared. Try again; should "
                "the first one appear after all, it is cancelled."
            )
            raise StartFailedError(msg, status_code=503) from lost

    async def _until_addressed(self) -> ServerAddress:
        """Wait for the address, for as long as the job waits in the queue and no longer."""
        watch, poller = self._watched(), self.backend.poller
        loop = asyncio.get_running_loop()
        running_since: float | None = None
        addressed = asyncio.ensure_future(self._addressed.wait())
        try:
            while self.address is None:
                if watch.ending is not None:
                    raise StartFailedError(f"The server did not start: {self._why(watch.ending)}.")
                job = watch.job
                if job is None or job.state.waiting:
                    running_since = None
                elif job.state is not JobState.SUSPENDED:
                    running_since = running_since or loop.time()
                self._set_pace(job)
                if running_since and loop.time() - running_since > self.backend.startup_timeout:
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
        if watch.job is None or watch.job.state.waiting or not watch.job.node_list:
            await self.backend.poller.fresh()
        if watch.job is None or not watch.job.node_list:
            msg = "Slurm does not say yet where this job runs; report again"
            raise AddressRefusedError(msg, status_code=503)
        await self.backend.check_host(address.host, watch.job)
        moved = self.address is not None
        self.address = address
        self._addressed.set()
        return moved

    # ---- life ----

    async def poll(self) -> Ended | None:
        """See `BackendServer.poll`: answered from the poller's last answer, without any query."""
        watch = self.watch
        if watch is None:
            return Ended(0, "it was not started")
        if self._submitting is not None and not self._submitting.done():
            return None
        if watch.job_id is None and watch.ending is None and not self._restored:
            return Ended(1, "it was not submitted")
        if self._restored:
            ended = await self._take_up(watch)
            if ended is not None:
                return ended
        if watch.ending is None:
            return None
        why = self._why(watch.ending)
        return Ended(words.exit_code(watch.ending), why)

    async def _take_up(self, watch: Watch) -> Ended | None:
        """Learn, once, what became of a server that an earlier hub started."""
        poller = self.backend.poller
        if poller.queue is None or watch.job is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(poller.fresh(), self.backend.answer_timeout)
        if poller.queue is None:
            return None
        if watch.job_id is None and watch.job is None:
            # the hub ended between the record and the submission, or the reply was lost;
            # a complete answer without that name says that there is no such job
            self._restored = False
            return Ended(1, "it was never submitted")
        if watch.ending is None and self.address is None:
            try:
                await self._until_addressed()
            except StartFailedError as error:
                self._restored = False
                return Ended(1, str(error))
            self.owner.persist()
        self._restored = False
        return None

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
        if self._submitting is not None and not self._submitting.done():
            await asyncio.wait([self._submitting])
        if self._submitting is not None and not self._submitting.cancelled():
            self._submitting.exception()  # reported by start; here it only matters that it is over
        try:
            if watch.job_id is not None and watch.ending is None:
                await self._end_job(watch, now=now)
        finally:
            watch.on_end = None
            self.backend.poller.forget(watch)
        self.watch = None

    async def _end_job(self, watch: Watch, *, now: bool) -> None:
        poller = self.backend.poller
        watch.on_end = None
        poller.hurry(watch, Pace.STOPPING)
        running = watch.job is not None and watch.job.state is JobState.RUNNING
        if running and not now and self.grace_seconds > 0:
            with suppress(SlurmError):
                await self._cancel(watch, "TERM")
                if await self._over_within(watch, self.grace_seconds):
                    return
        loop = asyncio.get_running_loop()
        deadline, pause, problem = loop.time() + self.backend.stop_timeout, 1.0, ""
        while True:
            try:
                await self._cancel(watch, None)
                problem = ""
            except SlurmError as error:
                problem = f"; scancel: {error}"
            if await self._over_within(watch, min(pause, max(0.1, deadline - loop.time()))):
                return
            if loop.time() >= deadline:
                state = watch.job.state.value if watch.job else "unknown"
                msg = (
                    f"Slurm has not confirmed within {self.backend.stop_timeout:g} s that job "
                    f"{watch.job_id} of {self.user} has ended (last known state: {state}{problem}). "
                    "The hub goes on trying to cancel it."
                )
                raise StopFailedError(msg)
            pause = min(10.0, pause * 2)

    async def _cancel(self, watch: Watch, signal: Any) -> None:
        if watch.job_id is not None:
            await self.backend.door.cancel(self.user, watch.job_id, watch.name, signal=signal)

    async def _over_within(self, watch: Watch, seconds: float) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while watch.ending is None and loop.time() < deadline:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.backend.poller.tick(), deadline - loop.time())
        return watch.ending is not None

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
        if poller.failures:
            return Progress("Slurm does not answer now; your job keeps its place.", 10)
        job = watch.job
        if watch.job_id is None:
            return None
        if job is None:
            return Progress(f"Job {watch.job_id} is submitted.", 10)
        if job.state.waiting and poller.queue is not None:
            ahead = words.queue_position(job, poller.queue.jobs)
            text = words.waiting_words(job, ahead, datetime.now(UTC))
            return Progress(f"Job {job.job_id}: {text}", 40 if job.reason == "None" else 20)
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
