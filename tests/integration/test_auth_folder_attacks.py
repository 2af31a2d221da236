"""Attacks on the one thing that is root: links, races, mounts, names, settings, surroundings.

Attackers are real processes under other numbers; what they are after is a folder that must be as it
was afterwards, to the last byte of its ACLs.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qhub_auth.folders import acl
from qhub_auth.folders.verbs import (
    Archive,
    Home,
    Parent,
    Quota,
    Rename,
    Share,
    Tree,
)
from qhub_auth.homes.setup import sudoers
from tests.conftest import missing
from tests.systems.folders import FolderSite, Person, end, facts, tree_of
from tests.systems.processes import SystemUnavailableError
from tests.unit.hostile import TEXTS

PHYSICS, TEAM, READERS, OTHER = 2_050_001, 2_050_002, 2_050_003, 2_050_004
# Numbers that nothing else on the machine has: some attacks signal all processes of their own
ALICE, DAVE = Person(2_034_501, PHYSICS, TEAM), Person(2_034_502, PHYSICS)
SECONDS_OF_RACE = 4.0


@pytest.fixture
def site() -> Iterator[FolderSite]:
    """A place of its own for each test."""
    try:
        made = FolderSite(uids=[[2_034_500, 2_034_599]], gids=[[2_050_000, 2_050_099]])
    except SystemUnavailableError as error:
        missing("root", error)
    yield made
    made.remove()


@pytest.fixture
def victim(site: FolderSite) -> Iterator[Path]:
    """A folder of root's, and a file in it, that must stay as they are."""
    folder = site.base / "victim"
    folder.mkdir(mode=0o755)
    (folder / "secret").write_text("secret")
    (folder / "secret").chmod(0o600)
    (folder / "inner").mkdir(mode=0o700)
    before = everything(folder)
    yield folder
    assert everything(folder) == before, "the victim was touched"


def everything(folder: Path) -> object:
    """What a folder and all in it are, ACLs included."""
    found = {name: what[:3] for name, what in tree_of(folder).items()}
    attributes = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        if not path.is_symlink():
            attributes[path] = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    return facts(folder), found, attributes


def physics(site: FolderSite, *, sticky: bool = True) -> Path:
    """The folder of a group that both are in."""
    assert site.results(Share("physics", PHYSICS, sticky=sticky)) == ["done"]
    return site.shared / "physics"


# ---- things in place ----------------------------------------------------------------------------


def put(kind: str, where: Path, victim: Path) -> None:
    """Put something in the place where a folder is to be."""
    if kind == "link to a folder":
        where.symlink_to(victim)
    elif kind == "link to a file":
        where.symlink_to(victim / "secret")
    elif kind == "dangling link":
        where.symlink_to(where.parent / "nowhere")
    elif kind == "link to itself":
        where.symlink_to(where)
    elif kind == "hard link":
        where.hardlink_to(victim / "secret")
    elif kind == "file":
        where.write_text("")
    elif kind == "pipe":
        os.mkfifo(where)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(where))
    elif kind == "device":
        os.mknod(where, 0o666 | stat.S_IFCHR, os.makedev(1, 3))


KINDS = ("link to a folder", "link to a file", "dangling link", "link to itself", "hard link",
         "file", "pipe", "socket", "device")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_folder_is_refused(site: FolderSite, victim: Path, kind: str) -> None:
    """A link, file, pipe, socket or device in place of a folder is named and left as it is."""
    top = physics(site)
    homes, shares = site.homes / "alice", top / "team"
    for where in (homes, shares, top / "between"):
        put(kind, where, victim)
    before = [where.lstat() for where in (homes, shares)]
    verbs = (
        Home("alice", ALICE.uid, ALICE.uid),
        Share("physics/team", TEAM, readers=(READERS,)),
        Parent("physics/team"),
        Share("physics/between/team", TEAM),
        Parent("physics/between/team"),
        Tree("physics/team", TEAM),
        Archive("home", "alice", ALICE.uid),
        Archive("share", "physics/team", TEAM),
        Archive("share", "physics/between/team", TEAM),
        Rename("physics/team", "new", TEAM),
        Rename("physics/between/team", "new", TEAM),
        Quota("home", "alice", ALICE.uid, 1000),
        Quota("share", "physics/team", TEAM, 1000),
    )
    for answer in site.ask(*verbs):
        assert answer["result"] == "refused", answer
        assert "not a folder" in answer["words"], answer
        assert kind.rpartition(" ")[2] in answer["words"] or "link" in kind, answer
    after = [where.lstat() for where in (homes, shares)]
    assert [(each.st_ino, each.st_mode, each.st_uid, each.st_gid) for each in before] == [
        (each.st_ino, each.st_mode, each.st_uid, each.st_gid) for each in after
    ]
    if kind == "hard link":
        for where in (homes, shares, top / "between"):
            where.unlink()


