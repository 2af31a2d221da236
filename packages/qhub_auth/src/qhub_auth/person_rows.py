"""Reading and changing the records of people in a transaction."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from qhub_auth.claiming import PERSON
from qhub_auth.database import Transaction, names, people
from qhub_auth.numbered import Person
from qhub_auth.numbering import name_key

__all__ = ["ARCHIVED", "change", "named", "of_subs", "person_of"]

ARCHIVED = "archived:"
"""How a home begins that is not in its place any more: no path does."""
_BATCH = 500


def person_of(row: sa.Row[tuple[object, ...]]) -> Person:
    """Return the record of a row."""
    home = "" if row.home.startswith(ARCHIVED) else row.home
    return Person(row.sub, row.name, row.uid, row.gid, home, row.retired is not None)


def of_subs(transaction: Transaction, subs: Iterable[str]) -> dict[str, Person]:
    """Return the records of these people by sub; who was never seen is left out."""
    found: dict[str, Person] = {}
    left = [sub for sub in subs if _askable(sub)]
    while left:
        part, left = left[:_BATCH], left[_BATCH:]
        rows = transaction.execute(sa.select(people).where(people.c.sub.in_(part)))
        found |= {row.sub: person_of(row) for row in rows}
    return found


def _askable(text: str) -> bool:
    """Whether every database can be asked for the text; what it cannot be is not in it."""
    try:
        return "\0" not in text and bool(text.encode())
    except UnicodeEncodeError:
        return False


def named(transaction: Transaction, name: str) -> Person | None:
    """Return whose name this is, or was; `None` if it is free."""
    if not _askable(name):
        return None
    query = (
        sa.select(people)
        .join(names, names.c.owner == people.c.sub)
        .where(names.c.kind == PERSON, names.c.name == name_key(name))
    )
    row = transaction.execute(query).first()
    return None if row is None else person_of(row)


def change(transaction: Transaction, person: Person, was: str | None = None) -> None:
    """Keep a record as it is now; `was` is its sub until now, if that is another."""
    values = {"sub": person.sub, "name": person.name, "uid": person.uid, "gid": person.gid}
    query = sa.update(people).where(people.c.sub == (was or person.sub))
    transaction.execute(query.values(**values, home=person.home, retired=None))
