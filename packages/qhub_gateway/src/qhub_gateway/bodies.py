"""What bodies may be: of requests, as dask-gateway's routes trust theirs, and of answers. Pure."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import AsyncIterable, Mapping
from contextlib import suppress
from typing import Any

from qhub_gateway.errors import QHubGatewayError
from qhub_spawner.errors import shown

__all__ = ["LOOKED_AT", "MOST_WORKERS", "BodyTooLargeError", "place_of", "problem_with", "whole"]

LOOKED_AT = frozenset(
    {
        "clusters",
        "clusters/:name/adapt",
        "clusters/:name/heartbeat",
        "clusters/:name/scale",
    }
)
"""The routes whose bodies are looked at, as `qhub_gateway.metrics.route_of` names them."""

_DIGITS = 5  # of a port

MOST_WORKERS = 100_000
"""More than this no cluster can be asked to have, whatever the limits."""


class BodyTooLargeError(QHubGatewayError):
    """A body is larger than it may be; nothing of it was looked at."""


async def whole(chunks: AsyncIterable[bytes], most_bytes: int) -> bytes:
    """Return a body, in however many pieces it comes.

    Args:
        chunks: aiohttp's ``content.iter_any()``; its ``content.read(n)`` returns the first piece.
        most_bytes: How large it may be.

    Raises:
        BodyTooLargeError: It is larger.
    """
    found = bytearray()
    async for chunk in chunks:
        found += chunk
        if len(found) > most_bytes:
            raise BodyTooLargeError(f"The body is larger than {most_bytes // 1024} KiB.")
    return bytes(found)


def place_of(address: str) -> tuple[str, int]:
    """Return host and port of a scheduler's address, such as ``http://10.1.2.3:8787``.

    Schedulers write those of IPv6 with and without brackets: ``http://fd00::7:8787``. The port is 0
    where there is none.
    """
    host, _, port = address.partition("://")[2].rstrip("/").rpartition(":")
    plain = host.removeprefix("[").removesuffix("]").lower()
    with suppress(ValueError):
        plain = str(ipaddress.ip_address(plain))
    return plain, int(port) if port.isascii() and port.isdigit() and len(port) <= _DIGITS else 0


def problem_with(route: str, body: bytes) -> str | None:
    """Say what is wrong with a body; ``None`` if nothing is.

    Args:
        route: As `qhub_gateway.metrics.route_of` names it.
        body: As it came.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return "The body is not JSON."
    if not isinstance(data, Mapping):
        return "The body must be an object."
    if route == "clusters":
        return _of_options(data)
    if route == "clusters/:name/scale":
        return _of_number("count", data.get("count"))
    if route == "clusters/:name/adapt":
        return _of_adapting(data)
    if route == "clusters/:name/heartbeat":
        return _of_heartbeat(data)
    return None


def _of_options(data: Mapping[str, Any]) -> str | None:
    options = data.get("cluster_options")
    if options is None or isinstance(options, Mapping):
        return None
    return f"cluster_options: {shown(options)} is not an object with a value for each option."


def _of_number(name: str, value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_WORKERS:
        return None
    return f"{name}: {shown(value)} is not a whole number from 0 to {MOST_WORKERS}."


def _of_adapting(data: Mapping[str, Any]) -> str | None:
    for name in ("minimum", "maximum"):
        value = data.get(name)
        problem = None if value is None else _of_number(name, value)
        if problem is not None:
            return problem
    active = data.get("active", True)
    return (
        None if isinstance(active, bool) else f"active: {shown(active)} is neither true nor false."
    )


def _of_heartbeat(data: Mapping[str, Any]) -> str | None:
    names = ("api_address", "scheduler_address", "dashboard_address")
    for name in names:
        if not isinstance(data.get(name), str):
            return f"{name}: {shown(data.get(name))} is not a text."
    hosts = {place_of(data[name])[0] for name in names if data[name]}
    if len(hosts) > 1:
        return (
            f"scheduler_address: {shown(data['scheduler_address'])} is on another host than "
            f"{shown(data['api_address'])} and {shown(data['dashboard_address'])}; a scheduler has "
            "all three on its own."
        )
    for name in ("active_workers", "closing_workers", "closed_workers"):
        value = data.get(name)
        if not isinstance(value, list) or not all(isinstance(each, str | int) for each in value):
            return f"{name}: {shown(value)} is not a list of names."
    return _of_number("count", data.get("count"))
