"""Who people are, asked of a real hub: the endpoint, the door to it, and tokens as the hub has them."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from dask_gateway import Gateway, JupyterHubAuth
from distributed import Client

from qhub_gateway.auth import GatewayUser, HubAuthenticator
from qhub_gateway.busy import WORKS
from qhub_gateway.errors import HubUnavailableError
from qhub_gateway.hub import HubDoor
from qhub_gateway.requests import Here

CONFIG = """
c.Spawner.cmd = ["{singleuser}"]
c.LocalBackend.home = "{homes}"
c.QHubSpawner.profiles = [
    {{"slug": "small", "display_name": "Small", "default": True, "local": {{}}}},
    {{"slug": "good", "display_name": "Good", "local": {{}}, "options": {{
        "size": {{"display_name": "Size", "choices": {{
            "one": {{"display_name": "One"}}, "two": {{"display_name": "Two"}}}}}}}}}},
]
c.Authenticator.enable_auth_state = True
c.CryptKeeper.keys = ["{key}"]
from qhub_gateway.configure import gateway
gateway(c, api_token="the-gateways-token", address="{address}", proxy_address="hub.example.org:8786")
c.JupyterHub.load_roles = c.JupyterHub.load_roles + [
    {{"name": "nearly", "users": ["nearly"], "scopes": ["admin:users", "read:users"]}},
]
"""
ADDRESS = "https://hub.example.org/gateway"
IDENTITY = {
    "version": 1,
    "uid": 5001,
    "gid": 5001,
    "gids": [5001, 7001],
    "home": "/home/alice",
    "groups": [{"path": "/physics", "name": "physics", "gid": 7001, "access": "rw"}],
    "roles": ["staff"],
}


@pytest.fixture(scope="module")
def hub(user_bin: Path) -> Iterator[Any]:
    """A hub with the gateway as its service, and a server of alice."""
    from tests.systems.hub import HubSystem
    from tests.systems.slurm.unix_users import HUB_USER, ensure_service_user
    from tests.systems.userenv import product_site

    folder = Path(tempfile.mkdtemp(prefix="qhub-gateway-"))
    folder.chmod(0o755)
    ensure_service_user(HUB_USER)
    homes = folder / "hub" / "homes"
    config = CONFIG.format(
        homes=homes,
        key=os.urandom(32).hex(),
        address=ADDRESS,
        singleuser=user_bin / "jupyterhub-singleuser",
    )
    site = product_site(folder)
    made = HubSystem(
        *(folder / "hub", config), environment_bin=user_bin, python_path=site, user=HUB_USER
    )
    made.start()
    try:
        for name in ("alice", "bob", "nearly"):
            made.add_user(name)
        made.api("POST", "groups/physics")
        made.api("POST", "groups/physics/users", {"users": ["alice"]})
        made.api("PATCH", "users/alice", {"auth_state": {"qhub": IDENTITY}})
        chosen = {"profile": "good", "options": {"size": "two"}}
        made.start_server("alice", chosen, server="lab")
        made.wait_ready("alice", "lab")
        yield made
    finally:
        made.stop_server("alice", "lab")
        made.stop()


def own_token(hub: Any) -> str:
    """Return the token of alice's server, and see that it knows where the gateway is."""
    for process in Path("/proc").glob("[0-9]*/environ"):
        try:
            found = process.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"JUPYTERHUB_SERVER_NAME=lab" in found and b"QHUB_PROFILE=good" in found:
            values = dict(each.decode().split("=", 1) for each in found if b"=" in each)
            if values["JUPYTERHUB_API_URL"].startswith(hub.hub_url):
                assert values["DASK_GATEWAY__ADDRESS"] == ADDRESS
                assert values["QHUB_BACKEND"] == "local"
                return values["JUPYTERHUB_API_TOKEN"]
    raise AssertionError("there is no server of alice")


def door(hub: Any, token: str = "") -> HubDoor:
    return HubDoor(
        f"{hub.hub_url}hub/api", lambda: token or "the-gateways-token", timeout_seconds=30
    )


async def test_who_somebody_is(hub: Any) -> None:
    """The gateway reads groups, identity and what was chosen for servers; nobody is nobody."""
    mine = door(hub)
    try:
        alice = await mine.person("alice")
        assert alice is not None
        assert (alice.groups, alice.admin) == ({"physics"}, False)
        assert alice.identity is not None
        assert alice.identity.model_dump(mode="json") == IDENTITY
        assert alice.servers == {"lab": Here("good", {"size": "two"}, "local")}
        bob = await mine.person("bob")
        assert bob is not None
        assert (bob.identity, bob.servers) == (None, {})
        assert await mine.person("nobody") is None
        assert await mine.person("../alice") is None
    finally:
        await mine.close()


def test_nobody_else_may_ask(hub: Any) -> None:
    """No token but the gateway's reads it: not one's own, not an administrator's of users."""
    for token in (hub.user_token("alice"), hub.user_token("nearly"), own_token(hub), "", hub.token):
        for name in ("alice", "bob", "nobody"):
            answer = hub.api("GET", f"users/{name}/qhub/identity", token=token or "x")
            assert answer.status == 403, (name, answer.text)
            assert "5001" not in answer.text


async def test_a_door_without_rights(hub: Any) -> None:
    """Without the scope nothing is concluded about anybody; the words say what is missing."""
    wrong = door(hub, hub.user_token("bob"))
    try:
        with pytest.raises(HubUnavailableError, match="custom:qhub:identity"):
            await wrong.person("alice")
    finally:
        await wrong.close()


