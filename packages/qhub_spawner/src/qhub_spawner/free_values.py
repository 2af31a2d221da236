"""What a person writes into a free field: the rule, and how a value is checked against it.

A value is looked at in this order: its size and characters, the rule of the field it sets, the
bounds, and only then the administrator's pattern. So no pattern, not even ``.*``, lets through what
the field itself refuses.
"""

from __future__ import annotations

import re
import warnings
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from qhub_spawner.errors import ValueRefusedError, shown
from qhub_spawner.fields import SafeText, TextOrNumber, hidden_character
from qhub_spawner.quantities import Cpu, Duration, Memory, Quantity
from qhub_spawner.resources import Access, Model, Overrides

__all__ = [
    "LONGEST_VALUE",
    "FreeTarget",
    "FreeValue",
    "accepted_words",
    "overrides_of",
    "refused_characters",
]

LONGEST_VALUE = 256
"""Most characters of any value a person sends."""

_QUANTITIES: dict[str, type[Quantity]] = {"cpu": Cpu, "memory": Memory, "walltime": Duration}
_COUNTS = ("gpu", "nodes")

FreeTarget = Literal[
    "cpu",
    "memory",
    "gpu",
    "gpu_type",
    "walltime",
    "nodes",
    "slurm.account",
    "slurm.reservation",
    "slurm.constraint",
    "slurm.qos",
    "kubernetes.image",
    "environment",
]


