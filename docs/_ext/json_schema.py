"""`{json-schema} PACKAGE/FILE`: the fields that a JSON Schema in package data describes."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from pages import GeneratedPart, in_cell

if TYPE_CHECKING:
    from sphinx.application import Sphinx

Schema = dict[str, Any]
LONG_PATTERN = 50  # a longer one explains nothing: the description does


def mapped(schema: Schema) -> list[Schema]:
    """Return what the values of a mapping with free keys may be; empty for anything else."""
    values = [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")]
    return [value for value in values if isinstance(value, dict)]


def kind(schema: Schema) -> str:
    """Return in Markdown what a value may be."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(kind(one) for one in schema[several]))
    if schema.get("type") == "array":
        return f"list of {kind(schema.get('items', {}))}"
    for value in mapped(schema):
        return f"mapping to {kind(value)}"
    types, pattern = schema.get("type", "anything"), schema.get("pattern", "")
    words = types if isinstance(types, str) else " or ".join(types)
    return f"{words}, `{pattern}`" if 0 < len(pattern) < LONG_PATTERN else words


def meaning(name: str, schema: Schema, owner: Schema) -> str:
    """Return a field's description with its default, or that it is required."""
    text = [schema.get("description", "")]
    if name in owner.get("required", ()):
        text.append("Required.")
    elif schema.get("default") is not None:
        text.append(f"Default: `{json.dumps(schema['default'])}`.")
    return " ".join(part for part in text if part)


def table(schema: Schema) -> list[str]:
    """Return a table of an object's fields."""
    lines = ["| field | value | meaning |", "|---|---|---|"]
    for name, field in schema["properties"].items():
        cells = (f"`{name}`", in_cell(kind(field)), in_cell(meaning(name, field, schema)))
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def section(title: str, schema: Schema) -> list[str]:
    """Return one definition: the kinds of value it may be, and the fields of those with fields."""
    several = [*schema.get("anyOf", ()), *schema.get("oneOf", ())] or [schema]
    lines = [f"## {title}", "", *schema.get("description", "").splitlines(), ""]
    if not schema.get("properties"):
        lines += [f"Takes: {kind(schema)}.", ""]
    for one in several:
        lines += table(one) if one.get("properties") else []
    return lines


class JsonSchemaDirective(GeneratedPart):
    """Write a section for the schema itself and for each of its definitions."""

    def markdown(self, argument: str) -> list[str]:
        """Return all sections, the definitions in the order of their names."""
        package, _, name = argument.partition("/")
        schema = json.loads(files(package).joinpath(name).read_text("utf-8"))
        lines = section(schema.get("title", "The file"), schema)
        for title, definition in sorted(schema.get("$defs", {}).items()):
            lines += section(title, definition)
        return lines


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("json-schema", JsonSchemaDirective)
    return {"parallel_read_safe": True}
