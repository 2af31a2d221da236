"""passwd, group and shadow: what is read back is what was meant, and files change as a whole."""

from __future__ import annotations

import errno
import os
import re
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhub_auth.errors import IdentityError
from qhub_auth.numbers import nss
from qhub_auth.numbers.nss import Files, NssGroup, NssPerson, files_for, write

hostile = st.text(st.characters() | st.sampled_from(":\n\r,\0/+-"), max_size=12)
name = hostile | st.sampled_from(
    ["alice", "Alice", "bob", "root", "sudo", "+alice", "-x", "123", "a:0:0", "a\nroot::0:0:::"]
)
number = st.integers(20000, 20006)
people = st.lists(
    st.builds(NssPerson, name, number, number, hostile | st.just("/home/a"), st.just("/bin/sh"), st.booleans()), max_size=8
)  # fmt: skip
groups = st.lists(st.builds(NssGroup, name, number, st.frozensets(name, max_size=3)), max_size=6)
LINE = r"[^:\n]*(:[^:\n]*)"


@given(people, groups, st.frozensets(name))
def test_nothing_gets_into_a_line(people, groups, machine):
    """Whatever people and groups are called: each line has its fields, names and numbers are those of somebody who was meant, and each name and number is there once."""
    files = files_for(people, groups, machine)
    meant = {(each.name, each.uid) for each in people}
    lines = files.passwd.split("\n")
    assert lines.pop() == ""
    assert all(re.fullmatch(LINE + "{6}", line) for line in lines)
    fields = [line.split(":") for line in lines]
    assert all((each[0], int(each[2])) in meant for each in fields)
    assert (
        len({each[0].lower() for each in fields})
        == len({each[2] for each in fields})
        == len(fields)
    )
    assert {(each[0], each[2]) for each in fields} == {
        (one, str(two)) for one, two in nss.entries(files.passwd).items()
    }
    rows = files.group.split("\n")
    assert rows.pop() == ""
    assert all(re.fullmatch(LINE + "{3}", row) for row in rows)
    asked = {(each.name, each.gid) for each in groups}
    own = {each.gid for each in people if each.own_group}
    for row in rows:
        group, _, gid, members = row.split(":")
        assert (group, int(gid)) in asked or int(gid) in own
        assert not members or all(
            re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*\$?", each) for each in members.split(",")
        )
        if (group, int(gid)) not in asked:
            assert group not in machine
            assert group not in {"sudo", "docker", "wheel"}
    assert (
        len({row.split(":")[0] for row in rows})
        == len({row.split(":")[2] for row in rows})
        == len(rows)
    )
    assert all(re.fullmatch(r"[^:\n]+:\*:{7}", line) for line in files.shadow.split("\n")[:-1])


def test_order_does_not_matter():
    """The same people and groups give the same text, in whatever order they come."""
    people = [NssPerson(f"p{at}", 20000 + at, 20000 + at, f"/home/p{at}") for at in range(9)]
    groups = [NssGroup(f"g{at}", 50000 + at, frozenset({"p1", "p2"})) for at in range(9)]
    assert files_for(people, groups) == files_for(reversed(people), reversed(groups))
    assert (
        files_for(people, groups).passwd.splitlines()[1] == "p1:x:20001:20001::/home/p1:/bin/bash"
    )
    assert "g3:x:50003:p1,p2\n" in files_for(people, groups).group


def test_who_is_left_out_is_told():
    """Somebody whom a line cannot hold, and a second one of a name or number, is left out and named."""
    people = [
        NssPerson("alice", 20000, 20000, "/home/alice"),
        NssPerson("ALICE", 20001, 20001, "/home/x"),
        NssPerson("bob", 20000, 20000, "/home/bob"),
        NssPerson("a\nb", 20002, 20002, "/home/c"),
        NssPerson("dave", 20003, 20003, "/home:/etc"),
    ]
    files = files_for(people, [NssGroup("g", 1), NssGroup("g", 2)])
    assert files.passwd == "alice:x:20000:20000::/home/alice:/bin/bash\n"
    assert len(files.problems) == 5
    assert all(each.isprintable() for each in files.problems)


