"""Host and port are all that a server can set at the hub, of itself, on its own machine.

Whatever else comes to ``POST /hub/api/qhub/address`` is a 4xx, and changes neither the hub's route
nor what it holds of the server.
"""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo.visitor import Visitor
from tests.systems import stand_in
from tests.systems.hub import Answer, HubSystem

LOCAL = """
c.Spawner.cmd = ["/usr/bin/python3", "-I", "{program}"]
c.QHubSpawner.profiles = [{{"slug": "small", "display_name": "Small", "local": {{}}}}]
c.QHubSpawner.poll_interval = 3600
"""
SLURM = """
c.Spawner.cmd = ["/usr/bin/python3", "-I", "{program}"]
c.QHubSpawner.profiles = [
    {{"slug": "small", "display_name": "Small", "cpu": 1, "memory": "50 MiB", "walltime": "10m",
     "slurm": {{"partition": "general"}}}},
]
"""


def server_token(person: str, hub: HubSystem) -> str:
    """Return a running server's own token, from the environment of its process (as root)."""
    wanted = {
        b"JUPYTERHUB_USER=" + person.encode(),
        b"JUPYTERHUB_API_URL=" + f"{hub.hub_url}hub/api".encode(),
    }
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted <= set(variables):
            found = [each for each in variables if each.startswith(b"JUPYTERHUB_API_TOKEN=")]
            return found[0].partition(b"=")[2].decode()
    raise AssertionError(f"no process has the token of {person}'s server")


