"""The web service over a unix socket, with a Keycloak in memory: every endpoint, and attacks on it."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from cryptography.fernet import Fernet
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_unix_socket
from traitlets.config import Config

from qhub_auth.errors import ConfigurationError
from qhub_auth.forward_auth import deciding as deciding_module
from qhub_auth.forward_auth.deciding import Deciding
from qhub_auth.forward_auth.service import ForwardAuth, main
from qhub_auth.forward_auth.serving import application
from qhub_auth.keycloak import oidc
from qhub_auth.keycloak.settings import Keycloak
from tests.unit.memory_keycloak import CLIENT, FORGED, ISSUER, SECRET, MemoryKeycloak

APPS, OTHER = "apps.example.org", "other.example.org"
ROUTES = [
    {"hosts": [APPS], "path": "/public", "public": True},
    {"hosts": [APPS], "path": "/admin", "any_role": ["admin"], "name": "The admin page"},
    {"hosts": [APPS], "path": "/physics", "any_group": ["/physics"]},
    {"hosts": [APPS], "path": "/api", "signed_in": True, "api": True},
    {"hosts": [APPS, OTHER], "path": "/", "signed_in": True},
]
PEOPLE = {
    "alice": {
        "groups": ["/physics/lab"],
        "resource_access": {CLIENT: {"roles": ["admin"]}, "another": {"roles": ["root"]}},
        "email": "alice@example.org",
    },
    "bob": {"groups": [], "resource_access": {"another": {"roles": ["admin"]}}},
}
BROWSER = {"Accept": "text/html,*/*", "Sec-Fetch-Mode": "navigate"}
PREFIX = "/_qhub/"


class Site:
    """The service, and one way to talk to it as the proxy does."""

    def __init__(self, deciding: Deciding, keycloak: MemoryKeycloak, http: httpx.AsyncClient):
        self.deciding = deciding
        self.keycloak = keycloak
        self.http = http

    async def verify(
        self,
        path: str = "/",
        *,
        host: str = APPS,
        method: str = "GET",
        scheme: str = "https",
        cookies: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        return await self.http.get(
            "/verify",
            headers={
                "X-Forwarded-Method": method,
                "X-Forwarded-Proto": scheme,
                "X-Forwarded-Host": host,
                "X-Forwarded-Uri": path,
                **cookie_header(cookies),
                **(headers or {}),
            },
        )

    async def page(
        self,
        name: str,
        query: dict[str, str] | None = None,
        *,
        host: str = APPS,
        scheme: str = "https",
        cookies: dict[str, str] | None = None,
        form: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        return await self.http.request(
            "GET" if form is None else "POST",
            f"{PREFIX}{name}" + (f"?{urlencode(query)}" if query else ""),
            headers={
                "Host": host,
                "X-Forwarded-Host": host,
                "X-Forwarded-Proto": scheme,
                "Accept": "text/html",
                **cookie_header(cookies),
                **(headers or {}),
            },
            data=form,
        )

    async def begin(
        self, return_to: str = f"https://{APPS}/admin?x=1", **options: Any
    ) -> tuple[str, dict[str, str]]:
        """Begin a log-in; return Keycloak's page and the cookies."""
        answer = await self.page("sign-in", {"return_to": return_to}, **options)
        assert answer.status_code == 302, answer.text
        return answer.headers["location"], set_cookies(answer)

    async def sign_in(self, name: str, **options: Any) -> dict[str, str]:
        """Sign in; return the cookies."""
        url, cookies = await self.begin(f"{options.get('scheme', 'https')}://{APPS}/", **options)
        back = self.keycloak.log_in(url, name)
        answer = await self.page("callback", back, cookies=cookies, **options)
        assert answer.status_code == 302, answer.text
        return {**cookies, **set_cookies(answer)}


def cookie_header(cookies: dict[str, str] | None) -> dict[str, str]:
    pairs = "; ".join(f"{name}={value}" for name, value in (cookies or {}).items())
    return {"Cookie": pairs} if pairs else {}


def set_cookies(answer: httpx.Response) -> dict[str, str]:
    pairs = (
        each.partition(";")[0].partition("=") for each in answer.headers.get_list("set-cookie")
    )
    return {name: value for name, _, value in pairs}


def configured(**settings: Any) -> ForwardAuth:
    own = {"routes": ROUTES, **settings}
    client = {"issuer": ISSUER, "client_id": CLIENT, "client_secret": SECRET}
    return ForwardAuth(config=Config({"ForwardAuth": own, "Keycloak": client}))


Make = Callable[..., Any]


