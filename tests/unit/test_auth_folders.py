"""Requests, ACLs and settings of the command for folders, how it is asked, how it is set up."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhub_auth import folders
from qhub_auth.errors import ConfigurationError, FoldersError
from qhub_auth.folders import acl, quotas
from qhub_auth.folders.opening import FolderError
from qhub_auth.folders.settings import settings_of
from qhub_auth.folders.verbs import (
    Archive,
    Check,
    Home,
    Parent,
    Quota,
    Rename,
    Share,
    Tree,
    line_of,
    parsed,
    request_of,
)
from qhub_auth.homes.ensuring import Folders, Result, ensure, follow_ups
from qhub_auth.homes.setup import example_settings, install, sudoers
from qhub_auth.paths import folder_of

VERBS = [
    Home("alice", 20001, 20001), Share("a/b", 50001, readers=(50002, 50003), sticky=True),
    Parent("a"), Archive("home", "alice", 20001), Archive("share", "a/b", 50001),
    Rename("a", "b", 50001), Tree("a", 50001), Quota("share", "a/b", 50001, 10), Check(),
    Check(Home("alice", 20001, 20001)),
]  # fmt: skip


# ---- requests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.verb)
def test_a_request_is_read_as_it_was_written(verb: Any) -> None:
    """Each verb, on one line, comes out the same on the other side."""
    line = line_of(verb)
    assert line.count("\n") == 1
    assert parsed(json.loads(line)) == verb
    assert parsed(request_of(verb)) == verb


@given(st.text(min_size=1).filter(lambda name: "~" not in name))
def test_every_group_s_folder_can_be_asked_for(name: str) -> None:
    """Whatever a group is called, its folder is a path that is taken, and never leads elsewhere."""
    path = folder_of("/top/" + name.replace("/", "~/"))
    verb = parsed({"verb": "parent", "path": path})
    assert verb == Parent(path)
    assert not {"", ".", ".."} & set(path.split("/"))
    assert path.count("/") == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["verb", "name", "uid", "gid", "path", "item", "kind", "x"]), JSON)
       | st.builds(lambda verb, rest: rest | {"verb": verb},
                   st.sampled_from(["home", "share", "check", "archive", "everything"]),
                   st.dictionaries(st.sampled_from(["name", "path", "uid", "gid", "item"]), JSON)))  # fmt: skip
def test_anything_else_is_refused_in_words(request_: dict[str, Any]) -> None:
    """Any JSON is either one of the verbs or refused by a printable ASCII text."""
    words = ""
    try:
        assert request_of(parsed(request_))["verb"] == request_["verb"]
    except ValueError as error:
        words = str(error)
    assert words.isprintable()
    assert words.isascii()
    assert len(words) < 600


# ---- ACLs ---------------------------------------------------------------------------------------


def test_the_bytes_of_an_acl() -> None:
    """As the kernel wrote them for setfacl 2.3.1: owner, group, a named group, mask, other."""
    wanted = bytes.fromhex(
        "02000000" "0100" "0700" "ffffffff" "0400" "0700" "ffffffff" "0800" "0500" "53c30000"
        "1000" "0700" "ffffffff" "2000" "0000" "ffffffff"
    )  # fmt: skip
    assert acl.shared([50003]).packed() == wanted
    assert acl.Acl.unpacked(wanted) == acl.shared([50003])


BITS = st.integers(0, 7)
ENTRIES = st.dictionaries(st.integers(1, 2**31), BITS, max_size=5).map(
    lambda d: tuple(sorted(d.items()))
)


@given(
    st.builds(
        acl.Acl,
        owner=BITS,
        group=BITS,
        other=BITS,
        users=ENTRIES,
        groups=ENTRIES,
        mask=st.none() | BITS,
    )
)
def test_acls_come_back(given_acl: acl.Acl) -> None:
    """What is packed is unpacked."""
    assert acl.Acl.unpacked(given_acl.packed()) == given_acl


@given(st.binary(max_size=64))
def test_other_bytes_are_no_acl(data: bytes) -> None:
    """Bytes are an ACL or a ValueError."""
    try:
        found = acl.Acl.unpacked(data)
    except ValueError:
        return
    assert acl.Acl.unpacked(found.packed()) == acl.Acl.unpacked(found.packed())


def test_readers_get_no_more_than_the_group() -> None:
    """The mask that a file had stays: closed to the group is closed to readers; and goes with them."""
    closed = acl.Acl.of_mode(0o600).with_readers([7], execute=False)
    assert (closed.mask, closed.groups) == (0, ((7, acl.READ),))
    assert closed.with_readers([], execute=False) == acl.Acl.of_mode(0o600)
    opened = acl.Acl.of_mode(0o660).with_readers([7, 8], execute=False)
    assert (opened.mask, opened.group) == (6, 6)
    masked = acl.Acl(owner=7, group=7, other=0, groups=((7, 5),), mask=4)
    assert masked.with_readers([], execute=True) == acl.Acl.of_mode(0o740)
    named = acl.Acl(owner=6, group=6, other=0, users=((9, 6),), mask=6)
    assert named.with_readers([], execute=False).mask == 6


def test_no_quotas_is_no_error(tmp_path: Path) -> None:
    """Where there are none the answer is a text; nothing is raised."""
    fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert "no project quotas" in quotas.state(fd)
        assert quotas.limit(fd, 7, 1000)
        assert quotas.limit_of(fd, 7) is None
        assert quotas.project_of(fd) == (0, False)
    finally:
        os.close(fd)


# ---- settings -----------------------------------------------------------------------------------


def test_example_settings_are_taken() -> None:
    """What is printed to begin with can be used as it is, and knows every field there is."""
    document = json.loads(example_settings(homes="/srv/h", shared="/srv/s", uids=(2000, 3000)))
    settings = settings_of(document)
    assert settings.homes is not None
    assert (settings.homes.root, settings.homes.skeleton) == ("/srv/h", "/etc/skel")
    assert settings.uids == ((2000, 3000),)
    settings.check_uid(2000)
    for uid in (1999, 3001):
        with pytest.raises(FolderError, match=f"uid {uid} is not among 2000-3000"):
            settings.check_uid(uid)
    with pytest.raises(ConfigurationError, match=r"homes\.root"):
        example_settings(homes="relative")


def test_nobody_s_numbers_are_never_given() -> None:
    """65534 and 65535 are refused though a range has them."""
    settings = settings_of(
        {"homes": {"root": "/srv/h"}, "uids": [[60000, 70000]], "gids": [[60000, 70000]]}
    )
    for number in (65534, 65535):
        with pytest.raises(FolderError):
            settings.check_uid(number)
        with pytest.raises(FolderError):
            settings.check_gid(number)
    settings.check_home_gid(65533)


# ---- what root runs -----------------------------------------------------------------------------


def test_root_s_part_needs_the_standard_library_alone() -> None:
    """Every module of it imports the standard library and its neighbours, and nothing else."""
    for path in Path(folders.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] in sys.stdlib_module_names or name.startswith(
                    "qhub_auth.folders"
                ), (path, name)


def test_installed_is_one_file_for_root(tmp_path: Path) -> None:
    """One executable file, the same each time, with the settings' place; it runs without the package."""
    target = tmp_path / "libexec" / "ensure"
    for _ in range(2):
        said = install(target, settings="/nowhere/folders.json", python="/usr/bin/python3")
        content = target.read_bytes()
    assert f"installed {target}" in said
    assert target.read_bytes() == content
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    assert list(target.parent.iterdir()) == [target]
    assert content.startswith(b"#!/usr/bin/python3 -IS\n")
    assert b'SETTINGS = "/nowhere/folders.json"' in content
    names = set(zipfile.ZipFile(target).namelist())
    assert {"__main__.py", "qhub_auth/folders/main.py"} <= names
    done = subprocess.run([target], input="", capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 1
    assert "/nowhere" in done.stderr or "as root" in done.stderr


@pytest.mark.parametrize("path", ["relative", "/a b", '/a"b', "/a/../b", "/a/", "/a\nb", ""])
def test_only_plain_paths_are_installed(tmp_path: Path, path: str) -> None:
    """What would mean something else in source, shebang or sudoers is refused."""
    with pytest.raises(ConfigurationError):
        install(tmp_path / "x", settings=path)
    with pytest.raises(ConfigurationError):
        install(tmp_path / "x", python=path)
    with pytest.raises(ConfigurationError):
        sudoers(hub_user="hub", command=path)
    assert list(tmp_path.iterdir()) == []


def test_root_runs_no_python_of_others(tmp_path: Path) -> None:
    """An interpreter that others could exchange is refused, and one that does not run."""
    copy = tmp_path / "python3"
    copy.symlink_to("/usr/bin/python3")
    tmp_path.chmod(0o777)
    own = tmp_path / "own"
    own.write_text("#!/bin/sh\necho 3 11\n")
    own.chmod(0o777)
    with pytest.raises(ConfigurationError, match="changed by others"):
        install(tmp_path / "x", python=str(own))
    own.write_text("#!/bin/sh\necho 3 9\n")
    with pytest.raises(ConfigurationError, match=r"Python 3\.9"):
        install(tmp_path / "x", python=str(own))
    with pytest.raises(ConfigurationError, match="cannot be run"):
        install(tmp_path / "x", python="/nowhere/python3")


def test_the_sudo_rule() -> None:
    """The whole rule; without any argument, by one account, as root and nobody else."""
    lines = sudoers(hub_user="jupyterhub").splitlines()
    command = "/usr/local/libexec/qhub-ensure-dirs"
    assert [line for line in lines if not line.startswith("#")] == [
        f"Defaults!{command} env_reset, !requiretty, !use_pty, umask=0077",
        f'jupyterhub ALL=(root) NOPASSWD:NOSETENV: {command} ""',
    ]
    for user in ("", "ALL", "a b", "%group", "a,b", "#0", "a\nb", "!a"):
        with pytest.raises(ConfigurationError):
            sudoers(hub_user=user)


# ---- how the hub asks ---------------------------------------------------------------------------


class Person:
    name, uid, gid, home = "alice", 20001, 20001, "/home/alice"


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A stand-in that counts its runs and answers each line by what it finds in the file `answer`."""
    code = (
        "import json, pathlib, sys\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "runs = folder / 'runs'\n"
        "with runs.open('a') as file: file.write('x')\n"
        "answer = json.loads((folder / 'answer').read_text())\n"
        "for line in sys.stdin:\n"
        "    print(json.dumps({'verb': json.loads(line)['verb'], **answer}))\n"
    )
    (tmp_path / "answer").write_text('{"result": "done", "words": "made"}')
    return [sys.executable, "-c", code, str(tmp_path)]


def runs(tmp_path: Path) -> int:
    """How often the stand-in ran."""
    return len((tmp_path / "runs").read_text()) if (tmp_path / "runs").exists() else 0


async def test_what_is_known_is_not_asked_again(command: list[str], tmp_path: Path) -> None:
    """The second start runs nothing, until it was long ago; who is refused is asked for each time."""
    made = Folders(command=command, fresh_seconds=100.0)
    made.clock = lambda: now
    now = 0.0
    (result,) = await made.ensure_for(Person())
    assert (result.result, result.verb) == ("done", Home("alice", 20001, 20001))
    assert await made.ensure_for(Person()) == ()
    assert runs(tmp_path) == 1
    now = 101.0
    assert len(await made.ensure_for(Person())) == 1
    made.forget()
    (tmp_path / "answer").write_text('{"result": "refused", "words": "it is not theirs"}')
    for _ in range(2):
        with pytest.raises(FoldersError, match="'alice': it is not theirs"):
            await made.ensure_for(Person())
    assert runs(tmp_path) == 4


async def test_many_starts_share_few_runs(command: list[str], tmp_path: Path) -> None:
    """A hundred at once: one run for the first, one for all who came meanwhile."""
    made = Folders(command=command)
    asked = [made.ensure([Home(f"p{number}", 20001 + number, 20001)]) for number in range(100)]
    results = await asyncio.gather(*asked)
    assert [each[0].verb.name for each in results] == [f"p{number}" for number in range(100)]
    assert runs(tmp_path) <= 2


async def test_a_shared_folder_stops_nobody(command: list[str], tmp_path: Path) -> None:
    """Refused for a shared folder, people start all the same; nothing is asked without a command."""
    (tmp_path / "answer").write_text('{"result": "failed", "words": "no"}')
    made = Folders(command=command, home_root="/elsewhere")
    (result,) = await made.ensure([Share("a", 50001)])
    assert not result.ok
    assert await made.ensure_for(Person()) == ()
    assert await Folders().ensure_for(Person()) == ()


async def test_a_home_elsewhere_is_told_once(
    command: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A home that is not directly in the root is nobody's to make here, and the log says so once."""
    made = Folders(command=command, home_root="/elsewhere", log=logging.getLogger("folders"))
    for _ in range(2):
        assert await made.ensure_for(Person()) == ()
    (record,) = caplog.records
    assert "the home of 'alice'" in record.getMessage()
    assert "c.Folders.home_root, /elsewhere" in record.getMessage()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; sys.exit('settings are wrong')", "ended with 1: 'settings are wrong'"),
        ("pass", "0 answers came to 1 request"),
        ("print('{}')", "no answer of qhub-ensure-dirs"),
        ("print('[]')", "no answer of qhub-ensure-dirs"),
        ("print('nonsense')", "no answer of qhub-ensure-dirs"),
        ('print(\'{"verb": "home", "result": "maybe", "words": ""}\')', "no answer"),
        ('print(\'{"verb": "share", "result": "done", "words": ""}\')', "no answer"),
        ("import time; time.sleep(60)", "did not end within 1 s"),
    ],
)
async def test_a_command_that_does_not_work(code: str, words: str) -> None:
    """Each way of not answering is one error, with what is known of it."""
    seconds = 1 if "sleep" in code else 60
    with pytest.raises(FoldersError, match=words):
        await ensure([sys.executable, "-c", code], [Home("a", 1, 1)], timeout_seconds=seconds)


