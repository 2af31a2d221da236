"""The hub's own tables of users, groups and roles, as the sync needs them.

Lists are read by column, not as objects: 10,000 users are a list, not 10,000 times three queries.
Tables and relations are those of JupyterHub 6.1 (``jupyterhub.orm``).
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from jupyterhub import orm
from jupyterhub.roles import create_role
from sqlalchemy.orm import lazyload, selectinload

from qhub_auth.sync_bodies import Listed

__all__ = ["HubGroups", "HubRoles", "Row", "fingerprint", "names_there", "page_of", "users_named"]

_AT_ONCE = 500
# Of a group only itself: what it is shared, and its roles, nobody asks for here.
_ALONE = (lazyload(orm.Group.roles), lazyload(orm.Group.shared_with_me))
_user_roles = orm.Base.metadata.tables["user_role_map"]


@dataclass(frozen=True, slots=True)
class Row:
    """A user as the hub's database has them."""

    name: str
    admin: bool
    groups: tuple[str, ...]
    roles: tuple[str, ...]
    encrypted_auth_state: bytes | None

    @classmethod
    def of(cls, user: Any) -> Row:  # noqa: ANN401 - a row of JupyterHub's
        """Return a user that is loaded as an object."""
        return cls(
            name=user.name,
            admin=bool(user.admin),
            groups=tuple(sorted(group.name for group in user.groups)),
            roles=tuple(sorted(role.name for role in user.roles)),
            encrypted_auth_state=user.encrypted_auth_state,
        )

    def listed(self, sub: str | None, digest: str) -> Listed:
        """Return it as the service gets it."""
        return Listed(
            name=self.name,
            sub=sub,
            admin=self.admin,
            groups=self.groups,
            roles=self.roles,
            digest=digest,
        )


def fingerprint(row: Row) -> int:
    """Return what stands for all that a sync sets; another one, and somebody else changed it."""
    text = "\0".join((str(row.admin), *row.groups, "", *row.roles))
    return zlib.crc32(row.encrypted_auth_state or b"", zlib.crc32(text.encode()))


def page_of(db: Any, after: str, limit: int) -> list[Row]:  # noqa: ANN401 - a session of SQLAlchemy
    """Return users by name, at most `limit` of those after a name, by three queries.

    Args:
        db: The hub's database.
        after: The last name before them.
        limit: Most of them.
    """
    users = db.execute(
        sa.select(orm.User.id, orm.User.name, orm.User.admin, orm.User.encrypted_auth_state)
        .where(orm.User.name > after)
        .order_by(orm.User.name)
        .limit(limit)
    ).all()
    if not users:
        return []
    ids = [user.id for user in users]
    groups = _names_of(db, orm.user_group_map, orm.Group, ids)
    roles = _names_of(db, _user_roles, orm.Role, ids)
    return [
        Row(
            user.name,
            bool(user.admin),
            tuple(sorted(groups[user.id])),
            tuple(sorted(roles[user.id])),
            user.encrypted_auth_state,
        )
        for user in users
    ]


def _names_of(db: Any, table: Any, kind: Any, ids: Sequence[int]) -> Mapping[int, list[str]]:  # noqa: ANN401 - JupyterHub's tables
    other = table.c.group_id if kind is orm.Group else table.c.role_id
    found: dict[int, list[str]] = defaultdict(list)
    for start in range(0, len(ids), _AT_ONCE):
        query = (
            sa.select(table.c.user_id, kind.name)
            .join(kind, kind.id == other)
            .where(table.c.user_id.in_(ids[start : start + _AT_ONCE]))
        )
        for user_id, name in db.execute(query):
            found[user_id].append(name)
    return found


def names_there(db: Any, names: Iterable[str]) -> set[str]:  # noqa: ANN401 - a session of SQLAlchemy
    """Return those of some names by which the hub has a user."""
    wanted = list(names)
    found: set[str] = set()
    for start in range(0, len(wanted), _AT_ONCE):
        part = wanted[start : start + _AT_ONCE]
        found |= set(db.execute(sa.select(orm.User.name).where(orm.User.name.in_(part))).scalars())
    return found


