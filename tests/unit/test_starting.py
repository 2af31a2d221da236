"""A start goes on to the next backend where there is no room, and never runs on two."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from jupyterhub.spawner import SpawnException

from qhub_spawner import adoption, starting
from qhub_spawner.access import Selection
from qhub_spawner.errors import SelectionError
from qhub_spawner.launch import (
    BackendServer,
    Ended,
    Launch,
    NoCapacityError,
    Progress,
    ServerAddress,
    StartFailedError,
    StopFailedError,
)
from qhub_spawner.profiles import Profile
from tests.unit.test_identity import ALICE

ADDRESS = ServerAddress("10.0.0.1", 8888)
FULL = NoCapacityError("The quota is full.", status_code=503)


class ScriptedServer(BackendServer):
    """Starts as a test says.

    Attributes:
        outcome: An address, an error to raise, or an event to wait for before it is up.
        stopping: An error that stopping raises, or an event that it waits for.
    """

    def __init__(self, name: str, told: list[Any], outcome: Any, stopping: Any = None) -> None:
        self.name, self.told = name, told
        self.outcome, self.stopping = outcome, stopping
        self.launch: Launch | None = None
        self._said = asyncio.Queue[Progress | None]()

    def say(self, words: str | None) -> None:
        self._said.put_nowait(None if words is None else Progress(words, 10))

    async def start(self, launch: Launch) -> ServerAddress:
        self.launch = launch
        self.told.append(f"start {self.name}")
        await asyncio.sleep(0)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        if isinstance(self.outcome, asyncio.Event):
            await self.outcome.wait()
        self.address = ADDRESS
        return ADDRESS

    async def stop(self, *, now: bool = False) -> None:
        assert now
        self.told.append(f"stop {self.name}")
        if isinstance(self.stopping, asyncio.Event):
            await self.stopping.wait()
        if isinstance(self.stopping, BaseException):
            raise self.stopping
        self.told.append(f"stopped {self.name}")

    async def poll(self) -> Ended | None:
        return None

    async def progress(self) -> AsyncIterator[Progress]:
        while (step := await self._said.get()) is not None:
            yield step

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """There is nothing on record."""


class Spawner:
    """The hub's spawner, as far as a start knows it.

    Attributes:
        told: What the backends were asked to do, in order.
    """

    def __init__(self, auth_state: Any = None, name: str = "alice", **outcomes: Any) -> None:
        async def get_auth_state() -> Any:
            return auth_state

        self.told: list[Any] = []
        self.servers = {
            backend: ScriptedServer(backend, self.told, outcome)
            for backend, outcome in outcomes.items()
        }
        self.user = SimpleNamespace(name=name, get_auth_state=get_auth_state)
        self.name = ""
        self.log = logging.getLogger("drill")
        self._log_name = name
        self.cmd, self.stop_grace, self.notes = ["server"], 1.0, list[str]()
        self.backend_server: BackendServer | None = None
        self.later: tuple[str, ...] = ()
        self.used: list[str] = []
        self.runtime = SimpleNamespace(
            backend=lambda name: SimpleNamespace(server=lambda _owner: self.servers[name])
        )

    def use(self, backend_name: str, server: BackendServer) -> None:
        self.used.append(backend_name)
        self.backend_server = server

    def launch_environment(self, *_: object) -> dict[str, str]:
        return {}

    def get_args(self) -> list[str]:
        return []

    def server_is_placed(self) -> bool:
        return self.backend_server is None or self.backend_server.address is not None

    async def start(self, backend: str = "", policy: str = "first") -> ServerAddress:
        return await starting.start(self, self.selection(backend, policy))  # type: ignore[arg-type]

    def selection(self, backend: str = "", policy: str = "first") -> Selection:
        names = tuple(self.servers)
        fields = {"slug": "p", "display_name": "P", "policy": policy}
        profile = Profile.model_validate({**fields, **{name: {} for name in names}})
        return Selection(profile, "p", {}, backend or names[0], names)  # type: ignore[arg-type]


async def test_where_there_is_room() -> None:
    """The first backend is the only one that hears of it."""
    spawner = Spawner(kubernetes=ADDRESS, slurm=ADDRESS)
    assert await spawner.start() == ADDRESS
    assert spawner.told == ["start kubernetes"]
    assert spawner.notes == []


async def test_no_room() -> None:
    """It goes on to the next when the first has been given up, and says which and why."""
    spawner = Spawner(kubernetes=FULL, slurm=FULL, local=ADDRESS)
    assert await spawner.start() == ADDRESS
    assert spawner.told == [
        "start kubernetes", "stop kubernetes", "stopped kubernetes",
        "start slurm", "stop slurm", "stopped slurm",
        "start local",
    ]  # fmt: skip
    assert spawner.used == ["kubernetes", "slurm", "local"]
    assert spawner.notes == [
        "Kubernetes has no room now: The quota is full. Trying Slurm instead.",
        "Slurm has no room now: The quota is full. Trying the hub's own machine instead.",
    ]
    launches = [server.launch for server in spawner.servers.values()]
    assert [launch.alternatives for launch in launches if launch] == [True, True, False]


async def test_no_room_anywhere() -> None:
    """The person is told of every backend that was tried; the last one is the hub's to stop."""
    spawner = Spawner(kubernetes=FULL, slurm=NoCapacityError("The queue is full."))
    with pytest.raises(NoCapacityError) as raised:
        await spawner.start()
    assert raised.value.words == (
        "Kubernetes has no room now: The quota is full. Slurm has no room now: The queue is full."
    )
    assert spawner.told[-1] == "start slurm"


