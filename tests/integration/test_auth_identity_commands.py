"""`qhub-identity` on a real Keycloak: numbers, files for the name service, import, audit, write-back."""

from __future__ import annotations

import contextlib
import io
import json
import stat
import subprocess
import sys
import unittest.mock
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qhub_auth.commands import main
from tests.conftest import missing
from tests.systems.extrausers import ExtraUsers
from tests.systems.folders import FolderSite
from tests.systems.processes import SystemUnavailableError


class Office:
    """An administrator's seat: settings in a folder, and the command."""

    def __init__(self, folder: Path, realm: Any, **settings: object) -> None:
        self.folder, self.realm = folder, realm
        self.nss = folder / "extrausers"
        values = {
            "Keycloak.issuer": realm.issuer,
            "Keycloak.client_id": realm.client_id,
            "Keycloak.client_secret": realm.client_secret,
            "Keycloak.service_client_id": realm.service_client_id,
            "Keycloak.service_client_secret": realm.service_secret,
            "KeycloakAuthenticator.allow_all": True,
            "Identities.database_url": f"sqlite:///{folder}/identity.sqlite",
            "Identities.nss_folder": str(self.nss),
            "Identities.shared_root": str(folder / "shared"),
            "Identities.home": str(folder / "home" / "{name}"),
            "Identities.host_accounts": "ignore",
            **settings,
        }
        lines = [f"c.{name} = {value!r}" for name, value in values.items()]
        self.settings = folder / "qhub_auth_config.py"
        self.settings.write_text("c = get_config()\n" + "\n".join(lines) + "\n")

    def run(self, *words: str, text: str | None = None) -> tuple[int, str, str]:
        """Run `qhub-identity` in this process, as its entry point does."""
        out, err = io.StringIO(), io.StringIO()
        given = io.TextIOWrapper(io.BytesIO((text or "").encode()))
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            unittest.mock.patch.object(sys, "stdin", given),
            pytest.raises(SystemExit) as ended,
        ):
            main(["--config", str(self.settings), *words])
        for secret in (self.realm.client_secret, self.realm.service_secret):
            assert secret not in out.getvalue() + err.getvalue()
        return int(ended.value.code or 0), out.getvalue(), err.getvalue()

    def said(self, *words: str, code: int = 0, text: str | None = None) -> str:
        """What it says on standard output; on standard error if it could not do it."""
        ended, out, err = self.run(*words, text=text)
        assert ended == code, out + err
        return out or err

    def lines(self, name: str) -> dict[str, list[str]]:
        """The fields of a written file by the first one."""
        rows = (row.split(":") for row in (self.nss / name).read_text().splitlines())
        return {row[0]: row for row in rows}


@pytest.fixture
def office_with(tmp_path: Path, make_realm: Callable[..., Any]) -> Callable[..., Office]:
    """Make a realm of the demo's kind, and a seat to administer it from."""

    def make(*, realm: Any = None, **settings: object) -> Office:
        return Office(tmp_path, realm or make_realm(), **settings)

    return make


def test_numbers_before_anybody_comes(office_with: Callable[..., Office]) -> None:
    """`sync` gives everybody and every group a number once; a dry run gives none; `show` shows them, and changes nothing."""
    office = office_with()
    assert "5 would get some" in office.said("sync", "--dry-run")
    assert "has no numbers" in office.said("show", "alice", code=1)
    said = office.said("sync")
    assert "0 people have numbers, 5 got some" in said
    assert "4 groups have a number" in said
    assert "5 people have numbers, 0 got some" in office.said("sync")
    alice = json.loads(office.said("show", "alice", "--json"))
    carol = json.loads(office.said("show", "carol", "--json"))
    folders = {each["path"]: each["access"] for each in alice["identity"]["groups"]}
    assert folders == {"/physics": "rw", "/physics/team-a": "rw"}
    assert 7001 in alice["identity"]["gids"]  # the group's own, from Keycloak
    assert {each["access"] for each in carol["identity"]["groups"]} == {"ro"}
    assert not {7001} & set(carol["identity"]["gids"])
    assert "dask_user" in alice["identity"]["roles"]
    assert "rw /physics/team-a by physics-team-a (7001)" in office.said("show", "alice")


