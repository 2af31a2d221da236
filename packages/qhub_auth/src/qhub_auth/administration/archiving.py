"""Archiving what is left of people and groups that are gone: homes and shared folders."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from qhub_auth.administration.sites import Site, group_ids
from qhub_auth.errors import IdentityError, shown
from qhub_auth.folders.verbs import Archive, Check
from qhub_auth.homes.ensuring import Result, ensure
from qhub_auth.homes.plan import archive_group, archive_person, elsewhere_words
from qhub_auth.numbers.numbered import GroupNumbers, Person
from qhub_auth.numbers.numbering import name_key

__all__ = ["archive_folder", "archive_home"]

_Note = Callable[[], None]


async def archive_home(site: Site, name: str, *, only_ask: bool) -> tuple[Result, ...]:
    """Move the home of somebody who is gone to where only root goes; their numbers stay theirs.

    Args:
        site: What to work on.
        name: Theirs; should several people of that name be gone, one after the other, all of them.
        only_ask: Only find out what would be done.

    Raises:
        IdentityError: Nobody of that name is gone, or they have no home here, or the database does
            not answer.
        KeycloakError: Keycloak does not answer: it is asked whether they have come back.
        FoldersError: The command that makes folders did not work.
    """
    store, folders = site.identities.store, site.folders
    everybody = await asyncio.to_thread(lambda: list(store.people(retired=True)))
    people = [each for each in everybody if name_key(each.name) == name_key(name)]
    gone = [each for each in people if each.retired and each.home]
    if not gone:
        raise IdentityError(f"{shown(name)}: {_why_no_person(people)}")
    site.authenticator.keycloak.check()
    steps: list[tuple[Archive, _Note]] = []
    for person in gone:
        if await site.admin.account(person.sub) is not None:
            msg = f"{shown(name)} is there again, as Keycloak says: nothing is archived"
            raise IdentityError(msg)
        verb = archive_person(person, folders.home_root)
        if verb is None:
            raise IdentityError(elsewhere_words(person, folders.home_root))
        steps.append((verb, _noted(store.home_archived, person.sub)))
    return await _done(site, steps, only_ask=only_ask)


def _why_no_person(people: Sequence[Person]) -> str:
    if not people:
        return "nobody of that name ever had numbers"
    if any(not each.retired for each in people):
        return (
            "is not gone, as far as is known here. Whom Keycloak does not know any more, "
            "qhub-identity sync notes"
        )
    return "the home is archived already"


async def archive_folder(site: Site, path: str, *, only_ask: bool) -> tuple[Result, ...]:
    """Move the folder of a group that is gone to where only root goes; its number stays its own.

    One in which there are folders of other groups is refused: these go first.

    Args:
        site: What to work on.
        path: The group's full path.
        only_ask: Only find out what would be done.

    Raises:
        IdentityError: No group of that path is gone, or the database does not answer.
        KeycloakError: Keycloak does not answer.
        FoldersError: The command that makes folders did not work.
    """
    store = site.identities.store
    groups = await asyncio.to_thread(store.known_groups, retired=True)
    mine = [each for each in groups if path in {each.path, each.folder}]
    gone = [each for each in mine if each.retired and each.folder]
    if not gone:
        raise IdentityError(f"the group {shown(path)}: {_why_no_group(mine)}")
    site.authenticator.keycloak.check()
    realm = await site.admin.realm()
    there = group_ids(realm, site.directory_of(realm)[0])
    if any(each.key in there for each in gone):
        msg = f"the group {shown(path)} is there again, as Keycloak says: nothing is archived"
        raise IdentityError(msg)
    steps = [
        (verb, _noted(store.folder_archived, each.key))
        for each in gone
        for verb in archive_group([each])
    ]
    return await _done(site, steps, only_ask=only_ask)


def _why_no_group(groups: Sequence[GroupNumbers]) -> str:
    if not groups:
        return "none of that path ever had a folder here"
    if any(not each.retired for each in groups):
        return (
            "is not gone, as far as is known here. What Keycloak does not know any more, "
            "qhub-identity sync notes"
        )
    return "its folder is archived already"


def _noted(note: Callable[[str], None], key: str) -> _Note:
    return lambda: note(key)


async def _done(
    site: Site, steps: Sequence[tuple[Archive, _Note]], *, only_ask: bool
) -> tuple[Result, ...]:
    """Ask for each step, and note it once the folder is not in its place any more."""
    command, seconds = site.folders.required_command(), site.folders.timeout_seconds
    if only_ask:
        checks = [Check(item=verb) for verb, _ in steps]
        return await ensure(command, checks, timeout_seconds=seconds)
    results: list[Result] = []
    for verb, note in steps:
        (result,) = await ensure(command, [verb], timeout_seconds=seconds)
        results.append(result)
        if not result.ok:
            break
        await asyncio.to_thread(note)
    return tuple(results)
