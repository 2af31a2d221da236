"""Clusters as processes beside the gateway, all as the gateway's own account: for trying out."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import tempfile
import time
import uuid
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from qhub_gateway.errors import StartRefusedError
from qhub_gateway.targets.target import (
    UNKNOWN,
    WORKER_NAME,
    ClusterSpec,
    JobRef,
    Phase,
    State,
    Target,
    WorkerSpec,
)

_SECRETS = ("dask.crt", "dask.pem")
_COMM = "DASK_DISTRIBUTED__COMM__TLS"
_LOOK_SECONDS = 0.5
_KILL_SECONDS = 5.0


class LocalTarget(Target):
    """Processes of this machine, found again by a variable of theirs that only they have.

    Args:
        folder: For keys and logs; made with mode 0700.
        gateway_id: Stands in each job's name; processes with it that nobody follows are ended.
        log: Where those are named.
    """

    name: ClassVar[str] = "local"

    def __init__(self, folder: Path, gateway_id: str, log: logging.Logger) -> None:
        """See the class."""
        self.folder = folder
        self.gateway_id = gateway_id
        self._log = log
        self._followed: dict[JobRef, JobRef] = {}
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._stopping: dict[JobRef, float] = {}
        self._ended: set[JobRef] = set()
        self._moved = asyncio.Event()

    async def open(self) -> None:
        """See `Target.open`; ends what an earlier gateway of this name started off the record."""
        known = {ref.name for ref in self._followed}
        for name, number in _jobs().items():
            if name.startswith(f"{self.gateway_id}-") and name not in known:
                self._log.warning("ending process %d (%s): no cluster owns it", number, name)
                _signal(JobRef(name, number=number), signal.SIGKILL)

    async def close(self) -> None:
        """See `Target.close`: processes go on."""

    def plan_scheduler(self, cluster: ClusterSpec) -> JobRef:
        """See `Target.plan_scheduler`."""
        del cluster
        return JobRef(f"{self.gateway_id}-{uuid.uuid4().hex[:16]}")

    def plan_workers(
        self, cluster: ClusterSpec, names: Sequence[str]
    ) -> Sequence[Sequence[WorkerSpec]]:
        """See `Target.plan_workers`."""
        return [[WorkerSpec(name, self.plan_scheduler(cluster)) for name in names]]

    async def start_scheduler(self, cluster: ClusterSpec, ref: JobRef) -> JobRef:
        """See `Target.start_scheduler`."""
        return await self._start(cluster, ref, "SCHEDULER", "scheduler", cluster.scheduler_argv)

    async def start_workers(
        self, cluster: ClusterSpec, workers: Sequence[WorkerSpec]
    ) -> Sequence[JobRef]:
        """See `Target.start_workers`."""
        started = []
        for worker in workers:
            argv = [worker.name if word == WORKER_NAME else word for word in cluster.worker_argv]
            started.append(await self._start(cluster, worker.ref, "WORKER", worker.name, argv))
        return started

    async def _start(
        self, cluster: ClusterSpec, ref: JobRef, role: str, log: str, argv: Sequence[str]
    ) -> JobRef:
        folder = self._secrets(cluster)
        prefix = cluster.request.profile.environment.prefix
        path = cluster.environment.get("PATH", os.environ.get("PATH", os.defpath))
        environment = {
            **{name: os.environ[name] for name in ("HOME", "LANG", "USER") if name in os.environ},
            **cluster.environment,
            "PATH": f"{prefix}/bin:{path}" if prefix else path,
            "QHUB_GATEWAY_JOB": ref.name,
            f"{_COMM}__CA_FILE": str(folder / "dask.crt"),
            f"{_COMM}__{role}__CERT": str(folder / "dask.crt"),
            f"{_COMM}__{role}__KEY": str(folder / "dask.pem"),
        }
        with (folder / f"{log}.log").open("ab") as output:
            try:
                process = await asyncio.create_subprocess_exec(
                    *argv,
                    env=environment,
                    cwd=Path.home(),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            except OSError as error:
                raise StartRefusedError(f"cannot run {argv[0]}: {error.strerror}") from error
        self._processes[process.pid] = process
        ref = ref.numbered(process.pid)
        self.follow(ref)
        return ref

    def _secrets(self, cluster: ClusterSpec) -> Path:
        folder = self.folder / cluster.name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, data in zip(_SECRETS, (cluster.tls_cert, cluster.tls_key), strict=True):
            if not (folder / name).exists():
                descriptor, made = tempfile.mkstemp(dir=folder)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                Path(made).rename(folder / name)
        return folder

    async def find(self, refs: Sequence[JobRef]) -> Sequence[JobRef] | None:
        """See `Target.find`: among all processes of this account."""
        found = _jobs()
        if not any(ref.name in found for ref in refs):
            return None
        known = [ref.numbered(found.get(ref.name, 0)) for ref in refs]
        for ref in known:
            self.follow(ref)
        return known

    def follow(self, ref: JobRef) -> None:
        """See `Target.follow`."""
        self._followed[ref] = ref

    def state(self, ref: JobRef) -> State:
        """See `Target.state`."""
        if ref in self._ended:
            return State(Phase.ENDED, "its process has ended")
        if ref not in self._followed or self._followed[ref].number is None:
            return UNKNOWN
        return State(Phase.RUNNING, since=_since(self._followed[ref].number or 0))

    async def changed(self) -> None:
        """See `Target.changed`: looks twice a second."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if self._look():
                return

    def _look(self) -> bool:
        loop = asyncio.get_running_loop()
        changed = False
        for ref in list(self._followed.values()):
            # of one without a number it is not known whether it is there: `find` says it
            if ref in self._ended or ref.number is None:
                continue
            number = ref.number or 0
            if number and _job_of(number) == ref.name and not self._reaped(number):
                if loop.time() > self._stopping.get(ref, loop.time() + 1):
                    _signal(ref, signal.SIGKILL)
                continue
            self._ended.add(ref)
            changed = True
        return changed

    def _reaped(self, number: int) -> bool:
        process = self._processes.get(number)
        return process is not None and process.returncode is not None

    async def stop(self, refs: Collection[JobRef]) -> None:
        """See `Target.stop`: SIGTERM, and SIGKILL 5 s later."""
        loop = asyncio.get_running_loop()
        for each in refs:
            ref = self._followed.get(each, each)
            self.follow(ref)
            if ref not in self._stopping:
                self._stopping[ref] = loop.time() + _KILL_SECONDS
                _signal(ref, signal.SIGTERM)
        self._look()

    def forget(self, refs: Collection[JobRef]) -> None:
        """See `Target.forget`."""
        for ref in refs:
            known = self._followed.pop(ref, ref)
            self._processes.pop(known.number or 0, None)
            self._stopping.pop(ref, None)
            self._ended.discard(ref)

    async def read_log(
        self, cluster: ClusterSpec, worker: str | None, ref: JobRef, most_bytes: int
    ) -> str:
        """See `Target.read_log`."""
        del ref
        try:
            with (self.folder / cluster.name / f"{worker or 'scheduler'}.log").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - most_bytes))
                return file.read(most_bytes).decode(errors="replace")
        except OSError:
            return ""

    async def tidy(self, cluster: str) -> None:
        """See `Target.tidy`: certificate and key are of no use any more."""
        for name in _SECRETS:
            with suppress(OSError):
                (self.folder / cluster / name).unlink()


def _jobs() -> dict[str, int]:
    """Return every job that has a process, with the id of its first."""
    found: dict[str, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        name = _job_of(int(path.name))
        if name:
            found[name] = min(int(path.name), found.get(name, 2**31))
    return found


def _job_of(pid: int) -> str:
    """Return the job that a process belongs to, or nothing if it is none of ours or has ended."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    mark = b"QHUB_GATEWAY_JOB="
    return next((word[len(mark) :].decode() for word in words if word.startswith(mark)), "")


def _since(pid: int) -> float | None:
    """Return when a process began (man proc, ``starttime``), in seconds since 1970."""
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks) / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def _signal(ref: JobRef, number: int) -> None:
    if ref.number and _job_of(ref.number) == ref.name:
        with suppress(ProcessLookupError, PermissionError):
            # of what is left of a job, the first may have ended before its children
            group = os.getpgid(ref.number)
            if group != os.getpgrp():
                os.killpg(group, number)
