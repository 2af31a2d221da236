"""Every route of the gateway for everybody who may ask: a table, and a walk over it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from dask_gateway_server.backends.db_base import Cluster
from dask_gateway_server.routes import default_routes

from qhub_gateway.auth import HubAuthenticator
from qhub_gateway.bodies import problem_with
from qhub_gateway.hub import HubPerson, TokenModel
from qhub_gateway.limiting import DatabaseLimiter
from qhub_gateway.limits import Limit
from qhub_gateway.requests import Here
from qhub_spawner.catalogue import load
from tests.unit.hostile import DATA, MARK, TEXTS
from tests.unit.scripted_door import until
from tests.unit.test_gateway_backend import ScriptedTarget, SmallBackend

# dask-gateway's own routes read who asks under a name
pytestmark = pytest.mark.filterwarnings("ignore::aiohttp.web_exceptions.NotAppKeyWarning")

PROFILES = [
    {
        "slug": "general",
        "display_name": "General",
        "default": True,
        "cpu": 2,
        "memory": "4 GiB",
        "walltime": "2h",
        "options": {
            "size": {
                "display_name": "Size",
                "choices": {"small": {"display_name": "S"}, "big": {"display_name": "B"}},
            },
            "env": {
                "display_name": "Software",
                "free": {"sets": "environment", "pattern": "/opt/[a-z]+"},
                "choices": {"plain": {"display_name": "Plain", "overrides": {"environment": "/x"}}},
            },
        },
        "slurm": {"partition": "general"},
    }
]
ROLES = {
    "create": {"users": ["alice", "bob", "carol", "dora", "root"]},
    "see": {"users": ["dora"]},
    "stop": {"admins": True},
}
US = frozenset({"access:services!service=dask"})
# who asks, by the header that says so; those of the hub are looked up by `Hub`
ASKERS = {
    "nobody": None,
    "stranger": "token stranger",
    "alice": "token alice",
    "alice's server": "token server",
    "bob": "token bob",
    "carol, with whom it is shared": "token carol",
    "dora, who may see": "token dora",
    "root, who may stop": "token root",
    "eve, who may not create": "token eve",
    "a service of the hub": "token service",
    "root's server": "token rootserver",
    "Prometheus": "Bearer prometheus",
    "the cluster": "cluster",
}
OWNERS = ("alice", "alice's server")
KNOWN = (
    *OWNERS,
    "bob",
    "carol, with whom it is shared",
    "dora, who may see",
    "root, who may stop",
    "eve, who may not create",
    "root's server",
)
SEE = ("dora, who may see", "root, who may stop")
ANYBODY = tuple(ASKERS)
BEAT = {
    "count": 0,
    "api_address": "http://10.0.0.1:1025",
    "scheduler_address": "tls://10.0.0.1:1026",
    "dashboard_address": "http://10.0.0.1:8787",
    **{f"{kind}_workers": [] for kind in ("active", "closing", "closed")},
}

Table = dict[str, tuple[dict[int, tuple[str, ...]], int]]
# By route: who gets which status, and what those get who are known and not named. Whoever is not
# known gets 401 where anything else is said of others.
TABLE: Table = {
    "GET /api/health": ({200: ANYBODY}, 0),
    "GET /api/version": ({200: ANYBODY}, 0),
    "GET /clusters/{name}": ({302: ANYBODY}, 0),
    "GET /clusters/{name}/{path}": ({302: ANYBODY}, 0),
    "GET /api/v1/options": ({}, 200),
    "GET /api/v1/clusters/": ({}, 200),
    "POST /api/v1/clusters/": ({422: ("eve, who may not create",)}, 201),
    "GET /api/v1/clusters/{cluster_name}": ({200: OWNERS}, 403),
    "POST /api/v1/clusters/{cluster_name}/scale": ({200: OWNERS}, 403),
    "POST /api/v1/clusters/{cluster_name}/adapt": ({200: OWNERS}, 403),
    "POST /api/v1/clusters/{cluster_name}/heartbeat": ({200: ("the cluster",)}, 401),
    "DELETE /api/v1/clusters/{cluster_name}": (
        {204: (*OWNERS, "root, who may stop", "the cluster")},
        403,
    ),
    "GET /api/qhub/clusters": ({}, 200),
    "GET /api/qhub/clusters?all": ({200: SEE}, 403),
    "GET /api/qhub/clusters/{name}": (
        {200: (*OWNERS, *SEE, "carol, with whom it is shared")},
        404,
    ),
    "GET /api/qhub/clusters/{name}/dashboard": (
        {200: (*OWNERS, "carol, with whom it is shared")},
        404,
    ),
    "GET /api/qhub/clusters/{name}/logs": ({200: (*OWNERS, *SEE)}, 404),
    "GET /api/qhub/clusters/{name}/sharing": ({200: OWNERS}, 404),
    "PUT /api/qhub/clusters/{name}/sharing": ({200: OWNERS}, 404),
    "GET /api/qhub/limits": ({}, 200),
    "GET /api/metrics": ({200: (*SEE, "Prometheus")}, 403),
}
BODIES = {
    "POST /api/v1/clusters/": {"cluster_options": {}},
    "POST /api/v1/clusters/{cluster_name}/scale": {"count": 1},
    "POST /api/v1/clusters/{cluster_name}/adapt": {"minimum": 0, "maximum": 1},
    "POST /api/v1/clusters/{cluster_name}/heartbeat": BEAT,
    "PUT /api/qhub/clusters/{name}/sharing": {"users": ["carol"], "groups": []},
}


class Hub:
    """A hub that knows some people, and a token of each."""

    async def token_model(self, token: str) -> TokenModel:
        from qhub_gateway.errors import TokenRefusedError

        servers = {"server": "alice", "rootserver": "root"}
        if token == "service":
            return TokenModel("cull", "service", frozenset(), US)
        if token in servers:
            name = servers[token]
            scopes = frozenset({f"access:servers!server={name}/"})
            return TokenModel(name, "user", frozenset(), scopes)
        if await self.person(token) is None:
            raise TokenRefusedError("the hub does not know this token")
        return TokenModel(token, "user", frozenset(), US)

    async def person(self, name: str) -> HubPerson | None:
        if name not in {"alice", "bob", "carol", "dora", "root", "eve"}:
            return None
        here = {"": Here("general", {"size": "big"})}
        return HubPerson(name, frozenset({"lab"}), admin=name == "root", servers=here)

    async def close(self) -> None:
        pass


class Site:
    """The gateway's whole application on a socket in the file system."""

    def __init__(self, backend: SmallBackend, folder: Path) -> None:
        self.backend = backend
        self.path = str(folder / "gateway")
        authenticator = HubAuthenticator(
            jupyterhub_api_token="own",
            jupyterhub_api_url="http://hub.invalid/hub/api",
            jupyterhub_service_name="dask",
            roles=ROLES,
        )
        authenticator.hub = Hub()  # type: ignore[assignment]
        self.app = web.Application()
        for key, value in (
            ("backend", backend),
            ("authenticator", authenticator),
            ("gateway", SimpleNamespace(health=_health, version_info=dict)),
            ("log", backend.log),
        ):
            self.app[key] = value
        self.app.router.add_routes(default_routes)
        backend.api.metrics_token = "prometheus"
        backend.people._catalogue = load(PROFILES)
        backend.api.add_to(self.app)

    async def open(self) -> None:
        self._runner = web.AppRunner(self.app)
        await self._runner.setup()
        await web.UnixSite(self._runner, self.path).start()
        self.session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(self.path), cookie_jar=aiohttp.DummyCookieJar()
        )

    async def close(self) -> None:
        await self.session.close()
        await self._runner.cleanup()

    async def cluster(self) -> Cluster:
        """Make a cluster of alice's that runs, and share its dashboard with carol."""
        status, data = await self.ask("POST /api/v1/clusters/", "token alice", body={})
        assert status == 201, data
        cluster = self.backend.db.get_cluster(data["name"])
        await until(lambda: cluster.state.get("job", {}).get("number") is not None)
        await self.backend.on_cluster_heartbeat(cluster.name, BEAT)
        await until(lambda: cluster.model_status.name == "RUNNING")
        shared = {"shared": {"users": ["carol"], "groups": []}}
        self.backend.db.update_cluster(cluster, state={**cluster.state, **shared})
        return cluster

    async def ask(
        self, route: str, header: str | None, *, body: Any = None, name: str = ""
    ) -> tuple[int, Any]:
        method, _, path = route.partition(" ")
        for part in ("{name}", "{cluster_name}"):
            path = path.replace(part, name)
        headers = {} if header is None else {"Authorization": header}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        async with self.session.request(
            method,
            f"http://gateway{path.replace('{path}', 'status')}",
            headers=headers,
            data=data,
            allow_redirects=False,
        ) as answer:
            text = await answer.text()
            try:
                return answer.status, json.loads(text)
            except ValueError:
                return answer.status, text


