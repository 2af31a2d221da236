"""Keycloak's admin REST API, as its first administrator."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import httpx

# Keycloak's own tokens for administrators are good for 60 seconds.
TOKEN_SECONDS = 40
TIMEOUT_SECONDS = 300


class AdminError(RuntimeError):
    """Keycloak refused; has the request, the status and its words."""

    def __init__(self, request: str, answer: httpx.Response) -> None:
        super().__init__(f"{request}: {answer.status_code} {answer.text[:1000]}")
        self.status = answer.status_code


class Admin:
    """The admin API of one Keycloak.

    Args:
        url: Keycloak's address.
        user: The administrator of the realm master.
        password: That one's.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self._url = url
        self._credentials = {"username": user, "password": password}
        self._http = httpx.Client(timeout=TIMEOUT_SECONDS)
        self._token = ""
        self._fetched = float("-inf")

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def token(self) -> str:
        """A token of the administrator, good for another 20 seconds at least."""
        if time.monotonic() > self._fetched + TOKEN_SECONDS:
            answer = self._http.post(
                f"{self._url}/realms/master/protocol/openid-connect/token",
                data={"grant_type": "password", "client_id": "admin-cli", **self._credentials},
            )
            if answer.status_code != 200:
                raise AdminError("the administrator's token", answer)
            self._token, self._fetched = answer.json()["access_token"], time.monotonic()
        return self._token

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        params: Mapping[str, str | int] | None = None,
    ) -> httpx.Response:
        """Call it.

        Args:
            method: HTTP's.
            path: From ``/admin`` on.
            body: Sent as JSON.
            params: The query.

        Raises:
            AdminError: The answer is not a success.
        """
        for _ in range(2):
            answer = self._http.request(
                method,
                self._url + path,
                json=body,
                params=params,
                headers={"Authorization": f"Bearer {self.token()}"},
            )
            if answer.status_code != 401:
                break
            self._fetched = float("-inf")  # a Keycloak that was killed has forgotten its sessions
        if not answer.is_success:
            raise AdminError(f"{method} {path}", answer)
        return answer

    def get(self, path: str, **params: str | int) -> Any:
        """What is there."""
        return self.call("GET", path, params=params).json()

    def post(self, path: str, body: object = None) -> str:
        """Make something; returns the last part of its address, which is its identifier."""
        return self.call("POST", path, body).headers.get("Location", "").rpartition("/")[2]

    def put(self, path: str, body: object = None) -> None:
        """Put something there."""
        self.call("PUT", path, body)

    def delete(self, path: str, body: object = None) -> None:
        """Remove what is there."""
        self.call("DELETE", path, body)
