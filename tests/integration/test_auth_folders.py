"""Homes and shared folders as people meet them: real numbers, real permissions, the real command."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qhub_auth.directory import Directory, Group
from qhub_auth.errors import FoldersError
from qhub_auth.folders.verbs import (
    Archive,
    Check,
    Home,
    Parent,
    Quota,
    Rename,
    Share,
    Tree,
)
from qhub_auth.homes.ensuring import Folders, ensure, follow_ups
from qhub_auth.homes.plan import archive_group, archive_person, home_verb, share_plan
from qhub_auth.homes.setup import sudoers
from qhub_auth.numbers.resolving import with_shares
from tests.conftest import missing
from tests.systems.folders import FolderSite, Person, facts
from tests.systems.processes import SystemUnavailableError

PHYSICS, TEAM, READERS, EVERYBODY = 50001, 50002, 50003, 50090
ALICE = Person(20001, PHYSICS, TEAM, EVERYBODY)
BOB = Person(20002, PHYSICS, TEAM, EVERYBODY)
CAROL = Person(20003, READERS, EVERYBODY)
DAVE = Person(20004, PHYSICS, EVERYBODY)
EVE = Person(20005)


@pytest.fixture
def site() -> Iterator[FolderSite]:
    """A place of its own for each test."""
    try:
        made = FolderSite()
    except SystemUnavailableError as error:
        missing("root", error)
    yield made
    made.remove()


class Numbers:
    """Numbers of a person or group, as the store has them."""

    def __init__(self, number: int, *, name: str = "", home: str = "", folder: str = "") -> None:
        self.uid = self.gid = number
        self.name, self.home, self.folder = name, home, folder


def realm(**shares: str) -> Directory:
    """Groups with shares; a name's `__` stands for a slash, one `_` for a dash."""
    paths = {f"/{name.replace('__', '/').replace('_', '-')}": how for name, how in shares.items()}
    groups = [
        Group(id=path, path=path, attributes={"share": (how,)}) for path, how in paths.items()
    ]
    return Directory(groups={group.path: group for group in groups})


def physics(site: FolderSite) -> tuple[Path, Path]:
    """The folders of /physics and /physics/team-a, with readers of both."""
    directory = realm(physics="rw", physics__team_a="rw", physics__team_a__readers="ro")
    numbers = {
        "/physics": Numbers(PHYSICS, folder="/physics"),
        "/physics/team-a": Numbers(TEAM, folder="/physics/team-a"),
        "/physics/team-a/readers": Numbers(READERS, folder="/physics/team-a/readers"),
    }
    plan = share_plan(directory, numbers)
    assert plan.problems == ()
    assert site.results(*plan.verbs) == ["done", "done"]
    assert site.results(*plan.verbs) == ["unchanged", "unchanged"]
    return site.shared / "physics", site.shared / "physics" / "team-a"


# ---- homes --------------------------------------------------------------------------------------


def test_a_home_is_the_person_s_alone(site: FolderSite) -> None:
    """0700 uid:gid; the person works in it, others do not see in; the second time costs nothing."""
    asked = Home("alice", ALICE.uid, ALICE.uid)
    assert site.results(asked, asked) == ["done", "unchanged"]
    home = site.homes / "alice"
    assert facts(home) == (ALICE.uid, ALICE.uid, 0o700)
    assert ALICE.may("touch", f"{home}/a")
    assert not BOB.may("ls", str(home))
    assert not BOB.may("cat", f"{home}/a")


def test_first_files_are_the_person_s(site: FolderSite) -> None:
    """A new home begins with the skeleton's files, folders and links; all belong to the person."""
    (site.skeleton / ".bashrc").write_text("# hello\n")
    (site.skeleton / ".bashrc").chmod(0o644)
    (site.skeleton / "bin").mkdir()
    (site.skeleton / "bin").chmod(0o755)
    (site.skeleton / "bin" / "tool").write_text("#!/bin/sh\n")
    (site.skeleton / "bin" / "tool").chmod(0o4755)
    (site.skeleton / "link").symlink_to("/etc/hostname")
    assert site.results(Home("alice", ALICE.uid, PHYSICS)) == ["done"]
    home = site.homes / "alice"
    assert facts(home / ".bashrc") == (ALICE.uid, PHYSICS, 0o644)
    assert (home / ".bashrc").read_text() == "# hello\n"
    assert facts(home / "bin" / "tool") == (ALICE.uid, PHYSICS, 0o755)
    assert facts(home / "link")[:2] == (ALICE.uid, PHYSICS)
    assert (home / "link").readlink() == Path("/etc/hostname")