def test_another_s_folder_is_refused(site: FolderSite, victim: Path) -> None:
    """A home of another person or of root, a share that a member made, are not taken over."""
    top = physics(site)
    for name, person in (("alice", DAVE.uid), ("bob", 0)):
        (site.homes / name).mkdir()
        os.chown(site.homes / name, person, person)
    assert "belongs to uid" in site.says(Home("alice", ALICE.uid, ALICE.uid))
    assert "belongs to uid 0" in site.says(Home("bob", ALICE.uid, ALICE.uid))
    assert facts(site.homes / "alice")[:2] == (DAVE.uid, DAVE.uid)
    assert DAVE.may("mkdir", f"{top}/team", f"{top}/team/inner")
    for verb in (
        Share("physics/team", TEAM), Parent("physics/team"), Share("physics/team/inner", TEAM),
        Tree("physics/team", PHYSICS), Archive("share", "physics/team", PHYSICS),
        Rename("physics/team", "physics/new", PHYSICS), Quota("share", "physics/team", PHYSICS, 1),
    ):  # fmt: skip
        assert "not to root" in site.says(verb)
    assert facts(top / "team") == (DAVE.uid, PHYSICS, 0o2770)
    (site.shared / "old").mkdir(mode=0o755)
    os.chown(site.shared / "old", 0, OTHER)
    assert f"belongs to group {OTHER}" in site.says(Share("old", TEAM))


def test_no_folder_where_members_could_exchange_it(site: FolderSite) -> None:
    """In a folder that members may rename in, root makes nothing until it has the sticky bit."""
    physics(site, sticky=False)
    for verb in (Share("physics/team", TEAM), Parent("physics/team")):
        assert "sticky first" in site.says(verb)
    assert site.results(Share("physics", PHYSICS, sticky=True)) == ["done"]
    assert site.results(Share("physics/team", TEAM)) == ["done"]
    assert site.results(Share("physics", PHYSICS)) == ["unchanged"], "the sticky bit stays"


# ---- races --------------------------------------------------------------------------------------

SWAP = """
import os, sys
top, victim = sys.argv[1:]
os.chdir(top)
print("ready", flush=True)
while True:
    for act in (
        lambda: os.mkdir("team"), lambda: os.rename("team", "mine"),
        lambda: os.symlink(victim, "team"), lambda: os.unlink("team"),
        lambda: os.rename("mine", "team"), lambda: os.rmdir("team"),
        lambda: os.mkdir("link"), lambda: os.rmdir("link"),
        lambda: os.symlink(victim, "link"), lambda: os.rename("link", "team"),
        lambda: open("team", "x").close(), lambda: os.unlink("team"),
        lambda: os.rmdir("mine"), lambda: os.link(victim + "/secret", "team"),
        lambda: os.chmod("team", 0o777), lambda: os.rename("team", "x/team"),
    ):
        try:
            act()
        except OSError:
            pass
"""


