"""A gateway beside the hub, with a stock client: options, limits in words, our routes, metrics."""

from __future__ import annotations

import asyncio
import base64
import json
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dask_gateway import BasicAuth, Gateway
from distributed import Client

CONFIG = """
c.QHubGatewayBackend.cluster_options = None
del c.QHubGatewayBackend["cluster_options"]
c.People.profiles = [
    each.model_copy(update={"slug": slug, "display_name": slug, "default": slug == "small"})
    for each in catalogue.profiles for slug in ("tiny", "small")
]
c.People.limits = {"user": {"clusters": 1, "workers": 2}, "users": {"bob": {"workers": 0}}}
c.People.clusters = {"rules": {"scheduler_memory": "400 MiB"}}
c.Api.metrics_token = "for-prometheus"
"""


@pytest.fixture(scope="module")
def gateway() -> Iterator[Any]:
    """A gateway whose clusters are processes beside it."""
    from tests.systems.gateway import GatewaySystem
    from tests.systems.processes import wait_until

    folder = Path(tempfile.mkdtemp(prefix="qhub-people-"))
    made = GatewaySystem(folder, config=CONFIG)
    made.start()
    try:
        # the proxy learns its routes after the gateway has begun to listen
        wait_until(lambda: asked(made, "/api/health")[0] == 200, 30, "the proxy's routes")
        yield made
    finally:
        made.stop()


async def client(gateway: Any, user: str) -> Gateway:
    auth = BasicAuth(user, gateway.password)
    return Gateway(gateway.url, proxy_address=gateway.proxy_address, auth=auth, asynchronous=True)


def asked(gateway: Any, path: str, header: str = "") -> tuple[int, str]:
    request = urllib.request.Request(gateway.url + path, headers={"Authorization": header})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def as_user(gateway: Any, path: str, user: str) -> tuple[int, Any]:
    basic = base64.b64encode(f"{user}:{gateway.password}".encode()).decode()
    status, text = asked(gateway, path, f"Basic {basic}")
    return status, json.loads(text)


async def test_with_a_stock_client(gateway: Any) -> None:
    """Options, refusals and limits reach a stock client in words, and a cluster computes."""
    async with await client(gateway, "alice") as alice:
        options = await alice._cluster_options()
        assert options.profile == "small"
        with pytest.raises(ValueError, match="worker_cores: 64 is more than you may have"):
            await alice._submit(worker_cores=64)
        with pytest.raises(ValueError, match="There is no option 'worker_cmd'"):
            await alice._submit(worker_cmd="rm -rf /")
        name = await alice._submit(options, profile="tiny")
        with pytest.raises(ValueError, match="limit for alice is 1 cluster: you have 1 cluster"):
            await alice._submit()
        cluster = await alice.connect(name, shutdown_on_close=True)
        try:
            with pytest.warns(UserWarning, match="limit for alice is 2 workers"):
                await cluster.scale(3)
            dask = await Client(cluster, asynchronous=True, set_as_default=False)
            await dask.wait_for_workers(2, timeout=120)
            assert await dask.submit(sum, [1, 2, 3]) == 6
            async with asyncio.timeout(60):
                while True:
                    every = as_user(gateway, "/api/qhub/clusters", "alice")[1]["clusters"]
                    # one that failed in another test stays listed
                    found = [each for each in every if each["name"] == name]
                    if found[0]["workers"]["running"]:
                        break
                    await asyncio.sleep(0.2)
            assert [(each["name"], each["profile"], each["state"]) for each in found] == [
                (name, "tiny", "running")
            ]
            assert found[0]["wanted"] == 3
            assert found[0]["workers"]["running"] == 2
            assert "The limit for alice is 2 workers" in found[0]["words"]
            assert as_user(gateway, "/api/qhub/clusters", "bob")[1]["clusters"] == []
            assert as_user(gateway, "/api/qhub/clusters?all", "bob")[0] == 403
            limits = as_user(gateway, "/api/qhub/limits", "alice")[1]["limits"]
            used = {each["resource"]: (each["used"], each["limit"]) for each in limits}
            assert used == {"clusters": (1.0, 1.0), "workers": (2.0, 2.0)}
            status, text = asked(gateway, "/api/metrics", "Bearer for-prometheus")
            assert status == 200
            assert 'qhub_gateway_clusters{backend="local",profile="tiny"' in text
            assert 'route="clusters/:name/scale"' in text
            await dask.close()
        finally:
            await cluster.close(shutdown=True)


def test_dashboards_are_not_open(gateway: Any) -> None:
    """The gateway itself shows nobody a dashboard: a browser is sent to where people log in."""
    opener = urllib.request.build_opener(NoRedirect)
    name = "0123456789abcdef0123456789abcdef"

    def answer(path: str) -> tuple[int, str]:
        with pytest.raises(urllib.error.HTTPError) as caught:
            opener.open(gateway.url + path, timeout=30)
        with caught.value as error:
            return error.code, error.headers["Location"] or ""

    for path in ("", "/", "/status", "/individual-task-stream", "/json/counts.json?a=b"):
        status, where = answer(f"/clusters/{name}{path}")
        assert status == 302
        assert where.startswith(f"/services/qhub/clusters/{name}/dashboard/")
    # which charts dashboards have is the same of any, also of one that there is not
    with opener.open(f"{gateway.url}/clusters/{name}/individual-plots.json", timeout=30) as plots:
        assert json.load(plots)["Individual Task Stream"] == "/individual-task-stream"
    for path in ("/clusters/..%2f..%2fx/status", f"/clusters/{name}//evil.example/status"):
        assert answer(path)[0] in {301, 404}


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Shows where it is sent, and does not go there."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def test_metrics_are_not_open(gateway: Any) -> None:
    """Metrics name people: without the token, or with a wrong one, nothing is told."""
    for header in ("", "Bearer wrong", "Basic YTpi", "Bearer for-prometheus2"):
        status, text = asked(gateway, "/api/metrics", header)
        assert status == 401, header
        assert "qhub_gateway" not in text
