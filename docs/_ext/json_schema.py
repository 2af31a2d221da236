"""`{json-schema} PACKAGE/FILE`: the fields that a JSON Schema in package data describes."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from pages import GeneratedPart, in_cell

if TYPE_CHECKING:
    from sphinx.application import Sphinx

Schema = dict[str, Any]


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
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"mapping to {kind(schema['additionalProperties'])}"
    words = str(schema.get("type", "anything"))
    return f"{words}, `{schema['pattern']}`" if "pattern" in schema else words


def meaning(name: str, schema: Schema, owner: Schema) -> str:
    """Return a field's description with its default, or that it is required."""
    text = [schema.get("description", "")]
    if name in owner.get("required", ()):
        text.append("Required.")
    elif schema.get("default") is not None:
        text.append(f"Default: `{json.dumps(schema['default'])}`.")
    return " ".join(part for part in text if part)


def section(title: str, schema: Schema) -> list[str]:
    """Return one definition: a table of its fields, or the kind of value that it is."""
    lines = [f"## {title}", "", *schema.get("description", "").splitlines(), ""]
    if not schema.get("properties"):
        return [*lines, kind(schema), ""]
    lines += ["| field | value | meaning |", "|---|---|---|"]
    for name, field in schema["properties"].items():
        cells = (f"`{name}`", in_cell(kind(field)), in_cell(meaning(name, field, schema)))
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


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
