"""The store of numbers on every database: one set of rules, SQLite, PostgreSQL and MariaDB."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from qhub_auth.errors import (
    IdentityError,
    IdentityUnavailableError,
    NameTakenError,
    NumberTakenError,
    RangeExhaustedError,
)
from qhub_auth.numbering import Interval, Ranges
from qhub_auth.store import GroupWanted, IdentityStore, PersonWanted

DATABASES = ("sqlite", "postgresql", "mariadb")
PROCESSES, PEOPLE = 8, 100
# A process of its own, as a hub and a sync service are: everybody wants numbers at once, and some
# are wanted by all of them.
CLAIMANT = """
import json, sys
from qhub_auth.numbering import Ranges
from qhub_auth.store import GroupWanted, IdentityStore

url, me, people = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = IdentityStore(url, ranges=Ranges())
print("ready", flush=True)
sys.stdin.readline()
found = {}
for at in range(people):
    own = store.person(f"sub-{me}-{at}", f"p{me}x{at}")
    found[own.sub] = (own.uid, own.gid)
    if at % 10 == 0:
        everybodys = store.person(f"shared-{at}", f"shared{at}")
        found[everybodys.sub] = (everybodys.uid, everybodys.gid)
        key = f"group-{at}"
        found[key] = (0, store.groups([GroupWanted(key, f"/all/g{at}")])[key].gid)
print(json.dumps(found), flush=True)
"""


@pytest.fixture(params=DATABASES)
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/identity.sqlite"
    return str(request.getfixturevalue(request.param).make())


@pytest.fixture
def store_of(address: str) -> Iterator[Callable[..., IdentityStore]]:
    """Make stores on the database, as other processes would; all are closed after the test."""
    stores: list[IdentityStore] = []

    def make(**options) -> IdentityStore:
        options.setdefault("ranges", Ranges())
        stores.append(IdentityStore(address, **options))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def store(store_of: Callable[..., IdentityStore]) -> IdentityStore:
    """One store."""
    return store_of()


# --- people


def test_the_same_person_has_the_same_numbers(store, store_of):
    """Who was seen once has the same uid, gid and home for ever, from every process, whatever the range is then."""
    alice = store.person("s-alice", "alice")
    assert (alice.uid, alice.gid, alice.home) == (20000, 20000, "/home/alice")
    assert store.person("s-alice", "alice") == alice
    later = store_of(ranges=Ranges(people=Interval(90_000, 90_010)), home="/srv/{name}")
    assert later.person("s-alice", "alice") == alice
    assert later.person("s-bob", "bob").uid == 90_000


def test_who_is_renamed_keeps_numbers_and_home(store):
    """A person who gets another name keeps uid, gid and home, and nobody else gets the old name."""
    before = store.person("s1", "alice")
    after = store.person("s1", "alicia")
    assert (after.uid, after.gid, after.home) == (before.uid, before.gid, before.home)
    with pytest.raises(NameTakenError, match=r"'alice'.*uid 20000.*qhub-identity release alice"):
        store.person("s2", "alice")
    assert store.person("s1", "alice").name == "alice"


@pytest.mark.parametrize(
    "other", ["alice", "ALICE", "Alice", "ＡＬＩＣＥ", "alıce".replace("ı", "i")]
)
def test_a_name_is_one_persons(store, other):
    """Names that differ in case, or in Unicode forms that look the same, are one name."""
    store.person("s1", "alice")
    with pytest.raises(NameTakenError):
        store.person("s2", other)
    assert store.find("s2") is None


def test_names_that_look_different_are_different(store):
    """No database takes two names for one because of accents, trailing blanks or its collation."""
    names = ["jose", "josé", "jose.", "jose_", "j-ose", "straße", "strase"]
    uids = {store.person(f"s-{name}", name).uid for name in names}
    assert len(uids) == len(names)
    assert store.person_named("josé").sub == "s-josé"


def test_explicit_numbers_win_and_are_kept(store, caplog):
    """A uid, gid or home that an administrator gave wins over what was kept, and stays when it is taken away again."""
    store.person("s1", "alice")
    given = store.person("s1", "alice", uid=5001, gid=7001, home="/h/alice")
    assert (given.uid, given.gid, given.home) == (5001, 7001, "/h/alice")
    assert "'alice' had uid 20000 and gid 20000, and has uid 5001 and gid 7001 now" in caplog.text
    assert store.person("s1", "alice") == given
    with pytest.raises(NumberTakenError, match="'alice'"):
        store.person("s2", "bob", uid=20000)  # it was alice's, and files may have it


@pytest.mark.parametrize("number", [0, -1, 5, 999, 65534, 65535, 2**31, 2**32 - 1, 2**70])
def test_a_reserved_number_is_nobodys(store, number):
    """Numbers of the system, of nobody, and those that no file system keeps are refused, as uid and as gid."""
    for kind in ("uid", "gid"):
        with pytest.raises(NumberTakenError, match=f"the {kind} .*'alice'"):
            store.person("s1", "alice", **{kind: number})
    with pytest.raises(NumberTakenError, match="'/physics'"):
        store.groups([GroupWanted("k", "/physics", gid=number)])
    assert list(store.people()) == []
    assert store.known_groups() == ()


def test_a_number_is_one_persons(store):
    """A uid that somebody has, or had, is refused with their name; the refused person gets nothing."""
    store.person("s1", "alice", uid=5001)
    with pytest.raises(NumberTakenError, match=r"'bob' cannot have the uid 5001.*'alice'"):
        store.person("s2", "bob", uid=5001)
    assert store.find("s2") is None
    assert store.person_named("bob") is None


def test_people_may_share_a_primary_group(store):
    """Several people may have one gid that an administrator gave them, but not the group that another has for themselves."""
    assert {store.person(f"s{at}", f"p{at}", gid=5000).gid for at in range(3)} == {5000}
    own = store.person("s9", "alice")
    with pytest.raises(NumberTakenError, match=r"'bob' cannot have the gid .*'alice' has for"):
        store.person("s10", "bob", gid=own.gid)
    group = store.groups([GroupWanted("k", "/staff", gid=5000)])["k"]
    assert group.gid == 5000
    assert store.person("s11", "carol", gid=5000).gid == 5000


def test_a_group_never_has_the_number_of_somebodys_own_group(store):
    """A gid that a person has for themselves is refused to a group, by the person's name; and the other way round."""
    store.person("s1", "alice", uid=5001)
    with pytest.raises(NumberTakenError, match="'alice'"):
        store.groups([GroupWanted("k", "/physics", gid=5001)])
    store.groups([GroupWanted("k", "/physics", gid=5002)])
    with pytest.raises(NumberTakenError, match="the group '/physics'"):
        store.person("s2", "bob", uid=5002)