async def _health() -> dict[str, str]:
    return {"status": "pass"}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """The gateway on a scripted target."""
    backend = SmallBackend(ScriptedTarget(), tmp_path)
    await backend.open()
    made = Site(backend, tmp_path)
    backend.forward_message_to_scheduler = _forwarded
    await made.open()
    yield made
    await made.close()
    await backend.shut()


async def _forwarded(cluster: Cluster, msg: Any) -> None:
    """Stand in for the scheduler, which is not there."""


def expected(route: str, asker: str) -> int:
    """Return the status of a route for somebody."""
    named, others = TABLE[route]
    status = next((status for status, askers in named.items() if asker in askers), None)
    if status is not None:
        return status
    return others if asker in KNOWN else 401


def test_no_route_is_forgotten(site: Site) -> None:
    """Each route that the gateway has stands in the table, and no other."""
    found = set()
    for route in site.app.router.routes():
        path = route.resource.canonical if route.resource is not None else ""
        if route.method != "HEAD":
            found.add(f"{route.method} {path}")
    assert found == {each.partition("?")[0] for each in TABLE}


@pytest.mark.parametrize("route", TABLE)
async def test_each_route_for_everybody(site: Site, route: str) -> None:
    """Who is not known gets 401, who may not gets 403 or 404, and nobody gets more than theirs."""
    found = {}
    cluster = await site.cluster()
    for asker, header in ASKERS.items():
        if not cluster.is_active():
            cluster = await site.cluster()
        said = f"token {cluster.token}" if header == "cluster" else header
        found[asker], answer = await site.ask(
            route, said, body=BODIES.get(route), name=cluster.name
        )
        assert "PRIVATE KEY" not in str(answer) or asker in OWNERS
    assert found == {asker: expected(route, asker) for asker in ASKERS}


