"""Which addresses of dashboards are gone to. Pure.

A scheduler says itself where its dashboard is, and it is its owner's program: without a rule it
could have the service look at anything the service reaches.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from qhub_gateway.errors import QHubGatewayError
from qhub_spawner.errors import shown

__all__ = [
    "DashboardRefusedError",
    "checked_address",
    "checked_path",
    "networks_of",
    "to_browser",
    "to_dashboard",
]

_LEAST_PORT = 1024
_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
_NOT_FOR_DASHBOARDS = _HOP_BY_HOP | {
    "accept-encoding",
    "authorization",
    "content-length",
    "cookie",
    "forwarded",
    "host",
    "origin",
    "referer",
}
_NOT_FOR_BROWSERS = _HOP_BY_HOP | {
    "content-encoding",
    "content-length",
    "content-security-policy",
    "set-cookie",
    "set-cookie2",
    "clear-site-data",
    "service-worker-allowed",
    "strict-transport-security",
}
_PATH = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class DashboardRefusedError(QHubGatewayError):
    """A dashboard's address is not one to go to."""


def networks_of(texts: Sequence[str]) -> tuple[Network, ...]:
    """Read networks such as ``10.0.0.0/8``.

    Raises:
        ValueError: One is none.
    """
    return tuple(ipaddress.ip_network(text) for text in texts)


def checked_address(address: str, networks: Sequence[Network]) -> str:
    """Return where a dashboard is, as ``http://10.1.2.3:8787``, if it may be gone to.

    Args:
        address: As the scheduler says it; with the number of a host, as Dask's schedulers do.
        networks: Where schedulers run.

    Raises:
        DashboardRefusedError: It may not.
    """
    try:
        parts = urlsplit(address)
        host, port = ipaddress.ip_address(parts.hostname or ""), parts.port or 0
    except ValueError as error:
        raise DashboardRefusedError(
            f"{shown(address)} is not the address of a dashboard"
        ) from error
    if parts.scheme != "http" or port < _LEAST_PORT or parts.path.strip("/") or parts.username:
        raise DashboardRefusedError(f"{shown(address)} is not the address of a dashboard")
    if not any(host in network for network in networks if host.version == network.version):
        raise DashboardRefusedError(f"{host} is in none of the networks where schedulers run")
    shown_host = f"[{host}]" if isinstance(host, ipaddress.IPv6Address) else str(host)
    return f"http://{shown_host}:{port}"


def checked_path(path: str) -> str:
    """Return the path of a dashboard's page.

    Raises:
        DashboardRefusedError: It leads elsewhere.
    """
    if _PATH.fullmatch(path) is None or ".." in path.split("/") or "%2e" in path.lower():
        raise DashboardRefusedError("there is no such page of a dashboard")
    return path


def to_dashboard(name: str) -> bool:
    """Whether a header of a browser goes on to a dashboard: none that says who somebody is."""
    name = name.lower()
    return name not in _NOT_FOR_DASHBOARDS and not name.startswith(
        ("x-forwarded-", "sec-", "x-auth")
    )


def to_browser(name: str) -> bool:
    """Whether a header of a dashboard goes on to the browser: none that lasts, or is for others."""
    return name.lower() not in _NOT_FOR_BROWSERS