def test_a_race_for_a_shared_folder_gains_nothing(site: FolderSite, victim: Path) -> None:
    """Members exchange the name while root makes and archives the folder: it is root's, or refused.

    What a link leads to is never touched.
    """
    top = physics(site)
    attackers = [DAVE.python(SWAP, str(top), str(victim)) for _ in range(2)]
    seen: dict[str, int] = {}
    try:
        for each in attackers:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        until = time.monotonic() + SECONDS_OF_RACE
        asked = (
            Share("physics/team", TEAM, readers=(READERS,)),
            Archive("share", "physics/team", TEAM),
        )
        while time.monotonic() < until:
            for answer in site.ask(*asked * 40):
                key = f"{answer['verb']} {answer['result']}"
                seen[key] = seen.get(key, 0) + 1
                if answer["result"] == "failed":
                    # rename(2) onto what came to be there between looking and moving
                    assert "Not a directory" in answer["words"] or "not empty" in answer["words"], (
                        answer
                    )
        assert all(each.poll() is None for each in attackers)
    finally:
        end(attackers)
    print(seen)
    assert seen["share done"] > 10, seen
    assert seen.get("share refused", 0) + seen.get("share failed", 0) > 3, seen
    for kept in (site.shared / ".qhub" / "archive").iterdir():
        assert facts(kept)[0] == 0, "only root's folders were archived"
        assert facts(kept)[1:] in {(TEAM, 0o2770), (0, 0o700)}, kept


CHURN = """
import os, sys
folder, victim = sys.argv[1:]
os.chdir(folder)
os.makedirs("real/deep", exist_ok=True)
print("ready", flush=True)
while True:
    for act in (
        lambda: os.rename("d", "e"), lambda: os.symlink(victim, "d"), lambda: os.unlink("d"),
        lambda: os.rename("e", "d"), lambda: os.mkdir("d"),
        lambda: os.symlink(victim + "/secret", "f"), lambda: os.unlink("f"),
        lambda: open("f", "x").write("mine"), lambda: os.rename("f", "g"),
        lambda: os.mkfifo("f"), lambda: os.unlink("f"), lambda: os.rename("real", "d"),
        lambda: os.rename("d", "real"), lambda: os.link(victim + "/secret", "f"),
        lambda: os.rename("real/deep", "deep"), lambda: os.rename("deep", "real/deep"),
    ):
        try:
            act()
        except OSError:
            pass
"""


def test_a_race_in_a_folder_s_content_gains_nothing(site: FolderSite, victim: Path) -> None:
    """While members exchange files and folders for links, readers are given and taken.

    No link is followed, and going through ends in time.
    """
    site.ask(Share("lab", TEAM, readers=(READERS,)))
    folder = site.shared / "lab"
    # owned by the member's group, so that only not following links keeps it safe
    for path in (victim, victim / "secret", victim / "inner"):
        os.chown(path, DAVE.uid, TEAM)
    before = everything(victim)
    attackers = [ALICE.python(CHURN, str(folder), str(victim)) for _ in range(2)]
    try:
        for each in attackers:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        until = time.monotonic() + SECONDS_OF_RACE
        while time.monotonic() < until:
            trees = [Tree("lab", TEAM, readers=(READERS,)), Tree("lab", TEAM)] * 20
            assert set(site.results(*trees)) <= {"done", "unchanged"}
    finally:
        end(attackers)
    assert everything(victim) == before
    for path in (victim, victim / "secret", victim / "inner"):
        os.chown(path, 0, 0)


def test_a_hard_link_gives_readers_nothing(site: FolderSite, victim: Path) -> None:
    """A file with a second name, of the group itself even, is left as it is in another's folder."""
    site.ask(Share("lab", TEAM, readers=(READERS,)))
    os.chown(victim / "secret", ALICE.uid, TEAM)
    (victim / "secret").chmod(0o640)
    (site.shared / "lab" / "link").hardlink_to(victim / "secret")
    assert site.results(Tree("lab", TEAM, readers=(READERS,))) == ["unchanged"]
    assert acl.ACCESS not in os.listxattr(victim / "secret")
    (site.shared / "lab" / "link").unlink()
    os.chown(victim / "secret", 0, 0)
    (victim / "secret").chmod(0o600)


