"""Forward-auth behind the real Traefik, with the real Keycloak: who gets through, and with which headers."""

from __future__ import annotations

import concurrent.futures
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from qhub_auth.forward_auth.readings import AmbiguousError, readings
from tests.systems.forward_auth import APPS, HIDDEN, HOSTS, NAMED, PREFIX, ForwardAuthSite
from tests.systems.hub import HubSystem
from tests.systems.keycloak import KeycloakSystem
from tests.systems.keycloak.pages import PageError, forms
from tests.systems.processes import Ports, SystemUnavailableError, wait_until
from tests.unit.test_auth_forward_policy import WAYS_AROUND

AUDIENCE = "qhub-api"
CHECK = 5.0  # seconds that what Keycloak said counts; the least there is
DEADLINE = 30


@pytest.fixture(scope="module")
def traefik(make_traefik: Callable[..., Any]) -> Any:
    """One Traefik that hands on headers with underscores, as it does by itself."""
    return make_traefik(hosts=HOSTS, log_level="DEBUG")


@pytest.fixture(scope="module")
def spare(make_traefik: Callable[..., Any]) -> Any:
    """Another one, for tests that set up a site of their own."""
    return make_traefik(hosts=HOSTS)


@pytest.fixture(scope="module")
def site(traefik: Any, realm: Any) -> Iterator[ForwardAuthSite]:
    """The site of most tests; it asks Keycloak about everybody every five seconds."""
    client = realm.admin.client()
    mapper = {
        "name": "audience",
        "protocol": "openid-connect",
        "protocolMapper": "oidc-audience-mapper",
        "config": {"included.custom.audience": AUDIENCE, "access.token.claim": "true"},
    }
    path = f"{realm.admin.path}/clients/{client['id']}/protocol-mappers/models"
    realm.admin.api.post(path, mapper)
    settings = {"bearer_audiences": [AUDIENCE], "session_seconds": CHECK}
    with ForwardAuthSite(traefik, realm, settings=settings) as made:
        yield made


@pytest.fixture(scope="module")
def people(site: ForwardAuthSite) -> Iterator[dict[str, httpx.Client]]:
    """Programs of people who have logged in."""
    clients = {name: site.signed_in(name) for name in ("alice", "dave", "erin")}
    yield clients
    for client in clients.values():
        client.close()


def reached(answer: httpx.Response) -> dict[str, list[str]]:
    """Return every header that reached the program behind, by its name in small letters."""
    found: dict[str, list[str]] = {}
    for name, value in answer.json()["headers"]:
        found.setdefault(name.lower(), []).append(value)
    return found


def cookies_of(client: httpx.Client) -> str:
    """Return the cookies of the first host, as a header has them."""
    return "; ".join(
        f"{each.name}={each.value}" for each in client.cookies.jar if each.domain == APPS
    )


# ---- who may open what ----

TABLE = [
    # method, path, nobody, alice (/physics/team-a), dave (/physics), erin (/admins)
    ("GET", "/public/x", 200, 200, 200, 200),
    ("POST", "/public/x", 200, 200, 200, 200),
    ("GET", "/grafana/d/1?q=1", 401, 200, 200, 200),
    ("GET", "/prometheus", 401, 403, 403, 200),
    ("GET", "/physics", 401, 200, 200, 403),
    ("GET", "/team/x", 401, 200, 403, 403),
    ("GET", "/report", 401, 200, 200, 200),
    ("HEAD", "/report", 401, 200, 200, 200),
    ("POST", "/report", 401, 403, 403, 200),
    ("DELETE", "/report/1", 401, 403, 403, 200),
    ("GET", "/api/v1", 401, 200, 200, 200),
    ("GET", "/home", 401, 200, 200, 200),
    ("GET", "/", 403, 403, 403, 403),
    ("GET", "/grafanax", 403, 403, 403, 403),
    ("GET", "/GRAFANA", 400, 400, 400, 400),
    # Traefik hands on no such address; it never comes to the service's question
    ("GET", "/verify", 403, 403, 403, 403),
    ("GET", "/health", 403, 403, 403, 403),
]


