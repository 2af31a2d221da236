"""Which homes and shared folders there have to be, as requests in the order to make them. Pure.

A group with ``share`` = ``rw`` has a folder; its readers are the groups below it with ``share`` =
``ro``. A group without a share that is above one gets a folder to pass through. Parents come
first, and know before that others' folders will be in them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from qhub_auth.directory import Directory, Group
from qhub_auth.errors import shown
from qhub_auth.folders.verbs import Archive, Home, Parent, Rename, Share, Verb
from qhub_auth.paths import ancestors, folder_of

__all__ = [
    "NumberedGroup",
    "NumberedPerson",
    "SharePlan",
    "archive_group",
    "archive_person",
    "elsewhere_words",
    "home_verb",
    "share_plan",
]


class NumberedGroup(Protocol):
    """What has to be known of a group; `qhub_auth.numbers.store.GroupNumbers` is one."""

    @property
    def gid(self) -> int:
        """Its number."""

    @property
    def folder(self) -> str:
        """The path that its folder was made for: where the folder is. Empty if it has none yet."""


class NumberedPerson(Protocol):
    """What has to be known of a person; `qhub_auth.numbers.store.Person` is one."""

    @property
    def name(self) -> str:
        """Their account's name."""

    @property
    def uid(self) -> int:
        """Their number."""

    @property
    def gid(self) -> int:
        """The number of their primary group."""

    @property
    def home(self) -> str:
        """Their home, an absolute path."""


@dataclass(frozen=True)
class SharePlan:
    """What there has to be of shared folders.

    Attributes:
        verbs: All of it, in the order to ask for it.
        moved: Of groups whose folder a `Rename` of `verbs` moves: their key, and the path that the
            folder is then made for, for `IdentityStore.folder_moved`.
        folders: Where each group's folder is (then), by the group's path.
        problems: What cannot be had, in words.
    """

    verbs: tuple[Verb, ...] = ()
    moved: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def only(self, paths: Collection[str]) -> tuple[Verb, ...]:
        """Return what has to be asked for so that the folders of the groups `paths` are there.

        These are the folders themselves and those above them.
        """
        wanted = {self.folders[path] for path in paths if path in self.folders}
        chosen: list[Verb] = []
        for verb in self.verbs:
            if isinstance(verb, Rename):
                here = verb.target
            elif isinstance(verb, Share | Parent):
                here = verb.path
            else:
                chosen.append(verb)
                continue
            if any(each == here or each.startswith(f"{here}/") for each in wanted):
                chosen.append(verb)
        return tuple(chosen)


def share_plan(
    directory: Directory,
    numbers: Mapping[str, NumberedGroup],
    *,
    move: bool = True,
) -> SharePlan:
    """Return what shared folders there have to be.

    Args:
        directory: All groups.
        numbers: Those that have a number, by key (`Group.id`).
        move: Whether the folder of a group that was renamed or moved goes with it; else it stays
            where it is.
    """
    problems: list[str] = []
    placed: dict[str, tuple[Group, NumberedGroup]] = {}
    renames: list[Rename] = []
    moved: dict[str, str] = {}
    for path in sorted(directory.groups, key=_depth_first):
        group = directory.groups[path]
        if group.share != "rw":
            continue
        known = numbers.get(group.id)
        if known is None:
            problems.append(f"the group {shown(path)} has a share, but no number: no folder")
            continue
        here = folder_of(known.folder) if known.folder else folder_of(path)
        if move and known.folder and folder_of(path) != here:
            source = _after(renames, here)
            if source != folder_of(path):
                renames.append(Rename(source=source, target=folder_of(path), gid=known.gid))
            moved[group.id] = path
            here = folder_of(path)
        if here in placed:
            other = placed[here][0].path
            problems.append(f"{shown(path)} and {shown(other)} would have one folder, {here}")
            continue
        placed[here] = (group, known)
    problems += _out_of_reach(directory, placed)
    verbs = _made(directory, placed, numbers, renames)
    return SharePlan(
        verbs=verbs,
        moved=moved,
        folders={group.path: here for here, (group, _) in placed.items()},
        problems=tuple(problems),
    )