@pytest.fixture
async def make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., Any]]:
    """Make sites with settings of their own."""
    ended: list[Any] = []
    keycloak = MemoryKeycloak(PEOPLE)
    monkeypatch.setattr(Keycloak, "new_client", lambda _: keycloak.client())

    async def site(**settings: Any) -> Site:
        deciding = configured(**settings).deciding()
        server = HTTPServer(application(deciding))
        path = tmp_path / f"s{len(ended)}"
        server.add_socket(bind_unix_socket(str(path)))
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        http = httpx.AsyncClient(transport=transport, base_url="http://service", timeout=20)
        ended.append((server, http, deciding))
        return Site(deciding, keycloak, http)

    yield site
    for server, http, deciding in ended:
        await http.aclose()
        server.stop()
        await server.close_all_connections()
        await deciding.signing_in.settings.aclose()
        deciding.sessions.close()


@pytest.fixture
async def site(make: Make) -> Site:
    """A site as it comes, which takes access tokens too."""
    made: Site = await make(bearer_audiences=["api"])
    return made


# ---- who may open what ----


@pytest.mark.parametrize(
    ("path", "nobody", "bob", "alice"),
    [
        ("/public/x", 200, 200, 200),
        ("/admin", 401, 403, 200),
        ("/admin/x?y=1", 401, 403, 200),
        ("/physics", 401, 403, 200),
        ("/api", 401, 200, 200),
        ("/", 401, 200, 200),
        ("/public/..%2fadmin", 400, 400, 400),
        ("/ADMIN", 400, 400, 400),
    ],
)
async def test_routes_by_person(site: Site, path: str, nobody: int, bob: int, alice: int) -> None:
    """Programs get 401 without a log-in and 403 without the role, on each route."""
    cookies = {name: await site.sign_in(name) for name in ("alice", "bob")}
    assert (await site.verify(path)).status_code == nobody
    assert (await site.verify(path, cookies=cookies["bob"])).status_code == bob
    assert (await site.verify(path, cookies=cookies["alice"])).status_code == alice


async def test_a_host_without_a_route(site: Site) -> None:
    """Where no rule says who may come in, nobody may."""
    cookies = await site.sign_in("alice")
    for host in ("elsewhere.test", f"x.{APPS}", f"{APPS}.evil.test"):
        assert (await site.verify("/", host=host, cookies=cookies)).status_code == 403


async def test_who_it_is_goes_to_the_program_behind(site: Site) -> None:
    """Name, email, groups with those above, and the client's own roles; our cookies do not."""
    cookies = await site.sign_in("alice")
    answer = await site.verify("/admin", cookies={**cookies, "theirs": "1"})
    assert answer.headers["X-Forwarded-User"] == "alice"
    assert answer.headers["X-Forwarded-Email"] == "alice@example.org"
    assert answer.headers["X-Forwarded-Groups"] == "/physics,/physics/lab"
    assert answer.headers["X-Forwarded-Roles"] == "admin"
    assert answer.headers["Cookie"] == "theirs=1"
    assert answer.content == b""
    nobody = await site.verify("/public")
    assert not [name for name in nobody.headers if name.startswith("x-forwarded")]
    assert "cookie" not in nobody.headers


async def test_a_refusal_names_what_is_missing(site: Site) -> None:
    """People read which role or group they lack, programs get it as data."""
    cookies = await site.sign_in("bob")
    page = await site.verify("/admin", cookies=cookies, headers=BROWSER)
    assert page.status_code == 403
    assert "The admin page needs the role admin" in page.text
    assert "signed in as bob" in page.text
    data = (await site.verify("/physics", cookies=cookies)).json()
    assert data["missing"] == ["the group /physics"]


async def test_browsers_are_sent_to_log_in(site: Site) -> None:
    """A page that a person opens leads to the log-in and back to where they wanted to go."""
    answer = await site.verify("/admin?a=b&c=%2F", headers=BROWSER)
    assert answer.status_code == 302
    where = urlsplit(answer.headers["location"])
    assert (where.scheme, where.netloc, where.path) == ("https", APPS, f"{PREFIX}sign-in")
    assert parse_qs(where.query) == {"return_to": [f"https://{APPS}/admin?a=b&c=%2F"]}


