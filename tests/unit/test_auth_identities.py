"""`Identities`: settings, this machine's own accounts, and who is refused."""

from __future__ import annotations

import contextlib
import getpass
import grp
import io
import json
import os
import pwd
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from traitlets import TraitError

from qhub_auth.commands import main
from qhub_auth.directory import Directory, Group, PersonFacts
from qhub_auth.errors import (
    ConfigurationError,
    IdentityError,
    IdentityUnavailableError,
    NameTakenError,
    NumberTakenError,
)
from qhub_auth.numbers.addresses import settings_folder
from qhub_auth.numbers.host_accounts import Account, HostAccounts
from qhub_auth.numbers.identities import Identities
from qhub_auth.numbers.store import PersonWanted

NOBODY = Directory()
ALICE = Account("alice", 5001, 5100, "/clusterhome/alice")


class Machine(HostAccounts):
    """A machine that has alice, and a daemon's account."""

    def any_account(self, name: str) -> Account | None:
        return {"alice": ALICE, "backupd": Account("backupd", 500, 500, "/")}.get(name)

    def uid_holder(self, number: int) -> str | None:
        return "alice" if number == 5001 else None

    def gid_holder(self, number: int) -> str | None:
        return {5100: "science"}.get(number)

    def group_number(self, name: str) -> int | None:
        return {"science": 5100}.get(name)


@pytest.fixture
def identities_with():
    """Make `Identities` on that machine."""
    made: list[Identities] = []

    def make(**settings) -> Identities:
        identities = Identities(**{"database_url": "sqlite://", "nss_folder": "", **settings})
        identities.host = Machine()
        made.append(identities)
        return identities

    yield make
    for each in made:
        each.store.close()


def facts(name: str = "alice", **more) -> PersonFacts:
    return PersonFacts(sub=f"sub-{name}", name=name, **more)


# --- accounts of this machine


def test_who_signs_up_does_not_become_an_account(identities_with):
    """By default a name that an account of the machine has is refused, with both remedies, and nothing is kept."""
    identities = identities_with()
    with pytest.raises(
        NameTakenError, match=r"'alice'.*uid 5001.*uidNumber 5001.*--getent.*'adopt'"
    ):
        identities.resolve(facts(), NOBODY)
    assert identities.store.find("sub-alice") is None
    assert identities.resolve(facts("bob"), NOBODY).uid == 20000


def test_who_is_the_account_by_keycloaks_word_is_it(identities_with):
    """Where Keycloak gives the account's own uid they are that account, and get its group and home as well."""
    identity = identities_with().resolve(facts(uid=5001), NOBODY)
    assert (identity.uid, identity.gid, identity.home) == (5001, 5100, "/clusterhome/alice")


def test_who_was_imported_is_the_account(identities_with):
    """Where the account was imported the first person of that name is it."""
    identities = identities_with()
    identities.store.add_unclaimed([PersonWanted("", "alice", 5001, 5100, "/clusterhome/alice")])
    identity = identities.resolve(facts(), NOBODY)
    assert (identity.uid, identity.gid, identity.home) == (5001, 5100, "/clusterhome/alice")


def test_another_number_than_the_machines_is_refused(identities_with):
    """Where Keycloak and the machine say different uids for one name nobody guesses, whatever the policy."""
    for policy in ("refuse", "adopt"):
        with pytest.raises(NumberTakenError, match=r"uid 5001, and Keycloak gives them uid 6001"):
            identities_with(host_accounts=policy).resolve(facts(uid=6001), NOBODY)


def test_adopted_accounts(identities_with):
    """With `adopt` everybody is the account of their name, but nobody becomes one with a reserved number."""
    identities = identities_with(host_accounts="adopt")
    identity = identities.resolve(facts(), NOBODY)
    assert (identity.uid, identity.gid, identity.home) == (5001, 5100, "/clusterhome/alice")
    with pytest.raises(NameTakenError, match="'backupd'.*reserved"):
        identities.resolve(facts("backupd"), NOBODY)
    assert identities.resolve(facts("bob"), NOBODY).uid == 20000


