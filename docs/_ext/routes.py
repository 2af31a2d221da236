"""`{routes} MODULE.NAME`: the HTTP interface, from a list of tornado routes with docstrings."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import TYPE_CHECKING

from pages import GeneratedPart

if TYPE_CHECKING:
    from collections.abc import Callable

    from sphinx.application import Sphinx

METHODS = ("get", "head", "post", "put", "patch", "delete")
GROUP = re.compile(r"\([^()]*\)")  # /api/users/([^/]+)/qhub/profiles


def path_of(pattern: str, function: Callable[..., object]) -> str:
    """Return a route with the names of the method's parameters for its groups."""
    _, *names = inspect.signature(function).parameters
    for name in names:
        pattern = GROUP.sub(f":{name}", pattern, count=1)
    return f"/hub{pattern}"


class RoutesDirective(GeneratedPart):
    """Write what each method of each route does, as its docstring says."""

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
                head = f"## {method.upper()} `{path_of(pattern, function)}`"
                lines += [head, "", *text.splitlines(), ""]
        return lines


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("routes", RoutesDirective)
    return {"parallel_read_safe": True}
