"""The comparison of everything: what is planned makes the hub as Keycloak says, and no broken list takes anything."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from qhub_auth.directory import ClientRole
from qhub_auth.keycloak.composites import Composites
from qhub_auth.keycloak.representations import Account, GroupRecord
from qhub_auth.keycloak.snapshot import Member, Realm, Snapshot
from qhub_auth.sync.reconciling import GONE, Change, HubUser, Limits, leaves, plan, vanished

PATHS = ("/a", "/a/b", "/a/b/c", "/d", "/d/e", "/f")
ROLES = ("reader", "writer", "boss")
NO_LIMIT = Limits(percent=100.0, at_least=10**6)

groups = {path: GroupRecord(id=f"id{path}", path=path) for path in PATHS}
realm = Realm(
    groups={each.id: each for each in groups.values()},
    client_roles={name: ClientRole(name, scopes=("read:users",)) for name in ROLES},
    composites=Composites(
        "hub", {("hub", "boss"): frozenset({("hub", "reader")})}, frozenset(ROLES)
    ),
)


@st.composite
def members(draw: st.DrawFn) -> dict[str, Member]:
    found = {}
    for number in range(draw(st.integers(0, 12))):
        sub = f"sub{number}"
        mine = draw(st.frozensets(st.sampled_from(sorted(realm.groups)), max_size=3))
        roles = draw(st.frozensets(st.sampled_from([("hub", name) for name in ROLES]), max_size=2))
        enabled = draw(st.integers(0, 9)) > 0
        found[sub] = Member(Account(sub, f"n{number}", enabled=enabled), mine, roles)
    return found


def applied(users: list[HubUser], changes: tuple[Change, ...]) -> list[HubUser]:
    """Do to the hub what changes say."""
    by_sub = {change.sub: change for change in changes}
    found = []
    for user in users:
        change = by_sub.get(user.sub or "")
        if change is None:
            found.append(user)
        elif change.facts is None or not change.facts.enabled:
            found.append(replace(user, groups=frozenset(), roles=frozenset(), digest=change.digest))
        else:
            facts = change.facts
            found.append(
                replace(user, groups=facts.all_groups, roles=facts.roles, digest=change.digest)
            )
    return found


def hub_with(people: dict[str, Member]) -> list[HubUser]:
    """Return the hub after everything was applied."""
    snapshot = Snapshot(realm, people)
    users = [HubUser(each.account.name, sub) for sub, each in people.items()]
    return applied(users, plan(users, snapshot, certain=None).changes)


@given(before=members(), now=members())
def test_twice_changes_nothing(before: dict[str, Member], now: dict[str, Member]) -> None:
    """After a plan is done the hub is as Keycloak says, and there is nothing to plan."""
    users = hub_with(before)
    snapshot = Snapshot(realm, now)
    found = plan(users, snapshot, certain=before, limits=NO_LIMIT)
    assert not found.held
    assert not found.doubtful
    users = applied(users, found.changes)
    for user in users:
        facts = snapshot.facts(user.sub or "")
        if facts is not None and facts.enabled:
            assert user.groups == facts.all_groups
            assert user.roles == facts.roles
        else:
            assert not user.groups
    assert plan(users, snapshot, certain=(), limits=Limits()).changes == ()


@given(before=members(), now=members(), percent=st.floats(0, 100), least=st.integers(0, 5))
def test_lists_alone_take_nothing(
    before: dict[str, Member], now: dict[str, Member], percent: float, least: int
) -> None:
    """Whatever a list says, without asking for each person nobody who is not disabled loses anything."""
    users = hub_with(before)
    snapshot = Snapshot(realm, now)
    found = plan(users, snapshot, limits=Limits(percent, least))
    after = {user.sub: user for user in applied(users, found.changes)}
    for user in users:
        member = now.get(user.sub or "")
        if member is None or member.account.enabled:
            assert after[user.sub].groups >= user.groups
            assert after[user.sub].roles >= user.roles


@given(people=members(), cut=st.integers(0, 12))
def test_truncated_list(people: dict[str, Member], cut: int) -> None:
    """A list that was cut off, even to nothing, removes nobody; what is missing is asked for or held."""
    users = hub_with(people)
    short = dict(list(people.items())[:cut])
    found = plan(users, Snapshot(realm, short), limits=Limits())
    missing = set(people) - set(short)
    assert not any(change.facts is None for change in found.changes)
    held = set(found.held.people) if found.held else set()
    assert found.doubtful | held == missing
    assert not found.doubtful & held


@given(before=members(), now=members())
def test_held_still_gives(before: dict[str, Member], now: dict[str, Member]) -> None:
    """While something is held, what people gain is given all the same, by no more than they have."""
    users = hub_with(before)
    snapshot = Snapshot(realm, now)
    found = plan(users, snapshot, limits=Limits(0.0, 0))
    by_sub = {change.sub: change for change in found.changes}
    for sub in found.held.memberships if found.held else ():
        facts = snapshot.facts(sub)
        user = next(each for each in users if each.sub == sub)
        assert facts is not None
        if facts.all_groups - user.groups or facts.roles - user.roles:
            sent = by_sub[sub].facts
            assert sent is not None
            assert sent.all_groups == facts.all_groups | user.groups
        else:
            assert sub not in by_sub


@given(before=members(), now=members())
def test_confirmed(before: dict[str, Member], now: dict[str, Member]) -> None:
    """What an administrator confirmed is done, and that alone; more is held anew."""
    users = hub_with(before)
    snapshot = Snapshot(realm, now)
    strict = Limits(0.0, 0)
    found = plan(users, snapshot, limits=strict)
    if found.held is None:
        return
    confirmed = plan(users, snapshot, limits=strict, confirmed=found.held.items)
    assert confirmed.held is None
    assert confirmed.doubtful == found.doubtful
    without = dict(list(now.items())[1:])
    more = plan(users, Snapshot(realm, without), limits=strict, confirmed=found.held.items)
    if more.held is not None:
        assert not more.held.items <= found.held.items


def people(count: int, *paths: str) -> dict[str, Member]:
    mine = frozenset(groups[path].id for path in paths)
    return {f"s{n}": Member(Account(f"s{n}", f"p{n}"), mine) for n in range(count)}


def test_limits() -> None:
    """Five may always go, more than a fifth may not, and exactly a fifth may."""
    everybody = people(100, "/a")
    users = hub_with(everybody)
    for gone, held in ((5, False), (20, False), (21, True), (100, True)):
        left = dict(list(everybody.items())[gone:])
        found = plan(users, Snapshot(realm, left), limits=Limits())
        assert (found.held is not None) is held
        assert len(found.doubtful) == (0 if held else gone)
    few = hub_with(people(6, "/a"))
    assert plan(few, Snapshot(realm, {}), limits=Limits()).held is not None
    assert plan(few[:5], Snapshot(realm, {}), limits=Limits()).held is None


def test_removed_group_is_no_loss() -> None:
    """What a group takes with it, of which Keycloak said that it is gone, is neither asked for nor held."""
    everybody = people(50, "/a/b/c", "/f")
    users = hub_with(everybody)
    left = {key: each for key, each in realm.groups.items() if each.path != "/f"}
    now = Snapshot(replace(realm, groups=left), everybody)
    assert vanished(users, now) == {"/f"}
    assert plan(users, now, limits=Limits()).held is not None
    found = plan(users, now, gone_groups={"/f"}, limits=Limits())
    assert found.held is None
    assert not found.doubtful
    assert len(found.changes) == 50


def test_who_is_gone_is_told_once() -> None:
    """Somebody whose end was told is not told again, and does not count among people; back, they are told."""
    user = HubUser("p0", "s0", digest=GONE)
    assert plan([user], Snapshot(realm, {}), limits=Limits()).changes == ()
    back = plan([user], Snapshot(realm, people(1, "/a")), limits=Limits())
    assert [change.sub for change in back.changes] == ["s0"]


def test_users_of_others_are_left_alone() -> None:
    """A user of the hub of whom nothing is known in Keycloak is no business of ours."""
    assert (
        plan([HubUser("robot", None, groups=frozenset({"/a"}))], Snapshot(realm, {})).changes == ()
    )


def test_leaves() -> None:
    """Only the deepest groups are named, so that nobody becomes a direct member of one above."""
    assert leaves({"/a", "/a/b", "/d"}) == {"/a/b", "/d"}
    assert leaves(set()) == frozenset()


def test_digest_sees_what_groups_and_roles_mean() -> None:
    """Another attribute of a group above, another scope of a role: it is told, though the person is the same."""
    member = people(1, "/a/b/c")["s0"]
    member = replace(member, roles=frozenset({("hub", "boss")}))
    before = realm.digest(realm.facts(member))
    shared = {**realm.groups, "id/a": replace(groups["/a"], attributes={"share": ("rw",)})}
    other = replace(realm, groups=shared)
    assert other.digest(other.facts(member)) != before
    scopes = {**realm.client_roles, "reader": ClientRole("reader", scopes=("list:users",))}
    other = replace(realm, client_roles=scopes)
    assert other.digest(other.facts(member)) != before
    elsewhere = {**realm.groups, "id/f": replace(groups["/f"], attributes={"share": ("rw",)})}
    same = replace(realm, groups=elsewhere)
    assert same.digest(same.facts(member)) == before
    assert same.mark != realm.mark


def test_roles_in_effect() -> None:
    """Roles come from the person, their groups, groups above, and roles that contain others; circles end."""
    composites = Composites(
        "hub",
        {
            ("", "staff"): frozenset({("hub", "reader"), ("", "staff")}),
            ("hub", "boss"): frozenset({("", "staff")}),
            ("other", "x"): frozenset({("hub", "boss")}),
        },
        frozenset({"reader", "boss"}),
    )
    assert composites.effective([("hub", "boss")]) == {"boss", "reader"}
    assert composites.effective([("", "staff")]) == {"reader"}
    assert composites.effective([("other", "reader")]) == frozenset()
    assert composites.leading == {("hub", "reader"), ("hub", "boss"), ("", "staff"), ("other", "x")}
    top = GroupRecord("1", "/a", roles=frozenset({("", "staff")}))
    below = GroupRecord("2", "/a/b", roles=frozenset({("hub", "boss")}))
    mine = Realm({"1": top, "2": below}, {}, composites)
    assert mine.directory.groups["/a/b"].roles == {"boss", "reader"}
    assert mine.facts(Member(Account("s", "n"), frozenset({"1"}))).roles == {"reader"}
    assert mine.facts(Member(Account("s", "n"), frozenset({"2", "gone"}))).groups == {"/a/b"}


def test_disguised_group() -> None:
    """A group whose name has a slash gives nobody the group that it looks like, nor that one's roles."""
    real = GroupRecord("1", "/a/b", roles=frozenset({("hub", "boss")}), name="b")
    fake = GroupRecord("2", "/a/b", name="a/b")
    mine = Realm(
        {"1": real, "2": fake, "3": GroupRecord("3", "/a", name="a")}, {}, realm.composites
    )
    assert set(mine.directory.groups) == {"/a"}
    facts = mine.facts(Member(Account("s", "n"), frozenset({"2", "3"})))
    assert facts.groups == {"/a"}
    assert facts.roles == frozenset()
