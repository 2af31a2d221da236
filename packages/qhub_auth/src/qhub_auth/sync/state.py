"""What the sync service keeps in the database of numbers, to go on where it ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from qhub_auth.keycloak.events import Cursor
from qhub_auth.sync.reconciling import Held

__all__ = ["Kept", "SyncState"]

_PREFIX = "group-sync"
T = TypeVar("T")


class Kept(Protocol):
    """The part of `IdentityStore` that is used here; it blocks."""

    def cursor(self, name: str) -> str | None:
        """Return a text that was kept."""

    def set_cursor(self, name: str, value: str) -> None:
        """Keep a text."""


class SyncState:
    """What is kept, each by a name of its own; every method blocks.

    Args:
        store: The database of numbers.
        realm: The address of the realm: what is kept of another one counts for nothing.
    """

    def __init__(self, store: Kept, realm: str) -> None:
        self._store = store
        self._realm = realm
        self._written: dict[str, str] = {}

    def _get(self, name: str, otherwise: T, check: Callable[[Any], bool]) -> T:
        text = self._store.cursor(f"{_PREFIX}:{name}")
        try:
            data = json.loads(text or "")
            value: T = data["value"]
        except (ValueError, TypeError, KeyError):
            return otherwise
        return value if data.get("realm") == self._realm and check(value) else otherwise

    def _set(self, name: str, value: object) -> None:
        text = json.dumps({"realm": self._realm, "value": value})
        if self._written.get(name) != text:
            self._store.set_cursor(f"{_PREFIX}:{name}", text)
            self._written[name] = text

    def cursor(self) -> Cursor | None:
        """Return how far the events were followed; `None` if nothing is known."""
        return Cursor.parse(self._get("cursor", None, lambda value: isinstance(value, str)))

    def set_cursor(self, cursor: Cursor) -> None:
        """Keep how far the events were followed, once all that they say is done."""
        self._set("cursor", cursor.text())

    def ending(self) -> dict[str, float]:
        """Return whose servers still are to be stopped: since when they may not go on, by sub."""
        return self._get("ending", {}, lambda value: isinstance(value, dict))

    def set_ending(self, ending: Mapping[str, float]) -> None:
        """Keep that."""
        self._set("ending", dict(ending))

    def held(self) -> dict[str, Any] | None:
        """Return what waits for an administrator's word; `None` if nothing does."""
        return self._get("held", None, lambda value: value is None or isinstance(value, dict))

    def set_held(self, held: Held | None, at: float = 0.0) -> None:
        """Keep what waits, since `at` (seconds since 1970)."""
        if held is None:
            self._set("held", None)
            return
        examples = sorted(held.people.values())[:50]
        losing = {sub: sorted(lost) for sub, lost in sorted(held.memberships.items())[:50]}
        self._set(
            "held",
            {
                "id": held.id,
                "at": at,
                "what": str(held),
                "people": examples,
                "memberships": losing,
                "items": sorted(held.items),
            },
        )

    def confirmed(self) -> frozenset[str]:
        """Return what an administrator confirmed."""
        items: list[str] = self._get("confirmed", [], lambda value: isinstance(value, list))
        return frozenset(items)

    def confirm(self, ident: str) -> bool:
        """Confirm what is held by its id; say whether there is such a thing."""
        held = self.held()
        if held is None or held.get("id") != ident:
            return False
        self._set("confirmed", held.get("items", []))
        return True

    def forget_confirmed(self) -> None:
        """Note that what was confirmed is done."""
        self._written.pop("confirmed", None)  # another process may have written it
        self._set("confirmed", [])

    def status(self) -> dict[str, Any]:
        """Return how the service is."""
        return self._get("status", {}, lambda value: isinstance(value, dict))

    def set_status(self, status: Mapping[str, Any]) -> None:
        """Keep how the service is."""
        self._set("status", dict(status))
