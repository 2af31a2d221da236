"""Which workers go into one submission, and which ones a smaller cluster loses. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")


def batches(items: Sequence[T], most: int) -> list[Sequence[T]]:
    """Return `items` in as few parts as possible, each of at most `most`, none much smaller.

    >>> [len(part) for part in batches(range(10), 4)]
    [4, 3, 3]
    """
    if not items:
        return []
    parts = -(-len(items) // most)
    size, longer = divmod(len(items), parts)
    edges = [part * size + min(part, longer) for part in range(parts + 1)]
    return [items[begin:end] for begin, end in pairwise(edges)]


class Standing(IntEnum):
    """How far a worker is that has not joined its scheduler yet; the least is given up first."""

    CREATED = 0
    QUEUED = 1
    STARTING = 2


@dataclass(frozen=True, slots=True)
class Pending:
    """A worker that has not joined its scheduler; `number` grows with each new worker."""

    name: str
    number: int
    standing: Standing


def surplus(pending: Iterable[Pending], *, joined: int, wanted: int) -> list[str]:
    """Return the workers to give up so that `wanted` are left: exactly as many, none that works.

    Args:
        pending: Those that have not joined; of two that are equally far the newer one goes first.
        joined: How many have joined and stay. The scheduler itself retires those that are idle.
        wanted: How many the cluster shall have.
    """
    waiting = sorted(pending, key=lambda each: (each.standing, -each.number))
    return [each.name for each in waiting[: max(0, joined + len(waiting) - wanted)]]
