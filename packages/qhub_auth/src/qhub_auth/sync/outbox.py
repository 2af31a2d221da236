"""What is still to be told to the hub, one entry for each person, the urgent ones first. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from pydantic import ValidationError

from qhub_auth.directory import PersonFacts
from qhub_auth.errors import shown
from qhub_auth.sync.bodies import Entry, Facts, Result
from qhub_auth.sync.reconciling import Change

__all__ = ["Outbox"]

# How often the hub is asked to stop servers that go on all the same, in seconds.
_AGAIN_SECONDS = 10.0
# After so many failures somebody waits for the next comparison of everything.
_ATTEMPTS = 3


@dataclass(slots=True)
class _Waiting:
    change: Change
    urgent: bool
    failures: int = 0


class Outbox:
    """Changes that wait to be sent; a newer one of the same person takes the older one's place.

    Args:
        grace_seconds: How long servers go on of somebody who may not.

    Attributes:
        ending: Since when people may not go on whose servers still run, in seconds since 1970.
    """

    def __init__(self, *, grace_seconds: float = 0.0) -> None:
        self.ending: dict[str, float] = {}
        self._grace = grace_seconds
        self._waiting: dict[str, _Waiting] = {}
        self._again: dict[str, float] = {}
        self._last: dict[str, Change] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def urgent(self) -> bool:
        """Whether something waits that an event said."""
        return any(each.urgent for each in self._waiting.values())

    def put(self, change: Change, *, urgent: bool) -> None:
        """Add a change."""
        before = self._waiting.get(change.sub)
        urgent = urgent or (before is not None and before.urgent)
        self._waiting[change.sub] = _Waiting(change, urgent)

    def forget_comparison(self) -> None:
        """Take back what is not urgent: a newer comparison knows better."""
        self._waiting = {sub: each for sub, each in self._waiting.items() if each.urgent}

    def next(self, most: int, now: float) -> list[Change]:
        """Return what to send now; it stays here until :meth:`answered`."""
        for sub, since in self.ending.items():
            due = now - since >= self._grace and now >= self._again.get(sub, 0.0)
            if due and sub not in self._waiting and sub in self._last:
                self._waiting[sub] = _Waiting(self._last[sub], urgent=True)
        order = sorted(self._waiting.values(), key=lambda each: not each.urgent)
        return [each.change for each in order[:most]]

    def entry(self, change: Change, now: float) -> Entry:
        """Return a change as it is sent."""
        since = self.ending.get(change.sub, now)
        return Entry(
            sub=change.sub,
            name=change.name,
            facts=None if change.facts is None else Facts.of(change.facts),
            digest=change.digest,
            stop_servers=now - since >= self._grace,
        )

    def entries(self, changes: Iterable[Change], now: float) -> tuple[list[Entry], list[Result]]:
        """Return changes as they are sent, and why some of them cannot be.

        What cannot be sent now cannot be sent the next time either: it does not wait here any
        more, and keeps nobody else waiting. Another change of that person, or the next comparison
        of everything, tries it anew.
        """
        entries: list[Entry] = []
        failed: list[Result] = []
        for change in changes:
            try:
                entries.append(self._sendable(change, now))
            except ValidationError as error:
                self._waiting.pop(change.sub, None)
                failed.append(
                    Result(sub=change.sub, name=change.name, state="failed", why=_unsendable(error))
                )
        return entries, failed

    def _sendable(self, change: Change, now: float) -> Entry:
        facts = change.facts
        try:
            return self.entry(change, now)
        except ValidationError:
            if facts is None or facts.enabled:
                raise
        # who is disabled ends whatever else there is of them
        with suppress(ValidationError):
            bare = PersonFacts(sub=facts.sub, name=facts.name, enabled=False)
            return self.entry(replace(change, facts=bare), now)
        return self.entry(replace(change, facts=None), now)

    def answered(self, change: Change, results: Iterable[Result], now: float) -> bool:
        """Note what became of a change; say whether it failed for good.

        Args:
            change: What was sent.
            results: What the hub said of this person; one for each of their names.
            now: In seconds since 1970.
        """
        sub = change.sub
        waiting = self._waiting.get(sub)
        found = list(results)
        if not found or any(each.state == "failed" for each in found):
            if waiting is None or waiting.change is not change:
                return False
            waiting.failures += 1
            waiting.urgent = False
            if waiting.failures < _ATTEMPTS:
                return False
            del self._waiting[sub]
            return True
        if waiting is not None and waiting.change is change:
            del self._waiting[sub]
        if any(each.state == "ended" and each.servers for each in found):
            self.ending.setdefault(sub, now)
            self._last[sub] = change
            self._again[sub] = now + _AGAIN_SECONDS
        else:
            self.ending.pop(sub, None)
            self._again.pop(sub, None)
            self._last.pop(sub, None)
        return False

    def resume(self, change: Change) -> None:
        """Say how somebody stands whose servers were to be stopped before a restart."""
        if change.sub in self.ending:
            self._last.setdefault(change.sub, change)


def _unsendable(error: ValidationError) -> str:
    """Say which of a person's values the hub would not take, and what it would."""
    words = [
        f"{'.'.join(map(str, each['loc']))} is {shown(each['input'], 64)}: {each['msg'].lower()}"
        for each in error.errors(include_url=False)[:3]
    ]
    return f"what Keycloak has of them cannot be used: {'; '.join(words)}"
