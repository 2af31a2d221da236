"""The JSON Schema of a profiles file, for editors and for checks outside the hub.

``python -m qhub_spawner.schema`` prints it; ``profiles.schema.json`` in this package is that
output, and a test fails when they differ.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from pydantic import TypeAdapter

from qhub_spawner.catalogue import MOST_PROFILES
from qhub_spawner.profiles import Profile

__all__ = ["json_schema", "json_text"]


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a profiles file.

    A file is a list, or a mapping with the key ``profiles``. The schema holds what can be said of
    one value at a time; that slugs differ, that there is one default at most, and the like, is
    checked by :func:`qhub_spawner.catalogue.load` alone.
    """
    profiles = TypeAdapter(tuple[Profile, ...]).json_schema()
    definitions = profiles.pop("$defs")
    definitions["Profiles"] = profiles | {"minItems": 1, "maxItems": MOST_PROFILES}
    reference = {"$ref": "#/$defs/Profiles"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Profiles of qhub-spawner",
        "anyOf": [
            reference,
            {
                "type": "object",
                "properties": {"profiles": reference},
                "required": ["profiles"],
                "additionalProperties": False,
            },
        ],
        "$defs": {name: _tidy(definition) for name, definition in sorted(definitions.items())},
    }


def json_text() -> str:
    """Return the schema as the text of ``profiles.schema.json``."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _tidy(schema: Any) -> Any:  # noqa: ANN401 - JSON
    """Leave out what only repeats: titles made from names, and defaults that are whole blocks."""
    if isinstance(schema, list):
        return [_tidy(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tidy: dict[str, Any] = {}
    for key, value in schema.items():
        repeats = key == "title" or (key == "default" and isinstance(value, dict | None))
        if key == "properties":
            tidy[key] = {name: _tidy(property_) for name, property_ in value.items()}
        elif key == "description":
            tidy[key] = " ".join(value.split())
        elif not repeats:
            tidy[key] = _tidy(value)
    if "patternProperties" in tidy:
        # Pydantic leaves a key that matches no pattern free; the models refuse it.
        tidy.setdefault("additionalProperties", False)
    return tidy


if __name__ == "__main__":
    sys.stdout.write(json_text())
