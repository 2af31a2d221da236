"""What becomes of clusters when tokens, accounts or the hub go, on a real hub with a real gateway."""

from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from dask_gateway import GatewayCluster as StockCluster
from dask_gateway import JupyterHubAuth
from distributed import Client

from qhub_gateway.client import Gateway

pytestmark = pytest.mark.timeout(300)

HUB = """
from pathlib import Path
from qhub_gateway import configure
address = Path("{folder}/gateway-address").read_text()
configure.gateway(c, api_token="{token}", address=address)
c.Authenticator.enable_auth_state = True
c.CryptKeeper.keys = ["{key}"]
"""
GATEWAY = """
c.QHubGatewayBackend.cluster_options = None
del c.QHubGatewayBackend["cluster_options"]
c.DaskGateway.authenticator_class = "qhub_gateway.auth.HubAuthenticator"
c.HubAuthenticator.jupyterhub_api_token = "{token}"
c.HubAuthenticator.jupyterhub_api_url = "{hub}hub/api"
c.HubAuthenticator.jupyterhub_service_name = "dask-gateway"
c.HubAuthenticator.cache_seconds = 0.5
c.Api.owner_period = 1
c.People.profiles = list(catalogue.profiles)
c.People.clusters = {{"rules": {{"scheduler_memory": "400 MiB"}}}}
"""
IDENTITY = {"version": 1, "uid": 5001, "gid": 5001, "home": "/home/alice"}
OWN_TOKEN = secrets.token_hex(16)


@pytest.fixture(scope="module")
def systems(user_bin: Path) -> Iterator[Any]:
    """A hub, and beside it a gateway whose clusters are processes."""
    from tests.systems.gateway import GatewaySystem
    from tests.systems.hub import HubSystem
    from tests.systems.slurm.unix_users import HUB_USER, ensure_service_user
    from tests.systems.userenv import product_site

    folder = Path(tempfile.mkdtemp(prefix="qhub-accounts-"))
    folder.chmod(0o755)
    (folder / "gateway").mkdir()
    ensure_service_user(HUB_USER)
    hub = HubSystem(
        folder / "hub",
        HUB.format(folder=folder, token=OWN_TOKEN, key=secrets.token_hex(32)),
        environment_bin=user_bin,
        python_path=product_site(folder),
        user=HUB_USER,
    )
    config = GATEWAY.format(hub=hub.hub_url, token=OWN_TOKEN)
    gateway = GatewaySystem(folder / "gateway", config=config)
    (folder / "gateway-address").write_text(gateway.url)
    gateway.start()
    try:
        hub.start()
        yield hub, gateway
    finally:
        gateway.stop()
        hub.stop()


@pytest.fixture
def person(systems: Any) -> str:
    """Somebody new, with an identity."""
    hub, _ = systems
    name = f"p{secrets.token_hex(4)}"
    hub.add_user(name)
    assert hub.api("PATCH", f"users/{name}", {"auth_state": {"qhub": IDENTITY}}).status == 200
    return name