async def test_a_command_that_is_not_there() -> None:
    """Said by name; and whoever waits is told."""
    with pytest.raises(FoldersError, match="/nowhere/command: No such file"):
        await ensure(["/nowhere/command"], [Home("a", 1, 1)])
    made = Folders(command=["/nowhere/command"])
    with pytest.raises(FoldersError, match="No such file"):
        await made.ensure_for(Person())
    with pytest.raises(FoldersError, match="No such file"):
        await made.ensure_for(Person())
    assert await ensure(["/nowhere/command"], []) == ()


async def test_who_gives_up_waiting_stops_nobody_else(command: list[str], tmp_path: Path) -> None:
    """One start is cancelled; the others that share the run get their answer."""
    made = Folders(command=command)
    first = asyncio.create_task(made.ensure([Home("a", 20001, 20001)]))
    second = asyncio.create_task(made.ensure([Home("b", 20002, 20002)]))
    await asyncio.sleep(0)
    first.cancel()
    (result,) = await second
    assert result.result == "done"
    with pytest.raises(asyncio.CancelledError):
        await first


def test_what_follows() -> None:
    """Only shares that say so lead to going through their content."""
    share = Share("a", 50001, readers=(50002,))
    results = [
        Result(share, "done", "", {"tree": True}), Result(share, "done", "", {}),
        Result(share, "refused", "", {"tree": True}), Result(Parent("b"), "done", "", {"tree": True}),
    ]  # fmt: skip
    assert follow_ups(results) == (Tree("a", 50001, readers=(50002,)),)
