"""The sync service with a real Keycloak and a real hub: what changes there counts here, soon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.systems import stand_in
from tests.systems.keycloak_hub import Browser, until
from tests.systems.synced_hub import SyncedHub

SOON = 60.0  # `bench sync` measures that it is less than 5 s on a machine that is not busy
PEOPLE = ("alice", "bob", "carol", "dave", "erin")
PROFILES = """
c.JupyterHub.spawner_class = "qhub_spawner.QHubSpawner"
c.Spawner.cmd = ["/usr/bin/python3", "-I", "{stand_in}"]
c.QHubSpawner.profiles = [
    {"slug": "small", "display_name": "Small", "cpu": 1, "memory": "1 GiB", "local": {}},
    {"slug": "team-a", "display_name": "Team A", "cpu": 1, "memory": "1 GiB", "local": {},
     "access": {"groups": ["/physics/team-a"]}},
]
"""
SCOPE = "custom:qhub-auth:sync"


@pytest.fixture(scope="module")
def hub(realm: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyncedHub]:
    """A hub that all five people of the demo's realm have logged in to."""
    config = PROFILES.replace("{stand_in}", stand_in.__file__)
    with SyncedHub(tmp_path_factory.mktemp("hub"), realm, config) as system:
        log_in(system, *PEOPLE)
        yield system


@pytest.fixture
def browser(hub: SyncedHub) -> Iterator[Browser]:
    with hub.browser() as opened:
        yield opened


def log_in(hub: SyncedHub, *names: str) -> None:
    for name in names:
        with hub.browser() as opened:
            opened.log_in(name)


def profiles(hub: SyncedHub, name: str) -> set[str]:
    answer = hub.api("GET", f"users/{name}/qhub/profiles", token=hub.user_token(name))
    return {each["slug"] for each in answer.json["profiles"]}


def shares(hub: SyncedHub, name: str) -> dict[str, str]:
    folders = hub.state(name)["qhub"]["groups"]
    return {folder["path"]: folder["access"] for folder in folders}


def test_removed_from_a_group(hub: SyncedHub, realm: Any) -> None:
    """Who is taken out of a group has lost it within five seconds: group, profile, share; nobody else has."""
    assert hub.groups_of("alice") == {"/physics", "/physics/team-a"}
    assert profiles(hub, "alice") == {"small", "team-a"}
    assert shares(hub, "alice") == {"/physics": "rw", "/physics/team-a": "rw"}
    realm.admin.add_member("alice", "/biology")
    until(lambda: "/biology" in hub.groups_of("alice"), SOON, "alice has /biology")
    realm.admin.remove_member("alice", "/physics/team-a")
    until(lambda: hub.groups_of("alice") == {"/biology"}, SOON, "alice has only /biology")
    assert profiles(hub, "alice") == {"small"}
    assert shares(hub, "alice") == {"/biology": "rw"}
    assert profiles(hub, "bob") == {"small", "team-a"}
    realm.admin.add_member("alice", "/physics/team-a")
    until(lambda: profiles(hub, "alice") == {"small", "team-a"}, SOON, "alice is back")
    realm.admin.remove_member("alice", "/biology")
    until(lambda: "/biology" not in hub.groups_of("alice"), SOON, "alice as before")


def test_roles(hub: SyncedHub, realm: Any) -> None:
    """A role given or taken, by a person, a group or another role, counts within five seconds; so do its scopes."""
    realm.admin.give_role("dave", "jupyterhub_admin")
    until(lambda: "jupyterhub_admin" in hub.roles_of("dave"), SOON, "dave has the role")
    token = hub.user_token("dave")
    assert hub.api("GET", "users", token=token).status == 200
    realm.admin.take_role("dave", "jupyterhub_admin")
    until(lambda: hub.roles_of("dave") == {"user"}, SOON, "dave has lost the role")
    assert hub.api("GET", "users", token=token).status == 403
    realm.admin.add_role("reader", ["read:groups"])
    realm.admin.give_group_role("/physics", "reader")
    for name in ("alice", "dave"):
        until(lambda name=name: "reader" in hub.roles_of(name), SOON, f"{name} has it by a group")
    assert "reader" not in hub.roles_of("erin")
    realm.admin.update_role("reader", attributes={"scopes": ["list:groups"]})
    until(lambda: hub.api("GET", "groups", token=token).status == 200, SOON, "other scopes")
    realm.admin.delete_role("reader")
    until(lambda: "reader" not in hub.roles_of("dave"), SOON, "the role is gone")


