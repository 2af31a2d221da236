"""The API server over HTTPS with a client certificate: as little as tests need beside kubectl."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 30.0


class ApiError(RuntimeError):
    """The API server refused, or could not be asked.

    Attributes:
        status: The HTTP status; 0 when there was no answer.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """Requests as the holder of a client certificate, one connection each.

    Args:
        url: The API server's address.
        folder: Where ca.crt, NAME.crt and NAME.key are.
        name: The name of the certificate.
    """

    def __init__(self, url: str, folder: Path, name: str = "admin") -> None:
        self._address = urlsplit(url)
        self._context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        self._context.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = "application/json",
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> Any:
        """Send a request; returns the JSON of the answer, or its text when it is not JSON.

        Raises:
            ApiError: The answer's status is 400 or above, or there is none.
        """
        headers: Mapping[str, str] = {"Content-Type": content_type, "Accept": "application/json"}
        connection = http.client.HTTPSConnection(
            str(self._address.hostname),
            self._address.port,
            context=self._context,
            timeout=timeout_seconds,
        )
        data = None if body is None else json.dumps(body)
        try:
            connection.request(method, path, data, dict(headers))
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            message = f"{method} {path} at {self._address.geturl()} failed: {error!r}"
            raise ApiError(message, 0) from error
        finally:
            connection.close()
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            message = f"{method} {path} was answered with {answer.status}: {text[:500]}"
            raise ApiError(message, answer.status)
        try:
            return json.loads(text)
        except ValueError:
            return text