@pytest.mark.parametrize(
    ("path", "method", "headers"),
    [
        ("/", "GET", {"Accept": "application/json"}),
        ("/", "POST", BROWSER),
        ("/", "GET", {**BROWSER, "Sec-Fetch-Mode": "cors"}),
        ("/", "GET", {**BROWSER, "Sec-Fetch-Mode": "websocket"}),
        ("/", "GET", {"Accept": "text/html", "Sec-WebSocket-Key": "x"}),
        ("/", "GET", {"Accept": "text/html", "Authorization": "Bearer nonsense"}),
        ("/api/x", "GET", BROWSER),
    ],
)
async def test_programs_get_a_plain_401(
    site: Site, path: str, method: str, headers: dict[str, str]
) -> None:
    """Scripts, forms, sockets and API routes are told that they are not signed in, and how to be."""
    answer = await site.verify(path, method=method, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.json()["status"] == 401
    assert "location" not in answer.headers


# ---- whose word counts ----


async def test_only_the_proxy_is_believed(make: Make, tmp_path: Path) -> None:
    """Who is not a trusted proxy learns nothing, and is not believed."""
    stranger = await make(trusted_proxies=["198.51.100.1"])
    assert (await stranger.verify("/public")).status_code == 403
    secret = tmp_path / "secret"
    secret.write_text("canary-proxy\n")
    guarded = await make(proxy_secret_file=str(secret))
    assert (await guarded.verify("/public")).status_code == 403
    wrong = await guarded.verify("/public", headers={"X-Qhub-Proxy": "canary-prox"})
    assert wrong.status_code == 403
    right = await guarded.verify("/public", headers={"X-Qhub-Proxy": "canary-proxy"})
    assert right.status_code == 200


@pytest.mark.parametrize("missing", ["Method", "Proto", "Host", "Uri"])
async def test_a_question_without_its_headers(site: Site, missing: str) -> None:
    """A proxy that is not set up to ask gets 400, never 200."""
    sent = {"Method": "GET", "Proto": "https", "Host": APPS, "Uri": "/public"}
    del sent[missing]
    headers = {f"X-Forwarded-{name}": value for name, value in sent.items()}
    assert (await site.http.get("/verify", headers=headers)).status_code == 400


async def test_headers_that_look_like_ours_are_refused(site: Site) -> None:
    """A client cannot come with what a program behind takes for the proxy's word."""
    cookies = await site.sign_in("bob")
    for name in ("X_Forwarded_User", "X.Forwarded.User", "X_Forwarded-Groups"):
        answer = await site.verify("/", cookies=cookies, headers={name: "admin"})
        assert answer.status_code == 400, name
    plain = await site.verify("/", cookies=cookies, headers={"X-Forwarded-User": "admin"})
    assert plain.headers["X-Forwarded-User"] == "bob"


async def test_the_proxys_question_stands_apart_from_the_pages(site: Site) -> None:
    """The proxy hands on the pages alone: the question is not below their prefix."""
    for path in (f"{PREFIX}verify", f"{PREFIX}%2e%2e/verify", f"{PREFIX}health", "/", PREFIX):
        assert (await site.http.get(path)).status_code == 404
    assert (await site.http.get("/health")).json() == {"status": "ok"}


# ---- signing in ----


async def test_signing_in(site: Site) -> None:
    """State, nonce and PKCE go out; a guarded cookie and the way back come in."""
    url, cookies = await site.begin()
    query = parse_qs(urlsplit(url).query)
    assert url.startswith(f"{ISSUER}/protocol/openid-connect/auth?")
    assert query["redirect_uri"] == [f"https://{APPS}{PREFIX}callback"]
    assert query["scope"] == ["openid profile email"]
    assert len(query["nonce"][0]) >= 32
    assert list(cookies) == ["__Host-qhub-forward-auth-log-in"]
    back = site.keycloak.log_in(url, "alice")
    answer = await site.page("callback", back, cookies=cookies)
    assert answer.headers["location"] == f"https://{APPS}/admin?x=1"
    header = next(each for each in answer.headers.get_list("set-cookie"))
    assert header.startswith("__Host-qhub-forward-auth=")
    for part in ("HttpOnly", "Secure", "SameSite=Lax", "Path=/"):
        assert part in header
    assert "Domain" not in header


async def test_several_tabs_at_once(site: Site) -> None:
    """Log-ins that one browser began side by side all come to their own end."""
    first, cookies = await site.begin(f"https://{APPS}/one")
    second, again = await site.begin(f"https://{APPS}/two", cookies=cookies)
    assert again == cookies
    for url, path in ((second, "/two"), (first, "/one")):
        back = site.keycloak.log_in(url, "alice")
        answer = await site.page("callback", back, cookies=cookies)
        assert answer.headers["location"] == f"https://{APPS}{path}"


async def test_login_csrf(site: Site) -> None:
    """Nobody can be signed in as somebody else by a link: the way back is one browser's."""
    url, _ = await site.begin()
    back = site.keycloak.log_in(url, "alice")
    _, others = await site.begin()
    for cookies in (None, others, {"__Host-qhub-forward-auth-log-in": "x" * 43}):
        answer = await site.page("callback", back, cookies=cookies)
        assert answer.status_code == 400
        assert "set-cookie" not in answer.headers
    assert len(site.deciding.sessions) == 0


async def test_session_fixation(site: Site) -> None:
    """A log-in is always a new session, and the one before it in that browser ends."""
    before = await site.sign_in("bob")
    url, cookies = await site.begin(cookies=before)
    back = site.keycloak.log_in(url, "alice")
    answer = await site.page("callback", back, cookies={**before, **cookies})
    name = "__Host-qhub-forward-auth"
    after = set_cookies(answer)[name]
    assert after != before[name]
    assert (await site.verify("/", cookies=before)).status_code == 401
    assert (await site.verify("/admin", cookies={name: after})).status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        {"state": ""},
        {"state": "x" * 7000},
        {"state": "gAAAAA"},
        {"code": ""},
        {"code": "another"},
        {"iss": "https://evil.test"},
        {"iss": ""},
        {"error": "access_denied"},
    ],
)
async def test_a_way_back_that_is_not_good(site: Site, change: dict[str, str]) -> None:
    """A missing, foreign or used answer signs nobody in, and the page says how to try again."""
    url, cookies = await site.begin()
    back = {**site.keycloak.log_in(url, "alice"), **change}
    answer = await site.page("callback", back, cookies=cookies)
    assert answer.status_code == 400
    assert "set-cookie" not in answer.headers
    assert f"https://{APPS}{PREFIX}sign-in" in answer.text
    assert len(site.deciding.sessions) == 0


