"""From groups and people to requests: parents first, readers by groups below, folders that move."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from qhub_auth.directory import Directory, Group
from qhub_auth.folders.verbs import Archive, Home, Parent, Rename, Share
from qhub_auth.homes.plan import (
    SharePlan,
    archive_group,
    archive_person,
    home_verb,
    share_plan,
)
from qhub_auth.numbers.resolving import membership, with_shares


@dataclass(frozen=True)
class Numbers:
    gid: int = 0
    folder: str = ""
    uid: int = 0
    name: str = ""
    home: str = ""


def groups(**shares: tuple[str, str]) -> Directory:
    """Groups by key: their path and share."""
    made = [
        Group(id=key, path=path, attributes={"share": (share,)} if share else {})
        for key, (path, share) in shares.items()
    ]
    return Directory(groups={group.path: group for group in made})


PHYSICS = groups(
    p=("/physics", "rw"), a=("/physics/team-a", "rw"), r=("/physics/team-a/readers", "ro")
)
NUMBERS = {
    "p": Numbers(50001, "/physics"),
    "a": Numbers(50002, "/physics/team-a"),
    "r": Numbers(50003, "/physics/team-a/readers"),
}


def test_parents_come_first_and_know_it() -> None:
    """The folder above is asked for first, as one that has others' in it; readers read both."""
    assert share_plan(PHYSICS, NUMBERS).verbs == (
        Share("physics", 50001, readers=(50003,), sticky=True),
        Share("physics/team-a", 50002, readers=(50003,)),
    )


def test_readers_of_one_folder_only() -> None:
    """A group of readers beside a team reads the folder above, and nothing of the team."""
    directory = groups(p=("/p", "rw"), a=("/p/a", "rw"), r=("/p/r", "ro"))
    numbers = {"p": Numbers(1, "/p"), "a": Numbers(2, "/p/a"), "r": Numbers(3, "/p/r")}
    first, second = share_plan(directory, numbers).verbs
    assert first == Share("p", 1, readers=(3,), sticky=True)
    assert second == Share("p/a", 2)


def test_what_members_have_is_what_folders_give() -> None:
    """For each share that the directory says somebody has, the folder names the gid it is by."""
    plan = share_plan(PHYSICS, NUMBERS)
    folders = {verb.path: verb for verb in plan.verbs if isinstance(verb, Share)}
    for path in PHYSICS.groups:
        for share in PHYSICS.shares([path]):
            verb = folders[plan.folders[share.owner.path].strip("/")]
            gid = NUMBERS[share.through.id].gid
            assert gid == verb.gid if share.access == "rw" else gid in verb.readers


def test_groups_without_a_share_are_a_way_through() -> None:
    """Above a folder each group without one gets a plain one; groups that need none get none."""
    directory = groups(x=("/x", ""), y=("/x/y", "ro"), z=("/x/y/z", "rw"), n=("/none", "no"))
    plan = share_plan(directory, {"y": Numbers(1), "z": Numbers(2, "/x/y/z")})
    assert plan.verbs == (Parent("x"), Parent("x/y"), Share("x/y/z", 2))


def test_a_group_without_a_number() -> None:
    """Said, and the others go on."""
    plan = share_plan(PHYSICS, {"p": NUMBERS["p"]})
    assert plan.verbs == (Share("physics", 50001),)
    assert "'/physics/team-a' has a share, but no number" in plan.problems[0]


def test_names_are_encoded() -> None:
    """What a name has that a folder's must not is written as bytes; a slash does not lead deeper."""
    directory = groups(a=("/a~/b", "rw"), b=("/../ü", "rw"))
    numbers = {"a": Numbers(1, "/a~/b"), "b": Numbers(2, "/../ü")}
    assert share_plan(directory, numbers).verbs == (
        Parent("%2e."), Share("%2e./%c3%bc", 2), Share("a%2fb", 1),
    )  # fmt: skip


MOVED = groups(p=("/physik", "rw"), a=("/physik/b", "rw"), r=("/physik/b/readers", "ro"))


def test_renamed_groups_take_their_folders_along() -> None:
    """From where they are once the folders above have moved; each before it is put right."""
    plan = share_plan(MOVED, NUMBERS)
    assert plan.verbs == (
        Rename("physics", "physik", 50001),
        Share("physik", 50001, readers=(50003,), sticky=True),
        Rename("physik/team-a", "physik/b", 50002),
        Share("physik/b", 50002, readers=(50003,)),
    )
    assert plan.moved == {"p": "/physik", "a": "/physik/b"}
    assert plan.problems == ()