def test_what_a_person_did_to_their_home_stays(site: FolderSite) -> None:
    """An existing home is not touched: neither its mode, nor its group, nor its files."""
    asked = Home("alice", ALICE.uid, ALICE.uid)
    site.ask(asked)
    home = site.homes / "alice"
    assert ALICE.may("chmod", "750", str(home))
    assert ALICE.may("chgrp", str(PHYSICS), str(home))
    (site.skeleton / "new").write_text("")
    (answer,) = site.ask(asked)
    assert answer["result"] == "unchanged"
    assert "0750" in answer["words"]
    assert facts(home) == (ALICE.uid, PHYSICS, 0o750)
    assert list(home.iterdir()) == []


def test_a_skeleton_that_will_not_do(site: FolderSite) -> None:
    """Of a skeleton that the person cannot read nothing half-made remains in the place of homes."""
    (site.skeleton / "secret").write_text("root's")
    (site.skeleton / "secret").chmod(0o600)
    words = site.says(Home("alice", ALICE.uid, ALICE.uid))
    assert "Permission denied" in words
    assert sorted(path.name for path in site.homes.iterdir()) == [".qhub"]
    (site.skeleton / "secret").chmod(0o644)
    assert site.results(Home("alice", ALICE.uid, ALICE.uid)) == ["done"]
    assert list((site.homes / ".qhub" / "new").iterdir()) == []


# ---- shared folders -----------------------------------------------------------------------------


def test_members_write_each_other_s_files(site: FolderSite) -> None:
    """Whatever the umask, a member's file is the group's and writable for it."""
    _, team = physics(site)
    assert facts(team)[:2] == (0, TEAM)
    for umask in (0o022, 0o002, 0o077):
        name = f"{team}/by-alice-{umask:o}"
        assert ALICE.may("sh", "-c", f"echo one > {name}", umask=umask)
        assert facts(Path(name)) == (ALICE.uid, TEAM, 0o660)
        assert BOB.may("sh", "-c", f"echo two >> {name}")
        assert ALICE.may("mkdir", "-p", f"{team}/d{umask:o}/e", umask=umask)
        assert facts(team / f"d{umask:o}" / "e") == (ALICE.uid, TEAM, 0o2770)
        assert BOB.may("touch", f"{team}/d{umask:o}/e/f")
        assert Path(name).read_text() == "one\ntwo\n"


def test_readers_read(site: FolderSite) -> None:
    """Carol, read-only, reads what is made, deep down too, in both folders, and writes nowhere."""
    top, team = physics(site)
    assert ALICE.may("sh", "-c", f"mkdir {team}/d && echo data > {team}/d/f && echo data > {top}/f")
    for path in (f"{team}/d/f", f"{top}/f"):
        assert CAROL.run("cat", path).stdout == "data\n"
        assert not CAROL.may("sh", "-c", f"echo no >> {path}")
        assert not CAROL.may("rm", "-f", path)
    for folder in (team, team / "d", top):
        assert CAROL.may("ls", str(folder))
        assert not CAROL.may("touch", f"{folder}/carol")


def test_others_see_nothing(site: FolderSite) -> None:
    """Dave of /physics sees the folder team-a from outside; Eve of no group not even that."""
    top, team = physics(site)
    assert ALICE.may("sh", "-c", f"echo data > {team}/f")
    assert DAVE.may("ls", str(top))
    assert not DAVE.may("ls", str(team))
    assert not DAVE.may("cat", f"{team}/f")
    assert not EVE.may("ls", str(top))
    assert not EVE.may("cat", f"{team}/f")


def test_nobody_moves_a_subgroup_s_folder(site: FolderSite) -> None:
    """A member of /physics can neither rename, remove nor replace root's folder team-a in it."""
    top, team = physics(site)
    assert facts(top)[2] & 0o1000
    for person in (DAVE, ALICE):
        assert not person.may("mv", str(team), f"{top}/mine")
        assert not person.may("rmdir", str(team))
        assert not person.may("chmod", "777", str(team))
        assert not person.may("mv", str(top), f"{site.shared}/mine")
    assert DAVE.may("mkdir", f"{top}/own")
    assert DAVE.may("mv", f"{top}/own", f"{top}/still-own")


