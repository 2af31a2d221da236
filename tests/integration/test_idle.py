"""Idle servers end, busy ones never, on a real hub with real servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import websocket_connect

from tests.systems import stand_in
from tests.systems.hub import HubSystem
from tests.systems.processes import wait_until
from tests.systems.slurm.unix_users import HUB_USER, ensure_service_user
from tests.systems.userenv import product_site

TIMEOUT = 8
CONFIG = """
c.Spawner.cmd = ["{bin}/jupyterhub-singleuser"]
c.LocalBackend.home = "{homes}"
c.QHubSpawner.profiles = [{{"slug": "small", "display_name": "Small", "local": {{}}}}]
c.IdleRule.timeout = {timeout}
c.IdleRule.check_interval = 1
c.IdleRule.max_extension = 60
"""


@pytest.fixture(scope="module")
def hub(user_bin: Path) -> Iterator[Any]:
    """A hub that ends servers after eight idle seconds."""
    with a_hub(user_bin, TIMEOUT) as made:
        yield made


@contextlib.contextmanager
def a_hub(user_bin: Path, timeout: float, more: str = "") -> Iterator[HubSystem]:
    """A hub with alice, for as long as the block runs."""
    folder = Path(tempfile.mkdtemp(prefix="qhub-idle-"))
    folder.chmod(0o755)
    ensure_service_user(HUB_USER)
    shutil.copy(stand_in.__file__, folder)
    config = CONFIG.format(bin=user_bin, homes=folder / "hub" / "homes", timeout=timeout)
    config += more.format(folder=folder)
    made = HubSystem(
        *(folder / "hub", config),
        environment_bin=user_bin,
        python_path=product_site(folder),
        user=HUB_USER,
    )
    made.start()
    made.add_user("alice")
    try:
        yield made
    finally:
        for name in (made.api("GET", "users/alice").json or {}).get("servers", {}):
            made.stop_server("alice", name)
            made.wait_stopped("alice", name)
        made.stop()
        shutil.rmtree(folder)


@pytest.fixture
def server(hub: HubSystem, request: pytest.FixtureRequest) -> str:
    """A running server of its own for each test."""
    name = request.node.name.removeprefix("test_").replace("_", "-")[:30]
    hub.start_server("alice", {}, name)
    hub.wait_ready("alice", name)
    return name


def idle(hub: HubSystem, server: str) -> dict[str, Any]:
    answer = hub.api("GET", f"users/alice/qhub/idle/{server}")
    assert answer.status == 200, answer.text
    return dict(answer.json)


def ask(hub: HubSystem, server: str, path: str, body: object = None) -> Any:
    request = urllib.request.Request(
        f"{hub.url}user/alice/{server}/{path}",
        headers={"Authorization": f"token {hub.token}"},
        data=None if body is None else json.dumps(body).encode(),
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


def ready(hub: HubSystem, server: str) -> bool:
    return bool((hub.server("alice", server) or {}).get("ready"))


def lives_through(hub: HubSystem, server: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > until or not ready(hub, server), seconds + 10)
    assert ready(hub, server)


def test_unused(hub: HubSystem, server: str) -> None:
    """A server that nobody uses ends, although a forgotten tab polls it; its person is told why."""

    def tab_polls() -> bool:
        try:
            ask(hub, server, "api/kernels?no_track_activity=1")
        except urllib.error.HTTPError:
            return True
        return not ready(hub, server)

    assert idle(hub, server)["seconds_left"] <= TIMEOUT
    wait_until(tab_polls, TIMEOUT + 20, "its end", poll_seconds=0.5)
    hub.wait_stopped("alice", server)
    answer = hub.api("GET", f"users/alice/qhub/profiles?server={server}")
    assert answer.json["last_ended"] == "it was idle for 0.133333 min"


async def test_a_silent_kernel(hub: HubSystem, server: str) -> None:
    """A kernel that computes without a word keeps its server, and the hub's record fresh."""
    seconds = TIMEOUT + 8
    working = asyncio.ensure_future(
        hub.run_code("alice", f"import time; time.sleep({seconds}); print('done')", server)
    )
    await asyncio.sleep(0)

    def look() -> bool:
        lives_through(hub, server, TIMEOUT + 4)
        return True

    assert await asyncio.to_thread(look)
    found = await asyncio.to_thread(idle, hub, server)
    assert found["busy"] == "a kernel runs"
    assert found["ends_at"] is None
    model = await asyncio.to_thread(hub.server, "alice", server)
    assert model is not None
    last = time.strptime(model["last_activity"][:19], "%Y-%m-%dT%H:%M:%S")
    assert time.time() - (time.mktime(last) - time.timezone) < TIMEOUT
    assert (await working).strip() == "done"
    await asyncio.to_thread(hub.wait_stopped, "alice", server)


