"""Taking numbers and names inside one transaction, so that nobody else has them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import sqlalchemy as sa

from qhub_auth.errors import NumberTakenError, RangeExhaustedError, shown
from qhub_auth.numbers.database import Transaction, groups, names, numbers, people, state
from qhub_auth.numbers.numbering import Interval, Ranges, first_free, gaps, name_key

__all__ = ["GID", "PERSON", "PRIMARY", "UID", "Claims", "Elsewhere", "Nowhere"]

UID, GID = "uid", "gid"
PERSON = "person"
PRIMARY = "primary"
"""The owner of a gid that is the primary group of people, and no group of Keycloak's."""


class Elsewhere(Protocol):
    """Who has numbers and names that are not in our database: this machine's own accounts."""

    def uid_holder(self, number: int) -> str | None:
        """Return the name of the account that has the number, or `None`."""

    def gid_holder(self, number: int) -> str | None:
        """Return the name of the group that has the number, or `None`."""

    def group_number(self, name: str) -> int | None:
        """Return the number of the group of that name, or `None`."""

    def has_account(self, name: str) -> bool:
        """Whether there is an account of that name."""


class Nowhere:
    """Nobody else gives numbers."""

    def uid_holder(self, _number: int) -> str | None:
        """Return `None`: nobody has it."""
        return None

    def gid_holder(self, _number: int) -> str | None:
        """Return `None`: nobody has it."""
        return None

    def group_number(self, _name: str) -> int | None:
        """Return `None`: there is none."""
        return None

    def has_account(self, _name: str) -> bool:
        """Return that there is none."""
        return False