class FreeValue(Model):
    """A value that a person may write themselves."""

    pattern: Annotated[str, Field(max_length=1000, strict=True)] = ".+"
    """A Python regular expression that the whole value must match, beside the rule of the field it
    sets. It is tried on at most 256 characters; nested repetition such as ``(a+)+`` can still take
    very long, so write none."""
    message: SafeText = ""
    """Said to a person whose value does not match."""
    example: TextOrNumber | None = None
    """A value that is accepted, shown as a hint."""
    sets: FreeTarget
    """The field it sets."""
    minimum: TextOrNumber | None = None
    """Smallest value, for a field that is an amount."""
    maximum: TextOrNumber | None = None
    """Largest value, for a field that is an amount."""
    access: Access = Access()
    """Who may write one."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_rule(self)
        return self


def refused_characters(value: str) -> str | None:
    """Say why a value is refused whatever field it is for; ``None`` if it is not."""
    if len(value) > LONGEST_VALUE:
        return f"is longer than {LONGEST_VALUE} characters"
    if not value:
        return "is empty"
    hidden = hidden_character(value)
    if hidden is not None:
        return f"holds the character U+{ord(hidden):04X}, which cannot be seen"
    return None


def amount_of(sets: str, value: str) -> Any:  # noqa: ANN401 - an int or a Quantity; both are ordered
    """Read a value for a field that is an amount.

    Raises:
        ValueRefusedError: It is not one.
    """
    if sets in _QUANTITIES:
        return _QUANTITIES[sets].parse(value)
    if not re.fullmatch(r"[0-9]{1,6}", value):
        msg = f"{shown(value)} is not a whole number"
        raise ValueRefusedError(msg, accepted="a whole number, e.g. 2")
    return int(value)


def overrides_of(free: FreeValue, value: str) -> Overrides:
    """Turn a person's value into what it changes.

    Args:
        free: The administrator's rule.
        value: What the person wrote.

    Raises:
        ValueRefusedError: The value is not allowed; ``accepted`` says what is.
    """
    why = refused_characters(value)
    if why:
        msg = f"{shown(value)} {why}"
        raise ValueRefusedError(msg, accepted=accepted_words(free))
    try:
        amount = amount_of(free.sets, value) if free.sets in (*_QUANTITIES, *_COUNTS) else value
        overrides = Overrides.model_validate(_nested(free.sets, amount))
    except ValidationError as error:
        cause = error.errors()[0].get("ctx", {}).get("error")
        accepted = cause.accepted if isinstance(cause, ValueRefusedError) else accepted_words(free)
        msg = f"{shown(value)} is not accepted here"
        raise ValueRefusedError(msg, accepted=accepted) from error
    _check_bounds(free, value, amount)
    if not re.fullmatch(free.pattern, value):
        msg = f"{shown(value)} is not accepted here"
        raise ValueRefusedError(msg, accepted=accepted_words(free))
    return overrides


def _nested(sets: str, amount: Any) -> dict[str, Any]:  # noqa: ANN401
    if sets == "gpu":
        return {"gpu": {"count": amount}}
    if sets == "gpu_type":
        return {"gpu": {"type": amount}}
    if sets == "environment":
        return {"environment": {"prefix": amount}}
    block, dot, field = sets.partition(".")
    return {block: {field: amount}} if dot else {sets: amount}


def _check_bounds(free: FreeValue, value: str, amount: Any) -> None:  # noqa: ANN401
    if free.minimum is not None and amount < amount_of(free.sets, free.minimum):
        msg = f"{shown(value)} is less than {free.minimum}"
        raise ValueRefusedError(msg, accepted=accepted_words(free))
    if free.maximum is not None and amount > amount_of(free.sets, free.maximum):
        msg = f"{shown(value)} is more than {free.maximum}"
        raise ValueRefusedError(msg, accepted=accepted_words(free))


def accepted_words(free: FreeValue) -> str:
    """Say what a free field takes, for a person."""
    words = []
    if free.message:
        words.append(free.message)
    elif free.sets in _QUANTITIES:
        words.append(_QUANTITIES[free.sets].ACCEPTED)
    elif free.sets in _COUNTS:
        words.append("a whole number")
    elif free.pattern != ".+":
        words.append(f"a value that matches {free.pattern}")
    if free.minimum is not None and free.maximum is not None:
        words.append(f"from {free.minimum} to {free.maximum}")
    elif free.minimum is not None:
        words.append(f"at least {free.minimum}")
    elif free.maximum is not None:
        words.append(f"at most {free.maximum}")
    if free.example is not None and not free.message:
        words.append(f"e.g. {free.example}")
    return ", ".join(words) or "a name"


def _check_rule(free: FreeValue) -> None:
    """Check an administrator's rule when it is loaded.

    Raises:
        ValueRefusedError: The pattern does not compile, a bound is not an amount or makes no sense,
            or the example is not accepted by the rule itself.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a pattern whose meaning will change is not accepted
            re.compile(free.pattern)
    except (re.error, RecursionError, OverflowError, Warning) as error:
        msg = f"the pattern does not compile: {error}"
        raise ValueRefusedError(
            msg, accepted="a Python regular expression", at=("pattern",), value=free.pattern
        ) from error
    _check_rule_bounds(free)
    if free.example is not None:
        try:
            overrides_of(free, free.example)
        except ValueRefusedError as error:
            msg = f"the example is not accepted by the rule itself: {error.message}"
            raise ValueRefusedError(
                msg, accepted=error.accepted, at=("example",), value=free.example
            ) from error


def _check_rule_bounds(free: FreeValue) -> None:
    amounts = []
    for name in ("minimum", "maximum"):
        bound = getattr(free, name)
        if bound is None:
            continue
        if free.sets not in (*_QUANTITIES, *_COUNTS):
            msg = f"{free.sets} is not an amount, so it has no {name}"
            raise ValueRefusedError(msg, accepted=f"'{name}' left out", at=(name,), value=bound)
        try:
            amounts.append(amount_of(free.sets, bound))
        except ValueRefusedError as error:
            raise ValueRefusedError(
                error.message, accepted=error.accepted, at=(name,), value=bound
            ) from error
    if len(amounts) == 2 and amounts[0] > amounts[1]:  # noqa: PLR2004 - both bounds
        msg = f"the minimum {free.minimum} is more than the maximum {free.maximum}"
        raise ValueRefusedError(
            msg, accepted="a maximum that is not smaller", at=("maximum",), value=free.maximum
        )
