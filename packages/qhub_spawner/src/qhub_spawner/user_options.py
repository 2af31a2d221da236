"""The outer form of ``user_options``, as they come over the wire: trusted in nothing. Pure.

Ours is ``{"profile": slug, "options": {option: value}}``. KubeSpawner's, which scripts of a hub
that has moved go on to send, has the options beside ``profile``.
"""

from __future__ import annotations

from collections.abc import Mapping

from qhub_spawner.errors import SelectionError, named, shown
from qhub_spawner.free_values import refused_characters
from qhub_spawner.profiles import Option
from qhub_spawner.slugs import slugged

__all__ = ["read_user_options", "with_flat"]

_MOST_OPTIONS = 64
_FREE_ENDING = "--unlisted-choice"


def read_user_options(
    user_options: object,
) -> tuple[str | None, dict[str, str], dict[object, object]]:
    """Read the outer form of what was sent, never deeper than its two levels.

    Returns:
        The profile, the options, and what else stands beside them.

    Raises:
        SelectionError: (400) It is of another shape, or holds what is not a short, visible text.
    """
    if user_options is None:
        return None, {}, {}
    if not isinstance(user_options, dict):
        raise SelectionError(f"The choice must be an object, not {_kind(user_options)}.")
    slug = user_options.get("profile")
    options = user_options.get("options")
    if options is None:
        options = {}
    if not isinstance(options, dict):
        raise SelectionError(f"'options' must be an object, not {_kind(options)}.", name="options")
    if len(options) > _MOST_OPTIONS or len(user_options) > _MOST_OPTIONS:
        raise SelectionError(f"There are more than {_MOST_OPTIONS} options.", name="options")
    return (
        _text("'profile'", slug) if slug is not None else None,
        {
            _text("a key of 'options'", key): _text(f"the option {shown(key)}", value)
            for key, value in options.items()
        },
        {key: user_options[key] for key in user_options if key not in ("profile", "options")},
    )


def with_flat(
    wanted: Mapping[str, str], flat: Mapping[object, object], options: Mapping[str, Option]
) -> dict[str, str]:
    """Take up the options that stand beside ``profile``, as KubeSpawner's users send them.

    Args:
        wanted: What stands under ``options``.
        flat: What stands beside it.
        options: All options of the chosen profile, also those the person may not have.

    Raises:
        SelectionError: (400) A key is no option, an option is there twice, or a value is no text.
    """
    chosen = dict(wanted)
    for key, value in flat.items():
        text = key if isinstance(key, str) and not refused_characters(key) else ""
        found = _option_called(text, options)
        if found is None:
            accepted = ("profile", "options")
            raise SelectionError(
                f"There is no field {shown(key)}.", name=named(key), accepted=accepted
            )
        name, free = found
        if name in chosen:
            raise SelectionError(f"The option {shown(name)} is there twice.", name=name)
        chosen[name] = _flat_value(_text(f"the option {shown(key)}", value), options[name], free)
    return chosen


def _option_called(key: str, options: Mapping[str, Option]) -> tuple[str, bool] | None:
    """Find an option by its own or its former name, and whether a free value is meant."""
    bare = key.removesuffix(_FREE_ENDING)
    for name, free in ((key, False), (slugged(key), False), (bare, True), (slugged(bare), True)):
        if name in options and (bare != key or not free):
            return name, free
    return None


def _flat_value(value: str, option: Option, free: bool) -> str:
    """Return the value as it stands under ``options``: a choice by its slug, or a free value."""
    if not free:
        return value if value in option.choices else _choice_called(value, option)
    if value in option.choices:
        message = f"The value {shown(value)} is the name of a choice, not a value of one's own."
        raise SelectionError(message, name=named(value))
    return value


def _choice_called(value: str, option: Option) -> str:
    slug = slugged(value)
    return slug if slug in option.choices else value


def _text(what: str, value: object) -> str:
    """Refuse everything but a short text of characters that can be seen."""
    if not isinstance(value, str):
        raise SelectionError(f"The value of {what} must be a text, not {_kind(value)}.", name=what)
    why = refused_characters(value)
    if why:
        raise SelectionError(f"The value {shown(value)} of {what} {why}.", name=named(value))
    return value


def _kind(value: object) -> str:
    kinds: Mapping[type, str] = {
        type(None): "nothing",
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return kinds.get(type(value), "something else")
