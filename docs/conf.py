"""How the documentation is built: `./run docs`."""

from __future__ import annotations

import logging
import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

logging.getLogger("alembic").setLevel(logging.WARNING)  # it greets when JupyterHub is imported

project = "qhub"
author = "qhub contributors"
copyright = "2026, qhub contributors"  # noqa: A001 - Sphinx asks for this name
release = version = version_of("qhub-spawner")

extensions = ["myst_parser", "traits", "json_schema", "routes", "members"]
exclude_patterns = ["adr/template.md"]
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"qhub {release}"