def test_numbers_of_keycloak_win_and_are_written_back(
    office_with: Callable[..., Office], make_realm: Callable[..., Any]
) -> None:
    """Numbers go into Keycloak's attributes where there are none, other attributes stay, and a hub with an empty database gets the same ones from there."""
    from tests.systems.keycloak import demo_model

    service = {**demo_model().model_dump()["service"], "write_back": True}
    realm = make_realm(service=service)
    office = office_with(realm=realm)
    sub = realm.admin.sub("alice")
    said = office.said("sync", "--write-back")
    assert "8 people and groups were written back" in said  # team-a has its own
    user = realm.admin.api.get(f"/admin/realms/{realm.name}/users/{sub}")
    alice = json.loads(office.said("show", "alice", "--json"))["person"]
    assert user["attributes"]["uidNumber"] == [str(alice["uid"])]
    assert user["attributes"]["gidNumber"] == [str(alice["gid"])]
    assert (user["email"], user["firstName"]) == ("alice@example.org", "Alice")
    assert "0 people and groups were written back" in office.said("sync", "--write-back")
    everybody = {name: office.said("show", name, "--json") for name in ("alice", "bob", "dave")}
    (office.folder / "identity.sqlite").unlink()
    office.said("sync")
    for name, before in everybody.items():
        after = json.loads(office.said("show", name, "--json"))
        assert after["identity"] == json.loads(before)["identity"]


def test_without_the_right_to_write(office_with: Callable[..., Office]) -> None:
    """A service account that may not write says so once, with the role it lacks, and everything else is done."""
    said = office_with().said("sync", "--write-back", code=1)
    assert "5 got some" in said
    assert said.count("problem:") == 1
    assert "403" in said


def test_files_for_the_name_service(office_with: Callable[..., Office]) -> None:
    """passwd and group have everybody with numbers and who is in which group; the same again is the same file; who is disabled has no shell and no groups, who is gone is not there."""
    office = office_with()
    office.said("sync")
    assert "5 people and 4 groups" in office.said("nss")
    assert office.lines("passwd")["alice"][2:] == [
        *office.lines("passwd")["alice"][2:4], "", str(office.folder / "home" / "alice"), "/bin/bash",
    ]  # fmt: skip
    groups = {name: row[3] for name, row in office.lines("group").items() if row[3]}
    assert groups == {
        "physics": "alice,bob,dave",
        "physics-team-a": "alice,bob",
        "physics-team-a-readers": "carol",
    }
    before = {path.name: path.stat().st_mtime_ns for path in office.nss.iterdir()}
    assert "nothing changed" in office.said("nss")
    assert {path.name: path.stat().st_mtime_ns for path in office.nss.iterdir()} == before
    office.realm.admin.disable("bob")
    office.realm.admin.delete("dave")
    office.said("nss")
    assert office.lines("passwd")["bob"][6] == "/usr/sbin/nologin"
    assert office.lines("group")["physics"][3] == "alice"
    assert "dave" not in office.lines("passwd")


def test_keycloak_down_removes_nobody(office_with: Callable[..., Office]) -> None:
    """Without an answer of Keycloak's every command that needs one says so, and files and numbers stay."""
    office = office_with()
    office.said("sync")
    office.said("nss")
    before = {path.name: path.read_bytes() for path in office.nss.iterdir()}
    away = Office(office.folder, office.realm, **{"Keycloak.issuer": "http://127.0.0.1:9/realms/x"})
    for words in (["sync"], ["nss"], ["audit"], ["show", "alice"]):
        assert away.said(*words, code=1).startswith("qhub-identity: ")
    assert {path.name: path.read_bytes() for path in office.nss.iterdir()} == before


def test_an_emptied_realm_removes_nobody(
    office_with: Callable[..., Office], make_realm: Callable[..., Any]
) -> None:
    """A Keycloak that suddenly knows nobody retires nobody and empties no file, until somebody insists."""
    people = [{"name": f"p{at}", "password": f"p{at}-demo"} for at in range(12)]
    office = office_with(realm=make_realm(people=people))
    office.said("sync")
    office.said("nss")
    empty = make_realm(people=[], groups=[], roles=[])
    later = Office(office.folder, empty)
    assert "does not know 12 of the 12 people" in later.said("sync", code=1)
    assert "would have 0" in later.said("nss", code=1)
    assert "p3" in later.lines("passwd")
    assert "gone  p3" in later.said("sync", "--force")


