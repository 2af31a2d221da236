"""The sync service when something breaks: Keycloak gone, hung or lying, and the service itself killed."""

from __future__ import annotations

import json
import signal
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.error import HTTPError
from urllib.parse import urlsplit

import pytest

from tests.conftest import missing
from tests.systems.keycloak import KeycloakSystem
from tests.systems.keycloak_hub import until
from tests.systems.processes import SystemUnavailableError
from tests.systems.synced_hub import SyncedHub

SOON = 5.0
LATER = 45.0
PEOPLE = ("alice", "bob", "carol", "dave", "erin")
MORE = [f"extra{number}" for number in range(12)]


class Between:
    """A proxy before Keycloak that can lie: it answers lists as it is told, for some paths."""

    def __init__(self, target: str) -> None:
        lies: dict[str, bytes] = {}
        self.lies = lies

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None: ...

            def _pass(self) -> None:
                path = urlsplit(self.path).path
                for part, lie in lies.items():
                    if part in path and self.command == "GET":
                        self._send(200, lie, "application/json")
                        return
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
                sent = {
                    name: self.headers[name]
                    for name in ("Authorization", "Content-Type")
                    if name in self.headers
                }
                request = urllib.request.Request(
                    target + self.path, body, sent, method=self.command
                )
                try:
                    with urllib.request.urlopen(request, timeout=60) as answer:
                        self._send(
                            answer.status, answer.read(), answer.headers.get("Content-Type", "")
                        )
                except HTTPError as error:
                    self._send(error.code, error.read(), error.headers.get("Content-Type", ""))
                except OSError:
                    self._send(502, b"", "text/plain")

            def _send(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_DELETE = _pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="module")
def own_keycloak() -> Iterator[KeycloakSystem]:
    """A Keycloak that these tests may end."""
    system = KeycloakSystem()
    try:
        system.start()
    except SystemUnavailableError as error:
        missing("Keycloak", error)
    try:
        yield system
    finally:
        system.stop()


@pytest.fixture(scope="module")
def between(own_keycloak: KeycloakSystem) -> Iterator[Between]:
    parts = urlsplit(own_keycloak.url)
    with Between(f"{parts.scheme}://{parts.netloc}") as proxy:
        yield proxy


@pytest.fixture(scope="module")
def hub(
    own_keycloak: KeycloakSystem, between: Between, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SyncedHub]:
    """A hub whose service is a process of ours, and which the proxy stands before Keycloak for."""
    realm = own_keycloak.make_realm()
    for name in MORE:
        realm.admin.add_person(name, f"{name}-demo", ["/biology"])
    internal = between.url + urlsplit(realm.issuer).path
    config = "c.GroupSync.full_seconds = 10\nc.Keycloak.timeout_seconds = 3\n"
    folder = tmp_path_factory.mktemp("hub")
    with SyncedHub(folder, realm, config, managed=False, internal_url=internal) as system:
        for name in (*PEOPLE, *MORE):
            with system.browser() as opened:
                start = f"{system.url}hub/oauth_login"
                realm.log_in(opened, start, name, f"{name}-demo", until=f"{system.url}hub/spawn")
        until(lambda: "Compared everything" in system.service_log(), 30, "the first comparison")
        yield system


def _nobody_lost_anything(hub: SyncedHub) -> None:
    assert all(hub.groups_of(name) == {"/biology"} for name in MORE)
    assert hub.groups_of("bob") == {"/physics", "/physics/team-a"}


def test_keycloak_down(hub: SyncedHub, own_keycloak: KeycloakSystem) -> None:
    """Changes just before Keycloak goes down, and just after it is up again, count; meanwhile all stays."""
    admin = hub.realm.admin
    token = hub.user_token("alice")

    def told() -> int:
        return hub.service_log().count("; trying again")

    before = told()
    admin.add_member("dave", "/biology")
    own_keycloak.stop_daemon()  # a kill would lose what its database has not written yet
    try:
        seen = "/biology" in hub.groups_of("dave")
        until(lambda: told() > before, SOON * 4, "the service says that Keycloak is down")
        assert ("/biology" in hub.groups_of("dave")) is seen
        _nobody_lost_anything(hub)
        assert hub.api("GET", "user", token=token).status == 200
    finally:
        own_keycloak.start_daemon()
    admin.add_member("erin", "/biology")
    until(lambda: "/biology" in hub.groups_of("erin"), LATER, "erin has /biology")
    until(lambda: "/biology" in hub.groups_of("dave"), LATER, "dave has /biology")
    for name in ("dave", "erin"):
        admin.remove_member(name, "/biology")
        until(lambda name=name: "/biology" not in hub.groups_of(name), LATER, f"{name} as before")


