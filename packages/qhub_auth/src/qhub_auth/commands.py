"""`qhub-identity`: who has which uid, gid, home and shared folders, for administrators.

Settings are those that the hub shares, who may come in among them: `--config FILE`. Every command
says what it did; one that could not do it ends with 1 and a message. None of them ever gives a
number twice.
"""

from __future__ import annotations

import argparse
import asyncio
import grp
import json
import logging
import pwd
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from qhub_auth import __version__
from qhub_auth.administration import archiving
from qhub_auth.administration import verbs as administering
from qhub_auth.administration.sites import Site
from qhub_auth.errors import IdentityError, QHubAuthError, shown
from qhub_auth.homes import setup as folder_setup
from qhub_auth.homes.ensuring import Result
from qhub_auth.numbers import importing
from qhub_auth.numbers.host_accounts import HostAccounts
from qhub_auth.numbers.importing import Found
from qhub_auth.numbers.store import Imported
from qhub_auth.realm import commands as realm

__all__ = ["main"]

T = TypeVar("T")
Answer = str | tuple[str, int]

CONFIG = "qhub_auth_config.py"
# What may be the first to need the database of numbers; all others only look into it.
_MAY_CREATE = frozenset({"sync", "import"})


def _show(arguments: argparse.Namespace) -> Answer:
    found = _on(arguments, lambda site: administering.show(site, arguments.user))
    if arguments.json:
        return _json(found)
    person, facts, identity = found["person"], found.get("keycloak"), found.get("identity")
    lines = [
        f"name    {person['name']}",
        f"uid     {person['uid']}",
        f"gid     {person['gid']}",
        f"home    {person['home'] or '(archived)'}",
        f"sub     {person['sub']}",
    ]
    if facts:
        lines.append(f"groups  {' '.join(facts['groups']) or '(none)'}")
        lines += [] if facts["enabled"] else ["note    disabled in Keycloak"]
    if identity:
        lines.append(f"gids    {' '.join(map(str, identity['gids']))}")
        lines.append(f"roles   {' '.join(identity['roles']) or '(none)'}")
        lines += [
            f"share   {each['access']} {each['path']} by {each['name']} ({each['gid']})"
            for each in identity["groups"]
        ]
    if found.get("note"):
        lines.append(f"note    {found['note']}")
    return _lines(lines)


def _sync(arguments: argparse.Namespace) -> Answer:
    options = {name: getattr(arguments, name) for name in ("dry_run", "write_back", "force")}
    done = _on(arguments, lambda site: administering.sync(site, **options))
    if arguments.json:
        return _json(asdict(done)), bool(done.problems)
    would = "would get" if arguments.dry_run else "got"
    lines = [f"{done.known} people have numbers, {len(done.new)} {would} some"]
    lines += [f"  new   {name}" for name in done.new]
    lines += [f"  gone  {name}: Keycloak does not know them any more" for name in done.gone]
    if done.refused:
        lines.append(f"{done.refused} may not come in, and have nothing to do with it")
    if not arguments.dry_run:
        lines.append(f"{done.groups} groups have a number")
    if arguments.write_back and not arguments.dry_run:
        lines.append(f"{done.written} people and groups were written back to Keycloak")
    lines += [f"problem: {each}" for each in done.problems]
    return _lines(lines), bool(done.problems)


def _nss(arguments: argparse.Namespace) -> Answer:
    def work(site: Site) -> Awaitable[tuple[str, tuple[str, ...]]]:
        folder = Path(arguments.output or site.identities.nss_folder)
        options = {"everybody": arguments.everybody, "force": arguments.force}
        return administering.write_nss(site, folder, **options)

    words, problems = _on(arguments, work)
    return _lines([words, *(f"problem: {each}" for each in problems)]), bool(problems)


def _ensure_dirs(arguments: argparse.Namespace) -> Answer:
    done = _on(arguments, lambda site: administering.ensure_dirs(site, dry_run=arguments.dry_run))
    results = done.results
    quiet = {"unchanged"}
    lines = [f"{each.result:<8} {each.words}" for each in results if each.result not in quiet]
    same = sum(each.result in quiet for each in results)
    bad = any(each.result in {"refused", "failed"} for each in results)
    problems = [f"{'problem':<8} {words}" for words in done.problems]
    return _lines([*lines, *problems, f"{same} as they should be"]), bad


def _audit(arguments: argparse.Namespace) -> Answer:
    options = {"machine": not arguments.no_machine, "folders": not arguments.no_folders}
    findings = _on(arguments, lambda site: administering.audit(site, **options))
    wrong = sum(each.kind == "wrong" for each in findings)
    code = bool(wrong or (arguments.strict and findings))
    if arguments.json:
        return _json([asdict(each) for each in findings]), code
    findings.sort(key=lambda each: (each.kind != "wrong", each.subject))
    end = f"{wrong} wrong, {len(findings) - wrong} missing"
    return _lines([*map(str, findings), end]), code


