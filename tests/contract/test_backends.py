"""The contract of backends, through a real hub: local, Slurm by both transports, Kubernetes."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from tests.contract.conftest import BackendHub
from tests.systems.processes import wait_until

LOOK = """
import json, os, pathlib, pwd, socket
from jupyter_client import find_connection_file
print(json.dumps({
    "account": pwd.getpwuid(os.getuid()).pw_name,
    "folder": os.getcwd(),
    "environment": dict(os.environ),
    "pid": os.getppid(),
    "server": f"{socket.gethostname()}:{os.getppid()}",
    "job": os.environ.get("SLURM_JOB_ID") or socket.gethostname(),
}))
"""


class Served:
    """A server that was started once, with what was seen of its start."""

    def __init__(self, backend: BackendHub, server: str = "") -> None:
        """Start it, with its waiting page open."""
        self.hub = backend.hub
        self.server = server
        self.events: list[dict[str, Any]] = []
        answers: list[Any] = []

        def start() -> None:
            # the hub answers when the server is up, or after ten seconds
            answers.append(self.hub.start_server("alice", {"profile": "good"}, server))

        starting = threading.Thread(target=start)
        starting.start()
        wait_until(lambda: (self.hub.server("alice", server) or {}).get("pending"), 20, "a start")
        self.events = self.hub.progress("alice", server)
        starting.join(60)
        assert answers[0].status in {201, 202}, answers[0].text
        self.hub.wait_ready("alice", server)

    async def look(self) -> dict[str, Any]:
        """Return what the server's kernel sees."""
        found: dict[str, Any] = json.loads(await self.hub.run_code("alice", LOOK, self.server))
        return found

    def stop(self) -> None:
        """Stop it."""
        assert self.hub.stop_server("alice", self.server).status in {202, 204}
        self.hub.wait_stopped("alice", self.server)


@pytest.fixture(scope="module")
def served(backend_hub: BackendHub) -> Served:
    """The default server, for the tests that leave it as it is."""
    return Served(backend_hub)


async def test_what_the_server_gets(backend_hub: BackendHub, served: Served) -> None:
    """It runs as the right account, at home, with the environment of hub and profile alone."""
    seen = await served.look()
    environment = seen["environment"]
    assert seen["account"] == backend_hub.account
    assert seen["folder"] == environment["HOME"] == str(backend_hub.home)
    assert environment["FROM_THE_HUB"] == "line one\nline 'two' $HOME"
    assert environment["FROM_THE_PROFILE"] == "yes"
    assert environment["JUPYTERHUB_USER"] == "alice"
    assert environment["JUPYTERHUB_SERVICE_PREFIX"] == "/user/alice/"
    assert environment["QHUB_PROFILE"] == "good"
    transports = {"command-line", "rest"}
    expected = "slurm" if backend_hub.kind in transports else backend_hub.kind
    assert environment["QHUB_BACKEND"] == expected
    assert environment["USER"] == environment["LOGNAME"] == backend_hub.account
    if backend_hub.kind != "kubernetes":  # there it is the image's
        assert environment["LANG"] == "C.UTF-8"
    for own in ("CONFIGPROXY_AUTH_TOKEN", "SLURM_JWT", "QHUB_SSL_KEY", "PYTHONPATH"):
        assert own not in environment
    assert backend_hub.hub.token not in str(environment)


async def test_it_is_reached_through_the_proxy(backend_hub: BackendHub, served: Served) -> None:
    """The address it reported is the one it listens at; the hub shows what was chosen."""
    model = backend_hub.hub.server("alice")
    assert model is not None
    assert model["ready"]
    assert model["user_options"] == {"profile": "good", "options": {}}
    port = int(
        (await served.look())["environment"]["JUPYTERHUB_SERVICE_URL"]
        .rsplit(":", 1)[1]
        .split("/")[0]
    )
    assert port >= 1024


def test_progress(backend_hub: BackendHub, served: Served) -> None:
    """Each step says something of this server, the figures rise, and the end is the end."""
    events = served.events
    assert events[-1].get("ready") is True
    figures = [event["progress"] for event in events]
    assert figures == sorted(figures)
    words = " ".join(event["message"] for event in events[:-1])
    if backend_hub.kind == "local":
        assert "the hub's machine" in words
    elif backend_hub.kind == "kubernetes":
        assert "node1" in words
    else:
        assert "Job " in words or "on cn0" in words
    assert "token" not in words


async def test_the_hub_is_killed(backend_hub: BackendHub, served: Served) -> None:
    """Its servers go on, and the next hub takes up the same one."""
    before = await served.look()
    backend_hub.hub.kill()
    backend_hub.hub.restart()
    backend_hub.hub.wait_ready("alice")
    after = await served.look()
    assert (after["server"], after["job"]) == (before["server"], before["job"])
    assert (
        after["environment"]["JUPYTERHUB_SERVICE_URL"]
        == (before["environment"]["JUPYTERHUB_SERVICE_URL"])
    )


async def test_named_servers(backend_hub: BackendHub, served: Served) -> None:
    """A second one beside the first, with a life of its own; it ends gracefully."""
    second = Served(backend_hub, "second")
    seen, first = await second.look(), await served.look()
    assert seen["environment"]["JUPYTERHUB_SERVICE_PREFIX"] == "/user/alice/second/"
    assert seen["server"] != first["server"]
    note = backend_hub.home / "qhub-note-second"
    note.unlink(missing_ok=True)
    second.stop()
    # SIGTERM came, and there was time to write
    assert note.read_text() == "ended well\n"
    assert (await served.look())["server"] == first["server"]


async def test_a_server_that_ends_by_itself(backend_hub: BackendHub) -> None:
    """The hub notices by itself, and the person is told why."""
    third = Served(backend_hub, "third")
    seen = await third.look()
    backend_hub.kill(seen["pid"], seen["job"])
    backend_hub.hub.wait_stopped("alice", "third")

    def words() -> str:
        model = backend_hub.hub.api("GET", "users/alice/qhub/profiles?server=third").json
        return model.get("last_ended") or ""

    assert backend_hub.killed_words in wait_until(words, 30, "the reason")


def test_a_start_that_fails(backend_hub: BackendHub) -> None:
    """It says why, on the waiting page and afterwards, and leaves nothing."""
    hub = backend_hub.hub
    answer = hub.start_server("bob", {"profile": "broken"})
    assert answer.status in {202, 500}, answer.text
    events = hub.progress("bob")
    assert events[-1]["failed"] is True
    assert "exit code" in events[-1]["message"]
    assert answer.status == 202 or "exit code" in answer.text
    hub.wait_stopped("bob")
    model = hub.api("GET", "users/bob/qhub/profiles").json
    assert "exit code" in str(model.get("last_failed") or model.get("last_ended"))


@pytest.mark.parametrize(
    ("options", "status", "named"),
    [
        ({"profile": "secret"}, 403, "secret"),
        ({"profile": "nope"}, 400, "nope"),
        ({"profile": "good", "options": {"size": "large"}}, 400, "size"),
        ({"profile": "good", "cmd": ["sh"]}, 400, "cmd"),
        ("good", 400, "object"),
    ],
)
def test_what_may_not_be_had(
    backend_hub: BackendHub, options: object, status: int, named: str
) -> None:
    """A clear 4xx that names it and what may be had; nothing is started."""
    answer = backend_hub.hub.start_server("alice", options, "refused")
    assert answer.status == status, answer.text
    assert named in answer.json["message"]
    assert answer.json["message"].count("secret") == (named == "secret")
    model = backend_hub.hub.server("alice", "refused")
    assert model is None or not (model["ready"] or model["pending"])
