"""Amounts as people write them: memory, processor cores, durations.

The three share one mechanism: a text is one or more *terms* (a number and a unit), each unit is
worth a whole number of the smallest unit, and the sum must be a whole, positive number of it.
Nothing is ever rounded on the way in, and ``parse(str(x)) == x`` for every ``x``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from qhub_spawner.errors import ValueRefusedError, shown

__all__ = ["Cpu", "Duration", "Memory", "Quantity"]

_LONGEST_TEXT = 64
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_TERM = re.compile(rf"({_NUMBER}) *([A-Za-z]*)")
_TERMS = re.compile(rf"{_NUMBER} *[A-Za-z]*(?: *{_NUMBER} *[A-Za-z]+)*")


class Quantity:
    """What the three have in common; subclasses are frozen dataclasses of one whole number.

    The class variables are the whole difference between memory, cores and durations.
    """

    __slots__ = ()

    ACCEPTED: ClassVar[str]
    """What is accepted, with examples, for a message."""
    UNITS: ClassVar[Mapping[str, Fraction]]
    """Unit in lower case to its worth; the empty unit only where a bare number is clear."""
    LARGEST: ClassVar[int]
    """The largest amount, in the smallest unit."""
    SEVERAL_TERMS: ClassVar[bool] = False
    """Whether ``1 d 12 h`` is a way to write it."""
    JSON_SCHEMA: ClassVar[Mapping[str, Any]]
    """What a profiles file may hold."""

    @property
    def amount(self) -> int:
        """The whole number of the smallest unit."""
        raise NotImplementedError

    @classmethod
    def of(cls, amount: int) -> Self:
        """Make one from a whole number of the smallest unit."""
        raise NotImplementedError

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read an amount as a person or a YAML file gives it.

        Args:
            value: A text, a number where a bare number is clear, or one of this class.

        Raises:
            ValueRefusedError: (a ``ValueError``) It is something else; the message says what is
                accepted.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise cls._refused(value, "is not an amount")
        text = value if isinstance(value, str) else cls._text_of_number(value)
        if len(text) > _LONGEST_TEXT:
            raise cls._refused(value, f"is longer than {_LONGEST_TEXT} characters")
        amount = cls._sum_of_terms(value, text.strip(" "))
        if amount.denominator != 1:
            raise cls._refused(value, f"does not come to a whole number of {cls._smallest_unit()}")
        if not 0 < amount <= cls.LARGEST:
            raise cls._refused(value, "must be more than zero" if amount <= 0 else "is too large")
        return cls.of(int(amount))

    @classmethod
    def _text_of_number(cls, value: float) -> str:
        if isinstance(value, int) and value.bit_length() > 128:  # noqa: PLR2004 - before str() gets slow
            raise cls._refused(value, "is too large")
        return str(value)

    @classmethod
    def _sum_of_terms(cls, value: object, text: str) -> Fraction:
        if not _TERMS.fullmatch(text):
            raise cls._refused(value, "is not understood")
        terms = _TERM.findall(text)
        if len(terms) > 1 and not cls.SEVERAL_TERMS:
            raise cls._refused(value, "is not understood")
        total = Fraction(0)
        smallest: Fraction | None = None
        for number, unit in terms:
            worth = cls.UNITS.get(unit.lower())
            if worth is None:
                raise cls._refused(
                    value, f"has the unknown unit {unit!r}" if unit else "has no unit: add one"
                )
            if smallest is not None and worth >= smallest:
                raise cls._refused(value, "must go from the largest unit to the smallest")
            smallest = worth
            total += Fraction(number) * worth
        return total

    @classmethod
    def _smallest_unit(cls) -> str:
        raise NotImplementedError

    @classmethod
    def _refused(cls, value: object, why: str) -> ValueRefusedError:
        return ValueRefusedError(f"{shown(value)} {why}", accepted=cls.ACCEPTED)

    def _check_amount(self) -> None:
        """Hold the same bounds for one that is made directly.

        Raises:
            ValueRefusedError: Not a whole number within the bounds.
        """
        amount: object = self.amount
        if (
            isinstance(amount, bool)
            or not isinstance(amount, int)
            or not 0 < amount <= self.LARGEST
        ):
            raise self._refused(
                amount, f"is not a number of {self._smallest_unit()} from 1 to {self.LARGEST}"
            )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # noqa: ANN401
        """Let a pydantic model hold one: parsed on the way in, a text on the way out to JSON."""
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.to_string_ser_schema(when_used="json")
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """What an editor shows while a profiles file is written."""
        return dict(cls.JSON_SCHEMA)


def _powers(letters: str, base: int, *endings: str) -> dict[str, Fraction]:
    return {
        letter + ending: Fraction(base**power)
        for power, letter in enumerate(letters, start=1)
        for ending in endings
    }


# Of two that give the same number the first is used.
_SAID_IN = {f"{letter}iB": 1024**power for power, letter in enumerate("KMGTP", start=1)} | {
    f"{letter}B": 1000**power for power, letter in enumerate(("", *"KMGTP"))
}


@dataclass(frozen=True, order=True, slots=True)
class Memory(Quantity):
    """An amount of memory.

    ``K M G T P`` are 1024-based, as Slurm means them (sbatch(1) 22.05, ``--mem``), and so are
    ``Ki`` and ``KiB``; ``KB MB GB TB PB`` are 1000-based. A bare number is refused: Slurm would
    take it for megabytes, Kubernetes for bytes.

    Attributes:
        bytes: How many.
    """

    bytes: int

    ACCEPTED = "a number with a unit, e.g. '4 GiB', '4000M' or '1.5 GB'"
    UNITS = {"b": Fraction(1)} | _powers("kmgtp", 1024, "", "i", "ib") | _powers("kmgtp", 1000, "b")
    LARGEST = 2**62
    JSON_SCHEMA: ClassVar[Mapping[str, Any]] = {
        "type": "string",
        "description": "An amount of memory with its unit: K, M, G, T, P (also Ki, KiB, ...) are "
        "1024-based, KB, MB, GB, ... 1000-based.",
        "examples": ["4 GiB", "4000M"],
        "pattern": r"^ *[0-9]+(\.[0-9]+)? *([KkMmGgTtPp]([Ii]?[Bb]?)|[Bb]) *$",
    }

    def __post_init__(self) -> None:
        """Hold the bounds."""
        self._check_amount()

    @property
    def amount(self) -> int:
        """Bytes."""
        return self.bytes

    @classmethod
    def of(cls, amount: int) -> Self:
        """Make one from bytes."""
        return cls(amount)

    @classmethod
    def _smallest_unit(cls) -> str:
        return "bytes"

    @property
    def mebibytes(self) -> int:
        """Whole MiB, rounded up: never less than what was asked for."""
        return -(-self.bytes // 2**20)

    @property
    def slurm(self) -> str:
        """As an argument of ``sbatch --mem``: whole MiB, rounded up."""
        return f"{self.mebibytes}M"

    def __str__(self) -> str:
        """Exact, with the unit that gives the smallest whole number: ``4 GiB``, ``512 MB``."""
        ways = [
            (self.bytes // worth, unit)
            for unit, worth in _SAID_IN.items()
            if self.bytes % worth == 0
        ]
        number, unit = min(ways, key=lambda way: way[0])
        return f"{number} {unit}"


@dataclass(frozen=True, order=True, slots=True)
class Cpu(Quantity):
    """An amount of processor time per time: cores, in thousandths as Kubernetes counts them.

    Attributes:
        millicores: Thousandths of a core.
    """

    millicores: int

    ACCEPTED = "a number of cores or thousandths of one, e.g. 2, '1.5' or '500m'"
    UNITS = {unit: Fraction(1000) for unit in ("", "core", "cores", "cpu", "cpus")} | {
        "m": Fraction(1)
    }
    LARGEST = 10**9
    JSON_SCHEMA: ClassVar[Mapping[str, Any]] = {
        "anyOf": [
            {"type": "number", "exclusiveMinimum": 0},
            {
                "type": "string",
                "pattern": r"^ *[0-9]+(\.[0-9]+)? *([Mm]|([Cc][Pp][Uu]|[Cc][Oo][Rr][Ee])[Ss]?)? *$",
            },
        ],
        "description": "Processor cores, also in thousandths of one.",
        "examples": [2, "1.5", "500m"],
    }

    def __post_init__(self) -> None:
        """Hold the bounds."""
        self._check_amount()

    @property
    def amount(self) -> int:
        """Thousandths of a core."""
        return self.millicores

    @classmethod
    def of(cls, amount: int) -> Self:
        """Make one from thousandths of a core."""
        return cls(amount)

    @classmethod
    def _smallest_unit(cls) -> str:
        return "thousandths of a core"

    @property
    def cores(self) -> int:
        """Whole cores, rounded up: what ``sbatch --cpus-per-task`` takes."""
        return -(-self.millicores // 1000)

    def __str__(self) -> str:
        """Exact, in cores: ``2``, ``1.5``."""
        whole, rest = divmod(self.millicores, 1000)
        return f"{whole}.{rest:03d}".rstrip("0") if rest else str(whole)


# 1-12:00:00, 1-12, 8:00:00, 30:00
_SLURM_TIME = re.compile(
    r"(?P<days>[0-9]+)-(?P<day_hours>[0-9]+)(?::(?P<day_minutes>[0-9]+)(?::(?P<day_seconds>[0-9]+))?)?"
    r"|(?:(?P<hours>[0-9]+):)?(?P<minutes>[0-9]+):(?P<seconds>[0-9]+)"
)


@dataclass(frozen=True, order=True, slots=True)
class Duration(Quantity):
    """A length of time.

    Slurm's own forms mean what sbatch(1) 22.05 says under ``--time``: ``minutes``,
    ``minutes:seconds``, ``hours:minutes:seconds``, ``days-hours``, ``days-hours:minutes``,
    ``days-hours:minutes:seconds``. So a bare whole number is minutes, and ``30:00`` is 30 minutes.

    Attributes:
        seconds: How many.
    """

    seconds: int

    ACCEPTED = (
        "a time with units, e.g. '8h', '90 min' or '1d 12h', or one of Slurm's forms, "
        "e.g. '1-12:00:00' (days-hours:minutes:seconds), '08:00:00' or 30 (minutes)"
    )
    UNITS = (
        {unit: Fraction(86400) for unit in ("d", "day", "days")}
        | {unit: Fraction(3600) for unit in ("h", "hour", "hours")}
        | {unit: Fraction(60) for unit in ("m", "min", "minute", "minutes")}
        | {unit: Fraction(1) for unit in ("s", "sec", "second", "seconds")}
    )
    LARGEST = 100 * 365 * 86400
    SEVERAL_TERMS = True
    JSON_SCHEMA: ClassVar[Mapping[str, Any]] = {
        "anyOf": [
            {"type": "integer", "minimum": 1},
            {"type": "string", "pattern": r"^ *[0-9][0-9.:A-Za-z -]*$", "maxLength": _LONGEST_TEXT},
        ],
        "description": "A length of time: with units, or in one of Slurm's forms; "
        "a bare number is minutes.",
        "examples": ["8h", "1d 12h", "1-12:00:00", "30:00"],
    }

    def __post_init__(self) -> None:
        """Hold the bounds."""
        self._check_amount()

    @property
    def amount(self) -> int:
        """Seconds."""
        return self.seconds

    @classmethod
    def of(cls, amount: int) -> Self:
        """Make one from seconds."""
        return cls(amount)

    @classmethod
    def _smallest_unit(cls) -> str:
        return "seconds"

    @classmethod
    def _sum_of_terms(cls, value: object, text: str) -> Fraction:
        if re.fullmatch(r"[0-9]+", text):
            return Fraction(int(text) * 60)
        found = _SLURM_TIME.fullmatch(text)
        if found is None:
            # Named, as a dataclass with slots is a new class that a bare super() does not know.
            return super(Duration, cls)._sum_of_terms(value, text)
        part = {name: int(digits) for name, digits in found.groupdict(default="0").items()}
        hours = part["days"] * 24 + part["day_hours"] + part["hours"]
        minutes = hours * 60 + part["day_minutes"] + part["minutes"]
        return Fraction(minutes * 60 + part["day_seconds"] + part["seconds"])

    @property
    def minutes(self) -> int:
        """Whole minutes, rounded up, as Slurm counts a time limit."""
        return -(-self.seconds // 60)

    @property
    def slurm(self) -> str:
        """As an argument of ``sbatch --time``: ``1-12:00:00`` or ``08:00:00``."""
        minutes, seconds = divmod(self.seconds, 60)
        hours, minutes = divmod(minutes, 60)
        days, hours = divmod(hours, 24)
        clock = f"{hours:02d}:{minutes:02d}:{seconds:02d}"
        return f"{days}-{clock}" if days else clock

    def __str__(self) -> str:
        """Exact, with units: ``1 d 12 h``."""
        left = self.seconds
        words = []
        for worth, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
            number, left = divmod(left, worth)
            if number:
                words.append(f"{number} {unit}")
        return " ".join(words)
