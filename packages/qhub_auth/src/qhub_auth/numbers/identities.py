"""`Identities`: how people and groups get numbers, for the hub, the service and the commands."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from traitlets import Bool, Dict, Enum, List, TraitError, Unicode, validate
from traitlets.config import LoggingConfigurable

from qhub_auth.directory import Directory, Group, PersonFacts
from qhub_auth.errors import (
    IdentityError,
    NameTakenError,
    shown,
)
from qhub_auth.identity import Identity
from qhub_auth.numbers.addresses import DEFAULT_URL, address_of, settings_folder
from qhub_auth.numbers.host_accounts import HostAccounts, agreed
from qhub_auth.numbers.numbered import GroupNumbers, GroupWanted
from qhub_auth.numbers.numbering import SYSTEM_ACCOUNTS, Ranges, intervals, name_key
from qhub_auth.numbers.resolving import (
    check_primary,
    checked_home,
    group_wanted,
    identity_for,
    membership,
    numbered_groups,
    path_trouble,
    with_shares,
)
from qhub_auth.numbers.store import IdentityStore, Person, PersonWanted
from qhub_auth.paths import ancestors

__all__ = ["Identities"]


class Identities(LoggingConfigurable):
    """How people and groups get uid, gid, home and shared folders.

    The hub, ``qhub-group-sync`` and ``qhub-identity`` read the same settings.

    Attributes:
        settings_file: Whose folder relative paths are meant from; by default the one that whoever
            these settings belong to was given.
        may_create: Whether a database that is not there is made. A command that only reads must
            not: it would have found nobody, and said so of another database than the hub's.
    """

    database_url = Unicode(
        DEFAULT_URL,
        config=True,
        help="""
        The database that numbers are kept in: SQLite, PostgreSQL or MariaDB.

        It says for good who has which number, so it belongs into your backups. SQLite, the
        default, is a file, ``qhub_identity.sqlite``. A relative path is one in the folder of the
        settings file, wherever a command is run; the hub's account has to be able to write there.
        It has to be on a disk of that machine, not on NFS or Lustre. Take PostgreSQL (this
        package's extra ``postgresql``: ``psycopg``) or MariaDB (its extra ``mariadb``: ``pymysql``)
        when hub, sync service or commands run on several machines.

        Example: ``c.Identities.database_url = "postgresql://hub@db.example.org/hub"``
        """,
    )
    database_password_file = Unicode(
        config=True,
        help="""
        A file that holds the database's password, so that the address need not. A newline at its
        end is left out. Default: empty, the password of the address, if it has one.

        Example: ``c.Identities.database_password_file = "/etc/jupyterhub/identity-password"``
        """,
    )
    uid_range = Unicode(
        "20000-49999",
        config=True,
        help="""
        The uids for people to whom nobody gave one, first and last. Each of them gets a group of
        their own with the same number. A number is never given twice, not even after years.

        Have a look at what the machines use already, such as the ranges of ``useradd``
        (``UID_MIN``, ``UID_MAX`` in ``/etc/login.defs``), of subordinate uids (``/etc/subuid``) and
        of LDAP. The range may be made larger at any time.

        Example: ``c.Identities.uid_range = "200000-299999"``
        """,
    )
    gid_range = Unicode(
        "50000-59999",
        config=True,
        help="""
        The gids for groups to which nobody gave one (attribute ``gidNumber`` in Keycloak), first
        and last. Only groups with a shared folder get one. The range may be made larger at any
        time.

        Example: ``c.Identities.gid_range = "300000-309999"``
        """,
    )
    reserved = List(
        ["0-999"],
        config=True,
        help="""
        Numbers and ranges that nobody gets, neither from a range above nor by an attribute in
        Keycloak. The default is what systems give to their own accounts. 0 (root), 65534 and 65535
        (nobody) are always reserved, and so is every number that an account or a group of this
        machine has.

        Example: ``c.Identities.reserved = ["0-999", "30000-30999"]``
        """,
    )
    reserved_names = List(
        Unicode(),
        sorted(SYSTEM_ACCOUNTS),
        config=True,
        help="""
        Names that nobody gets, upper or lower case. The default is the accounts by which systems
        run themselves, as they would be taken for those on a machine that has them.

        Example: ``c.Identities.reserved_names = ["root", "nobody", "slurm", "director"]``
        """,
    )
    home = Unicode(
        "/home/{name}",
        config=True,
        help="""
        The home of people to whom nobody gave one (attribute ``homeDirectory`` in Keycloak);
        ``{name}`` stands for their name. Who has a home keeps it when this setting, or their name,
        changes.

        Example: ``c.Identities.home = "/srv/homes/{name}"``
        """,
    )
    use_home_directory = Bool(
        True,
        config=True,
        help="""
        Whether the attribute ``homeDirectory`` in Keycloak counts. Turn it off where it comes from
        an LDAP that speaks of other machines than these.
        """,
    )
    shared_root = Unicode(
        "/shared",
        config=True,
        help="""
        The folder that holds the groups' shared folders: ``/physics/team-a`` has
        ``/shared/physics/team-a``.
        """,
    )
    shares = Dict(
        value_trait=Enum(["rw", "ro", "all"]),
        key_trait=Unicode(),
        config=True,
        help="""
        Shared folders for groups by their full path, beside those that have the attribute ``share``
        in Keycloak: ``rw`` for a folder, ``ro`` for a group whose members may read the folders of
        the groups above it, ``all`` for a folder that everybody reads and writes, and in which only
        who made something removes it. It works without any right to read groups from Keycloak.

        Example: ``c.Identities.shares = {"/everyone": "all", "/physics": "rw"}``
        """,
    )
    host_accounts = Enum(
        ["refuse", "adopt", "ignore"],
        "refuse",
        config=True,
        help="""
        What becomes of somebody whose name an account of this machine has already (by its files,
        LDAP or SSSD), with another number, or with none in Keycloak:

        - ``refuse``, the default: they may not come in, and are told why. Whoever may choose a name
          in Keycloak, for instance by signing up or through GitHub, cannot get at that account.
          Nothing is refused where both agree: the attribute ``uidNumber`` is the account's, or the
          account was imported (``qhub-identity import --getent``).
        - ``adopt``: they are that account, and get its uid, gid and home. Right for a cluster whose
          accounts and Keycloak's people are the same, and where nobody chooses a name themselves.
          Accounts with reserved numbers are still refused.
        - ``ignore``: names are not compared. Right only where this machine's accounts have nothing
          to do with where people's servers run.

        Numbers of this machine are not given to anybody else in any case.
        """,
    )
    nss_folder = Unicode(
        "/var/lib/extrausers",
        config=True,
        help="""
        The folder into which ``qhub-identity nss`` writes the passwd and group files on this
        machine. Accounts in it are our own, and not the machine's. The default is where Debian's
        ``libnss-extrausers`` reads them; empty if there are none.
        """,
    )
    shell = Unicode(
        "/bin/bash",
        config=True,
        help="""The shell in the passwd file that ``qhub-identity nss`` writes.""",
    )

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - as the base class
        super().__init__(**kwargs)
        self._opening = threading.Lock()
        self._store: IdentityStore | None = None
        self.settings_file: Path | None = None
        self.may_create = True
        self.host = HostAccounts(self.nss_folder)

    @validate("home")
    def _check_home(self, proposal: Any) -> str:  # noqa: ANN401 - traitlets' own
        value = str(proposal["value"])
        try:
            good = "{name}" in value and checked_home(value.format(name="alice"), "'alice'")
        except (IdentityError, LookupError, ValueError, AttributeError):
            good = False
        if not good:
            msg = f"c.Identities.home: {shown(value)}; expected e.g. '/home/{{name}}'"
            raise TraitError(msg)
        return value

    @validate("shares")
    def _check_shares(self, proposal: Any) -> Any:  # noqa: ANN401 - traitlets' own
        for path, share in proposal["value"].items():
            trouble = path_trouble(path)
            if not trouble and share == "all" and ancestors(path):
                # its members would be members of the groups above it
                trouble = "only a group that is in no other can be everybody's"
            if trouble:
                msg = f"c.Identities.shares: {shown(path)}: {trouble}"
                raise TraitError(msg)
        return proposal["value"]

    @property
    def ranges(self) -> Ranges:
        """The ranges and what is reserved.

        Raises:
            ConfigurationError: One of them is none.
        """
        found = {}
        for setting in ("uid_range", "gid_range"):
            found[setting] = intervals([getattr(self, setting)], f"c.Identities.{setting}")[0]
        reserved = intervals(self.reserved, "c.Identities.reserved")
        return Ranges(found["uid_range"], found["gid_range"], reserved)

    @property
    def store(self) -> IdentityStore:
        """The database, one for all who use these settings. It is opened when it is first used.

        Raises:
            ConfigurationError: A setting is wrong, or the database's driver is not installed.
        """
        with self._opening:
            if self._store is None:
                self._store = IdentityStore(
                    address_of(
                        self.database_url,
                        folder=settings_folder(self, self.settings_file),
                        password_file=self.database_password_file,
                    ),
                    ranges=self.ranges,
                    home=self.home,
                    elsewhere=self.host,
                    may_create=self.may_create,
                    log=self.log,
                )
            return self._store

    def resolve(
        self, facts: PersonFacts, directory: Directory, name: str | None = None
    ) -> Identity:
        """Return who somebody is on every target; who is seen for the first time gets numbers.

        It blocks: the database and the system's accounts are asked.

        Args:
            facts: What Keycloak says of them.
            directory: All groups.
            name: Their name at the hub, if that is another than Keycloak's in lower case.

        Raises:
            NameTakenError: The name, or the home, belongs to somebody else.
            NumberTakenError: A number that somebody gave them belongs to somebody else.
            RangeExhaustedError: No number is left.
            IdentityUnavailableError: The database does not answer.
            IdentityError: The name or the home is none that an account can have.
        """
        found = self.resolve_all([facts], directory, {facts.sub: name} if name else {})[facts.sub]
        if isinstance(found, IdentityError):
            raise found
        return found

    def resolve_all(
        self,
        everybody: Iterable[PersonFacts],
        directory: Directory,
        names: Mapping[str, str] | None = None,
    ) -> dict[str, Identity | IdentityError]:
        """Return who many people are, by sub, or why one of them cannot be told.

        Args:
            everybody: What Keycloak says of them.
            directory: All groups.
            names: Names at the hub by sub, where they are others than Keycloak's in lower case.

        Raises:
            IdentityUnavailableError: The database does not answer.
        """
        directory = with_shares(directory, self.shares)
        people = {each.sub: each for each in everybody}
        belong = {sub: membership(directory, each.groups) for sub, each in people.items()}
        numbers = self._numbers(group for each in belong.values() for group in each.groups_involved)
        gids = self._groups_by_gid(directory, people.values())
        known = self.store.find_all(people)
        reserved = frozenset(map(name_key, self.reserved_names))
        failed: dict[str, IdentityError] = {}
        wanted: list[PersonWanted] = []
        for sub, facts in people.items():
            name = (names or {}).get(sub) or facts.name.lower()
            try:
                check_primary(facts.gid, shown(name), belong[sub], gids)
                wanted.append(self._wanted(facts, name, known.get(sub), reserved))
            except IdentityError as error:
                failed[sub] = error
        persons = self.store.persons(wanted, failed)
        found: dict[str, Identity | IdentityError] = {}
        for sub, facts in people.items():
            try:
                if sub in failed:
                    raise failed[sub]
                found[sub] = identity_for(persons[sub], facts, belong[sub], numbers)
            except IdentityError as error:
                found[sub] = error
        return found

    def group_numbers(self, directory: Directory) -> dict[str, GroupNumbers]:
        """Return the numbers of all groups that have one, by key; who is new gets one.

        A group that cannot have one is left out, and the log says why; who is in it still comes in,
        without that folder.

        Raises:
            IdentityUnavailableError: The database does not answer.
        """
        return self._numbers(numbered_groups(with_shares(directory, self.shares)))

    def _numbers(self, groups: Iterable[Group]) -> dict[str, GroupNumbers]:
        wanted: dict[str, GroupWanted] = {}
        for group in groups:
            if group.id in wanted:
                continue
            try:
                wanted[group.id] = group_wanted(group)
            except IdentityError as error:
                self.log.error("%s", error)  # noqa: TRY400 - the message says it all
        return self.store.groups(wanted.values(), strict=False)

    def _groups_by_gid(
        self, directory: Directory, people: Collection[PersonFacts]
    ) -> dict[int, list[Group]]:
        """Return groups by gid, as far as somebody's primary group could be one of them.

        More than one group can ask for a gid, and only one can have it: all of them are told.
        """
        asked = {each.gid for each in people if each.gid is not None}
        if not asked:
            return {}
        found: dict[int, list[Group]] = defaultdict(list)
        for gid, key, path in self.store.groups_of_gids(asked):
            # by its key: it may have been renamed since
            group = directory.by_id.get(key) or directory.groups.get(path)
            if group is not None:
                found[gid].append(group)
        for group in numbered_groups(directory):
            with contextlib.suppress(IdentityError):  # it has no number then
                wanted = group_wanted(group).gid
                if wanted is not None:
                    found[wanted].append(group)
        return found

    def _wanted(
        self, facts: PersonFacts, name: str, known: Person | None, reserved: Collection[str]
    ) -> PersonWanted:
        who = shown(name)
        if name_key(name) in reserved:
            msg = f"nobody may be called {who}: the name is reserved (c.Identities.reserved_names)"
            raise NameTakenError(msg)
        home = facts.home if self.use_home_directory else None
        checked_home(home if home is not None else self.home.format(name=name), who)
        wanted = PersonWanted(facts.sub, name, facts.uid, facts.gid, home)
        policy = cast("Literal['refuse', 'adopt', 'ignore']", self.host_accounts)
        if policy == "ignore" or (known is not None and known.matches(wanted)):
            return wanted
        account = self.host.account(name)
        if account is None:
            return wanted
        kept = known or self.store.person_named(name)
        if kept is not None and kept.claimed and kept.sub != facts.sub:
            kept = None  # somebody else's name: the store says so
        kept_uid = None if kept is None else kept.uid
        return agreed(wanted, account, kept_uid, policy, self.ranges)
