"""The kinds of text a profile may hold, each with its rule in a regular expression and in words.

Every value that may reach a command or a script is ASCII from a short list of characters, cannot
begin with a dash, and holds no blank: whatever pattern an administrator allows people, these rules
stand behind it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

from qhub_spawner.errors import ValueRefusedError, shown

__all__ = [
    "Constraint",
    "EnvironmentValue",
    "Gres",
    "ImageName",
    "KubernetesName",
    "LabelKey",
    "LabelValue",
    "ModuleName",
    "Name",
    "Names",
    "Prefix",
    "ResourceName",
    "SafeText",
    "ShellText",
    "Slug",
    "SlurmName",
    "SlurmNames",
    "SlurmOption",
    "TextOrNumber",
    "VariableName",
    "control_character",
    "hidden_character",
    "shorthand_schema",
]

_REFUSED_CATEGORIES = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})


def hidden_character(text: str, allowed: str = "") -> str | None:
    """Return the first character that does not show, or changes how others show; else ``None``.

    Those are the Unicode categories Cc (control, so newline and NUL), Cf (format, so direction
    marks and zero-width characters), Co, Cs (private, surrogate), Zl and Zp (line and paragraph
    separators).

    Args:
        text: The text to look through; bound its length first.
        allowed: Characters that are fine all the same.
    """
    for character in text:
        if unicodedata.category(character) in _REFUSED_CATEGORIES and character not in allowed:
            return character
    return None


def control_character(text: str) -> str | None:
    """Return the first control character (newline, NUL, …) or lone surrogate; else ``None``."""
    return next((each for each in text if unicodedata.category(each) in {"Cc", "Cs"}), None)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule for a text, as pydantic metadata: ``Annotated[str, Rule(...)]``.

    Attributes:
        accepted: The rule in words, with an example.
        pattern: What the whole text must match, in a form that Python and JSON Schema read alike.
        longest: Most characters.
        allowed: Control characters that may stand in it; all others are refused.
    """

    accepted: str
    pattern: str | None = None
    longest: int = 256
    allowed: str = ""

    def check(self, value: str) -> str:
        """Return the value if it follows the rule.

        Raises:
            ValueRefusedError: It does not.
        """
        why = None
        if len(value) > self.longest:
            why = f"is longer than {self.longest} characters"
        elif (hidden := hidden_character(value, self.allowed)) is not None:
            why = f"holds the character U+{ord(hidden):04X}, which cannot be seen"
        elif self.pattern is not None and not re.fullmatch(self.pattern, value):
            why = "is not accepted here"
        if why:
            msg = f"{shown(value)} {why}"
            raise ValueRefusedError(msg, accepted=self.accepted)
        return value

    def __get_pydantic_core_schema__(
        self,
        _source: Any,  # noqa: ANN401 - pydantic's signature
        _handler: GetCoreSchemaHandler,
    ) -> CoreSchema:
        """Check after pydantic has seen that it is a text, and not bytes."""
        return core_schema.no_info_after_validator_function(
            self.check, core_schema.str_schema(strict=True)
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Put the rule in the JSON Schema."""
        json = dict(handler(schema))
        json["maxLength"] = self.longest
        if self.pattern is not None:
            json["pattern"] = f"^(?:{self.pattern})$"
        return json


Slug = Annotated[
    str,
    Rule(
        "1 to 63 lower-case letters, digits and dashes, with a letter or digit at both ends, "
        "e.g. 'large-memory'",
        r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?",
        longest=63,
    ),
]
# Zero-width (non-)joiners are letters' business in Persian, in Indic scripts and in emoji.
SafeText = Annotated[
    str,
    Rule("a text on one line, without control characters", longest=2000, allowed="\u200c\u200d"),
]
Name = Annotated[
    str, Rule("a name on one line, without control characters", r"\S(?:.*\S)?", longest=255)
]
SlurmName = Annotated[
    str,
    Rule(
        "a name of letters, digits and _ . @ + : / -, beginning with a letter or digit, "
        "e.g. 'general'",
        r"[A-Za-z0-9_][A-Za-z0-9_.@+:/-]*",
        longest=128,
    ),
]
SlurmNames = Annotated[
    str,
    Rule(
        "a name, or several with commas, of letters, digits and _ . @ + : / -, "
        "e.g. 'general' or 'general,highmem'",
        r"[A-Za-z0-9_][A-Za-z0-9_.@+:/-]*(?:,[A-Za-z0-9_][A-Za-z0-9_.@+:/-]*)*",
        longest=256,
    ),
]
Constraint = Annotated[
    str,
    Rule(
        "feature names joined by & or |, without blanks, e.g. 'intel&ib' or '[rack1|rack2]'",
        r"[A-Za-z0-9_(\[][A-Za-z0-9_.:*&|,()\[\]=-]*",
        longest=256,
    ),
]
Gres = Annotated[
    str,
    Rule(
        "name[:type]:count, several with commas, e.g. 'shard:2' or 'scratch:20G'",
        r"[A-Za-z0-9_][A-Za-z0-9_.:=/,-]*",
        longest=256,
    ),
]
Prefix = Annotated[
    str,
    Rule(
        "an absolute path of letters, digits and . _ + = @ , : ~ - without '..', "
        "e.g. '/opt/jupyter'",
        r"/(?!(?:.*/)?\.\.(?:/|$))[A-Za-z0-9._+=@,:~/-]*",
        longest=256,
    ),
]
VariableName = Annotated[
    str,
    Rule(
        "the name of an environment variable that the hub does not set itself, "
        "e.g. 'OMP_NUM_THREADS'",
        r"(?!JUPYTERHUB_API_TOKEN$|JPY_API_TOKEN$)[A-Za-z_][A-Za-z0-9_]*",
        longest=128,
    ),
]
ModuleName = Annotated[
    str,
    Rule(
        "the name of an environment module, e.g. 'python/3.11'",
        r"[A-Za-z0-9_][A-Za-z0-9_.@+=:/-]*",
    ),
]
SlurmOption = Annotated[
    str,
    Rule(
        "one sbatch option on one line, beginning with two dashes, e.g. '--mail-type=END'",
        r"--[a-z][a-z0-9-]*(?:=.*)?",
        longest=1000,
    ),
]
# Kubernetes' own rules (Object Names and IDs; Labels and Selectors; 1.34)
_DNS_LABEL = "[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_LABEL_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
KubernetesName = Annotated[
    str,
    Rule(
        "the name of a Kubernetes object: lower-case letters, digits, '-' and '.', "
        "e.g. 'high-priority'",
        rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*",
        longest=253,
    ),
]
LabelKey = Annotated[
    str,
    Rule(
        "the key of a Kubernetes label, e.g. 'pool' or 'example.org/pool'",
        rf"(?:{_DNS_LABEL}(?:\.{_DNS_LABEL})*/)?{_LABEL_NAME}",
        longest=317,
    ),
]
LabelValue = Annotated[
    str,
    Rule(
        "the value of a Kubernetes label: at most 63 letters, digits, '-', '_' and '.', "
        "e.g. 'gpu-a100'",
        rf"(?:{_LABEL_NAME})?",
        longest=63,
    ),
]
ResourceName = Annotated[
    str,
    Rule(
        "the name of an extended resource, e.g. 'nvidia.com/gpu'",
        rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*/{_LABEL_NAME}",
        longest=317,
    ),
]
ImageName = Annotated[
    str,
    Rule(
        "a container image, e.g. 'example.org/team/notebook:2026-11' or with '@sha256:…'",
        r"[A-Za-z0-9](?:[A-Za-z0-9._:/-]*[A-Za-z0-9])?(?:@sha256:[0-9a-f]{64})?",
        longest=255,
    ),
]
ShellText = Annotated[str, Rule("shell text", longest=65536, allowed="\n\t")]


_MOST_BITS = 64


def _number_as_text(value: object) -> object:
    short = isinstance(value, float) or (
        isinstance(value, int) and value.bit_length() <= _MOST_BITS
    )
    return str(value) if short and not isinstance(value, bool) else value


def _integer_as_text(value: object) -> object:
    return value if isinstance(value, float) else _number_as_text(value)


EnvironmentValue = Annotated[
    str,
    Rule("a text on one line, or a whole number", longest=4096),
    BeforeValidator(_integer_as_text),
    WithJsonSchema({"type": ["string", "integer"], "maxLength": 4096}),
]

TextOrNumber = Annotated[
    str,
    Rule("a text on one line, or a number"),
    BeforeValidator(_number_as_text),
    WithJsonSchema({"type": ["string", "number"], "maxLength": 256}),
]
Names = Annotated[tuple[Name, ...], Field(max_length=1000)]


def shorthand_schema(short: dict[str, Any]) -> Any:  # noqa: ANN401 - a descriptor that only pydantic looks at
    """Make the JSON Schema hook of a model that may also be written in a short form.

    Args:
        short: The JSON Schema of the short form.
    """

    def schema(_cls: type, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        full = handler.resolve_ref_schema(handler(core))
        docs: dict[str, Any] = {key: full[key] for key in ("title", "description") if key in full}
        return {**docs, "anyOf": [short, dict(full)]}

    hook: Callable[..., dict[str, Any]] = schema
    return classmethod(hook)