def test_renamed_and_gone(office_with: Callable[..., Office]) -> None:
    """A renamed person and a renamed group keep their numbers, home and folder; who is deleted is gone, and comes back as somebody else unless an administrator says that it is them."""
    office, admin = office_with(), None
    admin = office.realm.admin
    office.said("sync")
    before = {name: json.loads(office.said("show", name, "--json")) for name in ("alice", "bob")}
    admin.rename("alice", "alicia")
    admin.rename_group("/physics", "physik")
    office.said("sync")
    alicia = json.loads(office.said("show", "alicia", "--json"))
    assert alicia["person"]["uid"] == before["alice"]["person"]["uid"]
    assert alicia["person"]["home"] == before["alice"]["person"]["home"]
    assert alicia["identity"]["gids"] == before["alice"]["identity"]["gids"]
    assert alicia["identity"]["groups"] == before["alice"]["identity"]["groups"]
    said = office.said("audit", "--no-machine", "--no-folders", code=1)
    assert "its folder is still that of '/physics'" in said
    admin.delete("bob")
    admin.add_person("bob", groups=["/physik"])
    said = office.said("sync", code=1)
    assert "gone  bob" in said
    assert "qhub-identity release bob" in said
    assert "uid" in office.said("release", "bob", "--keep-numbers")
    office.said("sync")
    bob = json.loads(office.said("show", "bob", "--json"))
    assert bob["person"]["uid"] == before["bob"]["person"]["uid"]
    assert bob["person"]["sub"] != before["bob"]["person"]["sub"]
    assert "is nobody's" in office.said("release", "somebody", code=1)


def test_import(office_with: Callable[..., Office]) -> None:
    """Accounts of a passwd file are tried, then imported, and are those of Keycloak's people of these names; one that cannot be stops all."""
    office = office_with()
    passwd = (
        "alice:x:5001:5001::/old/alice:/bin/sh\nbob:x:5002:100::/old/bob:/bin/sh\nroot:x:0:0::/:/\n"
    )
    said = office.said("import", "--passwd", "-", text=passwd, code=1)
    assert "gid (gidNumber) of 'bob' is 100, which is reserved" in said
    assert "nothing was imported" in said
    words = ["import", "--passwd", "-", "--own-groups"]
    assert "would import 2 people" in office.said(*words, "--dry-run", text=passwd)
    assert "has no numbers" in office.said("show", "alice", code=1)
    said = office.said(*words, text=passwd)
    assert "imported 2 people and 0 groups, 2 of them new" in said
    assert "1 accounts and groups with reserved numbers" in said
    assert "0 of them new" in office.said(*words, text=passwd)
    assert "was imported, and never came" in office.said("show", "alice")
    office.said("sync")
    alice = json.loads(office.said("show", "alice", "--json"))["person"]
    assert (alice["uid"], alice["gid"], alice["home"]) == (5001, 5001, "/old/alice")
    taken = "zoe:x:5001:5001::/old/zoe:/bin/sh\n"
    assert "'zoe' cannot have the uid 5001: it is that of 'alice'" in office.said(
        *words, text=taken, code=1
    )
    assert "line 1" in office.said(*words, text="nonsense\n", code=1)
    for other in (
        ["import"],
        ["import", "--passwd", "/no/such/file"],
        ["import", "--passwd", "-", "--group", "-"],
    ):
        assert office.said(*other, code=1).startswith("qhub-identity: ")


def test_audit(office_with: Callable[..., Office]) -> None:
    """`audit` finds what differs between Keycloak, numbers and folders, and its exit code tells whether something is wrong."""
    office = office_with()
    assert "no database of numbers" in office.said("audit", code=1)
    office.said("import", "--passwd", "/dev/null")
    assert "no numbers yet" in office.said("audit", "--no-machine", "--no-folders")
    office.said("audit", "--no-machine", "--no-folders", "--strict", code=1)
    office.said("sync")
    assert (
        office.said("audit", "--no-machine", "--no-folders", "--strict") == "0 wrong, 0 missing\n"
    )
    missing_ = json.loads(office.said("audit", "--json"))  # this machine is to be ignored
    assert {each["kind"] for each in missing_ if "'carol'" in each["subject"]} == {"missing"}
    alice = json.loads(office.said("show", "alice", "--json"))["person"]
    Path(alice["home"]).mkdir(parents=True, mode=0o755)
    said = office.said("audit", "--no-machine", code=1)
    assert f"{alice['home']} has mode 755, and should have 700" in said
    office.realm.admin.update_group("/biology", {"share": ["rw"], "gid": ["8001"]})
    office.realm.admin.delete("erin")
    said = office.said("audit", "--no-machine", "--no-folders", code=1)
    assert "gid is 8001 in Keycloak" in said
    assert "'erin': has numbers, and Keycloak does not know them any more" in said


@pytest.fixture
def folder_site() -> Iterator[FolderSite]:
    """A place for homes and shared folders, and the installed command that makes them."""
    try:
        site = FolderSite(gids=[[50000, 50099], [7001, 7001]])
    except SystemUnavailableError as error:
        missing("root", error)
    yield site
    site.remove()


