"""What pods of schedulers and workers have written, kept for a while after they are deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from qhub_gateway.errors import LogElsewhereError, TargetSilentError
from qhub_gateway.kubernetes_jobs import Jobs
from qhub_gateway.targets.target import JobRef, Phase
from qhub_spawner.errors import KubernetesError, KubernetesRefusedError
from qhub_spawner.kubernetes import names
from qhub_spawner.kubernetes.api import KubernetesApi, collection

__all__ = ["Logs"]

_NO_CONTAINER, _NOT_FOUND = 400, 404
_REMEMBERED_LOGS = 200
_REMEMBERED_BYTES = 64 * 1024
_LONGEST_LOG_LINES = 10_000
_KEPT_TOGETHER = 20
# a node that is dead says nothing, and what runs on it is to be ended all the same
_KEEPING_SECONDS = 3.0


class Logs:
    """Reads logs of pods, and keeps the ends of some, which are deleted with their pods.

    Args:
        api: How Kubernetes is spoken to.
        namespace: Where the pods are.
        jobs: What is known of them.
        requests: How many requests there may be at once.
    """

    def __init__(
        self, api: KubernetesApi, namespace: str, jobs: Jobs, requests: asyncio.Semaphore
    ) -> None:
        """Keep none yet."""
        self.api = api
        self.namespace = namespace
        self.jobs = jobs
        self.kept: dict[str, str] = {}
        self._requests = requests

    async def keep_running(self, refs: Sequence[JobRef]) -> None:
        """Keep the logs of some pods that are ended next, each once; takes 3 s at most."""
        jobs = ((ref, self.jobs.get(ref.name)) for ref in refs if ref.name not in self.kept)
        fresh = [ref for ref, job in jobs if job is not None and job.there and not job.stopping]
        with suppress(TimeoutError):
            async with asyncio.timeout(_KEEPING_SECONDS):
                await asyncio.gather(*(self.keep(ref) for ref in fresh[:_KEPT_TOGETHER]))

    async def keep(self, ref: JobRef) -> None:
        """Keep the end of a pod's log; that it cannot be had is no reason to keep the pod."""
        try:
            async with self._requests:
                self.kept[ref.name] = await self._read(ref.name, _REMEMBERED_BYTES)
        except KubernetesError:
            return
        while len(self.kept) > _REMEMBERED_LOGS:
            self.kept.pop(next(iter(self.kept)))

    async def read(self, ref: JobRef, most_bytes: int) -> str:
        """Return the end of a pod's log; empty where it has written nothing yet.

        Raises:
            LogElsewhereError: It is gone.
            KubernetesRefusedError: Kubernetes says no.
            TargetSilentError: Kubernetes does not answer.
        """
        if ref.name in self.kept:
            return self.kept[ref.name][-most_bytes:]
        try:
            return await self._read(ref.name, most_bytes)
        except KubernetesRefusedError as error:
            if error.status == _NOT_FOUND and self._over(ref):
                raise LogElsewhereError(self._gone_words(ref)) from error
            if error.status in {_NO_CONTAINER, _NOT_FOUND}:
                return ""
            raise
        except KubernetesError as error:
            raise TargetSilentError(str(error)) from error

    def _over(self, ref: JobRef) -> bool:
        """Whether there is no pod any more, and not just none yet."""
        known = self.jobs.get(ref.name) is not None
        return not known or self.jobs.state(ref.name).phase is Phase.ENDED

    def _gone_words(self, ref: JobRef) -> str:
        kept = f"{_REMEMBERED_BYTES // 1024} KiB of each of the last {_REMEMBERED_LOGS}"
        return (
            "This log is gone: its pod has been deleted. The gateway keeps the end of logs only "
            f"for a while ({kept}, until it is restarted). A log collection of the Kubernetes "
            f"cluster may still have it, as pod {ref.name} of the namespace {self.namespace}."
        )

    async def _read(self, name: str, most_bytes: int) -> str:
        path = f"{collection('pods', self.namespace)}/{name}/log"
        lines = min(_LONGEST_LOG_LINES, max(1, most_bytes // 16))
        query = {"container": names.SERVER_CONTAINER, "tailLines": str(lines)}
        return (await self.api.text(path, query))[-most_bytes:]
