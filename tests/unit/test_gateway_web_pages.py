"""What the page of clusters says when the gateway does not do what it is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from bs4 import BeautifulSoup
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_unix_socket

from qhub_gateway.web.base import Base
from qhub_gateway.web.gateway_door import GatewayAnswer, GatewaySilentError
from qhub_gateway.web.pages import Stop

NAME = "0123456789abcdef" * 2


class Door:
    """A gateway that answers so to a stop, and so to the list."""

    def __init__(self) -> None:
        self.stop: int | None = 204
        self.silent = False

    async def ask(self, method: str, path: str, token: str, body: object = None) -> GatewayAnswer:
        assert token == "alices"
        if self.silent or (method == "DELETE" and self.stop is None):
            raise GatewaySilentError("the gateway does not answer")
        if method == "DELETE":
            assert path == f"/api/v1/clusters/{NAME}"
            return GatewayAnswer(self.stop or 0, None)
        return GatewayAnswer(200, {"clusters": [], "may_see_all": False})


@pytest.fixture
async def press(tmp_path: Path, monkeypatch: Any) -> AsyncIterator[Any]:
    """Press Stop as alice, who has logged in; returns status, place to go to, and what is said."""
    door = Door()
    hub_auth = SimpleNamespace(hub_prefix="/hub/", get_token=lambda _: "alices")
    monkeypatch.setattr(Base, "hub_auth", hub_auth)
    monkeypatch.setattr(Base, "current_user", {"name": "alice"})
    monkeypatch.setattr(Base, "xsrf_token", b"x")
    service = SimpleNamespace(door=door, base="/services/qhub/clusters")
    app = web.Application([(r"/([0-9a-f]{32})/stop", Stop, {"service": service})])
    path = str(tmp_path / "page")
    server = HTTPServer(app)
    server.add_socket(bind_unix_socket(path))
    session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(path))

    async def pressed() -> tuple[int, str | None, str]:
        async with session.post(f"http://page/{NAME}/stop", allow_redirects=False) as answer:
            found = BeautifulSoup(await answer.text(), "html.parser").find(role="alert")
            words = found.get_text() if found is not None else ""
            return answer.status, answer.headers.get("Location"), words

    yield door, pressed
    await session.close()
    server.stop()
    await server.close_all_connections()


Press = tuple[Door, Callable[[], Awaitable[tuple[int, str | None, str]]]]


@pytest.mark.parametrize("status", [200, 204, 404])
async def test_what_is_ended(press: Press, status: int) -> None:
    """What is being ended, or is gone already, needs no word: the page shows it."""
    door, pressed = press
    door.stop = status
    assert await pressed() == (302, "/services/qhub/clusters", "")


@pytest.mark.parametrize(
    ("status", "shown", "words"),
    [
        (302, 502, "answered 302"),
        (409, 502, "answered 409"),
        (500, 502, "answered 500"),
        (503, 503, "does not answer now"),
        (None, 503, "does not answer now"),
    ],
)
async def test_what_may_not_be_ended(
    press: Press, status: int | None, shown: int, words: str
) -> None:
    """Whatever else the gateway answers is said on the page, never taken for done."""
    door, pressed = press
    door.stop = status
    found, location, said = await pressed()
    assert (found, location) == (shown, None)
    assert said.startswith(f"The cluster 01234567 may not be ended: the gateway {words}.")


async def test_while_the_gateway_is_silent(press: Press) -> None:
    """Without any answer at all the page is shown all the same, and says so."""
    door, pressed = press
    door.silent = True
    assert (await pressed())[0] == 503
    assert "may not be ended" in (await pressed())[2]


async def test_who_may_not(press: Press) -> None:
    """Who may not stop a cluster is told that, and nothing of the cluster."""
    door, pressed = press
    door.stop = 403
    assert await pressed() == (403, None, "")
