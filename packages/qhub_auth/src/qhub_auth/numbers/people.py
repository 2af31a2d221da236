"""The part of the store that is about people: uid, gid, name, home."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

import sqlalchemy as sa

from qhub_auth.errors import IdentityError, IdentityUnavailableError, NameTakenError, shown
from qhub_auth.numbers.claiming import GID, PERSON, UID, Claims, Elsewhere
from qhub_auth.numbers.database import Database, Transaction, names, people
from qhub_auth.numbers.numbered import UNCLAIMED, Person, PersonWanted
from qhub_auth.numbers.numbering import Ranges, checked, name_key, plain_text
from qhub_auth.numbers.rows import ARCHIVED, change, named, of_subs, person_of

__all__ = ["PersonRows"]

_BATCH = 500
_AT_ONCE = 100
_LONGEST_KEY = 200


class PersonRows:
    """The part of the store that is about people."""

    database: Database
    ranges: Ranges
    home: str
    elsewhere: Elsewhere
    log: logging.Logger

    def person(
        self,
        sub: str,
        name: str,
        *,
        uid: int | None = None,
        gid: int | None = None,
        home: str | None = None,
    ) -> Person:
        """Return a person's numbers; who is seen for the first time is given some.

        Numbers and homes that are asked for win over what was kept, and are kept from then on.
        Somebody who was retired is there again.

        Args:
            sub: Who they are in Keycloak.
            name: Their account's name; it belongs to them from now on.
            uid: The number that an administrator gave them, if one did.
            gid: The same for their primary group. Several people may have one primary group, but
                not somebody else's own.
            home: The same for their home.

        Raises:
            NameTakenError: The name, or the home, belongs to somebody else.
            NumberTakenError: A number that was asked for belongs to somebody else, or is reserved.
            RangeExhaustedError: No number is left.
            IdentityError: The name is no text that an account can have.
        """
        wanted = PersonWanted(sub, name, uid, gid, home)
        return self.persons([wanted])[sub]

    def persons(
        self, wanted: Iterable[PersonWanted], failed: dict[str, IdentityError] | None = None
    ) -> dict[str, Person]:
        """Return the numbers of many people, by sub: :meth:`person` in few transactions.

        Args:
            wanted: The people.
            failed: Where to put the error of whoever cannot be given numbers, by sub, and go on;
                without it the first error is raised.

        Raises:
            IdentityError: As :meth:`person`, for one of them; others may have got numbers.
        """
        asked = {each.sub: each for each in wanted}
        with self.database.reading() as transaction:
            known = of_subs(transaction, asked)
        found = {sub: one for sub, one in known.items() if one.matches(asked[sub])}
        missing = [each for sub, each in asked.items() if sub not in found]
        if missing:
            found |= self._give_all_people(missing, failed)
        return {sub: found[sub] for sub in asked if sub in found}

    def find(self, sub: str) -> Person | None:
        """Return what was kept of a person, retired or not; `None` if they were never seen."""
        return self.find_all([sub]).get(sub)

    def find_all(self, subs: Iterable[str]) -> dict[str, Person]:
        """Return what was kept of people, retired or not, by sub."""
        with self.database.reading() as transaction:
            return of_subs(transaction, subs)

    def person_named(self, name: str) -> Person | None:
        """Return whose name this is, or was; `None` if it is free."""
        with self.database.reading() as transaction:
            return named(transaction, name)

    def owners(self, subs: Collection[str] | None = None) -> dict[str, str]:
        """Return whose every name is, or was: subs by name, as :func:`numbering.name_key` has it.

        Args:
            subs: Only names of these people.
        """
        query = sa.select(names.c.name, names.c.owner).where(names.c.kind == PERSON)
        found: dict[str, str] = {}
        left = None if subs is None else list(subs)
        with self.database.reading() as transaction:
            if left is None:
                return {row.name: row.owner for row in transaction.execute(query)}
            while left:
                part, left = left[:_BATCH], left[_BATCH:]
                rows = transaction.execute(query.where(names.c.owner.in_(part)))
                found |= {row.name: row.owner for row in rows}
        return found

    def people(self, *, retired: bool = False) -> Iterator[Person]:
        """Give everybody there is, by name; those whom Keycloak does not know any more if asked.

        Records that nobody has claimed yet are among them, see :attr:`Person.claimed`.
        """
        query = sa.select(people).order_by(people.c.name, people.c.sub)
        if not retired:
            query = query.where(people.c.retired.is_(None))
        with self.database.reading() as transaction:
            rows = transaction.execute(query).all()
        yield from map(person_of, rows)

    def retire(self, sub: str) -> bool:
        """Note that Keycloak does not know somebody any more; says whether that is news.

        Their name, numbers and home stay theirs.
        """
        query = (
            sa.update(people)
            .where(people.c.sub == sub, people.c.retired.is_(None))
            .values(retired=int(time.time()))
        )
        return self.database.noting(lambda transaction: transaction.execute(query).rowcount > 0)

    def home_archived(self, sub: str) -> None:
        """Note that somebody's home is not in its place any more; another may have it.

        Should they come back, they get a new one.
        """

        def note(transaction: Transaction) -> None:
            known = of_subs(transaction, [sub]).get(sub)
            if known is not None:
                query = sa.update(people).where(people.c.sub == sub)
                transaction.execute(query.values(home=f"{ARCHIVED}{known.uid}"))

        self.database.writing(note)

    def release(self, name: str, *, keep_numbers: bool = False) -> Person | None:
        """Let somebody else have a name; returns whose it was, `None` if it was nobody's.

        Args:
            name: The name.
            keep_numbers: The next person of that name is the same human being as before, whom
                Keycloak knows by a new sub (a realm that was made anew): they get the numbers and
                the home as well. Otherwise these are never given to anybody again.

        Raises:
            IdentityError: The numbers are to be kept, and whose name it was has another name now.
        """

        def free(transaction: Transaction) -> Person | None:
            owner = named(transaction, name)
            if owner is None:
                return None
            now = int(time.time())
            mine = people.c.sub == owner.sub
            claims = Claims(transaction, self.ranges, self.elsewhere)
            if keep_numbers:
                if name_key(owner.name) != name_key(name):
                    msg = f"who was {shown(name)} is {shown(owner.name)} now: release that name"
                    raise IdentityError(msg)
                nobody = f"{UNCLAIMED}{uuid.uuid4()}"
                claims.hand_over(owner.sub, nobody)
                gone = {"sub": nobody, "retired": None}
                transaction.execute(sa.update(people).where(mine).values(gone))
                return owner
            transaction.execute(
                sa.delete(names).where(names.c.kind == PERSON, names.c.name == name_key(name))
            )
            if name_key(owner.name) == name_key(name) and not owner.retired:
                transaction.execute(sa.update(people).where(mine).values(retired=now))
            return owner

        return self.database.writing(free)

    def _keep_unclaimed(self, claims: Claims, wanted: PersonWanted) -> Person:
        """Keep numbers for somebody whom Keycloak has not named yet."""
        asked = _plain(replace(wanted, sub=f"{UNCLAIMED}{uuid.uuid4()}"), unclaimed=True)
        known = named(claims.transaction, asked.name)
        if known is not None and not known.has_numbers_of(asked):
            given = {"uid": asked.uid, "gid": asked.gid, "home": asked.home}
            words = ", ".join(f"{key} {value}" for key, value in given.items() if value is not None)
            msg = (
                f"{shown(asked.name)} is known already with uid {known.uid}, gid {known.gid}, home "
                f"{shown(known.home)}, and not with {words}"
            )
            raise NameTakenError(msg)
        return known or self._give(claims, asked)

    def _give_all_people(
        self, wanted: list[PersonWanted], failed: dict[str, IdentityError] | None
    ) -> dict[str, Person]:
        """Give numbers, some people at a time: who waits for the lock waits a second at most."""
        found: dict[str, Person] = {}

        def give(transaction: Transaction) -> dict[str, Person]:
            claims = Claims(transaction, self.ranges, self.elsewhere)
            given = {each.sub: self._give(claims, _plain(each)) for each in part}
            claims.finish()
            return given

        def give_each(transaction: Transaction) -> dict[str, Person]:
            claims = Claims(transaction, self.ranges, self.elsewhere)
            given: dict[str, Person] = {}
            for each in part:
                try:
                    with transaction.begin_nested():
                        given[each.sub] = self._give(claims, _plain(each))
                except IdentityError as error:
                    errors[each.sub] = error
            claims.finish()
            return given

        errors: dict[str, IdentityError] = {}
        for start in range(0, len(wanted), _AT_ONCE):
            part = wanted[start : start + _AT_ONCE]
            try:
                found |= self.database.writing(give)
            except IdentityUnavailableError:
                raise
            except IdentityError:
                if failed is None:
                    raise
                # Nothing of that was kept: once more, and slower, to find out whose it is.
                found |= self.database.writing(give_each)
                failed |= errors
        return found

    def _give(self, claims: Claims, wanted: PersonWanted) -> Person:
        """Return a person's record, made or changed so that it is as wanted."""
        transaction, sub = claims.transaction, wanted.sub
        known = of_subs(transaction, [sub]).get(sub)
        owner = named(transaction, wanted.name)
        if owner is not None and owner.sub != sub:
            if owner.claimed or known is not None:
                raise NameTakenError(_name_taken(wanted, owner))
            claims.hand_over(owner.sub, sub)
            change(transaction, replace(owner, sub=sub), was=owner.sub)
            self.log.info("%s is now known to Keycloak as %s", shown(owner.name), shown(sub))
            known = replace(owner, sub=sub)
        elif owner is None:
            claims.bind(PERSON, wanted.name, sub)
        person = self._numbered(claims, wanted, known)
        if known is None:
            values = {"sub": sub, "name": person.name, "uid": person.uid, "gid": person.gid}
            transaction.execute(sa.insert(people).values(**values, home=person.home))
        else:
            change(transaction, person)
        self._tell(known, person)
        return person

    def _numbered(self, claims: Claims, wanted: PersonWanted, known: Person | None) -> Person:
        who = shown(wanted.name)
        uid = wanted.uid if wanted.uid is not None else known.uid if known else None
        own_group = known is None or known.gid == known.uid
        if uid is None:
            also = () if wanted.gid is not None else (GID,)
            # a uid that happened to be the gid asked for would make that group theirs alone
            uid = claims.next_number(
                UID, self.ranges.people, wanted.sub, also=also, avoid=wanted.gid
            )
        elif known is None or uid != known.uid:
            checked(uid, self.ranges, f"the uid (uidNumber) of {who}")
            claims.number(UID, uid, wanted.sub, who, account=wanted.name)
        if wanted.gid is not None and wanted.gid != uid:
            gid = checked(wanted.gid, self.ranges, f"the gid (gidNumber) of {who}")
            claims.primary(gid, who)
        elif wanted.gid is not None or own_group or known is None:
            gid = uid
            account = None if wanted.gid is not None else wanted.name
            claims.number(GID, gid, wanted.sub, who, account=account)
        else:
            gid = known.gid
        home = wanted.home or (known and known.home) or self.home.format(name=wanted.name)
        if known is None or home != known.home:
            home = self._own_home(claims.transaction, wanted, home, uid)
        return Person(wanted.sub, wanted.name, uid, gid, home)

    def _own_home(self, transaction: Transaction, wanted: PersonWanted, home: str, uid: int) -> str:
        """Return a home that nobody else has or had."""
        query = sa.select(people).where(people.c.home == home, people.c.sub != wanted.sub)
        other = transaction.execute(query).first()
        if other is None:
            return home
        if wanted.home is None:
            # Somebody had this name once; their home, with what is in it, is still theirs.
            return self._own_home(transaction, wanted, f"{home}-{uid}", uid)
        msg = (
            f"the home {shown(home)} of {shown(wanted.name)} is that of {shown(other.name)} "
            f"(uid {other.uid}): nobody shares a home"
        )
        raise NameTakenError(msg)

    def _tell(self, known: Person | None, person: Person) -> None:
        who = shown(person.name)
        if known is None:
            self.log.info("%s has uid %d, gid %d", who, person.uid, person.gid)
            return
        if known.name != person.name:
            self.log.info("%s is called %s now, and keeps uid and home", shown(known.name), who)
        if (known.uid, known.gid) != (person.uid, person.gid):
            self.log.warning(
                "%s had uid %d and gid %d, and has uid %d and gid %d now, as somebody gave them: "
                "files that they have keep the old numbers until somebody changes that",
                *(who, known.uid, known.gid, person.uid, person.gid),
            )