def test_homes_are_nobody_elses(store):
    """A home that somebody has or had is refused when it was given, and another is found when it was not."""
    store.person("s1", "alice")
    store.person("s1", "alicia")
    store.release("alice")
    assert store.person("s2", "alice").home == "/home/alice-20001"
    with pytest.raises(NameTakenError, match=r"'/home/alice' .* is that of 'alicia'"):
        store.person("s3", "bob", home="/home/alice")


def test_an_archived_home_may_be_had_again(store):
    """Once a home was archived another person may have its path; who comes back gets a new one."""
    alice = store.person("s1", "alice")
    store.retire("s1")
    store.home_archived("s1")
    assert store.find("s1").home == ""
    store.release("alice")
    assert store.person("s2", "alice").home == alice.home
    back = store.person("s1", "alice2")
    assert (back.uid, back.home, back.retired) == (alice.uid, "/home/alice2", False)


def test_who_is_gone_keeps_everything(store):
    """Somebody whom Keycloak does not know any more is left out, keeps name and numbers, and has them when they are back."""
    alice = store.person("s1", "alice")
    assert store.retire("s1")
    assert not store.retire("s1")
    assert list(store.people()) == []
    assert [each.retired for each in store.people(retired=True)] == [True]
    with pytest.raises(NameTakenError):
        store.person("s2", "alice")
    assert store.person("s3", "carol").uid == alice.uid + 1
    assert store.person("s1", "alice") == alice


def test_a_released_name_comes_with_new_numbers(store):
    """A name that an administrator freed is anybody's; the numbers stay with whom they were given to."""
    before = store.person("s1", "alice")
    assert store.release("Alice").sub == "s1"
    assert store.release("alice") is None
    after = store.person("s2", "alice")
    assert after.uid != before.uid
    assert store.find("s1").retired


