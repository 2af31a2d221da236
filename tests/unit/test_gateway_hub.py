"""The door to the hub: what its answers mean, however they come."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from qhub_gateway import hub
from qhub_gateway.errors import HubUnavailableError
from qhub_gateway.hub import HubDoor, TokenModel

Answering = Callable[[asyncio.StreamWriter], Awaitable[None]]
GROUPS = [f"/department-{number}" for number in range(300)]
ALICE = json.dumps({"name": "alice", "kind": "user", "groups": GROUPS, "scopes": ["x"]}).encode()


@asynccontextmanager
async def door_to(folder: Path, answering: Answering) -> AsyncIterator[HubDoor]:
    """The door to a hub on a socket in the file system, that answers so to everything."""
    answered: list[asyncio.Task[Any] | None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answered.append(asyncio.current_task())
        await reader.readuntil(b"\r\n\r\n")
        await answering(writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    path = str(folder / "hub")
    server = await asyncio.start_unix_server(answer, path)
    door = HubDoor("http://hub.invalid/hub/api", lambda: "own")
    door._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(path))
    try:
        yield door
    finally:
        await door.close()
        server.close()
        await server.wait_closed()
        await asyncio.gather(*filter(None, answered))


def in_pieces(body: bytes, size: int, *, told: bool) -> Answering:
    """Answer in pieces, each of which is there long before the next; `told` is how long it is."""

    async def answering(writer: asyncio.StreamWriter) -> None:
        length = b"Content-Length: %d\r\n" % len(body) if told else b""
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n%s\r\n" % length)
        for start in range(0, len(body), size):
            writer.write(body[start : start + size])
            await writer.drain()
            for _ in range(50):  # who reads in this loop has read it by then
                await asyncio.sleep(0)

    return answering


@pytest.mark.parametrize("told", [True, False])
async def test_an_answer_in_pieces(tmp_path: Path, told: bool) -> None:
    """An answer counts as a whole, in however many segments it comes."""
    async with door_to(tmp_path, in_pieces(ALICE, 1400, told=told)) as door:
        model = await door.token_model("t")
    assert model == TokenModel("alice", "user", frozenset(GROUPS), frozenset({"x"}))


async def test_an_answer_that_breaks_off(tmp_path: Path) -> None:
    """Of an answer that ends too early nothing counts."""

    async def half(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(ALICE) + ALICE[:1400])
        await writer.drain()

    async with door_to(tmp_path, half) as door:
        with pytest.raises(HubUnavailableError, match="the hub does not answer"):
            await door.token_model("t")


async def test_an_answer_without_end(tmp_path: Path, monkeypatch: Any) -> None:
    """An answer that is larger than any of the hub's is none, and is not read to its end."""
    monkeypatch.setattr(hub, "_LARGEST_ANSWER_BYTES", 2**20)

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                writer.write(b" " * 2**16)
                await writer.drain()
        except ConnectionError:
            return

    async with door_to(tmp_path, endless) as door:
        with pytest.raises(HubUnavailableError, match="larger than 1 MiB"):
            await door.token_model("t")
