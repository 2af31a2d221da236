"""From a submitted form, or an address, to what a person asks for.

Nothing is decided here: `qhub_spawner.access.select` says what they get. What is not of the shape
that our own page sends is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from qhub_spawner.errors import SelectionError, shown

__all__ = ["OTHER", "parse_form", "parse_query", "read_form"]

OTHER = "_other"
"""The value of the choice "Other…"; no slug can be like it."""

_LONGEST_VALUE = 256
_MOST_OPTIONS = 64
_SLUG = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# options.gpu.size, options.gpu.size.free
_FIELD = re.compile(rf"options\.(?P<profile>{_SLUG})\.(?P<option>{_SLUG})(?P<free>\.free)?")
# options.size
_PARAMETER = re.compile(rf"options\.(?P<option>{_SLUG})")
# The hub's own fields and parameters.
_HUBS_FIELDS = frozenset({"_xsrf"})
_HUBS_PARAMETERS = frozenset({"_xsrf", "next", "display_name"})


def parse_form(form_data: Mapping[str, Sequence[object]]) -> dict[str, Any]:
    """Read the submitted options page.

    Args:
        form_data: Field to values, as ``Spawner.options_from_form`` gets it (an uploaded file comes
            as a field too).

    Returns:
        ``user_options``: the chosen profile and the options of that profile only; the page sends
        those of other profiles as well where there are no scripts. An option that was left open is
        not in it.

    Raises:
        SelectionError: (400) There is a field our page does not have, a file, a field twice, no
            profile, or "Other…" without a value.
    """
    typed = read_form(form_data)
    for option, value in typed["options"].items():
        if not value:
            msg = (
                f"The option {option!r} of the profile {typed['profile']!r} is 'Other', "
                "but has no value."
            )
            raise SelectionError(msg, name=option)
    return typed


def read_form(form_data: Mapping[str, Sequence[object]]) -> dict[str, Any]:
    """Read a form as `parse_form` does, but take "Other…" without a value, as an empty text.

    For showing again what was typed when it was refused.

    Raises:
        SelectionError: (400) As `parse_form`, except for "Other…".
    """
    fields: dict[tuple[str, str, bool], str] = {}
    slug: str | None = None
    for name, values in form_data.items():
        found = _FIELD.fullmatch(name)
        if found:
            fields[found["profile"], found["option"], bool(found["free"])] = _single(name, values)
        elif name == "profile":
            slug = _single(name, values)
        elif name not in _HUBS_FIELDS:
            msg = f"The form has no field {shown(name)}."
            raise SelectionError(
                msg,
                name=shown(name),
                accepted=("profile", "options.PROFILE.OPTION", "options.PROFILE.OPTION.free"),
            )
    if not slug:
        raise SelectionError(
            "No profile is chosen: choose one, then press Start again.", name="profile"
        )
    options: dict[str, str] = {}
    for (profile, option, free), value in fields.items():
        if profile != slug:
            continue
        if not free and value == OTHER:
            options[option] = fields.get((profile, option, True), "").strip()
        elif not free and value:
            options[option] = value
        elif free and (profile, option, False) not in fields and value.strip():
            options[option] = value.strip()
    return {"profile": slug, "options": options}


def _single(name: str, values: Sequence[object]) -> str:
    if isinstance(values, str) or len(values) != 1 or not isinstance(values[0], str):
        msg = f"The field {shown(name)} must have exactly one value, a text."
        raise SelectionError(msg, name=shown(name))
    return values[0]


def parse_query(
    arguments: Mapping[str, Sequence[str | bytes]],
) -> tuple[dict[str, Any] | None, str | None]:
    """Read what an address preselects: ``?profile=gpu&options.size=large``.

    Each parameter may also begin with ``opt-``, as the hub writes those that are for the spawner.

    Args:
        arguments: Parameter to values; bytes are UTF-8.

    Returns:
        What to show as chosen and ``None``; ``None`` and why it cannot be understood, in words; or
        neither, when the address says nothing about it. It never starts anything.
    """
    profile: str | None = None
    options: dict[str, str] = {}
    for name, values in arguments.items():
        if name in _HUBS_PARAMETERS:
            continue
        key = name.removeprefix("opt-")
        found = _PARAMETER.fullmatch(key)
        if not found and key != "profile":
            return None, (
                f"The address has a parameter {shown(name)} that is not known. "
                "Known are: profile, options.OPTION (e.g. ?profile=gpu&options.size=large)."
            )
        value = _parameter(values)
        if value is None:
            return None, (
                f"The parameter {shown(name)} of the address must have one value "
                f"of 1 to {_LONGEST_VALUE} characters."
            )
        if found is None:
            profile = value
        else:
            options[found["option"]] = value
    if len(options) > _MOST_OPTIONS:
        return None, f"The address sets more than {_MOST_OPTIONS} options."
    if profile is None:
        if options:
            return None, "The address sets options but no profile: add profile=NAME."
        return None, None
    return {"profile": profile, "options": options}, None


def _parameter(values: Sequence[str | bytes]) -> str | None:
    """Return the one value, or ``None`` if it is not fit to be shown."""
    if len(values) != 1 or len(values[0]) > 4 * _LONGEST_VALUE:
        return None
    value = values[0]
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            return None
    return value if 0 < len(value) <= _LONGEST_VALUE and value.isprintable() else None
