"""Which workers are submitted together, and which ones a smaller cluster loses."""

from __future__ import annotations

import doctest

from hypothesis import given
from hypothesis import strategies as st

from qhub_gateway import batching
from qhub_gateway.batching import Pending, Standing, batches, surplus

PENDING = st.lists(
    st.builds(
        Pending,
        name=st.uuids().map(str),
        number=st.integers(1, 10_000),
        standing=st.sampled_from(Standing),
    ),
    unique_by=(lambda each: each.name, lambda each: each.number),
)


def test_examples() -> None:
    """Examples in docstrings are true."""
    assert doctest.testmod(batching).failed == 0


@given(st.lists(st.integers()), st.integers(1, 50))
def test_batches(items: list[int], most: int) -> None:
    """Everything once, in order, in as few parts as possible, all about as large."""
    parts = batches(items, most)
    assert [item for part in parts for item in part] == items
    assert len(parts) == -(-len(items) // most)
    sizes = {len(part) for part in parts}
    assert not sizes or max(sizes) <= most
    assert not sizes or max(sizes) - min(sizes) <= 1


@given(PENDING, st.integers(0, 50), st.integers(0, 100))
def test_exactly_as_many(pending: list[Pending], joined: int, wanted: int) -> None:
    """What is left is what is wanted, as far as those that have not joined can give it."""
    names = surplus(pending, joined=joined, wanted=wanted)
    assert len(set(names)) == len(names)
    left = joined + len(pending) - len(names)
    assert left == max(min(wanted, joined + len(pending)), joined)


@given(PENDING, st.integers(0, 50))
def test_the_least_far_go_first(pending: list[Pending], wanted: int) -> None:
    """Nobody is given up while somebody is kept who is less far, or as far and newer."""
    names = set(surplus(pending, joined=0, wanted=wanted))
    rank = {each.name: (each.standing, -each.number) for each in pending}
    given_up = [rank[each.name] for each in pending if each.name in names]
    kept = [rank[each.name] for each in pending if each.name not in names]
    assert not given_up or not kept or max(given_up) < min(kept)


def test_one_of_ten() -> None:
    """One less of ten that wait is the newest one, and no other."""
    pending = [Pending(str(number), number, Standing.QUEUED) for number in range(10)]
    assert surplus(pending, joined=0, wanted=9) == ["9"]
