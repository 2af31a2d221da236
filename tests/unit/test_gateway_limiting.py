"""Limits by what the gateway's database holds, and what people are offered by the configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dask_gateway_server.models import User

from qhub_gateway.auth import GatewayUser
from qhub_gateway.deciding import build
from qhub_gateway.errors import LimitReachedError, RequestRefusedError
from qhub_gateway.limiting import DatabaseLimiter
from qhub_gateway.limits import Limits
from qhub_gateway.people import People
from qhub_gateway.requests import Here, Owner, Site
from qhub_gateway.rights import Rights
from qhub_spawner.catalogue import load
from qhub_spawner.errors import ConfigurationError
from qhub_spawner.limits import Limits as AccountLimits
from qhub_spawner.quantities import Duration

PROFILES = [
    {"slug": "small", "display_name": "Small", "cpu": 2, "memory": "4 GiB", "local": {}},
    {"slug": "big", "display_name": "Big", "cpu": 8, "memory": "16 GiB", "slurm": {}},
]
REQUEST = build(load(PROFILES), Owner(name="alice", groups=("physics",)), {}, site=Site())


@dataclass(eq=False)
class Thing:
    """A cluster or worker as the database has it."""

    name: str
    over: bool = False
    leaving: bool = False
    workers: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    start_time: int = 0
    stop_time: int | None = None

    @property
    def config(self) -> dict[str, Any]:
        return {"request": REQUEST.to_json()}

    def is_active(self) -> bool:
        return not self.over and not self.leaving


class Gateway:
    """A database in memory, and its limiter."""

    def __init__(self, **limits: Any) -> None:
        self.clusters: dict[str, Thing] = {}
        self.time = 0.0
        self.limiter = DatabaseLimiter(
            Limits.model_validate(limits),
            self.clusters.values,
            lambda thing: thing.over,
            lambda: self.time,
        )

    async def make(self, name: str) -> Thing:
        await self.limiter.admit(None, SimpleNamespace(request=REQUEST.to_json()))
        made = self.clusters[name] = Thing(name)
        return made

    def scale(self, cluster: Thing, count: int) -> int:
        granted = self.limiter.granted(cluster, count)
        while sum(worker.is_active() for worker in cluster.workers.values()) < granted:
            name = f"w{len(cluster.workers)}"
            cluster.workers[name] = Thing(name)
        return granted


async def test_clusters() -> None:
    """As many clusters as the limit says, and one more when one has ended."""
    gateway = Gateway(user={"clusters": 2})
    one = await gateway.make("one")
    await gateway.make("two")
    with pytest.raises(LimitReachedError, match="you have 2 clusters in use"):
        await gateway.make("three")
    one.over = True
    await gateway.make("three")


async def test_workers_of_several_clusters() -> None:
    """Workers of all clusters count together; those that are being ended count until they are gone."""
    gateway = Gateway(groups={"physics": {"workers": 10}})
    one, two = await gateway.make("one"), await gateway.make("two")
    assert gateway.scale(one, 7) == 7
    assert gateway.scale(two, 7) == 3
    assert "The limit for the group physics is 10 workers" in gateway.limiter.short["two"]
    words = gateway.limiter.words(two, 7)
    assert words is not None
    assert words.endswith("Of 7 workers 3 can be had now.")
    for worker in list(one.workers.values())[:4]:
        worker.leaving = True
    assert gateway.scale(two, 7) == 3
    for worker in one.workers.values():
        worker.over = worker.leaving
    assert gateway.scale(two, 7) == 7
    assert gateway.limiter.short == {}
    assert gateway.limiter.words(two, 7) is None


async def test_never_fewer_than_there_are() -> None:
    """A limit that was lowered stops nothing that runs: it grants no more."""
    gateway = Gateway(user={"workers": 5})
    one = await gateway.make("one")
    gateway.scale(one, 5)
    gateway.limiter.limits = Limits.model_validate({"user": {"workers": 2}})
    assert gateway.limiter.granted(one, 5) == 5
    assert gateway.limiter.granted(one, 6) == 5


async def test_hours() -> None:
    """Hours count since a scheduler runs, those of clusters that ended as well."""
    gateway = Gateway(user={"cluster_hours": 2})
    one = await gateway.make("one")
    gateway.time = 5 * 3600.0
    assert gateway.limiter.exhausted() == {}
    one.state = {"began": gateway.time}
    gateway.time += 3600.0
    one.over, one.stop_time = True, int(gateway.time * 1000)
    two = await gateway.make("two")
    two.state = {"began": gateway.time}
    gateway.time += 3600.0
    assert list(gateway.limiter.exhausted()) == ["two"]
    with pytest.raises(LimitReachedError, match=r"you have used 2\.0"):
        await gateway.make("three")
    hours = [use for use in gateway.limiter.uses() if use.resource == "cluster_hours"]
    assert {use.used for use in hours} == {2.0}


def user(**values: Any) -> GatewayUser:
    return GatewayUser("alice", rights=Rights(create=True), **values)


def default_of(options: Any) -> str:
    return str(options.get_specification()[0]["default"])


async def test_options_of_people() -> None:
    """What is offered follows the server that asks, and the right to make clusters at all."""
    people = People(profiles=PROFILES, clusters={"profiles": {"big": {"max_workers": 7}}})
    assert default_of(await people.options(user())) == "small"
    assert default_of(await people.options(user(here=Here("big")))) == "big"
    assert default_of(await people.options(User("bob"))) == "small"
    parsed = (await people.options(user(here=Here("big")))).get_configuration({}, None)
    assert parsed["cluster_max_workers"] == 7
    refused = await people.options(GatewayUser("alice"))
    with pytest.raises(RequestRefusedError, match="may not make clusters"):
        refused.parse_options({})


async def test_accounting_is_asked() -> None:
    """Where there is a Slurm, what it records of a person bounds what they may ask for."""
    people = People(profiles=PROFILES)

    async def recorded(name: str) -> AccountLimits:
        assert name == "alice"
        return AccountLimits(max_walltime=Duration(3600))

    people.account_limits = recorded
    options = await people.options(user())
    with pytest.raises(RequestRefusedError, match="at most 1 h"):
        options.parse_options({"profile": "big", "walltime": "2h"})


async def test_a_file_that_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file of profiles is taken up when it changes; a faulty one is reported, and left."""
    path = tmp_path / "profiles.yaml"
    path.write_text("- {slug: one, display_name: One, local: {}}\n")
    people = People(profiles=str(path))
    assert default_of(await people.options(user())) == "one"
    path.write_text("- {slug: two, display_name: Two, local: {}}\n")
    os.utime(path, (1, 1))
    assert default_of(await people.options(user())) == "two"
    path.write_text("- {slug: three}\n")
    assert default_of(await people.options(user())) == "two"
    path.unlink()
    assert default_of(await people.options(user())) == "two"


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"profiles": [{"slug": "A b"}]}, ConfigurationError),
        ({"limits": {"user": {"cpus": 3}}}, ValueError),
        ({"clusters": {"rules": {"idle": "1h"}}}, ValueError),
    ],
)
def test_mistakes_stop_the_gateway(values: dict[str, Any], error: type[Exception]) -> None:
    """A mistake in the configuration is found when the gateway starts."""
    with pytest.raises(error):
        People(**values)


def test_every_trait_is_explained() -> None:
    """Each setting says what it means."""
    for kind in (People,):
        for name, trait in kind.class_own_traits(config=True).items():
            assert "Default:" in trait.help, name