@pytest.mark.parametrize(("method", "path", "nobody", "alice", "dave", "erin"), TABLE)
def test_every_route_and_person(
    site: ForwardAuthSite,
    people: dict[str, httpx.Client],
    method: str,
    path: str,
    nobody: int,
    alice: int,
    dave: int,
    erin: int,
) -> None:
    """Each route lets in whom its rule names, and nobody else comes to the program behind."""
    with site.client() as stranger:
        clients = {"nobody": stranger, **people}
        got = {
            name: client.request(method, site.url + path).status_code
            for name, client in clients.items()
        }
    assert got == {"nobody": nobody, "alice": alice, "dave": dave, "erin": erin}


@pytest.mark.parametrize(
    ("path", "nobody", "alice"),
    [
        ("sign-in", 302, 302),
        ("callback", 400, 400),
        ("sign-out", 302, 200),
        ("signed-out", 200, 200),
        ("back-channel", 405, 405),
        ("verify", 404, 404),
        ("health", 404, 404),
        ("", 404, 404),
        ("../verify", 403, 403),
        ("%2e%2e/health", 403, 403),
    ],
)
def test_every_page(
    site: ForwardAuthSite, people: dict[str, httpx.Client], path: str, nobody: int, alice: int
) -> None:
    """The pages are there for everybody, and nothing else of the service is to be reached."""
    assert plain_tls(site, f"{PREFIX}{path}") == nobody
    cookies = cookies_of(people["alice"])
    assert plain_tls(site, f"{PREFIX}{path}", f"Cookie: {cookies}") == alice


def plain_tls(site: ForwardAuthSite, path: str, *lines: str) -> int:
    """Ask by https for an address just as it is written; return the status."""
    port = int(site.url.rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as raw,
        site.tls().wrap_socket(raw, server_hostname=APPS) as connection,
    ):
        return _ask(connection, path, f"{APPS}:{port}", lines)[0]


def plain(site: ForwardAuthSite, path: str, *lines: str, host: str = APPS) -> tuple[int, str]:
    """Ask by http for an address just as it is written; return status and body."""
    address, _, port = site.plain.partition(":")
    with socket.create_connection((address, int(port)), timeout=20) as connection:
        return _ask(connection, path, host, lines)


def _ask(
    connection: socket.socket, path: str, host: str, lines: tuple[str, ...]
) -> tuple[int, str]:
    head = [f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close", *lines, "", ""]
    connection.sendall("\r\n".join(head).encode("latin-1"))
    answer = b"".join(iter(lambda: connection.recv(65536), b""))
    status, _, body = answer.partition(b"\r\n\r\n")
    return int(status.split()[1]), body.decode("utf-8", "replace")


# ---- ways around ----


@pytest.mark.parametrize(
    "path",
    [way.replace("/admin", "/grafana").replace("admin", "grafana") for way in WAYS_AROUND],
)
def test_no_way_of_writing_a_path_slips_by(site: ForwardAuthSite, path: str) -> None:
    """Whatever Traefik makes of an address: the program behind never gets one that may be guarded."""
    status, body = plain(site, path.replace("%61dmin", "%67rafana"))
    assert status in {200, 400, 401, 403, 404}
    if status == 200:
        seen = json.loads(body[body.index("{") : body.rindex("}") + 1])["path"]
        assert all(each.lower().startswith("/public") for each in readings(seen))


def test_traefik_and_the_service_read_addresses_alike(site: ForwardAuthSite) -> None:
    """What Traefik has tidied up is what is decided on: dots lead to where they lead behind it."""
    assert plain(site, "/public/../public/x")[0] == 200
    assert plain(site, "/grafana/../public/x")[0] == 200
    assert plain(site, "/public/../grafana")[0] == 401
    assert plain(site, "/public/%2e%2e/grafana")[0] == 401
    with pytest.raises(AmbiguousError):
        readings("/%zz")
    assert plain(site, "/%zz")[0] == 400


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (APPS.upper(), 401),
        (f"{APPS}:1234", 401),
        (f"{APPS}.", 401),
        (f"{APPS}:", 400),
        ("evil.test", 404),
        (f"{APPS}.evil.test", 404),
        (f"{APPS}, evil.test", 400),
    ],
)
def test_hosts(site: ForwardAuthSite, host: str, status: int) -> None:
    """A host is the same in capitals, with a dot or a port; what is unclear is refused."""
    assert plain(site, "/home", host=host)[0] in {status, 400, 404}
    assert plain(site, "/home", host=host)[0] != 200


