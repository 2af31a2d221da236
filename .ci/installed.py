"""Import every module and load every entry point of the named packages, as installed."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from importlib.metadata import distribution


def main(packages: list[str]) -> None:
    """Fail with the first import or entry point that does not work."""
    for package in packages:
        top = importlib.import_module(package)
        if f"{sys.prefix}/" not in str(top.__file__):
            sys.exit(f"{package} came from {top.__file__}, not from the clean environment")
        found = pkgutil.walk_packages(top.__path__, f"{package}.")
        # a __main__ is a program: importing it would run it
        modules = [each.name for each in found if not each.name.endswith(".__main__")]
        for name in modules:
            importlib.import_module(name)
        entries = distribution(package).entry_points
        for entry in entries:
            entry.load()
        print(f"{package}: {len(modules)} modules imported, {len(entries)} entry points loaded")


if __name__ == "__main__":
    main(sys.argv[1:])
