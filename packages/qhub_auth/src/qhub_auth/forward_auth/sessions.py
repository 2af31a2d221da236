"""Who has signed in: sessions in memory, and sealed in a file that outlives a restart.

The cookie holds only a session's identifier. So roles and groups may be many, what Keycloak says
anew holds at once for every tab, and a session that is ended is ended.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import sqlite3
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from qhub_auth.errors import ConfigurationError
from qhub_auth.forward_auth.cookies import Sealer
from qhub_auth.forward_auth.policy import Person

__all__ = ["Session", "Sessions", "new_id"]

PURGE_SECONDS = 300.0
# How long a session of Keycloak's that has ended is remembered: longer than access tokens last.
ENDED_SECONDS = 7200.0
MOST_ENDED = 100_000


def new_id() -> str:
    """Return an identifier that nobody can guess (256 bits)."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who has signed in with one browser.

    Attributes:
        id: What the cookie holds, sealed.
        person: Who it is, as Keycloak said it last.
        sid: Keycloak's own session; empty when it named none.
        started: When they signed in, in seconds since 1970.
        checked: When Keycloak said last that it goes on.
        refresh_token: Asks Keycloak again.
        id_token: Says to Keycloak whose session is to be ended.
    """

    id: str = field(repr=False)
    person: Person
    sid: str
    started: float
    checked: float
    refresh_token: str = field(repr=False)
    id_token: str = field(repr=False)

    def content(self) -> dict[str, Any]:
        """Return it as it can stand in JSON."""
        person = asdict(self.person)
        person["roles"], person["groups"] = sorted(person["roles"]), sorted(person["groups"])
        return {**asdict(self), "person": person}

    @classmethod
    def of(cls, content: dict[str, Any]) -> Session:
        """Return what :meth:`content` gave."""
        person = dict(content["person"])
        person["roles"], person["groups"] = frozenset(person["roles"]), frozenset(person["groups"])
        return cls(**{**content, "person": Person(**person)})


class Sessions:
    """All sessions. Not for several threads, and one file is for one process."""

    def __init__(
        self, path: str, sealer: Callable[[], Sealer], *, seconds: float, log: logging.Logger
    ) -> None:
        """Take up what is in the file.

        Args:
            path: A file of SQLite's, made when it is absent; empty for memory alone.
            sealer: Gives what seals now.
            seconds: How long a session may last in all.
            log: Told when sessions from before cannot be read.

        Raises:
            ConfigurationError: The file cannot be used.
        """
        self._sealer = sealer
        self.seconds = seconds
        self._log = log
        self._of_id: dict[str, Session] = {}
        self._ended: dict[str, float] = {}
        self._purged = 0.0
        self._database = self._opened(path) if path else None

    def _opened(self, path: str) -> sqlite3.Connection:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            database = sqlite3.connect(path, isolation_level=None)
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
            database.execute(
                "CREATE TABLE IF NOT EXISTS session (key TEXT PRIMARY KEY, sealed TEXT NOT NULL)"
            )
            rows = database.execute("SELECT key, sealed FROM session").fetchall()
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(f"c.ForwardAuth.sessions_file, {path}: {error}") from error
        lost = 0
        for key, sealed in rows:
            found = self._sealer().open("session", sealed, seconds=0, now=float("inf"))
            try:
                session = Session.of(found[0]) if found else None
            except (KeyError, TypeError):
                session = None
            if session is None:
                lost += 1
                database.execute("DELETE FROM session WHERE key = ?", (key,))
            else:
                self._of_id[session.id] = session
        if lost:
            self._log.warning(
                "%d sessions in %s could not be read with the keys there are; their people sign "
                "in again",
                lost,
                path,
            )
        return database

    def __len__(self) -> int:
        """How many there are."""
        return len(self._of_id)

    def get(self, session_id: str, *, now: float) -> Session | None:
        """Return a session that has not come to its end."""
        session = self._of_id.get(session_id)
        if session is None:
            return None
        if now - session.started >= self.seconds:
            self.remove(session_id)
            return None
        return session

    def add(self, session: Session, *, now: float) -> None:
        """Keep a new session."""
        if now - self._purged >= PURGE_SECONDS:
            self._purge(now)
        self._of_id[session.id] = session
        self._write(session, now=now)

    def renew(self, session: Session, *, now: float, **changes: Any) -> Session | None:  # noqa: ANN401 - fields of Session
        """Change a session; `None` if it has been ended meanwhile, which stays so."""
        if session.id not in self._of_id:
            return None
        session = self._of_id[session.id] = replace(session, **changes)
        self._write(session, now=now)
        return session

    def _write(self, session: Session, *, now: float) -> None:
        if self._database is None:
            return
        sealed = self._sealer().seal("session", session.content(), now=now)
        self._write_row(
            "INSERT OR REPLACE INTO session (key, sealed) VALUES (?, ?)", (_key(session.id), sealed)
        )

    def _write_row(self, statement: str, values: tuple[str, ...]) -> None:
        assert self._database is not None  # noqa: S101 - callers have looked
        try:
            self._database.execute(statement, values)
        except sqlite3.Error as error:
            # a full disk must not sign people out: the session lives in memory
            self._log.error("c.ForwardAuth.sessions_file cannot be written: %s", error)

    def remove(self, session_id: str) -> None:
        """End one."""
        self._of_id.pop(session_id, None)
        if self._database is not None:
            self._write_row("DELETE FROM session WHERE key = ?", (_key(session_id),))

    def end(self, *, now: float, sid: str = "", sub: str = "") -> int:
        """End all sessions of one session of Keycloak's, or (without `sid`) of one person.

        Returns:
            How many there were.
        """
        found = [
            session.id
            for session in self._of_id.values()
            if (session.sid == sid if sid else sub and session.person.sub == sub)
        ]
        for session_id in found:
            self.remove(session_id)
        self._ended[f"sid {sid}" if sid else f"sub {sub}"] = now
        while len(self._ended) > MOST_ENDED:
            self._ended.pop(next(iter(self._ended)))
        return len(found)

    def ended(self, *, sid: str, sub: str, issued: float) -> bool:
        """Whether what was issued for that session or person is from before they signed out."""
        when = max(self._ended.get(f"sid {sid}", 0.0), self._ended.get(f"sub {sub}", 0.0))
        return issued <= when

    def _purge(self, now: float) -> None:
        self._purged = now
        for session in list(self._of_id.values()):
            if now - session.started >= self.seconds:
                self.remove(session.id)
        for name in [each for each, when in self._ended.items() if now - when > ENDED_SECONDS]:
            del self._ended[name]

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            self._database.close()


def _key(session_id: str) -> str:
    return hashlib.sha256(session_id.encode()).hexdigest()
