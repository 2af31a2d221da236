"""Events about a pod (API reference v1.34, ``Event`` of core/v1 and of events.k8s.io/v1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from qhub_spawner.kubernetes.documents import (
    integer,
    mapping,
    moment,
    said,
    text,
)

__all__ = ["Event", "Told", "in_order", "latest", "read_all", "since"]

_LONGEST_MESSAGE = 2048
_BEGINNING = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Event:
    """One event, perhaps repeated; times are aware UTC.

    Attributes:
        reason: One word, e.g. ``FailedScheduling``.
        message: What its source says, as `said` leaves it.
        warning: Whether it is one.
        source: The component that says it, e.g. ``default-scheduler``, ``kubelet``.
        first: When it was said first.
        last: When it was said last.
        count: How often.
        kind: Of what it is about; `namespace`, `name` and `uid` are of the same object.
    """

    reason: str = ""
    message: str = ""
    warning: bool = False
    source: str = ""
    first: datetime | None = None
    last: datetime | None = None
    count: int = 1
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Event:
        """Read an event of either group, or what `slimming.slim_event` left of it; never raises."""
        about = mapping(manifest, "involvedObject") or mapping(manifest, "regarding")
        series = mapping(manifest, "series")
        when = moment(manifest, "eventTime")
        first = (
            moment(manifest, "firstTimestamp")
            or moment(manifest, "deprecatedFirstTimestamp")
            or when
            or moment(manifest, "metadata", "creationTimestamp")
        )
        last = (
            moment(series, "lastObservedTime")
            or moment(manifest, "lastTimestamp")
            or moment(manifest, "deprecatedLastTimestamp")
            or when
            or first
        )
        said_by = (
            text(manifest, "reportingComponent")
            or text(manifest, "reportingController")
            or text(manifest, "source", "component")
            or text(manifest, "deprecatedSource", "component")
        )
        count = integer(series, "count") or integer(manifest, "count")
        return cls(
            reason=text(manifest, "reason"),
            message=said(text(manifest, "message") or text(manifest, "note"), _LONGEST_MESSAGE),
            warning=text(manifest, "type") == "Warning",
            source=said_by,
            first=first,
            last=last,
            count=max(1, count or integer(manifest, "deprecatedCount") or 1),
            kind=text(about, "kind"),
            namespace=text(about, "namespace"),
            name=text(about, "name"),
            uid=text(about, "uid"),
        )


Told = Event | Mapping[str, Any]
"""An event, read or as JSON."""


def read_all(events: Iterable[Told]) -> list[Event]:
    """Read what is not read yet, and sort by the last time each was said."""
    return in_order(event if isinstance(event, Event) else Event.of(event) for event in events)


def in_order(events: Iterable[Event]) -> list[Event]:
    """Sort by the last time each was said; those without a time come first."""
    return sorted(events, key=lambda event: event.last or _BEGINNING)


def latest(events: Iterable[Event], *reasons: str) -> Event | None:
    """Return what was said last for one of these reasons."""
    found = [event for event in events if event.reason in reasons]
    return in_order(found)[-1] if found else None


def since(events: Iterable[Event], event: Event, reason: str) -> bool:
    """Whether something was said after `event`, or at the same time (times are whole seconds)."""
    later = latest(events, reason)
    if later is None or later.last is None or event.last is None:
        return later is not None
    return later.last >= event.last
