"""A real slapd on loopback, with people and groups of its own; ended without a trace.

Its people are `posixAccount`s; its groups name their members by DN, may be members of one another,
and have numbers.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from .packages import install_packages, program
from .processes import Daemon, NotReadyError, Ports, listening
from .run_folders import RunFolder
from .run_folders import sweep as sweep_folders

PREFIX = "qldap-"
PACKAGES = ("slapd", "ldap-utils")
SUFFIX = "dc=example,dc=org"
PEOPLE_DN, GROUPS_DN = f"ou=people,{SUFFIX}", f"ou=groups,{SUFFIX}"
READER_DN, ROOT_DN = f"cn=reader,{SUFFIX}", f"cn=root,{SUFFIX}"
MODULES = Path("/usr/lib/ldap")
SCHEMAS = ("core", "cosine", "inetorgperson", "nis")
COMMAND_SECONDS = 30
# numbers on groups whose members have a DN; below OpenLDAP's own arc for experiments
GROUP_CLASS = (
    "objectclass ( 1.3.6.1.4.1.4203.666.11.77.1 NAME 'numberedGroup' SUP top AUXILIARY "
    "MAY ( gidNumber ) )"
)


@dataclass(frozen=True)
class Person:
    """A person of the directory."""

    name: str
    uid: int
    gid: int
    password: str = ""
    home: str = ""
    mail: str = ""

    @property
    def dn(self) -> str:
        """Where it is."""
        return f"uid={self.name},{PEOPLE_DN}"


@dataclass(frozen=True)
class Group:
    """A group of the directory: people by name, and groups below it by name."""

    name: str
    gid: int | None = None
    people: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    @property
    def dn(self) -> str:
        """Where it is."""
        return f"cn={self.name},{GROUPS_DN}"


PEOPLE = (
    Person("frida", 31001, 31001, "frida-ldap", "/home/frida", "frida@example.org"),
    Person("georg", 31002, 31002, "georg-ldap", "/data/georg", "georg@example.org"),
    Person("heidi", 31003, 31003, "heidi-ldap", "/home/heidi", "heidi@example.org"),
)
GROUPS = (
    Group("chemistry", 32000, ("heidi",), ("lab",)),
    Group("lab", 32001, ("frida", "georg")),
)


class LdapSystem:
    """slapd with a folder of its own. Needs no root once its packages are installed.

    Args:
        people: Who is in it.
        groups: Their groups.

    Attributes:
        seconds_to_ready: How long `start` took.
    """

    def __init__(self, people: Sequence[Person] = PEOPLE, groups: Sequence[Group] = GROUPS) -> None:
        self.people = {person.name: person for person in people}
        self.groups = {group.name: group for group in groups}
        self.seconds_to_ready = 0.0
        self.reader_password = secrets.token_urlsafe(18)
        self._root_password = secrets.token_urlsafe(18)
        self._ports = Ports()
        self._folder: Path | None = None
        self._daemon: Daemon | None = None
        self._port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Fill it, start it, and return when it answers.

        Raises:
            SystemUnavailableError: slapd cannot be had here.
            NotReadyError: It ended or was late; with the end of its log.
        """
        install_packages(PACKAGES, "LDAP")
        began = time.monotonic()
        self._folder = folder = RunFolder.make(PREFIX).folder
        (self._port,) = self._ports.reserve()
        (folder / "data").mkdir(mode=0o700)
        configuration = folder / "slapd.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(self._configuration(folder))
        try:
            self._run(
                [program("slapadd"), "-q", "-f", str(configuration), "-b", SUFFIX], self._entries()
            )
            self._daemon = Daemon(
                name="slapd",
                # a debug level, even of nothing, keeps it in the foreground
                argv=[program("slapd"), "-d", "0", "-f", str(configuration), "-h", self.url],
                log=folder / "log" / "slapd",
                record=folder / "pids" / "slapd.json",
                ready=lambda: listening(self._port),
                environment={"PATH": os.environ.get("PATH", os.defpath)},
            )
            self._daemon.launch()
            self._daemon.wait_ready()
        except BaseException:
            self.stop()
            raise
        self.seconds_to_ready = time.monotonic() - began

    def stop(self) -> None:
        """End it, and remove its folder. May be repeated."""
        if self._daemon is not None:
            self._daemon.end(grace_seconds=0)
            self._daemon = None
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None
        self._ports.release()

    @property
    def url(self) -> str:
        """Its address."""
        return f"ldap://127.0.0.1:{self._port}"

    def modify(self, ldif: str) -> None:
        """Change entries, as ldapmodify(1) reads them."""
        argv = [program("ldapmodify"), "-x", "-H", self.url, "-D", ROOT_DN]
        self._run([*argv, "-y", str(self._password_file)], ldif)

    def remove_member(self, name: str, group: str) -> None:
        """Take a person out of a group."""
        person, place = self.people[name].dn, self.groups[group].dn
        self.modify(f"dn: {place}\nchangetype: modify\ndelete: member\nmember: {person}\n")

    def set_number(self, name: str, attribute: str, value: int) -> None:
        """Give a person another number."""
        dn = self.people[name].dn
        change = f"replace: {attribute}\n{attribute}: {value}\n"
        self.modify(f"dn: {dn}\nchangetype: modify\n{change}")

    @property
    def _password_file(self) -> Path:
        assert self._folder is not None
        path = self._folder / "root-password"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(self._root_password)
        return path

    def _configuration(self, folder: Path) -> str:
        includes = "\n".join(f"include /etc/ldap/schema/{name}.schema" for name in SCHEMAS)
        return f"""\
{includes}
{GROUP_CLASS}
modulepath {MODULES}
moduleload back_mdb
pidfile {folder}/slapd.pid
argsfile {folder}/slapd.args
database mdb
maxsize 67108864
suffix "{SUFFIX}"
rootdn "{ROOT_DN}"
rootpw {self._root_password}
directory {folder}/data
index objectClass,entryUUID eq
index uid,cn,member eq
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="{READER_DN}" read by anonymous auth by * none
"""

    def _entries(self) -> str:
        entries = [
            [f"dn: {SUFFIX}", "objectClass: dcObject", "objectClass: organization",
             "dc: example", "o: Example"],
            *([f"dn: ou={name},{SUFFIX}", "objectClass: organizationalUnit", f"ou: {name}"]
              for name in ("people", "groups")),
            [f"dn: {READER_DN}", "objectClass: organizationalRole",
             "objectClass: simpleSecurityObject", "cn: reader",
             f"userPassword: {self.reader_password}"],
        ]  # fmt: skip
        for person in self.people.values():
            entries.append(_person_entry(person))
        for group in self.groups.values():
            members = [self.people[name].dn for name in group.people]
            members += [self.groups[name].dn for name in group.groups]
            lines = [f"dn: {group.dn}", "objectClass: groupOfNames", "objectClass: numberedGroup"]
            lines += [f"cn: {group.name}", *(f"member: {dn}" for dn in members)]
            if group.gid is not None:
                lines.append(f"gidNumber: {group.gid}")
            entries.append(lines)
        return "\n\n".join("\n".join(lines) for lines in entries) + "\n"

    def _run(self, argv: list[str], text: str) -> None:
        done = subprocess.run(
            argv, input=text, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
        if done.returncode != 0:
            message = f"{argv[0]} ended with {done.returncode}: {done.stderr[:1000]}"
            raise NotReadyError(message)


def _person_entry(person: Person) -> list[str]:
    lines = [
        f"dn: {person.dn}", "objectClass: inetOrgPerson", "objectClass: posixAccount",
        f"uid: {person.name}", f"cn: {person.name.title()}", f"givenName: {person.name.title()}",
        f"sn: {person.name.title()}son", f"uidNumber: {person.uid}", f"gidNumber: {person.gid}",
        f"homeDirectory: {person.home or f'/home/{person.name}'}",
    ]  # fmt: skip
    if person.mail:
        lines.append(f"mail: {person.mail}")
    if person.password:
        lines.append(f"userPassword: {person.password}")
    return lines


def sweep() -> list[Path]:
    """End every instance whose owner is gone; returns their folders."""
    return sweep_folders(PREFIX)
