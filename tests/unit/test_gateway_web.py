"""Which dashboards are gone to, and what of a request and an answer goes on."""

from __future__ import annotations

import pytest
from jupyterhub.services.auth import HubOAuthCallbackHandler
from tornado.web import RedirectHandler, RequestHandler

from qhub_gateway.web.addresses import (
    DashboardRefusedError,
    checked_address,
    checked_path,
    networks_of,
    to_browser,
    to_dashboard,
)
from qhub_gateway.web.base import Base
from qhub_gateway.web.dashboards import Dashboard
from qhub_gateway.web.pages import Clusters, Json, Logs, Rows, Share, Static, Stop
from qhub_gateway.web.service import WebService

PRIVATE = networks_of(["10.0.0.0/8", "fc00::/7"])


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("http://10.1.2.3:8787", "http://10.1.2.3:8787"),
        ("http://10.1.2.3:8787/", "http://10.1.2.3:8787"),
        ("http://[fd00::1]:8787", "http://[fd00::1]:8787"),
    ],
)
def test_where_schedulers_run(address: str, found: str) -> None:
    """A number of a host in a network where schedulers run is gone to."""
    assert checked_address(address, PRIVATE) == found


@pytest.mark.parametrize(
    "address",
    [
        "",
        "http://127.0.0.1:8081",
        "http://169.254.169.254:8080",
        "http://[::1]:8787",
        "http://[::ffff:127.0.0.1]:8787",
        "http://0.0.0.0:8787",
        "http://11.1.2.3:8787",
        "http://localhost:8787",
        "http://10.1.2.3",
        "http://10.1.2.3:22",
        "http://10.1.2.3:99999",
        "https://10.1.2.3:8787",
        "ftp://10.1.2.3:8787",
        "http://a:b@10.1.2.3:8787",
        "http://10.1.2.3:8787/hub",
        "http://10.1.2.3 :8787",
        "http://0x0a010203:8787",
        "http://10.1.2.3:8787\r\nHost: x",
        "unix:/run/x",
    ],
)
def test_where_else(address: str) -> None:
    """Whatever else a scheduler says is gone nowhere: not to this machine, and not by name."""
    with pytest.raises(DashboardRefusedError):
        checked_address(address, PRIVATE)


@pytest.mark.parametrize("path", ["../x", "a/../../b", "%2e%2e/x", "a b", "a\r\nb", "a?b", "a#b"])
def test_paths(path: str) -> None:
    """A path leads to no other place than a page of the dashboard."""
    with pytest.raises(DashboardRefusedError):
        checked_path(path)
    assert checked_path("statics/css/base.css") == "statics/css/base.css"


def test_who_looks_is_not_told() -> None:
    """A dashboard, which is a program of a person's, learns no cookie and no token."""
    for name in ("Cookie", "Authorization", "X-Forwarded-For", "X-Auth-User", "Origin", "Referer"):
        assert not to_dashboard(name)
    assert to_dashboard("Accept")


def test_a_dashboard_sets_nothing() -> None:
    """A dashboard sets no cookie and no rule for the hub's other pages."""
    for name in ("Set-Cookie", "Clear-Site-Data", "Service-Worker-Allowed", "Transfer-Encoding"):
        assert not to_browser(name)
    assert to_browser("Content-Type")


def test_this_machine_is_never_a_default() -> None:
    """No default network holds this machine's own addresses, or those of a cloud's metadata."""
    networks = networks_of(WebService.dashboard_networks.default_args[0])
    for address in ("http://127.0.0.1:8081", "http://[::1]:8081", "http://169.254.169.254:8080"):
        with pytest.raises(DashboardRefusedError):
            checked_address(address, networks)


def test_no_page_is_open() -> None:
    """Whatever the service shows is for who has logged in; style and script of the page are not."""
    service = WebService(gateway_address="http://127.0.0.1:1")
    service.prefix, service.base = "/services/qhub/", "/services/qhub/clusters"
    rules = service.application().wildcard_router.rules
    handlers = {rule.target for rule in rules} - {Static, HubOAuthCallbackHandler, RedirectHandler}
    assert {Clusters, Dashboard, Json, Logs, Rows, Share, Stop} == handlers
    for handler in handlers:
        assert issubclass(handler, Base)
        for method in ("get", "post", "put", "delete", "head", "patch", "options"):
            own = next(
                (vars(each)[method] for each in handler.__mro__ if method in vars(each)), None
            )
            refused = own is vars(RequestHandler)[method]
            assert refused or hasattr(own, "__wrapped__"), f"{handler.__name__}.{method}"