async def test_a_log_out_during_a_log_in(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log-out that comes while the code is being exchanged is not overtaken by the log-in."""
    url, cookies = await site.begin()
    back = site.keycloak.log_in(url, "alice")
    finish = site.deciding.signing_in.finish

    async def slow(*arguments: Any, **options: Any) -> Any:
        session = await finish(*arguments, **options)
        await site.deciding.log_out(site.keycloak.logout_token(sid="sid-alice"))
        return session

    monkeypatch.setattr(site.deciding.signing_in, "finish", slow)
    assert (await site.page("callback", back, cookies=cookies)).status_code == 400
    assert len(site.deciding.sessions) == 0


async def test_a_code_is_good_once(site: Site) -> None:
    """Whoever sees the address of the way back can do nothing with it any more."""
    url, cookies = await site.begin()
    back = site.keycloak.log_in(url, "alice")
    assert (await site.page("callback", back, cookies=cookies)).status_code == 302
    assert (await site.page("callback", back, cookies=cookies)).status_code == 400
    assert len(site.deciding.sessions) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "another", "azp": "another"},
        {"iss": "https://evil.test"},
        {"exp": 1000},
        {"iat": 9_999_999_999},
        {"typ": "Bearer"},
        {"sub": None},
        {"preferred_username": None},
    ],
)
async def test_forged_id_tokens(site: Site, change: dict[str, Any]) -> None:
    """An id token that is not Keycloak's, not ours, not now, or of another log-in signs nobody in."""
    url, cookies = await site.begin()
    back = site.keycloak.log_in(url, "alice")
    site.keycloak.change = change
    answer = await site.page("callback", back, cookies=cookies)
    assert answer.status_code == 400
    assert len(site.deciding.sessions) == 0


async def test_a_log_in_that_took_too_long_begins_anew(make: Make) -> None:
    """Who left Keycloak's page open over lunch is sent there again, and not lost."""
    site = await make(log_in_seconds=30.0)
    url, cookies = await site.begin()
    back = site.keycloak.log_in(url, "alice")
    site.deciding.settings = type(site.deciding.settings)(
        **{
            name: getattr(site.deciding.settings, name)
            for name in site.deciding.settings.__dataclass_fields__
            if name != "log_in_seconds"
        },
        log_in_seconds=-1,
    )
    answer = await site.page("callback", back, cookies=cookies)
    assert answer.status_code == 302
    assert answer.headers["location"].startswith(f"https://{APPS}{PREFIX}sign-in?")
    assert len(site.deciding.sessions) == 0


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.test/",
        "//evil.test/",
        "https:evil.test",
        "https:///evil.test",
        "/\\evil.test",
        f"https://{APPS}@evil.test/",
        f"https://{APPS}.evil.test/",
        f"https://evil.test\\@{APPS}/",
        f"https://evil.test#@{APPS}/",
        f"http://{APPS}/",
        f"https://{APPS}:8443/",
        f"ftp://{APPS}/",
        "javascript:alert(1)",
        "data:text/html,x",
        f"https://{APPS}/\r\nSet-Cookie: x=y",
        f"https://{APPS}/\té",
        f" https://{APPS}/",
        "/relative",
        "",
        f"https://{APPS}/" + "x" * 2000,
    ],
)
async def test_open_redirects(site: Site, target: str) -> None:
    """After a log-in people come to a host with a route and nowhere else, whatever a link says."""
    url, cookies = await site.begin(target)
    back = site.keycloak.log_in(url, "bob")
    answer = await site.page("callback", back, cookies=cookies)
    assert answer.headers["location"] == f"https://{APPS}/"


