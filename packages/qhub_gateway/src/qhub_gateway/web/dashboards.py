"""Dashboards of schedulers, for whom the gateway tells where they are; websockets included."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from tornado import web
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.httputil import HTTPHeaders
from tornado.websocket import WebSocketClientConnection, WebSocketHandler, websocket_connect

from qhub_gateway.web.addresses import (
    DashboardRefusedError,
    checked_address,
    checked_path,
    to_browser,
    to_dashboard,
)
from qhub_gateway.web.base import Base

__all__ = ["LARGEST_MESSAGE_BYTES", "Dashboard"]

LARGEST_MESSAGE_BYTES = 64 * 2**20
_DASHBOARD_SECONDS = 60.0
_RECHECK_SECONDS = 30.0
_NOT_ALLOWED = {403, 404}
_SILENT = 503
_NO_ANSWER = 599  # tornado's own


class Dashboard(Base, WebSocketHandler):
    """A scheduler's own pages, for its owner and whom they share it with."""

    _upstream: WebSocketClientConnection | None = None

    async def address(self, name: str) -> str:
        """Return where a dashboard is.

        Raises:
            web.HTTPError: There is none, it is somebody else's, or it is nowhere to go to.
        """
        answer = await self.ask("GET", f"/api/qhub/clusters/{name}/dashboard")
        if answer.status == _SILENT:
            raise web.HTTPError(_SILENT)
        address = answer.data.get("address") if isinstance(answer.data, dict) else None
        if not isinstance(address, str):
            raise web.HTTPError(404)
        try:
            return checked_address(address, self.service.networks)
        except DashboardRefusedError as error:
            self.service.log.warning("the dashboard of cluster %s: %s", name, error)
            raise web.HTTPError(502) from error

    @web.authenticated
    async def get(self, name: str, path: str) -> None:  # type: ignore[override]  # by the decorator
        """Hand on a page, or open a websocket."""
        if self.request.headers.get("Upgrade", "").lower() == "websocket":
            await self._websocket(name, path)
            return
        url = await self._url("http", name, path)
        headers = HTTPHeaders()
        for key, value in self.request.headers.get_all():
            if to_dashboard(key):
                headers.add(key, value)
        request = HTTPRequest(
            url, headers=headers, follow_redirects=False, request_timeout=_DASHBOARD_SECONDS
        )
        try:
            answer = await AsyncHTTPClient().fetch(request, raise_error=False)
        except OSError as error:
            raise web.HTTPError(502, "the dashboard does not answer") from error
        # of these the dashboard has its own; tornado would send a second one beside it
        for key in ("Content-Security-Policy", "Content-Type"):
            self.clear_header(key)
        self.set_status(answer.code if answer.code < _NO_ANSWER else 502)
        for key, value in answer.headers.get_all():
            if key.lower() == "location":
                self.set_header(key, self._elsewhere(name, value))
            elif to_browser(key):
                self.add_header(key, value)
        self.finish(answer.body or b"")

    async def _url(self, scheme: str, name: str, path: str) -> str:
        try:
            path = checked_path(path)
        except DashboardRefusedError as error:
            raise web.HTTPError(404) from error
        address = (await self.address(name)).partition("://")[2]
        query = f"?{self.request.query}" if self.request.query else ""
        return f"{scheme}://{address}/{path}{query}"

    def _elsewhere(self, name: str, location: str) -> str:
        """Return where a dashboard sends a browser: to another page of itself, and nowhere else."""
        own = f"{self.service.base}/{name}/dashboard/"
        path = urlsplit(location).path
        relative = not path.startswith("/")
        try:
            return checked_path(path) if relative else own + checked_path(path.lstrip("/"))
        except DashboardRefusedError:
            return own

    # ---- websockets ----

    async def _websocket(self, name: str, path: str) -> None:
        url = await self._url("ws", name, path)
        protocols = self.request.headers.get("Sec-WebSocket-Protocol", "")
        wanted = [each.strip() for each in protocols.split(",") if each.strip()]
        try:
            self._upstream = await websocket_connect(
                HTTPRequest(url, connect_timeout=_DASHBOARD_SECONDS),
                subprotocols=wanted or None,
                max_message_size=LARGEST_MESSAGE_BYTES,
            )
        except OSError as error:
            raise web.HTTPError(502, "the dashboard does not answer") from error
        await WebSocketHandler.get(self)

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        """Speak what the dashboard speaks."""
        del subprotocols  # the dashboard has chosen of them
        return self._upstream.selected_subprotocol if self._upstream is not None else None

    def check_origin(self, origin: str) -> bool:
        """Let in only pages of this hub: a browser sends its cookies with any."""
        return urlsplit(origin).netloc.lower() == self.request.host.lower()

    async def open(self, *_: str, **__: str) -> None:
        """Hand on what the dashboard says, from now on."""
        self._reading = asyncio.ensure_future(self._read())
        self._rechecking = asyncio.ensure_future(self._recheck())

    async def _recheck(self) -> None:
        """Close it for who may look no longer: it was one question when it was opened."""
        name = self.path_args[0]
        while self._upstream is not None:
            await asyncio.sleep(_RECHECK_SECONDS)
            try:
                await self.address(name)
            except web.HTTPError as error:
                if error.status_code in _NOT_ALLOWED:
                    self.close()
                    return

    async def _read(self) -> None:
        while self._upstream is not None:
            message = await self._upstream.read_message()
            if message is None:
                self.close()
                return
            await self.write_message(message, binary=isinstance(message, bytes))

    async def on_message(self, message: str | bytes) -> None:
        """Hand on what the browser says."""
        if self._upstream is not None:
            await self._upstream.write_message(message, binary=isinstance(message, bytes))

    def on_close(self) -> None:
        """Close the other side as well."""
        self._rechecking.cancel()
        if self._upstream is not None:
            self._upstream.close()
            self._upstream = None
