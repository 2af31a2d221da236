"""One log-out: the hub's ends Keycloak's session, and Keycloak's ends the hub's."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from tests.integration.auth_login import hub_with, query
from tests.systems.keycloak_hub import KeycloakHub, until

SECONDS = 60


@pytest.fixture(scope="module")
def hub(keycloak: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeycloakHub]:
    """One hub for all of these tests."""
    with hub_with(keycloak, tmp_path_factory.mktemp("log-out") / "hub") as hub:
        yield hub


def in_background(hub: KeycloakHub, token: str, **more: Any) -> httpx.Response:
    """Say as Keycloak does that somebody has logged out."""
    url = f"{hub.url}hub/qhub/backchannel-logout"
    return httpx.post(url, data={"logout_token": token}, timeout=60, **more)


class TestAtTheHub:
    """Somebody presses "Log out"."""

    def test_keycloaks_session_ends(self, hub: KeycloakHub) -> None:
        """With no question asked on the way, and back at the hub's own page."""
        with hub.browser() as alice:
            others = hub.realm.admin.session_ids("alice")
            alice.log_in("alice")
            assert len(hub.realm.admin.session_ids("alice") - others) == 1
            there = alice.open("hub/logout")
            sent = query(there.headers["Location"])
            assert sent["client_id"] == hub.realm.client_id
            assert "id_token_hint" in sent
            assert alice.known_as is None, "the hub's own session has ended first"
            back = alice.get(there.headers["Location"])
            assert back.headers["Location"] == f"{hub.url}hub/logout"
            assert alice.get(back.headers["Location"]).headers["Location"] == "/hub/login"
            assert hub.realm.admin.session_ids("alice") <= others

    def test_other_browsers_of_the_session_are_logged_out(self, hub: KeycloakHub) -> None:
        """Keycloak tells the hub, which ends every cookie; API tokens that people made stay."""
        with hub.browser() as one, hub.browser() as two:
            one.log_in("bob")
            two.log_in("bob")
            token = hub.user_token("bob")
            two.get(two.open("hub/logout").headers["Location"])
            until(lambda: one.known_as is None, SECONDS, "the other browser")
            assert hub.api("GET", "user", token=token).status == 200

    def test_each_browser_ends_its_own_session(self, hub: KeycloakHub) -> None:
        """Also the one that came first, without a question; and the other one still can when the hub has ended it already."""
        admin = hub.realm.admin
        with hub.browser() as older, hub.browser() as newer:
            before = admin.session_ids("carol")
            older.log_in("carol")
            first = admin.session_ids("carol") - before
            newer.log_in("carol")
            second = admin.session_ids("carol") - before - first
            assert len(first) == len(second) == 1
            for browser, left in ((older, second), (newer, set())):
                there = browser.open("hub/logout").headers["Location"]
                assert "id_token_hint" in query(there)
                back = browser.get(there)
                assert back.headers["Location"] == f"{hub.url}hub/logout", "no question asked"
                assert admin.session_ids("carol") - before == left
                until(lambda: newer.known_as is None, SECONDS, "Keycloak has told the hub")
                assert browser.get(f"{hub.url}hub/logout").headers["Location"] == "/hub/login"

    def test_nobody_logs_out(self, hub: KeycloakHub) -> None:
        """Whoever is not logged in is not sent to Keycloak."""
        with hub.browser() as nobody:
            assert nobody.open("hub/logout").headers["Location"] == "/hub/login"

    def test_with_a_token_too_long_for_an_address(self, hub: KeycloakHub) -> None:
        """Many groups: the session is ended without the browser."""
        admin = hub.realm.admin
        ids = [admin.add_group(f"/a-group-with-a-rather-long-name-{n:03}") for n in range(120)]
        sub = admin.sub("erin")
        for each in ids:
            admin.api.put(f"{admin.path}/users/{sub}/groups/{each}")
        with hub.browser() as erin:
            erin.log_in("erin")
            answer = erin.open("hub/logout")
            assert "id_token_hint" not in answer.headers.get("Location", "")
            until(lambda: not admin.sessions("erin"), SECONDS, "the end of erin's session")


class TestAtKeycloak:
    """Keycloak says that somebody has logged out."""

    def test_the_hub_hears_of_it(self, hub: KeycloakHub) -> None:
        """An administrator ends all sessions of a person."""
        with hub.browser() as alice:
            alice.log_in("alice")
            hub.realm.admin.log_out("alice")
            until(lambda: alice.known_as is None, SECONDS, "alice is logged out")
            state = hub.state("alice")
            assert state["refresh_token"] is None
            assert state["qhub"]["uid"], "numbers and folders stay"

    def test_a_token_counts_once(self, hub: KeycloakHub) -> None:
        """What Keycloak really sends, caught on the way: good once, then never again."""
        caught: list[str] = []

        class Catch(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                caught.append(parse_qs(body)["logout_token"][0])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Catch)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        own = f"{hub.hub_url}hub/qhub/backchannel-logout"
        try:
            hub.realm.set_hub_url(
                hub.url.rstrip("/"), back_channel_url=f"http://127.0.0.1:{server.server_port}/"
            )
            with hub.browser() as dave:
                dave.log_in("dave")
                hub.realm.admin.log_out("dave")
                until(lambda: caught, SECONDS, "Keycloak's word")
                assert dave.known_as == "dave", "the hub has not heard"
                first = in_background(hub, caught[0])
                assert first.status_code == 200
                assert first.headers["Cache-Control"] == "no-store"
                assert dave.known_as is None
                again = in_background(hub, caught[0])
                assert again.status_code == 400
                assert "jti" in again.json()["error_description"]
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
            hub.realm.set_hub_url(hub.url.rstrip("/"), back_channel_url=own)

    def test_forged_and_other_tokens(self, hub: KeycloakHub) -> None:
        """None of them logs anybody out, and each is answered as the standard says."""
        with hub.browser() as alice:
            alice.log_in("alice")
            kept = hub.state("alice")
            head, body, signature = kept["id_token"].split(".")
            claims = json.loads(base64.urlsafe_b64decode(body + "=="))
            claims |= {
                "jti": "forged",
                "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
                "typ": "Logout",
            }
            claims.pop("nonce", None)
            made = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
            none = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
            for token in (
                kept["id_token"],
                kept["access_token"],
                kept["refresh_token"],
                f"{head}.{made}.{signature}",
                f"{none}.{made}.",
                "",
                "x",
            ):
                answer = in_background(hub, token)
                assert answer.status_code == 400
                assert answer.json()["error"] == "invalid_request"
                assert answer.headers["Cache-Control"] == "no-store"
            assert alice.known_as == "alice"

    def test_other_requests(self, hub: KeycloakHub) -> None:
        """Only a form with one token, by POST; a browser's cookie changes nothing."""
        url = f"{hub.url}hub/qhub/backchannel-logout"
        with hub.browser() as alice:
            alice.log_in("alice")
            assert alice.get(url).status_code == 405
            assert alice.post(url, json={"logout_token": "x"}).status_code == 400
            assert alice.post(url, data={"logout_token": ["x", "y"]}).status_code == 400
            assert alice.post(f"{url}?logout_token=x").status_code == 400
            assert alice.known_as == "alice"