@pytest.mark.parametrize(
    "lines",
    [
        ("X-Forwarded-Uri: /public",),
        ("X-Forwarded-Method: OPTIONS", "X-Forwarded-Uri: /public"),
        (f"X-Forwarded-Host: {APPS}", "X-Forwarded-Uri: /public", "X-Forwarded-Proto: https"),
        ("X_Forwarded_Uri: /public",),
        ("X-Original-URL: /public", "X-Rewrite-URL: /public"),
        ("X-HTTP-Method-Override: OPTIONS",),
        ("Connection: X-Forwarded-Uri, X-Forwarded-Host",),
        ("X-Qhub-Proxy: canary-proxy", "X-Forwarded-Uri: /public"),
    ],
)
def test_nobody_tells_the_service_another_address(
    site: ForwardAuthSite, lines: tuple[str, ...]
) -> None:
    """What a client says of its own request is not believed."""
    assert plain(site, "/grafana", *lines)[0] in {400, 401}


# ---- headers ----


def test_who_it_is_reaches_the_program_behind(
    site: ForwardAuthSite, people: dict[str, httpx.Client]
) -> None:
    """Name, email, groups and roles stand there once; cookies and secrets of ours do not."""
    headers = {"Cookie": f"theirs=1; {cookies_of(people['alice'])}; more=2"}
    with site.client() as client:
        seen = reached(client.get(f"{site.url}/grafana", headers=headers))
    assert seen["x-forwarded-user"] == ["alice"]
    assert seen["x-forwarded-email"] == ["alice@example.org"]
    assert seen["x-forwarded-groups"] == ["/physics,/physics/team-a"]
    assert seen["x-forwarded-roles"] == ["dask_user,grafana_viewer"]
    assert seen["cookie"] == ["theirs=1; more=2"]
    assert "x-qhub-proxy" not in seen


FORGED = [
    [("X-Forwarded-User", "erin")],
    [("x-forwarded-user", "erin"), ("X-FORWARDED-USER", "root")],
    [("X-Forwarded-Groups", "/admins"), ("X-Forwarded-Roles", "jupyterhub_admin")],
    [("X-Forwarded-Email", "root@example.org"), ("Connection", "X-Forwarded-Email")],
    [("X-Forwarded-User", "erin"), ("Connection", "keep-alive, X-Forwarded-User")],
]


@pytest.mark.parametrize("forged", FORGED)
@pytest.mark.parametrize("path", ["/public", "/home"])
def test_headers_of_a_client_never_pass_for_ours(
    site: ForwardAuthSite,
    people: dict[str, httpx.Client],
    forged: list[tuple[str, str]],
    path: str,
) -> None:
    """Whatever a client sends by our headers' names, the program behind sees only what we say."""
    if path == "/public":
        with site.client() as client:
            seen = reached(client.get(site.url + path, headers=forged))
        assert not [name for name in NAMED if name.lower() in seen]
        return
    seen = reached(people["dave"].get(site.url + path, headers=forged))
    assert seen["x-forwarded-user"] == ["dave"]
    assert seen["x-forwarded-groups"] == ["/physics"]
    assert seen["x-forwarded-email"] == ["dave@example.org"]