async def test_begins_where_it_was_decided() -> None:
    """With the estimated earliest, and then the others in their order."""
    spawner = Spawner(slurm=ADDRESS, kubernetes=FULL)
    await spawner.start("kubernetes", "soonest")
    assert spawner.used == ["kubernetes", "slurm"]


async def test_only_want_of_room_counts() -> None:
    """Any other failure is final: elsewhere it would fail, too, or is not what was asked for."""
    spawner = Spawner(kubernetes=StartFailedError("The image is missing."), slurm=ADDRESS)
    with pytest.raises(StartFailedError, match="image"):
        await spawner.start()
    assert spawner.told == ["start kubernetes"]


async def test_the_person_has_chosen() -> None:
    """Then there is no other, and the backend knows that waiting is all there is."""
    spawner = Spawner(kubernetes=FULL, slurm=ADDRESS)
    with pytest.raises(NoCapacityError):
        await spawner.start(policy="ask")
    assert spawner.told == ["start kubernetes"]
    launch = spawner.servers["kubernetes"].launch
    assert launch is not None
    assert not launch.alternatives


async def test_never_on_two() -> None:
    """What cannot be given up may still run: nothing is begun elsewhere."""
    spawner = Spawner(kubernetes=FULL, slurm=ADDRESS)
    spawner.servers["kubernetes"].stopping = StopFailedError("Kubernetes is silent")
    with pytest.raises(StartFailedError, match="silent") as raised:
        await spawner.start()
    assert raised.value.status_code == 503
    assert spawner.used == ["kubernetes"]


async def test_ended_while_one_is_given_up() -> None:
    """The next one is not begun, and the hub stops the one that it knows."""
    spawner = Spawner(kubernetes=FULL, slurm=ADDRESS)
    spawner.servers["kubernetes"].stopping = asyncio.Event()
    task = asyncio.ensure_future(spawner.start())
    async with asyncio.timeout(5):
        while "stop kubernetes" not in spawner.told:
            await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert spawner.told == ["start kubernetes", "stop kubernetes"]
    assert spawner.later == ("slurm",), "a hub that is shut down meanwhile leaves it on record"
    assert spawner.backend_server is spawner.servers["kubernetes"]


async def test_identity() -> None:
    """It reaches every backend; who has none has none."""
    spawner = Spawner({"qhub": ALICE, "token": "secret"}, kubernetes=FULL, slurm=ADDRESS)
    await spawner.start()
    for server in spawner.servers.values():
        assert server.launch is not None
        assert server.launch.identity is not None
        assert server.launch.identity.uid == ALICE["uid"]
    for auth_state in (None, {}, {"token": "secret"}):
        spawner = Spawner(auth_state, kubernetes=ADDRESS)
        await spawner.start()
        launch = spawner.servers["kubernetes"].launch
        assert launch is not None
        assert launch.identity is None