def _plain(wanted: PersonWanted, *, unclaimed: bool = False) -> PersonWanted:
    sub = plain_text(wanted.sub, "the identifier of a person (sub)")
    # MariaDB compares texts without the blanks at their ends; and no word of ours is somebody's
    if sub != sub.strip() or sub.startswith(UNCLAIMED) is not unclaimed:
        msg = f"the identifier of a person (sub) {shown(sub)} has a blank at an end, or is our own"
        raise IdentityError(msg)
    name = plain_text(wanted.name, "the name of a person")
    if len(name_key(name)) > _LONGEST_KEY or set(name) & set("/:") or name != name.strip():
        msg = (
            f"the name of a person {shown(name)} has '/', ':' or a blank around it, or is too long"
        )
        raise IdentityError(msg)
    if wanted.home is not None:
        plain_text(wanted.home, f"the home of {shown(name)}")
    return wanted


def _name_taken(wanted: PersonWanted, owner: Person) -> str:
    called = "" if owner.name == wanted.name else f" (who is {shown(owner.name)} now)"
    return (
        f"the name {shown(wanted.name)} belongs to somebody else, with uid {owner.uid}{called}: "
        f"Keycloak knows them as {shown(owner.sub)}, and who comes now as {shown(wanted.sub)}. "
        f"If they are gone, an administrator may free it: qhub-identity release {wanted.name}"
    )
