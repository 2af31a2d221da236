"""YAML text to plain data, with the line of every key and value.

Only YAML's own plain types come out (no dates, no tags that make objects), a key that stands twice
is a problem instead of the last one winning silently, and aliases cannot blow a small file up to a
large one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from qhub_spawner.errors import ConfigurationError, Problem, shown

__all__ = ["NOTHING", "At", "Source", "read_yaml"]

At = tuple[str | int, ...]

NOTHING = object()
"""Stands for a value that is not there, or not worth showing."""

_LARGEST_FILE_BYTES = 4 * 1024 * 1024
_MOST_VALUES = 100_000
_DEEPEST = 50
_VALUE_CHARACTERS = 100
_MOST_PROBLEMS = 200
_TAG = "tag:yaml.org,2002:"


@dataclass(slots=True)
class Source:
    """Data and where it came from.

    Attributes:
        where: A path, or the name of a setting.
        data: Plain lists, dicts, texts and numbers.
        root: What stands before the first part of a dotted path.
        lines: Of each place that has one, the line counted from 1; empty if it is not from a file.
    """

    where: str
    data: Any
    root: str = ""
    lines: dict[At, int] = field(default_factory=dict)
    _found: list[tuple[int, Problem]] = field(default_factory=list)
    _more: int = 0

    def report(self, at: At, value: object, message: str, accepted: str = "") -> None:
        """Add a problem.

        Args:
            at: Where in the data.
            value: What stands there, or ``NOTHING``.
            message: What is wrong.
            accepted: What would be right.
        """
        if self.full():
            return
        text = "" if value is NOTHING else shown(value, _VALUE_CHARACTERS)
        self._found.append((self._line(at), Problem(self.place(at), text, message, accepted)))

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All problems in the order of the file, or the first 200 found and how many more."""
        said = [problem for _, problem in sorted(self._found, key=lambda found: found[0])]
        if self._more:
            said.append(Problem(self.where, "", f"and {self._more} more problems", ""))
        return tuple(said)

    def full(self) -> bool:
        """Whether there are so many problems that one more would only be counted; counts it."""
        if len(self._found) < _MOST_PROBLEMS:
            return False
        self._more += 1
        return True

    def place(self, at: At) -> str:
        """Say where something stands: ``profiles.yaml:41 profiles[2].memory``."""
        dotted = self.root
        for part in at:
            if isinstance(part, int):
                dotted += f"[{part}]"
            else:
                dotted += f".{_key(part)}" if dotted else _key(part)
        if self.lines:
            return f"{self.where}:{self._line(at)} {dotted}".rstrip()
        joint = "." if dotted and not dotted.startswith("[") else ""
        return f"{self.where}{joint}{dotted}"

    def _line(self, at: At) -> int:
        nearest = (at[:end] for end in range(len(at), -1, -1) if at[:end] in self.lines)
        return self.lines.get(next(nearest, ()), 0)


def _key(part: str) -> str:
    plain = part.isascii() and part.replace("-", "").replace("_", "").isalnum()
    return part if plain and len(part) < _VALUE_CHARACTERS else f"[{shown(part)}]"


def read_yaml(path: Path) -> Source:
    """Read a YAML file.

    Args:
        path: The file; at most 4 MiB of UTF-8.

    Returns:
        Its data; its ``problems`` are what is wrong with single keys and values.

    Raises:
        ConfigurationError: It cannot be read, or is not YAML at all.
    """
    where = str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST_FILE_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        problem = Problem(where, "", f"the file cannot be read: {why}", "a YAML file in UTF-8")
        raise ConfigurationError([problem]) from error
    if len(raw) > _LARGEST_FILE_BYTES:
        raise ConfigurationError([Problem(where, "", "the file is too large", "at most 4 MiB")])
    node = _compose(text, where)
    source = Source(where, None, root="profiles" if isinstance(node, SequenceNode) else "")
    source.lines[()] = 1
    if node is not None:
        source.lines[()] = _line(node)
        source.data = _Reading(source).value(node, ())
    return source


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _compose(text: str, where: str) -> Node | None:
    try:
        node: Node | None = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{where}:{mark.line + 1}" if mark is not None else where
        reason = error.problem or error.context or "it cannot be parsed"
        raise ConfigurationError([Problem(place, "", f"this is not YAML: {reason}", "")]) from error
    except Exception as error:  # whatever somebody else's parser raises on garbage: bad text
        deep = isinstance(error, RecursionError)
        reason = "it is nested too deeply" if deep else shown(str(error), 200)
        raise ConfigurationError([Problem(where, "", f"this is not YAML: {reason}", "")]) from error
    return node


