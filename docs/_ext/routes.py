"""`{routes} MODULE.NAME`: the HTTP interface, from a list of tornado routes with docstrings."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING

from pages import GeneratedPart

if TYPE_CHECKING:
    from sphinx.application import Sphinx

METHODS = ("get", "head", "post", "put", "patch", "delete")


class RoutesDirective(GeneratedPart):
    """Write what each method of each route does, as its handler's docstring says."""

    def markdown(self, argument: str) -> list[str]:
        """Return a section for each method.

        Raises:
            ValueError: A method has no docstring.
        """
        module, _, name = argument.rpartition(".")
        lines: list[str] = []
        for pattern, handler, *_ in getattr(importlib.import_module(module), name):
            for method in METHODS:
                function = handler.__dict__.get(method)
                if function is None:
                    continue
                if not function.__doc__:
                    raise ValueError(f"{handler.__name__}.{method} has no docstring")
                text = inspect.cleandoc(function.__doc__)
                lines += [f"## {method.upper()} `{pattern}`", "", *text.splitlines(), ""]
        return lines


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("routes", RoutesDirective)
    return {"parallel_read_safe": True}
