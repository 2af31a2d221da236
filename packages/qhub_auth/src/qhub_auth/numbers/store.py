"""Numbers, names and homes that people and groups were given, kept for good.

Safe among threads, processes and machines. Every function blocks: call it by `asyncio.to_thread`
where there is an event loop.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import URL

from qhub_auth.errors import IdentityError
from qhub_auth.numbers.claiming import Claims, Elsewhere, Nowhere
from qhub_auth.numbers.database import Database, Transaction, numbers
from qhub_auth.numbers.groups import GroupRows
from qhub_auth.numbers.numbered import GroupNumbers, GroupWanted, Person, PersonWanted
from qhub_auth.numbers.numbering import Ranges
from qhub_auth.numbers.people import PersonRows
from qhub_auth.numbers.remembered import Remembered
from qhub_auth.numbers.rows import named

__all__ = [
    "GroupNumbers",
    "GroupWanted",
    "IdentityStore",
    "Imported",
    "Person",
    "PersonWanted",
]


@dataclass(frozen=True)
class Imported:
    """What became of an import.

    Attributes:
        people: By name, with what they have now; nobody if there are problems.
        groups: By key, likewise.
        new: Names and keys that were not known before.
        problems: Why nothing was imported.
    """

    people: dict[str, Person] = field(default_factory=dict)
    groups: dict[str, GroupNumbers] = field(default_factory=dict)
    new: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()


class _NotKeptError(Exception):
    """Ends a transaction without keeping anything of it."""


class IdentityStore(PersonRows, GroupRows, Remembered):
    """The numbers of people and groups, in a database. Safe to use from several threads.

    Every method raises :class:`IdentityUnavailableError` when the database does not answer.

    Args:
        url: Where it is, e.g. ``sqlite:////srv/hub/identity.sqlite``; nothing is opened yet.
        ranges: Where numbers are taken from.
        home: The home of somebody to whom nobody gave another; ``{name}`` stands for their name.
        elsewhere: Numbers and names that others gave away: those of this machine's own accounts.
        may_create: Whether the file of a database is made if there is none.
        log: For what administrators should know.
    """

    def __init__(
        self,
        url: str | URL,
        *,
        ranges: Ranges,
        home: str = "/home/{name}",
        elsewhere: Elsewhere | None = None,
        may_create: bool = True,
        log: logging.Logger | None = None,
    ) -> None:
        self.log = log or logging.getLogger(__name__)
        self.database = Database(url, may_create=may_create, log=self.log)
        self.ranges = ranges
        self.home = home
        self.elsewhere = elsewhere or Nowhere()

    def close(self) -> None:
        """Close all connections to the database."""
        self.database.close()

    def numbers_given(self, kind: Literal["uid", "gid"]) -> frozenset[int]:
        """Return all numbers of a kind that anybody has or had."""
        query = sa.select(numbers.c.number).where(numbers.c.kind == kind)
        with self.database.reading() as transaction:
            return frozenset(transaction.execute(query).scalars())

    def add_unclaimed(
        self,
        people: Iterable[PersonWanted],
        groups: Iterable[GroupWanted] = (),
        *,
        dry_run: bool = False,
    ) -> Imported:
        """Keep numbers for people whom Keycloak has not named yet, and for groups: all, or none.

        The first person of each name gets them; `sub` is not looked at. Who is known already, with
        the same numbers, stays as they are.

        Args:
            people: The people.
            groups: The groups; by the key ``path:/a/b`` they are for the group of that path.
            dry_run: Only find out what would become of it.
        """
        asked = (tuple(people), tuple(groups))
        done: list[Imported] = []

        def keep(transaction: Transaction) -> None:
            done[:] = [self._keep_all(transaction, *asked)]
            if dry_run or done[0].problems:
                raise _NotKeptError

        with contextlib.suppress(_NotKeptError):
            self.database.writing(keep)
        return done[0]

    def _keep_all(
        self,
        transaction: Transaction,
        people: tuple[PersonWanted, ...],
        groups: tuple[GroupWanted, ...],
    ) -> Imported:
        claims = Claims(transaction, self.ranges, self.elsewhere)
        found: dict[str, Person] = {}
        given: dict[str, GroupNumbers] = {}
        new: set[str] = set()
        problems: list[str] = []
        # First those who know what they want: nobody else is to be given just that number.
        for person in sorted(people, key=lambda each: each.uid is None):
            known = named(transaction, person.name) is not None
            try:
                with transaction.begin_nested():
                    found[person.name] = self._keep_unclaimed(claims, person)
            except IdentityError as error:
                problems.append(str(error))
            if not known:
                new.add(person.name)
        for group in sorted(groups, key=lambda each: each.gid is None):
            known = self.known_as(transaction, group) is not None
            try:
                with transaction.begin_nested():
                    given[group.key] = self._keep_group(claims, group)
            except IdentityError as error:
                problems.append(str(error))
            if not known:
                new.add(group.key)
        claims.finish()
        if problems:
            return Imported(problems=tuple(problems))
        return Imported(found, given, frozenset(new))
