"""The page of clusters, what keeps it live, and its button."""

from __future__ import annotations

import time
from typing import Any

from tornado import web

from qhub_gateway.page import render_page, render_rows
from qhub_gateway.page.static_files import static_file
from qhub_gateway.web.base import FORBIDDEN, Base

__all__ = ["Clusters", "Json", "Rows", "Static", "Stop"]

_TYPES = {"page.css": "text/css", "page.js": "text/javascript"}


class Clusters(Base):
    """The page."""

    @web.authenticated
    async def get(self) -> None:
        """Show it; also when the gateway does not answer."""
        problem: str | None = None
        found: dict[str, Any] = {"clusters": [], "may_see_all": False}
        try:
            found = await self.clusters()
        except web.HTTPError as error:
            if error.status_code == FORBIDDEN:
                raise
            problem = "The gateway does not answer now; what runs goes on."
            self.set_status(503)
        self.finish(
            render_page(
                found["clusters"],
                user=self.current_user["name"],
                base=self.service.base,
                hub=self.hub_auth.hub_prefix,
                now=time.time(),
                xsrf=self.xsrf_token.decode(),
                everyone=self.everyone,
                may_see_all=found["may_see_all"],
                problem=problem,
            )
        )


class Rows(Base):
    """What a live page fetches."""

    @web.authenticated
    async def get(self) -> None:
        """Answer the sections alone."""
        found = await self.clusters()
        rows = render_rows(
            found["clusters"],
            base=self.service.base,
            now=time.time(),
            xsrf=self.xsrf_token.decode(),
            everyone=self.everyone,
        )
        self.finish(rows)


class Json(Base):
    """The same for scripts."""

    @web.authenticated
    async def get(self) -> None:
        """Answer the list of clusters."""
        self.finish(await self.clusters())


class Stop(Base):
    """The button."""

    @web.authenticated
    async def post(self, name: str) -> None:
        """Stop a cluster; the gateway decides whether this person may."""
        await self.ask("DELETE", f"/api/v1/clusters/{name}")
        self.redirect(self.service.base + ("?all" if self.everyone else ""))


class Static(web.RequestHandler):
    """Style and script of the page."""

    def get(self, name: str) -> None:
        """Answer one of the two."""
        self.set_header("Content-Type", f"{_TYPES[name]}; charset=utf-8")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.finish(static_file(name))
