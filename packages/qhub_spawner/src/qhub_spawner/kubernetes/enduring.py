"""How long a start that gets nowhere is endured: from when it got stuck, and not from its begin."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from qhub_spawner.kubernetes import words
from qhub_spawner.kubernetes.creating import sentence
from qhub_spawner.kubernetes.pods import Pod
from qhub_spawner.launch import NoCapacityError, StartFailedError


@dataclass
class Endurance:
    """Since when one pod has waited in vain.

    Attributes:
        stuck_seconds: How long it may stand in a state that does not pass by itself.
        capacity_seconds: How long it may find no room; ``None`` where there is no other backend.
    """

    stuck_seconds: float
    capacity_seconds: float | None
    _stuck_since: float | None = None
    _no_room_since: float | None = None

    def judge(self, pod: Pod, events: Iterable[Mapping[str, Any]], text: str) -> None:
        """Look at a pod that waits.

        Args:
            pod: As it is now.
            events: About it.
            text: What its person is told now.

        Raises:
            StartFailedError: It has been stuck for too long.
            NoCapacityError: It has found no room for too long; another backend may do better.
        """
        now, told = time.monotonic(), list(events)
        stuck = words.stuck_words(pod, told)
        # whoever stood in a queue for an hour has as much patience as anybody else
        self._stuck_since = None if stuck is None else self._stuck_since or now
        if self._stuck_since is not None and now - self._stuck_since >= self.stuck_seconds:
            raise StartFailedError(sentence(f"The server cannot start: {stuck}"))
        if self.capacity_seconds is None:
            return
        no_room = words.for_want_of_capacity(pod, told, datetime.now(UTC))
        self._no_room_since = self._no_room_since or now if no_room else None
        if self._no_room_since is not None and now - self._no_room_since >= self.capacity_seconds:
            raise NoCapacityError(text)
