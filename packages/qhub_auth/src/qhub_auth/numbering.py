"""Which numbers may be given to whom, and names for people and groups. Pure.

A number that was ever given stays given: what is free is only ever looked for among numbers that
nobody had.
"""

from __future__ import annotations

import bisect
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from qhub_auth.errors import ConfigurationError, IdentityError, NumberTakenError, shown
from qhub_auth.paths import split

__all__ = [
    "ALWAYS_RESERVED",
    "LARGEST",
    "LONGEST_UNIX_NAME",
    "PRIVILEGED_GROUPS",
    "SYSTEM_ACCOUNTS",
    "Interval",
    "Ranges",
    "checked",
    "first_free",
    "gaps",
    "intervals",
    "name_key",
    "plain_text",
    "unix_name",
]

LARGEST = 2**31 - 1
LONGEST_UNIX_NAME = 32
_LONGEST_NAME = 255
_NOT_PLAIN = re.compile(r"[^a-z0-9_.]+")
_UNSEEN = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})

# Groups by whose *name* the base systems give rights (sudo, polkit, devices), although a group of
# that name may be absent on the machine that hands out numbers and present where people work.
PRIVILEGED_GROUPS = frozenset(
    """
    adm admin audio backup bin cdrom daemon dialout dip disk docker floppy fuse games gdm gnats
    input irc kmem kvm libvirt list lp lxd mail man messagebus munge netdev news nobody nogroup
    operator plugdev podman polkitd postgres proxy render root sasl scanner sgx shadow slurm src
    ssh ssh_keys staff sudo sync sys systemd-journal systemd-network systemd-resolve tape tty users
    utempter utmp uucp video voice wheel www-data
    """.split()  # noqa: SIM905 - read as a list of names
)


# Accounts by which systems run themselves: a person of that name would be taken for them on a
# machine that has them.
SYSTEM_ACCOUNTS = frozenset(
    """
    _apt backup bin daemon dbus games gnats halt irc jupyterhub keycloak libvirt-qemu list lp mail
    man messagebus munge mysql news nobody operator polkitd postgres postfix proxy root shutdown
    slurm sshd sssd sync sys systemd-network systemd-resolve systemd-timesync tss uucp uuidd
    www-data
    """.split()  # noqa: SIM905 - read as a list of names
)


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """Numbers from `first` to `last`, both included."""

    first: int
    last: int

    @property
    def ends(self) -> tuple[int, int]:
        """Both ends."""
        return self.first, self.last

    def __contains__(self, number: int) -> bool:
        return self.first <= number <= self.last

    def __str__(self) -> str:
        return f"{self.first}-{self.last}" if self.first != self.last else str(self.first)


# root; nobody and its group; -1 in 16 and in 32 bits, by which chown(2) means "leave it".
ALWAYS_RESERVED = (Interval(0, 0), Interval(65534, 65535), Interval(2**32 - 1, 2**32 - 1))


def intervals(values: Iterable[str | int], setting: str) -> tuple[Interval, ...]:
    """Read numbers and ranges, e.g. ``["0-999", 5000]``.

    Args:
        values: Whole numbers, or texts such as ``5000`` and ``0-999``.
        setting: Whose value it is, for the error.

    Raises:
        ConfigurationError: One of them is neither.
    """
    found = []
    for value in values:
        match = re.fullmatch(r"\s*(\d{1,10})\s*(?:-\s*(\d{1,10})\s*)?", str(value), re.ASCII)
        first = int(match[1]) if match else 1
        last = int(match[2] or first) if match else 0
        if first > last:
            msg = f"{setting}: {shown(value)} is no range; expected e.g. '20000-49999' or '5000'"
            raise ConfigurationError(msg)
        found.append(Interval(first, last))
    return tuple(found)


def _merged(given: Iterable[Interval]) -> tuple[Interval, ...]:
    done: list[Interval] = []
    for each in sorted(given):
        if done and each.first <= done[-1].last + 1:
            done[-1] = Interval(done[-1].first, max(done[-1].last, each.last))
        else:
            done.append(each)
    return tuple(done)


