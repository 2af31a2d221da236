"""The client finds the gateway by itself; what is rendered for Dask's own client is read by it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import dask.config
import pytest
import yaml
from dask_gateway import Gateway as DaskClient
from dask_gateway.client import GatewayClusterError, GatewayWarning

import qhub_gateway
from qhub_gateway import client
from qhub_gateway.client import Gateway, GatewayCluster, KeycloakAuth, addresses_of
from qhub_gateway.configuration import Addresses, client_yaml, environment
from qhub_gateway.errors import QHubGatewayError

HUB = Addresses("https://hub.example.org/gateway", "hub.example.org:8786")


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only what a test says of the environment and of Dask's configuration."""
    for name in ("JUPYTERHUB_API_TOKEN", "JUPYTERHUB_PUBLIC_HUB_URL", "QHUB_GATEWAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with dask.config.set({"gateway.address": None, "gateway.auth.type": "basic"}):
        yield


async def made(client: type = Gateway, *arguments: Any, **named: Any) -> Any:
    """Return a client that has opened nothing."""
    return client(*arguments, asynchronous=True, loop=None, **named)


def configured(found: Any) -> Any:
    """Configure Dask as if its own files held this."""
    return dask.config.set({"gateway": dask.config.merge(dask.config.config, found)["gateway"]})


def sent(gateway: Any) -> dict[str, str]:
    """Return the headers by which it says who asks."""
    return dict(gateway.auth.pre_request(SimpleNamespace(status=401))[0])


async def test_inside_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the variables of a server, nothing has to be said."""
    for name, value in environment(HUB).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "abc")
    gateway = await made()
    assert gateway.address == "https://hub.example.org/gateway"
    assert gateway.proxy_address == "gateway://hub.example.org:8786"
    assert sent(gateway) == {"Authorization": "jupyterhub abc"}


async def test_a_stock_client_inside_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask's own client reads the same variables of a server, without a file."""
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "abc")
    found = dask.config.collect_env(environment(HUB))
    with configured(found):
        gateway = await made(DaskClient)
    assert gateway.address == "https://hub.example.org/gateway"
    assert gateway.proxy_address == "gateway://hub.example.org:8786"
    assert sent(gateway) == {"Authorization": "jupyterhub abc"}


async def test_beside_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the hub's address is known, the gateway is beside it."""
    monkeypatch.setenv("JUPYTERHUB_PUBLIC_HUB_URL", "https://hub.example.org/hub/")
    gateway = await made(token="abc")
    assert gateway.address == "https://hub.example.org/gateway"


async def test_from_a_laptop() -> None:
    """Address and token may be given; the token shows nowhere."""
    gateway = await made(Gateway, "https://hub.example.org/gateway/", token="secret-token")
    assert gateway.address == "https://hub.example.org/gateway"
    assert "secret-token" not in repr(gateway) + repr(vars(gateway))


async def test_as_configured_in_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Dask's configuration says is taken as Dask's client takes it."""
    monkeypatch.setenv("WHERE", "other.example.org")
    monkeypatch.setenv("QHUB_GATEWAY_ADDRESS", "https://hub.example.org/gateway")
    with dask.config.set({"gateway.address": "https://{WHERE}/gateway"}):
        gateway = await made(token="abc")
    assert gateway.address == "https://other.example.org/gateway"


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "not known where the gateway is"),
        ({"QHUB_GATEWAY_ADDRESS": "https://h/gateway"}, "not known who asks"),
    ],
)
async def test_what_is_missing_is_said(
    variables: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an address, or without a token, it says what to do."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(QHubGatewayError, match=words):
        await made()


def test_nothing_is_guessed() -> None:
    """What is no address of a hub is not taken for one."""
    with pytest.raises(QHubGatewayError):
        addresses_of({"JUPYTERHUB_PUBLIC_HUB_URL": "/hub/"})


def test_a_service() -> None:
    """A service's token is asked for anew for each request, and never shown."""
    tokens = iter(["one", "two"])
    auth = KeycloakAuth(lambda: next(tokens))
    answer = SimpleNamespace(status=401)
    assert auth.pre_request(answer)[0] == {"Authorization": "Bearer one"}
    assert auth.pre_request(answer)[0] == {"Authorization": "Bearer two"}
    assert "three" not in repr(KeycloakAuth("three"))


async def test_a_file_for_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask's client reads the rendered file, and fills in nothing where we wrote braces."""
    options = {"profile": "gen{x}eral", "options": {"size": "b{i}g"}, "worker_cores": 2}
    text = client_yaml(HUB, options=options)
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "abc")
    with configured(yaml.safe_load(text)):
        gateway = await made(DaskClient)
        assert gateway._config_cluster_options() == options
    assert gateway.proxy_address == "gateway://hub.example.org:8786"
    assert sent(gateway) == {"Authorization": "jupyterhub abc"}


@pytest.mark.parametrize(
    "values",
    [
        ("ftp://hub/gateway",),
        ("https://hub/gateway\nauth: x",),
        ("https://{JUPYTERHUB_API_TOKEN}.evil.example",),
        ("",),
        ("https://hub/gateway", "hub"),
        ("https://hub/gateway", "{HOME}:1"),
        ("https://hub/gateway", "hub:1", "javascript:alert(1)"),
    ],
)
def test_what_is_no_address(values: tuple[str, ...]) -> None:
    """What is no address, or would be filled in by a client, is refused when it is configured."""
    with pytest.raises(QHubGatewayError, match="is not an address"):
        Addresses(*values)