async def test_people_come_back_to_another_host_of_ours(make: Make) -> None:
    """With one cookie for a domain, the log-in of one host leads to another that has a route."""
    site = await make(cookie_domain="example.org", sign_in_origin="https://auth.example.org")
    asked = await site.verify("/x", host=OTHER, headers=BROWSER)
    assert asked.headers["location"].startswith(f"https://auth.example.org{PREFIX}sign-in?")
    url, cookies = await site.begin(f"https://{OTHER}/x", host="auth.example.org")
    back = site.keycloak.log_in(url, "bob")
    answer = await site.page("callback", back, cookies=cookies, host="auth.example.org")
    assert answer.headers["location"] == f"https://{OTHER}/x"
    header = answer.headers.get_list("set-cookie")[0]
    assert header.startswith("__Secure-qhub-forward-auth=")
    assert "Domain=example.org" in header
    cookies = set_cookies(answer)
    assert (await site.verify("/", host=OTHER, cookies=cookies)).status_code == 200
    assert (await site.verify("/", cookies=cookies)).status_code == 200
    # another host of the domain may have planted a second one: neither counts
    ((name, value),) = cookies.items()
    two = {"Cookie": f"{name}={value}; {name}=planted"}
    assert (await site.verify("/", headers=two)).status_code == 401
    elsewhere = await site.page("sign-in", host=APPS)
    assert elsewhere.status_code == 400


async def test_pages_are_for_hosts_with_a_route(site: Site) -> None:
    """Nobody signs in by a name that is not ours, or without https."""
    for host in ("evil.test", f"{APPS}, evil.test", ""):
        assert (await site.page("sign-in", host=host)).status_code == 400
    assert (await site.page("sign-in", scheme="http")).status_code == 400


async def test_plain_http_for_trying_out(make: Make) -> None:
    """Where it is allowed, http works, with cookies that are never taken on https."""
    site = await make(allow_http=True)
    cookies = await site.sign_in("alice", scheme="http")
    assert (await site.verify("/admin", scheme="http", cookies=cookies)).status_code == 200
    assert (await site.verify("/admin", scheme="https", cookies=cookies)).status_code == 401
    strict = await make()
    assert (await strict.verify("/admin", scheme="http", cookies=cookies)).status_code == 401


# ---- a session's life ----


async def test_no_call_to_keycloak_for_a_request(site: Site) -> None:
    """A hundred requests of somebody who is signed in ask Keycloak nothing."""
    cookies = await site.sign_in("alice")
    before = len(site.keycloak.calls)
    for _ in range(100):
        assert (await site.verify("/admin", cookies=cookies)).status_code == 200
    assert len(site.keycloak.calls) == before


def aged(site: Site) -> None:
    """Make every session one that Keycloak has to be asked about."""
    sessions = site.deciding.sessions
    for session in list(sessions._of_id.values()):
        sessions.renew(session, now=session.started, checked=0.0)


