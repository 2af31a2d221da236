"""What Kubernetes has said about each pod: its events, by the pod that they are about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qhub_spawner.kubernetes.watching import Key

Json = Mapping[str, Any]


class EventIndex:
    """Events as a watch brings them, found by their pod without looking at all others."""

    def __init__(self) -> None:
        """Nothing was said yet."""
        self._by_pod: dict[str, dict[Key, Json]] = {}
        self._pod_of: dict[Key, str] = {}

    def take(self, key: Key, found: Json | None) -> Key | None:
        """Take up a new or changed event, or that it is no more.

        Returns:
            Namespace and name of the pod that a new or changed one is about.
        """
        if found is None:
            uid = self._pod_of.pop(key, "")
            events = self._by_pod.get(uid, {})
            events.pop(key, None)
            if not events:
                self._by_pod.pop(uid, None)
            return None
        about = found["involvedObject"]
        uid = str(about.get("uid", ""))
        self._pod_of[key] = uid
        self._by_pod.setdefault(uid, {})[key] = found
        return about.get("namespace", ""), about.get("name", "")

    def of(self, uid: str) -> list[Json]:
        """Return what was said about one pod, oldest first."""
        return sorted(self._by_pod.get(uid, {}).values(), key=_said_at)


def _said_at(event: Json) -> str:
    return str(
        event.get("lastTimestamp")
        or event.get("eventTime")
        or event.get("firstTimestamp")
        or event["metadata"].get("creationTimestamp", "")
    )