@pytest.mark.parametrize(
    "name", ["X_Forwarded_User", "X-Forwarded_Groups", "X.Forwarded.Roles", "x_forwarded_email"]
)
def test_headers_that_look_like_ours_are_refused(
    site: ForwardAuthSite, people: dict[str, httpx.Client], name: str
) -> None:
    """Traefik hands on `X_Forwarded_User`, which some programs take for ours: it is refused."""
    assert people["dave"].get(f"{site.url}/home", headers={name: "erin"}).status_code == 400
    with site.client() as client:
        assert client.get(f"{site.url}/public", headers={name: "erin"}).status_code == 400


def test_headers_by_a_pattern(spare: Any, make_realm: Callable[..., Any]) -> None:
    """With `authResponseHeadersRegex`, and believing an outer proxy, it holds just the same."""
    with ForwardAuthSite(spare, make_realm(), regex=True, trust=True) as other:
        with other.signed_in("dave") as dave:
            for forged in FORGED:
                seen = reached(dave.get(f"{other.url}/home", headers=forged))
                assert seen["x-forwarded-user"] == ["dave"]
                assert seen["x-forwarded-groups"] == ["/physics"]
                assert not [name for name in HIDDEN if name.lower() in seen]
            alias = dave.get(f"{other.url}/home", headers={"X_Forwarded_User": "x"})
            assert alias.status_code == 400
        assert plain(other, "/grafana", "X-Forwarded-Uri: /public")[0] in {400, 401}


def test_names_of_all_kinds_reach_the_program_behind(site: ForwardAuthSite) -> None:
    """A group with a comma or letters beyond ASCII comes out of the header as it is."""
    names = ["a,b", "Köln", '50% "x"', "x; y=z"]
    for name in names:
        site.realm.admin.add_group(f"/{name}")
        site.realm.admin.add_member("carol", f"/{name}")
    with site.signed_in("carol") as carol:
        header = reached(carol.get(f"{site.url}/home"))["x-forwarded-groups"][0]
    groups = [httpx.URL(f"http://x/?{each}").query.decode() for each in header.split(",")]
    assert len(groups) == len({*names, "/physics", "/physics/team-a", "/physics/team-a/readers"})
    assert "/a%2Cb" in header
    assert "/K%C3%B6ln" in header
    assert header.isascii()


# ---- sockets ----


def test_websockets(site: ForwardAuthSite, people: dict[str, httpx.Client]) -> None:
    """Who is signed in opens a WebSocket, with the same headers; who is not gets a 401."""
    cookies = cookies_of(people["alice"])

    def opened(path: str, headers: dict[str, str]) -> Any:
        port = int(site.url.rpartition(":")[2])
        return connect(
            f"wss://{APPS}:{port}{path}",
            sock=socket.create_connection(("127.0.0.1", port), timeout=20),
            ssl=site.tls(),
            server_hostname=APPS,
            additional_headers=headers,
            proxy=None,
        )

    with opened("/grafana/live", {"Cookie": cookies, "X-Forwarded-User": "erin"}) as channel:
        seen = {name.lower(): value for name, value in json.loads(channel.recv(20)).items()}
        assert seen["x-forwarded-user"] == "alice"
        assert "__Host-" not in seen.get("cookie", "")
        channel.send("hello")
        assert channel.recv(20) == "hello"
    for path, headers, status in (
        ("/grafana/live", {}, 401),
        ("/prometheus", {"Cookie": cookies}, 403),
        ("/grafana/live", {"Cookie": cookies, "X_Forwarded_User": "erin"}, 400),
    ):
        with pytest.raises(InvalidStatus) as caught, opened(path, headers):
            pass
        assert caught.value.response.status_code == status


# ---- access tokens ----


