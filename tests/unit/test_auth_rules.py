"""Who may come in: the whole table, and the order in which rules count."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from qhub_auth.directory import PersonFacts
from qhub_auth.login.rules import Rules, decide

ALICE = PersonFacts(
    sub="s", name="alice", groups=frozenset({"/physics/team-a"}), roles=frozenset({"user"})
)


def decided(**rules: Any) -> tuple[bool, bool]:
    found = decide(Rules(**rules), name="alice", groups=ALICE.all_groups, roles=ALICE.roles)
    assert found.reason
    return found.allowed, found.admin


# rule, who is named by it, does it hold for alice
HOLDS = [
    ("users", {"alice"}, True),
    ("users", {"bob"}, False),
    ("users", {"Alice"}, False),
    ("groups", {"/physics/team-a"}, True),
    ("groups", {"/physics"}, True),
    ("groups", {"/"}, False),
    ("groups", {"/physics/team-b"}, False),
    ("groups", {"/physics/team-a/readers"}, False),
    ("groups", {"/physic"}, False),
    ("groups", {"/team-a"}, False),
    ("roles", {"user"}, True),
    ("roles", {"User"}, False),
    ("roles", {"admin"}, False),
]


@pytest.mark.parametrize(("by", "named", "holds"), HOLDS)
def test_each_rule_alone(by: str, named: set[str], holds: bool) -> None:
    """By name, by group with the groups above it, by role; exact in every letter."""
    assert decided(**{f"allowed_{by}": named}) == (holds, False)
    assert decided(**{f"admin_{by}": named}) == (holds, holds)
    assert decided(**{f"blocked_{by}": named}, allow_all=True) == (not holds, False)


KINDS = list(itertools.product(("users", "groups", "roles"), repeat=2))
SELF = {"users": {"alice"}, "groups": {"/physics"}, "roles": {"user"}}


@pytest.mark.parametrize(("out", "by"), KINDS)
def test_blocked_goes_before_everything(out: str, by: str) -> None:
    """Whoever is blocked stays out, as an administrator too, and with allow_all."""
    for allow_all in (False, True):
        rules = {f"blocked_{out}": SELF[out], f"admin_{by}": SELF[by], f"allowed_{by}": SELF[by]}
        assert decided(**rules, allow_all=allow_all) == (False, False)


@pytest.mark.parametrize("by", list(SELF))
def test_who_administers_is_let_in(by: str) -> None:
    """No other rule has to name them."""
    assert decided(**{f"admin_{by}": SELF[by]}, allowed_users={"bob"}) == (True, True)


def test_nobody_is_let_in_by_default() -> None:
    """No rule, no entry."""
    assert decided() == (False, False)
    assert decide(Rules(), name="", groups=frozenset(), roles=frozenset()).allowed is False


def test_allow_all_makes_nobody_an_administrator() -> None:
    """It is about coming in."""
    assert decided(allow_all=True) == (True, False)


def test_somebody_without_groups_or_roles() -> None:
    """Empty sets match nothing."""
    rules = Rules(allowed_groups={"/physics"}, allowed_roles={"user"})
    assert not decide(rules, name="x", groups=frozenset(), roles=frozenset()).allowed