def test_kept_on_request(hub: HubSystem, server: str) -> None:
    """Its person sees the time left and extends it, within the bound, in JSON and on the page."""
    path = f"users/alice/qhub/idle/{server}"
    token = hub.user_token("alice")
    for body in ({"seconds": 61}, {"seconds": 0}, {"seconds": "5"}, {}, [], {"hours": 1}):
        assert hub.api("POST", path, body, token=token).status == 400, body
    answer = hub.api("POST", path, {"seconds": 20}, token=token)
    assert answer.status == 200
    assert 15 <= answer.json["seconds_left"] <= 20
    lives_through(hub, server, TIMEOUT + 4)
    hub.wait_stopped("alice", server)


def test_others_may_not(hub: HubSystem, server: str) -> None:
    """Nobody extends, or sees, a server that is not theirs."""
    hub.add_user("bob")
    token = hub.user_token("bob")
    path = f"users/alice/qhub/idle/{server}"
    assert hub.api("GET", path, token=token).status in {403, 404}
    assert hub.api("POST", path, {"seconds": 20}, token=token).status in {403, 404}
    assert hub.api("GET", "users/alice/qhub/idle/no-such").status == 404


def test_the_unknown_is_not_idle(hub: HubSystem, server: str) -> None:
    """A server that does not answer is never ended for that."""
    state = hub.server("alice", server)
    assert state is not None
    pid = state["state"]["qhub"]["pid"]
    os.killpg(pid, signal.SIGSTOP)
    try:
        lives_through(hub, server, TIMEOUT + 6)
    finally:
        os.killpg(pid, signal.SIGCONT)


def test_the_promise_outlives_the_hub(hub: HubSystem, server: str) -> None:
    """A hub that is killed and started again keeps an extended server."""
    assert hub.api("POST", f"users/alice/qhub/idle/{server}", {"seconds": 40}).status == 200
    hub.kill()
    hub.restart()
    wait_until(lambda: ready(hub, server), 30, "the adopted server")
    assert idle(hub, server)["extended_until"] is not None
    lives_through(hub, server, TIMEOUT + 2)


CULLER = """
c.Spawner.cmd = ["python3", "-I", "{folder}/stand_in.py"]
c.IdleRule.max_extension = 3600
c.JupyterHub.services += [{{"name": "teller", "api_token": "the-tellers-token"}}]
c.JupyterHub.custom_scopes = {{"custom:qhub:busy": {{"description": "Tell"}}}}
c.JupyterHub.load_roles += [
    {{"name": "teller", "services": ["teller"], "scopes": ["custom:qhub:busy"]}},
]
"""


def test_jupyterhub_idle_culler(user_bin: Path) -> None:
    """The culler, unchanged and in the place of the rule, spares what is kept and what is told to work."""
    with a_hub(user_bin, 0, CULLER) as hub:
        names = ("unused", "kept", "busy")
        for name in names:
            hub.start_server("alice", {}, name)
        for name in names:
            hub.wait_ready("alice", name)

        def told() -> bool:
            body = {"what": "a Dask cluster works", "server": "busy"}
            path = "users/alice/qhub/busy"
            return hub.api("POST", path, body, token="the-tellers-token").status == 204

        assert told()
        path = "users/alice/qhub/idle/kept"
        assert hub.api("POST", path, {"seconds": 3600}).status == 200
        argv = ["-m", "jupyterhub_idle_culler", "--timeout=6", "--cull-every=1"]
        culler = subprocess.Popen(
            [sys.executable, *argv, f"--url={hub.hub_url}hub/api"],
            env={"PATH": os.environ["PATH"], "JUPYTERHUB_API_TOKEN": hub.token},
        )
        try:
            wait_until(lambda: told() and not ready(hub, "unused"), 60, "the end of what is unused")
            # as long again as it had: nobody else is ended
            gone = time.monotonic() + 8
            wait_until(lambda: told() and time.monotonic() > gone, 60, poll_seconds=1)
            assert ready(hub, "kept")
            assert ready(hub, "busy")
            assert culler.poll() is None
        finally:
            culler.terminate()
            culler.wait()


