"""The part of the store that is about groups: gid, name for the system, folder."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from qhub_auth.errors import IdentityError, NameTakenError, shown
from qhub_auth.numbers.claiming import GID, PERSON, Claims, Elsewhere
from qhub_auth.numbers.database import Database, Transaction, groups, names
from qhub_auth.numbers.numbered import GroupNumbers, GroupWanted
from qhub_auth.numbers.numbering import Ranges, checked, name_key, plain_text, unix_name
from qhub_auth.paths import ancestors, joined, split

__all__ = ["GroupRows"]

_BATCH = 500
_LONGEST_PATH = 4096


class GroupRows:
    """The part of the store that is about groups."""

    database: Database
    ranges: Ranges
    elsewhere: Elsewhere
    log: logging.Logger

    def groups(
        self, wanted: Iterable[GroupWanted], *, strict: bool = True
    ) -> dict[str, GroupNumbers]:
        """Return the numbers of groups by key; who is seen for the first time is given one.

        A group that was renamed or moved keeps its number, its name for the system and its folder;
        the result carries its old path once. Where the folder that a new group would have is
        another's, because that one was renamed, the new one gets a folder of another name.

        Args:
            wanted: The groups.
            strict: Refuse all if one cannot be given its number; else that one is left out of the
                result, with an error in the log.

        Raises:
            NumberTakenError: A number that was asked for belongs to somebody else, or is reserved.
            RangeExhaustedError: No number is left.
        """
        asked = {each.key: each for each in sorted(wanted, key=lambda each: each.path)}
        with self.database.reading() as transaction:
            known = _of_keys(transaction, asked)
        found = {
            key: known[key]
            for key, each in asked.items()
            if key in known
            and known[key].path == each.path
            and not known[key].retired
            and known[key].folder
            and each.gid in {None, known[key].gid}
        }
        missing = [each for key, each in asked.items() if key not in found]
        if missing:
            # First those that were renamed: a new one may have the path that they had.
            missing.sort(key=lambda each: each.key not in known)
            found |= self.database.writing(
                lambda transaction: self._give_all(transaction, missing, strict=strict)
            )
        return {key: found[key] for key in asked if key in found}

    def known_groups(self, *, retired: bool = False) -> tuple[GroupNumbers, ...]:
        """Return all groups that have a number, by path; those that are gone if asked."""
        query = sa.select(groups)
        if not retired:
            query = query.where(groups.c.retired.is_(None))
        with self.database.reading() as transaction:
            rows = transaction.execute(query).all()
        return tuple(sorted(map(_numbers, rows), key=lambda each: (each.path, each.gid)))

    def groups_of_gids(self, gids: Iterable[int]) -> list[tuple[int, str, str]]:
        """Return gid, key and path of the groups, those that are gone included, with these gids."""
        asked = sorted(set(gids))
        found: list[tuple[int, str, str]] = []
        with self.database.reading() as transaction:
            for start in range(0, len(asked), _BATCH):
                some = groups.c.gid.in_(asked[start : start + _BATCH])
                query = sa.select(groups.c.gid, groups.c.key, groups.c.path).where(some)
                found += [(row.gid, row.key, row.path) for row in transaction.execute(query)]
        return found

    def retire_group(self, key: str) -> bool:
        """Note that Keycloak does not know a group any more; says whether that is news.

        Its number, name and folder stay its own.
        """
        query = (
            sa.update(groups)
            .where(groups.c.digest == _digest(key), groups.c.retired.is_(None))
            .values(retired=int(time.time()))
        )
        return self.database.noting(lambda transaction: transaction.execute(query).rowcount > 0)

    def folder_moved(self, moved: Mapping[str, str]) -> None:
        """Note that folders are elsewhere now: for each key the path that its folder is made for.

        Call it when the folders themselves have been renamed; all of them, or none.

        Raises:
            NameTakenError: One of the folders is another group's.
            IdentityError: There is no group of that key.
        """

        def note(transaction: Transaction) -> None:
            for place in ("", "new"):  # two may have changed places
                for key, path in moved.items():
                    here = _Place(transaction, _digest(key))
                    other = here.other_with(path)
                    if not place and other is not None and other.key not in moved:
                        msg = f"the folder of {shown(path)} is that of {shown(other.path)}"
                        raise NameTakenError(msg)
                    if here.row is None:
                        msg = f"no group has the key {shown(key)}"
                        raise IdentityError(msg)
                    mark = _digest(path) if place else _digest(f"moving {key}")
                    change = {"folder": path, "folder_digest": mark}
                    transaction.execute(
                        sa.update(groups).where(groups.c.digest == _digest(key)).values(change)
                    )

        self.database.writing(note)

    def folder_archived(self, key: str) -> None:
        """Note that a group's folder is not in its place any more; another group may have it.

        Should the group come back, it gets a new one.
        """
        change = {"folder": "", "folder_digest": _digest(f"archived {key}")}
        query = sa.update(groups).where(groups.c.digest == _digest(key)).values(change)
        self.database.writing(lambda transaction: transaction.execute(query))

    def _give_all(
        self, transaction: Transaction, wanted: Iterable[GroupWanted], *, strict: bool
    ) -> dict[str, GroupNumbers]:
        claims = Claims(transaction, self.ranges, self.elsewhere)
        found = {}
        for each in wanted:
            try:
                with transaction.begin_nested():
                    found[each.key] = self._give_group(claims, each)
            except IdentityError as error:
                if strict:
                    raise
                self.log.error("the group %s is left out: %s", shown(each.path), error)  # noqa: TRY400 - the message says it all
        claims.finish()
        return found

    def _keep_group(self, claims: Claims, wanted: GroupWanted) -> GroupNumbers:
        """Keep a number for a group that is known by its path only."""
        known = self.known_as(claims.transaction, wanted)
        if known is not None and wanted.gid not in {None, known.gid}:
            msg = (
                f"the group {shown(wanted.path)} is known already with gid {known.gid}, and not "
                f"with {wanted.gid}"
            )
            raise NameTakenError(msg)
        return known or self._give_group(claims, wanted)

    def known_as(self, transaction: Transaction, wanted: GroupWanted) -> GroupNumbers | None:
        """Return what is known of the group by its key, or else by its path."""
        known = _of_keys(transaction, [wanted.key]).get(wanted.key)
        if known is None:
            query = sa.select(groups).where(
                groups.c.path == wanted.path, groups.c.retired.is_(None)
            )
            row = transaction.execute(query).first()
            known = None if row is None else _numbers(row)
        return known

    def _give_group(self, claims: Claims, wanted: GroupWanted) -> GroupNumbers:
        transaction, digest = claims.transaction, _digest(wanted.key)
        path = plain_text(wanted.path, "the path of a group", _LONGEST_PATH)
        who = f"the group {shown(path)}"
        known = _of_keys(transaction, [wanted.key]).get(wanted.key)
        if known is None:
            known = self._named_by_path(claims, wanted)
        if wanted.gid is not None and (known is None or known.gid != wanted.gid):
            checked(wanted.gid, self.ranges, f"the gidNumber of {who}")
            claims.number(GID, wanted.gid, f"group:{digest}", who)
        if known is not None:
            gid = known.gid if wanted.gid is None else wanted.gid
            self._tell_group(known, wanted, gid)
            old = known.path if known.path != path else None
            folder = known.folder or _own_folder(transaction, digest, path, gid)
            change = {"path": path, "gid": gid, "retired": None, "folder": folder}
            query = sa.update(groups).where(groups.c.digest == digest)
            transaction.execute(query.values(change | {"folder_digest": _digest(folder)}))
            return GroupNumbers(wanted.key, path, gid, known.unix_name, folder, old)
        gid = (
            claims.next_number(GID, self.ranges.groups, f"group:{digest}")
            if wanted.gid is None
            else wanted.gid
        )
        name = unix_name(path, gid, lambda name: self._name_taken(transaction, name, gid))
        folder = _own_folder(transaction, digest, path, gid)
        given = GroupNumbers(wanted.key, path, gid, name, folder)
        row = {"key": wanted.key, "path": path, "gid": gid, "unix_name": name, "folder": folder}
        digests = {"digest": digest, "folder_digest": _digest(folder)}
        transaction.execute(sa.insert(groups).values(**row, **digests))
        self.log.info("%s has gid %d and the name %s", who, gid, name)
        if folder != path:
            words = "%s has its folder as %s: the one of its own path is not free"
            self.log.warning(words, who, shown(folder))
        return given

    def _named_by_path(self, claims: Claims, wanted: GroupWanted) -> GroupNumbers | None:
        """Return the record of a group of which only the path was known until now; it is ours."""
        by_path = f"path:{wanted.path}"
        if wanted.key == by_path:
            return None
        transaction, digest = claims.transaction, _digest(wanted.key)
        known = _of_keys(transaction, [by_path]).get(by_path)
        if known is not None:
            claims.hand_over(f"group:{_digest(by_path)}", f"group:{digest}")
            change = {"digest": digest, "key": wanted.key}
            query = sa.update(groups).where(groups.c.digest == _digest(by_path)).values(change)
            transaction.execute(query)
        return known

    def _name_taken(self, transaction: Transaction, name: str, gid: int) -> bool:
        """Whether another group, a person or an account of this machine has the name."""
        if transaction.execute(sa.select(groups.c.key).where(groups.c.unix_name == name)).first():
            return True
        mine = sa.and_(names.c.kind == PERSON, names.c.name == name_key(name))
        if transaction.execute(sa.select(names.c.owner).where(mine)).first():
            return True
        return self.elsewhere.has_account(name) or self.elsewhere.group_number(name) not in {
            None,
            gid,
        }

    def _tell_group(self, known: GroupNumbers, wanted: GroupWanted, gid: int) -> None:
        if known.path != wanted.path:
            words = "the group %s is %s now, and keeps gid %d and the folder of %s"
            old, new = shown(known.path), shown(wanted.path)
            self.log.info(words, old, new, gid, shown(known.folder))
        if known.gid != gid:
            self.log.warning(
                "the group %s had gid %d, and has gid %d now, as somebody gave it: its folder has "
                "the old number until folders are ensured",
                *(shown(wanted.path), known.gid, gid),
            )


@dataclass(frozen=True)
class _Place:
    """A group's row, and who is in its way."""

    transaction: Transaction
    digest: str

    @property
    def row(self) -> sa.Row[tuple[object, ...]] | None:
        return self.transaction.execute(
            sa.select(groups).where(groups.c.digest == self.digest)
        ).first()

    def other_with(self, folder: str) -> GroupNumbers | None:
        query = sa.select(groups).where(
            groups.c.folder_digest == _digest(folder), groups.c.digest != self.digest
        )
        row = self.transaction.execute(query).first()
        return None if row is None else _numbers(row)


def _own_folder(transaction: Transaction, digest: str, path: str, gid: int) -> str:
    """Return the path whose folder the group gets: below that of the group above, and its own."""
    folder, parts = path, split(path)
    for above in reversed(ancestors(path)):
        query = sa.select(groups.c.folder).where(groups.c.path == above, groups.c.retired.is_(None))
        found = transaction.execute(query).scalar()
        if found is not None:
            folder = found + joined(parts[len(split(above)) :])
            break
    place = _Place(transaction, digest)
    while place.other_with(folder) is not None:
        folder = f"{folder}-{gid}"
    return folder


def _numbers(row: sa.Row[tuple[object, ...]]) -> GroupNumbers:
    return GroupNumbers(
        *(row.key, row.path, row.gid, row.unix_name, row.folder), retired=row.retired is not None
    )


def _of_keys(transaction: Transaction, keys: Iterable[str]) -> dict[str, GroupNumbers]:
    found: dict[str, GroupNumbers] = {}
    left = [_digest(key) for key in keys]
    while left:
        part, left = left[:_BATCH], left[_BATCH:]
        rows = transaction.execute(sa.select(groups).where(groups.c.digest.in_(part)))
        found |= {row.key: _numbers(row) for row in rows}
    return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