def test_group_renamed_moved_and_removed(hub: SyncedHub, realm: Any) -> None:
    """A group's new name, place and share count for all members, who keep gid and folder; when removed, it is gone."""
    realm.admin.add_group("/chemistry", share="rw")
    realm.admin.add_group("/chemistry/lab", share="rw")
    for name in ("bob", "dave"):
        realm.admin.add_member(name, "/chemistry/lab")
    until(lambda: "/chemistry/lab" in hub.groups_of("bob"), SOON, "bob is in the lab")

    def gid(name: str) -> int:
        folders = hub.state(name)["qhub"]["groups"]
        return next(each["gid"] for each in folders if each["name"] == "chemistry-lab")

    before = gid("bob")
    realm.admin.rename_group("/chemistry/lab", "laboratory")
    until(lambda: "/chemistry/laboratory" in hub.groups_of("bob"), SOON, "the new name")
    assert "/chemistry/lab" not in hub.groups_of("bob")
    assert gid("bob") == gid("dave") == before
    realm.admin.move_group("/chemistry/laboratory", None)
    until(lambda: "/laboratory" in hub.groups_of("dave"), SOON, "the new place")
    assert not any(each.startswith("/chemistry") for each in hub.groups_of("dave"))
    realm.admin.update_group("/laboratory", {})
    until(lambda: gid_or_none(hub, "dave") is None, SOON, "no share any more")
    realm.admin.delete_group("/laboratory")
    until(lambda: "/laboratory" not in hub.groups_of("bob"), SOON, "the group is gone")
    assert hub.groups_of("bob") == {"/physics", "/physics/team-a"}


def gid_or_none(hub: SyncedHub, name: str) -> int | None:
    folders = hub.state(name)["qhub"]["groups"]
    return next((each["gid"] for each in folders if each["name"] == "chemistry-lab"), None)


def test_disabled(hub: SyncedHub, realm: Any, browser: Browser) -> None:
    """A disabled person's cookie, tokens and server end within seconds; enabled again, they may log in."""
    browser.log_in("carol")
    token = hub.user_token("carol")
    assert hub.start_server("carol").status in {201, 202}
    hub.wait_ready("carol")
    assert hub.api("GET", "user", token=token).status == 200
    realm.admin.disable("carol")
    until(lambda: hub.api("GET", "user", token=token).status == 403, SOON, "the token is dead")
    hub.wait_stopped("carol", deadline_seconds=SOON)
    assert browser.known_as is None
    assert hub.groups_of("carol") == set()
    model = hub.model("carol")
    assert not model["admin"]
    assert not model["auth_state"]
    realm.admin.enable("carol")
    until(lambda: "/physics/team-a/readers" in hub.groups_of("carol"), SOON, "she is back")
    assert shares(hub, "carol") == {"/physics": "ro", "/physics/team-a": "ro"}
    with hub.browser() as opened:
        assert opened.log_in("carol").status_code == 200


def test_deleted_and_renamed(hub: SyncedHub, realm: Any) -> None:
    """Who is deleted loses everything but the hub's record; who is renamed is a new user, and the old name ends."""
    realm.admin.add_person("frank", "frank-demo", ["/physics"])
    with hub.browser() as opened:
        realm.log_in(
            opened, f"{hub.url}hub/oauth_login", "frank", "frank-demo", until=f"{hub.url}hub/spawn"
        )
    uid = hub.state("frank")["qhub"]["uid"]
    old = hub.user_token("frank")
    realm.admin.update_person("frank", username="francis")
    until(lambda: hub.api("GET", "user", token=old).status == 403, SOON, "frank's token is dead")
    assert hub.groups_of("frank") == set()
    with hub.browser() as opened:
        realm.log_in(
            opened,
            f"{hub.url}hub/oauth_login",
            "francis",
            "frank-demo",
            until=f"{hub.url}hub/spawn",
        )
    assert hub.state("francis")["qhub"]["uid"] == uid
    token = hub.user_token("francis")
    realm.admin.delete("francis")
    until(lambda: hub.api("GET", "user", token=token).status == 403, SOON, "the token is dead")
    model = hub.model("francis")
    assert model["groups"] == []
    assert model["roles"] == ["user"]


def test_hub_restarted(hub: SyncedHub, realm: Any) -> None:
    """What changes while the hub is down counts soon after its start; a service that it runs ends with it, however it ended."""
    service = psutil.Process(hub.service_pid()) if hub.managed else None
    hub.kill()
    if service is not None:
        until(lambda: not service.is_running(), SOON, "the service ends")
    realm.admin.add_member("dave", "/biology")
    hub.restart()
    until(lambda: "/biology" in hub.groups_of("dave"), 15, "dave has /biology")
    realm.admin.remove_member("dave", "/biology")
    until(lambda: "/biology" not in hub.groups_of("dave"), SOON, "and has not")


def test_service_killed(hub: SyncedHub, realm: Any) -> None:
    """A service that is killed is started again by the hub, and does what it has missed."""
    hub.kill_service()
    realm.admin.add_member("dave", "/biology")
    until(lambda: "/biology" in hub.groups_of("dave"), 45, "dave has /biology")
    realm.admin.remove_member("dave", "/biology")
    until(lambda: "/biology" not in hub.groups_of("dave"), SOON, "and has not")