def _release(arguments: argparse.Namespace) -> Answer:
    def work(site: Site) -> Awaitable[Any]:
        store = site.identities.store
        return asyncio.to_thread(store.release, arguments.name, keep_numbers=arguments.keep_numbers)

    owner = _on(arguments, work)
    who = shown(arguments.name)
    if owner is None:
        raise IdentityError(f"{who} is nobody's: there is nothing to release")
    if arguments.keep_numbers:
        return (
            f"the next person of the name {who} gets uid {owner.uid}, gid {owner.gid} and the "
            f"home {owner.home}\n"
        )
    return (
        f"{who} is free. It was that of uid {owner.uid}, whose number and home {owner.home} nobody "
        "else gets\n"
    )


def _archive(arguments: argparse.Namespace) -> Answer:
    if (arguments.user is None) == (arguments.group is None):
        raise IdentityError("expected a USER or --group=PATH, and not both")
    only_ask = not arguments.yes

    def work(site: Site) -> Awaitable[tuple[Result, ...]]:
        if arguments.group is not None:
            return archiving.archive_folder(site, arguments.group, only_ask=only_ask)
        return archiving.archive_home(site, arguments.user, only_ask=only_ask)

    results = _on(arguments, work)
    lines = [f"{each.result:<8} {each.words}" for each in results]
    if only_ask:
        lines.append("nothing was done: say --yes")
    return _lines(lines), any(each.result in {"refused", "failed"} for each in results)


def _import(arguments: argparse.Namespace) -> Answer:
    def work(site: Site) -> Awaitable[tuple[Found, Imported]]:
        return asyncio.to_thread(_imported, arguments, site)

    found, done = _on(arguments, work)
    problems = [*found.problems, *done.problems]
    lines = [f"left out  {each}" for each in found.left_out] if arguments.verbose else []
    if found.left_out and not arguments.verbose:
        count = len(found.left_out)
        lines.append(f"left out  {count} accounts and groups with reserved numbers (--verbose)")
    if problems:
        lines += [f"problem   {each}" for each in problems]
        return _lines([*lines, "nothing was imported"]), True
    for name, person in sorted(done.people.items()):
        word = "new" if name in done.new else "known"
        fields = f"uid {person.uid}, gid {person.gid}, home {person.home}"
        lines.append(f"{word:<9} {shown(name)}: {fields}")
    for key, group in sorted(done.groups.items()):
        word = "new" if key in done.new else "known"
        lines.append(f"{word:<9} the group {shown(group.path)}: gid {group.gid}")
    what = f"{len(done.people)} people and {len(done.groups)} groups, {len(done.new)} of them new"
    lines.append(f"would import {what}" if arguments.dry_run else f"imported {what}")
    return _lines(lines)


def _imported(arguments: argparse.Namespace, site: Site) -> tuple[Found, Imported]:
    found = Found()
    if arguments.getent:
        found += _getent(site.identities.host)
    readers: dict[str, Callable[[str, str], Found]] = {
        "passwd": importing.from_passwd,
        "group": importing.from_group,
        "ldif": importing.from_ldif,
        "realm": importing.from_realm,
    }
    asked = [(name, source) for name in readers for source in getattr(arguments, name)]
    if not asked and not arguments.getent:
        msg = "nothing to import: name a source, e.g. --getent or --passwd FILE"
        raise IdentityError(msg)
    if sum(source == "-" for _, source in asked) > 1:
        msg = "standard input (-) can be one source only"
        raise IdentityError(msg)
    for name, source in asked:
        found += readers[name](_text(source), source)
    found = importing.selected(found, site.identities.ranges, own_groups=arguments.own_groups)
    if found.problems:
        return found, Imported()
    store = site.identities.store
    return found, store.add_unclaimed(found.people, found.groups, dry_run=arguments.dry_run)


def _getent(host: HostAccounts) -> Found:
    """Return this machine's own accounts and groups, as `getent` lists them."""
    people = "".join(
        f"{each.pw_name}:x:{each.pw_uid}:{each.pw_gid}::{each.pw_dir}:\n"
        for each in pwd.getpwall()
        if host.account(each.pw_name)
    )
    groups = "".join(
        f"{each.gr_name}:x:{each.gr_gid}:\n"
        for each in grp.getgrall()
        if host.group(each.gr_name) is not None
    )
    source = "this machine"
    return importing.from_passwd(people, source) + importing.from_group(groups, source)


def _text(source: str) -> str:
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        return data.decode("utf-8")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        msg = f"{shown(source, 200)} cannot be read: {reason}"
        raise IdentityError(msg) from error


