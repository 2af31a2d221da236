"""Before somebody's server starts: their home and shared folders are made if they are absent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from qhub_auth.errors import FoldersError
from qhub_auth.homes.plan import SharePlan, share_plan
from qhub_auth.identity import KEY, Identity
from qhub_auth.numbers.resolving import with_shares

if TYPE_CHECKING:
    from qhub_auth.authenticator import KeycloakAuthenticator
    from qhub_auth.directory import Directory

__all__ = ["make_folders"]


@dataclass(frozen=True, slots=True)
class _Person:
    name: str
    uid: int
    gid: int
    home: str


async def make_folders(
    authenticator: KeycloakAuthenticator, name: str, state: Mapping[str, Any] | None
) -> None:
    """Make what is kept of a person come true on the file system.

    Args:
        authenticator: Of the hub.
        name: The hub's name of the person.
        state: What is kept of them.

    Raises:
        FoldersError: They have no home, and a server could do nothing without one.
    """
    folders = authenticator.folders
    if not folders.command:
        return
    try:
        identity = Identity.model_validate((state or {}).get(KEY))
    except ValidationError as error:
        raise FoldersError(f"{name} has no numbers yet: they have to log in once") from error
    person = _Person(name, identity.uid, identity.gid, identity.home)
    directory = await authenticator.directory_keeper.directory()
    if directory is None or not identity.groups:
        await folders.ensure_for(person)
        return
    where = {folder.path for folder in identity.groups}
    plan, paths = await asyncio.to_thread(_plan, authenticator, directory, where)
    await folders.ensure_for(person, plan, paths)


def _plan(
    authenticator: KeycloakAuthenticator, directory: Directory, where: set[str]
) -> tuple[SharePlan, set[str]]:
    """Return what shared folders there are to be, and the groups of those in `where`.

    A folder whose group was renamed stays where it is: servers that run have it mounted there.
    """
    identities = authenticator.identities
    numbers = identities.group_numbers(directory)
    shared = with_shares(directory, identities.shares)
    plan = share_plan(shared, numbers, move=False)
    paths = {
        group.path
        for group in shared.groups.values()
        if group.id in numbers and (numbers[group.id].folder or group.path) in where
    }
    return plan, paths