def test_access_tokens(site: ForwardAuthSite) -> None:
    """A program with an access token for the audience is let in, and the token goes no further."""
    token = site.realm.tokens("alice")["access_token"]
    with site.client(Authorization=f"Bearer {token}") as client:
        answer = client.get(f"{site.url}/grafana")
        assert answer.status_code == 200
        seen = reached(answer)
        assert seen["x-forwarded-user"] == ["alice"]
        assert "authorization" not in seen
        refused = client.get(f"{site.url}/prometheus")
        assert refused.status_code == 403
        assert refused.json()["missing"] == ["the role monitoring_viewer"]
    header, payload, signature = token.split(".")
    forged = [
        f"{header}.{payload}.{'A' * len(signature)}",
        f"{header}.{payload}.",
        f"eyJhbGciOiJub25lIn0.{payload}.",
        site.realm.tokens("alice")["id_token"],
        site.realm.tokens("alice")["refresh_token"],
        "nonsense",
    ]
    for each in forged:
        with site.client(Authorization=f"Bearer {each}") as client:
            answer = client.get(f"{site.url}/grafana")
        assert answer.status_code == 401
        assert "invalid_token" in answer.headers["WWW-Authenticate"]


def test_an_access_token_of_another_realm(
    site: ForwardAuthSite, make_realm: Callable[..., Any]
) -> None:
    """A token that another realm of the same Keycloak signed opens nothing."""
    token = make_realm().tokens("erin")["access_token"]
    with site.client(Authorization=f"Bearer {token}") as client:
        assert client.get(f"{site.url}/prometheus").status_code == 401


# ---- the life of a session ----


def test_the_way_in_and_out(site: ForwardAuthSite) -> None:
    """A browser is sent to log in, comes back to where it wanted to go, and signs out of both."""
    with site.client(Accept="text/html") as browser:
        first = browser.get(f"{site.url}/grafana/d?x=1&y=%20")
        assert first.status_code == 302
        assert first.headers["Location"].startswith(f"{site.url}{PREFIX}sign-in?return_to=")
        page = site.realm.log_in(browser, f"{site.url}/grafana/d?x=1&y=%20", "alice")
        assert str(page.url) == f"{site.url}/grafana/d?x=1&y=%20"
        cookie = next(each for each in browser.cookies.jar if each.name.endswith("forward-auth"))
        assert cookie.name == "__Host-qhub-forward-auth"
        assert cookie.secure
        assert cookie.has_nonstandard_attr("HttpOnly")
        assert cookie.domain == APPS
        # the other host takes its own cookie, by the same log-in and without a page
        there = site.realm.log_in(browser, f"{site.other_url}/x", "alice", "not-needed")
        assert str(there.url) == f"{site.other_url}/x"
        # a link only asks
        asked = browser.get(f"{site.url}{PREFIX}sign-out")
        assert browser.get(f"{site.url}/home").status_code == 200
        form = forms(asked.text)[0]
        answer = browser.post(f"{site.url}{form.action}", data=form.fields)
        assert answer.status_code == 303
        target = urlsplit(answer.headers["Location"])
        assert parse_qs(target.query)["id_token_hint"]
        out = browser.get(answer.headers["Location"], follow_redirects=True)
        assert str(out.url) == f"{site.url}{PREFIX}signed-out"
        # both hosts are signed out, and Keycloak asks for the password again
        assert browser.get(f"{site.url}/home").status_code == 302
        assert browser.get(f"{site.other_url}/").status_code == 302
        with pytest.raises(PageError):
            site.realm.log_in(browser, f"{site.url}/home", "alice", "wrong")


def test_a_log_out_at_keycloak_counts_at_once(site: ForwardAuthSite) -> None:
    """Keycloak's own log-out ends the session here without anybody's waiting for a renewal."""
    with site.signed_in("bob") as bob:
        assert bob.get(f"{site.url}/home").status_code == 200
        for each in site.realm.admin.sessions("bob"):
            site.realm.admin.end_session(each["id"])
        site.realm.admin.log_out("bob")
        began = time.monotonic()
        wait_until(
            lambda: bob.get(f"{site.url}/home").status_code == 401, DEADLINE, "the end of it"
        )
        assert time.monotonic() - began < CHECK + 3


