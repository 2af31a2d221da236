"""Who has which folders and gids, whatever the tree of groups looks like."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qhub_auth import paths
from qhub_auth.directory import Directory, Group, PersonFacts
from qhub_auth.errors import IdentityError, NumberTakenError
from qhub_auth.identity import Identity
from qhub_auth.numbers.identities import Identities
from qhub_auth.numbers.resolving import (
    checked_home,
    group_wanted,
    membership,
    path_trouble,
    role_names,
    with_shares,
)
from qhub_spawner.identity import identity_of
from qhub_spawner.kubernetes import manifest
from tests.examples import examples

nasty = st.sampled_from(
    [
        "..",
        ".",
        "a/b",
        "a~",
        "~",
        "a\nb",
        "a\0b",
        " a",
        "A",
        "a",
        "%2e",
        "ä",
        "a" * 260,
        "\u202e",
        "😀",
    ]
)
part = nasty | st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)
tree = st.lists(part, min_size=1, max_size=4).map(paths.joined)
share = st.sampled_from([(), ("rw",), ("ro",), ("rw", "x"), ("RW",)])
number = st.sampled_from([(), (), (), ("7001",), ("7002",), ("0",), ("20000",), ("x",)])


@st.composite
def directories(draw) -> Directory:
    """A realm's groups, with every group's parents."""
    wanted = paths.with_parents(draw(st.lists(tree, max_size=12)))
    groups = {}
    for at, path in enumerate(sorted(wanted)):
        attributes = {"share": draw(share), "gid": draw(number)}
        groups[path] = Group(id=f"id-{at}", path=path, attributes=attributes)
    return Directory(groups=groups)


@st.composite
def realms(draw) -> tuple[Directory, list[PersonFacts]]:
    """A realm with people in some of its groups, and in some that it does not know."""
    directory = draw(directories())
    known = st.sampled_from(sorted(directory.groups) or ["/nothing"])
    people = [
        PersonFacts(
            sub=f"sub-{at}",
            name=f"p{at}",
            groups=frozenset(draw(st.lists(known | tree, max_size=4))),
            roles=frozenset(draw(st.lists(st.text(max_size=6), max_size=3))),
            uid=draw(st.sampled_from([None, None, 6001, 6002, 7001, 5])),
            gid=draw(st.sampled_from([None, None, None, 7001, 7002, 50000, 20000])),
            home=draw(st.sampled_from([None, None, "/home/x", "/a/../b", "home"])),
        )
        for at in range(draw(st.integers(1, 4)))
    ]
    return directory, people


@settings(max_examples=examples(60), deadline=None)
@given(realms())
def test_every_identity_is_valid_on_both_sides(realm):
    """Whatever groups and people look like: who is resolved has an identity that the spawner takes as it is; no two people share a uid, a home or a name; no two folders share a path."""
    directory, people = realm
    identities = Identities(
        database_url="sqlite://", host_accounts="ignore", log=logging.getLogger("quiet")
    )
    identities.log.setLevel(logging.CRITICAL)
    found = identities.resolve_all(people, directory)
    again = identities.resolve_all(people, directory)
    assert found.keys() == again.keys()
    for sub, each in found.items():
        # who cannot be resolved may be told another of several reasons
        assert again[sub] == each or not isinstance(again[sub], Identity)
        assert isinstance(again[sub], Identity) is isinstance(each, Identity)
    good = {sub: each for sub, each in found.items() if isinstance(each, Identity)}
    for identity in good.values():
        document = identity.model_dump(mode="json")
        assert Identity.model_validate(document) == identity
        theirs = identity_of({"qhub": document})
        assert theirs.model_dump(mode="json") == document
        places = [_folder(each.path) for each in identity.groups]
        assert len(set(places)) == len(places)
        _check_access(directory, identity, identities)
    assert len({each.uid for each in good.values()}) == len(good)
    assert len({each.home for each in good.values()}) == len(good)
    groups = identities.store.known_groups()
    folders = [paths.folder_of(each.folder) for each in groups]
    assert len({*folders}) == len(folders)
    alone = {each.uid for each in good.values() if each.gid == each.uid}
    assert not alone & {each.gid for each in groups}
    identities.store.close()


def _check_access(directory, identity, identities) -> None:
    """Hold that gids let in where shares do, and nowhere else."""
    groups = {each.folder: each for each in identities.store.known_groups()}
    writable = {each.gid for each in identity.groups if each.access == "rw"}
    for each in identity.groups:
        own = groups[each.path]
        if each.access == "ro":
            assert own.gid not in identity.gids, "a reader has the gid by which members write"
            assert own.gid != identity.gid
        else:
            assert own.gid == each.gid
        assert each.gid in identity.gids
    for own in groups.values():
        group = directory.by_id.get(own.key)
        if group is not None and group.share == "rw" and own.gid in identity.gids:
            assert own.gid in writable


def _folder(path: str) -> str:
    """The folder as the spawner finds it."""
    return "/".join(manifest.path_part(each) for each in path.strip("/").split("/"))


@given(st.text(max_size=300) | nasty)
def test_a_part_of_a_path_is_the_same_on_both_sides(name):
    """The folder that this package makes is the one that the spawner mounts, hash of long names included."""
    assert paths.path_part(name) == manifest.path_part(name)


@pytest.mark.parametrize("length", [79, 80, 81, 150, 151, 239, 240, 241, 300])
@pytest.mark.parametrize("letter", ["a", "ä", "."])
def test_long_parts_are_the_same_on_both_sides(length, letter):
    """Just below and above the lengths at which a name is cut both sides cut alike."""
    name = letter * length
    assert paths.path_part(name) == manifest.path_part(name)
    assert len(paths.path_part(name)) <= 240


@given(tree)
def test_a_folder_of_a_group_is_where_the_spawner_looks(path):
    """The whole path as the spawner splits it is the folder, for every group that may have one."""
    if not path_trouble(path):
        assert _folder(path) == paths.folder_of(path)


def _tree(**shares: str) -> Directory:
    """Groups by path, with `__` for a slash."""
    found = {}
    for name, share in shares.items():
        path = "/" + name.replace("__", "/")
        found[path] = Group(id=path, path=path, attributes={"share": (share,)} if share else {})
    return Directory(groups=found)


PHYSICS = _tree(
    physics="rw", physics__team="rw", physics__team__readers="ro", library="", library__r="ro"
)


@pytest.mark.parametrize(
    ("member_of", "folders", "gids"),
    [
        (["/physics/team"], {"/physics": "rw", "/physics/team": "rw"}, ["/physics", "/physics/team"]),
        (["/physics/team/readers"], {"/physics": "ro", "/physics/team": "ro"}, ["/physics/team/readers"]),
        (["/physics"], {"/physics": "rw"}, ["/physics"]),
        (["/physics", "/physics/team/readers"], {"/physics": "rw", "/physics/team": "ro"}, ["/physics", "/physics/team/readers"]),
        (["/physics/team", "/physics/team/readers"], {"/physics": "rw", "/physics/team": "rw"}, ["/physics", "/physics/team", "/physics/team/readers"]),
        (["/library/r"], {}, ["/library/r"]),
        (["/library", "/unknown"], {}, []),
        ([], {}, []),
    ],
)  # fmt: skip
def test_members_and_readers(member_of, folders, gids):
    """Members write what is theirs and above; readers read what is above, and have only their own group's gid."""
    belongs = membership(PHYSICS, member_of)
    assert {each.owner.path: each.access for each in belongs.shares} == folders
    assert [each.path for each in belongs.groups] == gids


