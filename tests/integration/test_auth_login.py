"""Logging in by the real pages of a real Keycloak, and everything that may go wrong on the way."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest

from qhub_spawner.identity import identity_of
from tests.integration.auth_login import answer_of, begin, changed, hub_with, query
from tests.systems.keycloak.admin import AdminError
from tests.systems.keycloak_hub import KeycloakHub, until

CONFIG = """
c.KeycloakAuthenticator.custom_403_message = "Ask the physicists to let you in."
c.KeycloakAuthenticator.login_seconds = 600
"""


@pytest.fixture(scope="module")
def hub(keycloak: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeycloakHub]:
    """One hub for all of these tests; its log is told everything, so that leaks are seen."""
    folder = tmp_path_factory.mktemp("log-in") / "hub"
    with hub_with(keycloak, folder, CONFIG, log_level="DEBUG") as hub:
        yield hub


class TestWho:
    """What the hub knows of somebody afterwards."""

    def test_groups_roles_and_numbers(self, hub: KeycloakHub) -> None:
        """Groups with those above them; the contract as the spawner reads it."""
        with hub.browser() as alice:
            assert alice.log_in("alice").status_code == 200
            assert alice.known_as == "alice"
        model = hub.model("alice")
        assert set(model["groups"]) == {"/physics", "/physics/team-a"}
        assert model["roles"] == ["user"]
        assert not model["admin"]
        identity = identity_of(model["auth_state"])
        assert identity is not None
        assert {folder.path: folder.access for folder in identity.groups} == {
            "/physics": "rw",
            "/physics/team-a": "rw",
        }
        assert "grafana_viewer" in identity.roles

    def test_administrators_and_roles_with_scopes(self, hub: KeycloakHub) -> None:
        """Erin is in /admins, and has a role whose scopes the hub knows."""
        hub.realm.admin.add_role("half-right", ["read:users", "read:userz"])
        hub.realm.admin.add_role("admin", ["read:users"])
        for role in ("half-right", "admin"):
            hub.realm.admin.give_role("dave", role)
        with hub.browser() as erin, hub.browser() as dave:
            erin.log_in("erin")
            dave.log_in("dave")
            assert dave.known_as == "dave", "a wrong role does not keep anybody out"
        model = hub.model("erin")
        assert model["admin"]
        assert set(model["roles"]) == {"admin", "user", "jupyterhub_admin"}
        model = hub.model("dave")
        assert model["roles"] == ["user"], "a role's name makes nobody an administrator"
        assert not model["admin"]

    def test_the_log_says_once_what_is_wrong_with_a_role(self, hub: KeycloakHub) -> None:
        """With what was meant."""
        hub.realm.admin.add_role("misspelt", ["acces:servers"])
        hub.realm.admin.give_role("dave", "misspelt")
        hub.kill()
        hub.restart()
        for _ in range(3):
            with hub.browser() as dave:
                dave.log_in("dave")
        lines = [
            line for line in hub.log_text().splitlines() if "misspelt" in line and "[W" in line
        ]
        assert len(lines) == 1
        assert "access:servers" in lines[0]

    def test_somebody_whom_no_rule_names(self, hub: KeycloakHub) -> None:
        """The page has the words that are configured, and no user is made."""
        hub.realm.admin.add_person("frank", "frank-demo", groups=["/biology"], email="f@example.org",
                                   firstName="F", lastName="F")  # fmt: skip
        with hub.browser() as frank:
            answer = hub.realm.log_in(frank, f"{hub.url}hub/oauth_login", "frank", "frank-demo")
        assert answer.status_code == 403
        assert "Ask the physicists" in answer.text
        assert f"{hub.realm.issuer}/protocol/openid-connect/logout" in answer.text, "as another one"
        assert hub.api("GET", "users/frank").status == 404

    def test_blocked_goes_before_allowed(self, hub: KeycloakHub) -> None:
        """A member of a group below a blocked one, who is also in an allowed one."""
        hub.realm.admin.add_group("/suspended")
        hub.realm.admin.add_group("/suspended/for-now")
        hub.realm.admin.add_person("gina", "gina-demo", groups=["/physics", "/suspended/for-now"],
                                   email="g@example.org", firstName="G", lastName="G")  # fmt: skip
        with hub.browser() as gina:
            answer = hub.realm.log_in(gina, f"{hub.url}hub/oauth_login", "gina", "gina-demo")
        assert answer.status_code == 403

    def test_a_name_belongs_to_one_person_for_ever(self, hub: KeycloakHub) -> None:
        """A new person of an old name is told what an administrator can do, and is not let in."""
        admin = hub.realm.admin
        fields = {"groups": ["/physics"], "email": "h@example.org", "firstName": "H",
                  "lastName": "H"}  # fmt: skip
        admin.add_person("henry", "henry-demo", **fields)
        start = f"{hub.url}hub/oauth_login"
        with hub.browser() as first:
            hub.realm.log_in(first, start, "henry", "henry-demo", until=f"{hub.url}hub/spawn")
        admin.delete("henry")
        admin.add_person("henry", "henry-demo", **fields)
        with hub.browser() as second:
            answer = hub.realm.log_in(second, start, "henry", "henry-demo")
        assert answer.status_code == 403
        assert "qhub-identity release henry" in answer.text

    @pytest.mark.parametrize("name", ["-rf", "a b", "ünal", "x" * 40])
    def test_names_that_no_account_can_have(self, hub: KeycloakHub, name: str) -> None:
        """They are refused by a page that says so, and nothing of them is kept."""
        fields = {"groups": ["/physics"], "email": f"{abs(hash(name))}@example.org",
                  "firstName": "N", "lastName": "N"}  # fmt: skip
        try:
            hub.realm.admin.add_person(name, "name-demo", **fields)
        except AdminError:
            return  # Keycloak does not take the name either
        with hub.browser() as browser:
            answer = hub.realm.log_in(browser, f"{hub.url}hub/oauth_login", name, "name-demo")
        assert answer.status_code == 403
        assert "cannot be the name of an account" in answer.text

    def test_hostile_group_names(self, hub: KeycloakHub) -> None:
        """Dots, markup, other scripts: each stays one group, and rules do not mistake it."""
        admin = hub.realm.admin
        names = ["/..", "/admins.", "/аdmins", "/<b>&\"'"]
        ids = [admin.add_group(path) for path in names]
        admin.add_person("ivy", "ivy-demo", groups=["/physics"], email="i@example.org",
                         firstName="I", lastName="I")  # fmt: skip
        for each in ids:
            admin.api.put(f"{admin.path}/users/{admin.sub('ivy')}/groups/{each}")
        with hub.browser() as ivy:
            start = f"{hub.url}hub/oauth_login"
            hub.realm.log_in(ivy, start, "ivy", "ivy-demo", until=f"{hub.url}hub/spawn")
        model = hub.model("ivy")
        assert set(model["groups"]) == {"/physics", *names}
        assert not model["admin"]

    def test_a_slash_in_a_groups_name(self, hub: KeycloakHub) -> None:
        """Keycloak shows "x/staff" like staff below x: nobody is in either, and the log says so."""
        admin = hub.realm.admin
        admin.add_group("/x")
        admin.add_group("/x/staff")
        disguised = admin.add_group("/x~/staff")
        admin.add_person("jane", "jane-demo", groups=["/physics"], email="j@example.org",
                         firstName="J", lastName="J")  # fmt: skip
        admin.api.put(f"{admin.path}/users/{admin.sub('jane')}/groups/{disguised}")
        hub.kill()  # so that groups are read anew, at the first log-in
        hub.restart()
        with hub.browser() as jane:
            start = f"{hub.url}hub/oauth_login"
            hub.realm.log_in(jane, start, "jane", "jane-demo", until=f"{hub.url}hub/spawn")
        assert set(hub.model("jane")["groups"]) == {"/physics"}
        assert "slash in its name" in hub.log_text()


class TestState:
    """Log-in CSRF and what belongs to it."""

    def test_several_tabs_at_once(self, hub: KeycloakHub) -> None:
        """Each finishes its own log-in, in any order, and goes to its own page."""
        with hub.browser() as browser:
            pages = [begin(browser, next=f"/hub/token?tab={n}") for n in range(3)]
            answers = [answer_of(browser, page, "alice") for page in pages]
            for n in (2, 0, 1):
                done = browser.get(answers[n])
                assert done.headers["Location"] == f"/hub/token?tab={n}"

    def test_a_link_logs_nobody_else_in(self, hub: KeycloakHub) -> None:
        """Log-in CSRF: somebody sends the end of their own log-in to somebody else."""
        with hub.browser() as mallory, hub.browser() as victim:
            link = answer_of(mallory, begin(mallory), "bob")
            for with_own_log_in in (False, True):
                if with_own_log_in:
                    begin(victim)
                answer = victim.get(link)
                assert answer.status_code == 400
                assert "oauth_login" in answer.text, "there is a way on"
                assert victim.known_as is None

    def test_a_code_of_another_log_in(self, hub: KeycloakHub) -> None:
        """Code injection: PKCE binds it to the browser that asked for it."""
        with hub.browser() as mallory, hub.browser() as victim:
            code = query(answer_of(mallory, begin(mallory), "bob"))["code"]
            own = query(begin(victim))["state"]
            back = f"{hub.url}hub/oauth_callback"
            issuer = quote(hub.realm.issuer, safe="")
            answer = victim.get(f"{back}?state={own}&code={code}&iss={issuer}")
            assert answer.status_code == 400
            assert victim.known_as is None

    def test_once(self, hub: KeycloakHub) -> None:
        """The same answer again, from another browser or the same, logs nobody in."""
        with hub.browser() as browser:
            link = answer_of(browser, begin(browser), "alice")
            assert browser.get(link).status_code == 302
            browser.cookies.delete("jupyterhub-hub-login", path="/hub/")
            assert browser.get(link).status_code == 400
            assert browser.known_as is None

    def test_the_back_button(self, hub: KeycloakHub) -> None:
        """Whoever is logged in goes on to the hub."""
        with hub.browser() as browser:
            link = answer_of(browser, begin(browser), "alice")
            browser.get(link)
            again = browser.get(link)
            assert again.status_code == 302
            assert again.headers["Location"].startswith("/hub/")

    @pytest.mark.parametrize("state", [None, "", "x", "A" * 200])
    def test_no_state_of_ours(self, hub: KeycloakHub, state: str | None) -> None:
        """A page with a way on, and no bare error."""
        with hub.browser() as browser:
            begin(browser)
            link = changed(f"{hub.url}hub/oauth_callback?code=x", state=state)
            answer = browser.get(link)
            assert answer.status_code == 400
            assert "Log in" in answer.text

    @pytest.mark.parametrize("issuer", [None, "https://evil.example.org/realms/hub", ""])
    def test_the_answer_of_another_issuer(self, hub: KeycloakHub, issuer: str | None) -> None:
        """RFC 9207: Keycloak always names itself."""
        with hub.browser() as browser:
            link = changed(answer_of(browser, begin(browser), "alice"), iss=issuer)
            assert browser.get(link).status_code == 403
            assert browser.known_as is None

    def test_nothing_can_be_read_on_the_way(self, hub: KeycloakHub) -> None:
        """Neither in the address of Keycloak's page nor in the cookie."""
        with hub.browser() as browser:
            sent = query(begin(browser, next="/hub/token?a=secret-page"))
            assert sent["code_challenge_method"] == "S256"
            assert len(sent["nonce"]) == 43
            state = base64.urlsafe_b64decode(sent["state"] + "=" * (-len(sent["state"]) % 4))
            with pytest.raises(ValueError, match=r"."):
                json.loads(state)
            assert b"secret-page" not in state
            cookie = next(each for each in browser.cookies.jar if each.name == "qhub-login")
            assert cookie.path == "/hub/"

    def test_the_cookie_is_a_careful_one(self, hub: KeycloakHub) -> None:
        """Short-lived, for the hub's own pages, not for scripts; over HTTPS only where there is it."""
        for scheme in ("http", "https"):
            answer = httpx.get(f"{hub.url}hub/oauth_login", headers={"X-Forwarded-Proto": scheme})
            cookies = answer.headers.get_list("Set-Cookie")
            line = next(each for each in cookies if each.startswith("qhub-login="))
            attributes = {each.strip().lower() for each in line.split(";")[1:]}
            assert {"httponly", "samesite=lax", "path=/hub/", "max-age=600"} <= attributes
            assert ("secure" in attributes) is (scheme == "https")
            assert not any(each.startswith("domain") for each in attributes)

    def test_a_session_that_somebody_else_chose(self, hub: KeycloakHub) -> None:
        """Session fixation: what stood in the cookies before the log-in is replaced."""
        with hub.browser() as browser:
            browser.cookies.set("jupyterhub-session-id", "chosen", domain="127.0.0.1", path="/")
            browser.log_in("alice")
            values = {each.value for each in browser.cookies.jar
                      if each.name == "jupyterhub-session-id"}  # fmt: skip
            assert values
            assert "chosen" not in values