async def test_what_is_told_of_others(site: Site) -> None:
    """Who sees a cluster of somebody else is told neither its key nor with whom it is shared."""
    cluster = await site.cluster()
    for asker in ("carol", "dora", "root"):
        status, data = await site.ask(
            "GET /api/qhub/clusters/{name}", f"token {asker}", name=cluster.name
        )
        assert status == 200
        assert data["shared"] is None
        assert (data["may_look"], data["may_stop"]) == (asker == "carol", asker == "root")
    status, data = await site.ask("GET /api/qhub/clusters", "token carol")
    assert [each["name"] for each in data["clusters"]] == [cluster.name]
    for asker in ("bob", "eve"):
        assert (await site.ask("GET /api/qhub/clusters", f"token {asker}"))[1]["clusters"] == []


async def test_what_is_being_ended_and_what_failed(site: Site) -> None:
    """What is being ended is there until it is gone; what failed says why, to whom it concerns."""
    backend, cluster = site.backend, await site.cluster()
    backend.scripted.deaf = True
    backend.judging.fail(cluster, "its workers failed to start 3 times in a row")

    async def listed(asker: str, query: str = "") -> dict[str, str]:
        _, data = await site.ask(f"GET /api/qhub/clusters{query}", f"token {asker}")
        return {each["state"]: each["words"] for each in data["clusters"]}

    for asker, query in (("alice", ""), ("carol", ""), ("dora", "?all")):
        assert list(await listed(asker, query)) == ["stopping"]
    _, text = await site.ask("GET /api/metrics", "Bearer prometheus")
    assert re.search(r"qhub_gateway_clusters{.*state=\"stopping\".*} 1.0", text)
    backend.scripted.deaf = False
    await until(lambda: cluster.status.name == "FAILED", 30)
    why = {"failed": "its workers failed to start 3 times in a row"}
    assert await listed("alice") == await listed("dora", "?all") == why
    # whose dashboard it was is no concern of theirs any more
    assert await listed("carol") == await listed("dora") == {}
    route = "GET /api/qhub/clusters/{name}/logs"
    assert (await site.ask(route, "token alice", name=cluster.name))[0] == 200
    _, text = await site.ask("GET /api/metrics", "Bearer prometheus")
    assert "qhub_gateway_clusters{" not in text


