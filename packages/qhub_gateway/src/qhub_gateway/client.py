"""``Gateway()`` for people: it finds the gateway and says who asks, inside a server or outside.

Everything else is Dask's own client, whose documentation holds for it. Its clusters say why they
wait and why they failed, show their logs, and can be shared.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode, urlsplit

import dask.config
from dask_gateway import Gateway as DaskClient
from dask_gateway import GatewayCluster as DaskCluster
from dask_gateway.auth import GatewayAuth, JupyterHubAuth
from dask_gateway.client import GatewayClusterError, GatewayWarning

from qhub_gateway.configuration import ADDRESS, PROXY_ADDRESS, PUBLIC_ADDRESS
from qhub_gateway.errors import QHubGatewayError

__all__ = ["Gateway", "GatewayCluster", "KeycloakAuth", "addresses_of"]

_SAY_WHY_SECONDS = 10.0


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

    def new_cluster(
        self,
        cluster_options: Any = None,  # noqa: ANN401 - as Dask's
        shutdown_on_close: bool = True,
        **options: Any,  # noqa: ANN401 - as Dask's
    ) -> GatewayCluster:
        """Make a cluster and wait until it is there; as Dask's own.

        Args:
            cluster_options: What `cluster_options` returned, changed.
            shutdown_on_close: Whether it ends with this object.
            **options: Single options by name: ``profile``, ``worker_cores``, …
        """
        return GatewayCluster(
            **self._reached(),
            cluster_options=cluster_options,
            shutdown_on_close=shutdown_on_close,
            **options,
        )

    def connect(
        self,
        cluster_name: str,
        shutdown_on_close: bool = False,
    ) -> GatewayCluster:
        """Connect to a cluster that is there, by its name; as Dask's own."""
        found: GatewayCluster = GatewayCluster.from_name(
            cluster_name, shutdown_on_close=shutdown_on_close, **self._reached()
        )
        return found

    def logs(self, cluster_name: str, worker: str | None = None, *, most_bytes: int = 65536) -> Any:  # noqa: ANN401 - awaitable if asynchronous
        """Return the end of what a cluster's scheduler, or one of its workers, has written.

        Args:
            cluster_name: The cluster's name.
            worker: The worker's name, as the dashboard has it; the scheduler's log if left out.
            most_bytes: How much of it, at most 1 MiB.

        Raises:
            ValueError: There is no such cluster or worker.
            QHubGatewayError: The log cannot be read from there; says where it is.
        """
        return self.sync(_logs, self, cluster_name, worker, most_bytes)

    def share(
        self, cluster_name: str, *, users: Sequence[str] = (), groups: Sequence[str] = ()
    ) -> Any:  # noqa: ANN401 - awaitable if asynchronous
        """Let these people and groups look at a cluster's dashboard, and nobody else any more.

        Args:
            cluster_name: The cluster's name.
            users: Names of the hub's users.
            groups: Names of the hub's groups.

        Raises:
            ValueError: There is no such cluster, or a name is none.
        """
        return self.sync(_share, self, cluster_name, users, groups)

    def __del__(self) -> None:
        """Close what is open, as Dask's own, but wait for nothing where that would be for ever."""
        if _is_its_own_loop(self):
            _ENDING.add(task := asyncio.ensure_future(self._cleanup()))
            task.add_done_callback(_ENDING.discard)
        elif hasattr(self, "_loop_runner") and self._loop_runner.is_started():
            super().__del__()

    def _reached(self) -> dict[str, Any]:
        return {
            "address": self.address,
            "proxy_address": self.proxy_address,
            "public_address": self._public_address,
            "auth": self.auth,
            "asynchronous": self.asynchronous,
            "loop": self.loop,
        }


