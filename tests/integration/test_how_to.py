"""The how-tos, done on a real Slurm: what they promise happens."""

from __future__ import annotations

import json
import re
import urllib.error
from pathlib import Path
from typing import Any

import pytest

from tests.systems.processes import ProcessId, end_processes

HOW_TO = Path(__file__).resolve().parents[2] / "docs/how-to"
WHERE = """
import json, os, pwd
print(json.dumps({"user": pwd.getpwuid(os.getuid()).pw_name, "environment": dict(os.environ)}))
"""


def python_of(page: str) -> list[str]:
    """The Python of a how-to, each block without what only the reader's hub would have."""
    text = (HOW_TO / page).read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block.replace("c = get_config()\n", "") for block in blocks]


async def where(hub: Any) -> dict[str, Any]:
    """Start alice's server with the default profile and ask its kernel about itself."""
    answer = hub.start_server("alice", {})
    assert answer.status in {201, 202}, answer.text
    hub.wait_ready("alice")
    said: dict[str, Any] = json.loads(await hub.run_code("alice", WHERE))
    return said


async def test_moving_from_batchspawner(hub_on: Any, slurm: Any) -> None:
    """The old settings decide where the one empty profile is silent."""
    hub = hub_on(profiles=python_of("move-from-batchspawner.md")[0])
    said = await where(hub)
    assert said["user"] == "alice"
    assert said["environment"]["COLOUR"] == "blue"
    job = slurm.run(["scontrol", "show", "job", said["environment"]["SLURM_JOB_ID"]]).stdout
    for words in ("Partition=general", "TimeLimit=01:00:00", "MinMemoryNode=600M", "Nice=10"):
        assert words in job


def test_old_settings_are_named_at_start(hub_on: Any) -> None:
    """What has no effect any more is a warning in the log, and the hub starts all the same."""
    hub = hub_on(config='c.SlurmSpawner.batch_script = "#!/bin/sh\\n{cmd}"\n')
    assert "c.SlurmSpawner.batch_script has no effect with QHubSpawner" in hub.log.read_text()


async def test_internal_ssl(hub_on: Any, request: pytest.FixtureRequest) -> None:
    """Hub and server talk over TLS; the keys reach the server by descriptors, not by files."""
    hub = hub_on(
        start=False,
        config="""
c.JupyterHub.internal_ssl = True
c.JupyterHub.hub_bind_url = c.JupyterHub.hub_bind_url.replace("http:", "https:")
c.ConfigurableHTTPProxy.api_url = c.ConfigurableHTTPProxy.api_url.replace("http:", "https:")
c.ConfigurableHTTPProxy.should_start = True
c.JupyterHub.cleanup_proxy = True
""",
    )
    hub.hub_url = hub.url  # we have no certificate: in by the public door
    hub.hub.launch()
    hub.hub.wait_ready()
    proxy = ProcessId.of(int((hub.folder / "jupyterhub-proxy.pid").read_text()))
    assert proxy is not None
    request.addfinalizer(lambda: end_processes([proxy]))  # should the hub not get to it
    hub.add_user("alice")
    environment = (await where(hub))["environment"]
    assert environment["JUPYTERHUB_API_URL"].startswith("https://")
    assert environment["JUPYTERHUB_SERVICE_URL"].startswith("https://")
    assert re.fullmatch(r"/proc/[0-9]+/fd/[0-9]+", environment["JUPYTERHUB_SSL_KEYFILE"])
    assert not [name for name in environment if name.startswith("QHUB_SSL")]


async def test_a_hub_on_ipv6(hub_on: Any) -> None:
    """A server that faces the hub by IPv6 binds there, and the hub takes that address."""
    hub = hub_on(
        start=False,
        config="""
here = c.JupyterHub.hub_bind_url
c.JupyterHub.hub_bind_url = here.replace("127.0.0.1", "[::]")
c.JupyterHub.hub_connect_url = here.replace("127.0.0.1", "[::1]")
""",
    )
    hub.hub_url = hub.url  # [::] is IPv6 alone
    hub.start()
    hub.add_user("alice")
    environment = (await where(hub))["environment"]
    assert environment["JUPYTERHUB_SERVICE_URL"].startswith("http://[::1]:")


def test_starting_from_a_script(hub_on: Any) -> None:
    """The functions of the how-to start a server with a choice, and pass on a refusal's words."""
    hub = hub_on()
    names: dict[str, Any] = {}
    exec(python_of("start-from-scripts.md")[0], names)  # noqa: S102 - what the test is about
    api, token = f"{hub.url}hub/api", hub.user_token("alice")
    status, offered = names["ask"](api, token, "GET", "qhub/profiles")
    assert status == 200
    assert [profile["slug"] for profile in offered["profiles"]] == ["general", "highmem", "gpu"]
    assert names["start"](api, token, "alice", {"profile": "highmem"}) == "/user/alice/"
    model = hub.server("alice")
    assert model["user_options"] == {"profile": "highmem", "options": {}}
    with pytest.raises(urllib.error.HTTPError) as refused:
        names["ask"](api, hub.user_token("bob"), "POST", "users/bob/server", {"profile": "gpu"})
    with refused.value as answer:
        assert answer.code == 403
        assert "general" in json.loads(answer.read())["message"]


def test_two_hubs_leave_each_others_jobs_alone(hub_on: Any) -> None:
    """A hub with another id does not see the first one's job as nobody's."""
    first = hub_on(config='c.SlurmBackend.hub_id = "prod"\n')
    first.start_server("alice", {})
    first.wait_ready("alice")
    (job,) = first.jobs("RUNNING")
    second = hub_on(config='c.SlurmBackend.hub_id = "test"\n')
    second.start_server("bob", {})
    second.wait_ready("bob")
    assert job in second.jobs("RUNNING")
    assert f"job {job} " not in second.log.read_text()


def test_link_that_preselects(hub_on: Any) -> None:
    """It shows what it names, and starts nothing."""
    from demo.check import log_in
    from demo.visitor import Visitor

    hub = hub_on(
        config="""
c.JupyterHub.authenticator_class = "shared-password"
c.SharedPasswordAuthenticator.user_password = "a password"
c.Authenticator.admin_users = set()
"""
    )
    visitor = Visitor()
    log_in(visitor, hub.url, "alice", "a password")
    page = visitor.open(f"{hub.url}hub/spawn?profile=highmem")
    assert page.form("spawn_form").fields["profile"] == "highmem"
    assert hub.server("alice") is None or hub.server("alice")["stopped"]