@pytest.mark.parametrize("wrong", [{}, None, {**ALICE, "uid": 0}, {**ALICE, "version": 2}])
async def test_unusable_identity(wrong: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is started as a guess; the administrator is told what is wrong."""
    spawner = Spawner({"qhub": wrong, "token": "a-secret"}, kubernetes=ADDRESS)
    with pytest.raises(StartFailedError, match="numbers and groups are not usable"):
        await spawner.start()
    assert spawner.told == []
    assert "alice" in caplog.text
    assert "a-secret" not in caplog.text


async def test_name_that_slurm_cannot_have() -> None:
    """It is refused where Slurm is meant, and only there."""
    spawner = Spawner(name="no such name", slurm=ADDRESS)
    with pytest.raises(SelectionError):
        await spawner.start()
    assert spawner.told == []
    spawner = Spawner(name="no such name", kubernetes=ADDRESS)
    assert await spawner.start() == ADDRESS


async def test_progress_across_backends() -> None:
    """One story: the steps of the first, why it was left, the steps of the next; then it ends."""
    up, full = asyncio.Event(), asyncio.Event()
    spawner = Spawner(kubernetes=FULL, slurm=up)
    first, second = spawner.servers["kubernetes"], spawner.servers["slurm"]
    first.stopping = full
    heard: list[str] = []

    async def follow() -> None:
        async for step in starting.progress(spawner):  # type: ignore[arg-type]
            heard.append(step.message)

    following = asyncio.ensure_future(follow())
    starts = asyncio.ensure_future(spawner.start())
    async with asyncio.timeout(10):
        first.say("Waiting for a node.")
        while not heard:
            await asyncio.sleep(0.01)
        full.set()
        while second.launch is None:
            await asyncio.sleep(0.01)
        second.say("Job 7 waits.")
        while len(heard) < 3:
            await asyncio.sleep(0.01)
        up.set()
        await starts
        second.say("It is up.")
        second.say(None)
        await following
    assert heard == [
        "Waiting for a node.",
        "Kubernetes has no room now: The quota is full. Trying Slurm instead.",
        "Job 7 waits.",
        "It is up.",
    ]


class TakenUp(Spawner):
    """A spawner whose start an earlier hub began, on the first backend."""

    def __init__(self, *later: str, notes: tuple[str, ...] = (), **outcomes: Any) -> None:
        super().__init__(**outcomes)
        first = next(iter(self.servers.values()))
        self.backend_server, self.backend_name, self.later = first, first.name, later
        self.notes, self.last_failed, self.places = [*notes], "", list[ServerAddress]()

        async def resume() -> ServerAddress:
            if isinstance(first.outcome, BaseException):
                raise first.outcome
            first.address = ADDRESS
            return ADDRESS

        async def spawn(_name: str) -> None:
            self.told.append("spawn")
            await self.start()

        async def nothing(*_: object) -> None:
            return None

        first.resume = resume  # type: ignore[method-assign]
        self.user.spawn, self.user._wait_up = spawn, nothing
        app = SimpleNamespace(proxy=SimpleNamespace(add_user=nothing))
        self.user.settings = {"app": app}

    def place(self, address: ServerAddress) -> None:
        self.places.append(address)


async def test_an_earlier_hub_found_no_room_yet() -> None:
    """The start goes on with what was left to try, and not with what had been tried before."""
    spawner = TakenUp("local", kubernetes=FULL, slurm=ADDRESS, local=ADDRESS)
    await adoption._finish(spawner)
    assert spawner.told == ["stop kubernetes", "stopped kubernetes", "spawn", "start local"]
    assert spawner.notes == [
        "Kubernetes has no room now: The quota is full. Trying the hub's own machine instead."
    ]
    assert spawner.later == ()


async def test_an_earlier_hub_had_tried_all_others() -> None:
    """The person is told of those, too."""
    before = "Slurm has no room now: The queue is full."
    spawner = TakenUp(notes=(f"{before} Trying Kubernetes instead.",), kubernetes=FULL, slurm=FULL)
    with pytest.raises(SpawnException):
        await adoption._finish(spawner)
    assert spawner.told == []
    assert spawner.last_failed == f"{before} Kubernetes has no room now: The quota is full."


async def test_an_earlier_hub_chose_well() -> None:
    """What it began comes up there, and nothing else is tried."""
    spawner = TakenUp("slurm", kubernetes=ADDRESS, slurm=ADDRESS)
    await adoption._finish(spawner)
    assert (spawner.told, spawner.places, spawner.later) == ([], [ADDRESS], ())


async def test_from_slurm_to_kubernetes() -> None:
    """The other way round it is the same: a limit of Slurm's, and then a pod."""
    full = NoCapacityError("You have as many jobs as you may have.")
    spawner = Spawner(slurm=full, kubernetes=ADDRESS)
    await spawner.start()
    assert spawner.used == ["slurm", "kubernetes"]
    assert spawner.notes == [
        "Slurm has no room now: You have as many jobs as you may have. Trying Kubernetes instead."
    ]
