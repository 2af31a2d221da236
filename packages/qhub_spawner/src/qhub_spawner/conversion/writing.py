"""Converted profiles as the text of a profiles file, with the notes as comments. Pure."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from ruamel.yaml import YAML

from qhub_spawner.conversion.lists import Conversion

__all__ = ["profiles_file"]

_COLUMNS = 100


def profiles_file(conversion: Conversion, notes: Sequence[str] = ()) -> str:
    """Return YAML that ``c.QHubSpawner.profiles`` takes.

    Args:
        conversion: What to write; each note stands above its profile.
        notes: Further ones, for the top.
    """
    slugs = {profile["slug"] for profile in conversion.profiles}
    top = [*notes, *(str(note) for note in conversion.remarks if note.profile not in slugs)]
    parts = [_comment(top)] if top else []
    for profile in conversion.profiles:
        mine = [str(note) for note in conversion.remarks if note.profile == profile["slug"]]
        parts.append(_comment(mine) + _yaml([profile]))
    return "\n".join(parts)


def _comment(notes: Iterable[str]) -> str:
    return "".join(
        f"{line}\n"
        for note in notes
        for line in textwrap.wrap(
            note,
            _COLUMNS,
            initial_indent="# - ",
            subsequent_indent="#   ",
            break_on_hyphens=False,
            break_long_words=False,
        )
    )


def _yaml(data: Any) -> str:  # noqa: ANN401 - plain data
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = _COLUMNS
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.ignore_aliases = lambda _data: True
    stream = io.StringIO()
    yaml.dump(data, stream)
    # a list within a mapping is indented by two, and so is the list at the top
    return "".join(line.removeprefix("  ") for line in stream.getvalue().splitlines(keepends=True))
