"""The only door to Kubernetes: requests in JSON, answers in JSON, errors of our own.

The client library `kubernetes_asyncio` finds the API server, keeps the credentials fresh and owns
the connections; its classes for every kind of object are not used, because making them costs more
time than everything else a hub does with a pod.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

import aiohttp
from kubernetes_asyncio.client import ApiClient
from kubernetes_asyncio.client.exceptions import ApiException, OpenApiException

from qhub_spawner.errors import KubernetesRefusedError, KubernetesUnavailableError

Json = dict[str, Any]

_RETRIABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_ANSWER = 512 * 2**20
_GROUPS = {"networkpolicies": "/apis/networking.k8s.io/v1"}  # all others are core's


class KubernetesApi:
    """Requests to one API server.

    Every request may be cancelled; whether one that changes something was carried out is then not
    known.
    """

    def __init__(self, client: ApiClient, *, timeout_seconds: float = 30.0) -> None:
        """Use `client`, which somebody else closes.

        Args:
            client: Configured and connected.
            timeout_seconds: How long an answer may take before it counts as none.
        """
        self._client = client
        self.timeout_seconds = timeout_seconds
        self.requests = 0
        self.bytes_read = 0

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Json:
        """Ask once; retries are the caller's.

        Raises:
            KubernetesUnavailableError: No usable answer.
            KubernetesRefusedError: An answer that says no.
        """
        status, data = await self._answer(method, path, query, body)
        document = _document(method, path, data)
        if status >= 300:  # noqa: PLR2004 - HTTP
            raise _refusal(status, document)
        return document

    async def text(self, path: str, query: Mapping[str, str]) -> str:
        """Ask once for what is no JSON, such as a container's log; raises as `request`."""
        status, data = await self._answer("GET", path, query, None)
        if status >= 300:  # noqa: PLR2004 - HTTP
            raise _refusal(status, _document("GET", path, data))
        return data.decode(errors="replace")

    async def _answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
    ) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(self.timeout_seconds):
                response = await self._send(method, path, query, body, self.timeout_seconds)
                try:
                    data = await response.read()
                finally:
                    response.release()
        except _FAILURES as error:
            raise _unavailable(method, path, error) from error
        self.bytes_read += len(data)
        return response.status, data

    async def watch(
        self, path: str, query: Mapping[str, str], *, silence_seconds: float
    ) -> AsyncIterator[tuple[str, Json]]:
        """Yield each change as it comes, as type and object (watch, API concepts 1.34).

        Ends when the server ends it.

        Args:
            path: Of a list.
            query: ``watch=true`` is added.
            silence_seconds: After so long without a word the connection counts as dead.

        Raises:
            KubernetesUnavailableError: The connection failed, or fell silent.
            KubernetesRefusedError: An answer that says no; 410 where the version is too old.
        """
        timeout = aiohttp.ClientTimeout(sock_connect=10, sock_read=silence_seconds)
        try:
            response = await self._send("GET", path, {**query, "watch": "true"}, None, timeout)
            try:
                if response.status >= 300:  # noqa: PLR2004 - HTTP
                    raise _refusal(response.status, _document("GET", path, await response.read()))
                yield "CONNECTED", {}
                async for line in response.content:
                    self.bytes_read += len(line)
                    change = json.loads(line)
                    kind, found = change["type"], change["object"]
                    if kind == "ERROR":
                        raise _refusal(int(found.get("code") or 500), found)
                    yield kind, found
            finally:
                response.close()
        except (*_FAILURES, ValueError, KeyError, TypeError) as error:
            raise _unavailable("WATCH", path, error) from error

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        patience: float | aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        self.requests += 1
        response: aiohttp.ClientResponse = await self._client.call_api(
            path,
            method,
            query_params=list((query or {}).items()),
            header_params={"Accept": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=patience,
        )
        return response

    # ---- the objects qhub knows

    async def create(self, kind: str, namespace: str, manifest: Mapping[str, Any]) -> Json:
        """Create an object, e.g. of `kind` ``pods``; returns it as it was stored."""
        return await self.request("POST", collection(kind, namespace), body=manifest)

    async def get(self, kind: str, namespace: str, name: str) -> Json | None:
        """Return an object; ``None`` only where Kubernetes says that there is none."""
        try:
            return await self.request("GET", f"{collection(kind, namespace)}/{_quoted(name)}")
        except KubernetesRefusedError as error:
            if error.status == 404 and error.reason == "NotFound":  # noqa: PLR2004 - HTTP
                return None
            raise

    async def delete(
        self, kind: str, namespace: str, name: str, *, uid: str | None = None, grace: int | None
    ) -> bool:
        """Ask for an object's deletion; ``False`` if there is none, or another of that name.

        Args:
            kind: E.g. ``pods``.
            namespace: Where it is.
            name: Its name.
            uid: Delete only the object with this uid.
            grace: Seconds that a pod's processes get after SIGTERM; the pod's own when ``None``.
        """
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        path = f"{collection(kind, namespace)}/{_quoted(name)}"
        try:
            await self.request("DELETE", path, body=options)
        except KubernetesRefusedError as error:
            if error.status == 404 or (error.status == 409 and uid is not None):  # noqa: PLR2004
                return False
            raise
        return True

    async def delete_all(
        self, kind: str, namespace: str, labels: str, *, grace: int | None = None
    ) -> None:
        """Ask in one request for the deletion of all objects that a label selector names."""
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        query = {"labelSelector": labels}
        await self.request("DELETE", collection(kind, namespace), query=query, body=options)


def collection(kind: str, namespace: str | None) -> str:
    """Return the path of a list of objects, of one namespace or of all."""
    group = _GROUPS.get(kind, "/api/v1")
    return f"{group}/namespaces/{_quoted(namespace)}/{kind}" if namespace else f"{group}/{kind}"


def _quoted(name: str) -> str:
    return quote(name, safe="")


_FAILURES = (
    aiohttp.ClientError,
    OSError,
    TimeoutError,
    ssl.SSLError,
    OpenApiException,
)


def _document(method: str, path: str, data: bytes) -> Json:
    try:
        document = json.loads(data)
    except ValueError as error:
        raise _unavailable(method, path, error) from error
    if not isinstance(document, dict):
        raise KubernetesUnavailableError(f"{method} {path}: the answer is no JSON object")
    return document


def _refusal(
    status: int, document: Mapping[str, Any]
) -> KubernetesRefusedError | KubernetesUnavailableError:
    reason, message = str(document.get("reason") or ""), str(document.get("message") or "")
    if status in _RETRIABLE and reason not in {"AlreadyExists", "Expired"}:
        return KubernetesUnavailableError(f"Kubernetes answered {status} {reason}: {message[:256]}")
    return KubernetesRefusedError(status, document)


def _unavailable(method: str, path: str, error: Exception) -> KubernetesUnavailableError:
    if isinstance(error, ApiException):
        said = f"{error.status} {error.reason}"
    else:
        said = f"{type(error).__name__}: {error}".rstrip(": ")
    return KubernetesUnavailableError(f"{method} {path}: {said[:256]}")
