"""Limits: what they allow, what they say, and that no number of requests at once passes them."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from qhub_gateway.errors import LimitReachedError
from qhub_gateway.limits import RESOURCES, Amount, Holder, Ledger, Limits, Scope

GIB = 2**30
SCHEDULER = Amount(cores=1000, memory=2 * GIB)
WORKER = Amount(cores=2000, memory=4 * GIB, gpus=1)
ALICE = Holder("alice", frozenset({"physics"}))
BOB = Holder("bob", frozenset({"physics", "lab"}))


def made(**limits: Any) -> Ledger:
    return Ledger(Limits.model_validate(limits))


def start(ledger: Ledger, name: str, holder: Holder = ALICE, *, now: float = 0.0) -> None:
    ledger.reserve_cluster(name, holder, scheduler=SCHEDULER, worker=WORKER, now=now)


def refusal(ledger: Ledger, name: str, holder: Holder = ALICE, *, now: float = 0.0) -> str:
    before = ledger.uses(now)
    with pytest.raises(LimitReachedError) as caught:
        start(ledger, name, holder, now=now)
    assert ledger.uses(now) == before
    return str(caught.value)


def used(ledger: Ledger, scope: Scope, resource: str, now: float = 0.0) -> float:
    return next(
        use.used for use in ledger.uses(now) if use.scope == scope and use.resource == resource
    )


def test_no_limits() -> None:
    """Where nothing is said everything is granted."""
    ledger = made()
    start(ledger, "one")
    assert ledger.reserve_workers("one", 10_000).count == 10_000


def test_clusters_of_a_person() -> None:
    """A message names the limit, whose it is, what is in use and what was asked for."""
    ledger = made(user={"clusters": 2})
    start(ledger, "one")
    start(ledger, "two")
    assert refusal(ledger, "three") == (
        "The limit for alice is 2 clusters: you have 2 clusters in use, "
        "and you asked for 1 cluster more."
    )
    start(ledger, "bobs", BOB)
    ledger.release_cluster("one", 1.0)
    start(ledger, "three")


def test_group_and_everyone() -> None:
    """A group's limit is for its members together, and one is for everyone together."""
    ledger = made(groups={"physics": {"cores": 2}}, everyone={"clusters": 3})
    start(ledger, "one")
    start(ledger, "two", BOB)
    assert refusal(ledger, "three", BOB) == (
        "The limit for the group physics is 2 cores: its members have 2 cores in use, "
        "and you asked for 1 core more."
    )
    carol = Holder("carol")
    start(ledger, "three", carol)
    assert refusal(ledger, "four", carol).startswith(
        "The limit for everyone together is 3 clusters: all people have 3 clusters in use"
    )


def test_as_many_workers_as_fit() -> None:
    """Of the workers asked for as many are granted as every limit allows, and it says which."""
    ledger = made(user={"workers": 10}, groups={"physics": {"memory": "23 GiB"}})
    start(ledger, "one")
    granted = ledger.reserve_workers("one", 8)
    assert granted.count == 5
    assert granted.words == (
        "The limit for the group physics is 23 GiB of memory: its members have 2 GiB of memory in "
        "use, and you asked for 32 GiB of memory more."
    )
    assert ledger.room_for_workers("one", 3).count == 0
    ledger.release_workers("one", 2)
    assert ledger.reserve_workers("one", 8).count == 2
    assert ledger.workers_of("one") == 5


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
    start(ledger, "one")
    assert used(ledger, Scope("user", "alice"), "cluster_hours", 3600.0) == 0.0
    ledger.began("one", 0.0)
    ledger.began("one", 1800.0)
    assert used(ledger, Scope("user", "alice"), "cluster_hours", 3600.0) == 1.0
    assert ledger.exhausted(3600.0) == {}
    words = refusal(ledger, "two", now=7200.0)
    assert words == (
        "The limit for alice is 2 cluster-hours in 10 h: you have used 2.0, and you asked for more."
    )
    assert ledger.exhausted(7200.0) == {"one": words}
    ledger.release_cluster("one", 7200.0)
    assert "2.0" in refusal(ledger, "two", now=8 * 3600.0)
    start(ledger, "two", now=10 * 3600.0 + 60.0)


def test_after_a_restart() -> None:
    """What is there already is written down whatever the limits say, and the past counts."""
    ledger = made(user={"clusters": 1, "workers": 2, "cluster_hours": 1})
    for name in ("one", "two"):
        ledger.adopt(name, ALICE, scheduler=SCHEDULER, worker=WORKER, workers=3, began=0.0)
    assert used(ledger, Scope("user", "alice"), "workers") == 6.0
    assert ledger.reserve_workers("one", 1).count == 0
    ledger.remember(BOB, 0.0, 3600.0)
    assert "cluster-hours" in refusal(ledger, "bobs", BOB, now=3600.0)


