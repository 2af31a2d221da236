"""What is rendered for Dask's clients: a file, or the variables of a server. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qhub_gateway.errors import QHubGatewayError
from qhub_spawner.errors import shown

__all__ = ["ADDRESS", "PROXY_ADDRESS", "PUBLIC_ADDRESS", "Addresses", "client_yaml", "environment"]

ADDRESS = "QHUB_GATEWAY_ADDRESS"
PROXY_ADDRESS = "QHUB_GATEWAY_PROXY_ADDRESS"
PUBLIC_ADDRESS = "QHUB_GATEWAY_PUBLIC_ADDRESS"

# Dask's own, so that the panel works in software without qhub.
_FACTORY = ("dask_gateway", "GatewayCluster")

# As RFC 3986 has them, and neither braces nor blanks: a client fills in variables in braces.
_HTTP = re.compile(r"https?://[A-Za-z0-9.:_~%\[\]-]+(?:/[A-Za-z0-9._~%/-]*)?")
_PROXY = re.compile(r"(?:(?:gateway|tls|tcp)://)?[A-Za-z0-9._\[\]:-]+:[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the gateway is.

    Attributes:
        address: Of its API, e.g. ``https://hub.example.org/gateway``.
        proxy_address: Where schedulers are reached, e.g. ``hub.example.org:8786``; that of the API
            if empty.
        public_address: Of the API as a browser reaches it; the same if empty.
    """

    address: str
    proxy_address: str = ""
    public_address: str = ""

    def __post_init__(self) -> None:
        """Refuse what is no address.

        Raises:
            QHubGatewayError: One is not; names it.
        """
        for name, pattern, accepted in (
            ("address", _HTTP, "'https://hub.example.org/gateway'"),
            ("proxy_address", _PROXY, "'hub.example.org:8786'"),
            ("public_address", _HTTP, "'https://hub.example.org/gateway'"),
        ):
            value = getattr(self, name)
            if (value or name == "address") and pattern.fullmatch(value) is None:
                raise QHubGatewayError(f"{name}: {shown(value)} is not an address like {accepted}")


def client_yaml(
    addresses: Addresses,
    *,
    auth: str = "jupyterhub",
    options: Mapping[str, Any] | None = None,
) -> str:
    """Return a ``gateway.yaml`` for Dask's folder (``~/.config/dask`` or ``/etc/dask``).

    It holds no secret: a client takes its token from ``JUPYTERHUB_API_TOKEN``.

    Args:
        addresses: Where the gateway is.
        auth: How a client says who it is.
        options: Options of clusters that are asked for when nothing else is said.
    """
    # JSON texts are YAML texts, whatever stands in them
    lines = ["gateway:", f"  address: {json.dumps(addresses.address)}"]
    lines.append(f"  public-address: {json.dumps(addresses.public_address or None)}")
    lines.append(f"  proxy-address: {json.dumps(addresses.proxy_address or None)}")
    lines += ["  auth:", f"    type: {json.dumps(auth)}"]
    if options:
        lines += ["  cluster:", f"    options: {json.dumps(_literal(options))}"]
    # what the button "New" of Dask's panel in JupyterLab makes
    factory = {"module": _FACTORY[0], "class": _FACTORY[1], "args": [], "kwargs": {}}
    lines += ["labextension:", f"  factory: {json.dumps(factory)}"]
    return "\n".join(lines) + "\n"


def _literal(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return options so that the client's filling-in of variables leaves them as they are."""
    if isinstance(value, str):
        return value.replace("{", "{{").replace("}", "}}")
    if isinstance(value, Mapping):
        # a client fills in the values of options, and not what is inside of them
        return {
            key: each if isinstance(each, Mapping) else _literal(each)
            for key, each in value.items()
        }
    return value


def environment(addresses: Addresses) -> dict[str, str]:
    """Return variables of a server by which Dask's clients find the gateway.

    Dask's own client, ours, and the panel of Dask's extension of JupyterLab.
    """
    found = {
        ADDRESS: addresses.address,
        PROXY_ADDRESS: addresses.proxy_address,
        PUBLIC_ADDRESS: addresses.public_address,
        "DASK_GATEWAY__ADDRESS": addresses.address,
        "DASK_GATEWAY__PROXY_ADDRESS": addresses.proxy_address,
        "DASK_GATEWAY__PUBLIC_ADDRESS": addresses.public_address,
        "DASK_GATEWAY__AUTH__TYPE": "jupyterhub",
        "DASK_LABEXTENSION__FACTORY__MODULE": _FACTORY[0],
        "DASK_LABEXTENSION__FACTORY__CLASS": _FACTORY[1],
    }
    return {name: value for name, value in found.items() if value}