def test_nobodys_own_group_has_rights_by_its_name():
    """A person who is called like a group that has rights gets a group of another name; so do two of them."""
    people = [
        NssPerson("sudo", 20000, 20000, "/home/a"),
        NssPerson("lab", 20001, 20001, "/home/b"),
        NssPerson("team", 20002, 20002, "/home/c"),
    ]
    text = files_for(people, [NssGroup("team", 50000)], {"lab"}).group
    assert text == "sudo-20000:x:20000:\nlab-20001:x:20001:\nteam-20002:x:20002:\nteam:x:50000:\n"


# --- files


def _files(count: int) -> Files:
    return files_for(
        [NssPerson(f"p{at}", 20000 + at, 20000 + at, f"/home/p{at}") for at in range(count)], []
    )


ALL = range(20000, 30000)


def test_files_are_written_once(tmp_path):
    """What stays the same is not touched; modes let everybody read names, and nobody the shadow file."""
    folder = tmp_path / "extra"
    assert write(folder, _files(3), uids=ALL, gids=ALL) == ("group", "passwd", "shadow")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert write(folder, _files(3), uids=ALL, gids=ALL) == ()
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {"passwd": 0o644, "group": 0o644, "shadow": 0o640}


def test_an_empty_list_removes_nobody(tmp_path):
    """Files that would lose more than a fifth of their lines stay as they are, unless somebody insists."""
    write(tmp_path, _files(100), uids=ALL, gids=ALL)
    text = (tmp_path / "passwd").read_text()
    for count in (0, 50, 79):
        with pytest.raises(IdentityError, match=f"100 lines and would have {count}.*--force"):
            write(tmp_path, _files(count), uids=ALL, gids=ALL)
    assert (tmp_path / "passwd").read_text() == text
    write(tmp_path, _files(80), uids=ALL, gids=ALL)
    write(tmp_path, _files(0), uids=ALL, gids=ALL, force=True)
    assert (tmp_path / "passwd").read_text() == ""


def test_few_lines_may_go(tmp_path):
    """On a small hub one person of three may be gone."""
    write(tmp_path, _files(3), uids=ALL, gids=ALL)
    assert write(tmp_path, _files(2), uids=ALL, gids=ALL)


def test_lines_of_others_are_not_lost(tmp_path):
    """A file with accounts that somebody else put there is left alone, and the message names them."""
    (tmp_path / "passwd").write_text("eve:x:1500:1500::/home/eve:/bin/sh\n")
    with pytest.raises(IdentityError, match=r"'eve \(1500\)'"):
        write(tmp_path, _files(3), uids=ALL, gids=ALL)
    assert not (tmp_path / "group").exists()
    write(tmp_path, _files(3), uids=ALL, gids=ALL, force=True)
    assert "eve" not in (tmp_path / "passwd").read_text()


def test_a_full_disk_changes_nothing(tmp_path, monkeypatch):
    """When a file cannot be written the old one stays whole, and nothing is left behind."""
    write(tmp_path, _files(10), uids=ALL, gids=ALL)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path, _files(11), uids=ALL, gids=ALL)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_link_in_place_of_a_file_is_replaced(tmp_path):
    """A symbolic link in place of a file is replaced, and where it led stays as it was."""
    folder, target = tmp_path / "extra", tmp_path / "precious"
    folder.mkdir()
    target.write_text("")
    (folder / "passwd").symlink_to(target)
    write(folder, _files(2), uids=ALL, gids=ALL)
    assert target.read_text() == ""
    assert not (folder / "passwd").is_symlink()


def test_readers_never_see_half_a_file(tmp_path):
    """Whoever reads while files are written reads one version as a whole."""
    texts = {_files(50).passwd, _files(55).passwd}
    write(tmp_path, _files(50), uids=ALL, gids=ALL)
    seen: set[str] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(Path(tmp_path / "passwd").read_text())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for at in range(40):
            write(tmp_path, _files(55 if at % 2 else 50), uids=ALL, gids=ALL)
    finally:
        stop.set()
        reader.join(20)
    assert seen <= texts