def test_everybodys_folders(office_with: Callable[..., Office], folder_site: FolderSite) -> None:
    """`ensure-dirs` makes all homes and shared folders, a dry run none; the folder of a renamed group is moved with all in it, and one that is in the way is told and stays."""
    homes, shared = folder_site.homes, folder_site.shared
    office = office_with(**{
        "Folders.command": [str(folder_site.command)],
        "Folders.home_root": str(homes),
        "Identities.home": f"{homes}/{{name}}",
        "Identities.shared_root": str(shared),
    })  # fmt: skip
    office.said("sync")
    assert "would" in office.said("ensure-dirs", "--dry-run")
    assert not list(homes.iterdir())
    office.said("ensure-dirs")
    assert {path.name for path in homes.iterdir() if path.name[0] != "."} == {
        "alice",
        "bob",
        "carol",
        "dave",
        "erin",
    }
    assert office.said("audit", "--strict") == "0 wrong, 0 missing\n"
    alice = json.loads(office.said("show", "alice", "--json"))["person"]
    (shared / "physics/team-a/kept").write_text("kept")
    again = office.said("ensure-dirs")
    assert "done" not in again
    assert "as they should be" in again
    (homes / "dave").chmod(0o755)
    assert "home/dave has mode 755, and should have 700" in office.said("audit", code=1)
    (homes / "dave").chmod(0o700)
    office.realm.admin.rename_group("/physics", "physik")
    (shared / "physik").mkdir()
    office.said("ensure-dirs", code=1)
    assert (shared / "physics/team-a/kept").exists()
    groups = json.loads(office.said("show", "alice", "--json"))["identity"]["groups"]
    assert [each["path"] for each in groups] == ["/physics", "/physics/team-a"]
    (shared / "physik").rmdir()
    office.said("ensure-dirs")
    assert (shared / "physik/team-a/kept").read_text() == "kept"
    assert not (shared / "physics").exists()
    after = json.loads(office.said("show", "alice", "--json"))
    assert [each["path"] for each in after["identity"]["groups"]] == ["/physik", "/physik/team-a"]
    assert after["person"] == alice
    assert office.said("audit", "--strict") == "0 wrong, 0 missing\n"


def test_what_is_left_of_who_is_gone(
    office_with: Callable[..., Office], folder_site: FolderSite
) -> None:
    """`archive` moves the home and the folder of who is gone, and of nobody else, and only if one says so; a folder goes after those in it."""
    homes, shared = folder_site.homes, folder_site.shared
    office = office_with(**{
        "Folders.command": [str(folder_site.command)],
        "Folders.home_root": str(homes),
        "Identities.home": f"{homes}/{{name}}",
        "Identities.shared_root": str(shared),
    })  # fmt: skip
    office.said("sync")
    office.said("ensure-dirs")
    (homes / "dave" / "kept").write_text("kept")
    assert "'dave': is not gone" in office.said("archive", "dave", "--yes", code=1)
    office.realm.admin.delete("dave")
    office.realm.admin.delete_group("/physics")
    office.said("sync", "--force")
    assert "nothing was done: say --yes" in office.said("archive", "dave")
    assert "archive or move these first" in office.said("archive", "--group=/physics", code=1)
    lab = "--group=/physics/team-a"
    assert "nothing was done: say --yes" in office.said("archive", lab)
    assert (homes / "dave").exists()
    assert (shared / "physics/team-a").exists()
    office.said("archive", "dave", "--yes")
    office.said("archive", lab, "--yes")
    office.said("archive", "--group=/physics", "--yes")
    assert not (homes / "dave").exists()
    assert not (shared / "physics").exists()
    (kept,) = (homes / ".qhub").rglob("kept")
    assert kept.read_text() == "kept"
    assert "archived already" in office.said("archive", "dave", "--yes", code=1)
    assert "dave" not in office.said("ensure-dirs")


def test_what_is_not_made_is_told(
    office_with: Callable[..., Office], folder_site: FolderSite
) -> None:
    """A home that is not directly in the root is left to others, and `ensure-dirs` says whose."""
    office = office_with(**{
        "Folders.command": [str(folder_site.command)],
        "Folders.home_root": str(folder_site.homes),
        "Identities.home": "/elsewhere/{name}",
        "Identities.shared_root": str(folder_site.shared),
    })  # fmt: skip
    office.said("sync")
    said = office.said("ensure-dirs")
    assert "problem  the home of 'alice', '/elsewhere/alice', is left to others" in said
    assert not list(folder_site.homes.iterdir())