class GatewayCluster(DaskCluster):  # type: ignore[misc]
    """A cluster; Dask's own, which also says why, shows its logs and can be shared."""

    @property
    def gateway(self) -> Gateway:
        """The client by which it speaks to the gateway."""
        return self._gateway

    @gateway.setter
    def gateway(self, made: DaskClient) -> None:
        # Dask makes one of its own class, which cannot be ended everywhere: see `Gateway.__del__`
        made.__class__ = Gateway
        self._gateway: Gateway = made

    def __del__(self) -> None:
        """End as Dask's own, but wait for nothing where that would be for ever."""
        if hasattr(self, "_gateway") and _is_its_own_loop(self._gateway):
            if self.status != "closed":
                _ENDING.add(task := asyncio.ensure_future(self._stop_internal()))
                task.add_done_callback(_ENDING.discard)
        else:
            super().__del__()

    async def _start_async(self) -> None:
        saying = asyncio.ensure_future(self._say_why())
        try:
            await super()._start_async()
        except GatewayClusterError as error:
            words = await self._words() if self.name else ""
            if not words:
                raise
            raise GatewayClusterError(
                f"The cluster {self.name} failed to start: {words}"
            ) from error
        finally:
            saying.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await saying

    async def _say_why(self) -> None:
        """Tell whoever waits why, each time that the reason is another."""
        told = ""
        while True:
            await asyncio.sleep(_SAY_WHY_SECONDS)
            words = await self._words() if self.name else ""
            if words and words != told:
                told = words
                warnings.warn(f"The cluster waits: {words}", GatewayWarning, stacklevel=1)

    async def _words(self) -> str:
        """Return what the gateway says of the cluster; nothing if it does not say."""
        with contextlib.suppress(Exception):
            url = f"{self.gateway.address}/api/qhub/clusters/{self.name}"
            answer = await (await self.gateway._request("GET", url)).json()  # noqa: SLF001 - Dask's own way to ask
            return str(answer.get("words") or "")
        return ""

    def logs(self, worker: str | None = None, *, most_bytes: int = 65536) -> Any:  # noqa: ANN401 - awaitable if asynchronous
        """Return the end of what the scheduler, or a worker, has written; see `Gateway.logs`."""
        return self.gateway.sync(_logs, self.gateway, self.name, worker, most_bytes)

    def share(self, *, users: Sequence[str] = (), groups: Sequence[str] = ()) -> Any:  # noqa: ANN401 - awaitable if asynchronous
        """Let others look at the dashboard; see `Gateway.share`."""
        return self.gateway.sync(_share, self.gateway, self.name, users, groups)


# What was begun where nobody could wait for it.
_ENDING: set[asyncio.Task[None]] = set()


def _is_its_own_loop(client: DaskClient) -> bool:
    """Whether this runs in the very loop that does the client's work.

    The collector runs finalizers wherever it strikes, there as well, and Dask's own then wait for
    that loop in itself.
    """
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        return False
    if not hasattr(client, "_loop_runner") or client.asynchronous:
        return False
    return client._loop_runner.is_started() and client.loop.asyncio_loop is running  # noqa: SLF001 - Dask's own


async def _logs(gateway: Any, name: str, worker: str | None, most_bytes: int) -> str:  # noqa: ANN401 - Dask's client
    query = {"bytes": most_bytes, **({"worker": worker} if worker else {})}
    url = f"{gateway.address}/api/qhub/clusters/{name}/logs?{urlencode(query)}"
    answer = await (await gateway._request("GET", url)).json()  # noqa: SLF001 - Dask's own way to ask
    if answer.get("elsewhere"):
        raise QHubGatewayError(answer["elsewhere"])
    return str(answer["log"])


async def _share(gateway: Any, name: str, users: Sequence[str], groups: Sequence[str]) -> None:  # noqa: ANN401 - Dask's client
    url = f"{gateway.address}/api/qhub/clusters/{name}/sharing"
    await gateway._request("PUT", url, json={"users": list(users), "groups": list(groups)})  # noqa: SLF001 - Dask's own way to ask


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
