"""The web service as such: its addresses, where it listens, and how long."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import socket
from typing import Any
from urllib.parse import urlsplit

from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets, bind_unix_socket

from qhub_auth.errors import ConfigurationError, shown
from qhub_auth.forward_auth import sign_in_pages
from qhub_auth.forward_auth.base import Base, log_request
from qhub_auth.forward_auth.deciding import Deciding
from qhub_auth.forward_auth.pages import Answer
from qhub_auth.forward_auth.verifying import Verify

__all__ = ["application", "serve", "sockets"]

# In bytes: all headers of a request, and what a form or a log-out token may be.
_LARGEST_HEAD, _LARGEST_BODY = 64 * 1024, 256 * 1024
_IDLE_SECONDS = 300.0


class Health(Base):
    """Whether the service runs."""

    def get(self) -> None:
        """Say so; nothing else is asked for it."""
        self.finish({"status": "ok"})


class Unknown(Base):
    """Everything else."""

    def prepare(self) -> None:
        """Say that it is not there."""
        self.answer(Answer(404, "There is no such page"))


def application(deciding: Deciding) -> web.Application:
    """Return the service.

    `/verify` and `/health` stand at the root, which no proxy hands on; the pages stand under the
    prefix that it does.
    """
    prefix = re.escape(deciding.settings.prefix)
    own = {"deciding": deciding}
    pages = {
        "sign-in": sign_in_pages.SignIn,
        "callback": sign_in_pages.Callback,
        "sign-out": sign_in_pages.SignOut,
        "signed-out": sign_in_pages.SignedOut,
        "back-channel": sign_in_pages.BackChannel,
    }
    return web.Application(
        [
            (r"/verify", Verify, own),
            (r"/health", Health, own),
            *((f"{prefix}{name}", page, own) for name, page in pages.items()),
        ],
        default_handler_class=Unknown,
        default_handler_args=own,
        log_function=log_request,
    )


def sockets(bind: str) -> list[socket.socket]:
    """Open what ``c.ForwardAuth.bind`` says.

    Raises:
        ConfigurationError: It is no address, or is taken.
    """
    where = f"c.ForwardAuth.bind: {shown(bind, 200)}"
    try:
        if bind.startswith("unix:"):
            return [bind_unix_socket(bind.removeprefix("unix:"), mode=0o660)]
        parts = urlsplit(bind)
        if parts.scheme == "http" and parts.hostname and parts.port:
            return bind_sockets(parts.port, parts.hostname)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{where}: {error}") from error
    raise ConfigurationError(
        f"{where} is no address; write http://127.0.0.1:9180 or unix:/path/to/socket"
    )


async def serve(
    deciding: Deciding, bind: str, log: logging.Logger | logging.LoggerAdapter[Any]
) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: See :func:`sockets`.
    """
    server = HTTPServer(
        application(deciding),
        max_header_size=_LARGEST_HEAD,
        max_body_size=_LARGEST_BODY,
        idle_connection_timeout=_IDLE_SECONDS,
    )
    server.add_sockets(sockets(bind))
    log.info("qhub-forward-auth listens at %s", bind)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    try:
        await ended.wait()
    finally:
        server.stop()
        await server.close_all_connections()
        await deciding.signing_in.settings.aclose()
        deciding.sessions.close()