@dataclass(frozen=True)
class Ranges:
    """Where numbers are taken from, and which are never given to anybody.

    Attributes:
        people: For people, and for the group that each has for themselves: it has the same number.
        groups: For groups.
        reserved: Never given, even when somebody asks for one of them by name;
            :data:`ALWAYS_RESERVED` is reserved in any case.

    Raises:
        ConfigurationError: A range has no number that may be given.
    """

    people: Interval = Interval(20_000, 49_999)
    groups: Interval = Interval(50_000, 59_999)
    reserved: tuple[Interval, ...] = (Interval(0, 999),)
    _merged: tuple[Interval, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        merged = _merged((*self.reserved, *ALWAYS_RESERVED))
        object.__setattr__(self, "_merged", merged)
        for name, each in (("people", self.people), ("groups", self.groups)):
            if each.last > LARGEST:
                msg = f"the range {each} for {name} goes beyond {LARGEST}, the largest number"
                raise ConfigurationError(msg)
            if first_free(each, self, lambda _number: False) is None:
                msg = f"the range {each} for {name} is reserved as a whole: nothing is left of it"
                raise ConfigurationError(msg)

    def past_reserved(self, number: int) -> int:
        """Return `number`, or the first one above the reserved range that it is in."""
        at = bisect.bisect_right(self._merged, number, key=lambda each: each.first) - 1
        if at >= 0 and number in self._merged[at]:
            return self._merged[at].last + 1
        return number

    def is_reserved(self, number: int) -> bool:
        """Whether nobody may have it."""
        return self.past_reserved(number) != number


def checked(number: int, ranges: Ranges, what: str) -> int:
    """Return a number that somebody was given by an administrator.

    Args:
        number: The number.
        ranges: What is reserved.
        what: What it is and where it comes from, for the error, e.g. ``the uidNumber of 'alice'``.

    Raises:
        NumberTakenError: Nobody may have it.
    """
    if not 1 <= number <= LARGEST:
        msg = f"{what} is {shown(number)}; expected a whole number from 1 to {LARGEST}"
        raise NumberTakenError(msg)
    if ranges.is_reserved(number):
        msg = (
            f"{what} is {number}, which is reserved (c.Identities.reserved): accounts of the "
            "system itself have such numbers"
        )
        raise NumberTakenError(msg)
    return number


def first_free(
    interval: Interval, ranges: Ranges, taken: Callable[[int], bool], after: int | None = None
) -> int | None:
    """Return the first number of the range that is neither reserved nor taken; `None` if none is.

    Args:
        interval: Where to look.
        ranges: What is reserved.
        taken: Whether somebody has a number, or had it.
        after: Look only above this number.
    """
    number = interval.first if after is None else max(interval.first, after + 1)
    while (number := ranges.past_reserved(number)) <= interval.last:
        if not taken(number):
            return number
        number += 1
    return None


def gaps(interval: Interval, used: Sequence[int]) -> Iterator[Interval]:
    """Return the parts of the range that lie between the `used` numbers, which are in order."""
    first = interval.first
    for number in used:
        if number > first:
            yield Interval(first, min(number - 1, interval.last))
        first = max(first, number + 1)
    if first <= interval.last:
        yield Interval(first, interval.last)


# --- names


def plain_text(value: str, what: str, longest: int = _LONGEST_NAME) -> str:
    """Return a text that every database, file and log line can hold.

    Raises:
        IdentityError: It is empty or too long, or holds a character that does not show: a newline,
            a NUL, a direction mark or half of a surrogate pair.
    """
    if not 1 <= len(value) <= longest:
        msg = f"{what} {shown(value)} has {len(value)} characters; expected 1 to {longest}"
        raise IdentityError(msg)
    bad = next((each for each in value if unicodedata.category(each) in _UNSEEN), None)
    if bad is not None:
        msg = f"{what} {shown(value)} holds the character U+{ord(bad):04X}, which cannot be seen"
        raise IdentityError(msg)
    return value


def name_key(name: str) -> str:
    """Return what two names have in common that are to be taken for one: upper or lower case, and
    the Unicode forms that look the same (NFKC).
    """  # noqa: D205 - one sentence
    folded = unicodedata.normalize("NFKC", name).casefold()
    return unicodedata.normalize("NFKC", folded)


def unix_name(path: str, number: int, taken: Callable[[str], bool]) -> str:
    """Return a name for the group that group(5) can hold, e.g. ``physics-team-a``.

    At most 32 characters of ``a-z 0-9 _ -``, beginning with a letter or ``_``. If that name is
    taken, or has no such characters, the number is in it.

    Args:
        path: The group's full path.
        number: Its gid.
        taken: Whether another group or an account has the name.
    """
    text = unicodedata.normalize("NFKD", "-".join(split(path)))
    text = text.encode("ascii", "ignore").decode("ascii").lower().replace(".", "-")
    text = re.sub("-{2,}", "-", _NOT_PLAIN.sub("-", text)).strip("-")
    if text and not re.match("[a-z_]", text):
        text = f"g-{text}"
    name = text[:LONGEST_UNIX_NAME].rstrip("-")
    if name and name == text and name not in PRIVILEGED_GROUPS and not taken(name):
        return name
    ends = (f"-{number}{f'-{again}' if again else ''}" for again in itertools.count())
    names = ((text or "group")[: LONGEST_UNIX_NAME - len(end)].rstrip("-") + end for end in ends)
    return next(each for each in names if not taken(each))
