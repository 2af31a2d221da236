"""Pydantic's findings in plain words: what failed, the value, what would be accepted, and where."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from qhub_spawner.errors import ValueRefusedError
from qhub_spawner.sources import NOTHING, At, Source

__all__ = ["report_all"]

# pydantic's type of an error: what is wrong, what would be accepted; {} is from its context.
_WORDS: Mapping[str, tuple[str, str]] = {
    "string_type": ("this must be a text", "a text, in quotes where needed"),
    "string_too_long": ("this is too long", "at most {max_length} characters"),
    "string_unicode": ("this is not valid Unicode", "a text"),
    "bool_type": ("this must be true or false", "true or false, without quotes"),
    "int_type": ("this must be a whole number", "a whole number, without quotes"),
    "int_from_float": ("this must be a whole number", "a whole number"),
    "int_parsing_size": ("this number is too large", "a whole number"),
    "greater_than_equal": ("this is too small", "at least {ge}"),
    "less_than_equal": ("this is too large", "at most {le}"),
    "tuple_type": ("this must be a list", "a list, e.g. [first, second]"),
    "too_long": ("this list is too long", "at most {max_length} values"),
    "dict_type": ("this must be a mapping", "keys with values, e.g. 'name: value'"),
    "model_type": ("this must be a mapping", "keys with values, e.g. 'name: value'"),
    "model_attributes_type": ("this must be a mapping", "keys with values, e.g. 'name: value'"),
    "literal_error": ("this is not one of the possible values", "one of {expected}"),
    "missing": ("this is missing", "a value"),
    "invalid_key": ("a key must be a text", "a name"),
    "recursion_loop": ("this contains itself", "plain values"),
    "invalid-json-value": (
        "this is not plain data",
        "texts, numbers, true, false, lists and mappings",
    ),
}


def report_all(error: ValidationError, source: Source, at: At, model: type[BaseModel]) -> None:
    """Add every finding to the source's problems.

    Args:
        error: Pydantic's.
        source: Where the data came from.
        at: Where in it the validated value stands.
        model: What it was validated as.
    """
    for details in error.errors(include_url=False):
        if not source.full():
            _report(details, source, at, model)


def _report(details: ErrorDetails, source: Source, at: At, model: type[BaseModel]) -> None:
    location = tuple(part for part in details["loc"] if part != "[key]")
    value: object = details["input"]
    context: dict[str, Any] = details.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, ValueRefusedError):
        found = cause.value if cause.at else value
        plain = isinstance(found, str | int | float)
        source.report(
            (*at, *location, *cause.at), found if plain else NOTHING, cause.message, cause.accepted
        )
    elif details["type"] == "extra_forbidden":
        _report_unknown(
            str(location[-1]), source, (*at, *location), _model_at(model, location[:-1])
        )
    elif details["type"] == "missing":
        source.report(
            (*at, *location[:-1]),
            NOTHING,
            f"the key '{location[-1]}' is missing",
            f"'{location[-1]}: ...'",
        )
    else:
        message, accepted = _WORDS.get(details["type"], ("this is not accepted", ""))
        source.report((*at, *location), value, message, accepted.format_map(context))


def _report_unknown(key: str, source: Source, at: At, model: type[BaseModel] | None) -> None:
    keys = list(model.model_fields) if model is not None else []
    near = difflib.get_close_matches(key[:64], keys, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    accepted = ", ".join(keys) if keys else "no key at all"
    source.report(at, key, f"unknown key{hint}", accepted)


def _model_at(model: type[BaseModel], location: At) -> type[BaseModel] | None:
    """Find the model that stands at a location, by the annotations on the way."""
    here: Any = model
    for part in location:
        if isinstance(here, type) and issubclass(here, BaseModel):
            field = here.model_fields.get(str(part))
            here = _bare(field.annotation) if field is not None else None
        else:
            arguments = get_args(here)
            here = _bare(arguments[-1]) if arguments else None
    return here if isinstance(here, type) and issubclass(here, BaseModel) else None


def _bare(annotation: Any) -> Any:  # noqa: ANN401 - a type expression
    """Take ``| None`` off."""
    if get_origin(annotation) in (dict, tuple):
        return annotation
    kept = [argument for argument in get_args(annotation) if argument is not type(None)]
    return kept[0] if kept else annotation