def test_keycloak_hangs(hub: SyncedHub, own_keycloak: KeycloakSystem) -> None:
    """While Keycloak takes connections and answers nothing all stays; what changes then counts afterwards."""
    own_keycloak.pause()
    try:
        _nobody_lost_anything(hub)
    finally:
        own_keycloak.resume()
    hub.realm.admin.add_member("dave", "/biology")
    until(lambda: "/biology" in hub.groups_of("dave"), LATER, "dave has /biology")
    hub.realm.admin.remove_member("dave", "/biology")
    until(lambda: "/biology" not in hub.groups_of("dave"), LATER, "dave as before")


LIES = {
    "nobody": ("/users", b"[]"),
    "broken": ("/users", b'[{"id": "x", "usern'),
    "no members": ("/members", b"[]"),
    "no groups": ("/groups", b"[]"),
    "an object": ("/users", b"{}"),
}


@pytest.mark.parametrize("lie", LIES)
def test_keycloak_lies(hub: SyncedHub, between: Between, lie: str) -> None:
    """Empty, broken and wrong lists take nothing from anybody, however often they come; what is held is said."""
    done = hub.service_log().count("Comparing everything")
    part, body = LIES[lie]
    between.lies[part] = body
    try:
        until(
            lambda: hub.service_log().count("Comparing everything") >= done + 2,
            LATER * 4,
            "two comparisons",
        )
        _nobody_lost_anything(hub)
        assert hub.groups_of("alice") == {"/physics", "/physics/team-a"}
    finally:
        between.lies.clear()
    hub.realm.admin.add_member("dave", "/biology")
    until(lambda: "/biology" in hub.groups_of("dave"), LATER, "it goes on")
    hub.realm.admin.remove_member("dave", "/biology")
    until(lambda: "/biology" not in hub.groups_of("dave"), LATER, "dave as before")


def test_held_and_confirmed(hub: SyncedHub, between: Between) -> None:
    """A list without members is held, status says so, and an administrator may confirm it."""
    until(lambda: not (hub.sync_status() or {}).get("held"), LATER, "nothing is held")
    between.lies["/members"] = b"[]"
    try:
        held = until(lambda: hub.sync_status().get("held"), LATER, "it is held")
        assert "would lose" in held["what"]
        wrong = hub.ask("confirm", "00000000")
        assert wrong.returncode == 1
        assert held["id"] in wrong.stderr
        assert hub.ask("confirm", held["id"]).returncode == 0
        until(lambda: hub.groups_of("bob") == set(), LATER, "it is done")
    finally:
        between.lies.clear()
    until(lambda: hub.groups_of("bob") == {"/physics", "/physics/team-a"}, LATER, "all is back")
    until(lambda: hub.groups_of("extra3") == {"/biology"}, LATER, "all is back")


def test_service_killed_and_late(hub: SyncedHub) -> None:
    """What changes while the service is dead counts soon after its start; SIGTERM ends it at once."""
    hub.kill_service()
    hub.realm.admin.remove_member("bob", "/physics/team-a")
    hub.start_service()
    until(lambda: hub.groups_of("bob") == set(), LATER, "bob has lost it")
    hub.realm.admin.add_member("bob", "/physics/team-a")
    until(lambda: "/physics" in hub.groups_of("bob"), SOON * 2, "bob has it again")
    hub.service.signal(signal.SIGTERM)
    until(lambda: not hub.service.running, SOON, "it has ended")
    assert hub.service_log().rstrip().endswith("Ended")
    hub.service.end()
    hub.start_service()


def test_dry_run(hub: SyncedHub) -> None:
    """A dry run says what would change, and changes nothing."""
    hub.service.end()
    hub.realm.admin.add_member("dave", "/biology")
    hub.realm.admin.disable("extra5")
    try:
        report = json.loads(hub.ask("report", "--json").stdout)
        changes = {each["name"]: each for each in report["changes"]}
        assert changes["dave"]["gained"] == ["/biology"]
        assert changes["extra5"]["becomes"] == "ended"
        assert "disabled" in changes["extra5"]["why"]
        assert set(changes) == {"dave", "extra5"}
        assert "dave: +/biology" in hub.ask("report").stdout
        assert "/biology" not in hub.groups_of("dave")
        assert hub.groups_of("extra5") == {"/biology"}
    finally:
        hub.realm.admin.enable("extra5")
        hub.realm.admin.remove_member("dave", "/biology")
        hub.start_service()