def test_a_reader_below_a_group_with_a_number(caplog):
    """A group that only has a number gives it to its members, and not to who reads below it."""
    plain = Group(id="a", path="/a", attributes={"gid": ("7000",)})
    team = Group(id="b", path="/a/b", attributes={"share": ("rw",)})
    reader = Group(id="c", path="/a/b/c", attributes={"share": ("ro",)})
    directory = Directory(groups={each.path: each for each in (plain, team, reader)})
    assert [each.id for each in membership(directory, ["/a/b"]).groups] == ["a", "b"]
    assert [each.id for each in membership(directory, ["/a/b/c"]).groups] == ["c"]


def test_shares_of_the_configuration():
    """A group gets a folder by its path alone, where Keycloak says nothing of groups; its own attributes stay."""
    known = Group(id="uuid", path="/b", attributes={"gid": ("7000",)})
    directory = with_shares(Directory(groups={"/b": known}), {"/a": "rw", "/b": "ro"})
    assert directory.groups["/a"].id == "path:/a"
    assert directory.groups["/b"].share == "ro"
    assert group_wanted(directory.groups["/b"]).gid == 7000
    assert [each.owner.path for each in membership(directory, ["/a/c"]).shares] == ["/a"]


@pytest.mark.parametrize(
    "path",
    [
        "/a~/b",
        "/a\nb",
        "/a\0",
        "/" + "a" * 256,
        "/ a",
        "/a ",
        "/a/ /b",
        "/\u202ea",
        "a",
        "/",
        "//a",
    ],
)
def test_groups_that_cannot_have_a_folder(path):
    """A group whose path another could be taken for, or that a target cannot hold, gets none, and the words say why."""
    assert path_trouble(path)
    with pytest.raises(IdentityError):
        group_wanted(Group(id="x", path=path))