def test_acls_are_what_getfacl_says(site: FolderSite) -> None:
    """The bytes that were written mean to getfacl(1) what they should."""
    _, team = physics(site)
    said = subprocess.run(
        ["getfacl", "--omit-header", "--numeric", "--absolute-names", str(team)],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    access = ["user::rwx", "group::rwx", f"group:{READERS}:r-x", "mask::rwx", "other::---"]
    assert said == [*access, *(f"default:{entry}" for entry in access)]


def test_the_folder_for_everybody(site: FolderSite) -> None:
    """All write in it; what somebody made only they remove; outsiders see nothing."""
    directory = with_shares(realm(physics="rw"), {"/everyone": "all"})
    (verb, _) = share_plan(
        directory, {"path:/everyone": Numbers(EVERYBODY), "/physics": Numbers(1)}
    ).verbs
    assert site.results(verb, verb) == ["done", "unchanged"]
    folder = site.shared / "everyone"
    assert facts(folder) == (0, EVERYBODY, 0o3770)
    assert ALICE.may("touch", f"{folder}/a")
    assert CAROL.may("sh", "-c", f"echo c >> {folder}/a")
    assert not CAROL.may("rm", "-f", f"{folder}/a")
    assert not EVE.may("ls", str(folder))


def test_a_way_through(site: FolderSite) -> None:
    """Members get to a folder whose group above has no share; with hide_names they cannot list."""
    asked = (Parent("chem"), Share("chem/lab", TEAM))
    assert site.results(*asked) == ["done", "done"]
    assert facts(site.shared / "chem") == (0, 0, 0o755)
    assert ALICE.may("touch", f"{site.shared}/chem/lab/a")
    assert not ALICE.may("touch", f"{site.shared}/chem/a")
    site.write(hide_names=True)
    assert site.results(*asked) == ["done", "unchanged"]
    assert facts(site.shared / "chem") == (0, 0, 0o711)
    assert not ALICE.may("ls", f"{site.shared}/chem")
    assert ALICE.may("ls", f"{site.shared}/chem/lab")


def test_a_share_that_is_withdrawn_and_given_again(site: FolderSite) -> None:
    """Closed, with its files and its group; only that group gets it again."""
    top, _ = physics(site)
    assert ALICE.may("sh", "-c", f"echo data > {top}/f")
    assert site.results(Parent("physics"), Parent("physics")) == ["done", "unchanged"]
    assert not ALICE.may("ls", str(top))
    assert not CAROL.may("ls", str(top))
    assert not ALICE.may("touch", f"{top}/g")
    assert ALICE.may("ls", f"{top}/team-a"), "members of the team still get through"
    assert "belongs to group" in site.says(Share("physics", EVERYBODY))
    assert site.results(Share("physics", PHYSICS, sticky=True)) == ["done"]
    assert ALICE.run("cat", f"{top}/f").stdout == "data\n"


def test_readers_that_come_later(site: FolderSite) -> None:
    """What was there before a group of readers is theirs to read after `tree`, and not before.

    What its owner had closed to the group stays closed; taken away, they read nothing of it.
    """
    assert site.results(Share("lab", TEAM)) == ["done"]
    folder = site.shared / "lab"
    made = f"cd {folder}; mkdir d; echo old > d/f; echo mine > p; chmod 600 p; ln -s /etc/passwd l; mkfifo q"
    assert ALICE.may("sh", "-c", made)
    assert ALICE.may("sh", "-c", f"chmod 700 {folder}/d && chmod 770 {folder}/d")
    (answer,) = site.ask(Share("lab", TEAM, readers=(READERS,)))
    assert (answer["result"], answer["tree"]) == ("done", True)
    assert not CAROL.may("cat", f"{folder}/d/f")
    again = Tree("lab", TEAM, readers=(READERS,))
    (answer,) = site.ask(again)
    assert (answer["seen"], answer["changed"]) == (3, 3)
    assert CAROL.run("cat", f"{folder}/d/f").stdout == "old\n"
    assert not CAROL.may("sh", "-c", f"echo no >> {folder}/d/f")
    assert not CAROL.may("cat", f"{folder}/p"), "what Alice closed stays closed"
    assert BOB.may("sh", "-c", f"echo new > {folder}/d/g")
    assert CAROL.run("cat", f"{folder}/d/g").stdout == "new\n"
    assert site.results(again) == ["unchanged"]
    assert site.results(Share("lab", TEAM), Tree("lab", TEAM)) == ["done", "done"]
    assert not CAROL.may("cat", f"{folder}/d/f")
    carried = subprocess.run(
        ["getfacl", "-R", "-n", "-p", folder], capture_output=True, text=True, check=True
    )
    assert str(READERS) not in carried.stdout
    assert BOB.may("sh", "-c", f"echo still >> {folder}/d/f")
    assert facts(folder / "p") == (ALICE.uid, TEAM, 0o600)


# ---- moving and archiving -----------------------------------------------------------------------


def test_a_renamed_group_keeps_its_folder(site: FolderSite) -> None:
    """Renamed group, renamed subgroup: the folders move with all that is in them, and stay right."""
    top, team = physics(site)
    assert ALICE.may("sh", "-c", f"echo data > {team}/f")
    directory = realm(physik="rw", physik__team_b="rw")
    numbers = {
        "/physik": Numbers(PHYSICS, folder="/physics"),
        "/physik/team-b": Numbers(TEAM, folder="/physics/team-a"),
    }
    plan = share_plan(directory, numbers)
    assert plan.moved == {"/physik": "/physik", "/physik/team-b": "/physik/team-b"}
    answers = site.ask(*plan.verbs)
    assert [each["result"] for each in answers] == ["done"] * 4
    assert "moved" in answers[0]["words"]
    assert not top.exists()
    assert BOB.run("cat", f"{site.shared}/physik/team-b/f").stdout == "data\n"
    assert site.results(*plan.verbs) == ["unchanged"] * 4


def test_a_folder_is_not_moved_onto_another(site: FolderSite) -> None:
    """A new name that is taken, by a folder, a file or a link: both stay as they are."""
    physics(site)
    site.ask(Share("chem", TEAM))
    assert "is there already" in site.says(Rename("chem", "physics", TEAM))
    assert "there is no" in site.says(Rename("nowhere", "new", TEAM))
    assert "belongs to group" in site.says(Rename("chem", "new", PHYSICS))
    assert ALICE.may("sh", "-c", f"echo data > {site.shared}/physics/new")
    assert "not a folder" in site.says(Rename("chem", "physics/new", TEAM))
    assert DAVE.may("ln", "-s", "/etc", f"{site.shared}/physics/link")
    assert "a symbolic link" in site.says(Rename("chem", "physics/link", TEAM))
    assert facts(site.shared / "chem") == (0, TEAM, 0o2770)


def test_removal_archives(site: FolderSite) -> None:
    """Nothing is deleted: homes and folders are moved, whole, to where only root goes."""
    _, team = physics(site)
    person = Numbers(ALICE.uid, name="alice", home=f"{site.homes}/alice")
    made = home_verb(person, str(site.homes))
    assert made is not None
    site.ask(made)
    assert ALICE.may("sh", "-c", f"echo h > {site.homes}/alice/f; echo t > {team}/f")
    groups = [Numbers(PHYSICS, folder="/physics"), Numbers(TEAM, folder="/physics/team-a")]
    asked = [archive_person(person, str(site.homes)), *archive_group(groups)]
    answers = site.ask(*(each for each in asked if each))
    assert [each["result"] for each in answers] == ["done"] * 3
    assert (Path(answers[0]["archived"]) / "f").read_text() == "h\n"
    assert (Path(answers[1]["archived"]) / "f").read_text() == "t\n"
    assert not (site.homes / "alice").exists()
    assert not (site.shared / "physics").exists()
    assert not ALICE.may("ls", answers[0]["archived"])
    assert site.results(*(each for each in asked if each)) == ["unchanged"] * 3


def test_only_the_right_thing_is_archived(site: FolderSite) -> None:
    """The owner must be as asked, and folders of other groups in it must have gone first."""
    physics(site)
    site.ask(Home("alice", ALICE.uid, ALICE.uid))
    assert "belongs to uid" in site.says(Archive("home", "alice", BOB.uid))
    assert "folders of other groups: 'team-a'" in site.says(Archive("share", "physics", PHYSICS))
    assert "belongs to group" in site.says(Archive("share", "physics/team-a", PHYSICS))


# ---- only asking, quotas, file systems ----------------------------------------------------------


def test_check_changes_nothing(site: FolderSite) -> None:
    """Only asked: what would be done is said, and nothing is there afterwards, not even a lock."""
    items = (
        Home("alice", ALICE.uid, ALICE.uid),
        Share("lab", TEAM, sticky=True),
        Parent("chem"),
        Share("lab/inner", PHYSICS),
    )
    answers = site.ask(*(Check(item) for item in items))
    assert [each["result"] for each in answers] == ["would"] * 4
    assert list(site.homes.iterdir()) == list(site.shared.iterdir()) == []
    assert site.results(*items) == ["done"] * 4
    assert site.results(*(Check(item) for item in items)) == ["unchanged"] * 4
    assert site.results(Check(Archive("home", "alice", ALICE.uid))) == ["would"]


def test_quotas_that_are_not_there(site: FolderSite) -> None:
    """Where the file system has no project quotas that is said, and folders are made all the same."""
    (report,) = site.ask(Check())
    assert report["homes"]["acls"] is True
    if report["homes"]["quotas"]:
        pytest.skip("this file system has project quotas")
    site.write(homes={"root": str(site.homes), "quota_bytes": 10**9})
    (made,) = site.ask(Home("alice", ALICE.uid, ALICE.uid))
    assert made["result"] == "done"
    assert "no quota: this file system has no project quotas" in made["words"]
    (answer,) = site.ask(Quota("home", "alice", ALICE.uid, 10**9))
    assert (answer["result"], answer["quota"]) == ("unchanged", "absent")
    assert "belongs to" in site.says(Quota("home", "alice", BOB.uid, 10**9))


def test_a_file_system_without_acls(site: FolderSite, tmp_path: Path) -> None:
    """Folders are made, with a word on what is missing; readers are refused, since there is no way."""
    script = f"mount -t ramfs none {site.shared} && chmod 755 {site.shared} && exec {site.command}"
    lines = (
        '{"verb": "check"}\n{"verb": "share", "path": "lab", "gid": 50001}\n'
        '{"verb": "share", "path": "lab", "gid": 50001}\n'
        '{"verb": "share", "path": "lab", "gid": 50001, "readers": [50002]}\n'
        '{"verb": "share", "path": "new", "gid": 50001, "readers": [50002]}\n'
    )
    done = site.raw(lines, ["unshare", "--mount", "sh", "-c", script])
    if b"mount:" in done.stderr:
        missing("mount", OSError(done.stderr.decode()))
    report, made, again, refused, also = map(json.loads, done.stdout.splitlines())
    assert report["shared"]["acls"] is False
    assert made["result"] == "done"
    assert "no POSIX ACLs" in made["words"]
    assert again["result"] == "unchanged"
    assert refused["result"] == also["result"] == "refused"
    assert "cannot have readers" in refused["words"]


# ---- as the hub calls it ------------------------------------------------------------------------


async def test_the_hub_asks_through_sudo_once(site: FolderSite) -> None:
    """As an account without rights, by the printed rule: made once, then known to be there."""
    rule = Path("/etc/sudoers.d") / f"qhub-folders-{os.getpid()}"
    rule.touch(mode=0o440)
    rule.write_text(sudoers(hub_user="nobody", command=str(site.command)))
    try:
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--",
                   "sudo", "-n", "--", str(site.command)]  # fmt: skip
        folders = Folders(command=command, home_root=str(site.homes))
        person = Numbers(ALICE.uid, name="alice", home=f"{site.homes}/alice")
        directory = realm(lab="rw")
        plan = share_plan(directory, {"/lab": Numbers(TEAM, folder="/lab")})
        results = await folders.ensure_for(person, plan, ["/lab"])
        assert [each.result for each in results] == ["done", "done"]
        assert await folders.ensure_for(person, plan, ["/lab"]) == ()
        assert facts(site.homes / "alice") == (ALICE.uid, ALICE.uid, 0o700)
        assert facts(site.shared / "lab") == (0, TEAM, 0o2770)
        folders.forget()
        later = await folders.ensure(plan.verbs)
        assert [each.result for each in later] == ["unchanged"]
        bad = Numbers(BOB.uid, name="alice", home=f"{site.homes}/alice")
        with pytest.raises(FoldersError, match="belongs to uid 20001, not to 20002"):
            await folders.ensure_for(bad)
    finally:
        rule.unlink()


async def test_readers_are_followed_up(site: FolderSite) -> None:
    """A share whose readers changed says so, and what is to be asked next follows from the answer."""
    command = [str(site.command)]
    first = await ensure(command, [Share("lab", TEAM)])
    assert follow_ups(first) == ()
    then = await ensure(command, [Share("lab", TEAM, readers=(READERS,))])
    assert follow_ups(then) == (Tree("lab", TEAM, readers=(READERS,)),)
    done = await ensure(command, follow_ups(then))
    assert [each.result for each in done] == ["unchanged"]