# --- the command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="qhub-identity", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--verbose", action="store_true", help="say more")
    _config(parser, Path(CONFIG))
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    verb = _add(verbs, "show", "show somebody's numbers, home, shared folders and roles", _show)
    verb.add_argument("user", metavar="USER", help="their name at the hub")
    _json_option(verb)

    verb = _add(verbs, "sync", "give numbers to everybody before they come", _sync)
    _dry_run(verb)
    verb.add_argument(
        "--write-back", action="store_true",
        help="write numbers into Keycloak where there are none; its service account needs the "
        "role manage-users",
    )  # fmt: skip
    verb.add_argument("--force", action="store_true", help="even if many people are gone")
    _json_option(verb)

    verb = _add(verbs, "nss", "write passwd, group and shadow files for the name service", _nss)
    verb.add_argument(
        "--output", metavar="DIR", help="where (c.Identities.nss_folder, /var/lib/extrausers)"
    )
    verb.add_argument(
        "--everybody", action="store_true",
        help="those as well who are accounts of this machine, for files of other machines",
    )  # fmt: skip
    verb.add_argument("--force", action="store_true", help="even if much would go")

    words = "make homes and shared folders, and move those of renamed groups"
    _dry_run(_add(verbs, "ensure-dirs", words, _ensure_dirs))

    verb = _add(
        verbs, "audit", "say where Keycloak, numbers, this machine and folders differ", _audit
    )
    verb.add_argument(
        "--no-machine", action="store_true", help="do not ask this machine's name service"
    )
    verb.add_argument("--no-folders", action="store_true", help="do not look at folders")
    verb.add_argument("--strict", action="store_true", help="end with 1 if anything is missing")
    _json_option(verb)

    _add_import(verbs)

    verb = _add(verbs, "release", "let somebody else have a name", _release)
    verb.add_argument("name", metavar="NAME")
    verb.add_argument(
        "--keep-numbers", action="store_true",
        help="the next person of that name is the same as before, and gets uid, gid and home: "
        "their account in Keycloak was made anew",
    )  # fmt: skip

    verb = _add(
        verbs, "archive", "move what is left of who is gone to where only root goes", _archive
    )
    verb.add_argument("user", metavar="USER", nargs="?", help="whose home; their name at the hub")
    verb.add_argument("--group", metavar="PATH", help="whose shared folder")
    verb.add_argument("--yes", action="store_true", help="do it, and do not only say what would be")

    realm.add_to(verbs)
    folder_setup.add_to(verbs)
    return parser


def _add_import(verbs: Any) -> None:  # noqa: ANN401 - argparse keeps the class to itself
    words = "keep the numbers of accounts that there are already; all, or none"
    verb = _add(verbs, "import", words, _import)
    verb.add_argument(
        "--getent", action="store_true", help="this machine's own accounts and groups"
    )
    for name, what in (
        ("passwd", "a passwd file, or what getent passwd prints"),
        ("group", "a group file, or what getent group prints"),
        ("ldif", "LDAP's posixAccounts and posixGroups, as ldapsearch -LLL prints them"),
        ("realm", "a realm that Keycloak exported; who has no uidNumber gets a number"),
    ):
        verb.add_argument(
            f"--{name}", metavar="FILE", action="append", default=[], help=f"{what}; - reads it"
        )
    verb.add_argument(
        "--own-groups", action="store_true",
        help="give everybody a group of their own, whatever their primary group was",
    )  # fmt: skip
    _dry_run(verb)


def _add(
    verbs: Any,  # noqa: ANN401 - argparse keeps the class to itself
    name: str,
    words: str,
    run: Callable[[argparse.Namespace], Answer],
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=words, description=f"{words[0].upper()}{words[1:]}."
    )
    _config(parser, argparse.SUPPRESS)
    parser.set_defaults(run=run)
    return parser


def _config(parser: argparse.ArgumentParser, default: object) -> None:
    """Before the command and after it: one who types it does not think of that."""
    words = (
        f"the settings that the hub shares, with c.Keycloak, c.Identities and who may come in "
        f"(c.KeycloakAuthenticator.allowed_groups etc.): {CONFIG}"
    )
    parser.add_argument("--config", type=Path, default=default, metavar="FILE", help=words)


def _dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")


def _json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"


def _lines(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _on(arguments: argparse.Namespace, work: Callable[[Site], Awaitable[T]]) -> T:
    """Do something with the settings that the command line names."""

    async def run() -> T:
        site = Site(arguments.config, may_create=arguments.verb in _MAY_CREATE)
        # whatever is wrong with the settings is told before anything else
        site.identities.store.database.check_there()
        try:
            return await work(site)
        finally:
            await site.close()

    return asyncio.run(run())


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(
        format="%(message)s", level=logging.INFO if arguments.verbose else logging.WARNING
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)  # at INFO every request is logged
    try:
        answer = arguments.run(arguments)
    except (QHubAuthError, OSError) as error:
        sys.stderr.write(f"qhub-identity: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    text, code = answer if isinstance(answer, tuple) else (answer, 0)
    sys.stdout.write(text)
    sys.exit(int(code))
