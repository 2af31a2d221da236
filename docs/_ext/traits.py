"""`{traits} PATH`: the settings of a configurable class, or of all those of a package.

PATH is dotted: `qhub_spawner.spawner.QHubSpawner`, or `qhub_spawner` for every class that its
modules define. A setting without help fails the build.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import TYPE_CHECKING, Any

from pages import GeneratedPart
from traitlets import HasTraits, TraitType, Undefined

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx


def classes_of(path: str) -> Iterator[type[HasTraits]]:
    """Yield the class at `path`, or each class with settings that the package `path` defines.

    Raises:
        ImportError: There is no such module.
        AttributeError: The module has no such class.
    """
    module_name, _, name = path.rpartition(".")
    if name[:1].isupper():
        yield getattr(importlib.import_module(module_name), name)
        return
    package = importlib.import_module(path)
    for module in pkgutil.walk_packages(package.__path__, f"{path}."):
        if module.name.endswith(".__main__"):  # to import it is to run it
            continue
        for _, found in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if found.__module__ == module.name and issubclass(found, HasTraits):
                yield found


def default_of(owner: type[HasTraits], trait: TraitType[Any, Any]) -> list[str]:
    """Return what a setting is when nobody sets it, as Python or in words."""
    if trait.name in owner.__dict__.get("_trait_default_generators", {}):
        return ["Default: found at start"]
    value = trait.default()
    if value is Undefined:
        return ["Default: none"]
    if isinstance(value, str) and "\n" in value:
        return ["Default:", "", "````text", *value.splitlines(), "````"]
    return [f"Default: `{value!r}`"]


def described(owner: type[HasTraits], trait: TraitType[Any, Any]) -> list[str]:
    """Return one setting: its name as it is configured, type, default, and help.

    Raises:
        ValueError: It has no help.
    """
    name = f"c.{owner.__name__}.{trait.name}"
    text = inspect.cleandoc(str(trait.help or ""))
    if not text:
        raise ValueError(f"{name} has no help")
    # Help is plain text; `Example::` is the one thing in it that Markdown does not know.
    meaning = [
        line.removesuffix(":") if line.endswith("::") else line for line in text.splitlines()
    ]
    head = [f"### {name}", "", f"Takes {trait.info()}."]
    return [*head, *default_of(owner, trait), "", *meaning, ""]


class TraitsDirective(GeneratedPart):
    """Write the settings of each class, in the order of their names."""

    def markdown(self, argument: str) -> list[str]:
        """Return a section for each class that has settings of its own."""
        lines: list[str] = []
        for owner in classes_of(argument):
            own = sorted(owner.class_own_traits(config=True).items())
            if own:
                summary = inspect.cleandoc(owner.__doc__ or "").partition("\n\n")[0]
                lines += [f"## {owner.__name__}", "", *summary.splitlines(), ""]
            for _, trait in own:
                lines += described(owner, trait)
        if not lines:
            raise ValueError("no class with settings is there")
        return lines


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("traits", TraitsDirective)
    return {"parallel_read_safe": True}
