"""The options page and its JSON twin: one model, given out as JSON and rendered as HTML."""

from __future__ import annotations

from qhub_spawner.page.forms import parse_form, parse_query, read_form
from qhub_spawner.page.model import profiles_model
from qhub_spawner.page.render import render_form

__all__ = ["parse_form", "parse_query", "profiles_model", "read_form", "render_form"]