def test_without_a_command_for_folders(office_with: Callable[..., Office]) -> None:
    """Where no command makes folders `ensure-dirs` says which setting names one."""
    office = office_with()
    office.said("sync")
    assert "c.Folders.command" in office.said("ensure-dirs", code=1)


def test_who_may_not_come_in_gets_nothing(office_with: Callable[..., Office]) -> None:
    """People whom the hub's rules keep out, and those whose names no account can have, get no number ahead."""
    office = office_with(**{"KeycloakAuthenticator.allow_all": False, "KeycloakAuthenticator.allowed_groups": {"/physics"}})  # fmt: skip
    said = office.said("sync")
    assert "4 got some" in said
    assert "1 may not come in" in said
    assert "has no numbers" in office.said("show", "erin", code=1)


def test_the_command_by_itself(office_with: Callable[..., Office]) -> None:
    """As a process of its own it does the same, and its exit code and streams are those that scripts expect."""
    office = office_with()
    command = [sys.executable, "-c", "from qhub_auth.commands import main; main()"]
    for words, code in ((["sync"], 0), (["show", "nobody"], 1), (["show"], 2)):
        done = subprocess.run(
            [*command, "--config", str(office.settings), *words],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert bool(done.stdout) == (code == 0)


def test_settings_that_are_wrong(office_with: Callable[..., Office], tmp_path: Path) -> None:
    """A missing file, one that fails and a wrong value are told in a line each, by name."""
    office = office_with()
    assert "there is no file" in office.said("--config", str(tmp_path / "no.py"), "sync", code=1)
    bad = tmp_path / "bad.py"
    for content, words in (
        ("c.Identities.home = '/x'", "c.Identities.home"),
        ("c.Identities.uid_range = 'x'", "c.Identities.uid_range"),
        ("raise RuntimeError('no')", "RuntimeError"),
        ("c.Keycloak.issuer = 'ftp://x'", "c.Keycloak.issuer"),
    ):
        bad.write_text("c = get_config()\n" + content + "\n")
        assert words in office.said("sync", "--config", str(bad), code=1)


@pytest.fixture
def extra_users() -> Iterator[ExtraUsers]:
    """The machine's name service with our files."""
    system = ExtraUsers()
    try:
        system.__enter__()
    except SystemUnavailableError as error:
        missing("libnss-extrausers", error)
    try:
        yield system
    finally:
        system.__exit__(None, None, None)


def test_accounts_of_the_machine(
    office_with: Callable[..., Office],
    make_realm: Callable[..., Any],
    extra_users: ExtraUsers,
) -> None:
    """What `qhub-identity nss` writes, the machine's own programs see: getent and id say the numbers, a process runs as that account with its groups, and `audit` finds them right."""
    people = [
        {"name": "qzoe", "password": "qzoe-demo", "groups": ["/physics/team-a"]},
        {"name": "sudo", "password": "sudo-demo"},
    ]
    settings = {
        "Identities.nss_folder": str(extra_users.folder),
        "Identities.host_accounts": "refuse",
    }
    office = office_with(realm=make_realm(people=people), **settings)
    office.said("sync")
    office.said("nss")
    zoe = json.loads(office.said("show", "qzoe", "--json"))
    uid, gids, home = zoe["person"]["uid"], zoe["identity"]["gids"], zoe["person"]["home"]
    line = f"qzoe:x:{uid}:{uid}::{home}:/bin/bash"
    assert extra_users.getent("passwd", "qzoe") == line
    assert extra_users.getent("passwd", str(uid)) == line
    assert extra_users.getent("group", "physics-team-a") == "physics-team-a:x:7001:qzoe"
    assert extra_users.id("qzoe").startswith(f"uid={uid}(qzoe) gid={uid}(qzoe)")
    done = subprocess.run(
        ["setpriv", "--reuid", "qzoe", "--regid", "qzoe", "--init-groups", "id", "-G"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert sorted(map(int, done.stdout.split())) == gids
    sudo = json.loads(office.said("show", "sudo", "--json"))["person"]
    # rights go by a group's name: hers is not that of the machine's own
    assert f"gid={sudo['gid']}(sudo-{sudo['gid']})" in extra_users.id("sudo")
    assert "(sudo)" not in extra_users.id("sudo").partition("groups=")[2]
    assert "nothing changed" in office.said("nss")
    assert stat.S_IMODE((extra_users.folder / "shadow").stat().st_mode) == 0o640
    found = json.loads(office.run("audit", "--json", "--no-folders")[1])
    about = ("qzoe", "'sudo'", "physics", "biology")
    assert [each for each in found if any(word in each["subject"] for word in about)] == []
    assert "0 got some" in office.said("sync")