def test_giving_back_is_never_too_much() -> None:
    """To give back what is not held, or again, changes nothing; a name is held once."""
    ledger = made(everyone={"clusters": 5})
    start(ledger, "one")
    with pytest.raises(KeyError):
        start(ledger, "one")
    with pytest.raises(KeyError):
        ledger.reserve_workers("two", 1)
    ledger.reserve_workers("one", 2)
    ledger.release_workers("one", 5)
    ledger.release_workers("two", 5)
    ledger.release_cluster("one", 1.0)
    ledger.release_cluster("one", 2.0)
    assert ledger.workers_of("one") == 0
    assert {use.used for use in ledger.uses(2.0)} == {0.0}


LIMITS = Limits.model_validate(
    {
        "user": {"clusters": 3, "workers": 7, "cores": 12},
        "members": {"lab": {"cores": 20}},
        "groups": {"physics": {"memory": "40 GiB", "workers": 9}, "lab": {"gpus": 4}},
        "everyone": {"clusters": 5, "cores": 30, "memory": "60 GiB"},
    }
)
HOLDERS = [ALICE, BOB, Holder("carol", frozenset({"lab"})), Holder("dave")]
AMOUNTS = st.builds(
    Amount,
    cores=st.integers(1, 6000),
    memory=st.integers(1, 10 * GIB),
    gpus=st.integers(0, 2),
)


class Ledgers(RuleBasedStateMachine):
    """Anything people do, in any order: no limit is passed, and nothing is lost or kept."""

    @initialize()
    def begin(self) -> None:
        self.ledger = Ledger(LIMITS)
        self.held: dict[str, tuple[Holder, Amount, Amount, int]] = {}
        self.number = 0

    @rule(holder=st.sampled_from(HOLDERS), scheduler=AMOUNTS, worker=AMOUNTS)
    def make(self, holder: Holder, scheduler: Amount, worker: Amount) -> None:
        self.number += 1
        name = str(self.number)
        try:
            self.ledger.reserve_cluster(
                name, holder, scheduler=scheduler, worker=worker, now=float(self.number)
            )
        except LimitReachedError:
            return
        self.held[name] = (holder, scheduler, worker, 0)

    @rule(choice=st.randoms(use_true_random=False), wanted=st.integers(0, 12))
    def scale_up(self, choice: Any, wanted: int) -> None:
        if self.held:
            name = choice.choice(sorted(self.held))
            holder, scheduler, worker, workers = self.held[name]
            foreseen = self.ledger.room_for_workers(name, wanted)
            granted = self.ledger.reserve_workers(name, wanted)
            assert granted == foreseen
            assert (granted.words is None) == (granted.count == wanted)
            self.held[name] = (holder, scheduler, worker, workers + granted.count)
            if granted.count < wanted:
                assert self.ledger.reserve_workers(name, 1).count == 0

    @rule(choice=st.randoms(use_true_random=False), count=st.integers(0, 12))
    def scale_down(self, choice: Any, count: int) -> None:
        if self.held:
            name = choice.choice(sorted(self.held))
            holder, scheduler, worker, workers = self.held[name]
            self.ledger.release_workers(name, count)
            self.held[name] = (holder, scheduler, worker, max(0, workers - count))

    @rule(choice=st.randoms(use_true_random=False))
    def stop(self, choice: Any) -> None:
        if self.held:
            name = choice.choice(sorted(self.held))
            self.ledger.release_cluster(name, float(self.number))
            del self.held[name]

    @invariant()
    def holds(self) -> None:
        expected: dict[tuple[Scope, str], float] = {}
        for holder, scheduler, worker, workers in self.held.values():
            taken = {
                resource: getattr(scheduler, resource) + workers * getattr(worker, resource)
                for resource in RESOURCES
            } | {"clusters": 1, "workers": workers}
            scopes = [Scope("user", holder.user), Scope("everyone")]
            scopes += [Scope("group", group) for group in holder.groups]
            for scope in scopes:
                for resource, amount in taken.items():
                    key = (scope, resource)
                    expected[key] = expected.get(key, 0) + amount
        for use in self.ledger.uses(0.0):
            if use.resource == "cluster_hours":
                continue
            worth = 1000 if use.resource == "cores" else 1
            assert round(use.used * worth) == expected.get((use.scope, use.resource), 0)
            assert use.limit is None or use.used <= use.limit


TestLedgers = Ledgers.TestCase
TestLedgers.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_many_at_once() -> None:
    """Requests from many threads at once take exactly what there is."""
    ledger = made(user={"clusters": 4}, everyone={"workers": 50})
    gate = threading.Barrier(16)
    begun: list[str] = []
    granted: list[int] = []

    def ask(number: int) -> None:
        gate.wait(timeout=30)
        try:
            start(ledger, str(number))
        except LimitReachedError:
            return
        begun.append(str(number))
        granted.extend(ledger.reserve_workers(str(number), 3).count for _ in range(10))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(begun) == 4
    assert sum(granted) == 50