@dataclass(frozen=True)
class Claims:
    """Takes numbers and names in a transaction that has the lock of all writers.

    Attributes:
        transaction: The transaction.
        ranges: What is reserved.
        elsewhere: Who else has numbers.
    """

    transaction: Transaction
    ranges: Ranges
    elsewhere: Elsewhere
    _counters: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def number(
        self, kind: str, number: int, owner: str, who: str, *, account: str | None = None
    ) -> None:
        """Take a number that an administrator gave `who`.

        Args:
            kind: :data:`UID` or :data:`GID`.
            number: The number; not reserved.
            owner: The sub or digest to note.
            who: For the error.
            account: The only account or group of this machine that may have it; without it, any.

        Raises:
            NumberTakenError: Somebody else has it, or had it.
        """
        found = self._owner(kind, number)
        if found == owner:
            return
        if found is not None and not (found == PRIMARY and _is_group(owner)):
            msg = (
                f"{who} cannot have the {kind} {number}: it is that of {self._words(found)}; "
                "a number is never given twice"
            )
            raise NumberTakenError(msg)
        if account is not None:
            holder = (self.elsewhere.uid_holder if kind == UID else self.elsewhere.gid_holder)(
                number
            )
        else:
            holder = None
        if holder not in {None, account}:
            msg = f"{who} cannot have the {kind} {number}: on this machine {shown(holder)} has it"
            raise NumberTakenError(msg)
        self._note(kind, number, owner, found)

    def primary(self, number: int, who: str) -> None:
        """Note a gid as the primary group of `who`, which others may share.

        Raises:
            NumberTakenError: It is the group that somebody else has for themselves.
        """
        found = self._owner(GID, number)
        if found is None:
            self._note(GID, number, PRIMARY, None)
        elif found != PRIMARY and not _is_group(found):
            msg = (
                f"{who} cannot have the gid {number}: it is the group that "
                f"{self._words(found)} has for themselves"
            )
            raise NumberTakenError(msg)

    def next_number(
        self,
        kind: str,
        interval: Interval,
        owner: str,
        *,
        also: Sequence[str] = (),
        avoid: int | None = None,
    ) -> int:
        """Take a number of the range that nobody has or had, here or on this machine.

        Args:
            kind: :data:`UID` or :data:`GID`.
            interval: The range.
            owner: The sub or digest to note.
            also: Other kinds in which the same number has to be free, and is taken.
            avoid: A number that is not to be given: it would mean something else.

        Raises:
            RangeExhaustedError: There is none.
        """
        kinds = (kind, *also)
        last = self._last(kind, interval)
        found = first_free(
            interval, self.ranges, lambda each: each == avoid or self._taken(kinds, each), last
        )
        if found is None and last is not None:
            found = self._left_out(kinds, interval, avoid)
        if found is None:
            setting = "uid_range" if kind == UID else "gid_range"
            msg = (
                f"all {kind} numbers of the range {interval} are given away: make it larger "
                f"(c.Identities.{setting})"
            )
            raise RangeExhaustedError(msg)
        row = {"number": found, "owner": owner, "since": int(time.time())}
        self.transaction.execute(sa.insert(numbers), [{"kind": each, **row} for each in kinds])
        self._counters[_counter(kind, interval)] = found
        return found

    def finish(self) -> None:
        """Note how far ranges are used, before the transaction ends; it only saves time later."""
        for counter, value in self._counters.items():
            query = sa.update(state).where(state.c.name == counter).values(value=str(value))
            if self.transaction.execute(query).rowcount == 0:
                known = sa.select(state.c.name).where(state.c.name == counter)
                if self.transaction.execute(known).first() is None:
                    self.transaction.execute(
                        sa.insert(state).values(name=counter, value=str(value))
                    )

    def _last(self, kind: str, interval: Interval) -> int | None:
        """Return the number of the range that was given last."""
        counter = _counter(kind, interval)
        if counter in self._counters:
            return self._counters[counter]
        query = sa.select(state.c.value).where(state.c.name == counter)
        text = self.transaction.execute(query).scalar()
        return int(text) if text else None

    def _taken(self, kinds: Sequence[str], number: int) -> bool:
        return self._anybody_has(kinds, number) or self._on_machine(number)

    def _on_machine(self, number: int) -> bool:
        holders = (self.elsewhere.uid_holder(number), self.elsewhere.gid_holder(number))
        return holders != (None, None)

    def _left_out(self, kinds: Sequence[str], interval: Interval, avoid: int | None) -> int | None:
        """Return a number of the range that was passed over once, with one question for all."""
        query = (
            sa.select(numbers.c.number)
            .where(numbers.c.kind.in_(kinds), numbers.c.number.between(*interval.ends))
            .distinct()
        )
        used = sorted(self.transaction.execute(query).scalars())
        found = (
            first_free(gap, self.ranges, lambda each: each == avoid or self._on_machine(each))
            for gap in gaps(interval, used)
        )
        return next((each for each in found if each is not None), None)

    def bind(self, kind: str, name: str, owner: str) -> None:
        """Note that a name, which is free, is the owner's."""
        self.transaction.execute(
            sa.insert(names).values(kind=kind, name=name_key(name), owner=owner)
        )

    def hand_over(self, owner: str, to: str) -> None:
        """Give all numbers and names of one owner to another."""
        for table in (numbers, names):
            query = sa.update(table).where(table.c.owner == owner).values(owner=to)
            self.transaction.execute(query)

    def _owner(self, kind: str, number: int) -> str | None:
        query = sa.select(numbers.c.owner).where(numbers.c.kind == kind, numbers.c.number == number)
        owner: str | None = self.transaction.execute(query).scalar()
        return owner

    def _anybody_has(self, kinds: Sequence[str], number: int) -> bool:
        query = sa.select(numbers.c.kind).where(
            numbers.c.number == number, numbers.c.kind.in_(kinds)
        )
        return self.transaction.execute(query).first() is not None

    def _note(self, kind: str, number: int, owner: str, known: str | None) -> None:
        if known is None:
            values = {"kind": kind, "number": number, "owner": owner, "since": int(time.time())}
            self.transaction.execute(sa.insert(numbers).values(**values))
        else:
            query = sa.update(numbers).where(numbers.c.kind == kind, numbers.c.number == number)
            self.transaction.execute(query.values(owner=owner))

    def _words(self, owner: str) -> str:
        """Say who has a number."""
        if owner == PRIMARY:
            return "the primary group of other people"
        person = self.transaction.execute(sa.select(people).where(people.c.sub == owner)).first()
        if person is not None:
            gone = " (who is gone)" if person.retired is not None else ""
            return f"{shown(person.name)}{gone}"
        group = self.transaction.execute(
            sa.select(groups.c.path).where(sa.literal("group:") + groups.c.digest == owner)
        ).first()
        return f"the group {shown(group.path)}" if group is not None else shown(owner)


def _counter(kind: str, interval: Interval) -> str:
    return f"last:{kind}:{interval}"


def _is_group(owner: str) -> bool:
    return owner.startswith("group:")