def test_roles_change_without_signing_in_again(site: ForwardAuthSite) -> None:
    """A role that is given or taken counts within the time that what Keycloak said counts."""
    admin = site.realm.admin
    with site.signed_in("dave") as dave:
        assert dave.get(f"{site.url}/prometheus").status_code == 403
        admin.give_role("dave", "monitoring_viewer")

        def status() -> int:
            return dave.get(f"{site.url}/prometheus").status_code

        wait_until(lambda: status() == 200, DEADLINE, "the role", poll_seconds=0.2)
        admin.take_role("dave", "monitoring_viewer")
        wait_until(lambda: status() == 403, DEADLINE, "its end", poll_seconds=0.2)


def test_who_is_disabled_is_out(site: ForwardAuthSite) -> None:
    """A disabled person's session is over when Keycloak is asked next."""
    site.realm.admin.add_person("frank", password="frank-demo")
    with site.client(Accept="text/html") as browser:
        site.realm.log_in(browser, f"{site.url}/home", "frank", "frank-demo")
        frank = site.client()
        frank.cookies = browser.cookies
    with frank:
        assert frank.get(f"{site.url}/home").status_code == 200
        site.realm.admin.disable("frank")
        wait_until(
            lambda: frank.get(f"{site.url}/home").status_code == 401,
            DEADLINE,
            "the end of it",
            poll_seconds=0.2,
        )


def test_many_tabs_and_refresh_tokens_that_are_good_once(
    spare: Any, make_realm: Callable[..., Any]
) -> None:
    """Twenty requests at once, each time that Keycloak has to be asked, and none is sent away."""
    realm = make_realm(refresh_token_rotation=True)
    with (
        ForwardAuthSite(spare, realm, settings={"session_seconds": CHECK}) as other,
        other.signed_in("alice") as alice,
        concurrent.futures.ThreadPoolExecutor(20) as pool,
    ):
        deadline = time.monotonic() + 2 * CHECK + 1
        seen: set[int] = set()
        while time.monotonic() < deadline:
            asked = [pool.submit(alice.get, f"{other.url}/home") for _ in range(20)]
            seen |= {each.result().status_code for each in asked}
        assert seen == {200}


def test_a_restart_is_not_noticed(site: ForwardAuthSite, people: dict[str, httpx.Client]) -> None:
    """Sessions outlive a restart; while the service is away, nobody comes through."""
    site.service.end()
    try:
        assert people["alice"].get(f"{site.url}/home").status_code >= 500
        assert people["alice"].get(f"{site.url}/public").status_code >= 500
    finally:
        site.service.launch()
        site.service.wait_ready()
    assert people["alice"].get(f"{site.url}/home").status_code == 200


def test_keycloak_down(spare: Any) -> None:
    """Who is in goes on, who comes gets a page that says so, nothing opens; then all is well again."""
    try:
        own = KeycloakSystem()
        own.start()
    except SystemUnavailableError as error:
        from tests.conftest import missing

        missing("Keycloak", error)
    try:
        realm = own.make_realm()
        with ForwardAuthSite(spare, realm, settings={"session_seconds": CHECK}) as site:
            alice = site.signed_in("alice")
            own.stop_daemon()
            deadline = time.monotonic() + CHECK + 2
            while time.monotonic() < deadline:
                assert alice.get(f"{site.url}/grafana").status_code == 200
                assert alice.get(f"{site.url}/prometheus").status_code == 403
            site.restart()  # without Keycloak
            assert alice.get(f"{site.url}/grafana").status_code == 200
            with site.client(Accept="text/html") as stranger:
                page = stranger.get(f"{site.url}/grafana", follow_redirects=True)
                assert page.status_code == 503
                assert "does not answer" in page.text
            with site.client() as program:
                assert program.get(f"{site.url}/grafana").status_code == 401
            own.start_daemon()

            def answers() -> bool:
                with site.client(Accept="text/html") as browser:
                    return browser.get(f"{site.url}{PREFIX}sign-in").status_code == 302

            wait_until(answers, DEADLINE, "a log-in", poll_seconds=0.2)
            with site.signed_in("dave") as dave:
                assert dave.get(f"{site.url}/grafana").status_code == 200
            alice.close()
    finally:
        own.stop()


