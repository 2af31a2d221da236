"""Limits: what they allow, and what they say. That they hold: `test_gateway_limits_held`."""

from __future__ import annotations

from typing import Any

import pytest

from qhub_gateway.errors import LimitReachedError
from qhub_gateway.limits import Amount, Granted, Holder, Ledger, Limits, Scope

GIB = 2**30
SCHEDULER = Amount(cores=1000, memory=2 * GIB)
WORKER = Amount(cores=2000, memory=4 * GIB, gpus=1)
ALICE = Holder("alice", frozenset({"physics"}))
BOB = Holder("bob", frozenset({"physics", "lab"}))


def made(**limits: Any) -> Ledger:
    return Ledger(Limits.model_validate(limits))


def hold(ledger: Ledger, name: str, holder: Holder = ALICE, workers: int = 0) -> None:
    """Put a cluster on record, as the database has it."""
    ledger.adopt(name, holder, scheduler=SCHEDULER, worker=WORKER, workers=workers)


def admit(ledger: Ledger, holder: Holder = ALICE, *, now: float = 0.0) -> None:
    ledger.admit(holder, scheduler=SCHEDULER, now=now)


def refusal(ledger: Ledger, holder: Holder = ALICE, *, now: float = 0.0) -> str:
    before = ledger.uses(now)
    with pytest.raises(LimitReachedError) as caught:
        admit(ledger, holder, now=now)
    assert ledger.uses(now) == before
    return str(caught.value)


def used(ledger: Ledger, scope: Scope, resource: str, now: float = 0.0) -> float:
    return next(
        use.used for use in ledger.uses(now) if use.scope == scope and use.resource == resource
    )


def test_no_limits() -> None:
    """Where nothing is said everything is granted."""
    ledger = made()
    admit(ledger)
    hold(ledger, "one")
    assert ledger.room_for_workers("one", 10_000) == Granted(10_000)


def test_clusters_of_a_person() -> None:
    """A message names the limit, whose it is, what is in use and what was asked for."""
    ledger = made(user={"clusters": 2})
    hold(ledger, "one")
    admit(ledger)
    hold(ledger, "two")
    assert refusal(ledger) == (
        "The limit for alice is 2 clusters: you have 2 clusters in use, "
        "and you asked for 1 cluster more."
    )
    admit(ledger, BOB)


def test_group_and_everyone() -> None:
    """A group's limit is for its members together, and one is for everyone together."""
    ledger = made(groups={"physics": {"cores": 2}}, everyone={"clusters": 3})
    hold(ledger, "one")
    hold(ledger, "two", BOB)
    assert refusal(ledger, BOB) == (
        "The limit for the group physics is 2 cores: its members have 2 cores in use, "
        "and you asked for 1 core more."
    )
    carol = Holder("carol")
    admit(ledger, carol)
    hold(ledger, "three", carol)
    assert refusal(ledger, carol).startswith(
        "The limit for everyone together is 3 clusters: all people have 3 clusters in use"
    )


def test_as_many_workers_as_fit() -> None:
    """Of the workers asked for as many are granted as every limit allows, and it says which."""
    limits = {"user": {"workers": 10}, "groups": {"physics": {"memory": "23 GiB"}}}
    ledger = made(**limits)
    hold(ledger, "one")
    assert ledger.room_for_workers("one", 8) == Granted(
        5,
        "The limit for the group physics is 23 GiB of memory: its members have 2 GiB of memory in "
        "use, and you asked for 32 GiB of memory more.",
    )
    assert ledger.room_for_workers("one", 5) == Granted(5)
    ledger = made(**limits)
    hold(ledger, "one", workers=5)
    assert ledger.room_for_workers("one", 3).count == 0
    ledger = made(**limits)
    hold(ledger, "one", workers=3)
    assert ledger.room_for_workers("one", 8).count == 2
    with pytest.raises(KeyError):
        ledger.room_for_workers("two", 1)


def test_more_generous_for_some() -> None:
    """Members of a group may have more than others, of several groups the most; a name wins."""
    limits = Limits.model_validate(
        {
            "user": {"clusters": 1, "cores": 8, "gpus": 0},
            "members": {"physics": {"clusters": 3}, "lab": {"clusters": 5, "gpus": None}},
            "users": {"bob": {"cores": 64}},
        }
    )
    alice = limits.of_user("alice", {"physics"})
    assert (alice.clusters, str(alice.cores), alice.gpus) == (3, "8", 0)
    bob = limits.of_user("bob", BOB.groups)
    assert (bob.clusters, str(bob.cores), bob.gpus) == (5, "64", None)


def test_hours() -> None:
    """Cluster-hours add up while clusters run, what is past included, within the period."""
    ledger = made(user={"cluster_hours": 2}, hours_within="10h")
    ledger.adopt("one", ALICE, scheduler=SCHEDULER, worker=WORKER)
    ledger.adopt("two", ALICE, scheduler=SCHEDULER, worker=WORKER, began=0.0)
    assert used(ledger, Scope("user", "alice"), "cluster_hours", 3600.0) == 1.0
    assert ledger.exhausted(3600.0) == {}
    words = refusal(ledger, now=7200.0)
    assert words == (
        "The limit for alice is 2 cluster-hours in 10 h: you have used 2.0, and you asked for more."
    )
    assert ledger.exhausted(7200.0) == {"one": words, "two": words}
    ledger = made(user={"cluster_hours": 2}, hours_within="10h")
    ledger.remember(ALICE, 0.0, 7200.0)
    assert "2.0" in refusal(ledger, now=8 * 3600.0)
    admit(ledger, now=10 * 3600.0 + 60.0)
    admit(ledger, BOB, now=7200.0)


def test_what_is_there_counts() -> None:
    """What is there already is written down whatever the limits say, each cluster once."""
    ledger = made(user={"clusters": 1, "workers": 2, "cluster_hours": 1})
    for name in ("one", "two"):
        hold(ledger, name, workers=3)
    assert used(ledger, Scope("user", "alice"), "workers") == 6.0
    assert ledger.room_for_workers("one", 1).count == 0
    with pytest.raises(KeyError):
        hold(ledger, "one")
    ledger.remember(BOB, 0.0, 3600.0)
    assert "cluster-hours" in refusal(ledger, BOB, now=3600.0)


def limits_of(ledger: Ledger, user: str, asker: Holder | None = None) -> dict[str, float | None]:
    """Return what somebody is told of their own limits."""
    uses = ledger.uses(0.0, asker)
    return {use.resource: use.limit for use in uses if use.scope == Scope("user", user)}


def test_who_asks_is_told_of() -> None:
    """Somebody who has nothing learns what they may have, by the groups that they are in now."""
    ledger = made(
        user={"clusters": 1}, members={"lab": {"clusters": 5}, "physics": {"clusters": 3}}
    )
    assert limits_of(ledger, "alice") == {}
    assert limits_of(ledger, "alice", Holder("alice"))["clusters"] == 1
    assert limits_of(ledger, "alice", ALICE)["clusters"] == 3
    for name, groups in (("one", {"lab"}), ("two", {"physics"}), ("three", set())):
        hold(ledger, name, Holder("alice", frozenset(groups)))
    assert limits_of(ledger, "alice", ALICE)["clusters"] == 3
    assert limits_of(ledger, "alice")["clusters"] == 5, "of all clusters, in whatever order"