INTERFERE = """
import os, signal, sys
os.chdir("/")
print("ready", flush=True)
signals = [signal.SIGSTOP, signal.SIGKILL, signal.SIGTERM]
while True:
    for number in signals:
        try:
            os.kill(-1, number)
        except OSError:
            pass
    for path in (sys.argv[1] + "/.qhub/new", sys.argv[1] + "/.qhub"):
        try:
            os.listdir(path)
            print("got in", flush=True)
        except OSError:
            pass
"""


def test_first_files_are_out_of_their_owner_s_reach(site: FolderSite) -> None:
    """A person's processes can neither stop nor end the copying, nor see a home half-made."""
    for number in range(50):
        (site.skeleton / f"file-{number}").write_text("x" * 10_000)
    attacker = ALICE.python(INTERFERE, str(site.homes))
    try:
        assert attacker.stdout is not None
        assert attacker.stdout.readline() == "ready\n"
        for number in range(20):
            assert site.results(Home(f"alice{number}", ALICE.uid, ALICE.uid)) == ["done"]
            assert len(list((site.homes / f"alice{number}").iterdir())) == 50
        assert attacker.poll() is None
    finally:
        end([attacker])


def test_many_at_once_agree(site: FolderSite) -> None:
    """Commands at the same time, asked for the same: one makes each folder, none meets half of it."""
    homes = [Home(f"p{number}", 2_034_510 + number, 2_034_510 + number) for number in range(20)]
    verbs = [*homes, Share("a", TEAM, sticky=True), Share("a/b", PHYSICS)]
    with ThreadPoolExecutor(8) as pool:
        rounds = list(pool.map(lambda _: site.results(*verbs), range(8)))
    for results in zip(*rounds, strict=True):
        assert sorted(results) == ["done"] + ["unchanged"] * 7


