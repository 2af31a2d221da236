"""What people read when log-in or log-out did not go as it should, in the hub's own look."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import jinja2

__all__ = ["TITLES", "show"]

TITLES: Mapping[str, str] = {
    "unavailable": "Log-in is not possible right now",
    "refused": "You cannot use this hub",
    "cancelled": "You did not log in",
    "again": "Please log in again",
    "untrusted": "The log-in failed",
    "misconfigured": "Log-in is not set up correctly",
    "logged-out-here": "You are logged out here",
}


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("qhub_auth"), autoescape=True, undefined=jinja2.StrictUndefined
    )


async def show(
    handler: Any,
    status: int,
    page: str,
    *,
    headers: Mapping[str, str] | None = None,
    **values: object,
) -> None:
    """Answer a request with one of our pages, within the hub's template ``error.html``.

    Args:
        handler: Of the request.
        status: The HTTP status.
        page: A key of :data:`TITLES`, and the name of a template of this package.
        headers: More headers.
        values: For the template; they are escaped.
    """
    words = _templates().get_template(f"{page}.html").render(**values)
    html = await handler.render_template(
        "error.html",
        status_code=status,
        status_message=TITLES[page],
        message="",
        message_html=words,
        extra_error_html="",
    )
    handler.set_status(status)
    handler.set_header("Cache-Control", "no-store")
    for name, value in (headers or {}).items():
        handler.set_header(name, value)
    handler.finish(html)