def test_a_name_released_with_its_numbers_is_the_same_person(store):
    """After a realm was made anew, the same human being has the same uid under the new sub, once."""
    before = store.person("old", "alice")
    store.release("alice", keep_numbers=True)
    assert not next(iter(store.people())).claimed
    after = store.person("new", "alice")
    assert (after.uid, after.gid, after.home) == (before.uid, before.gid, before.home)
    assert store.find("old") is None
    with pytest.raises(NameTakenError):
        store.person("third", "alice")
    store.release("alice")
    store.add_unclaimed([PersonWanted("", "alice", 6001)])
    store.release("alice", keep_numbers=True)
    assert store.person("fourth", "alice").uid == 6001


def test_only_the_present_name_is_released_with_numbers(store):
    """Numbers do not go with a name that their owner has no more."""
    store.person("s1", "alice")
    store.person("s1", "alicia")
    with pytest.raises(IdentityError, match="'alicia'"):
        store.release("alice", keep_numbers=True)


def test_imported_people_are_claimed_by_name(store):
    """Imported numbers are those of the first person in Keycloak who has that name, and no one else's."""
    store.add_unclaimed([PersonWanted("", "alice", 6001, 100_000, "/old/alice")])
    store.add_unclaimed([PersonWanted("", "alice", 6001, 100_000, "/old/alice")])
    alice = store.person("s1", "alice")
    assert (alice.uid, alice.gid, alice.home) == (6001, 100_000, "/old/alice")
    store.person("s2", "bob")
    with pytest.raises(NameTakenError):
        store.person("s2", "alice")


def test_an_import_is_all_or_nothing(store):
    """All who cannot be imported are named, with why, and nobody is imported then; nor is anybody by a dry run."""
    store.person("s1", "alice")
    people = [
        PersonWanted("", "bob", 6002),
        PersonWanted("", "alice", 6003),
        PersonWanted("", "eve", 5),
    ]
    groups = [GroupWanted("path:/lab", "/lab", 20000)]
    done = store.add_unclaimed(people, groups)
    assert [each.partition(" is ")[0] for each in done.problems] == [
        "'alice'", "the uid (uidNumber) of 'eve'", "the group '/lab' cannot have the gid 20000: it",
    ]  # fmt: skip
    assert done.people == done.groups == {}
    assert store.person_named("bob") is None
    tried = store.add_unclaimed(people[:1], groups=[GroupWanted("path:/lab", "/lab")], dry_run=True)
    assert tried.people["bob"].uid == 6002
    assert tried.new == {"bob", "path:/lab"}
    assert store.person_named("bob") is None
    assert store.known_groups() == ()
    assert store.person("s2", "carl", uid=6002).uid == 6002
    assert store.numbers_given("uid") == {20000, 6002}


def test_imported_groups_are_those_of_their_path(store):
    """An imported group's gid is that of the group of its path, whose key is found later; another number for one that is known is a problem."""
    store.groups([GroupWanted("uuid-b", "/b", 7002)])
    wanted = [GroupWanted("path:/a", "/a", 7001), GroupWanted("path:/b", "/b", 7002)]
    done = store.add_unclaimed([], wanted)
    assert (done.problems, done.new) == ((), {"path:/a"})
    assert store.groups([GroupWanted("uuid-a", "/a")])["uuid-a"].gid == 7001
    assert "gid 7002" in store.add_unclaimed([], [GroupWanted("path:/b", "/b", 7003)]).problems[0]


def test_a_renamed_person_does_not_take_over_an_import(store):
    """Somebody who has numbers does not get those of an import by taking its name."""
    store.person("s1", "alice")
    store.add_unclaimed([PersonWanted("", "bob", 6002)])
    with pytest.raises(NameTakenError):
        store.person("s1", "bob")


@pytest.mark.parametrize(
    "name", ["", "a\nb", "a\0b", "a:b", "a/b", " a", "a\u202eb", "\ud800", "x" * 300]
)
def test_a_name_that_no_account_can_have_is_refused(store, name):
    """Names with separators, control characters, half characters or far too many are an error and never a row."""
    for sub in ("s1", "unclaimed:x", "s1 "):
        with pytest.raises(IdentityError):
            store.person(sub, name if sub == "s1" else "alice")
    with pytest.raises(IdentityError):
        store.person(name.replace("/", "\n").replace(":", "\n"), "alice")
    assert list(store.people(retired=True)) == []