def test_what_is_cut_off_leaves_nothing_half_made(site: FolderSite) -> None:
    """Killed at any moment: every home that is there is whole; the next run makes the rest."""
    for number in range(20):
        (site.skeleton / f"file-{number}").write_text("x" * 1000)
    homes = [Home(f"p{n}", 2_034_500 + n % 100, 2_034_500 + n % 100) for n in range(150)]
    lines = "".join(
        json.dumps({"verb": "home", "name": each.name, "uid": each.uid, "gid": each.gid}) + "\n"
        for each in homes
    )
    chance = random.Random(7)  # noqa: S311 - when to kill
    for _ in range(6):
        process = subprocess.Popen(
            [str(site.command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(lines.encode())
        process.stdin.flush()
        for _ in range(chance.randrange(1, 30)):
            process.stdout.readline()
        process.kill()
        process.communicate(timeout=60)
        for home in site.homes.glob("p*"):
            assert facts(home)[2] == 0o700
            assert facts(home)[0] >= 2_034_500
            assert len(list(home.iterdir())) == 20
    assert set(site.results(*homes)) <= {"done", "unchanged"}
    assert len(list(site.homes.glob("p*"))) == 150
    assert list((site.homes / ".qhub" / "new").iterdir()) == []


# ---- mount points -------------------------------------------------------------------------------


@pytest.mark.parametrize("mount", ["mount --bind {victim} {place}", "mount -t tmpfs none {place}"])
def test_mount_points(site: FolderSite, victim: Path, mount: str) -> None:
    """A mount in place of a folder, of the same file system even, is refused unless allowed."""
    site.ask(Share("lab", TEAM), Home("alice", ALICE.uid, ALICE.uid))
    places = [site.shared / "lab", site.homes / "alice"]
    mounts = " && ".join(mount.format(victim=victim, place=place) for place in places)
    lines = (
        f'{{"verb": "share", "path": "lab", "gid": {TEAM}}}\n'
        f'{{"verb": "share", "path": "lab/inner", "gid": {TEAM}}}\n'
        f'{{"verb": "home", "name": "alice", "uid": {ALICE.uid}, "gid": {ALICE.uid}}}\n'
        f'{{"verb": "tree", "path": "lab", "gid": {TEAM}}}\n'
        f'{{"verb": "archive", "kind": "share", "name": "lab", "owner": {TEAM}}}\n'
    )
    script = f"{mounts} && exec {site.command}"
    done = site.raw(lines, ["unshare", "--mount", "sh", "-c", script])
    if b"mount:" in done.stderr or b"unshare:" in done.stderr:
        missing("mount", OSError(done.stderr.decode()))
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == 5
    for answer in answers:
        assert answer["result"] == "refused", answer
        assert "is a mount point" in answer["words"], answer
    if "tmpfs" in mount:
        site.write(mounts=True)
        done = site.raw(lines, ["unshare", "--mount", "sh", "-c", script])
        first = json.loads(done.stdout.splitlines()[0])
        assert "mount point" not in first["words"], first


# ---- what is asked ------------------------------------------------------------------------------

NAMES = ["", ".", "..", "../etc", "/etc", "a/b", "-rf", "a\nb", "a\0b", "a b", "a\tb", ".ssh", ".qhub",
         "%2e%2e", "ä", "a" * 65, "a/../b", "alice/", "/", "~root", "$HOME", "`id`", "a;id", None, 7,
         ["alice"], {"a": 1}, True]  # fmt: skip
PATHS = ["", ".", "..", "/", "/etc", "a/", "/a", "a//b", "a/../b", "../a", "a/./b", ".qhub", ".qhub/new",
         "a/.hidden", "a\nb", "a\0b", "a b", "ä", "a" * 241, "/".join("a" * 17), "a/" * 500 + "b",
         None, 7, ["a"], {"a": 1}, True]  # fmt: skip
# Odd, but names: nothing happens by them
FINE = {"leading dash", "dashes alone", "percent encoded", "prototype", "dunder", "infinity", "nan",
        "negative", "zero", "exponent", "unlimited", "percent", "huge number"}  # fmt: skip
NUMBERS = [0, -1, 1, 99, 65534, 65535, 2**31, 2**32, 2**32 + 2_034_501, -(2**31), 2_034_600, 2_034_501.0,
           "2034501", None, True, [2_034_501], 10**30]  # fmt: skip


def test_names_are_checked(site: FolderSite, victim: Path) -> None:
    """No name leads out of its place; each that is refused is refused by its field, in a word."""
    texts = [text for what, text in TEXTS.items() if what not in FINE]
    names, paths = [*NAMES, *texts], [*PATHS, *texts]
    requests: list[tuple[str, dict[str, object]]] = []
    for name in names:
        requests += [
            ("name", {"verb": "home", "name": name, "uid": ALICE.uid, "gid": ALICE.uid}),
            ("name", {"verb": "archive", "kind": "home", "name": name, "owner": ALICE.uid}),
        ]
    for path in paths:
        requests += [
            ("path", {"verb": "share", "path": path, "gid": TEAM}),
            ("path", {"verb": "parent", "path": path}),
            ("source", {"verb": "rename", "source": path, "target": "b", "gid": TEAM}),
            ("target", {"verb": "rename", "source": "b", "target": path, "gid": TEAM}),
            ("name", {"verb": "archive", "kind": "share", "name": path, "owner": TEAM}),
        ]
    done = site.raw("".join(json.dumps(request) + "\n" for _, request in requests))
    assert (done.returncode, done.stderr) == (0, b"")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    through = []
    for (field, request), answer in zip(requests, answers, strict=True):
        assert answer["words"].isprintable()
        assert answer["words"].isascii()
        if not answer["words"].startswith(f"{field}: "):
            through.append(request)
    assert through == []
    assert list(site.homes.iterdir()) == list(site.shared.iterdir()) == []


def test_numbers_are_checked(site: FolderSite) -> None:
    """Root's, the system's and everybody's numbers outside the settings' ranges are refused."""
    requests = []
    for number in NUMBERS:
        requests += [
            {"verb": "home", "name": "alice", "uid": number, "gid": ALICE.uid},
            {"verb": "home", "name": "alice", "uid": ALICE.uid, "gid": number},
            {"verb": "share", "path": "lab", "gid": number},
            {"verb": "share", "path": "lab", "gid": TEAM, "readers": [number]},
            {"verb": "share", "path": "lab", "gid": TEAM, "readers": number},
            {"verb": "share", "path": "lab", "gid": TEAM, "readers": [TEAM]},
            {"verb": "tree", "path": "lab", "gid": number, "readers": []},
            {"verb": "archive", "kind": "home", "name": "alice", "owner": number},
            {"verb": "archive", "kind": "share", "name": "lab", "owner": number},
            {"verb": "rename", "source": "a", "target": "b", "gid": number},
        ]
    done = site.raw("".join(json.dumps(request) + "\n" for request in requests))
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(requests)
    for request, answer in zip(requests, answers, strict=True):
        assert answer["result"] == "refused", (request, answer)
    assert not (site.homes / "alice").exists()
    assert not (site.shared / "lab").exists()


@pytest.mark.parametrize(
    "line",
    [
        *("null", "[]", '"home"', "{", "{}", "7", "\0", "[" * 50_000, '{"verb": null}', "nonsense"),
        *('{"verb": ["home"]}', '{"verb": "exec"}', '{"verb": "Home"}', '{"verb": "home"}'),
        '{"verb": "home", "name": "alice", "uid": 2034501, "gid": 2034501, "mode": "0777"}',
        '{"verb": "home", "name": "alice", "uid": 2034501, "gid": 2034501, "root": "/etc"}',
        '{"verb": "share", "path": "lab", "gid": 2050001, "sticky": 1}',
        '{"verb": "archive", "kind": "file", "name": "alice", "owner": 2034501}',
        '{"verb": "quota", "kind": "home", "name": "alice", "owner": 2034501, "quota_bytes": -1}',
        '{"verb": "check", "item": {"verb": "tree", "path": "a", "gid": 2050001}}',
        '{"verb": "check", "item": {"verb": "check"}}',
    ],
)
def test_only_its_verbs(site: FolderSite, line: str) -> None:
    """What is none of the verbs, or has an argument too many or too few, is refused in a word."""
    done = site.raw(line + "\n" + '{"verb": "parent", "path": "after"}\n')
    refused, after = map(json.loads, done.stdout.splitlines())
    assert refused["result"] == "refused"
    assert after["result"] == "done", "one bad request stops none of the others"
    assert done.stderr == b""


def test_input_is_bounded(site: FolderSite) -> None:
    """A line too long ends it with an answer; it is never read whole."""
    done = site.raw(b'{"verb": "parent", "path": "' + b"a" * 50_000_000)
    (answer,) = map(json.loads, done.stdout.splitlines())
    assert answer["result"] == "refused"
    assert "65536 bytes" in answer["words"]


# ---- settings -----------------------------------------------------------------------------------


def refused_settings(site: FolderSite) -> str:
    """What the command says before it reads anything; nothing may have been made."""
    done = site.raw(f'{{"verb": "home", "name": "a", "uid": {ALICE.uid}, "gid": {ALICE.uid}}}\n')
    assert done.returncode == 1
    assert done.stdout == b""
    assert not (site.homes / "a").exists()
    return done.stderr.decode()


def test_settings_are_root_s_alone(site: FolderSite) -> None:
    """A settings file, or a folder above it, that others may write, own or exchange, is not read."""
    for mode in (0o666, 0o664, 0o602):
        site.file.chmod(mode)
        assert "nobody but root may write it" in refused_settings(site)
    site.file.chmod(0o644)
    os.chown(site.file, ALICE.uid, 0)
    assert "has to be root's" in refused_settings(site)
    os.chown(site.file, 0, 0)
    for mode in (0o777, 0o775):
        site.etc.chmod(mode)
        assert "others than root may rename" in refused_settings(site)
    site.etc.chmod(0o755)
    os.chown(site.etc, ALICE.uid, 0)
    assert "has to be root's" in refused_settings(site)
    os.chown(site.etc, 0, 0)
    real = site.file.rename(site.etc / "real.json")
    site.file.symlink_to(real)
    assert "a symbolic link" in refused_settings(site)
    site.file.unlink()
    os.mkfifo(site.file)
    assert "not a plain file" in refused_settings(site)
    site.file.unlink()
    assert "is missing" in refused_settings(site)
    real.rename(site.file)
    moved = site.etc.rename(site.base / "other")
    site.etc.symlink_to(moved)
    assert "a symbolic link" in refused_settings(site)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"homes": {"root": "relative"}}, "homes.root"),
        ({"homes": {"root": "/srv/../etc"}}, "homes.root"),
        ({"homes": {"root": "/"}}, "homes.root"),
        ({"homes": {}}, "homes.root: missing"),
        ({"homes": {"root": "/srv", "mode": "0777"}}, "homes: unknown field"),
        ({"shared": {"root": "/srv", "skeleton": "/etc/skel"}}, "shared: unknown field"),
        ({"uids": [[0, 100]]}, "uids"),
        ({"uids": [[50, 100]]}, "uids"),
        ({"uids": [[300, 200]]}, "uids"),
        ({"uids": "1000-2000"}, "uids"),
        ({"gids": [[1000, 2**31]]}, "gids"),
        ({"mounts": "yes"}, "mounts"),
        ({"command": "id"}, "unknown field"),
        ({"homes": None, "shared": None}, "expected homes or shared"),
    ],
)
def test_settings_that_make_no_sense(
    site: FolderSite, change: dict[str, object], words: str
) -> None:
    """A wrong setting stops everything, and is named."""
    site.write(**change)
    assert words in refused_settings(site)


