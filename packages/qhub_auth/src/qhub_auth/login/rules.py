"""Who may come in, and who is an administrator. Pure."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

__all__ = ["Decision", "Rules", "decide"]

NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Rules:
    """Who is let in, who administers, and who is kept out whatever else holds.

    Users are the hub's names, groups full paths, roles those of the hub's client. A group stands
    for the groups below it as well, since their members are members of it.
    """

    allow_all: bool = False
    allowed_users: AbstractSet[str] = NONE
    allowed_groups: AbstractSet[str] = NONE
    allowed_roles: AbstractSet[str] = NONE
    admin_users: AbstractSet[str] = NONE
    admin_groups: AbstractSet[str] = NONE
    admin_roles: AbstractSet[str] = NONE
    blocked_users: AbstractSet[str] = NONE
    blocked_groups: AbstractSet[str] = NONE
    blocked_roles: AbstractSet[str] = NONE

    @property
    def let_somebody_in(self) -> bool:
        """Whether any rule could let anybody in."""
        kinds = ("users", "groups", "roles")
        named = [getattr(self, f"{kind}_{of}") for kind in ("allowed", "admin") for of in kinds]
        return self.allow_all or any(named)


@dataclass(frozen=True, slots=True)
class Decision:
    """What the rules say of one person.

    Attributes:
        allowed: Whether they may come in.
        admin: Whether they administer the hub; never of somebody who may not come in.
        reason: Which rule decided, for the log.
        blocked: Whether a rule keeps them out, whatever else would let them in.
    """

    allowed: bool
    admin: bool
    reason: str
    blocked: bool = False


def _first(
    kind: Literal["allowed", "admin", "blocked"],
    rules: Rules,
    name: str,
    groups: AbstractSet[str],
    roles: AbstractSet[str],
) -> str | None:
    """Return which rule of a kind holds for somebody, or `None`."""
    listed = ((f"{kind}_users", {name}), (f"{kind}_groups", groups), (f"{kind}_roles", roles))
    for setting, theirs in listed:
        found = sorted(getattr(rules, setting) & theirs)
        if found:
            return f"{setting} has {found[0]}"
    return None


def decide(
    rules: Rules, *, name: str, groups: AbstractSet[str], roles: AbstractSet[str]
) -> Decision:
    """Return whether somebody may come in, and whether as an administrator.

    Blocked goes before everything else, also before administrators and ``allow_all``; whoever
    administers is let in; and whom no rule names is not.

    Args:
        rules: What is configured.
        name: The hub's name of the person.
        groups: Full paths of their groups, those above them included.
        roles: Their roles of the hub's client.
    """
    blocked = _first("blocked", rules, name, groups, roles)
    if blocked:
        return Decision(allowed=False, admin=False, reason=blocked, blocked=True)
    admin = _first("admin", rules, name, groups, roles)
    if admin:
        return Decision(allowed=True, admin=True, reason=admin)
    allowed = "allow_all" if rules.allow_all else _first("allowed", rules, name, groups, roles)
    if allowed:
        return Decision(allowed=True, admin=False, reason=allowed)
    return Decision(allowed=False, admin=False, reason="no rule allows them")