async def test_a_session_is_renewed_once_for_all_requests(site: Site) -> None:
    """Many requests at once ask once, and refresh tokens that are good for once still work."""
    cookies = await site.sign_in("alice")
    for _ in range(3):
        aged(site)
        before = len(site.keycloak.calls)
        answers = await asyncio.gather(*(site.verify("/", cookies=cookies) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert site.keycloak.calls[before:] == ["/realms/hub/protocol/openid-connect/token"]


async def test_roles_change_with_a_renewal(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A role that was taken away is gone when Keycloak is asked next."""
    cookies = await site.sign_in("alice")
    changed = {**PEOPLE["alice"], "resource_access": {CLIENT: {"roles": []}}}
    monkeypatch.setitem(site.keycloak.people, "alice", changed)
    assert (await site.verify("/admin", cookies=cookies)).status_code == 200
    aged(site)
    assert (await site.verify("/admin", cookies=cookies)).status_code == 403


async def test_a_renewal_for_somebody_else_is_not_taken(site: Site) -> None:
    """A renewed token that is another person's changes nothing."""
    cookies = await site.sign_in("bob")
    site.keycloak.change = {"sub": "sub-alice", "resource_access": {CLIENT: {"roles": ["admin"]}}}
    aged(site)
    assert (await site.verify("/admin", cookies=cookies)).status_code == 403


async def test_a_session_that_keycloak_ended_is_over(site: Site) -> None:
    """When Keycloak says that a session is over, it is over here."""
    cookies = await site.sign_in("alice")
    site.keycloak.over = True
    aged(site)
    assert (await site.verify("/", cookies=cookies)).status_code == 401
    assert len(site.deciding.sessions) == 0


async def test_keycloak_down(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is in goes on; who comes gets a page that says so; nothing opens."""
    cookies = await site.sign_in("alice")
    site.keycloak.down = True
    monkeypatch.setattr(oidc, "_PULSE_SECONDS", 0.0)
    aged(site)
    for _ in range(3):
        assert (await site.verify("/admin", cookies=cookies)).status_code == 200
    assert (await site.verify("/admin")).status_code == 401
    page = await site.page("sign-in")
    assert page.status_code == 503
    assert "not possible at the moment" in page.text
    assert page.headers["Retry-After"] == "30"
    # and it is over when its longest time is, whatever Keycloak says
    for session in list(site.deciding.sessions._of_id.values()):
        site.deciding.sessions.renew(session, now=session.started, started=0.0)
    assert (await site.verify("/admin", cookies=cookies)).status_code == 401


async def test_the_service_starts_without_keycloak(make: Make) -> None:
    """It comes up, lets nobody in, and works as soon as Keycloak does."""
    site = await make(bearer_audiences=["api"])
    site.keycloak.down = True
    assert (await site.verify("/public")).status_code == 200
    assert (await site.verify("/admin")).status_code == 401
    token = {"Authorization": f"Bearer {site.keycloak.access_token('alice')}"}
    assert (await site.verify("/admin", headers=token)).status_code == 503
    assert (await site.page("sign-in")).status_code == 503
    site.keycloak.down = False
    site.deciding.signing_in.provider._down_until = 0
    assert (await site.verify("/admin", cookies=await site.sign_in("alice"))).status_code == 200


async def test_sessions_outlive_a_restart(make: Make, tmp_path: Path) -> None:
    """With files for keys and sessions, nobody notices a restart."""
    keys = tmp_path / "keys"
    keys.write_text(Fernet.generate_key().decode())
    keys.chmod(0o600)
    files = {"keys_file": str(keys), "sessions_file": str(tmp_path / "sessions")}
    first = await make(**files)
    cookies = await first.sign_in("alice")
    first.deciding.sessions.close()
    second = await make(**files)
    assert (await second.verify("/admin", cookies=cookies)).status_code == 200


# ---- signing out ----


async def test_signing_out_asks_first(site: Site) -> None:
    """A link only asks; the button ends the session here and at Keycloak."""
    cookies = await site.sign_in("alice")
    page = await site.page("sign-out", cookies=cookies)
    assert page.status_code == 200
    assert (await site.verify("/", cookies=cookies)).status_code == 200
    token = re.search(r'name="token" value="([0-9a-f]+)"', page.text)
    assert token
    done = await site.page("sign-out", cookies=cookies, form={"token": token[1]})
    assert done.status_code == 303
    where = urlsplit(done.headers["location"])
    query = parse_qs(where.query)
    assert where.path.endswith("/logout")
    assert query["post_logout_redirect_uri"] == [f"https://{APPS}{PREFIX}signed-out"]
    assert query["id_token_hint"][0].count(".") == 2
    assert "Max-Age=0" in done.headers["set-cookie"]
    assert (await site.verify("/", cookies=cookies)).status_code == 401
    assert (await site.page("signed-out")).status_code == 200


@pytest.mark.parametrize(
    ("token", "origin"),
    [("", None), ("0" * 64, None), (None, "https://evil.test"), (None, "null")],
)
async def test_another_site_signs_nobody_out(
    site: Site, token: str | None, origin: str | None
) -> None:
    """A form of another site, with a wrong token or from another origin, ends nothing."""
    cookies = await site.sign_in("alice")
    if token is None:
        page = await site.page("sign-out", cookies=cookies)
        token = re.findall(r'name="token" value="([0-9a-f]+)"', page.text)[0]
    headers = {"Origin": origin} if origin else {}
    answer = await site.page("sign-out", cookies=cookies, form={"token": token}, headers=headers)
    assert answer.status_code == 403
    assert (await site.verify("/", cookies=cookies)).status_code == 200


async def test_keycloak_says_that_somebody_logged_out(site: Site) -> None:
    """A log-out token ends the session at once, and access tokens from before as well."""
    cookies = await site.sign_in("alice")
    bearer = {"Authorization": f"Bearer {site.keycloak.access_token('alice')}"}
    assert (await site.verify("/admin", headers=bearer)).status_code == 200
    token = site.keycloak.logout_token(sid="sid-alice", sub="sub-alice")
    answer = await site.page("back-channel", form={"logout_token": token})
    assert answer.status_code == 200
    assert (await site.verify("/admin", cookies=cookies)).status_code == 401
    assert (await site.verify("/admin", headers=bearer)).status_code == 401
    replayed = await site.page("back-channel", form={"logout_token": token})
    assert replayed.status_code == 400


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "another"},
        {"iss": "https://evil.test"},
        {"exp": 1000},
        {"events": {}},
        {"nonce": "x"},
        {"jti": None},
        {"sid": None, "sub": None},
        {"typ": "ID"},
    ],
)
async def test_forged_logout_tokens(site: Site, change: dict[str, Any]) -> None:
    """Only Keycloak's own log-out token for this client ends anything."""
    cookies = await site.sign_in("alice")
    claims = {"sid": "sid-alice", "sub": "sub-alice", **change}
    for token in (site.keycloak.logout_token(**claims), "", "x.y.z"):
        answer = await site.page("back-channel", form={"logout_token": token})
        assert answer.status_code == 400
    assert (await site.verify("/admin", cookies=cookies)).status_code == 200


# ---- access tokens ----


async def test_an_access_token_opens_what_its_person_may(site: Site) -> None:
    """A program with a token of Keycloak's for the configured audience is let in, and the token stays."""
    for name, status in (("alice", 200), ("bob", 403)):
        headers = {"Authorization": f"Bearer {site.keycloak.access_token(name)}"}
        answer = await site.verify("/admin", headers=headers)
        assert answer.status_code == status
        if status == 200:
            assert answer.headers["X-Forwarded-User"] == name
            assert "authorization" not in answer.headers


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "another"},
        {"aud": None},
        {"aud": [{"x": 1}]},
        {"iss": "https://evil.test"},
        {"exp": 1000},
        {"nbf": 9_999_999_999},
        {"typ": "ID"},
        {"typ": "Refresh"},
        {"typ": None},
        {"sub": None},
        {"preferred_username": None},
    ],
)
async def test_forged_access_tokens(site: Site, change: dict[str, Any]) -> None:
    """An access token of another issuer, audience, time or kind opens nothing."""
    headers = {"Authorization": f"Bearer {site.keycloak.access_token('alice', **change)}"}
    answer = await site.verify("/admin", headers=headers)
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


async def test_an_access_token_signed_by_somebody_else(site: Site) -> None:
    """A token of another key opens nothing, and unknown keys do not make us ask Keycloak each time."""
    await site.sign_in("alice")
    before = len(site.keycloak.calls)
    for kid in ("k1", *(f"unknown-{number}" for number in range(20))):
        claims = {"typ": "Bearer", "aud": "api", **site.keycloak.claims_of("alice")}
        token = site.keycloak.signed(claims, key=FORGED, kid=kid)
        headers = {"Authorization": f"Bearer {token}"}
        assert (await site.verify("/admin", headers=headers)).status_code == 401
    assert len(site.keycloak.calls) - before <= 2


async def test_tokens_of_others_are_left_alone(make: Make) -> None:
    """Without an audience, ``Authorization`` belongs to the program behind, and opens nothing."""
    site = await make()
    cookies = await site.sign_in("bob")
    token = f"Bearer {site.keycloak.access_token('alice')}"
    assert (await site.verify("/admin", headers={"Authorization": token})).status_code == 401
    answer = await site.verify("/", cookies=cookies, headers={"Authorization": token})
    assert answer.headers["Authorization"] == token
    assert answer.headers["X-Forwarded-User"] == "bob"


# ---- what everybody may see ----


async def test_secrets_stand_nowhere_in_the_log(
    site: Site, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Codes, states, tokens, cookies and the client's secret never come into the log."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "ForwardAuth")
    url, cookies = await site.begin()
    back = site.keycloak.log_in(url, "alice")
    cookies |= set_cookies(await site.page("callback", back, cookies=cookies))
    await site.page("callback", {**back, "iss": "canary"}, cookies=cookies)
    aged(site)
    await site.verify("/admin?token=canary-query", cookies=cookies)
    await site.verify("/admin", headers={"Authorization": "Bearer canary.token.x"})
    await site.page("back-channel", form={"logout_token": "canary.token.y"})
    site.keycloak.down = True
    aged(site)
    await site.verify("/admin", cookies=cookies)
    await site.page("sign-in", {"return_to": "canary"})
    needles = ["canary", back["state"], *cookies.values(), SECRET]
    text = capsys.readouterr().err + "\n".join(
        record.getMessage() for record in caplog.records if not record.name.startswith("http")
    )
    assert "alice signed in" in text.replace("'", "")
    assert "/_qhub/callback" in text
    assert not [needle for needle in needles if needle in text]


async def test_every_answer_is_kept_by_nobody(site: Site) -> None:
    """No cache keeps who was let in or sent away, and pages load nothing from anywhere."""
    answers = [
        await site.verify("/public"),
        await site.verify("/"),
        await site.verify("/", headers=BROWSER),
        await site.page("sign-in"),
        await site.page("callback"),
        await site.http.get("/nothing"),
    ]
    for answer in answers:
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "server" not in answer.headers
    assert "default-src 'none'" in answers[4].headers["Content-Security-Policy"]


async def test_names_are_text_on_pages(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with markup in it is shown, not run."""
    monkeypatch.setitem(site.keycloak.people, "<b>x</b>", {"groups": [], "resource_access": {}})
    cookies = await site.sign_in("<b>x</b>")
    page = await site.verify("/admin", cookies=cookies, headers=BROWSER)
    assert "&lt;b&gt;" in page.text
    assert "<b>" not in page.text


# ---- settings ----


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"trusted_proxies": ["nonsense"]}, "trusted_proxies"),
        ({"proxy_secret_file": "/nonexistent"}, "proxy_secret_file"),
        ({"keys_file": "/nonexistent"}, "keys_file"),
        ({"sessions_file": "/tmp/x"}, "takes c.ForwardAuth.keys_file"),
        ({"sign_in_origin": "https://auth.example.org"}, "takes c.ForwardAuth.cookie_domain"),
        (
            {"sign_in_origin": "https://auth.test", "cookie_domain": "example.org"},
            "takes c.ForwardAuth.cookie_domain",
        ),
        ({"sign_in_origin": "auth.test", "cookie_domain": "auth.test"}, "sign_in_origin"),
        ({"routes": [{"hosts": ["x.test"]}]}, "routes[0]"),
    ],
)
def test_wrong_settings_stop_the_service(settings: dict[str, Any], words: str) -> None:
    """A setting that is wrong is named at start."""
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        configured(**settings).deciding()


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file is said, and a key is one that works."""
    with pytest.raises(SystemExit):
        main(["--config", str(tmp_path / "absent.py")])
    assert "there is no such file" in capsys.readouterr().err
    main(["--new-key"])
    Fernet(capsys.readouterr().out.strip())


def test_where_the_hub_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a service of the hub it listens where the hub says, with pages at the service's prefix."""
    monkeypatch.setenv("JUPYTERHUB_SERVICE_URL", "http://127.0.0.1:9181")
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/services/forward-auth/")
    app = configured()
    assert app.bind == "http://127.0.0.1:9181"
    assert app.deciding().settings.prefix == "/services/forward-auth/"


def test_another_client_than_the_hubs(tmp_path: Path) -> None:
    """One file serves hub and service, and the service may have a client of its own."""
    path = tmp_path / "config.py"
    path.write_text(
        f"c.Keycloak.issuer = {ISSUER!r}\nc.Keycloak.client_id = 'hub'\n"
        "c.Keycloak.client_secret = 'x'\nc.ForwardAuth.Keycloak.client_id = 'forward-auth'\n"
        "c.ForwardAuth.roles_client = 'hub'\nc.KeycloakAuthenticator.admin_groups = {'/a'}\n"
    )
    app = ForwardAuth()
    app.initialize(["--config", str(path)])
    deciding = app.deciding()
    assert deciding.signing_in.settings.client_id == "forward-auth"
    assert deciding.signing_in.names.roles_client == "hub"


def test_peers_are_told_apart() -> None:
    """A network covers its addresses, also where they are written as IPv6; nothing else does."""
    trust = deciding_module.Trust(["127.0.0.0/8", "198.51.100.7"], "")
    assert trust.covers("127.0.0.9", {})
    assert trust.covers("::ffff:127.0.0.1", {})
    assert trust.covers("198.51.100.7", {})
    for peer in ("198.51.100.8", "::1", "", "unix", "0.0.0.0", "x"):
        assert not trust.covers(peer, {})
