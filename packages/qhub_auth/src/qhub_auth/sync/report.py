"""What the sync service says to people and to monitoring. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qhub_auth.sync.bodies import Result
from qhub_auth.sync.reconciling import Held

__all__ = ["Report", "metrics", "shown_status"]


@dataclass
class Report:
    """What would change.

    Attributes:
        results: What would become of each person to whom something would happen.
        people: How many people Keycloak has.
        groups: How many groups it has.
        users: How many users the hub has.
        unknown: How many of those Keycloak says nothing of: they never logged in by it.
        held: What would be held back.
    """

    results: list[Result] = field(default_factory=list)
    people: int = 0
    groups: int = 0
    users: int = 0
    unknown: int = 0
    held: Held | None = None

    def add(self, result: Result) -> None:
        """Note what would become of somebody."""
        if result.state not in {"unchanged", "unknown"}:
            self.results.append(result)

    def json(self) -> str:
        """Return it as JSON."""
        return json.dumps(
            {
                "people": self.people,
                "groups": self.groups,
                "hub_users": self.users,
                "unknown_to_keycloak": self.unknown,
                "held": None if self.held is None else {"id": self.held.id, "what": str(self.held)},
                "changes": [
                    {
                        "name": each.name,
                        "sub": each.sub,
                        "becomes": each.state,
                        "lost": each.lost,
                        "gained": each.gained,
                        "why": each.why,
                    }
                    for each in self.results
                ],
            },
            indent=2,
        )

    def text(self) -> str:
        """Return it as text."""
        first = (
            f"Keycloak: {self.people} people, {self.groups} groups. The hub: {self.users} users, "
            f"of {self.unknown} of whom Keycloak says nothing."
        )
        lines = [first]
        for each in self.results:
            if each.state == "ended":
                what = f"may not go on: {each.why}"
            elif each.state == "failed":
                what = f"cannot be changed: {each.why}"
            else:
                signs = [f"-{name}" for name in each.lost] + [f"+{name}" for name in each.gained]
                what = " ".join(signs) or "numbers, folders or administrator"
            lines.append(f"  {each.name}: {what}")
        if not self.results:
            lines.append("Nothing would change.")
        if self.held is not None:
            lines.append(f"Held back: {self.held} (qhub-group-sync confirm {self.held.id})")
        return "\n".join(lines)


def shown_status(status: Mapping[str, Any], held: Mapping[str, Any] | None, now: float) -> str:
    """Return how the service is, for people."""
    if not status:
        return "The service has not run yet, or not with this database and realm."
    lines = [f"last heard of {now - status.get('at', 0):.0f} s ago, process {status.get('pid')}"]
    success = status.get("last_success") or 0
    lines.append(
        f"all that Keycloak said was done {now - success:.0f} s ago" if success else "nothing done"
    )
    full = status.get("last_full") or 0
    if full:
        lines.append(
            f"everything was compared {now - full:.0f} s ago, "
            f"in {status.get('full_seconds', 0):.1f} s: {status.get('people')} people, "
            f"{status.get('groups')} groups, "
            f"{status.get('users')} users of the hub"
        )
    lines.append(f"{status.get('waiting', 0)} people wait to be changed at the hub")
    for name, where in (("keycloak", "Keycloak"), ("hub", "the hub")):
        if status.get(name):
            lines.append(f"trouble with {where}: {status[name]}")
    if status.get("events_kept") is False:
        lines.append("Keycloak keeps no admin events: changes are seen late")
    if held:
        lines.append(
            f"held back: {held['what']}; if it is meant: qhub-group-sync confirm {held['id']}"
        )
    return "\n".join(lines)


def metrics(status: Mapping[str, Any], held: Mapping[str, Any] | None, now: float) -> str:
    """Return how the service is in Prometheus' text format."""
    success, full = status.get("last_success") or 0, status.get("last_full") or 0
    rows = [
        ("last_success_age_seconds", "gauge", now - success if success else float("nan")),
        ("last_full_age_seconds", "gauge", now - full if full else float("nan")),
        ("full_seconds", "gauge", status.get("full_seconds", 0)),
        ("waiting_people", "gauge", status.get("waiting", 0)),
        ("held", "gauge", 1 if held else 0),
        ("keycloak_up", "gauge", 0 if status.get("keycloak") or not status else 1),
        ("hub_up", "gauge", 0 if status.get("hub") or not status else 1),
        ("keycloak_calls_total", "counter", status.get("keycloak_calls", 0)),
        ("hub_calls_total", "counter", status.get("hub_calls", 0)),
    ]
    lines = []
    for name, kind, value in rows:
        lines += [f"# TYPE qhub_group_sync_{name} {kind}", f"qhub_group_sync_{name} {value}"]
    lines.append("# TYPE qhub_group_sync_people_total counter")
    for state, number in sorted((status.get("counts") or {}).items()):
        lines.append(f'qhub_group_sync_people_total{{state="{state}"}} {number}')
    return "\n".join(lines) + "\n"