def test_an_identity_that_is_not_valid(hub: Any) -> None:
    """An identity that is not valid is answered as such, and its values are not repeated."""
    hub.api("PATCH", "users/bob", {"auth_state": {"qhub": {**IDENTITY, "uid": "5001"}}})
    try:
        answer = hub.api("GET", "users/bob/qhub/identity", token="the-gateways-token")
        assert answer.status == 500
        assert "5001" not in answer.text
    finally:
        hub.api("PATCH", "users/bob", {"auth_state": {}})


async def asked(authenticator: HubAuthenticator, token: str) -> GatewayUser:
    headers = {"Authorization": f"jupyterhub {token}"}
    return await authenticator.authenticate(make_mocked_request("GET", "/", headers=headers))


async def test_tokens_as_the_hub_has_them(hub: Any) -> None:
    """A server's own token and one of the hub's page are let in; a revoked one stops in seconds."""
    authenticator = HubAuthenticator(
        jupyterhub_api_token="the-gateways-token",
        jupyterhub_api_url=f"{hub.hub_url}hub/api",
        jupyterhub_service_name="dask-gateway",
        cache_seconds=0.2,
    )
    await authenticator.setup(SimpleNamespace())  # type: ignore[arg-type]
    try:
        server = await asked(authenticator, own_token(hub))
        assert server.here == Here("good", {"size": "two"}, "local")
        assert server.identity is not None
        made = hub.api("POST", "users/alice/tokens", {"note": "laptop"}).json
        page = await asked(authenticator, made["token"])
        assert (page.name, page.here, page.rights.stop) == ("alice", None, False)
        narrow = hub.api(
            "POST", "users/alice/tokens", {"scopes": ["read:users:name!user=alice"]}
        ).json
        with pytest.raises(web.HTTPUnauthorized):
            await asked(authenticator, narrow["token"])
        hub.api("DELETE", f"users/alice/tokens/{made['id']}")
        async with asyncio.timeout(5):
            while True:
                try:
                    await asked(authenticator, made["token"])
                except web.HTTPUnauthorized:
                    break
                await asyncio.sleep(0.05)
    finally:
        await authenticator.cleanup()


GATEWAY = """
c.QHubGatewayBackend.cluster_options = None
del c.QHubGatewayBackend["cluster_options"]
c.DaskGateway.authenticator_class = "qhub_gateway.auth.HubAuthenticator"
c.HubAuthenticator.jupyterhub_api_token = "the-gateways-token"
c.HubAuthenticator.jupyterhub_api_url = "{hub}hub/api"
c.HubAuthenticator.jupyterhub_service_name = "dask-gateway"
c.BusyWatch.period = 1
c.People.profiles = list(catalogue.profiles)
c.People.clusters = {{"rules": {{"scheduler_memory": "400 MiB"}}}}
"""


def busy_with(hub: Any) -> str | None:
    """What alice's server is busy with, as she sees it."""
    found: str | None = hub.api("GET", "users/alice/qhub/idle/lab").json["busy"]
    return found


async def test_a_cluster_keeps_its_server(hub: Any) -> None:
    """The server is busy while the cluster that was made from it works, and by that alone."""
    from tests.systems.gateway import GatewaySystem

    folder = Path(tempfile.mkdtemp(prefix="qhub-busy-"))
    gateway = GatewaySystem(folder, config=GATEWAY.format(hub=hub.hub_url))
    gateway.start()
    try:
        async with Gateway(
            gateway.url,
            proxy_address=gateway.proxy_address,
            auth=JupyterHubAuth(own_token(hub)),
            asynchronous=True,
        ) as client:
            await until_true(lambda: asyncio.to_thread(gateway.answers))
            cluster = await client.new_cluster(shutdown_on_close=True)
            dask = await Client(cluster, asynchronous=True, set_as_default=False)

            async def says_it_works() -> bool:
                return await asyncio.to_thread(busy_with, hub) == WORKS

            async def last_activity() -> datetime:
                record = await asyncio.to_thread(hub.server, "alice", "lab")
                return datetime.fromisoformat(record["last_activity"])

            async def nothing_is_told() -> bool:
                # the hub is told each second while the cluster works
                at = await last_activity()
                await asyncio.sleep(3)
                return await last_activity() == at

            try:
                await until_true(nothing_is_told)
                before = await last_activity()
                # no worker takes it: it is work all the same, and costs nothing here
                waiting = dask.submit(sum, [1, 2, 3])
                await until_true(says_it_works)

                async def is_told() -> bool:
                    return await last_activity() > before

                await until_true(is_told)
                await waiting.cancel()
                await until_true(nothing_is_told)
            finally:
                await dask.close()
                await cluster.close(shutdown=True)
    finally:
        await asyncio.to_thread(gateway.stop)
        shutil.rmtree(folder)


async def until_true(what: Any, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not await what():
            await asyncio.sleep(0.2)


async def test_who_may_tell(hub: Any) -> None:
    """Only the gateway says what somebody else's server is busy with, and only in plain words."""
    path = "users/alice/qhub/busy"
    for token in (hub.user_token("alice"), own_token(hub), hub.token):
        assert hub.api("POST", path, {"what": "work"}, token=token).status == 403
    for body in ({}, [], {"what": "<b>"}, {"what": "x" * 101}, {"what": "x", "server": 1}):
        assert hub.api("POST", path, body, token="the-gateways-token").status == 400, body
    mine = door(hub)
    try:
        await mine.busy("alice", "no-such-server", "plain work")
        assert busy_with(hub) != "plain work"
        await mine.busy("alice", None, "plain work")
        assert busy_with(hub) == "plain work"
        await mine.busy("nobody", None, "plain work")
        with pytest.raises(HubUnavailableError, match="400"):
            await mine.busy("alice", None, "no (plain) words")
    finally:
        await mine.close()
