"""What is known of each scheduler and worker on Kubernetes: of its pod, and of requests for it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from qhub_gateway import kubernetes_states as states
from qhub_gateway.kubernetes_config import GatewayKubernetes
from qhub_gateway.targets.target import UNKNOWN, Phase, State
from qhub_spawner.kubernetes.pods import Pod
from qhub_spawner.kubernetes.watching import Key

__all__ = ["Job", "Jobs"]

Json = Mapping[str, Any]

_FRESH_SECONDS = 30.0  # words that only time changes, such as how long an image is fetched already


@dataclass(slots=True)
class Job:
    """What is known of one job beside its pod.

    Attributes:
        pod: As it was seen last.
        there: Whether Kubernetes has it, as far as the watch tells.
        unsure: Whether a request is on its way, or was lost, that may have made it.
        waits: Why it has not been made yet: there is no room for it in the quota.
        stopping: Whether the gateway has asked for its end.
        stuck_since: Since when it cannot start as things are.
        given_up: Why it was ended before it ran.
        state: What was said of it last.
        said_at: When.
    """

    pod: Pod | None = None
    there: bool = False
    unsure: bool = False
    waits: str = ""
    stopping: bool = False
    stuck_since: float | None = None
    given_up: str = ""
    state: State | None = None
    said_at: float = 0.0


class Jobs:
    """All jobs that are followed, by name, fed by the watches of `GatewayKubernetes`."""

    def __init__(self, backend: GatewayKubernetes) -> None:
        """Follow none yet."""
        self.backend = backend
        self._jobs: dict[str, Job] = {}

    def open(self) -> None:
        """Listen to the watches, which run from now on."""
        self.backend.watch_pods.on_change.append(self._pod_changed)
        self.backend.watch_events.on_change.append(self._event_changed)

    def __iter__(self) -> Iterator[tuple[str, Job]]:
        """Yield the name and what is known of each; more may be followed meanwhile."""
        return iter(list(self._jobs.items()))

    def get(self, name: str) -> Job | None:
        """Return what is known of a job, if it is followed."""
        return self._jobs.get(name)

    def follow(self, name: str) -> Job:
        """Follow a job, if it is not yet followed."""
        return self._jobs.setdefault(name, Job())

    def asked(self, name: str) -> Job:
        """Note that a request for a job goes out: from now on it may be there."""
        job = self._jobs[name] = Job(unsure=True)
        return job

    def waits(self, name: str, why: str) -> None:
        """Note that a job is not made because there is no room."""
        self._jobs[name] = Job(waits=why)
        self.backend.watch_pods.wake(None)

    def is_there(self, name: str) -> bool:
        """Whether Kubernetes is known to have a job's pod."""
        job = self._jobs.get(name)
        return job is not None and job.there

    def forget(self, name: str) -> Job | None:
        """Follow a job no longer; returns what was known of it."""
        return self._jobs.pop(name, None)

    # ---- what the watches say

    def _pod_changed(self, key: Key, found: Json | None) -> None:
        job = self._jobs.get(key[1])
        if job is None:
            return
        job.there, job.state = found is not None, None
        if found is not None:
            job.pod, job.unsure, job.waits = Pod.of(found), False, ""

    def _event_changed(self, _key: Key, found: Json | None) -> None:
        job = self._jobs.get(found["involvedObject"].get("name", "")) if found else None
        if job is not None:
            job.state = None

    # ---- what follows from it

    def events_of(self, job: Job) -> list[Json]:
        """Return what Kubernetes has said about a job's pod, oldest first."""
        return self.backend.events_of(job.pod.uid) if job.pod is not None else []

    def state(self, name: str) -> State:
        """Return a job's state; worked out anew only where something has changed."""
        job = self._jobs.get(name)
        if job is None:
            return UNKNOWN
        now = time.monotonic()
        if job.state is None or now - job.said_at > _FRESH_SECONDS:
            job.state, job.said_at = self._state(job), now
        return job.state

    def _state(self, job: Job) -> State:
        if job.there and job.pod is not None:
            found = states.state_of(job.pod, self.events_of(job), now=datetime.now(UTC))
        elif job.waits:
            return State(Phase.QUEUED, job.waits)
        elif job.unsure or not self.backend.watch_pods.known:
            return UNKNOWN
        else:
            found = states.ended(job.pod, self.events_of(job))
        if found.phase is Phase.ENDED:
            own = "the gateway ended it" if job.stopping else found.words
            return State(Phase.ENDED, job.given_up or own, found.since)
        return found

    def stuck(self, job: Job) -> str | None:
        """Return why a job's pod cannot start as things are; ``None`` where it may."""
        if not job.there or job.pod is None or job.pod.deleting:
            return None
        return states.stuck(job.pod, self.events_of(job))
