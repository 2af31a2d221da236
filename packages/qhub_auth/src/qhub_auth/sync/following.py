"""Looking at Keycloak's admin events again and again, so that none is missed."""

from __future__ import annotations

import time
from dataclasses import dataclass

from qhub_auth.keycloak.admin import KeycloakAdmin
from qhub_auth.keycloak.events import RESOURCES, AdminEvent, Cursor, Touched, touched

__all__ = ["Follower", "Look"]

# More events than this at once, and it is quicker to compare everything.
_MANY_EVENTS = 5000


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the events showed.

    Attributes:
        about: Whom and what the new events concern.
        everything: Why everything is to be compared; empty if it need not be.
        cursor: Where the next look begins, once this one was followed.
    """

    about: Touched
    everything: str
    cursor: Cursor


class Follower:
    """Follows the events.

    Args:
        admin: Keycloak.
        overlap: How late an event may appear in the list, in seconds.
        outage: After how long without an answer everything is to be compared, in seconds.

    Attributes:
        cursor: How far it has come; `None` before the first look of all.
    """

    def __init__(self, admin: KeycloakAdmin, *, overlap: float, outage: float) -> None:
        self.cursor: Cursor | None = None
        self._admin = admin
        self._overlap_ms = int(overlap * 1000)
        self._outage = outage
        self._answered = time.monotonic()

    async def look(self) -> Look:
        """Look what has happened since the last look that is :meth:`done`.

        Raises:
            KeycloakError: It could not be seen.
        """
        if self.cursor is None:
            await self._admin.client_uuid()  # any answer: with the token comes Keycloak's time
            self.cursor = Cursor(self._admin.now_ms or int(time.time() * 1000))
        cursor, now_ms = self.cursor, self._admin.now_ms
        events: list[AdminEvent] = []
        since = cursor.since(self._overlap_ms, now_ms)
        async for page in self._admin.admin_events(since, resources=RESOURCES):
            events += page
            if len(events) > _MANY_EVENTS:
                break
        away, self._answered = time.monotonic() - self._answered, time.monotonic()
        new = cursor.new(events)
        everything = ""
        if len(events) > _MANY_EVENTS and new:
            new, everything = [], f"more than {_MANY_EVENTS} changes at once"
        elif away > self._outage:
            everything = f"Keycloak did not answer for {away:.0f} s"
        elif cursor.gap(events):
            everything = "Keycloak has thrown events away"
        about = touched(new)
        if about.everything:
            everything = "something changed of which Keycloak does not say whom it concerns"
        return Look(about, everything, cursor.advanced(events, self._overlap_ms, now_ms))

    def done(self, look: Look) -> None:
        """Note that everybody whom a look concerned was read."""
        self.cursor = look.cursor