def test_loaded_on_first_use() -> None:
    """The package offers the client by name, and nothing else that is not there."""
    assert qhub_gateway.Gateway is Gateway
    with pytest.raises(AttributeError):
        _ = qhub_gateway.nothing
    assert asyncio.iscoroutinefunction(made)


class Answers:
    """What the gateway answers, one after the other, and what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, Any]] = []

    async def __call__(self, method: str, url: str, json: Any = None) -> Any:
        self.asked.append((method, url.partition("/api/")[2], json))
        data = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(data, Exception):
            raise data

        async def body() -> Any:
            return data

        return SimpleNamespace(json=body)


async def cluster_of(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> GatewayCluster:
    """Return a cluster by its name, which asks nothing but `answers`."""
    gateway = await made(Gateway, "https://hub.example.org/gateway", token="abc")
    monkeypatch.setattr(DaskClient, "_request", lambda _self, *args, **more: answers(*args, **more))
    return gateway.connect("one")


async def test_why_a_cluster_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that fails to start says why, in the words of the gateway."""
    answers = Answers({"words": "its scheduler ended: it took too much memory"})
    cluster = await cluster_of(answers, monkeypatch)

    async def fails(_self: object, name: str) -> None:
        raise GatewayClusterError(f"Cluster {name!r} failed to start, see logs")

    monkeypatch.setattr(DaskClient, "_wait_for_start", fails)
    with pytest.raises(GatewayClusterError, match="failed to start: its scheduler ended"):
        await cluster
    assert answers.asked[0] == ("GET", "qhub/clusters/one", None)


async def test_why_a_cluster_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits is told why, again when it changes, and not when the gateway does not answer."""
    monkeypatch.setattr(client, "_SAY_WHY_SECONDS", 0.01)
    answers = Answers(
        OSError("down"),
        {"words": ""},
        {"words": "Priority"},
        {"words": "Priority"},
        {"words": "Resources"},
    )
    cluster = await cluster_of(answers, monkeypatch)

    async def waits(_self: object, name: str) -> None:
        async with asyncio.timeout(30):
            while len(answers.asked) < 8:
                await asyncio.sleep(0.01)
        raise GatewayClusterError(f"Cluster {name!r} is already stopped")

    monkeypatch.setattr(DaskClient, "_wait_for_start", waits)
    with (
        pytest.warns(GatewayWarning) as warned,
        pytest.raises(GatewayClusterError),
    ):
        await cluster
    told = [str(each.message) for each in warned]
    assert told == ["The cluster waits: Priority", "The cluster waits: Resources"]


async def test_logs_and_sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are one request each; a log that is elsewhere is said to be."""
    answers = Answers(
        {"log": "text"}, {"users": []}, {"log": "", "elsewhere": "it is in your home"}
    )
    cluster = await cluster_of(answers, monkeypatch)
    assert await cluster.logs("w/1", most_bytes=10) == "text"
    await cluster.share(users=["bob"])
    with pytest.raises(QHubGatewayError, match="in your home"):
        await cluster.gateway.sync(client._logs, cluster.gateway, "one", None, 10)
    assert answers.asked == [
        ("GET", "qhub/clusters/one/logs?bytes=10&worker=w%2F1", None),
        ("PUT", "qhub/clusters/one/sharing", {"users": ["bob"], "groups": []}),
        ("GET", "qhub/clusters/one/logs?bytes=10", None),
    ]


def test_dasks_panel_in_jupyterlab() -> None:
    """Variables of a server, and the rendered file, have Dask's panel make clusters of the gateway."""
    by_variables = dask.config.collect_env(environment(HUB))["labextension"]["factory"]
    by_file = yaml.safe_load(client_yaml(HUB))["labextension"]["factory"]
    for factory in (by_variables, by_file):
        assert (factory["module"], factory["class"]) == ("dask_gateway", "GatewayCluster")


def test_the_collector_in_the_clients_own_loop() -> None:
    """A client, and a cluster's, that the collector ends in their own loop do not stop it for ever."""
    first = Gateway("https://hub.example.org/gateway", auth=KeycloakAuth("x"))
    cluster = GatewayCluster.__new__(GatewayCluster)
    cluster.gateway = DaskClient("https://hub.example.org/gateway", auth=KeycloakAuth("x"))
    cluster.status = "closed"
    assert isinstance(cluster.gateway, Gateway)
    last, things = Gateway("https://hub.example.org/gateway", auth=KeycloakAuth("x")), [first]
    things.append(cluster)
    del first, cluster

    async def collect() -> int:
        things.clear()  # their last references
        await asyncio.sleep(0)
        return 1

    loop = last.loop.asyncio_loop
    try:
        assert asyncio.run_coroutine_threadsafe(collect(), loop).result(timeout=30) == 1
        assert asyncio.run_coroutine_threadsafe(asyncio.sleep(0, 2), loop).result(timeout=30) == 2
    finally:
        last.close()