NEXT = [
    ("/hub/token", "/hub/token"),
    ("/hub/token?a=1&b=%2F#c", "/hub/token?a=1&b=%2F#c"),
    ("/user/alice/lab/tree/a%20b", "/user/alice/lab/tree/a%20b"),
    ("{hub}hub/token", "/hub/token"),
    *((bad, None) for bad in [
        "https://evil.example.org/", "//evil.example.org/", "///evil.example.org/",
        "\\\\evil.example.org/", "/\\evil.example.org/", "\\/evil.example.org", "https:evil.example.org",
        "https:/evil.example.org", "/\t/evil.example.org", "/\n/evil.example.org", "\t//evil.example.org",
        " //evil.example.org", "javascript:alert(1)", "data:text/html,x", "//evil.example.org\\@127.0.0.1/",
        "http://127.0.0.1@evil.example.org/", "http://127.0.0.1.evil.example.org/", "//127.0.0.1:1/", "evil.example.org",
        "/hub/oauth_login", "/hub/logout", "/hub/oauth_callback?code=x&state=y", "/hub/a\x00b", "/\u2028/evil.example.org",
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("wanted", "goes_to"), NEXT)
def test_open_redirect(hub: KeycloakHub, wanted: str, goes_to: str | None) -> None:
    """One is only ever sent to pages of this hub, however the address is written."""
    with hub.browser() as browser:
        link = answer_of(browser, begin(browser, next=wanted.format(hub=hub.url)), "alice")
        location = browser.get(f"{link}&next=https://evil.example.org/").headers["Location"]
    if goes_to is not None:
        assert location == goes_to
    else:
        assert location in {"/hub/spawn", "/hub/home"}
    assert urlsplit(location).netloc == ""
    assert not location.startswith(("//", "/\\"))


class TestKeycloaksRefusals:
    """What Keycloak's page may send somebody back with."""

    @pytest.mark.parametrize(
        ("error", "status", "words"),
        [
            ("access_denied", 403, "given up or not permitted"),
            ("temporarily_unavailable", 400, "begun too long ago"),
            ("login_required", 400, "begun too long ago"),
            ("server_error", 503, "Servers that are running go on"),
            ("invalid_scope", 500, "do not understand each other"),
            ("<script>alert(1)</script>", 500, "do not understand each other"),
        ],
    )
    def test_pages(self, hub: KeycloakHub, error: str, status: int, words: str) -> None:
        """Each with a way on; nothing of what came is shown."""
        with hub.browser() as browser:
            state = query(begin(browser))["state"]
            answer = browser.get(
                f"{hub.url}hub/oauth_callback",
                params={"state": state, "error": error, "error_description": "<b>canary</b>"},
            )
        assert answer.status_code == status
        assert words in " ".join(answer.text.split())
        assert "canary" not in answer.text
        assert "<script>alert" not in answer.text
        assert "/hub/oauth_login" in answer.text
        assert answer.headers["Cache-Control"] == "no-store"


ROUTES = {
    # route: (method, status by who asks: nobody, a person's cookie, their token, an admin's token)
    "hub/oauth_login": ("GET", (302, 302, 302, 302)),
    "hub/oauth_callback": ("GET", (400, 302, 400, 400)),
    "hub/qhub/backchannel-logout GET": ("GET", (405, 405, 405, 405)),
    "hub/qhub/backchannel-logout": ("POST", (400, 400, 400, 400)),
    "hub/api/qhub/sync": ("GET", (403, 403, 403, 403)),
    "hub/api/qhub/sync POST": ("POST", (403, 403, 403, 403)),
}


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_and_role(hub: KeycloakHub, route: str) -> None:
    """Who may do what: the sync service's route opens for its scope alone, not for administrators."""
    method, expected = ROUTES[route]
    path = route.partition(" ")[0]
    with hub.browser() as nobody, hub.browser() as alice, hub.browser() as erin:
        alice.log_in("alice")
        erin.log_in("erin")
        tokens = [hub.user_token(name) for name in ("alice", "erin")]
        found = [nobody.request(method, f"{hub.url}{path}").status_code]
        found.append(alice.request(method, f"{hub.url}{path}").status_code)
        for token in tokens:
            headers = {"Authorization": f"token {token}"}
            found.append(httpx.request(method, f"{hub.url}{path}", headers=headers).status_code)
    assert tuple(found) == expected


def test_all_routes_are_in_the_table(hub: KeycloakHub) -> None:
    """A new one has to say who may use it."""
    from qhub_auth.authenticator import KeycloakAuthenticator
    from tests.unit.scripted_keycloak import ScriptedKeycloak

    authenticator = KeycloakAuthenticator(keycloak=ScriptedKeycloak().settings())
    paths = {f"hub{path}" for path, _ in authenticator.get_handlers(None)}
    named = {route.partition(" ")[0] for route in ROUTES} | {"hub/logout"}  # in test_auth_logout
    assert paths == named


def test_no_secret_in_the_log(hub: KeycloakHub) -> None:
    """At level DEBUG, after all that: the client's secrets, tokens, codes and what binds a log-in."""
    with hub.browser() as browser:
        link = answer_of(browser, begin(browser), "alice")
        code, state = query(link)["code"], query(link)["state"]
        browser.get(link)
        binding = next(each.value for each in browser.cookies.jar if each.name == "qhub-login")
        kept = hub.state("alice")
        browser.get(link)
        browser.get(f"{hub.url}hub/logout")
    secrets = {
        hub.realm.client_secret,
        hub.realm.service_secret,
        code,
        state,
        binding,
        kept["access_token"],
        kept["refresh_token"],
        kept["id_token"],
        kept["id_token"].rpartition(".")[2],
        hub.hub.environment["JUPYTERHUB_CRYPT_KEY"],
    }
    until(lambda: "User logged out: alice" in hub.log_text(), 10, "the log-out")
    log = hub.log_text()
    assert not [secret[:12] for secret in secrets if secret in log]
