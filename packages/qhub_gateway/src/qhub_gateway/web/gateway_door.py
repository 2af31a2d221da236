"""The one door to the gateway: it is asked with the token of whoever looks, never our own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest

from qhub_gateway.errors import QHubGatewayError

__all__ = ["GatewayAnswer", "GatewayDoor", "GatewaySilentError"]

_TIMEOUT_SECONDS = 20.0
_NO_ANSWER = 599


class GatewaySilentError(QHubGatewayError):
    """The gateway gave no usable answer."""


@dataclass(frozen=True, slots=True)
class GatewayAnswer:
    """What it answered: a status, and JSON if it was any."""

    status: int
    data: Any


class GatewayDoor:
    """Asks the gateway's API; 20 s for each answer, nothing is tried again.

    Args:
        address: Of the gateway, e.g. ``http://127.0.0.1:8000``.
    """

    def __init__(self, address: str) -> None:
        """See the class."""
        self._address = address.rstrip("/")

    async def ask(self, method: str, path: str, token: str, body: object = None) -> GatewayAnswer:
        """Ask as the person whose token it is.

        Args:
            method: Of HTTP.
            path: With a query, if there is one.
            token: Of the person.
            body: What to send as JSON; nothing if ``None``.

        Raises:
            GatewaySilentError: There is no answer.
        """
        request = HTTPRequest(
            self._address + path,
            method=method,
            headers={"Authorization": f"jupyterhub {token}", "Accept": "application/json"},
            request_timeout=_TIMEOUT_SECONDS,
            connect_timeout=_TIMEOUT_SECONDS,
            follow_redirects=False,
            body=None if body is None else json.dumps(body),
            allow_nonstandard_methods=True,
        )
        try:
            answer = await AsyncHTTPClient().fetch(request, raise_error=False)
        except (HTTPClientError, OSError) as error:
            raise GatewaySilentError(
                f"the gateway does not answer ({type(error).__name__})"
            ) from error
        if answer.code == _NO_ANSWER:
            raise GatewaySilentError("the gateway does not answer")
        try:
            return GatewayAnswer(answer.code, json.loads(answer.body or b"null"))
        except ValueError:
            return GatewayAnswer(answer.code, None)