REQUESTS = [
    ("GET", "", 200), ("GET", "info", 403), ("GET", "user", 200), ("GET", "users", 403),
    ("GET", "users/alice", 403), ("POST", "users/alice/tokens", 403), ("POST", "users/alice/server", 403),
    ("DELETE", "users/alice/server", 403), ("PATCH", "users/alice", 403), ("DELETE", "users/alice", 403),
    ("GET", "users/alice/tokens", 403), ("GET", "groups", 403), ("POST", "groups/new", 403),
    ("POST", "groups/%2Fphysics/users", 403), ("GET", "services", 403), ("GET", "proxy", 403), ("POST", "shutdown", 403),
    ("GET", "qhub/sync", 200),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "status"), REQUESTS)
def test_least_scope(hub: SyncedHub, method: str, path: str, status: int) -> None:
    """The service's token opens its own door and nothing else at all."""
    body = {} if method in {"POST", "PATCH"} else None
    answer = hub.api(method, path, body, token=hub.sync_token)
    # what a token may not see may also be said not to be there
    assert answer.status == status or (status == 403 and answer.status == 404), answer.text


def test_door_is_shut_to_all_others(hub: SyncedHub, browser: Browser) -> None:
    """Nobody else comes in: no token, a person's, an administrator's, a service's, a cookie."""
    for token in ("nonsense", hub.user_token("alice"), hub.user_token("erin"), hub.token):
        for method in ("GET", "POST"):
            answer = hub.api(
                method, "qhub/sync", {"people": []} if method == "POST" else None, token=token
            )
            assert answer.status == 403
    browser.log_in("erin")
    assert browser.open("hub/api/qhub/sync").status_code == 403
    answer = browser.post(f"{hub.url}hub/api/qhub/sync", json={"people": []})
    assert answer.status_code == 403


BAD = [
    b"", b"[]", b"nonsense", b'{"people": 1}', b'{"people": [], "more": 1}', b'{"people": [{}]}',
    b'{"people": [{"sub": "x\\u0000y"}]}', b'{"people": [{"sub": 1}]}',
    json.dumps({"people": [{"sub": "x", "facts": {"sub": "x", "name": "y", "enabled": "yes"}}]}).encode(),
    json.dumps({"people": [{"sub": "x"}] * 201}).encode(),
    json.dumps({"people": [{"sub": "x", "facts": {"sub": "x", "name": "y", "enabled": True, "groups": ["no-slash"]}}]}).encode(),
    json.dumps({"people": [{"sub": "x", "facts": {"sub": "x", "name": "y", "enabled": True, "uid": -1}}]}).encode(),
]  # fmt: skip


@pytest.mark.parametrize("body", BAD)
def test_bodies_are_checked(hub: SyncedHub, body: bytes) -> None:
    """What is not a batch is refused as a whole, and says where."""
    assert hub.api("POST", "qhub/sync", raw=body, token=hub.sync_token).status == 400


def test_body_and_page_are_bounded(hub: SyncedHub) -> None:
    """Too much at once is refused."""
    assert hub.api("POST", "qhub/sync", raw=b" " * 5_000_000, token=hub.sync_token).status == 413
    for query in ("limit=0", "limit=1001", "limit=x"):
        assert hub.api("GET", f"qhub/sync?{query}", token=hub.sync_token).status == 400
    page = hub.api("GET", "qhub/sync?limit=2", token=hub.sync_token).json
    assert [each["name"] for each in page["users"]] == ["alice", "bob"]
    rest = hub.api("GET", f"qhub/sync?limit=100&after={page['after']}", token=hub.sync_token).json
    assert {"carol", "dave"} <= {each["name"] for each in rest["users"]}
    assert rest["after"] is None


def test_unknown_people_are_not_made(hub: SyncedHub) -> None:
    """The hub makes no user of what it is sent, and ends nobody else's sessions by a name."""
    facts = {"sub": "nobody", "name": "gina", "enabled": True, "groups": ["/physics"]}
    people = [{"sub": "nobody", "facts": facts}, {"sub": "other", "name": "alice", "facts": None}]
    answer = hub.api("POST", "qhub/sync", {"people": people}, token=hub.sync_token)
    assert [each["state"] for each in answer.json["people"]] == ["unknown", "unknown"]
    assert hub.api("GET", "users/gina").status == 404
    assert hub.groups_of("alice") == {"/physics", "/physics/team-a"}


def test_report_and_status(hub: SyncedHub, realm: Any) -> None:
    """`report` says what would change and changes nothing; `status` says how it is; no secret is in either."""
    hub.api("GET", "qhub/sync")
    report = hub.ask("report", "--json")
    assert report.returncode == 0, report.stderr
    data = json.loads(report.stdout)
    assert data["people"] == len(PEOPLE)
    assert data["changes"] == []
    text = hub.ask("report").stdout
    assert "Nothing would change." in text
    status = until(lambda: (s := hub.sync_status()).get("last_full") and s, 30, "a status")
    assert status["people"] == len(PEOPLE)
    assert status["keycloak"] == status["hub"] == ""
    metrics = hub.ask("status", "--metrics").stdout
    assert "qhub_group_sync_keycloak_up 1" in metrics
    for secret in (realm.service_secret, realm.client_secret, hub.sync_token):
        for said in (report.stdout, report.stderr, text, metrics, hub.log_text()):
            assert secret not in said