def test_only_the_parent_was_renamed() -> None:
    """What is in a folder moves with it, and is not asked to move once more."""
    directory = groups(p=("/physik", "rw"), a=("/physik/team-a", "rw"))
    plan = share_plan(directory, NUMBERS)
    assert [verb for verb in plan.verbs if isinstance(verb, Rename)] == [
        Rename("physics", "physik", 50001)
    ]
    assert plan.moved == {"p": "/physik", "a": "/physik/team-a"}


def test_folders_may_stay() -> None:
    """Asked not to move anything, the plan is for where the folders are."""
    plan = share_plan(MOVED, NUMBERS, move=False)
    assert [verb.path for verb in plan.verbs if isinstance(verb, Share)] == [
        "physics",
        "physics/team-a",
    ]
    assert plan.moved == {}
    assert plan.folders == {"/physik": "physics", "/physik/b": "physics/team-a"}


def test_out_of_reach() -> None:
    """A folder that stays below one where its members have nothing any more is told of."""
    directory = groups(p=("/physics", "rw"), a=("/team-a", "rw"))
    assert "do not get through" in share_plan(directory, NUMBERS, move=False).problems[0]
    assert share_plan(directory, NUMBERS).problems == ()


def test_one_folder_for_two() -> None:
    """Never: the second is told of."""
    directory = groups(a=("/a", "rw"), b=("/b", "rw"))
    plan = share_plan(directory, {"a": Numbers(1, "/b"), "b": Numbers(2, "/b")}, move=False)
    assert plan.verbs == (Share("b", 1),)
    assert "would have one folder" in plan.problems[0]


def test_only_some_people_s() -> None:
    """For one person: the folders of their groups, and those above."""
    directory = groups(p=("/p", "rw"), a=("/p/a", "rw"), b=("/p/b", "rw"), q=("/q", "rw"))
    numbers = {
        key: Numbers(at, group.path)
        for at, (key, group) in enumerate(sorted(directory.by_id.items()), 1)
    }
    plan = share_plan(directory, numbers)
    chosen = plan.only(["/p/a", "/unknown"])
    assert chosen == (Share("p", 3, sticky=True), Share("p/a", 1))
    assert SharePlan().only(["/p"]) == ()


def test_everybody_has_what_is_for_all() -> None:
    """A share for all is everybody's to read and write, whatever groups they are in, or none."""
    directory = with_shares(groups(q=("/q", "rw")), {"/everyone": "all"})
    for paths in ([], ["/q"]):
        belongs = membership(directory, paths)
        assert ("/everyone", "rw") in [(each.owner.path, each.access) for each in belongs.shares]
        assert "/everyone" in [each.path for each in belongs.groups]


def test_what_everybody_has_is_sticky() -> None:
    """In the folder that everybody is in, only who made something may remove it."""
    directory = replace(
        groups(e=("/everyone", "rw"), q=("/q", "rw")), everybody=frozenset({"/everyone"})
    )
    plan = share_plan(directory, {"e": Numbers(1, "/everyone"), "q": Numbers(2, "/q")})
    assert plan.verbs == (Share("everyone", 1, sticky=True), Share("q", 2))


@pytest.mark.parametrize("home", ["/srv/alice", "/home", "/home/", "/home/a/alice", "alice", ""])
def test_homes_elsewhere_are_left_alone(home: str) -> None:
    """Only what is directly in the root of homes is made or archived."""
    assert home_verb(Numbers(7, uid=7, home=home), "/home") is None
    assert archive_person(Numbers(7, uid=7, home=home), "/home") is None


def test_homes() -> None:
    """By the home's own name, which a renamed person keeps."""
    person = Numbers(gid=8, uid=7, name="new", home="/home/old")
    assert home_verb(person, "/home/") == Home("old", 7, 8)
    assert archive_person(person, "/home") == Archive("home", "old", 7)


def test_archiving_groups_begins_inside() -> None:
    """A folder goes after those in it; a group that has none is left out."""
    known = [Numbers(1, "/p"), Numbers(2, "/p/a"), Numbers(3, ""), Numbers(4, "/p/a/b")]
    assert archive_group(known) == (
        Archive("share", "p/a/b", 4),
        Archive("share", "p/a", 2),
        Archive("share", "p", 1),
    )
