"""What the commands of `qhub-identity` do: show, sync, nss, ensure-dirs, audit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from qhub_auth.administration import auditing
from qhub_auth.administration.sites import Everybody, Site
from qhub_auth.directory import Directory, PersonFacts
from qhub_auth.errors import IdentityError, KeycloakError, KeycloakRefusedError, shown
from qhub_auth.folders.verbs import Check, Rename, Verb
from qhub_auth.homes.ensuring import TREE_TIMEOUT_SECONDS, Folders, Result, ensure, follow_ups
from qhub_auth.homes.plan import SharePlan, elsewhere_words, home_verb, share_plan
from qhub_auth.identity import Identity
from qhub_auth.numbers import nss
from qhub_auth.numbers.numbered import GroupNumbers, Person
from qhub_auth.numbers.resolving import GID_ATTRIBUTES, identity_for, membership

__all__ = ["Ensured", "Synced", "audit", "ensure_dirs", "show", "sync", "write_nss"]

_FEW, _GONE_PERCENT = 5, 20
_AT_ONCE = 2000
_FORBIDDEN = 403
_Write = Callable[[str, Mapping[str, str]], Awaitable[None]]


# --- show


async def show(site: Site, name: str) -> dict[str, Any]:
    """Return all that is known of somebody; nothing is given to them or changed.

    Raises:
        IdentityError: Nobody has that name, or the database does not answer.
        KeycloakError: Keycloak does not answer.
    """
    store = site.identities.store
    person = await asyncio.to_thread(store.person_named, name)
    if person is None:
        msg = f"{shown(name)} has no numbers: nobody of that name came yet, or was imported"
        raise IdentityError(msg)
    answer: dict[str, Any] = {"person": asdict(person)}
    if not person.claimed:
        return {**answer, "keycloak": None, "note": "was imported, and never came"}
    site.authenticator.keycloak.check()
    facts = await site.admin.person(person.sub)
    if facts is None:
        return {**answer, "keycloak": None, "note": "Keycloak does not know them any more"}
    directory, disguised = site.directory_of(await site.admin.realm())
    facts = replace(facts, groups=facts.groups - disguised)
    groups = await asyncio.to_thread(store.known_groups)
    belongs = membership(directory, facts.groups)
    identity = identity_for(person, facts, belongs, {each.key: each for each in groups})
    return {**answer, "keycloak": _plain(facts), "identity": identity.model_dump(mode="json")}


def _plain(facts: PersonFacts) -> dict[str, Any]:
    plain = asdict(facts)
    return {**plain, "groups": sorted(facts.groups), "roles": sorted(facts.roles)}


# --- sync


@dataclass
class Synced:
    """What `sync` did, or would do.

    Attributes:
        new: Names of people who got numbers.
        known: How many had some already.
        groups: How many groups have a number.
        gone: Names of people and paths of groups that Keycloak does not know any more.
        written: How many people and groups got their numbers written back to Keycloak.
        refused: How many may not come in, and got nothing.
        problems: What did not work, in words.
    """

    new: list[str] = field(default_factory=list)
    known: int = 0
    groups: int = 0
    gone: list[str] = field(default_factory=list)
    written: int = 0
    refused: int = 0
    problems: list[str] = field(default_factory=list)


async def sync(
    site: Site, *, dry_run: bool = False, write_back: bool = False, force: bool = False
) -> Synced:
    """Give numbers to everybody who may come in, and to all groups, before they come.

    Args:
        site: What to work on.
        dry_run: Only find out what would be done.
        write_back: Write numbers into Keycloak's attributes where there are none.
        force: Believe Keycloak even if many are gone.

    Raises:
        KeycloakError: Something could not be read; nothing was changed.
        IdentityError: Far too many would be gone, or the database does not answer.
    """
    everybody = await site.everybody()
    store = site.identities.store
    welcome = everybody.welcome()
    known = await asyncio.to_thread(store.find_all, list(welcome))
    done = Synced(known=len(known), refused=len(everybody.refused))
    done.new = sorted(everybody.names[sub] for sub in welcome if sub not in known)
    gone, lost = await asyncio.to_thread(_gone, site, everybody, force=force)
    done.gone = [*sorted(each.name for each in gone), *sorted(each.path for each in lost)]
    if dry_run:
        return done
    done.groups = len(await asyncio.to_thread(site.identities.group_numbers, everybody.directory))
    found = await asyncio.to_thread(_resolve, site, everybody, welcome)
    failed = {sub: each for sub, each in found.items() if isinstance(each, IdentityError)}
    for sub, error in failed.items():
        who = shown(everybody.names[sub])
        done.problems.append(str(error) if who in str(error) else f"{who}: {error}")
    done.new = sorted({*done.new} - {everybody.names[sub] for sub in failed})
    for each in gone:
        await asyncio.to_thread(store.retire, each.sub)
    for group in lost:
        await asyncio.to_thread(store.retire_group, group.key)
    if write_back:
        await _write_back(site, everybody, found, done)
    return done


def _resolve(
    site: Site, everybody: Everybody, people: Mapping[str, PersonFacts]
) -> dict[str, Identity | IdentityError]:
    found: dict[str, Identity | IdentityError] = {}
    order = sorted(people)
    for start in range(0, len(order), _AT_ONCE):
        part = [people[sub] for sub in order[start : start + _AT_ONCE]]
        found |= site.identities.resolve_all(part, everybody.directory, everybody.names)
    return found


def _gone(
    site: Site, everybody: Everybody, *, force: bool
) -> tuple[list[Person], list[GroupNumbers]]:
    store = site.identities.store
    known = [each for each in store.people() if each.claimed]
    gone = [each for each in known if each.sub not in everybody.people]
    groups = [each for each in store.known_groups() if not each.key.startswith("path:")]
    lost = [each for each in groups if each.key not in everybody.group_ids]
    for what, some, of in (("people", gone, known), ("groups", lost, groups)):
        if not force and len(some) > max(_FEW, len(of) * _GONE_PERCENT / 100):
            msg = (
                f"Keycloak does not know {len(some)} of the {len(of)} {what} that have numbers: "
                "that many do not go by themselves. Nothing is changed; if it is right, say --force"
            )
            raise IdentityError(msg)
    return gone, lost


async def _write_back(
    site: Site,
    everybody: Everybody,
    found: Mapping[str, Identity | IdentityError],
    done: Synced,
) -> None:
    """Write numbers where there are none; it ends at what would stop each of them alike."""
    steps: list[tuple[str, _Write, str, dict[str, str]]] = []
    for sub, identity in sorted(found.items()):
        facts = everybody.people[sub]
        if sub in everybody.odd_numbers:
            # what somebody wrote there is not written over
            who = shown(everybody.names[sub])
            done.problems.append(f"{who} is not written back: see qhub-identity audit")
        elif isinstance(identity, Identity) and (facts.uid is None or facts.gid is None):
            values = {"uidNumber": str(identity.uid), "gidNumber": str(identity.gid)}
            steps.append((shown(everybody.names[sub]), site.admin.write_attributes, sub, values))
    for each in await asyncio.to_thread(site.identities.store.known_groups):
        group = everybody.directory.by_id.get(each.key)
        if group is not None and not any(map(group.first, GID_ATTRIBUTES)):
            # not gidNumber: Keycloak would put it into the tokens of members who have none
            who, values = f"the group {shown(each.path)}", {"gid": str(each.gid)}
            steps.append((who, site.admin.write_group_attributes, each.key, values))
    for who, write, key, values in steps:
        try:
            await write(key, values)
            done.written += 1
        except KeycloakError as error:
            done.problems.append(f"{who} is not written back: {error}")
            if not isinstance(error, KeycloakRefusedError) or error.status == _FORBIDDEN:
                return


# --- nss


@dataclass(frozen=True)
class _Numbered:
    """People and groups with their numbers, and who is in what."""

    everybody: Everybody
    people: Mapping[str, Person]
    groups: Mapping[str, GroupNumbers]


async def _numbered(site: Site) -> _Numbered:
    """Read what there is, without giving anybody a number."""
    everybody = await site.everybody()
    store = site.identities.store
    people = await asyncio.to_thread(store.find_all, list(everybody.people))
    groups = {each.key: each for each in await asyncio.to_thread(store.known_groups)}
    return _Numbered(everybody, people, groups)


async def write_nss(
    site: Site, folder: Path, *, everybody: bool = False, force: bool = False
) -> tuple[str, tuple[str, ...]]:
    """Write passwd, group and shadow for all who have numbers; returns what to tell, and problems.

    Args:
        site: What to work on.
        folder: Where the files go.
        everybody: Those as well who are accounts of this machine anyhow.
        force: Write even if much would go.

    Raises:
        KeycloakError: Something could not be read; the files stay as they are.
        IdentityError: Far too much would go, or the database does not answer.
        OSError: A file cannot be written.
    """
    found = await _numbered(site)
    return await asyncio.to_thread(_write_nss, site, found, folder, everybody, force)


def _write_nss(
    site: Site,
    found: _Numbered,
    folder: Path,
    everybody: bool,
    force: bool,
) -> tuple[str, tuple[str, ...]]:
    store, host = site.identities.store, site.identities.host
    people = []
    for sub, person in found.people.items():
        own = None if everybody else host.account(person.name)
        if sub not in found.everybody.names or (own is not None and own.uid == person.uid):
            continue
        shell = nss.NOLOGIN if sub in found.everybody.refused else site.identities.shell
        fields = (person.name, person.uid, person.gid, person.home, shell)
        people.append(nss.NssPerson(*fields, own_group=person.gid == person.uid))
    members = _members(found)
    groups = [
        nss.NssGroup(each.unix_name, each.gid, frozenset(members.get(key, ())))
        for key, each in found.groups.items()
        if key in found.everybody.directory.by_id
    ]
    named = {each.name for each in people if host.group(each.name) not in {None, each.gid}}
    files = nss.files_for(people, groups, named)
    changed = nss.write(
        folder,
        files,
        uids=store.numbers_given("uid"),
        gids=store.numbers_given("gid"),
        force=force,
    )
    words = f"{len(people)} people and {len(groups)} groups in {folder}: "
    return words + (f"{', '.join(changed)} written" if changed else "nothing changed"), (
        files.problems
    )


def _members(found: _Numbered) -> dict[str, set[str]]:
    members: dict[str, set[str]] = {}
    for sub, person in found.people.items():
        facts = found.everybody.people[sub]
        for group in membership(found.everybody.directory, facts.groups).groups:
            if sub not in found.everybody.refused:
                members.setdefault(group.id, set()).add(person.name)
    return members


# --- ensure-dirs


@dataclass(frozen=True)
class Ensured:
    """What became of homes and shared folders.

    Attributes:
        results: Of each that was asked for.
        problems: What was not asked for, and why, in words.
    """

    results: tuple[Result, ...]
    problems: tuple[str, ...]


async def ensure_dirs(site: Site, *, dry_run: bool = False) -> Ensured:
    """Make the homes of all who have numbers and all shared folders; move those of renamed groups.

    Raises:
        KeycloakError: Something could not be read; nothing was changed.
        FoldersError: The command that makes folders did not work.
        IdentityError: No command is configured, or the database does not answer.
    """
    folders = site.folders
    folders.required_command()
    found = await _numbered(site)
    numbers = await asyncio.to_thread(
        _group_numbers, site, found.everybody.directory, dry_run=dry_run
    )
    plan = share_plan(found.everybody.directory, numbers, move=folders.move_renamed)
    stuck = await _stuck(folders, plan)
    if stuck:
        # Or folders of the new names would be made, empty, and be in the way from then on.
        plan = share_plan(found.everybody.directory, numbers, move=False)
    welcome = [each for sub, each in found.people.items() if sub not in found.everybody.refused]
    homes = [home_verb(each, folders.home_root) for each in welcome if each.home]
    verbs: list[Verb] = [*plan.verbs, *(each for each in homes if each is not None)]
    elsewhere = [
        elsewhere_words(each, folders.home_root)
        for each in welcome
        if each.home and home_verb(each, folders.home_root) is None
    ]
    problems = (*plan.problems, *elsewhere)
    if dry_run:
        verbs = [Check(item=each) for each in verbs]  # type: ignore[arg-type]  # only such verbs
    results = await ensure(folders.command, verbs, timeout_seconds=TREE_TIMEOUT_SECONDS)
    if dry_run:
        return Ensured((*stuck, *results), problems)
    stayed = [each.verb.target for each in results if isinstance(each.verb, Rename) and not each.ok]
    moved = {
        key: path
        for key, path in plan.moved.items()
        # a folder goes along with the one that it is in, or stays with it
        if path in plan.folders and not any(_within(plan.folders[path], each) for each in stayed)
    }
    if moved:
        await asyncio.to_thread(site.identities.store.folder_moved, moved)
    trees = await ensure(folders.command, follow_ups(results), timeout_seconds=TREE_TIMEOUT_SECONDS)
    return Ensured((*stuck, *results, *trees), problems)


async def _stuck(folders: Folders, plan: SharePlan) -> tuple[Result, ...]:
    """Return which folders of renamed groups cannot be moved, and why."""
    checks = [Check(item=each) for each in plan.verbs if isinstance(each, Rename)]
    results = await ensure(folders.command, checks, timeout_seconds=folders.timeout_seconds)
    return tuple(each for each in results if each.result in {"refused", "failed"})


def _within(folder: str, other: str) -> bool:
    return folder == other or folder.startswith(f"{other}/")


def _group_numbers(
    site: Site, directory: Directory, *, dry_run: bool
) -> Mapping[str, GroupNumbers]:
    if dry_run:
        return {each.key: each for each in site.identities.store.known_groups()}
    return site.identities.group_numbers(directory)


# --- audit


async def audit(site: Site, *, machine: bool, folders: bool) -> list[auditing.Finding]:
    """Return all differences between Keycloak, numbers, name service and folders.

    Args:
        site: What to work on.
        machine: Ask this machine's name service, too, unless its accounts are to be ignored.
        folders: Look at homes and shared folders, too.

    Raises:
        KeycloakError: Something could not be read.
        IdentityError: The database does not answer.
    """
    everybody = await site.everybody()
    return await asyncio.to_thread(_audit, site, everybody, machine, folders)


def _audit(
    site: Site, everybody: Everybody, machine: bool, folders: bool
) -> list[auditing.Finding]:
    store, host = site.identities.store, site.identities.host
    known = list(store.people(retired=True))
    groups = store.known_groups(retired=True)
    found = [*auditing.people(everybody.people, everybody.names, known)]
    found += auditing.groups(everybody.directory, groups, everybody.group_ids)
    found += [auditing.Finding("wrong", "Keycloak", words) for words in everybody.odd]
    here = [each for each in known if not each.retired and each.claimed]
    numbered = [each for each in groups if not each.retired]
    if machine and site.identities.host_accounts != "ignore":
        found += auditing.machine(here, numbered, host.any_account, host.group_number)
    if folders:
        shares = [
            each
            for each in numbered
            if (group := everybody.directory.by_id.get(each.key)) and group.share == "rw"
        ]
        with_home = [each for each in here if each.home]
        root = Path(site.identities.shared_root)
        found += auditing.folders(with_home, shares, root)
    return found
