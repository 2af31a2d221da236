"""The page of clusters: rendered from plain data, whole without scripts, live with them."""

from __future__ import annotations

from qhub_gateway.page.plots import individual_plots
from qhub_gateway.page.render import render_logs, render_page, render_rows, render_sharing

__all__ = ["individual_plots", "render_logs", "render_page", "render_rows", "render_sharing"]
