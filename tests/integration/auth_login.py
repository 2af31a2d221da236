"""What the tests of log-in share: hubs on realms of the run's Keycloak."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from tests.conftest import missing
from tests.systems.keycloak_hub import Browser, KeycloakHub
from tests.systems.processes import SystemUnavailableError

RULES = """
c.KeycloakAuthenticator.allowed_groups = {"/physics"}
c.KeycloakAuthenticator.admin_groups = {"/admins"}
c.KeycloakAuthenticator.blocked_groups = {"/suspended"}
"""


@contextmanager
def hub_with(
    keycloak: Any, folder: Path, config: str = "", *, realm: Any = None, **options: Any
) -> Iterator[KeycloakHub]:
    """A hub that runs, with a realm of its own unless one is given."""
    own = None if realm else keycloak.make_realm(hub_url="http://127.0.0.1:1")
    try:
        hub = KeycloakHub(folder, realm or own, RULES + config, **options)
    except SystemUnavailableError as error:
        missing("the hub", error)
        raise
    try:
        with hub:
            yield hub
    finally:
        if own is not None:
            own.remove()


def begin(browser: Browser, **parameters: str) -> str:
    """Begin a log-in; returns the address of Keycloak's page."""
    answer = browser.get(f"{browser.hub.url}hub/oauth_login", params=parameters)
    assert answer.status_code == 302, answer.text[:2000]
    return str(answer.headers["Location"])


def answer_of(browser: Browser, page: str, name: str) -> str:
    """Log in at Keycloak's page; returns the address at which the hub would be told."""
    back = f"{browser.hub.url}hub/oauth_callback"
    answer = browser.hub.realm.log_in(browser, page, name, until=back)
    return str(answer.headers["Location"])


def query(url: str) -> dict[str, str]:
    """The parameters of an address."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def changed(url: str, **parameters: str | None) -> str:
    """An address with other parameters; None takes one away."""
    merged = {k: v for k, v in {**query(url), **parameters}.items() if v is not None}
    return str(httpx.URL(url.partition("?")[0], params=merged))
