"""Whatever happens to people in whatever order: no number and no home is ever two people's."""

from __future__ import annotations

import logging

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from qhub_auth.errors import IdentityError
from qhub_auth.numbers.numbered import PersonWanted
from qhub_auth.numbers.numbering import Interval, Ranges
from qhub_auth.numbers.store import IdentityStore
from tests.examples import examples

NAMES = st.sampled_from(["alice", "bob", "carol", "dave"])
SUBS = st.sampled_from(["s1", "s2", "s3", "s4", "s5"])
# inside the range and outside of it
UIDS = st.none() | st.sampled_from([100, 101, 102, 501, 502])
RANGES = Ranges(Interval(100, 109), Interval(200, 209), (Interval(0, 99),))
LOG = logging.getLogger("numbers")
LOG.disabled = True


class Numbers(RuleBasedStateMachine):
    """People who come, are renamed, go, are imported, and whose names are released."""

    @initialize()
    def begin(self) -> None:
        """An empty database with room for ten people."""
        self.store = IdentityStore("sqlite://", ranges=RANGES, log=LOG)
        self.whose: dict[int, str] = {}
        self.homes: dict[str, str] = {}
        self.handed_on: set[int] = set()

    def teardown(self) -> None:
        """Close the database."""
        if hasattr(self, "store"):
            self.store.close()

    @rule(sub=SUBS, name=NAMES, uid=UIDS)
    def comes(self, sub: str, name: str, uid: int | None) -> None:
        """Somebody logs in, for the first time or again, by this name or another, with a number of Keycloak's or none."""
        failed: dict[str, IdentityError] = {}
        found = self.store.persons([PersonWanted(sub, name, uid)], failed)
        assert (sub in found) != (sub in failed)
        if sub in found and uid is not None:
            assert found[sub].uid == uid

    @rule(name=NAMES, uid=UIDS)
    def imported(self, name: str, uid: int | None) -> None:
        """An account of before is imported."""
        self.store.add_unclaimed([PersonWanted("", name, uid)])

    @rule(name=NAMES, keep=st.booleans())
    def released(self, name: str, keep: bool) -> None:
        """An administrator releases a name, with the numbers or without."""
        try:
            owner = self.store.release(name, keep_numbers=keep)
        except IdentityError:
            return
        if owner is not None and keep:
            self.handed_on.add(owner.uid)

    @rule(sub=SUBS)
    def goes(self, sub: str) -> None:
        """Keycloak does not know somebody any more."""
        self.store.retire(sub)

    @rule(sub=SUBS)
    def archived(self, sub: str) -> None:
        """The home of somebody is moved away."""
        self.store.home_archived(sub)

    @invariant()
    def nothing_is_given_twice(self) -> None:
        """A number that somebody has or had is nobody else's, unless it was handed on by its name; and no two have one home."""
        people = list(self.store.people(retired=True)) if hasattr(self, "store") else []
        assert len({each.uid for each in people}) == len(people)
        homes = [each.home for each in people if each.home]
        assert len(set(homes)) == len(homes)
        given = self.store.numbers_given("uid") if people else frozenset()
        for each in people:
            assert each.uid in given
            if not each.claimed:
                continue
            before = self.whose.get(each.uid, each.sub)
            assert before == each.sub or each.uid in self.handed_on
            self.handed_on.discard(each.uid)
            self.whose[each.uid] = each.sub
        assert set(self.whose) <= given


TestNumbers = Numbers.TestCase
TestNumbers.settings = settings(max_examples=examples(30), stateful_step_count=20, deadline=None)
