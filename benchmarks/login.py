"""`login`: what a log-in costs the hub and Keycloak, for people with 5 and with 50 groups.

A real Keycloak, and two real hubs on one realm: ours, and stock GenericOAuthenticator as its
documentation has it for Keycloak (userinfo, groups by claim, manage_groups, auth_state). People go
through Keycloak's real pages first; what is timed is the hub's part, from the browser's coming back
with a code until it is logged in, several at once. The hubs take turns within one run. Keycloak
itself counts which of its addresses were called that only hubs call.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import httpx

from tests.systems.keycloak import KeycloakSystem
from tests.systems.keycloak.realms import Realm
from tests.systems.keycloak_hub import KeycloakHub

from . import machine, report
from .activity import cpu_seconds
from .figures import percentile, ratio

PEOPLE, AT_ONCE, SECONDS = 8, 4, 120
GROUPS = (5, 50)
CALLS_GOAL = 3
# http_server_requests_seconds_count{…,uri="/realms/{realm}/protocol/{protocol}/token"} 12.0
_COUNTED = re.compile(
    r'^http_server_requests_seconds_count\{.*uri="([^"]*)".*\} ([0-9.E+]+)$', re.MULTILINE
)
# what browsers call, and what the run itself asks for
_BROWSERS = ("/protocol/{protocol}/auth", "/login-actions/", "/resources/", "/health", "/metrics")

_OURS = """
c.KeycloakAuthenticator.allowed_groups = {"/department-00"}
"""
_STOCK = """
c.JupyterHub.authenticator_class = "generic-oauth"
c.GenericOAuthenticator.client_id = c.Keycloak.client_id
c.GenericOAuthenticator.client_secret = open(c.Keycloak.client_secret_file).read().strip()
c.GenericOAuthenticator.oauth_callback_url = c.JupyterHub.bind_url + "hub/oauth_callback"
c.GenericOAuthenticator.authorize_url = c.Keycloak.issuer + "/protocol/openid-connect/auth"
c.GenericOAuthenticator.token_url = c.Keycloak.issuer + "/protocol/openid-connect/token"
c.GenericOAuthenticator.userdata_url = c.Keycloak.issuer + "/protocol/openid-connect/userinfo"
c.GenericOAuthenticator.scope = ["openid"]
c.GenericOAuthenticator.username_claim = "preferred_username"
c.GenericOAuthenticator.manage_groups = True
c.GenericOAuthenticator.auth_state_groups_key = "oauth_user.groups"
c.GenericOAuthenticator.allowed_groups = {"/department-00/team-00"}
c.GenericOAuthenticator.enable_auth_state = True
"""
_COMMON = """
c.KeycloakAuthenticator.oauth_callback_url = c.JupyterHub.bind_url + "hub/oauth_callback"
"""


@dataclass
class Seen:
    """What came of one hub.

    Attributes:
        logins: How many people logged in.
        seconds: How long that took, of each round.
        each: Seconds of each log-in.
        cpu_seconds: CPU time of the hub for all of them.
        calls: How often Keycloak was called for them.
    """

    logins: int = 0
    seconds: list[float] = field(default_factory=list)
    each: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0
    calls: int = 0

    @property
    def per_second(self) -> float:
        """Log-ins per second over all rounds."""
        return self.logins / sum(self.seconds)

    @property
    def calls_per_login(self) -> float:
        """Keycloak's part."""
        return self.calls / self.logins


