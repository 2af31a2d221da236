"""Keycloak's admin events: which people and groups each of them concerns. Pure.

Keycloak 26 has no call-outs; it keeps what administrators did (``adminEventsEnabled``) and answers
``GET /admin/realms/REALM/admin-events``. Each event has a time in milliseconds, a kind, and the
path of what was changed, relative to the realm, for example::

    {"id": "5f…", "time": 1790000000000, "operationType": "DELETE",
     "resourceType": "GROUP_MEMBERSHIP",
     "resourcePath": "users/6b1e…/groups/90cd…"}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qhub_auth.errors import KeycloakUnavailableError, shown

__all__ = ["RESOURCES", "AdminEvent", "Cursor", "Touched", "admin_event", "touched"]

RESOURCES = (
    "USER",
    "GROUP",
    "GROUP_MEMBERSHIP",
    "CLIENT_ROLE",
    "CLIENT_ROLE_MAPPING",
    "REALM_ROLE",
    "REALM_ROLE_MAPPING",
    "CLIENT",
    "REALM",
)
"""Kinds of resources whose change may change somebody's groups, roles or name."""

# A group that is moved to the top has the path ``groups`` alone, without saying which.
_OF_DIRECTORY = frozenset(RESOURCES) - {"USER", "GROUP_MEMBERSHIP", "REALM"}


@dataclass(frozen=True, slots=True)
class AdminEvent:
    """Something that was changed through the admin API or console.

    Attributes:
        id: Of the event; made of its content where Keycloak gives none.
        time_ms: When, in milliseconds since 1970, by the clock of the Keycloak that did it.
        resource: The kind of what was changed, e.g. ``GROUP_MEMBERSHIP``.
        operation: ``CREATE``, ``UPDATE``, ``DELETE`` or ``ACTION``.
        path: What was changed, e.g. ``users/SUB/groups/ID``.
        failed: Keycloak refused it, so that nothing was changed.
    """

    id: str
    time_ms: int
    resource: str
    operation: str
    path: str
    failed: bool = False


def admin_event(data: Mapping[str, Any]) -> AdminEvent:
    """Read an ``AdminEventRepresentation``.

    Raises:
        KeycloakUnavailableError: It is not one.
    """
    time_ms = data.get("time")
    if not isinstance(time_ms, int) or isinstance(time_ms, bool) or time_ms < 0:
        raise KeycloakUnavailableError(
            f"Keycloak's answer: an event has a time, but it is {shown(time_ms)}"
        )
    resource = str(data.get("resourceType") or "")
    operation = str(data.get("operationType") or "")
    path = str(data.get("resourcePath") or "").strip("/")
    ident = data.get("id")
    if not isinstance(ident, str) or not ident:
        text = f"{time_ms} {resource} {operation} {path}"
        ident = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return AdminEvent(
        id=ident,
        time_ms=time_ms,
        resource=resource,
        operation=operation,
        path=path,
        failed=bool(data.get("error")),
    )


@dataclass(frozen=True, slots=True)
class Touched:
    """What a number of events may have changed.

    Attributes:
        people: Subs of those to read again.
        directory: Groups or roles are to be read again.
        everything: Something changed of which nobody can say whom it concerns.
    """

    people: frozenset[str] = frozenset()
    directory: bool = False
    everything: bool = False

    def __bool__(self) -> bool:
        return bool(self.people or self.directory or self.everything)


def touched(events: Iterable[AdminEvent]) -> Touched:
    """Return what the events may have changed; what is not understood counts as everything."""
    people: set[str] = set()
    directory = everything = False
    for event in events:
        if event.failed:
            continue
        parts = event.path.split("/")
        if parts[0] == "users" and len(parts) > 1 and parts[1]:
            people.add(parts[1])
        elif event.resource in _OF_DIRECTORY:
            directory = True
        elif event.resource in RESOURCES:
            # E.g. many at once by a partial import, or a realm that was changed as a whole.
            everything = True
    return Touched(frozenset(people), directory, everything)


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far the events have been followed.

    Times are Keycloak's own. Events may be written a little later than their time says (a long
    transaction, another Keycloak of the cluster whose clock is behind), and several may have one
    millisecond: so what is asked for overlaps with what was seen, and what was seen is remembered.

    Attributes:
        time_ms: The time of the newest event seen, in milliseconds since 1970; without any, the
            time since when there were none.
        seen: Times of the events that were seen, by identifier, as far as the overlap goes back.
    """

    time_ms: int
    seen: Mapping[str, int] = field(default_factory=dict)

    def since(self, overlap_ms: int, now_ms: int | None = None) -> int:
        """Return since when to ask for events.

        Args:
            overlap_ms: How late an event may be, in milliseconds.
            now_ms: Keycloak's clock; if it was set back, everything since then is asked for again.
        """
        newest = self.time_ms if now_ms is None else min(self.time_ms, now_ms)
        return max(0, newest - overlap_ms)

    def new(self, events: Iterable[AdminEvent]) -> list[AdminEvent]:
        """Return those events that were not seen yet, each once, the oldest first."""
        found = {each.id: each for each in events if each.id not in self.seen}
        return sorted(found.values(), key=lambda each: (each.time_ms, each.id))

    def gap(self, events: Iterable[AdminEvent]) -> bool:
        """Return whether events may have been lost.

        `events` begin where :meth:`since` says, so those that were seen have to be among them. If
        not one is, Keycloak has thrown them away (its expiry, or an administrator cleared the
        list), and perhaps others with them that nobody saw.
        """
        return bool(self.seen) and not any(each.id in self.seen for each in events)

    def advanced(
        self, events: Iterable[AdminEvent], overlap_ms: int, now_ms: int | None = None
    ) -> Cursor:
        """Return the cursor after `events`, which begin where :meth:`since` says."""
        times = {each.id: each.time_ms for each in events}
        behind = now_ms is not None and now_ms < self.time_ms - overlap_ms
        floor = now_ms if behind and now_ms is not None else self.time_ms
        newest = max([floor, *times.values()])
        kept = {key: at for key, at in {**self.seen, **times}.items() if at >= newest - overlap_ms}
        return Cursor(newest, kept if times else {})

    def text(self) -> str:
        """Return it as text, to be kept."""
        return json.dumps({"time_ms": self.time_ms, "seen": dict(self.seen)})

    @classmethod
    def parse(cls, text: str | None) -> Cursor | None:
        """Return the cursor that :meth:`text` wrote; `None` if it is none."""
        try:
            data = json.loads(text or "")
            time_ms, seen = data["time_ms"], data["seen"]
        except (ValueError, TypeError, KeyError):
            return None
        whole = isinstance(time_ms, int) and isinstance(seen, dict)
        if not whole or not all(isinstance(at, int) for at in seen.values()):
            return None
        return cls(time_ms, seen)
