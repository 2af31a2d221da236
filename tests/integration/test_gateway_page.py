"""The page of clusters on a real hub, with a real gateway beside it: who sees, who stops, dashboards."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from dask_gateway import Gateway, JupyterHubAuth
from distributed import Client
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

HUB = """
from pathlib import Path
from qhub_gateway import configure
address = Path("{folder}/gateway-address").read_text()
configure.gateway(c, api_token="the-gateways-token", address=address)
configure.page(c, address=address, url="http://127.0.0.1:{port}", config_file="{folder}/page.py")
"""
GATEWAY = """
c.QHubGatewayBackend.cluster_options = None
del c.QHubGatewayBackend["cluster_options"]
c.DaskGateway.authenticator_class = "qhub_gateway.auth.HubAuthenticator"
c.HubAuthenticator.jupyterhub_api_token = "the-gateways-token"
c.HubAuthenticator.jupyterhub_api_url = "{hub}hub/api"
c.HubAuthenticator.jupyterhub_service_name = "dask-gateway"
c.HubAuthenticator.cache_seconds = 1
c.People.profiles = list(catalogue.profiles)
c.People.clusters = {{"rules": {{"scheduler_memory": "400 MiB"}}}}
"""


@pytest.fixture(scope="module")
def systems(user_bin: Path) -> Iterator[Any]:
    """A hub, a gateway whose clusters run beside it, and the page."""
    from tests.systems.gateway import GatewaySystem
    from tests.systems.hub import HubSystem
    from tests.systems.processes import Ports
    from tests.systems.slurm.unix_users import HUB_USER, ensure_service_user
    from tests.systems.userenv import product_site

    folder = Path(tempfile.mkdtemp(prefix="qhub-page-"))
    folder.chmod(0o755)
    (folder / "gateway").mkdir()
    ensure_service_user(HUB_USER)
    ports = Ports()
    (port,) = ports.reserve(1)
    hub = HubSystem(
        folder / "hub",
        HUB.format(folder=folder, port=port),
        environment_bin=user_bin,
        python_path=product_site(folder),
        user=HUB_USER,
    )
    gateway = GatewaySystem(folder / "gateway", config=GATEWAY.format(hub=hub.hub_url))
    (folder / "gateway-address").write_text(gateway.url)
    (folder / "page.py").write_text('c.WebService.dashboard_networks = ["0.0.0.0/0"]\n')
    gateway.start()
    try:
        hub.start()
        for name in ("alice", "bob", "admin"):
            hub.add_user(name)
        yield hub, gateway
    finally:
        hub.stop()
        gateway.stop()
        ports.release()


@asynccontextmanager
async def browser(hub: Any, name: str | None) -> AsyncIterator[httpx.AsyncClient]:
    """A browser of somebody who has logged in, or of nobody."""
    async with httpx.AsyncClient(base_url=hub.url, follow_redirects=True, timeout=60) as made:
        if name is not None:
            page = await made.get("hub/login")
            found = re.search(r'name="_xsrf" value="([^"]+)"', page.text)
            assert found is not None
            form = {"username": name, "password": "x", "_xsrf": found[1]}
            assert (await made.post("hub/login", data=form)).status_code == 200
        yield made


async def until(what: Any, seconds: float = 60) -> Any:
    async with asyncio.timeout(seconds):
        while True:
            found = await what()
            if found:
                return found
            await asyncio.sleep(0.2)


async def websocket_is_the_owners(
    hub: Any, path: str, owner: httpx.AsyncClient, other: httpx.AsyncClient
) -> None:
    """See that a dashboard's websocket opens for its owner from the hub's pages, and else not."""

    def headers(client: httpx.AsyncClient) -> dict[str, str]:
        request = client.build_request("GET", path)
        return {"Cookie": request.headers["Cookie"]}

    url = httpx.URL(hub.url).join(path).copy_with(scheme="ws")
    here: Any = str(hub.url).rstrip("/")
    async with connect(str(url), additional_headers=headers(owner), origin=here) as opened:
        await opened.ping()
    for sent, origin in (
        (headers(owner), "https://evil.example"),
        (headers(other), here),
        ({}, here),
    ):
        # any answer but an open websocket, the log-in page among them
        with pytest.raises(InvalidStatus):
            async with connect(str(url), additional_headers=sent, origin=origin):
                pass


async def strangers_log_in(gateway: Any, page: str, name: str, nobody: httpx.AsyncClient) -> None:
    """See that who is not logged in is sent to do so, and learns nothing."""
    for kind in ("page.css", "page.js"):
        assert (await nobody.get(f"{page}/{kind}")).status_code == 200
    for path in ("", "/rows", "/list.json", f"/{name}/dashboard/status"):
        answer = await nobody.get(page + path)
        assert name not in answer.text
        assert answer.url.path.startswith("/hub/login"), path
    linked = await nobody.get(f"{gateway.url}/clusters/{name}/status", follow_redirects=False)
    assert linked.status_code == 302


async def test_the_page(systems: Any) -> None:
    """One's own cluster with its dashboard for its owner, to stop for an administrator, for others none."""
    hub, gateway = systems
    page = "services/qhub/clusters"
    token = hub.user_token("alice")
    async with (
        Gateway(
            gateway.url,
            proxy_address=gateway.proxy_address,
            auth=JupyterHubAuth(token),
            asynchronous=True,
        ) as client,
        browser(hub, "alice") as alice,
        browser(hub, "bob") as bob,
        browser(hub, "admin") as admin,
        browser(hub, None) as nobody,
    ):

        async def there() -> bool:
            answer = await alice.get(page)
            return answer.status_code == 200 and "There is no cluster now" in answer.text

        await until(there)
        cluster = await client.new_cluster(shutdown_on_close=False)
        name = cluster.name
        try:
            await cluster.scale(1)
            dask = await Client(cluster, asynchronous=True, set_as_default=False)
            assert await dask.submit(sum, [1, 2]) == 3
            await dask.close()

            shown = await alice.get(page)
            assert shown.status_code == 200
            assert f'data-cluster="{name}"' in shown.text
            assert "default-src 'none'" in shown.headers["Content-Security-Policy"]
            rows = await alice.get(f"{page}/rows")
            assert f'data-cluster="{name}"' in rows.text
            data = (await alice.get(f"{page}/list.json")).json()
            assert [each["name"] for each in data["clusters"]] == [name]

            dashboard = await alice.get(f"{page}/{name}/dashboard/status")
            assert dashboard.status_code == 200
            assert "Dask" in dashboard.text
            style = await alice.get(f"{page}/{name}/dashboard/statics/css/base.css")
            assert style.headers.get_list("Content-Type") == ["text/css"]
            await websocket_is_the_owners(hub, f"{page}/{name}/dashboard/eventstream", alice, bob)
            assert name not in (await bob.get(page)).text
            assert (await bob.get(f"{page}?all")).status_code == 403
            assert (await bob.get(f"{page}/{name}/dashboard/status")).status_code == 404
            assert (await admin.get(f"{page}/{name}/dashboard/status")).status_code == 404
            assert name in (await admin.get(f"{page}?all")).text
            await strangers_log_in(gateway, page, name, nobody)

            assert (await alice.post(f"{page}/{name}/stop")).status_code == 403
            xsrf = re.search(r'name="_xsrf" value="([^"]+)"', (await admin.get(f"{page}?all")).text)
            assert xsrf is not None
            stop = await bob.post(f"{page}/{name}/stop", data={"_xsrf": xsrf[1]})
            assert stop.status_code == 403
            stop = await admin.post(f"{page}/{name}/stop?all", data={"_xsrf": xsrf[1]})
            assert stop.status_code == 200

            async def gone() -> bool:
                return name not in (await alice.get(f"{page}/rows")).text

            await until(gone)
        finally:
            await client.stop_cluster(name)
            await cluster.close(shutdown=False)