def test_ignored_accounts(identities_with):
    """With `ignore` names are not compared, and the machine's numbers are still nobody else's."""
    identities = identities_with(host_accounts="ignore", uid_range="5001-5002")
    assert identities.resolve(facts(), NOBODY).uid == 5002


def test_a_known_person_is_not_asked_about_again(identities_with):
    """Who has numbers comes in without the machine being asked, as quickly with 10,000 accounts as with none."""
    identities = identities_with(host_accounts="adopt")
    before = identities.resolve(facts(), NOBODY)
    identities.host.any_account = None  # type: ignore[assignment,method-assign]
    assert identities.resolve(facts(), NOBODY) == before


def test_our_own_files_are_not_the_machine(tmp_path, monkeypatch):
    """Accounts that we wrote ourselves are not taken for the machine's own."""
    me = pwd.getpwuid(os.getuid())
    host = HostAccounts(tmp_path)
    assert host.account(me.pw_name) == Account(me.pw_name, me.pw_uid, me.pw_gid, me.pw_dir)
    (tmp_path / "passwd").write_text(f"{me.pw_name}:x:{me.pw_uid}:1::/:/bin/sh\n")
    assert host.account(me.pw_name) is None
    (tmp_path / "passwd").write_text(f"{me.pw_name}:x:{me.pw_uid + 1}:1::/:/bin/sh\n")
    assert host.account(me.pw_name) is not None
    own = grp.getgrgid(os.getgid())
    assert host.group(own.gr_name) == own.gr_gid
    (tmp_path / "group").write_text(f"{own.gr_name}:x:{own.gr_gid}:\n")
    assert host.group(own.gr_name) is None
    assert host.group_number(own.gr_name) == own.gr_gid


@pytest.mark.parametrize("name", ["", "no-such-account", "a\0b", "\ud800", "x" * 5000, "a:b"])
def test_any_name_may_be_looked_up(name):
    """Asking the system for any text ends with an account or with none."""
    host = HostAccounts()
    assert host.account(name) is None
    assert host.group_number(name) is None
    assert not host.has_account(name)


@pytest.mark.parametrize("number", [2**31 - 7, 2**32 - 7, 2**40, -7])
def test_any_number_may_be_looked_up(number):
    """Asking the system for any number ends with an account or with none."""
    assert HostAccounts().uid_holder(number) is None
    assert HostAccounts().gid_holder(number) is None


def test_the_real_machine(tmp_path):
    """On this machine nobody becomes the account that runs the test, and root's number is nobody's."""
    identities = Identities(database_url=f"sqlite:///{tmp_path}/i.sqlite")
    with pytest.raises(NameTakenError):
        identities.resolve(facts(getpass.getuser()), NOBODY)
    with pytest.raises(NumberTakenError):
        identities.resolve(facts("zoe", uid=0), NOBODY)
    identities.store.close()


# --- names, homes, groups


@pytest.mark.parametrize("name", ["root", "Root", "slurm", "nobody", "ＲＯＯＴ"])
def test_reserved_names(identities_with, name):
    """Names of accounts by which systems run themselves are nobody's, on machines that lack them, too."""
    with pytest.raises(NameTakenError, match=r"c\.Identities\.reserved_names"):
        identities_with(host_accounts="ignore").resolve(facts(name), NOBODY)


def test_homes(identities_with):
    """A home that was given wins, the setting's form is for the others, and no home leads elsewhere."""
    identities = identities_with(home="/srv/homes/{name}")
    assert identities.resolve(facts("bob"), NOBODY).home == "/srv/homes/bob"
    assert identities.resolve(facts("carl", home="/data/carl"), NOBODY).home == "/data/carl"
    with pytest.raises(IdentityError, match=r"home of 'dora'"):
        identities.resolve(facts("dora", home="/data/../etc"), NOBODY)
    other = identities_with(use_home_directory=False)
    assert other.resolve(facts("carl", home="/data/carl"), NOBODY).home == "/home/carl"