def home_verb(person: NumberedPerson, home_root: str) -> Home | None:
    """Return the request for a person's home; `None` if it is not directly in `home_root`."""
    folder, _, name = person.home.rpartition("/")
    if folder != home_root.rstrip("/") or not name:
        return None
    return Home(name=name, uid=person.uid, gid=person.gid)


def elsewhere_words(person: NumberedPerson, home_root: str) -> str:
    """Return what to tell of a home that is not made, because it is not directly in `home_root`."""
    return (
        f"the home of {shown(person.name)}, {shown(person.home)}, is left to others: only what is "
        f"directly in c.Folders.home_root, {home_root}, is made"
    )


def archive_person(person: NumberedPerson, home_root: str) -> Archive | None:
    """Return the request to archive a home; `None` if it is not directly in `home_root`."""
    made = home_verb(person, home_root)
    return None if made is None else Archive(kind="home", name=made.name, owner=made.uid)


def archive_group(groups: Iterable[NumberedGroup]) -> tuple[Archive, ...]:
    """Return the requests to archive the folders of groups, the innermost first."""
    folders = [(folder_of(group.folder), group.gid) for group in groups if group.folder]
    folders.sort(key=lambda each: _depth_first(each[0]), reverse=True)
    return tuple(Archive(kind="share", name=name, owner=gid) for name, gid in folders)


def _depth_first(path: str) -> tuple[str, ...]:
    """Sort a folder before what is in it."""
    return tuple(path.strip("/").split("/"))


def _after(renames: Iterable[Rename], folder: str) -> str:
    """Return where a folder is once the folders above it have been moved."""
    for rename in renames:
        if folder.startswith(f"{rename.source}/"):
            folder = rename.target + folder.removeprefix(rename.source)
    return folder


def _out_of_reach(
    directory: Directory, placed: Mapping[str, tuple[Group, NumberedGroup]]
) -> Iterable[str]:
    for here, (group, _) in placed.items():
        mine = {group.id, *(directory.groups[each].id for each in _known_above(directory, group))}
        for above, (other, _) in placed.items():
            if here.startswith(f"{above}/") and other.id not in mine:
                yield (
                    f"the folder of {shown(group.path)} is in that of {shown(other.path)}, where "
                    "its members do not get through: let it be moved"
                )


def _known_above(directory: Directory, group: Group) -> list[str]:
    return [each for each in ancestors(group.path) if each in directory.groups]


def _made(
    directory: Directory,
    placed: Mapping[str, tuple[Group, NumberedGroup]],
    numbers: Mapping[str, NumberedGroup],
    renames: Iterable[Rename],
) -> tuple[Verb, ...]:
    made: dict[str, Share | Parent] = {}
    for here, (group, known) in placed.items():
        readers = tuple(sorted(_readers(directory, group, numbers) - {known.gid}))
        made[here] = Share(path=here, gid=known.gid, readers=readers)
    for here in placed:
        parts = here.split("/")
        for end in range(1, len(parts)):
            made.setdefault("/".join(parts[:end]), Parent(path="/".join(parts[:end])))
    # Those that have others' in them, and those in which everybody may write
    sticky = {here for here, (group, _) in placed.items() if group.path in directory.everybody}
    sticky |= {here.rpartition("/")[0] for here in made}
    pending = list(renames)
    verbs: list[Verb] = []
    for here in sorted(made, key=_depth_first):
        # A folder comes to its new place when those above are there, before it is put right
        verbs += [each for each in pending if each.target == here]
        verb = made[here]
        verbs.append(replace(verb, sticky=here in sticky) if isinstance(verb, Share) else verb)
    return tuple(verbs)


def _readers(directory: Directory, group: Group, numbers: Mapping[str, NumberedGroup]) -> set[int]:
    below = f"{group.path}/"
    return {
        numbers[each.id].gid
        for path, each in directory.groups.items()
        if path.startswith(below) and each.share == "ro" and each.id in numbers
    }
