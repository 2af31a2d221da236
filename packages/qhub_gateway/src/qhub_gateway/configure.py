"""The hub's side, in one call from ``jupyterhub_config.py``."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qhub_gateway.configuration import ADDRESS, Addresses
from qhub_gateway.configuration import environment as variables_of
from qhub_gateway.lifetime import RUN_BY
from qhub_gateway.rights import CREATE_SCOPE, SEE_SCOPE, STOP_SCOPE
from qhub_spawner.identity import SCOPE as IDENTITY_SCOPE
from qhub_spawner.idle import BUSY_SCOPE

__all__ = ["Run", "gateway", "page"]

_PASSED = ("PYTHONPATH", "SSL_CERT_FILE")


@dataclass(frozen=True)
class Run:
    """How the hub runs the gateway itself.

    Attributes:
        config_file: The gateway's configuration, ``dask_gateway_config.py``.
        url: Where its proxy listens, e.g. ``http://127.0.0.1:8000``: the hub's own proxy then leads
            to it at ``/services/NAME/``, which is to be the gateway's ``c.Proxy.prefix``. Empty if
            people reach it past the hub's proxy.
        environment: More of its environment.
    """

    config_file: str
    url: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


def gateway(
    c: Any,  # noqa: ANN401 - traitlets' configuration
    *,
    address: str,
    api_token: str = "",
    proxy_address: str = "",
    public_address: str = "",
    name: str = "dask-gateway",
    groups: tuple[str, ...] = (),
    run: Run | None = None,
) -> None:
    """Let the hub's people use a gateway that runs beside the hub, or that the hub runs.

    It makes a service of the hub, gives it what it needs to know who people are, lets people's
    tokens be used for it, and tells servers where it is. A server's own token needs nothing.

    Args:
        c: The hub's configuration.
        address: Of the gateway, as servers reach it, e.g. ``https://hub.example.org/gateway``.
        api_token: The gateway's own token, as in its ``JUPYTERHUB_API_TOKEN``; may be left out
            where the hub runs it.
        proxy_address: Where schedulers are reached, e.g. ``hub.example.org:8786``.
        public_address: Of the gateway as a browser reaches it; as `address` if empty.
        name: The hub's name of the gateway, as in its ``JUPYTERHUB_SERVICE_NAME``.
        groups: The hub groups whose members may use their tokens for it; everybody if empty.
        run: How the hub runs it; ``None`` if something else does.

    Raises:
        ValueError: There is neither a token nor a hub that runs it.
        QHubGatewayError: An address is none.
    """
    if not api_token and run is None:
        raise ValueError(
            "gateway: the gateway needs a token of its own, api_token, or the hub has to run it, "
            "run=Run(...)"
        )
    addresses = Addresses(address, proxy_address, public_address)
    hub = c.JupyterHub
    _add(hub, "services", _service(name, api_token, run))
    hub.custom_scopes = {
        **dict(_set(hub, "custom_scopes", {})),
        IDENTITY_SCOPE: {"description": "Read who people are: groups, numbers and servers"},
        BUSY_SCOPE: {"description": "Tell what people's servers are busy with"},
        CREATE_SCOPE: {"description": "Make Dask clusters"},
        SEE_SCOPE: {"description": "See the Dask clusters of everyone"},
        STOP_SCOPE: {
            "description": "See and stop the Dask clusters of everyone",
            "subscopes": [SEE_SCOPE],
        },
    }
    scopes = [IDENTITY_SCOPE, BUSY_SCOPE]
    _add(hub, "load_roles", {"name": name, "services": [name], "scopes": scopes})
    access = f"access:services!service={name}"
    if groups:
        role = {"name": f"{name}-users", "groups": list(groups), "scopes": [access]}
        _add(hub, "load_roles", role)
    else:
        _let_everybody(hub, access)
    variables = dict(_set(c.Spawner, "environment", {}))
    c.Spawner.environment = {**variables_of(addresses), **variables}


def page(
    c: Any,  # noqa: ANN401 - traitlets' configuration
    *,
    address: str,
    name: str = "qhub",
    gateway_name: str = "dask-gateway",
    url: str = "http://127.0.0.1:9190",
    config_file: str = "",
    environment: dict[str, str] | None = None,
) -> None:
    """Let the hub run the page of clusters, at ``/services/qhub/clusters``.

    Args:
        c: The hub's configuration; call it after `gateway`.
        address: Of the gateway, as the page reaches it.
        name: The hub's name of the page, which is in its address.
        gateway_name: The hub's name of the gateway.
        url: Where the page listens, for the hub's proxy.
        config_file: A file with more of its configuration: ``c.WebService.dashboard_networks``.
        environment: More of its environment.
    """
    hub = c.JupyterHub
    access = f"access:services!service={name}"
    command = [sys.executable, "-m", "qhub_gateway.web.service"]
    service = {
        "name": name,
        "url": url,
        "command": [*command, f"--config={config_file}"] if config_file else command,
        "environment": {**_passed(), ADDRESS: Addresses(address).address, **(environment or {})},
        "oauth_no_confirm": True,
        # with these, and nothing more, it asks the gateway as whoever looks at it
        "oauth_client_allowed_scopes": [
            f"access:services!service={gateway_name}",
            SEE_SCOPE,
            STOP_SCOPE,
        ],
    }
    _add(hub, "services", service)
    _let_everybody(hub, access)


def _service(name: str, api_token: str, run: Run | None) -> dict[str, Any]:
    """Return the gateway as a service of the hub."""
    # no page for people: theirs is that of clusters
    service: dict[str, Any] = {"name": name, "display": False}
    if api_token:
        service["api_token"] = api_token
    if run is not None:
        argv = [sys.executable, "-m", "dask_gateway_server", f"--config={run.config_file}"]
        service |= {"command": argv, "environment": {**_passed(), **run.environment}}
        if run.url:
            service["url"] = run.url
    return service


def _passed() -> dict[str, str]:
    """Return what a service needs of the hub: to find its software, and to end with it."""
    found = {key: os.environ[key] for key in _PASSED if key in os.environ}
    return {**found, RUN_BY: str(os.getpid())}


def _let_everybody(hub: Any, scope: str) -> None:  # noqa: ANN401 - a section of traitlets
    """Add a scope to the role that every user has."""
    roles = list(_set(hub, "load_roles", []))
    own = next((role for role in roles if role.get("name") == "user"), None)
    rest = [role for role in roles if role is not own]
    scopes = [*(own or {}).get("scopes", ["self"]), scope]
    hub.load_roles = [*rest, {**(own or {"name": "user"}), "scopes": scopes}]


def _set(section: Any, name: str, otherwise: Any) -> Any:  # noqa: ANN401 - a section of traitlets
    """Return what a setting was set to, and not a lazy value that traitlets would make."""
    value = section[name] if name in section else otherwise  # noqa: SIM401 - no dict, its get differs
    return otherwise if type(value).__name__ == "LazyConfigValue" else value


def _add(section: Any, name: str, value: dict[str, Any]) -> None:  # noqa: ANN401 - a section of traitlets
    setattr(section, name, [*_set(section, name, []), value])