def test_one_wrong_group_locks_nobody_out(identities_with, caplog):
    """A group whose number is nobody's, or no number, gives nothing; who is in it comes in all the same, and the log says why."""
    groups = {
        "/bad": Group("1", "/bad", {"share": ("rw",), "gid": ("65534",)}),
        "/worse": Group("2", "/worse", {"share": ("rw",), "gid": ("seven",)}),
        "/a~/b": Group("3", "/a~/b", {"share": ("rw",)}),
        "/good": Group("4", "/good", {"share": ("rw",)}),
    }
    identities = identities_with()
    identity = identities.resolve(facts("bob", groups=frozenset(groups)), Directory(groups=groups))
    assert [each.path for each in identity.groups] == ["/good"]
    assert identity.gids == (20000, 50000)
    assert {path for path in groups if repr(path) in caplog.text} >= {"/bad", "/worse", "/a~/b"}


def test_a_renamed_groups_folder_is_where_it_was(identities_with):
    """Until the folder of a renamed group has been moved its members have it where it is."""
    identities = identities_with()
    before = Directory(groups={"/a": Group("1", "/a", {"share": ("rw",)})})
    bob = facts("bob", groups=frozenset({"/a"}))
    assert identities.resolve(bob, before).groups[0].path == "/a"
    after = Directory(groups={"/b": Group("1", "/b", {"share": ("rw",)})})
    moved = facts("bob", groups=frozenset({"/b"}))
    found = identities.resolve(moved, after).groups[0]
    assert (found.path, found.gid) == ("/a", 50000)
    identities.store.folder_moved({"1": "/b"})
    assert identities.resolve(moved, after).groups[0].path == "/b"


def test_errors_of_some_do_not_stop_others(identities_with):
    """Of many people at once those who cannot be told come out as their error, and the others with their numbers."""
    everybody = [facts("bob"), facts("root"), facts("carl", uid=70_000), facts("dora", uid=70_000)]
    found = identities_with().resolve_all(everybody, NOBODY)
    kinds = {sub: type(each).__name__ for sub, each in found.items()}
    assert kinds == {
        "sub-bob": "Identity",
        "sub-root": "NameTakenError",
        "sub-carl": "Identity",
        "sub-dora": "NumberTakenError",
    }


# --- settings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"uid_range": "many"}, r"c\.Identities\.uid_range: 'many'"),
        ({"gid_range": "5-1"}, r"c\.Identities\.gid_range: '5-1'"),
        ({"reserved": ["0-x"]}, r"c\.Identities\.reserved: '0-x'"),
        ({"uid_range": "0-999"}, r"range 0-999 for people is reserved"),
        ({"database_url": "nonsense"}, r"c\.Identities\.database_url: expected .*sqlite:"),
        ({"database_url": "oracle://h/d"}, r"c\.Identities\.database_url"),
        ({"database_password_file": "/no/such/file"}, r"c\.Identities\.database_password_file"),
    ],
)
def test_wrong_settings_are_named(settings, words):
    """A wrong setting is an error that names it and what would be accepted."""
    with pytest.raises(ConfigurationError, match=words):
        _ = Identities(**{"database_url": "sqlite://", **settings}).store


@pytest.mark.parametrize(
    "home",
    [
        "/home",
        "home/{name}",
        "/home/{user}",
        "/home/{name",
        "/ho me/{name}",
        "/home/{name}/..",
        "{name.__class__}",
        "/home/{}",
    ],
)
def test_wrong_forms_of_homes(home):
    """A form without the name, or that makes no path, is refused when it is set."""
    with pytest.raises(TraitError, match=r"c\.Identities\.home"):
        Identities(home=home)


