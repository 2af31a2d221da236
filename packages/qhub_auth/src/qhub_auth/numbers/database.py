"""The database that numbers, names and cursors are kept in: connections, tables, transactions.

One transaction that writes runs at a time, whatever the database: it first takes the lock of one
row (on SQLite, of the file). So what it read stays true until it has written, among threads,
processes and machines alike; primary keys stand behind that.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.dialects.mysql import MEDIUMTEXT
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import StaticPool

from qhub_auth.errors import ConfigurationError, IdentityError, IdentityUnavailableError, shown
from qhub_auth.numbers.addresses import file_of

__all__ = ["SCHEMA_VERSION", "Database", "Transaction"]

T = TypeVar("T")
Transaction = sa.Connection

SCHEMA_VERSION = 1
_DRIVERS = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
_CONNECT_SECONDS = 5
_STATEMENT_SECONDS = 30
# What servers say when one transaction has to make way for another: it is simply done again.
# MariaDB: 1205 lock wait timeout, 1213 deadlock; PostgreSQL: serialization, deadlock.
_AGAIN = frozenset({1205, 1213, "40001", "40P01"})
_ATTEMPTS = 5

# Without the collation two names that differ in case, or by an accent, would be one key.
_TEXTS: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}
metadata = sa.MetaData()


def _table(name: str, *columns: sa.Column[Any]) -> sa.Table:
    return sa.Table(f"qhub_identity_{name}", metadata, *columns, **_TEXTS)


def _key(name: str, length: int = 64) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), primary_key=True)


_STATE = sa.Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb")

state = _table("state", _key("name", 191), sa.Column("value", _STATE, nullable=False))
"""The version of the tables, the row that writers lock, and cursors."""

people = _table(
    "people",
    _key("sub", 255),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("uid", sa.BigInteger, nullable=False, unique=True),
    sa.Column("gid", sa.BigInteger, nullable=False),
    sa.Column("home", sa.String(255), nullable=False, unique=True),
    sa.Column("retired", sa.BigInteger),
)
"""One row for each person there ever was; `retired`: since when Keycloak does not know them."""

names = _table(
    "names",
    _key("kind", 16),
    _key("name", 255),
    sa.Column("owner", sa.String(255), nullable=False, index=True),
)
"""Names as :func:`numbering.name_key` has them; `owner`: a person's sub, a group's digest."""

numbers = _table(
    "numbers",
    _key("kind", 16),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("owner", sa.String(255), nullable=False, index=True),
    sa.Column("since", sa.BigInteger, nullable=False),
)
"""Every number that was ever given to somebody; no row is ever deleted."""

groups = _table(
    "groups",
    _key("digest"),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("folder", sa.Text, nullable=False),
    sa.Column("folder_digest", sa.String(64), nullable=False, unique=True),
    sa.Column("gid", sa.BigInteger, nullable=False, unique=True),
    sa.Column("unix_name", sa.String(64), nullable=False, unique=True),
    sa.Column("retired", sa.BigInteger),
)
"""One row for each group that ever had a number; `digest`: of its key."""

tokens = _table("tokens", _key("digest"), sa.Column("expires", sa.BigInteger, nullable=False))
"""Tokens that may be used once, and were."""

sessions = _table(
    "sessions",
    _key("digest"),
    _key("sub", 255),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("since", sa.BigInteger, nullable=False, index=True),
)
"""Who came in by which session of Keycloak."""


class Database:
    """A database, opened when it is first needed. Safe to use from several threads.

    Args:
        url: Where it is, as SQLAlchemy writes it, e.g. ``sqlite:////srv/hub/identity.sqlite``.
        may_create: Whether the file of an SQLite database is made if there is none.
        log: For what administrators should know.

    Raises:
        ConfigurationError: `url` is not one, or its driver is not installed.
    """

    def __init__(
        self, url: str | URL, *, may_create: bool = True, log: logging.Logger | None = None
    ) -> None:
        self.url = _with_driver(url)
        self._may_create = may_create
        self.log = log or logging.getLogger(__name__)
        self._opening = threading.RLock()
        self._one_at_a_time: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        self._ready = False

    @property
    def shown(self) -> str:
        """Where it is, without the password."""
        return self.url.set(password=None, query={}).render_as_string()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Transaction]:
        """Give a transaction that only reads.

        Raises:
            IdentityUnavailableError: The database does not answer.
        """
        with self._translated(), self._one_at_a_time:
            self._open()
            with self._engine.connect() as transaction:
                yield transaction

    def writing(self, work: Callable[[Transaction], T]) -> T:
        """Do `work` in a transaction beside which no other one writes; as a whole, or not at all.

        `work` is done again if the database asks for that.

        Raises:
            IdentityUnavailableError: The database does not answer.
        """
        return self._attempted(work, alone=True)

    def noting(self, work: Callable[[Transaction], T]) -> T:
        """Do `work` in a transaction that touches rows of its own only, without the lock."""
        return self._attempted(work, alone=False)

    def close(self) -> None:
        """Close all connections; the next use opens new ones."""
        if "_engine" in self.__dict__:
            self._engine.dispose()

    def _attempted(self, work: Callable[[Transaction], T], *, alone: bool) -> T:
        with self._translated(), self._one_at_a_time:
            self._open()
            for attempt in range(_ATTEMPTS):
                try:
                    with self._engine.connect().execution_options(writes=True) as transaction:
                        if alone:
                            transaction.execute(_LOCK)
                        done = work(transaction)
                        transaction.commit()
                        return done
                except exc.DBAPIError as error:
                    if attempt + 1 == _ATTEMPTS or not _worth_another_try(error):
                        raise
                    time.sleep(0.05 * 2**attempt)
        raise AssertionError

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (exc.SQLAlchemyError, OSError) as error:
            cause = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
            msg = (
                f"the database of numbers ({self.shown}) did not do what it was asked: "
                f"{shown(cause, 160)}; nobody gets a number until it does "
                "(c.Identities.database_url)"
            )
            raise IdentityUnavailableError(msg) from error

    @cached_property
    def _engine(self) -> sa.Engine:
        options: dict[str, Any] = {"pool_pre_ping": True}
        connect: dict[str, Any] = {}
        backend = self.url.get_backend_name()
        if backend == "sqlite":
            connect["timeout"] = _STATEMENT_SECONDS
            if _in_memory(self.url):
                options |= {"poolclass": StaticPool}
                connect["check_same_thread"] = False
                self._one_at_a_time = threading.RLock()
        elif backend == "postgresql":
            options["isolation_level"] = "READ COMMITTED"
            connect["connect_timeout"] = _CONNECT_SECONDS
            connect["options"] = f"-c statement_timeout={_STATEMENT_SECONDS * 1000}"
        else:
            # MariaDB's own default would read what was there before the lock was ours
            options["isolation_level"] = "READ COMMITTED"
            connect["connect_timeout"] = _CONNECT_SECONDS
            connect["read_timeout"] = connect["write_timeout"] = _STATEMENT_SECONDS
        engine = sa.create_engine(self.url, connect_args=connect, **options)
        if backend == "sqlite":
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
        return engine

    def check_there(self) -> None:
        """See that the file is there, where none is to be made.

        Raises:
            ConfigurationError: It is not.
        """
        path = file_of(self.url)
        if path is None or self._may_create or path.exists():
            return
        msg = (
            f"there is no database of numbers: no file {path} (c.Identities.database_url). The hub "
            "makes it when somebody first logs in, and so do qhub-identity sync and import; if it "
            "is elsewhere, name the hub's own settings file by --config"
        )
        raise ConfigurationError(msg)

    def _open(self) -> None:
        """Make the tables on first use, and check whose they are."""
        with self._opening:
            if self._ready:
                return
            self.check_there()
            if (path := file_of(self.url)) is not None:
                _make_private(str(path))
            for attempt in range(_ATTEMPTS):
                try:
                    with self._engine.connect() as transaction:
                        known = _has_tables(transaction)
                    if not known:
                        with self._engine.connect().execution_options(writes=True) as transaction:
                            _make_tables(transaction)
                    break
                except (exc.ProgrammingError, exc.IntegrityError, exc.OperationalError) as error:
                    # Another process makes them at this moment: "already exists".
                    if attempt + 1 == _ATTEMPTS or getattr(error, "connection_invalidated", False):
                        raise
                    time.sleep(0.05 * 2**attempt)
            self._ready = True


_LOCK = sa.select(state.c.value).where(state.c.name == "lock").with_for_update()
_VERSION = sa.select(state.c.value).where(state.c.name == "version")


def _has_tables(transaction: Transaction) -> bool:
    """Whether the tables are there, of our version.

    Raises:
        IdentityError: The tables are of a later version of this package.
    """
    known = sa.inspect(transaction).has_table(state.name)
    version = transaction.execute(_VERSION).scalar() if known else None
    if version not in {None, str(SCHEMA_VERSION)}:
        msg = (
            f"the tables of numbers are of version {shown(version)}, and this qhub-auth knows "
            f"version {SCHEMA_VERSION}: use the qhub-auth that wrote them, or a later one"
        )
        raise IdentityError(msg)
    return version is not None


def _make_tables(transaction: Transaction) -> None:
    """Make what is missing; fails where another process has just done so."""
    metadata.create_all(transaction)
    rows = {"version": str(SCHEMA_VERSION), "lock": ""}
    transaction.execute(
        sa.insert(state), [{"name": name, "value": value} for name, value in rows.items()]
    )
    transaction.commit()


def _with_driver(url: str | URL) -> URL:
    try:
        found = make_url(url)
        found = found.set(drivername=_DRIVERS.get(found.drivername, found.drivername))
    except exc.ArgumentError as error:
        # The value is not repeated: it may hold a password.
        msg = (
            "c.Identities.database_url: expected an address such as "
            "sqlite:////srv/jupyterhub/identity.sqlite, postgresql://hub@db.example.org/hub or "
            "mariadb://hub@db.example.org/hub"
        )
        raise ConfigurationError(msg) from error
    if found.get_backend_name() not in {"sqlite", "postgresql", "mysql", "mariadb"}:
        msg = (
            f"c.Identities.database_url: {shown(found.drivername)} is not supported; expected "
            "sqlite, postgresql or mariadb"
        )
        raise ConfigurationError(msg)
    try:
        found.get_dialect().import_dbapi()
    except ImportError as error:
        extra = "postgresql" if found.get_backend_name() == "postgresql" else "mariadb"
        driver = found.get_driver_name()
        msg = (
            f"c.Identities.database_url: {driver}, the driver for {extra}, is not installed; it "
            f"comes with the extra {extra!r} of qhub-auth: in a copy of its repository, "
            f"pip install './packages/qhub_auth[{extra}]'"
        )
        raise ConfigurationError(msg) from error
    return found


def _in_memory(url: URL) -> bool:
    return url.database in {None, "", ":memory:"}


def _make_private(path: str) -> None:
    """Make the file so that only we can read it, if there is none."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))


def _prepare_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - a driver's own
    connection.isolation_level = None  # transactions begin where we say, see below
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # In this mode the default may forget the last transactions when the power fails, and a number
    # that was given would be given again.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # One that writes says so at once: to become one later fails where another one wrote meanwhile.
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _worth_another_try(error: exc.DBAPIError) -> bool:
    if isinstance(error, exc.IntegrityError):
        return True  # somebody was faster at a row of its own
    cause = error.orig
    code = getattr(cause, "sqlstate", None) or next(iter(getattr(cause, "args", ())), None)
    return code in _AGAIN