def test_roots_are_root_s_alone(site: FolderSite) -> None:
    """Where homes are made only root may write; else nothing is made."""
    asked = Home("alice", ALICE.uid, ALICE.uid)
    for mode in (0o777, 0o1777, 0o775):
        site.homes.chmod(mode)
        assert f"has mode {mode:04o}" in site.says(asked)
    site.homes.chmod(0o755)
    os.chown(site.homes, ALICE.uid, 0)
    assert "has to be root's" in site.says(asked)
    os.chown(site.homes, 0, 0)
    (site.homes / ".qhub").mkdir(mode=0o755)
    assert "has to be root's alone" in site.says(asked)
    (site.homes / ".qhub").rmdir()
    (site.homes / ".qhub").symlink_to(site.base)
    assert "a symbolic link" in site.says(asked)


# ---- surroundings -------------------------------------------------------------------------------


def test_arguments_and_other_accounts_are_refused(site: FolderSite) -> None:
    """No argument means anything to it, and without root it does nothing."""
    for word in ("--settings=/tmp/evil", "-h", "", "/tmp/evil"):
        done = site.raw("", [str(site.command), word])
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"no arguments" in done.stderr
    done = ALICE.run(str(site.command))
    assert "has to run as root" in done.stderr


@pytest.fixture
def rule(site: FolderSite) -> Iterator[list[str]]:
    """The printed sudo rule for the account nobody, and how to become it and call sudo."""
    file = Path("/etc/sudoers.d") / f"qhub-attacks-{os.getpid()}"
    file.touch(mode=0o440)
    file.write_text(sudoers(hub_user="nobody", command=str(site.command)))
    done = subprocess.run(["visudo", "-cf", str(file)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    yield ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", "sudo", "-n"]
    file.unlink()


def test_sudo_lets_nothing_else_through(site: FolderSite, rule: list[str]) -> None:
    """With arguments, by another name, as somebody else, with variables: sudo refuses."""
    copy = site.base / "copy"
    shutil.copy(site.command, copy)
    own = str(site.command)
    refused = [
        ["--", own, "--settings=/tmp/evil"], ["--", own, ""], ["--", str(copy)],
        ["--", "/usr/bin/python3", own], ["-u", "daemon", "--", own], ["-g", "daemon", "--", own],
        ["-E", "--", own], ["PYTHONPATH=/tmp", own], ["LD_PRELOAD=/tmp/x.so", own], ["-s"], ["-i"],
        ["-e", own], ["--", "/bin/sh"], ["-D", "/tmp", "--", own], ["-R", "/tmp", "--", own],
    ]  # fmt: skip
    for words in refused:
        done = site.raw('{"verb": "check"}\n', [*rule, *words])
        assert done.returncode != 0, words
        assert done.stdout == b"", words
    done = site.raw('{"verb": "check"}\n', [*rule, "--", own])
    assert (done.returncode, done.stderr) == (0, b"")


def test_surroundings_change_nothing(site: FolderSite, rule: list[str]) -> None:
    """The caller's variables, folder, umask, limits and ignored signals do not reach what it does."""
    evil, ran = site.base / "evil", site.base / "ran"
    evil.mkdir(mode=0o755)
    ran.mkdir()
    ran.chmod(0o777)
    for name in ("json", "os", "re", "fcntl", "sitecustomize", "usercustomize", "qhub_auth"):
        (evil / f"{name}.py").write_text(f"open('{ran}/{name}', 'w')\n")
    (site.skeleton / "big").write_text("x" * 100_000)
    environment = {
        "PATH": f"{evil}:/usr/bin:/bin:/usr/sbin", "PYTHONPATH": str(evil), "PYTHONHOME": str(evil),
        "PYTHONSTARTUP": f"{evil}/json.py", "PYTHONINSPECT": "1", "LD_PRELOAD": f"{evil}/x.so",
        "LD_LIBRARY_PATH": str(evil), "TMPDIR": str(evil), "HOME": str(evil), "TZ": f"{evil}/json.py",
        "QHUB_FOLDERS": f"{evil}/settings.json", "BASH_ENV": f"{evil}/json.py",
    }  # fmt: skip

    def hostile() -> None:
        os.umask(0)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM, signal.SIGCHLD])
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (48, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        )
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))

    lines = (
        f'{{"verb": "home", "name": "alice", "uid": {ALICE.uid}, "gid": {ALICE.uid}}}\n'
        f'{{"verb": "share", "path": "lab", "gid": {TEAM}}}\n{{"verb": "parent", "path": "a"}}\n'
    )
    done = site.raw(
        lines, [*rule, "--", str(site.command)], env=environment, cwd=evil, preexec_fn=hostile
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["result"] for line in done.stdout.splitlines()] == ["done"] * 3
    assert facts(site.homes / "alice") == (ALICE.uid, ALICE.uid, 0o700)
    assert facts(site.homes / "alice" / "big") == (ALICE.uid, ALICE.uid, 0o644)
    assert (site.homes / "alice" / "big").stat().st_size == 100_000
    assert facts(site.shared / "lab") == (0, TEAM, 0o2770)
    assert facts(site.shared / "a") == (0, 0, 0o755)
    assert facts(site.shared / ".qhub") == (0, 0, 0o700)
    assert list(ran.iterdir()) == []


def test_a_full_disk_leaves_nothing_half_made(site: FolderSite) -> None:
    """Where first files cannot be written there is no home; once they can, there is."""
    (site.skeleton / "big").write_bytes(b"x" * 3_000_000)
    script = (
        f"mount -t tmpfs -o size=1m,mode=755 none {site.homes} && {site.command}; "
        f"ls {site.homes}; mount -o remount,size=20m {site.homes} && echo | cat - && ls {site.homes}/.qhub/new"
    )
    line = f'{{"verb": "home", "name": "alice", "uid": {ALICE.uid}, "gid": {ALICE.uid}}}\n'
    done = site.raw(line, ["unshare", "--mount", "sh", "-c", script])
    if b"mount:" in done.stderr:
        missing("mount", OSError(done.stderr.decode()))
    answer, *listed = done.stdout.decode().splitlines()
    assert "No space left" in json.loads(answer)["words"]
    assert "alice" not in listed