def test_a_missing_driver_is_named(monkeypatch):
    """Where the driver of a database is not installed the error says what to install, and not the password."""
    for module, extra in (("psycopg", "postgresql"), ("pymysql", "mariadb")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(
            ConfigurationError,
            match=rf"{module}, the driver for {extra}.*'\./packages/qhub_auth\[{extra}\]'",
        ) as refused:
            _ = Identities(database_url=f"{extra}://hub:s3cret@h/d").store
        assert "s3cret" not in str(refused.value)


def test_the_password_comes_from_a_file(tmp_path):
    """The password of the file is used as it is, whatever characters it has, and is never in a message."""
    secret = tmp_path / "password"
    secret.write_text("p@ss/w:rd\n")
    identities = Identities(
        database_url="postgresql://hub@127.0.0.1:1/hub", database_password_file=str(secret)
    )
    store = identities.store
    assert store.database.url.password == "p@ss/w:rd"
    assert "p@ss" not in store.database.shown
    assert "p%40ss" not in store.database.shown


def test_one_store_for_all(identities_with):
    """Everybody who has the settings has the same connections, however often they ask."""
    identities = identities_with()
    assert identities.store is identities.store


def test_a_database_that_is_not_there_gives_nobody_a_number(tmp_path: Path):
    """Without its database nobody gets an identity, and the error names the setting."""
    identities = Identities(database_url=f"sqlite:///{tmp_path}/no/such/folder/i.sqlite")
    with pytest.raises(IdentityUnavailableError, match=r"c\.Identities\.database_url"):
        identities.resolve(facts("bob"), NOBODY)


# --- where the database is


def run(*words):
    """What `qhub-identity` says, and how it ends."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main(list(words))
    return int(ended.value.code or 0), out.getvalue() + err.getvalue()


@pytest.fixture
def settings(tmp_path):
    """A settings file with the default database, and a folder beside it to run things in."""
    path = tmp_path / "site" / "auth.py"
    path.parent.mkdir()
    (tmp_path / "elsewhere").mkdir()
    path.write_text(
        "c = get_config()\nc.Keycloak.issuer = 'http://127.0.0.1:9/realms/r'\n"
        "c.Keycloak.client_id, c.Keycloak.client_secret = 'hub', 'x'\n"
        "c.Identities.host_accounts, c.Identities.nss_folder = 'ignore', ''\n"
    )
    return path


def test_one_database_wherever_a_command_runs(settings, tmp_path, monkeypatch):
    """The default database is beside the settings file: the hub and a timer in another folder give nobody another number."""
    people = tmp_path / "people.json"
    for folder, names in (("site", ["alice", "bob"]), ("elsewhere", ["bob", "alice"])):
        people.write_text(json.dumps({"users": [{"username": each} for each in names]}))
        monkeypatch.chdir(tmp_path / folder)
        code, said = run("--config", str(settings), "import", "--realm", str(people))
        assert code == 0, said
        assert "uid 20000" in next(line for line in said.splitlines() if "alice" in line)
    monkeypatch.chdir("/")
    hub = SimpleNamespace(config_file=str(settings), parent=None)
    assert settings_folder(SimpleNamespace(parent=hub)) == settings.parent
    assert settings_folder(SimpleNamespace(parent=None)) == Path("/")
    files = {each.name for each in tmp_path.rglob("*.sqlite")}
    assert files == {"qhub_identity.sqlite"}
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("words", [["show", "alice"], ["nss"], ["audit"], ["ensure-dirs"]])
def test_what_only_reads_makes_no_database(settings, monkeypatch, words):
    """It names the file that is missing, before it asks anybody anything."""
    monkeypatch.chdir(settings.parent.parent / "elsewhere")
    code, said = run("--config", str(settings), *words)
    assert code == 1
    assert f"no file {settings.parent}/qhub_identity.sqlite" in said
    assert [each.name for each in settings.parent.iterdir()] == ["auth.py"]


def test_a_database_of_before_is_not_passed_over(settings, tmp_path, monkeypatch):
    """Where there is one in the working directory and none beside the settings, nobody gets a number until it is moved."""
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "qhub_identity.sqlite").touch()
    code, said = run("--config", str(settings), "import", "--passwd", "/dev/null")
    assert code == 1
    assert f"there is {tmp_path}/elsewhere/qhub_identity.sqlite" in said
    assert not (settings.parent / "qhub_identity.sqlite").exists()