def test_many_people_at_once(store):
    """Many people get numbers in one go; who cannot have them is told apart, and the others still get theirs."""
    store.person("s0", "taken")
    failed: dict[str, IdentityError] = {}
    wanted = [PersonWanted(f"n{at}", f"p{at}") for at in range(250)]
    found = store.persons([*wanted, PersonWanted("bad", "taken")], failed)
    assert list(failed) == ["bad"]
    assert len({each.uid for each in found.values()}) == 250
    assert store.persons(wanted) == found


def test_a_range_that_is_used_up_says_so(store_of):
    """When no number is left the error names the setting; with a larger range it goes on."""
    store = store_of(ranges=Ranges(people=Interval(3000, 3002)))
    store.person("s0", "p0", uid=3001)
    assert [store.person(f"s{at}", f"p{at}").uid for at in (1, 2)] == [3000, 3002]
    with pytest.raises(RangeExhaustedError, match=r"c\.Identities\.uid_range"):
        store.person("s3", "p3")
    larger = store_of(ranges=Ranges(people=Interval(2999, 3003)))
    assert {larger.person(f"s{at}", f"p{at}").uid for at in (3, 4)} == {2999, 3003}


def test_numbers_of_the_machine_are_left_alone(store_of):
    """A number or a name that an account or a group of this machine has is given to nobody else."""

    class Machine:
        def uid_holder(self, number: int) -> str | None:
            return {20000: "adm1", 5001: "alice", 5003: "eve"}.get(number)

        def gid_holder(self, number: int) -> str | None:
            return {20001: "grp1", 50000: "grp2", 5002: "grp3"}.get(number)

        def group_number(self, name: str) -> int | None:
            return 8000 if name == "physics" else None

        def has_account(self, name: str) -> bool:
            return name == "chemistry"

    store = store_of(elsewhere=Machine())
    assert store.person("s1", "bob").uid == 20002
    assert store.person("s2", "alice", uid=5001).uid == 5001
    with pytest.raises(NumberTakenError, match="on this machine 'eve' has it"):
        store.person("s3", "carol", uid=5003)
    with pytest.raises(NumberTakenError, match="on this machine 'grp3' has it"):
        store.person("s4", "dave", uid=5002)
    found = store.groups([GroupWanted("p", "/physics"), GroupWanted("c", "/chemistry")])
    assert found["c"].gid == 50001
    assert {each.unix_name for each in found.values()} == {"chemistry-50001", "physics-50002"}
    assert store.groups([GroupWanted("q", "/Physics", gid=8000)])["q"].unix_name == "physics"


# --- groups


def test_a_group_that_moves_keeps_its_folder(store):
    """A renamed or moved group keeps gid, name and folder, and the result says once where it was."""
    first = store.groups([GroupWanted("k", "/physics/team-a")])["k"]
    assert (first.gid, first.unix_name, first.folder) == (
        50000,
        "physics-team-a",
        "/physics/team-a",
    )
    moved = store.groups([GroupWanted("k", "/chemistry/team-b")])["k"]
    assert (moved.gid, moved.unix_name, moved.folder) == (
        50000,
        "physics-team-a",
        "/physics/team-a",
    )
    assert moved.old_path == "/physics/team-a"
    assert store.groups([GroupWanted("k", "/chemistry/team-b")])["k"].old_path is None
    store.folder_moved({"k": "/chemistry/team-b"})
    assert store.known_groups()[0].folder == "/chemistry/team-b"


def test_no_two_groups_have_one_folder(store):
    """A new group with the path of one that was renamed gets a folder of its own, and so do the groups in it."""
    store.groups([GroupWanted("a", "/a"), GroupWanted("b", "/a/b")])
    wanted = [
        GroupWanted("a", "/old"), GroupWanted("b", "/old/b"),
        GroupWanted("new", "/a"), GroupWanted("newb", "/a/b"), GroupWanted("newc", "/a/c"),
    ]  # fmt: skip
    found = store.groups(wanted)
    assert found["a"].folder == "/a"
    assert found["b"].folder == "/a/b"
    own = found["new"].folder
    assert own == f"/a-{found['new'].gid}"
    assert found["newb"].folder == f"{own}/b"
    assert found["newc"].folder == f"{own}/c"
    assert len({each.unix_name for each in found.values()}) == 5