def users_named(db: Any, names: Sequence[str]) -> dict[str, Any]:  # noqa: ANN401 - a session of SQLAlchemy
    """Return users as objects, groups and roles loaded with them and nothing beyond, by name."""
    query = (
        sa.select(orm.User)
        .where(orm.User.name.in_(names))
        .options(
            selectinload(orm.User.groups).options(*_ALONE),
            selectinload(orm.User.roles),
        )
    )
    with db.no_autoflush:
        return {user.name: user for user in db.execute(query).scalars()}


class HubGroups:
    """The hub's groups, each looked for once.

    Args:
        db: The hub's database.
    """

    def __init__(self, db: Any) -> None:  # noqa: ANN401 - a session of SQLAlchemy
        self._db = db
        self._known: dict[str, Any] = {}

    def learn(self, names: Iterable[str]) -> None:
        """Look for groups that will be asked for, all at once."""
        with self._db.no_autoflush:
            self._find([name for name in names if name not in self._known])

    def named(self, names: Iterable[str]) -> list[Any]:
        """Return groups by name; those that are missing are made."""
        wanted = list(names)
        unknown = [name for name in wanted if name not in self._known]
        if unknown:
            self._find(unknown)
        for name in unknown:
            if name not in self._known:
                self._known[name] = group = orm.Group(name=name)
                self._db.add(group)
        return [self._known[name] for name in wanted]

    def _find(self, names: Sequence[str]) -> None:
        for start in range(0, len(names), _AT_ONCE):
            part = names[start : start + _AT_ONCE]
            query = sa.select(orm.Group).where(orm.Group.name.in_(part)).options(*_ALONE)
            self._known |= {group.name: group for group in self._db.execute(query).scalars()}


class HubRoles:
    """The hub's roles, each brought up to date once.

    Args:
        db: The hub's database.
        kept: Names of roles of the hub's configuration, which stay when nobody has them.
    """

    def __init__(self, db: Any, kept: Iterable[str]) -> None:  # noqa: ANN401 - a session of SQLAlchemy
        self._db = db
        self._kept = frozenset(kept)
        self._known: dict[str, Any] = {}
        self._granted: list[tuple[Any, Any]] = []
        self._stripped: set[str] = set()

    def set_for(self, user: Any, roles: Iterable[Mapping[str, Any]]) -> None:  # noqa: ANN401 - a row of JupyterHub's
        """Give a user just these roles, as the hub's own `User.sync_roles` does."""
        wanted = {role["name"]: role for role in roles}
        now = {role.name: role for role in user.roles}
        for name, role in wanted.items():
            if name not in self._known:
                self._known[name] = create_role(
                    self._db,
                    {**role, "managed_by_auth": True},
                    commit=False,
                    reset_to_defaults=False,
                )
            if name not in now:
                user.roles.append(self._known[name])
                self._granted.append((user, self._known[name]))
        for name, role in now.items():
            if name not in wanted:
                user.roles.remove(role)
                self._stripped.add(name)

    def mark_granted(self) -> None:
        """Note in the database which roles came from here; call it after a flush."""
        if not self._granted:
            return
        query = (
            sa.update(_user_roles)
            .where(
                _user_roles.c.user_id == sa.bindparam("of_user"),
                _user_roles.c.role_id == sa.bindparam("of_role"),
            )
            .values(managed_by_auth=True)
        )
        pairs = [{"of_user": user.id, "of_role": role.id} for user, role in self._granted]
        self._db.connection().execute(query, pairs)
        self._granted = []

    def remove_unused(self) -> None:
        """Remove roles that came from here and that nobody has any more."""
        names = self._stripped - self._kept
        self._stripped = set()
        if not names:
            return
        query = sa.select(orm.Role).where(orm.Role.name.in_(names), orm.Role.managed_by_auth)
        for role in self._db.execute(query).scalars():
            if not (self._has_users(role) or role.services or role.groups):
                self._db.delete(role)

    def _has_users(self, role: Any) -> bool:  # noqa: ANN401 - a row of JupyterHub's
        query = sa.select(_user_roles.c.user_id).where(_user_roles.c.role_id == role.id).limit(1)
        return self._db.execute(query).first() is not None