class _Reading:
    """Turns YAML's nodes to data, once."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._left = _MOST_VALUES

    def value(self, node: Node, at: At) -> Any:  # noqa: ANN401 - plain data
        self._source.lines.setdefault(at, _line(node))
        if not self._may_go_on(at):
            return None
        if isinstance(node, ScalarNode):
            return self._scalar(node, at)
        expected = "map" if isinstance(node, MappingNode) else "seq"
        self._refuse_tag(node, (expected,), at)
        if isinstance(node, MappingNode):
            return self._mapping(node, at)
        return [self.value(item, (*at, number)) for number, item in enumerate(node.value)]

    def _may_go_on(self, at: At) -> bool:
        """Bound the work: an alias may stand for a large part of the file, or for itself."""
        if self._left > 0 and len(at) <= _DEEPEST:
            self._left -= 1
            return True
        if self._left >= 0:
            accepted = f"at most {_MOST_VALUES} values, {_DEEPEST} levels deep"
            self._source.report(at, NOTHING, "this holds too much, or an alias of itself", accepted)
            self._left = -1
        return False

    def _refuse_tag(self, node: Node, expected: tuple[str, ...], at: At) -> None:
        if str(node.tag).removeprefix(_TAG) not in expected:
            self._source.report(at, str(node.tag), "tags are not understood", "a plain value")

    def _mapping(self, node: MappingNode, at: At) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if str(key_node.tag) == f"{_TAG}merge":
                merged |= self._merge(value_node, at)
                continue
            key = self._key(key_node, at)
            if key is None:
                continue
            here = (*at, key)
            first = self._source.lines.get(here)
            self._source.lines[here] = _line(key_node)
            if key in result:
                message = f"the key stands twice, first in line {first}"
                self._source.report(here, key, message, "each key once")
            else:
                result[key] = self.value(value_node, here)
        return merged | result

    def _merge(self, node: Node, at: At) -> dict[str, Any]:
        """Read what stands behind ``<<``: an alias of a mapping, or a list of such."""
        merged: dict[str, Any] = {}
        for item in node.value if isinstance(node, SequenceNode) else [node]:
            value = self.value(item, at) if isinstance(item, MappingNode) else None
            if isinstance(value, dict):
                merged = value | merged
            else:
                self._source.report(at, NOTHING, "'<<' takes an alias of a mapping", "'<<: *name'")
        return merged

    def _key(self, node: Node, at: At) -> str | None:
        """Read a key; a number becomes text, as choices are often named by one (``4: {...}``)."""
        if isinstance(node, ScalarNode) and str(node.tag) in (f"{_TAG}str", f"{_TAG}int"):
            return str(node.value)
        found = str(node.value) if isinstance(node, ScalarNode) else NOTHING
        message = (
            "a key must be a text" if found is NOTHING else f"the key {shown(found)} is no text"
        )
        self._source.report(at, found, message, "a name, in quotes where needed")
        return None

    def _scalar(self, node: ScalarNode, at: At) -> str | float | bool | None:
        text = str(node.value)
        kind = str(node.tag).removeprefix(_TAG)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind in ("int", "float"):
            return self._number(text, kind, at)
        self._refuse_tag(node, ("str", "timestamp"), at)  # a date is as good as its text
        return text

    def _number(self, text: str, kind: str, at: At) -> float | None:
        plain = text.replace("_", "").lower()
        based = plain.lstrip("+-").startswith(("0x", "0o", "0b"))
        try:
            if kind == "int":
                return int(plain, 0) if based else int(plain)
            return float(plain.replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            message = "this number is not understood"
            self._source.report(at, text, message, "a number, or a text in quotes")
            return None
