"""``Gateway()`` for people: it finds the gateway and says who asks, inside a server or outside.

Everything else is Dask's own client, whose documentation holds for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import dask.config
from dask_gateway import Gateway as DaskClient
from dask_gateway import GatewayCluster
from dask_gateway.auth import GatewayAuth, JupyterHubAuth

from qhub_gateway.configuration import ADDRESS, PROXY_ADDRESS, PUBLIC_ADDRESS
from qhub_gateway.errors import QHubGatewayError

__all__ = ["Gateway", "GatewayCluster", "KeycloakAuth", "addresses_of"]


class KeycloakAuth(GatewayAuth):  # type: ignore[misc]  # dask-gateway has no types
    """Says who a service is with an access token of Keycloak.

    Args:
        token: The token, or a function without arguments that returns a fresh one: it is called
            for each request, so that it may be exchanged before it expires.
    """

    def __init__(self, token: Any) -> None:  # noqa: ANN401 - a text or a function
        """See the class."""
        super().__init__()
        self._token = token

    def pre_request(self, resp: object) -> tuple[dict[str, str], None]:
        """Return the header that says who asks."""
        del resp
        token = self._token() if callable(self._token) else self._token
        return {"Authorization": f"Bearer {token}"}, None

    def __repr__(self) -> str:
        """Never the token."""
        return "KeycloakAuth(...)"


class Gateway(DaskClient):  # type: ignore[misc]
    """A client of the hub's Dask gateway.

    Inside a server ``Gateway()`` is all that is needed. From elsewhere: the address, and a token
    from the hub's page in ``JUPYTERHUB_API_TOKEN`` or as ``token``.

    Args:
        address: Of the gateway, e.g. ``https://hub.example.org/gateway``.
        proxy_address: Where schedulers are reached.
        public_address: Of the gateway as a browser reaches it.
        auth: How to say who asks; a token of the hub if left out.
        token: A token of the hub; that in ``JUPYTERHUB_API_TOKEN`` if left out.
        **others: As for Dask's own client: ``asynchronous``, ``loop``.

    Raises:
        QHubGatewayError: It cannot be found out where the gateway is, or who asks.
    """

    def __init__(
        self,
        address: str | None = None,
        proxy_address: str | int | None = None,
        public_address: str | None = None,
        auth: Any = None,  # noqa: ANN401 - as Dask's
        *,
        token: str | None = None,
        **others: Any,  # noqa: ANN401 - as Dask's
    ) -> None:
        """See the class."""
        if address is None and not dask.config.get("gateway.address", None):
            address, own_proxy, own_public = addresses_of(os.environ)
            proxy_address = proxy_address or own_proxy
            public_address = public_address or own_public
        if auth is None:
            auth = _auth(token)
        super().__init__(address, proxy_address, public_address, auth, **others)


def _auth(token: str | None) -> Any:  # noqa: ANN401 - one of Dask's
    configured = dask.config.get("gateway.auth.type", None)
    if token is None and configured not in (None, "basic", "jupyterhub"):
        return None  # Dask's client makes what is configured
    token = token or os.environ.get("JUPYTERHUB_API_TOKEN")
    if not token:
        raise QHubGatewayError(
            "It is not known who asks: set JUPYTERHUB_API_TOKEN to a token from the hub's page "
            "(Token, at the top), or give one as Gateway(token=...)."
        )
    return JupyterHubAuth(token)


def addresses_of(environment: Mapping[str, str]) -> tuple[str, str | None, str | None]:
    """Find the gateway: where the hub says that it is, or else beside the hub.

    Args:
        environment: The variables of the process.

    Returns:
        Address, address of the proxy, public address; of the last two ``None`` for that of the API.

    Raises:
        QHubGatewayError: Nothing says where it is.
    """
    if environment.get(ADDRESS):
        proxy, public = environment.get(PROXY_ADDRESS), environment.get(PUBLIC_ADDRESS)
        return environment[ADDRESS], proxy or None, public or None
    for name in ("JUPYTERHUB_PUBLIC_HUB_URL", "JUPYTERHUB_PUBLIC_URL"):
        hub = urlsplit(environment.get(name, ""))
        if hub.scheme in {"http", "https"} and hub.netloc:
            return f"{hub.scheme}://{hub.netloc}/gateway", None, None
    raise QHubGatewayError(
        "It is not known where the gateway is: give its address, e.g. "
        "Gateway('https://hub.example.org/gateway'), or set gateway.address in Dask's "
        "configuration."
    )