@pytest.fixture
def status(systems: Any) -> Callable[..., tuple[int, Any]]:
    """Ask the gateway something, with a token of the hub."""
    _, gateway = systems

    def ask(path: str, token: str) -> tuple[int, Any]:
        headers = {"Authorization": f"token {token}"}
        request = urllib.request.Request(f"{gateway.url}/api/{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(errors="replace")

    return ask


@asynccontextmanager
async def computing(gateway: Any, token: str) -> AsyncIterator[tuple[Any, Any]]:
    """A cluster with a worker, and a client of Dask that computes on it."""
    async with Gateway(
        gateway.url,
        proxy_address=gateway.proxy_address,
        auth=JupyterHubAuth(token),
        asynchronous=True,
    ) as client:
        cluster = await client.new_cluster(shutdown_on_close=False)
        await cluster.scale(1)
        dask = await Client(cluster, asynchronous=True, set_as_default=False)
        assert await dask.submit(sum, [1, 2]).result() == 3
        try:
            yield cluster, dask
        finally:
            await dask.close()
            await cluster.close(shutdown=False)


async def until(what: Callable[[], bool], seconds: float = 90) -> None:
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(what):
            await asyncio.sleep(0.2)


async def test_a_token_that_is_revoked(systems: Any, person: str, status: Any) -> None:
    """Who has a revoked token gets nothing more; the cluster computes on, for who has another."""
    hub, gateway = systems
    made = hub.api("POST", f"users/{person}/tokens", {"note": "laptop"}).json
    async with computing(gateway, made["token"]) as (cluster, dask):
        hub.api("DELETE", f"users/{person}/tokens/{made['id']}")
        await until(lambda: status("v1/clusters/", made["token"])[0] == 401)
        assert await dask.submit(sum, [1, 2, 3]).result() == 6
        another = hub.user_token(person)
        assert list(status("v1/clusters/", another)[1]) == [cluster.name]
        async with Gateway(
            gateway.url,
            proxy_address=gateway.proxy_address,
            auth=JupyterHubAuth(another),
            asynchronous=True,
        ) as client:
            await client.stop_cluster(cluster.name)


async def test_while_the_hub_is_down(systems: Any, person: str, status: Any) -> None:
    """Clusters compute on without the hub, and who was known goes on; nobody new is let in."""
    hub, gateway = systems
    token, another = hub.user_token(person), hub.user_token(person)
    async with computing(gateway, token) as (cluster, dask):
        hub.hub.end()
        try:
            assert await dask.submit(sum, [1, 2, 3]).result() == 6
            assert status("v1/clusters/", token)[0] == 200
            assert status("v1/clusters/", another)[0] == 503
            # some rounds of looking after the owners of clusters, which find out nothing
            before = gateway.log().count("the clusters of everybody go on")
            await until(lambda: gateway.log().count("the clusters of everybody go on") > before + 1)
            assert await dask.submit(sum, [1, 2, 3, 4]).result() == 10
        finally:
            hub.restart()
        await until(lambda: status("v1/clusters/", another)[0] == 200)
        assert status(f"qhub/clusters/{cluster.name}", another)[1]["state"] == "running"
        await cluster.shutdown()


async def test_somebody_who_is_disabled(systems: Any, person: str, status: Any) -> None:
    """The clusters of somebody whose identity was taken away end, and their owner reads why."""
    hub, gateway = systems
    token = hub.user_token(person)
    async with computing(gateway, token) as (cluster, _):
        assert hub.api("PATCH", f"users/{person}", {"auth_state": {}}).status == 200
        path = f"qhub/clusters/{cluster.name}"
        await until(lambda: status(path, token)[1]["state"] == "failed")
        assert "may not use the hub any more" in status(path, token)[1]["words"]
        assert status("v1/clusters/", token)[1] == {}


async def test_somebody_who_is_gone(systems: Any, person: str) -> None:
    """The clusters of somebody whom the hub does not know any more end."""
    hub, gateway = systems
    async with computing(gateway, hub.user_token(person)) as (cluster, _):
        assert hub.api("DELETE", f"users/{person}").status == 204
        words = f"ending cluster {cluster.name}: the hub does not know {person} any more"
        await until(lambda: words in gateway.log())
        await until(lambda: not _running(gateway, cluster.name))


def _running(gateway: Any, name: str) -> bool:
    """Whether a process of a cluster is there."""
    mark = f"DASK_GATEWAY_CLUSTER_NAME={name}".encode()
    return any(mark in _read(path) for path in Path("/proc").glob("[0-9]*/environ"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


async def test_an_owner_reads_and_shares(systems: Any, person: str, status: Any) -> None:
    """Our client shows the logs of scheduler and worker, and shares a dashboard, and takes it back."""
    hub, gateway = systems
    hub.add_user("viewer")
    viewer, token = hub.user_token("viewer"), hub.user_token(person)
    async with computing(gateway, token) as (cluster, _):
        assert "Scheduler at" in await cluster.logs()
        path = f"qhub/clusters/{cluster.name}"
        (worker,) = status(f"{path}/logs", token)[1]["workers"]
        assert "distributed.worker" in await cluster.logs(worker)
        with pytest.raises(ValueError, match="no such worker"):
            await cluster.logs("nobody")
        assert status(f"{path}/dashboard", viewer)[0] == 404
        await cluster.share(users=["viewer"])
        assert status(f"{path}/dashboard", viewer)[0] == 200
        await cluster.share()
        assert status(f"{path}/dashboard", viewer)[0] == 404
        with pytest.raises(ValueError, match="nobody to share with"):
            await cluster.share(users=["a\nb"])
        await cluster.shutdown()


async def test_dasks_own_panel(systems: Any, person: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Dask's panel in JupyterLab does by a server's variables: make, scale, show, end."""
    import importlib

    import dask.config

    from qhub_gateway.configuration import Addresses, environment

    hub, gateway = systems
    proxy = gateway.proxy_address.removeprefix("gateway://")
    found = dask.config.collect_env(environment(Addresses(gateway.url, proxy)))
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", hub.user_token(person))
    factory = found["labextension"]["factory"]
    kind = getattr(importlib.import_module(factory["module"]), factory["class"])
    assert kind is StockCluster
    with dask.config.set(dask.config.merge(dask.config.config, found)):
        cluster = await kind(asynchronous=True)
        try:
            await cluster.scale(1)
            assert f"/clusters/{cluster.name}/status" in cluster.dashboard_link
            assert cluster.name in cluster._repr_html_()
            async with Client(cluster, asynchronous=True, set_as_default=False) as dask_client:
                await dask_client.wait_for_workers(1, timeout=90)
        finally:
            await cluster.close(shutdown=True)


async def test_no_secret_in_a_log(systems: Any, person: str, status: Any) -> None:
    """Neither a person's token, nor the gateway's, nor a cluster's or its key is in any log."""
    hub, gateway = systems
    token = hub.user_token(person)
    async with computing(gateway, token) as (cluster, _):
        # a token that is refused is not written down either
        assert status("v1/clusters/", "canary-7f3a")[0] == 401
        marks = {token, OWN_TOKEN, hub.token, "canary-7f3a", "PRIVATE KEY", *_tokens(cluster.name)}
        log = await cluster.logs()
        await cluster.shutdown()
    assert len(marks) == 6
    files = [*gateway.folder.glob("*.log"), hub.log, hub.folder / "proxy.log"]
    texts = [log, *(path.read_text(errors="replace") for path in files)]
    assert any(cluster.name in text for text in texts)
    for mark in marks:
        assert not any(mark in text for text in texts)


def _tokens(name: str) -> set[str]:
    """Return a cluster's own token, as its processes have it."""
    mark, own = f"DASK_GATEWAY_CLUSTER_NAME={name}".encode(), b"DASK_GATEWAY_API_TOKEN="
    environments = [_read(path) for path in Path("/proc").glob("[0-9]*/environ")]
    words = [word for each in environments if mark in each for word in each.split(b"\0")]
    return {word.removeprefix(own).decode() for word in words if word.startswith(own)}
