"""Dask clusters on Slurm and Kubernetes, for the people of a JupyterHub, by Dask-Gateway.

Importing this package imports nothing else: the pure modules are usable where there is no gateway.
`Gateway`, the client, is loaded when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qhub_gateway.client import Gateway, KeycloakAuth

__version__ = "0.1.0"
__all__ = ["Gateway", "KeycloakAuth", "__version__"]


def __getattr__(name: str) -> object:
    """Load the client on first use (PEP 562): the gateway itself runs without it."""
    if name in {"Gateway", "KeycloakAuth"}:
        from qhub_gateway import client  # noqa: PLC0415 - the point of this function

        return getattr(client, name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