def test_a_service_of_the_hub(
    user_bin: Any, make_realm: Callable[..., Any], tmp_path: Path
) -> None:
    """The hub starts it and hands on its pages, never the proxy's question; a log-in works there."""
    realm, ports = make_realm(), Ports()
    (port,) = ports.reserve()
    settings = tmp_path / "forward_auth_config.py"
    settings.write_text(
        f"c.Keycloak.issuer = {realm.issuer!r}\n"
        f"c.Keycloak.client_id = {realm.forward_auth_client_id!r}\n"
        f"c.Keycloak.client_secret = {realm.forward_auth_secret!r}\n"
        "c.ForwardAuth.allow_http = True\n"
        "c.ForwardAuth.routes = [{'hosts': ['127.0.0.1'], 'signed_in': True}]\n"
    )
    path = os.pathsep.join(str(Path(each).resolve()) for each in sys.path)
    service = {
        "name": "forward-auth",
        "url": f"http://127.0.0.1:{port}",
        "command": [
            sys.executable,
            "-m",
            "qhub_auth.forward_auth.service",
            "--config",
            str(settings),
        ],
        "environment": {"PYTHONPATH": path},
    }
    config = f"c.JupyterHub.services.append({service!r})\nc.JupyterHub.spawner_class = 'simple'\n"
    with HubSystem(tmp_path / "hub", config, environment_bin=user_bin) as hub:
        base = f"{hub.url}services/forward-auth/"
        realm.admin.update_client(realm.forward_auth_client_id, redirectUris=[f"{base}callback"])
        with httpx.Client(headers={"Accept": "text/html"}, timeout=30) as browser:
            wait_until(
                lambda: browser.get(f"{base}signed-out").status_code == 200, DEADLINE, "its pages"
            )
            assert browser.get(f"{base}verify").status_code == 404
            start = f"{base}sign-in?return_to={quote(hub.url + 'x')}"
            answer = realm.log_in(browser, start, "alice", until=f"{hub.url}x")
            assert answer.headers["Location"] == f"{hub.url}x"
            asked = {"Method": "GET", "Proto": "http", "Host": "127.0.0.1", "Uri": "/x"}
            headers = {f"X-Forwarded-{name}": value for name, value in asked.items()}
            said = browser.get(f"http://127.0.0.1:{port}/verify", headers=headers)
            assert said.headers["X-Forwarded-User"] == "alice"
    ports.release()


def test_secrets_stand_nowhere(site: ForwardAuthSite) -> None:
    """No code, token, cookie or secret is in the service's log, Traefik's log, or files others read."""
    with site.client(Accept="text/html") as browser:
        urls: list[str] = []
        browser.event_hooks = {"response": [lambda answer: urls.append(str(answer.url))]}
        site.realm.log_in(browser, f"{site.url}/grafana?token=canary-query", "erin")
        cookies = [str(each.value) for each in browser.cookies.jar if each.domain == APPS]
    queries = [parse_qs(urlsplit(url).query) for url in urls]
    passed = [each[name][0] for each in queries for name in ("state", "code") if name in each]
    assert len(set(passed)) == 2
    token = site.realm.tokens("erin")["access_token"]
    with site.client(Authorization=f"Bearer {token}") as client:
        client.get(f"{site.url}/grafana")
        client.get(f"{site.url}/prometheus", headers={"Authorization": f"Bearer {token}x"})
    needles = [*cookies, *passed, token, site.realm.forward_auth_secret, "canary-proxy"]
    text = site.log.read_text()
    assert "signed in" in text
    assert "Traceback" not in text
    for needle in [*needles, "canary-query"]:
        assert needle not in text
        # at DEBUG, Traefik logs its own configuration, and the proxy's secret stands there
        assert needle == "canary-proxy" or needle not in site.traefik.log.read_text()
    secret = site.folder / "sessions.sqlite"
    assert secret.stat().st_mode & 0o077 == 0
    for path in site.folder.glob("sessions.sqlite*"):
        raw = path.read_bytes()
        assert not [each for each in (*needles, "erin@example.org") if each.encode() in raw]