async def type_in_a_terminal(hub: Any, person: str, words: str) -> None:
    """Open a terminal of a person's server as a browser does, type, and close the tab."""
    base = f"{hub.url}user/{person}/"
    headers = {"Authorization": f"token {hub.user_token(person)}"}
    asked = HTTPRequest(f"{base}api/terminals", method="POST", body="{}", headers=headers)
    name = json.loads((await AsyncHTTPClient().fetch(asked)).body)["name"]
    address = f"{base.replace('http', 'ws', 1)}terminals/websocket/{name}"
    socket = await websocket_connect(HTTPRequest(address, headers=headers))
    said = ""
    while not said.rstrip().endswith(("$", "#")):  # the shell's prompt
        kind, text = json.loads(await asyncio.wait_for(socket.read_message(), 20))
        said += text if kind == "stdout" else ""
    await socket.write_message(json.dumps(["stdin", f"{words}\r"]))
    await asyncio.sleep(0.5)
    socket.close()


def a_slurm_job_is_work(hub: Any, slurm: Any) -> None:
    """See that a batch job that waits or runs keeps alice's server, and none that is over."""

    def busy() -> str | None:
        found: str | None = hub.api("GET", "users/alice/qhub/idle").json["busy"]
        return found

    waits = slurm.sbatch("alice", "true", "--job-name=train", "--begin=now+1hour")
    words = f"the Slurm job {waits} that was started meanwhile waits"
    wait_until(lambda: busy() == words, 90, "a job that waits", poll_seconds=1)
    runs = slurm.sbatch("alice", "sleep 300", "--job-name=train")
    slurm.run(["scancel", str(waits)])
    words = f"the Slurm job {runs} that was started meanwhile runs"
    wait_until(lambda: busy() == words, 90, "a job that runs", poll_seconds=1)
    slurm.run(["scancel", str(runs)])
    wait_until(lambda: busy() is None, 90, "the end of both", poll_seconds=1)


async def test_a_silent_terminal(hub_on: Any, slurm: Any, kubernetes: Any, user_bin: Path) -> None:
    """A program in a terminal is work, on every backend, though it says nothing; on Slurm a job is, too."""
    from tests.systems.kubernetes_hub import PROFILES, KubernetesHub

    here = {"slug": "here", "display_name": "Here", "local": {}}
    here["environment"] = str(user_bin.parent)
    hub = KubernetesHub(
        kubernetes, profiles=f"{PROFILES}\nc.QHubSpawner.profiles.append({here!r})\n"
    )
    hub.start()
    try:
        hub.add_user("bob")
        places = {
            "slurm": (hub_on(config="c.SlurmBackend.poll_rest = 3\n"), "alice", {}),
            "kubernetes": (hub, "alice", {}),
            "local": (hub, "bob", {"profile": "here"}),
        }
        for on, person, options in places.values():
            on.add_user(person)
            on.start_server(person, options)
            on.wait_ready(person)
            assert on.api("GET", f"users/{person}/qhub/idle").json["busy"] is None
            if on is not hub:
                await asyncio.to_thread(a_slurm_job_is_work, on, slurm)
            await type_in_a_terminal(on, person, "sleep 300")

        def busy(on: Any, person: str) -> str:
            return str(on.api("GET", f"users/{person}/qhub/idle").json["busy"] or "")

        for name, (on, person, _) in places.items():
            look = partial(busy, on, person)
            said = await asyncio.to_thread(wait_until, look, 90, name, poll_seconds=2)
            assert said == "a program runs in a terminal"
        work = works(hub)
        assert len(work) == 1
        for person in ("alice", "bob"):
            hub.stop_server(person)
            hub.wait_stopped(person)
        wait_until(lambda: not works(hub), 20, "the end of what looked at the local server")
    finally:
        hub.stop()
        hub.tidy()


def works(hub: Any) -> list[str]:
    """The processes that look at local servers of a hub."""
    program = f"{hub.run_folder}/site/qhub_spawner/work.py\0".encode()
    return [
        entry.name
        for entry in Path("/proc").glob("[0-9]*")
        if entry.is_dir() and program in command_of(entry)
    ]


def command_of(entry: Path) -> bytes:
    """The command line of a process; nothing if it has ended."""
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""