@pytest.mark.parametrize("number", ["", "x", "-5", "7.0", "٧", "1" * 11, " 7"])
def test_a_gid_that_is_no_number(number):
    """A gid attribute that is no number is an error that names the group; an empty one is none."""
    group = Group(id="x", path="/a", attributes={"gid": (number,)})
    if not number:
        assert group_wanted(group).gid is None
        return
    with pytest.raises(IdentityError, match="'/a'"):
        group_wanted(group)


@pytest.mark.parametrize(
    "home",
    [
        "",
        "/",
        "home/a",
        "/home/../etc",
        "/home/./a",
        "/home//a",
        "/home/a/",
        "/a:b",
        "/a b",
        "/a\nb",
        "/ä",
        "/" + "a" * 300,
        "/..",
        "/home/a/..",
    ],
)
def test_homes_that_are_refused(home):
    """A home is an absolute path of plain characters that a passwd line can hold, and goes nowhere else."""
    with pytest.raises(IdentityError, match="'alice'"):
        checked_home(home, "'alice'")


@pytest.mark.parametrize("home", ["/home/alice", "/srv/a.b/c_d-e@f", "/home/...", "/home/.a"])
def test_homes_that_are_fine(home):
    """Ordinary homes are taken as they are."""
    assert checked_home(home, "'alice'") == home


def test_roles_are_all_there():
    """Roles of the hub, of Dask and of Grafana are handed on in order; those with hidden characters are not."""
    roles = {
        "jupyterhub_admin",
        "grafana_viewer",
        "dask_gateway_admin",
        "a\nb",
        "",
        " x",
        "y" * 300,
    }
    assert role_names(roles) == ("dask_gateway_admin", "grafana_viewer", "jupyterhub_admin")


def test_nobody_writes_by_a_primary_group():
    """A primary group that an administrator gave somebody does not let them write where their groups do not."""
    directory = Directory(groups={"/p": Group("p", "/p", {"share": ("rw",), "gid": ("7000",)})})
    identities = Identities(database_url="sqlite://", host_accounts="ignore")
    outside = PersonFacts(sub="s1", name="eve", gid=7000)
    with pytest.raises(NumberTakenError, match=r"'eve' is 7000, that of the group '/p'"):
        identities.resolve(outside, directory)
    assert identities.store.find("s1") is None
    member = PersonFacts(sub="s2", name="bob", gid=7000, groups=frozenset({"/p"}))
    assert identities.resolve(member, directory).gid == 7000
    identities.store.close()


def test_nobody_writes_by_the_gid_that_two_groups_ask_for():
    """A primary gid is refused where any group with a folder has it or asks for it, in either order, and after a rename."""
    asking = {"gid": ("7001",)}
    shared, plain = {**asking, "share": ("rw",)}, asking
    for first, second in ((shared, plain), (plain, shared)):
        groups = {
            path: Group(id=path[1:], path=path, attributes=attributes)
            for path, attributes in (("/a", first), ("/b", second))
        }
        identities = Identities(
            database_url="sqlite://", host_accounts="ignore", log=logging.getLogger("quiet")
        )
        directory = Directory(groups=groups)
        identities.group_numbers(directory)
        with pytest.raises(NumberTakenError, match="has a shared folder and in which they are not"):
            identities.resolve(PersonFacts("sub-1", "p1", gid=7001), directory)
        identities.store.close()


def test_nobody_writes_by_the_gid_of_a_group_that_was_renamed():
    """A group is known by its key: the name that the database still has is not what counts."""
    identities = Identities(
        database_url="sqlite://", host_accounts="ignore", log=logging.getLogger("quiet")
    )
    before = Group(id="id-0", path="/before", attributes={"share": ("rw",)})
    number = identities.group_numbers(Directory(groups={"/before": before}))["id-0"].gid
    after = Directory(groups={"/after": replace(before, path="/after")})
    with pytest.raises(NumberTakenError, match="/after"):
        identities.resolve(PersonFacts("sub-1", "p1", gid=number), after)
    identities.store.close()


def test_a_uid_that_is_given_is_not_the_gid_that_was_asked_for():
    """Several people share a primary group whose number is in the range of people, whoever comes first."""
    identities = Identities(
        database_url="sqlite://", host_accounts="ignore", log=logging.getLogger("quiet")
    )
    first = identities.ranges.people.first
    staff = [PersonFacts(f"sub-{at}", f"p{at}", gid=first) for at in range(3)]
    found = identities.resolve_all(staff, Directory(groups={}))
    assert {each.gid for each in found.values()} == {first}
    assert first not in {each.uid for each in found.values()}
    identities.store.close()