def test_folders_may_change_places(store):
    """Two groups may exchange their folders in one step; nobody gets one that is another's."""
    store.groups([GroupWanted("a", "/a"), GroupWanted("b", "/b"), GroupWanted("c", "/c")])
    store.folder_moved({"a": "/b", "b": "/a"})
    assert {each.key: each.folder for each in store.known_groups()} == {
        "a": "/b",
        "b": "/a",
        "c": "/c",
    }
    with pytest.raises(NameTakenError, match="'/c'"):
        store.folder_moved({"a": "/c"})
    with pytest.raises(IdentityError):
        store.folder_moved({"nobody": "/d"})


def test_an_archived_folder_may_be_had_again(store):
    """Once a folder was archived, another group may have its path; the group that comes back gets a new one."""
    old = store.groups([GroupWanted("a", "/a")])["a"]
    assert store.retire_group("a")
    assert not store.retire_group("a")
    store.folder_archived("a")
    assert store.known_groups() == ()
    assert store.known_groups(retired=True)[0].retired
    assert store.groups([GroupWanted("b", "/a")])["b"].folder == "/a"
    back = store.groups([GroupWanted("a", "/a")])["a"]
    assert (back.gid, back.folder, back.retired) == (old.gid, f"/a-{old.gid}", False)


def test_a_group_known_by_its_path_is_found_by_its_key(store):
    """What was kept for a group's path is the group's when its key is known, and stays so when it moves."""
    by_path = store.groups([GroupWanted("path:/physics", "/physics")])["path:/physics"]
    by_key = store.groups([GroupWanted("uuid", "/physics")])["uuid"]
    assert (by_key.gid, by_key.folder) == (by_path.gid, by_path.folder)
    assert [each.key for each in store.known_groups()] == ["uuid"]


def test_one_bad_group_does_not_stop_the_others(store, caplog):
    """A group whose number is another's is left out and told in the log; asked strictly, nobody gets one."""
    store.person("s1", "alice", uid=5001)
    wanted = [GroupWanted("bad", "/bad", gid=5001), GroupWanted("good", "/good")]
    with pytest.raises(NumberTakenError):
        store.groups(wanted)
    assert store.known_groups() == ()
    assert list(store.groups(wanted, strict=False)) == ["good"]
    assert "'/bad'" in caplog.text
    assert "'alice'" in caplog.text


def test_paths_of_any_letters(store):
    """Long paths and those of other scripts are kept as they are, in every database."""
    paths = ["/Fysik/Ångström", "/物理/チーム", "/a b/c.d", "/" + "x" * 900, "/😀", "/Ångström"]
    found = store.groups(GroupWanted(f"key {path}", path) for path in paths)
    assert {each.path for each in found.values()} == set(paths)
    assert {each.path for each in store.known_groups()} == set(paths)
    assert len({each.unix_name for each in found.values()}) == len(paths)
    assert all(len(each.unix_name) <= 32 for each in found.values())


# --- what else is kept


def test_cursors(store, store_of):
    """A cursor is kept for whoever asks by its name, whatever its length."""
    assert store.cursor("events") is None
    store.set_cursor("events", "1")
    store.set_cursor("other", "x" * 100_000)
    store.set_cursor("events", "2")
    assert store_of().cursor("events") == "2"
    assert len(store.cursor("other")) == 100_000


def test_a_token_is_used_once(store_of):
    """Of any number of callers at once exactly one is the first to use a token."""
    stores = [store_of() for _ in range(4)]
    until = datetime.now(UTC) + timedelta(minutes=5)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda at: stores[at % 4].first_use("jti", until), range(32)))
    assert sum(answers) == 1
    assert stores[0].first_use("another " + "x" * 2000, until)


def test_used_tokens_are_forgotten_when_they_are_of_no_use(store):
    """What was noted of a token goes away once nobody takes it any more."""
    assert store.first_use("old", datetime.now(UTC) - timedelta(minutes=5))
    assert store.first_use("new", datetime.now(UTC) + timedelta(minutes=5))
    with store.database.reading() as transaction:
        rows = transaction.execute(sa.text("SELECT count(*) FROM qhub_identity_tokens")).scalar()
    assert rows == 1


def test_sessions(store, store_of):
    """Who came in by a session is known until it ends, by whatever process."""
    store.remember_session("sid", "s1", "alice")
    store.remember_session("sid", "s1", "alice")
    store.remember_session("sid", "s2", "bob")
    store.remember_session("SID", "s3", "carol")
    assert store_of().names_of_session("sid") == ("alice", "bob")
    store_of().forget_session("sid")
    assert store.names_of_session("sid") == ()
    assert store.names_of_session("SID") == ("carol",)