def routes(hub: HubSystem) -> dict[str, str]:
    """Return the targets of the proxy, by path, asked of the proxy itself."""
    (option,) = [word for word in hub.proxy.argv if word.startswith("--api-port=")]
    token = hub.proxy.environment["CONFIGPROXY_AUTH_TOKEN"]
    request = urllib.request.Request(
        f"http://127.0.0.1:{option.partition('=')[2]}/api/routes",
        headers={"Authorization": f"token {token}"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return {path: route["target"] for path, route in json.loads(answer.read()).items()}


@dataclass
class Scene:
    """A hub on which alice's and bob's servers run."""

    hub: HubSystem
    alice: str
    bob: str

    def report(
        self, body: object = None, *, token: str | None = None, raw: bytes | None = None
    ) -> Answer:
        """Send a report, with alice's server's token unless another is given."""
        return self.hub.api(
            "POST", "qhub/address", body, raw=raw, token=self.alice if token is None else token
        )

    def held(self, person: str = "alice") -> dict[str, Any]:
        """What the hub and the proxy hold of a server, but for when it was last used."""
        model = self.hub.server(person) or {}
        return {
            "model": {key: value for key, value in model.items() if key != "last_activity"},
            "route": routes(self.hub).get(f"/user/{person}"),
        }

    def right(self, person: str = "alice") -> dict[str, Any]:
        """The report that the server itself made."""
        host, _, port = self.held(person)["route"].removeprefix("http://").rpartition(":")
        return {"host": host, "port": int(port)}


def scene_of(hub: HubSystem) -> Scene:
    """Start both servers."""
    for person in ("alice", "bob"):
        hub.add_user(person)
        answer = hub.start_server(person, {})
        assert answer.status in {201, 202}, answer.text
    for person in ("alice", "bob"):
        hub.wait_ready(person)
    return Scene(hub, server_token("alice", hub), server_token("bob", hub))


@pytest.fixture(scope="module")
def scene(user_bin: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """On the hub's own machine."""
    from tests.systems.userenv import product_site

    folder = tmp_path_factory.mktemp("address")
    for part in (folder, *list(folder.parents)[:3]):
        part.chmod(part.stat().st_mode | 0o055)
    hub = HubSystem(
        folder / "hub",
        LOCAL.format(program=stand_in.__file__),
        environment_bin=user_bin,
        python_path=product_site(folder),
    )
    hub.start()
    try:
        yield scene_of(hub)
    finally:
        for person in ("alice", "bob"):
            hub.stop_server(person)
        hub.stop()


@pytest.fixture(scope="module")
def slurm_scene(slurm: Any, user_bin: Any) -> Iterator[Scene]:
    """In Slurm jobs."""
    from tests.systems.slurm_hub import SlurmHub

    program = Path(slurm.run_folder) / "stand_in.py"
    shutil.copy(Path(stand_in.__file__), program)
    program.chmod(0o755)
    hub = SlurmHub(slurm, profiles=SLURM.format(program=program))
    hub.start()
    try:
        yield scene_of(hub)
    finally:
        for person in ("alice", "bob"):
            hub.stop_server(person)
        hub.stop()
        slurm.run(["scancel", "--user=alice,bob"], check=False)


NOT_THIS_MACHINE = (
    *("169.254.169.254", "10.255.255.1", "192.0.2.7", "8.8.8.8", "0.0.0.0", "::", "2001:db8::1"),
    *("example.org", "metadata.google.internal", "hm01", "cn99", "0", "0x7f000002.example"),
    *("255.255.255.255", "224.0.0.1", "::ffff:192.0.2.7", "fe80::1", "127.0.0.1.nip.io", "..", "a"),
)
NOT_A_HOST = (
    *(None, True, 5, 1.5, [], ["127.0.0.1"], {}, {"host": "127.0.0.1"}, "", " ", "127.0.0.1 "),
    *("127.0.0.1\n", "\n127.0.0.1", "127.0.0.1\0", "127.0.0.1:80", "[::1]", "http://127.0.0.1"),
    *("a@127.0.0.1", "127.0.0.1/x", "127.0.0.1#", "127.0.0.1?x=1", "-127.0.0.1", "127.0.0.1%lo"),
    *("a_b", "$(id)", "１２７.0.0.1", "x" * 300, "fe80::1%eth0", "..\\..", "localhost\r\nX: y"),
)
NOT_A_PORT = (
    *(None, True, False, "8888", "", [8888], {}, 8888.0, 1.5, 0, -1, 65536, 10**30, -(10**30)),
    *(float("nan"), float("inf"), "0x50", "８８"),
)


def assert_refused(scene: Scene, bodies: list[Any], person: str = "alice") -> None:
    """Every report is a 4xx, and nothing has changed."""
    before = scene.held(), scene.held("bob")
    for body in bodies:
        answer = scene.report(body)
        assert 400 <= answer.status < 500, (body, answer.status, answer.text)
        assert answer.json["message"], body
    assert (scene.held(), scene.held("bob")) == before


@pytest.mark.parametrize("where", ["scene", "slurm_scene"])
def test_a_host_that_is_not_the_server_s_machine(
    request: pytest.FixtureRequest, where: str
) -> None:
    """A person cannot point their route at another machine: not by number, by name, by any form."""
    scene: Scene = request.getfixturevalue(where)
    port = scene.right()["port"]
    # Slurm is asked before each refusal whether the job has moved, at most once a second
    hosts = NOT_THIS_MACHINE if where == "scene" else NOT_THIS_MACHINE[::4]
    assert_refused(scene, [{"host": host, "port": port} for host in hosts])


def test_wrong_hosts_and_ports(scene: Scene) -> None:
    """A host is a text that is a name or an address; a port a whole number from 1 to 65535."""
    right = scene.right()
    assert_refused(scene, [{**right, "host": host} for host in NOT_A_HOST])
    assert_refused(scene, [{**right, "port": port} for port in NOT_A_PORT])


def test_nothing_but_host_and_port(scene: Scene) -> None:
    """Any other key, and any other shape, refuses the whole report: no attribute can be set."""
    right = scene.right()
    more: dict[str, object] = {
        "ip": "192.0.2.7", "cmd": ["/bin/sh"], "state": {}, "server": None, "proto": "https",
        "job_id": 1, "api_token": "x", "user": "bob", "name": "x", "__class__": "x", "": "",
        "server_name": "", "environment": {"A": "b"}, "current_ip": "192.0.2.7",
    }  # fmt: skip
    moved = {**right, "port": right["port"] - 1}
    bodies: list[Any] = [{**moved, key: value} for key, value in more.items()]
    bodies += [{"host": right["host"]}, {"port": moved["port"]}, {}, [], [right["host"], 80]]
    bodies += [{"Host": right["host"], "port": 80}, "127.0.0.1:80", 80, None, True, [moved]]
    assert_refused(scene, bodies)


def test_bodies_that_are_no_json(scene: Scene) -> None:
    """Broken, deep, empty and 10 MB bodies are a 4xx."""
    before = scene.held()
    right = json.dumps(scene.right()).encode()
    bodies = [b"", b"{", b"host=127.0.0.1&port=80", b"\0", b"\xff\xfe", right + b"x", right * 2]
    bodies += [b"[" * 100_000, b'{"host":' * 50_000, b'{"host": "' + b"a" * 10_000_000 + b'"}']
    for raw in bodies:
        answer = scene.report(raw=raw)
        assert 400 <= answer.status < 500, (raw[:40], answer.status, answer.text)
    assert scene.held() == before


def test_the_right_report_may_come_again(scene: Scene) -> None:
    """204 each time, and nothing changes: a report whose answer was lost is simply repeated."""
    before = scene.held()
    for _ in range(3):
        answer = scene.report(scene.right())
        assert (answer.status, answer.text) == (204, "")
    assert scene.held() == before


def test_the_right_report_may_come_again_from_a_job(slurm_scene: Scene) -> None:
    """The same on Slurm."""
    before = slurm_scene.held()
    assert [slurm_scene.report(slurm_scene.right()).status for _ in range(2)] == [204, 204]
    assert slurm_scene.held() == before


def test_other_methods(scene: Scene) -> None:
    """There is nothing to read, change or delete."""
    before = scene.held()
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        answer = scene.hub.api(
            method, "qhub/address", scene.right() if method != "GET" else None, token=scene.alice
        )
        assert 400 <= answer.status < 500, (method, answer.status)
    assert scene.held() == before


# ---- whose token --------------------------------------------------------------------------------


def test_another_person_s_server(scene: Scene) -> None:
    """With the token of bob's server only bob's server is meant; alice's stays where it is."""
    before = scene.held(), scene.held("bob")
    answer = scene.report(scene.right("bob"), token=scene.bob)
    assert answer.status == 204
    assert (scene.held(), scene.held("bob")) == before
    answer = scene.report({**scene.right("bob"), "user": "alice"}, token=scene.bob)
    assert answer.status == 400
    assert (scene.held(), scene.held("bob")) == before


def test_tokens_of_no_server(scene: Scene) -> None:
    """Tokens of a person, of an administrator, of a service, made up or none: 4xx, no change."""
    before = scene.held()
    moved = {**scene.right(), "port": scene.right()["port"] - 1}
    scene.hub.add_user("admin")
    tokens = {
        "the person's own": scene.hub.user_token("alice"),
        "another person's": scene.hub.user_token("bob"),
        "an administrator's": scene.hub.user_token("admin"),
        "a service's": scene.hub.token,
        "made up": "0" * 32,
        "cut short": scene.alice[:-1],
        "in capitals": scene.alice.upper(),
    }
    for whose, token in tokens.items():
        answer = scene.report(moved, token=token)
        assert answer.status in {401, 403}, (whose, answer.status, answer.text)
    for headers in ({}, {"Authorization": ""}, {"Authorization": "token"}):
        assert bare(scene, moved, headers) in {401, 403}, headers
    assert scene.held() == before


def test_a_cookie_session(scene: Scene) -> None:
    """A page in the person's own browser cannot report either, with or without the XSRF token."""
    before = scene.held()
    moved = {**scene.right(), "port": scene.right()["port"] - 1}
    visitor = Visitor()
    page = visitor.open(f"{scene.hub.url}hub/login?next=%2Fhub%2Ftoken")
    page = visitor.submit(page.form("/hub/login"), username="alice", password="")
    assert page.url.endswith("/hub/token")
    url = f"{scene.hub.url}hub/api/qhub/address"
    headers = visitor.credentials(url)
    assert headers["Cookie"]
    assert bare(scene, moved, headers) == 403
    assert bare(scene, moved, {"Cookie": headers["Cookie"]}) == 403
    # the server's token in the address or the body is no token either
    assert bare(scene, moved, {}, f"?token={scene.alice}") in {401, 403}
    assert scene.held() == before


def bare(scene: Scene, body: object, headers: dict[str, str], query: str = "") -> int:
    """Report with these headers and no other; returns the status."""
    request = urllib.request.Request(
        f"{scene.hub.url}hub/api/qhub/address{query}",
        data=json.dumps(body).encode(),
        method="POST",
        headers={"Content-Type": "application/json", **headers},
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.read()
        return int(error.code)


@pytest.mark.parametrize("where", ["scene", "slurm_scene"])
def test_an_ended_server_s_token(request: pytest.FixtureRequest, where: str) -> None:
    """It is worth nothing once the server is stopped, and not for the next server either."""
    scene: Scene = request.getfixturevalue(where)
    right, old = scene.right("bob"), scene.bob
    scene.hub.stop_server("bob")
    scene.hub.wait_stopped("bob")
    assert scene.report(right, token=old).status in {401, 403}
    assert scene.held("bob")["route"] is None
    assert scene.hub.start_server("bob", {}).status in {201, 202}
    scene.hub.wait_ready("bob")
    scene.bob = server_token("bob", scene.hub)
    assert scene.bob != old
    before = scene.held("bob")
    assert scene.report(right, token=old).status in {401, 403}
    assert scene.held("bob") == before


@pytest.mark.parametrize("where", ["scene", "slurm_scene"])
def test_batchspawner_s_route_is_closed(request: pytest.FixtureRequest, where: str) -> None:
    """By ``/hub/api/batchspawner`` a server could set any attribute of its spawner: it is gone."""
    scene: Scene = request.getfixturevalue(where)
    before = scene.held()
    for token in (scene.alice, scene.hub.token, scene.hub.user_token("alice")):
        for body in ({"port": 1}, {"port": 1, "ip": "192.0.2.7"}, {"cmd": ["/bin/sh"]}):
            assert scene.hub.api("POST", "batchspawner", body, token=token).status == 404
        assert scene.hub.api("GET", "batchspawner", token=token).status == 404
    assert scene.held() == before
