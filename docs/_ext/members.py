"""`{members} MODULE.CLASS`: a class and its own public methods, as their docstrings say."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from pages import GeneratedPart

if TYPE_CHECKING:
    from sphinx.application import Sphinx

# sections of a docstring, as they are shown
HEADS = {"Args:": "Takes", "Raises:": "Raises", "Returns:": "Returns"}


def signature_of(name: str, function: Any) -> str:  # noqa: ANN401 - any callable
    """Return how it is called, without the types, which the text says."""
    found = inspect.signature(function)
    parameters = [
        each.replace(annotation=inspect.Parameter.empty)
        for each in found.parameters.values()
        if each.name != "self"
    ]
    empty = inspect.Signature.empty
    return f"{name}{found.replace(parameters=parameters, return_annotation=empty)}"


def shown(text: str) -> list[str]:
    """Return a docstring as Markdown: its sections as lists."""
    lines: list[str] = []
    section = False
    for line in inspect.cleandoc(text).splitlines():
        if line in HEADS:
            section = True
            lines += [f"**{HEADS[line]}**", ""]
        elif section and line.startswith("    ") and not line.startswith("     "):
            name, colon, rest = line.strip().partition(": ")
            lines.append(f"- `{name}`: {rest}" if colon else f"- {line.strip()}")
        elif section and line.strip():
            lines.append(f"  {line.strip()}")
        else:
            section = section and not line
            lines.append(line)
    return lines


class MembersDirective(GeneratedPart):
    """Write what a class and each of its methods does."""

    def markdown(self, argument: str) -> list[str]:
        """Return a section for the class, and in it one for each method.

        Raises:
            ValueError: Something has no docstring.
        """
        module, _, name = argument.rpartition(".")
        owner = getattr(importlib.import_module(module), name)
        lines = [f"## {name}", "", f"`{signature_of(name, owner.__init__)}`", ""]
        lines += [*shown(_text(owner, name)), ""]
        for method, function in vars(owner).items():
            if method.startswith("_") or not inspect.isfunction(function):
                continue
            text = _text(function, f"{name}.{method}")
            lines += [f"### `{signature_of(method, function)}`", "", *shown(text), ""]
        return lines


def _text(thing: Any, name: str) -> str:  # noqa: ANN401 - a class or a function
    if not thing.__doc__:
        raise ValueError(f"{name} has no docstring")
    return str(thing.__doc__)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("members", MembersDirective)
    return {"parallel_read_safe": True}
