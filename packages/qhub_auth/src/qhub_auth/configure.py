"""One call for ``jupyterhub_config.py`` for each part that the hub has to know of."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qhub_auth.numbers.addresses import DEFAULT_URL, in_folder
from qhub_auth.sync.bodies import SCOPE
from qhub_auth.sync.lifetime import RUN_BY

__all__ = ["group_sync"]


def group_sync(
    c: Any,  # noqa: ANN401 - the configuration object, as traitlets have it
    *,
    config_file: str,
    name: str = "qhub-group-sync",
    managed: bool = True,
    api_token: str | None = None,
    command: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Add the service that keeps groups and roles true, with one right: to say what changed.

    Args:
        c: The configuration object.
        config_file: The file with ``c.Keycloak``, ``c.Identities`` and ``c.GroupSync``, which the
            service reads.
        name: The service's name at the hub.
        managed: Whether the hub starts it, and starts it again when it ends. `False` where systemd
            or a pod of its own does; then it needs `api_token`.
        api_token: Its token; by default the hub makes one for a service that it starts.
        command: Another command than this Python's ``-m qhub_auth.sync_service``.
        environment: More of its environment. The hub passes on only some of its own variables, and
            of ours those by which the client's secret may come (``OAUTH_CLIENT_ID``,
            ``OAUTH_CLIENT_SECRET``).

    Raises:
        ValueError: It is not managed and has no token.
    """
    if not managed and not api_token:
        raise ValueError("group_sync: a service that the hub does not start needs api_token")
    _one_database(c, config_file)
    service: dict[str, Any] = {"name": name}
    if api_token:
        service["api_token"] = api_token
    if managed:
        service["command"] = [
            *(command or [sys.executable, "-m", "qhub_auth.sync_service"]),
            "--config",
            os.path.abspath(config_file),  # noqa: PTH100 - kept as text
        ]
        passed = ("OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "SSL_CERT_FILE", "PYTHONPATH")
        own = {each: os.environ[each] for each in passed if each in os.environ}
        service["environment"] = {**own, RUN_BY: str(os.getpid()), **(environment or {})}
    hub = c.JupyterHub
    _add(hub, "services", service)
    hub.custom_scopes = {
        **dict(_set(hub, "custom_scopes", {})),
        SCOPE: {"description": "Tell the hub what Keycloak says of people, groups and roles"},
    }
    _add(hub, "load_roles", {"name": name, "services": [name], "scopes": [SCOPE]})


def _one_database(c: Any, config_file: str) -> None:  # noqa: ANN401 - the configuration object
    """See that the hub takes a relative path of the database as the service does.

    Each of them means the folder of its own file of settings, and these two may be in different
    ones.
    """
    path = Path(config_file).resolve()
    url = _set(c.Identities, "database_url", DEFAULT_URL)
    if path.is_file() and isinstance(url, str):
        found = in_folder(url, path.parent)
        if not isinstance(found, str):
            url = found.render_as_string(hide_password=False)
        c.Identities.database_url = url


def _set(section: Any, name: str, otherwise: Any) -> Any:  # noqa: ANN401 - a section of traitlets
    """Return what a setting was set to, and not a lazy value that traitlets would make."""
    value = section[name] if name in section else otherwise  # noqa: SIM401 - no dict, its get differs
    return otherwise if type(value).__name__ == "LazyConfigValue" else value


def _add(section: Any, name: str, value: dict[str, Any]) -> None:  # noqa: ANN401 - a section of traitlets
    setattr(section, name, [*_set(section, name, []), value])