# --- among processes, and when the database is not there


def test_processes_never_collide(address):
    """Eight processes that give numbers to a hundred people each, at once and on an empty database, give each their own; those whom all want get one number."""
    command = [sys.executable, "-c", CLAIMANT, address]
    processes = [
        subprocess.Popen([*command, str(at), str(PEOPLE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for at in range(PROCESSES)
    ]  # fmt: skip
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        start = time.monotonic()
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [json.loads(process.communicate(timeout=300)[0]) for process in processes]
        seconds = time.monotonic() - start
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
    own = [pair for each in answers for key, pair in each.items() if key.startswith("sub-")]
    assert len({uid for uid, _ in own}) == len(own) == PROCESSES * PEOPLE
    assert all(uid == gid for uid, gid in own)
    for key in answers[0].keys() - {key for key in answers[0] if key.startswith("sub-")}:
        assert len({tuple(each[key]) for each in answers}) == 1
    everybody = {tuple(pair) for each in answers for pair in each.values()}
    assert len({gid for _, gid in everybody}) == len(everybody) == PROCESSES * PEOPLE + 20
    print(f"{address.partition(':')[0]}: {len(everybody)} numbers in {seconds:.1f} s")


def test_threads_share_a_store(store):
    """Threads of one process may use one store at the same time."""
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda at: store.person(f"s{at % 40}", f"p{at % 40}"), range(160)))
    assert len({each.uid for each in found}) == 40


def test_a_newer_version_is_left_alone(store, store_of):
    """Tables that a later version made are not touched: the error says what to do."""
    store.person("s1", "alice")
    with store.database.reading() as transaction:
        transaction.execute(
            sa.text("UPDATE qhub_identity_state SET value='2' WHERE name='version'")
        )
        transaction.commit()
    with pytest.raises(IdentityError, match="version '2'.*version 1"):
        store_of().person("s1", "alice")


@pytest.mark.parametrize("database", ["postgresql", "mariadb"])
def test_a_database_that_is_down_is_an_error_and_heals(request, database):
    """While the database is down everybody gets an error that names it without its password, nobody a number; afterwards all is as before."""
    server = request.getfixturevalue(database)
    store = IdentityStore(server.make(), ranges=Ranges())
    alice = store.person("s1", "alice")
    server.pause()
    try:
        for attempt in (
            lambda: store.person("s1", "alice"),
            lambda: store.person("s2", "bob"),
            store.known_groups,
            lambda: store.first_use("a", datetime.now(UTC)),
        ):
            start = time.monotonic()
            with pytest.raises(IdentityUnavailableError, match=f"{server.port}") as refused:
                attempt()
            assert server.password not in str(refused.value)
            assert time.monotonic() - start < 20
    finally:
        server.resume()
    assert store.person("s1", "alice") == alice
    assert store.person("s2", "bob").uid == alice.uid + 1
    store.close()


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    """A SQLite file in a folder that is not there, or that is no database, is an error that names it."""
    for name, content in (
        ("absent/x.sqlite", None),
        ("other.sqlite", b"this is no database" * 100),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        store = IdentityStore(f"sqlite:///{path}", ranges=Ranges())
        with pytest.raises(IdentityUnavailableError, match=path.name):
            store.person("s1", "alice")
        store.close()


def test_a_writer_that_holds_the_lock_delays_and_does_not_break(store, store_of):
    """A second writer waits for the first one, and then sees what it has written."""
    holds, go_on = threading.Event(), threading.Event()

    def slowly(transaction):
        transaction.execute(
            sa.text("INSERT INTO qhub_identity_state (name, value) VALUES ('x', '1')")
        )
        holds.set()
        assert go_on.wait(20)

    store.cursor("open it")
    first = threading.Thread(target=lambda: store.database.writing(slowly))
    first.start()
    assert holds.wait(20)
    second = store_of()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second.person, "s1", "alice")
        assert second.find("s1") is None  # readers do not wait
        go_on.set()
        assert waiting.result(30).uid == 20000
    first.join(20)


def test_the_file_is_ours_alone(tmp_path):
    """A new SQLite file can be read by its owner only."""
    store = IdentityStore(f"sqlite:///{tmp_path}/i.sqlite", ranges=Ranges())
    store.person("s1", "alice")
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    store.close()
