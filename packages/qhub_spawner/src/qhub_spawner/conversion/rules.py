"""Who may have something, and what people may write, as KubeSpawner's lists say it. Pure."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from qhub_spawner.errors import shown

__all__ = ["Closed", "access_of", "fullmatch_pattern", "nebari_access"]

Say = Callable[[str], None]

_LONGEST_PATTERN = 1000
# (?i), (?ms)
_FLAGS = re.compile(r"\(\?(?P<flags>[aiLmsux]+)\)")


class Closed(Exception):  # noqa: N818 - not an error: nobody may have the thing
    """Nobody may have it; its text is why."""


def access_of(thing: Mapping[str, Any], say: Say) -> dict[str, list[str]]:
    """Read ``allowed_groups`` and ``allowed_users``; a member of either may.

    Raises:
        Closed: There is such a key, but nobody in it.
    """
    return _rule({"groups": "allowed_groups", "users": "allowed_users"}, thing, say)


def _rule(keys: Mapping[str, str], thing: Mapping[str, Any], say: Say) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for field, key in keys.items():
        names = thing.get(key)
        names = [names] if isinstance(names, str) else names
        if not names:
            continue
        plain = isinstance(names, list | tuple | set | frozenset)
        if not plain or not all(isinstance(name, str) and name.strip() for name in names):
            raise Closed(f"{key} is not a list of names, but {shown(names)}")
        found[field] = [
            name.strip() for name in (names if isinstance(names, list) else sorted(names))
        ]
        if field == "groups" and any(name != name.casefold() for name in names):
            say(f"the groups {', '.join(names)} are compared letter by letter, capitals included")
    if not found and any(key in thing for key in keys.values()):
        raise Closed(
            f"{' and '.join(key for key in keys.values() if key in thing)}: nobody is in it"
        )
    return found


def nebari_access(entry: Mapping[str, Any], say: Say) -> dict[str, list[str]]:
    """Read Nebari's ``access``: all, yaml (``groups`` and ``users``), or keycloak.

    Raises:
        Closed: Nobody may.
    """
    access = entry.get("access")
    if access in (None, "all"):
        return access_of(entry, say)
    if access == "yaml":
        return _rule({"groups": "groups", "users": "users"}, {"groups": [], **entry}, say)
    if access == "keycloak":
        name = f"jupyterlab_profiles:{entry.get('display_name')}"
        say(
            "who may have it stands in Keycloak (attribute jupyterlab_profiles of groups and "
            f"users), not here: nobody may until you replace the group {name!r} by real ones"
        )
        return {"groups": [" ".join(name.split())[:255]]}
    raise Closed(f"access is {shown(access)}, not all, yaml or keycloak")


def fullmatch_pattern(regex: str) -> str | None:
    """Return the pattern whose full match is a match at the beginning for ``regex``.

    KubeSpawner uses ``re.match``, which lets any ending through unless the expression has its own
    ``$``. Values hold no newline, so ``.*`` is any ending, and ``$`` the very end.
    """
    if not _compiles(regex):
        return None
    flags = ""
    found = _FLAGS.match(regex)
    rest = regex
    if found is not None:
        flags, rest = found[0], regex[found.end() :]
    plainer = () if "x" in flags else _plainer(rest)
    for candidate in (*plainer, _with_any_ending(rest, flags)):
        pattern = flags + candidate
        if len(pattern) <= _LONGEST_PATTERN and _compiles(pattern):
            return pattern
    return None


def _plainer(regex: str) -> tuple[str, ...]:
    """Return the expression without its anchors where that is plainly the same."""
    begun = regex.removeprefix("^")
    if "|" in regex or not begun or begun[0] in "*+?{":
        return ()
    body, last = begun[:-1], begun[-1:]
    if last == "$" and not _escaped(body):
        return (body,) if body else ()
    if last in "*+" and body.endswith(".") and not _escaped(body[:-1]):
        return (begun,)
    return ()


def _with_any_ending(regex: str, flags: str) -> str:
    end = "\n" if "x" in flags else ""  # a comment must not swallow what follows
    return f"(?:{regex}{end}).*"


def _escaped(text: str) -> bool:
    """Whether the character after ``text`` is escaped."""
    return (len(text) - len(text.rstrip("\\"))) % 2 == 1


def _compiles(pattern: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(pattern)
    except (re.error, RecursionError, OverflowError, Warning):
        return False
    return True