def _model(groups: int) -> dict[str, Any]:
    """Parts of a realm in which everybody is in so many groups, each below another."""
    paths = [f"/department-{n % 10:02}/team-{n:02}" for n in range(groups)]
    tree: dict[str, list[dict[str, Any]]] = {}
    for path in paths:
        _, above, name = path.split("/")
        tree.setdefault(above, []).append({"name": name, "share": "rw"})
    return {
        "groups": [{"name": name, "groups": below} for name, below in tree.items()],
        "roles": [
            {"name": f"role-{n:02}", "scopes": ["read:users!user"], "groups": ["/department-00"]}
            for n in range(groups // 5)
        ],
        "people": [
            {
                "name": f"person-{n}",
                "password": f"person-{n}-demo",
                "first_name": "P",
                "last_name": "P",
                "email": f"person-{n}@example.org",
                "groups": paths,
            }
            for n in range(PEOPLE)
        ],
    }


def hub_calls(system: KeycloakSystem) -> int:
    """Return how often addresses of Keycloak's were called that hubs call and browsers do not."""
    record = json.loads((system.run_folder / "system.json").read_text())
    url = f"http://127.0.0.1:{record['management_port']}/auth/metrics"
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:
        text = answer.read().decode()
    return sum(
        round(float(count))
        for uri, count in _COUNTED.findall(text)
        if not any(part in uri for part in _BROWSERS)
    )


class People:
    """Who logs in, with their sessions at Keycloak."""

    def __init__(self, realm: Realm) -> None:
        self._realm = realm
        self._jars: dict[str, list[Any]] = {}

    async def coming_back(self, hub: KeycloakHub, name: str) -> tuple[httpx.AsyncClient, str]:
        """Return a browser that is about to come back to the hub, and the address it goes to."""
        jar = CookieJar()
        for cookie in self._jars.get(name, ()):
            jar.set_cookie(cookie)
        browser = httpx.AsyncClient(timeout=SECONDS, cookies=jar)
        back = f"{hub.url}hub/oauth_callback"
        answer = await self._realm.log_in_async(
            browser, f"{hub.url}hub/oauth_login", name, until=back
        )
        path = "/auth/realms/"
        self._jars[name] = [each for each in browser.cookies.jar if each.path.startswith(path)]
        return browser, answer.headers["Location"]


async def log_in(hub: KeycloakHub, people: People, logins: int, seen: Seen | None) -> None:
    """Let people come back to a hub, some at once."""
    names = [f"person-{n % PEOPLE}" for n in range(logins)]
    ready = [await people.coming_back(hub, name) for name in names]
    turn = asyncio.Semaphore(AT_ONCE)

    async def finish(browser: httpx.AsyncClient, link: str) -> float:
        async with turn:
            begun = time.perf_counter()
            # to the hub itself: the proxy in front of it is the same for both
            answer = await browser.get(link.replace(hub.url, hub.hub_url))
            if answer.status_code != httpx.codes.FOUND:
                raise RuntimeError(f"no log-in: {answer.status_code}, {answer.text[-500:]}")
            return time.perf_counter() - begun

    cpu, begun = cpu_seconds(hub.hub.pid), time.perf_counter()
    each = await asyncio.gather(*(finish(*one) for one in ready))
    if seen is not None:
        seen.cpu_seconds += cpu_seconds(hub.hub.pid) - cpu
        seen.seconds.append(time.perf_counter() - begun)
        seen.each += each
        seen.logins += logins
    for browser, _ in ready:
        await browser.aclose()


async def measure(
    system: KeycloakSystem, hubs: dict[str, KeycloakHub], realm: Realm, rounds: int, logins: int
) -> dict[str, Seen]:
    """Let the hubs take turns; who begins changes from round to round."""
    people = People(realm)
    seen = {kind: Seen() for kind in hubs}
    for hub in hubs.values():  # everybody was there before, and what is kept is kept
        await log_in(hub, people, PEOPLE * 2, None)
    for number in range(rounds):
        kinds: Sequence[str] = list(hubs) if number % 2 else list(hubs)[::-1]
        for kind in kinds:
            before = hub_calls(system)
            await log_in(hubs[kind], people, logins, seen[kind])
            seen[kind].calls += hub_calls(system) - before
    return seen


def _realm_and_hubs(
    system: KeycloakSystem, stack: ExitStack, groups: int, folder: Path
) -> tuple[Realm, dict[str, KeycloakHub]]:
    realm = system.make_realm(hub_url="http://127.0.0.1:1", **_model(groups))
    stack.callback(realm.remove)
    configs = {"ours": _OURS + _COMMON, "stock": _STOCK}
    hubs = {
        kind: KeycloakHub(folder / f"{kind}-{groups}", realm, config, log_level="WARN")
        for kind, config in configs.items()
    }
    realm.admin.update_client(
        redirectUris=[f"{hub.url}hub/oauth_callback" for hub in hubs.values()]
    )
    for hub in hubs.values():
        stack.enter_context(hub)
    return realm, hubs


def run(*, quick: bool, runs: int | None) -> None:
    """Measure, and print."""
    rounds, logins = runs or (2 if quick else 10), 16 if quick else 40
    print(
        f"login: {rounds} rounds of {logins} log-ins per hub, {AT_ONCE} at once, of {PEOPLE} "
        "people; timed from the browser's coming back with a code until it is logged in"
    )
    print(machine.described("keycloak"), flush=True)
    found: dict[int, dict[str, Seen]] = {}
    with (
        KeycloakSystem(for_load=True) as system,
        tempfile.TemporaryDirectory(prefix="qhub-login-") as folder,
    ):
        for groups in GROUPS:
            with ExitStack() as stack:
                realm, hubs = _realm_and_hubs(system, stack, groups, Path(folder))
                found[groups] = asyncio.run(measure(system, hubs, realm, rounds, logins))
            print(f"{groups} groups: done", flush=True)
    rows = [
        [
            f"{groups} groups, {kind}",
            report.amount(seen.per_second),
            report.amount(1000 * percentile(seen.each, 50), " ms"),
            report.amount(1000 * percentile(seen.each, 95), " ms"),
            report.amount(1000 * seen.cpu_seconds / seen.logins, " ms"),
            report.amount(seen.calls_per_login),
        ]
        for groups, kinds in found.items()
        for kind, seen in kinds.items()
    ]
    print(
        report.table(["", "log-ins/s", "half below", "95 % below", "CPU of the hub", "calls"], rows)
    )
    most = found[max(GROUPS)]
    calls = {str(groups): kinds["ours"].calls_per_login for groups, kinds in found.items()}
    met = max(calls.values()) <= CALLS_GOAL
    print(f"at most {CALLS_GOAL} calls to Keycloak per log-in: {report.verdict(met)}")
    print(
        report.last_line(
            "login",
            ours=most["ours"].per_second,
            other=most["stock"].per_second,
            ratio=ratio(most["ours"].per_second, most["stock"].per_second),
            runs=rounds,
            more={
                "calls_per_login": calls,
                "calls_per_login_stock": {
                    str(groups): kinds["stock"].calls_per_login for groups, kinds in found.items()
                },
                "ratio_by_groups": {
                    str(groups): ratio(kinds["ours"].per_second, kinds["stock"].per_second)
                    for groups, kinds in found.items()
                },
            },
        )
    )