async def test_whose_dashboard_it_is(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A dashboard is shown where its own scheduler runs, as far as that is known, and nowhere else."""
    cluster, target = await site.cluster(), site.backend.scripted
    route = "GET /api/qhub/clusters/{name}/dashboard"

    async def shown(name: str = cluster.name) -> tuple[int, Any]:
        status, data = await site.ask(route, "token alice", name=name)
        return status, data.get("address")

    target.silent = True
    assert await shown() == (503, None)
    target.silent, target.hosts = False, {"10.0.0.2"}
    assert await shown() == (404, None)
    assert "is not where job-1 runs" in caplog.text
    assert f"cluster {cluster.name} of alice" in caplog.text
    target.hosts = {"10.0.0.1"}
    assert await shown() == (200, "http://10.0.0.1:8787")
    # what was found right is not asked again
    target.silent = True
    assert await shown() == (200, "http://10.0.0.1:8787")
    target.silent = False
    # somebody else names the same: neither is shown until one of them has ended
    other = await site.cluster()
    for spelled in ("http://10.0.0.1:8787/", "http://10.0.0.1:08787", "HTTP://10.0.0.1:8787"):
        site.backend.db.update_cluster(other, dashboard_address=spelled)
        assert await shown() == await shown(other.name) == (404, None)
    assert "has the same" in caplog.text
    await site.backend.stop_cluster(other.name)
    assert await shown() == (200, "http://10.0.0.1:8787")
    # who is not on that host hides nobody by saying so
    target.hosts = {"10.0.0.2"}
    liar = await site.cluster()
    site.backend.db.update_cluster(liar, dashboard_address="http://10.0.0.1:8787")
    assert await shown() == (200, "http://10.0.0.1:8787")
    assert await shown(liar.name) == (404, None)


@pytest.mark.parametrize(
    "other",
    [
        {"dashboard_address": "http://10.0.0.2:8787"},
        {"api_address": "http://10.0.0.2:1025"},
        {"scheduler_address": "tls://[fd00::7]:1026"},
        {"dashboard_address": "http://10.0.0.1:80@10.0.0.2:8787"},
        {"dashboard_address": "nowhere"},
    ],
)
async def test_a_report_of_another_host(
    site: Site, other: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """A report is refused in which a scheduler says that it is on several hosts, and it is told."""
    cluster = await site.cluster()
    route = "POST /api/v1/clusters/{cluster_name}/heartbeat"
    status, data = await site.ask(
        route, f"token {cluster.token}", body={**BEAT, **other}, name=cluster.name
    )
    assert status == 422
    assert "is on another host than" in data["error"]
    assert f"a report of cluster {cluster.name} is refused" in caplog.text


async def test_which_charts_there_are(site: Site) -> None:
    """Dask's panel is told which charts a dashboard has, the same of any, and no more than that."""
    cluster = await site.cluster()
    route = "GET /clusters/{name}/individual-plots.json"
    status, plots = await site.ask(route, None, name=cluster.name)
    assert (status, plots["Individual Task Stream"]) == (200, "/individual-task-stream")
    assert (status, plots) == await site.ask(route, None, name="0" * 32)
    # the charts themselves are where people log in
    assert (await site.ask("GET /clusters/{name}/{path}", None, name=cluster.name))[0] == 302


async def test_sharing_comes_and_goes(site: Site) -> None:
    """Whom an owner names may look, by name or by group, as long as they are named."""
    cluster = await site.cluster()

    async def looks(asker: str) -> int:
        route = "GET /api/qhub/clusters/{name}/dashboard"
        return (await site.ask(route, f"token {asker}", name=cluster.name))[0]

    async def share(**body: Any) -> None:
        route = "PUT /api/qhub/clusters/{name}/sharing"
        assert (await site.ask(route, "token alice", body=body, name=cluster.name))[0] == 200

    assert (await looks("carol"), await looks("bob")) == (200, 404)
    await share(users=["bob"])
    assert (await looks("carol"), await looks("bob")) == (404, 200)
    await share(groups=["lab"])
    assert (await looks("carol"), await looks("bob")) == (200, 200)
    await share()
    assert (await looks("carol"), await looks("bob"), await looks("alice")) == (404, 404, 200)
    # the rest of its record is as it was
    assert cluster.state["job"]["name"]


async def test_sharing_in_pieces(site: Site) -> None:
    """A body counts as a whole, in however many segments it comes, up to a bound."""
    cluster = await site.cluster()
    url = f"http://gateway/api/qhub/clusters/{cluster.name}/sharing"
    users = [f"somebody-{number}" for number in range(100)]

    async def pieces(body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]
            for _ in range(50):  # the gateway, in this loop, has read it by then
                await asyncio.sleep(0)

    async def put(body: bytes) -> tuple[int, Any]:
        headers = {"Authorization": "token alice"}
        async with site.session.put(url, data=pieces(body), headers=headers) as answer:
            return answer.status, await answer.json()

    status, data = await put(json.dumps({"users": users}).encode())
    assert (status, data["users"]) == (200, users)
    status, data = await put(b" " * 70_000)
    assert (status, data["error"]) == (422, "The body is larger than 64 KiB.")


async def test_logs(site: Site) -> None:
    """The scheduler's log, a worker's, and so much of it as is asked for."""
    cluster = await site.cluster()
    route = "GET /api/qhub/clusters/{name}/logs"
    for query, status, words in (
        ("", 200, f"scheduler of {cluster.name}, 65536"),
        ("?bytes=10", 200, f"scheduler of {cluster.name}, 10"),
        ("?bytes=0", 422, "bytes"),
        ("?bytes=-1", 422, "bytes"),
        ("?bytes=1e3", 422, "bytes"),
        ("?bytes=99999999999999999999", 422, "bytes"),
        ("?worker=nobody", 404, "no such worker"),
        ("?worker=../../etc/passwd", 404, "no such worker"),
    ):
        found, data = await site.ask(route + query, "token alice", name=cluster.name)
        assert found == status, query
        assert words in str(data), query


async def test_refusals_are_counted(site: Site) -> None:
    """What is refused is counted by why: by options, for want of the right, by a limit."""
    site.backend.people.most = site.backend.people.most.model_copy(
        update={"user": Limit(clusters=1)}
    )
    limiter = site.backend.limiter
    assert isinstance(limiter, DatabaseLimiter)
    limiter.limits = site.backend.people.most
    asked = (("alice", "gpu"), ("eve", "general"), ("alice", "general"), ("alice", "general"))
    found = []
    for name, profile in asked:
        body = {"cluster_options": {"profile": profile}}
        found.append((await site.ask("POST /api/v1/clusters/", f"token {name}", body=body))[0])
    assert found == [422, 422, 201, 422]
    _, text = await site.ask("GET /api/metrics", "Bearer prometheus")
    for reason in ("options", "rights", "limit"):
        assert f'qhub_gateway_refusals_total{{reason="{reason}"}} 1.0' in text
    assert 'qhub_gateway_limit_used{name="alice",resource="clusters",scope="user"} 1.0' in text
    assert 'qhub_gateway_limit{name="alice",resource="clusters",scope="user"} 1.0' in text


async def test_limits_of_who_has_nothing(site: Site) -> None:
    """Somebody without a cluster is told what they may have, and nothing of others."""
    limiter = site.backend.limiter
    assert isinstance(limiter, DatabaseLimiter)
    limiter.limits = limiter.limits.model_copy(update={"user": Limit(clusters=4)})
    status, data = await site.ask("GET /api/qhub/limits", "token bob")
    assert status == 200
    own = {"scope": "user", "name": "bob", "resource": "clusters", "used": 0.0, "limit": 4.0}
    assert data == {"limits": [own]}


FIELDS = (
    *("profile", "environment", "options", "worker_cores", "worker_memory", "worker_gpus"),
    *("worker_threads", "walltime", "idle_timeout", "scheduler_cores", "scheduler_memory"),
    *("variables", "worker_cmd", "image"),
)


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


@pytest.mark.parametrize("field", FIELDS)
async def test_hostile_options(site: Site, field: str) -> None:
    """A hostile value of an option is refused in a short line, or is one that a person may have."""
    values = [*TEXTS.values(), *filter(_is_json, DATA.values())]
    values += [{"size": each} for each in TEXTS.values()] if field == "options" else []
    values += [{each: "1"} for each in TEXTS.values()] if field == "variables" else []
    for value in values:
        body = {"cluster_options": {field: value}}
        status, data = await site.ask("POST /api/v1/clusters/", "token alice", body=body)
        assert status in {201, 422}, value
        if status == 422:
            assert len(data["error"]) < 1000
            assert data["error"].isprintable()
            continue
        cluster = site.backend.db.get_cluster(data["name"])
        spec = site.backend.spec_of(cluster)
        assert not any(MARK in word for word in (*spec.scheduler_argv, *spec.worker_argv))
        await site.backend.stop_cluster(cluster.name)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff\xfe", b"[" * 100_000),
        *(b'{"count": true}', b'{"count": 1e9}', b'{"count": -1}', b'{"count": 100000000000}'),
        *(b'{"count": "1"}', b'{"count": 1.5}', b'{"count": null}', b'{"count": NaN}', b"{}"),
        *(b'{"minimum": "1"}', b'{"maximum": {}}', b'{"active": 1}', b'{"maximum": 1e400}'),
        *(b'{"cluster_options": []}', b'{"cluster_options": "x"}', b'{"active_workers": 7}'),
    ],
)
async def test_hostile_bodies(site: Site, body: bytes) -> None:
    """Whatever is no body of a route is refused in words; no route breaks down over it."""
    cluster = await site.cluster()
    header = f"token {cluster.token}"
    for route, who in (
        ("POST /api/v1/clusters/", "token alice"),
        ("POST /api/v1/clusters/{cluster_name}/scale", "token alice"),
        ("POST /api/v1/clusters/{cluster_name}/adapt", "token alice"),
        ("POST /api/v1/clusters/{cluster_name}/heartbeat", header),
        ("PUT /api/qhub/clusters/{name}/sharing", "token alice"),
    ):
        status, data = await site.ask(route, who, body=body, name=cluster.name)
        assert status in {200, 201, 422}, (route, data)
        # nobody is told first that they are nobody
        assert (await site.ask(route, None, body=body, name=cluster.name))[0] == 401
    assert cluster.is_active()
    assert cluster.count == 0


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("clusters", {"cluster_options": {"profile": "general"}}),
        ("clusters", {"cluster_options": None}),
        ("clusters/:name/scale", {"count": 100}),
        ("clusters/:name/adapt", {"minimum": None, "maximum": None, "active": False}),
        ("clusters/:name/adapt", {"minimum": 0, "maximum": 10, "active": True}),
        ("clusters/:name/heartbeat", {**BEAT, "active_workers": ["a", 1]}),
        ("clusters/:name/heartbeat", {**BEAT, "dashboard_address": ""}),
        (
            "clusters/:name/heartbeat",  # dask-gateway writes addresses of IPv6 so
            {
                **BEAT,
                "api_address": "http://fd00::7:1025",
                "scheduler_address": "tls://[fd00::7]:1026",
                "dashboard_address": "http://fd00::7:8787",
            },
        ),
    ],
)
def test_what_a_stock_client_sends(route: str, body: Any) -> None:
    """What clients and schedulers of dask-gateway send is what is accepted."""
    assert problem_with(route, json.dumps(body).encode()) is None
