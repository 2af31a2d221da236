"""Quotas of folders that are there, and what the file systems can do at all."""

from __future__ import annotations

from typing import Literal

from . import acl, quotas
from .ground import Outcome, check_owner, on
from .opening import FolderError
from .settings import Settings
from .verbs import Check, Quota

__all__ = ["check", "quota"]


def quota(settings: Settings, verb: Quota, *, only_look: bool = False) -> Outcome:
    """Limit what a home or shared folder may hold; without project quotas nothing is done.

    Raises:
        FolderError: There is no such folder, or it belongs to another person or group.
        OSError: It cannot be opened.
    """
    which: Literal["homes", "shared"] = "homes" if verb.kind == "home" else "shared"
    with on(settings, which, only_look=only_look) as ground:
        *above, name = verb.name.split("/")
        there = ground.below(ground.walked(above), name)
        if there is None:
            raise FolderError(f"there is no {ground.root.path}/{verb.name}")
        if verb.kind == "home":
            settings.check_uid(verb.owner)
            owner, project = there.uid, verb.owner
        else:
            settings.check_gid(verb.owner)
            check_owner(there)
            owner, project = there.gid, quotas.GROUPS + verb.owner
        if owner != verb.owner:
            raise FolderError(f"{there.path} belongs to {owner}, not to {verb.owner}")
        more: dict[str, object] = {"folder": there.path}
        now = quotas.limit_of(there.fd, project)
        if now is not None:
            more["used_bytes"] = now[1]
            so = now[0] == quotas.rounded(verb.quota_bytes)
            if so and quotas.project_of(there.fd) == (project, True):
                return Outcome("unchanged", f"{there.path} has that quota", more)
        ground.about_to(f"give {there.path} a quota of {verb.quota_bytes} bytes")
        reason = quotas.limit(there.fd, project, verb.quota_bytes)
        if reason:
            words = f"{there.path} has no quota: {reason}"
            return Outcome("unchanged", words, {**more, "quota": "absent"})
        words = f"gave {there.path} a quota of {verb.quota_bytes} bytes"
        return Outcome("done", words, more)


def check(settings: Settings, _: Check) -> Outcome:
    """Say what the file systems of homes and shared folders can.

    Raises:
        FolderError: A root is missing or not root's alone.
        OSError: It cannot be opened.
    """
    words = []
    more: dict[str, object] = {}
    roots: tuple[Literal["homes"], Literal["shared"]] = ("homes", "shared")
    for which in roots:
        if (settings.homes if which == "homes" else settings.shared) is None:
            continue
        with on(settings, which, only_look=True) as ground:
            acls = not acl.absent(ground.root.fd)
            absent = quotas.state(ground.root.fd)
            words.append(
                f"{which} in {ground.root.path}: {'POSIX ACLs' if acls else 'no POSIX ACLs'}, "
                f"{absent or 'project quotas'}"
            )
            more[which] = {"root": ground.root.path, "acls": acls, "quotas": not absent}
    return Outcome("unchanged", "; ".join(words), more)
