"""The page of clusters, what keeps it live, its button, and the pages of logs and of sharing."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlencode

from tornado import web

from qhub_gateway.page import render_logs, render_page, render_rows, render_sharing
from qhub_gateway.page.static_files import static_file
from qhub_gateway.web.base import FORBIDDEN, Base

__all__ = ["Clusters", "Json", "Logs", "Page", "Rows", "Share", "Static", "Stop"]

_OK, _NOT_DONE, _NOT_FOUND, _REFUSED, _BAD_ANSWER, _SILENT = 200, 300, 404, 422, 502, 503
_TYPES = {"page.css": "text/css", "page.js": "text/javascript"}


class Page(Base):
    """What shows the page."""

    async def show(self, problem: str | None = None) -> None:
        """Show the page, also when the gateway does not answer, with what went wrong."""
        found: dict[str, Any] = {"clusters": [], "may_see_all": False}
        try:
            found = await self.clusters()
        except web.HTTPError as error:
            if error.status_code == FORBIDDEN:
                raise
            problem = problem or "The gateway does not answer now; what runs goes on."
            self.set_status(_SILENT)
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


class Clusters(Page):
    """The page."""

    @web.authenticated
    async def get(self) -> None:
        """Show it."""
        await self.show()


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


class Stop(Page):
    """The button."""

    @web.authenticated
    async def post(self, name: str) -> None:
        """Stop a cluster; the gateway decides whether this person may."""
        try:
            status = (await self.ask("DELETE", f"/api/v1/clusters/{name}")).status
        except web.HTTPError as error:
            if error.status_code == FORBIDDEN:
                raise
            status = _SILENT
        if status >= _NOT_DONE and status != _NOT_FOUND:  # what is gone already is as it should be
            self.set_status(_SILENT if status == _SILENT else _BAD_ANSWER)
            why = "does not answer now" if status == _SILENT else f"answered {status}"
            await self.show(
                f"The cluster {name[:8]} may not be ended: the gateway {why}. Press Stop again in "
                "a moment; if it stays, tell whoever runs the hub."
            )
            return
        self.redirect(self.service.base + ("?all" if self.everyone else ""))


class Logs(Base):
    """What a cluster has written."""

    @web.authenticated
    async def get(self, name: str) -> None:
        """Show the scheduler's log, or a worker's."""
        worker = self.get_query_argument("worker", "")
        query = f"?{urlencode({'worker': worker})}" if worker else ""
        answer = await self.ask("GET", f"/api/qhub/clusters/{name}/logs{query}")
        if answer.status not in {_OK, _SILENT}:
            raise web.HTTPError(_NOT_FOUND)
        found = answer.data if answer.status == _OK and isinstance(answer.data, dict) else {}
        self.set_status(answer.status)
        self.finish(
            render_logs(
                name,
                log=found.get("log", ""),
                elsewhere=found.get("elsewhere", ""),
                worker=worker or None,
                workers=found.get("workers", []),
                user=self.current_user["name"],
                base=self.service.base,
                hub=self.hub_auth.hub_prefix,
                now=time.time(),
                problem=None if found else "The log cannot be had now; try again in a moment.",
            )
        )


class Share(Base):
    """With whom a dashboard is shared."""

    @web.authenticated
    async def get(self, name: str) -> None:
        """Show the form."""
        answer = await self.ask("GET", f"/api/qhub/clusters/{name}/sharing")
        if answer.status != _OK or not isinstance(answer.data, dict):
            raise web.HTTPError(_NOT_FOUND)
        self._show(name, answer.data)

    @web.authenticated
    async def post(self, name: str) -> None:
        """Share it; the gateway decides whether this person may."""
        wanted = {key: self._lines(key) for key in ("users", "groups")}
        answer = await self.ask("PUT", f"/api/qhub/clusters/{name}/sharing", wanted)
        if answer.status == _REFUSED and isinstance(answer.data, dict):
            self.set_status(_REFUSED)
            self._show(name, wanted, problem=str(answer.data.get("error", "")))
        elif answer.status == _OK:
            self._show(name, wanted, notice="It is shared as it stands here.")
        else:
            raise web.HTTPError(_NOT_FOUND)

    def _lines(self, key: str) -> list[str]:
        lines = (line.strip() for line in self.get_body_argument(key, "").splitlines())
        return [line for line in lines if line]

    def _show(
        self, name: str, shared: dict[str, Any], *, problem: str = "", notice: str = ""
    ) -> None:
        self.finish(
            render_sharing(
                name,
                users=shared.get("users", []),
                groups=shared.get("groups", []),
                user=self.current_user["name"],
                base=self.service.base,
                hub=self.hub_auth.hub_prefix,
                xsrf=self.xsrf_token.decode(),
                problem=problem,
                notice=notice,
            )
        )


class Static(web.RequestHandler):
    """Style and script of the page."""

    def get(self, name: str) -> None:
        """Answer one of the two."""
        self.set_header("Content-Type", f"{_TYPES[name]}; charset=utf-8")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.finish(static_file(name))
