"""What is kept beside numbers: cursors, tokens that were used, sessions of Keycloak."""

from __future__ import annotations

import hashlib
import time
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import exc

from qhub_auth.numbers.database import Database, Transaction, sessions, state, tokens

__all__ = ["Remembered"]

_SESSION_SECONDS = 100 * 24 * 3600
"""How long a session is remembered: longer than Keycloak keeps one in any usual realm."""


class Remembered:
    """The part of the store that is not about numbers."""

    database: Database

    def cursor(self, name: str) -> str | None:
        """Return how far a reader had come; `None` if it has not begun."""
        query = sa.select(state.c.value).where(state.c.name == f"cursor:{name}")
        with self.database.reading() as transaction:
            value: str | None = transaction.execute(query).scalar()
            return value

    def set_cursor(self, name: str, value: str) -> None:
        """Note how far a reader has come."""

        def note(transaction: Transaction) -> None:
            mine = state.c.name == f"cursor:{name}"
            if transaction.execute(sa.select(state.c.name).where(mine)).first() is None:
                transaction.execute(sa.insert(state).values(name=f"cursor:{name}", value=value))
            else:
                transaction.execute(sa.update(state).where(mine).values(value=value))

        self.database.noting(note)

    def first_use(self, token_id: str, expires: datetime) -> bool:
        """Note that a token was used; says whether it is the first time.

        Args:
            token_id: Its ``jti``.
            expires: When nobody takes it any more, with its time zone; then it is forgotten.
        """
        row = {"digest": _digest(token_id), "expires": int(expires.timestamp()) + 1}

        def note(transaction: Transaction) -> bool:
            known = sa.select(tokens.c.digest).where(tokens.c.digest == row["digest"])
            if transaction.execute(known).first() is not None:
                return False
            try:
                with transaction.begin_nested():
                    transaction.execute(sa.insert(tokens).values(**row))
            except exc.IntegrityError:
                return False  # another process was faster
            return True

        first = self.database.noting(note)
        if first:
            old = sa.delete(tokens).where(tokens.c.expires < int(time.time()))
            self.database.noting(lambda transaction: transaction.execute(old))
        return first

    def remember_session(self, sid: str, sub: str, name: str) -> None:
        """Note that a person came in by a session of Keycloak.

        Args:
            sid: The session, as Keycloak's tokens name it.
            sub: Who they are in Keycloak.
            name: Their name at the hub.
        """
        row = {"digest": _digest(sid), "sub": sub}
        rest = {"name": name, "since": int(time.time())}

        def note(transaction: Transaction) -> None:
            mine = sa.and_(sessions.c.digest == row["digest"], sessions.c.sub == sub)
            if transaction.execute(sa.update(sessions).where(mine).values(**rest)).rowcount == 0:
                found = transaction.execute(sa.select(sessions.c.name).where(mine)).first()
                if found is None:
                    transaction.execute(sa.insert(sessions).values(**row, **rest))
            old = sessions.c.since < int(time.time()) - _SESSION_SECONDS
            transaction.execute(sa.delete(sessions).where(old))

        self.database.noting(note)

    def names_of_session(self, sid: str) -> tuple[str, ...]:
        """Return the names at the hub of those who came in by a session, in order."""
        query = sa.select(sessions.c.name).where(sessions.c.digest == _digest(sid)).distinct()
        with self.database.reading() as transaction:
            return tuple(sorted(transaction.execute(query).scalars()))

    def forget_session(self, sid: str) -> None:
        """Forget a session that has ended."""
        query = sa.delete(sessions).where(sessions.c.digest == _digest(sid))
        self.database.noting(lambda transaction: transaction.execute(query))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
