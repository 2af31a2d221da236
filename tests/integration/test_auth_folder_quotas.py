"""Project quotas for real, on ext4 and XFS, in a machine whose kernel has them."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qhub_auth.folders.quotas import GROUPS
from qhub_auth.folders.verbs import Archive, Check, Home, Quota, Rename, Share, Verb, request_of
from qhub_auth.homes.setup import install
from tests.conftest import missing
from tests.systems.processes import SystemUnavailableError

ALICE, PHYSICS, TEAM = 20001, 50001, 50002
MIB = 2**20
FULL = {errno.EDQUOT, errno.ENOSPC}  # XFS says of a project that the disk is full


def steps_for(root: str, command: Path) -> dict[str, list[Any]]:
    """What is done on one file system, by name."""
    homes, shared = f"{root}/home", f"{root}/shared"

    def ask(*verbs: Verb) -> list[Any]:
        return ["ask", str(command), [request_of(verb) for verb in verbs]]

    limit = Quota("home", "alice", ALICE, 4 * MIB)
    home = Home("alice", ALICE, ALICE)
    return {
        "settings": ["settings", root, {
            "homes": {"root": homes, "quota_bytes": 2 * MIB, "skeleton": "/etc/skel"},
            "shared": {"root": shared, "quota_bytes": 3 * MIB}}],
        "check": ask(Check()),
        "home": ask(home, home),
        "first file": ["project", f"{homes}/alice/.profile"],
        "fill": ["write", f"{homes}/alice/big", ALICE, [], 8 * MIB],
        "more": ask(limit, limit),
        "fill more": ["write", f"{homes}/alice/big", ALICE, [], 8 * MIB],
        "no limit": ask(Quota("home", "alice", ALICE, 0)),
        "fill all": ["write", f"{homes}/alice/big", ALICE, [], 8 * MIB],
        "shares": ask(
            Share("physics", PHYSICS, sticky=True), Share("physics/team", TEAM),
            Share("chem", PHYSICS, sticky=True)),
        "team": ["project", f"{shared}/physics/team"],
        "fill team": ["write", f"{shared}/physics/team/f", ALICE, [PHYSICS, TEAM], 8 * MIB],
        "fill physics": ["write", f"{shared}/physics/f", ALICE, [PHYSICS, TEAM], 2 * MIB],
        "move": ask(Rename("physics/team", "chem/team", TEAM)),
        "moved": ["project", f"{shared}/chem/team"],
        "moved file": ["project", f"{shared}/chem/team/f"],
        "archive": ask(Archive("share", "chem/team", TEAM), Archive("home", "alice", ALICE)),
    }  # fmt: skip


@pytest.fixture(scope="module")
def answers() -> Iterator[dict[str, dict[str, Any]]]:
    """What came of all steps, by file system: one machine for both."""
    from tests.systems import quota_machine

    folder = Path(tempfile.mkdtemp(prefix="qhub-quota-commands-", dir="/var/tmp"))
    folder.chmod(0o755)
    wanted = {}
    for kind, root in quota_machine.FOLDERS.items():
        install(folder / kind, settings=f"{root}/folders.json")
        wanted[kind] = steps_for(root, folder / kind)
    try:
        done = iter(
            quota_machine.run([step for steps in wanted.values() for step in steps.values()])
        )
        yield {kind: {name: next(done) for name in steps} for kind, steps in wanted.items()}
    except SystemUnavailableError as error:
        missing("a machine with project quotas", error)
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_home_holds_its_quota(answers: dict[str, dict[str, Any]], kind: str) -> None:
    """A home is full at its quota, first files counted; more is more, and none is none."""
    came = answers[kind]
    (report,) = came["check"]
    assert report["homes"] == {"root": report["homes"]["root"], "acls": True, "quotas": True}
    assert [each["result"] for each in came["home"]] == ["done", "unchanged"]
    assert "quota 2097152 bytes" in came["home"][0]["words"]
    assert came["first file"] == [ALICE, False]
    written, code = came["fill"]
    assert code in FULL
    assert MIB < written <= 2 * MIB
    assert [each["result"] for each in came["more"]] == ["done", "unchanged"]
    assert came["more"][0]["used_bytes"] > MIB
    written, code = came["fill more"]
    assert code in FULL
    assert 3 * MIB < written <= 4 * MIB
    assert [each["result"] for each in came["no limit"]] == ["done"]
    assert came["fill all"] == [8 * MIB, 0]


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_share_holds_its_own(answers: dict[str, dict[str, Any]], kind: str) -> None:
    """A subgroup's folder has a quota of its own, and takes it along where it is moved."""
    came = answers[kind]
    assert [each["result"] for each in came["shares"]] == ["done"] * 3
    assert came["team"] == [GROUPS + TEAM, True]
    written, code = came["fill team"]
    assert code in FULL
    assert 2 * MIB < written <= 3 * MIB
    assert came["fill physics"] == [2 * MIB, 0]
    assert [each["result"] for each in came["move"]] == ["done"]
    assert came["moved"] == [GROUPS + TEAM, True]
    assert came["moved file"] == [GROUPS + TEAM, False]
    assert [each["result"] for each in came["archive"]] == ["done", "done"]
