"""Code run in a kernel of a running server, over its websocket, as a notebook would."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import websocket_connect

KERNEL_SECONDS = 120


async def run_in_kernel(
    base: str, headers: Mapping[str, str], code: str, *, deadline_seconds: float = KERNEL_SECONDS
) -> str:
    """Start a kernel, run code in it, end it; return what the code printed.

    Args:
        base: The server's address, with a slash at its end.
        headers: What proves who asks: a token, or cookies and an X-XSRFToken.
        code: What to run.
        deadline_seconds: How long all of it may take.

    Raises:
        RuntimeError: The kernel reported an error, or its websocket closed.
        TimeoutError: It took longer.
    """
    client = AsyncHTTPClient()

    def request(method: str, path: str, body: str | None = None) -> HTTPRequest:
        return HTTPRequest(
            f"{base}api/kernels{path}", method=method, body=body, headers=dict(headers)
        )

    async with asyncio.timeout(deadline_seconds):
        kernel = json.loads((await client.fetch(request("POST", "", "{}"))).body)["id"]
        try:
            address = f"{base.replace('http', 'ws', 1)}api/kernels/{kernel}/channels"
            socket = await websocket_connect(HTTPRequest(address, headers=dict(headers)))
            try:
                return await _execute(socket, code)
            finally:
                socket.close()
        finally:
            await client.fetch(request("DELETE", f"/{kernel}"), raise_error=False)


async def _execute(socket: Any, code: str) -> str:
    message_id = secrets.token_hex(8)
    await socket.write_message(json.dumps(_request(message_id, code)))
    printed = ""
    while True:
        text = await socket.read_message()
        if text is None:
            message = "the kernel's websocket closed"
            raise RuntimeError(message)
        said = json.loads(text)
        if said["parent_header"].get("msg_id") != message_id:
            continue
        kind, content = said["msg_type"], said["content"]
        if kind == "stream":
            printed += content["text"]
        elif kind == "error":
            message = f"{content['ename']}: {content['evalue']}"
            raise RuntimeError(message)
        elif kind == "status" and content["execution_state"] == "idle":
            return printed


def _request(message_id: str, code: str) -> dict[str, Any]:
    """An execute_request of the Jupyter messaging protocol 5.3."""
    header = {
        "msg_id": message_id,
        "session": message_id,
        "username": "check",
        "msg_type": "execute_request",
        "version": "5.3",
        "date": "",
    }
    content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
    return {
        "header": header,
        "parent_header": {},
        "metadata": {},
        "content": content,
        "channel": "shell",
        "buffers": [],
    }
