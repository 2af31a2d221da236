"""Folders that move: into the archive, or to where a group is that was renamed or moved."""

from __future__ import annotations

import os
from typing import Literal

from .ground import Ground, Outcome, check_owner, on
from .opening import FolderError, Opened
from .settings import Settings
from .verbs import Archive, Rename

__all__ = ["archive", "rename"]


def archive(settings: Settings, verb: Archive, *, only_look: bool = False) -> Outcome:
    """Move a home or shared folder into the archive, with all that is in it; nothing is deleted.

    Raises:
        FolderError: It belongs to another person or group, or folders of other groups are in it.
        OSError: It cannot be moved, e.g. since the archive is on another file system.
    """
    which: Literal["homes", "shared"] = "homes" if verb.kind == "home" else "shared"
    if verb.kind == "home":
        settings.check_uid(verb.owner)
    else:
        settings.check_gid(verb.owner)
    with on(settings, which, only_look=only_look) as ground:
        *above, name = verb.name.split("/")
        outer = _existing(ground, above)
        there = None if outer is None else ground.looked_at(outer, name)
        path = f"{ground.root.path}/{verb.name}"
        if outer is None or there is None:
            return Outcome("unchanged", f"there is no {path}")
        if verb.kind == "home":
            if there.uid != verb.owner:
                raise FolderError(f"{path} belongs to uid {there.uid}, not to {verb.owner}")
        else:
            check_owner(there)
            if there.gid != verb.owner:
                raise FolderError(f"{path} belongs to group {there.gid}, not to {verb.owner}")
            _refuse_with_others(ground, outer, name)
        ground.about_to(f"archive {path}")
        kept = ground.archive(outer, name, verb.kind)
        return Outcome("done", f"moved {path} to {kept}", {"folder": path, "archived": kept})


def rename(settings: Settings, verb: Rename, *, only_look: bool = False) -> Outcome:
    """Move a group's shared folder, with all that is in it, to the group's new name or place.

    Raises:
        FolderError: It belongs to another group, or there is something at the new place.
        OSError: It cannot be moved.
    """
    settings.check_gid(verb.gid)
    if verb.target == verb.source or verb.target.startswith(f"{verb.source}/"):
        raise FolderError(f"{verb.source} cannot be moved to {verb.target}")
    with on(settings, "shared", only_look=only_look) as ground:
        *above, name = verb.source.split("/")
        *new_above, new_name = verb.target.split("/")
        root = ground.root.path
        outer = _existing(ground, above)
        there = None if outer is None else ground.below(outer, name)
        new_outer = ground.walked(new_above)
        taken = ground.looked_at(new_outer, new_name)
        if outer is None or there is None:
            if taken is not None and taken.uid == 0 and taken.gid == verb.gid:
                return Outcome("unchanged", f"{root}/{verb.target} is there already")
            # what is above may have to be moved first, and was not, since one only asked
            ground.about_to(f"move {root}/{verb.source} to {root}/{verb.target}, if it is there")
            raise FolderError(f"there is no {root}/{verb.source}")
        check_owner(there)
        if there.gid != verb.gid:
            raise FolderError(f"{there.path} belongs to group {there.gid}, not to {verb.gid}")
        if taken is not None:
            raise FolderError(f"{root}/{verb.target} is there already; both were left as they are")
        words = f"{root}/{verb.source} to {root}/{verb.target}"
        ground.about_to(f"move {words}")
        ground.move(outer, name, there, new_outer, new_name)
        return Outcome("done", f"moved {words}", {"folder": f"{root}/{verb.target}"})


def _existing(ground: Ground, parts: list[str]) -> Opened | None:
    """Open a folder of which all parts must be root's; `None` if one of them is missing."""
    found = ground.root
    for name in parts:
        further = ground.looked_at(found, name)
        if further is None:
            return None
        found = ground.walked(further.path.removeprefix(f"{ground.root.path}/").split("/"))
    return found


def _refuse_with_others(ground: Ground, outer: Opened, name: str) -> None:
    opened = ground.below(outer, name)
    with os.scandir(-1 if opened is None else opened.fd) as entries:
        # only root's folders can be of other groups: nobody else makes any that are root's
        others = [
            each.name
            for each in entries
            if each.is_dir(follow_symlinks=False) and each.stat(follow_symlinks=False).st_uid == 0
        ]
    if others:
        said = ", ".join(ascii(each) for each in sorted(others)[:5])
        raise FolderError(
            f"{outer.path}/{name} has folders of other groups: {said}; archive or move these first"
        )
