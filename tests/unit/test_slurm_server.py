"""One server as one job: a start ends in a server or in nothing, and a stop says the truth."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from qhub_spawner.access import Selection
from qhub_spawner.errors import (
    SlurmRejectedError,
    SlurmUnavailableError,
    SubmitUnknownError,
)
from qhub_spawner.launch import (
    AddressRefusedError,
    Launch,
    NoCapacityError,
    ServerAddress,
    StartFailedError,
    StopFailedError,
)
from qhub_spawner.profiles import Profile
from qhub_spawner.slurm import submitting
from qhub_spawner.slurm.door import AccountingSilentError
from qhub_spawner.slurm.jobs import Job, JobState
from qhub_spawner.slurm.poller import Poller
from qhub_spawner.slurm.script import Defaults, options_of
from qhub_spawner.slurm.server import SlurmServer
from tests.unit.scripted_door import LOG, SILENCE, ScriptedDoor, job, poller_of, until

ADDRESS = ServerAddress("cn01", 4321)
LOST = SubmitUnknownError("the reply was lost")
PROFILE = Profile(slug="small", display_name="Small", slurm={"partition": "general"})


class Owner:
    """The hub's spawner, as far as a server knows it."""

    def __init__(self) -> None:
        """Keep notes of what it was told."""
        self.log = LOG
        self.kept: list[dict[str, Any]] = []
        self.server: SlurmServer | None = None
        self.refuses = False
        self.heard = 0

    def persist(self) -> None:
        """Keep the state of now."""
        if self.refuses:
            msg = "The hub cannot write to its database now."
            raise StartFailedError(msg, status_code=503)
        assert self.server is not None
        self.kept.append(self.server.state())

    def server_ended(self) -> None:
        """Hear of the end."""
        self.heard += 1

    def slurm_defaults(self) -> Defaults:
        """Know of none."""
        return Defaults()


class Backend:
    """What a server needs of its backend."""

    hub_id = "hub1"
    startup_timeout = 5.0
    stop_timeout = 0.3
    answer_timeout = 1.0

    def __init__(self, door: ScriptedDoor) -> None:
        """Poll through `door`."""
        self.door = door
        self.poller: Poller = poller_of(door)
        self.checked: list[str] = []

    def options(self, profile: Profile, defaults: Defaults) -> dict[str, str | None]:
        """Ask for what the profile says."""
        return options_of(profile, defaults)

    async def check_host(self, host: str, job: Job) -> None:
        """Take the node's own name only."""
        self.checked.append(job.node_list)
        if host != job.node_list:
            msg = f"{host} is not {job.node_list}"
            raise AddressRefusedError(msg, status_code=400)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten what a real Slurm is given."""
    monkeypatch.setattr(submitting, "_CONFIRMING_SECONDS", 0.1)
    monkeypatch.setattr(submitting, "_SILENCE_SECONDS", 3.0)
    monkeypatch.setattr(submitting, "_GIVEN_UP_SECONDS", 0.2)
    monkeypatch.setattr(submitting, "_LONGEST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(submitting, "_PAUSE_SECONDS", 0.02)


Make = Callable[..., tuple[SlurmServer, ScriptedDoor, Owner]]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Make servers whose jobs have the name that they chose, and a poller that runs."""
    tasks: list[asyncio.Task[None]] = []

    def make(*states: JobState | Exception | None) -> tuple[SlurmServer, ScriptedDoor, Owner]:
        """Say the states of the job, in order; None stands for a queue without it."""
        door = ScriptedDoor()
        door.accounting = AccountingSilentError()
        backend, owner = Backend(door), Owner()
        server = owner.server = SlurmServer(backend, owner)  # type: ignore[arg-type]

        def answer(state: JobState | Exception | None) -> Any:
            async def say() -> list[Job]:
                name = server.watch.name if server.watch else ""
                if state is None or not name:
                    return []
                assert not isinstance(state, Exception)
                waits = state.waiting
                return [job(state, name=name, node_list="" if waits else "cn01")]

            return state if isinstance(state, Exception) else say

        door.answers = [answer(state) for state in states or (JobState.RUNNING,)]
        tasks.append(asyncio.ensure_future(backend.poller.run()))
        return server, door, owner

    yield make
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def launch() -> Launch:
    """A start by alice."""
    selection = Selection(profile=PROFILE, slug="small", options={}, backend="slurm")
    return Launch("alice", "", selection, {"JUPYTERHUB_API_TOKEN": "t"}, ("srv",), 0.1)


def begin(server: SlurmServer) -> asyncio.Task[ServerAddress]:
    """Start without waiting."""
    return asyncio.ensure_future(server.start(launch()))


async def reported(server: SlurmServer, start: asyncio.Task[ServerAddress]) -> ServerAddress:
    """Report the address, as the job does: again and again until the hub takes it."""
    async with asyncio.timeout(5):
        while not start.done():
            try:
                await server.accept_address(ADDRESS)
            except AddressRefusedError:
                await asyncio.sleep(0.01)
            else:
                break
        return await start


# ---- start --------------------------------------------------------------------------------------


async def test_name_is_on_record_before_slurm_hears_of_it(make: Make) -> None:
    """What a hub needs to find the job again is kept before it is submitted, the rest after."""
    server, door, owner = make()
    door_submit = door.submit

    async def submit(*arguments: Any) -> int:
        assert [state["job_id"] for state in owner.kept] == [None]
        assert owner.kept[0]["name"].startswith("qhub-hub1-")
        return await door_submit(*arguments)

    door.submit = submit  # type: ignore[method-assign]
    assert await reported(server, begin(server)) == ADDRESS
    assert owner.kept[1]["job_id"] == 7
    assert owner.kept[-1]["address"] == {"host": "cn01", "port": 4321}


async def test_nothing_is_submitted_that_is_not_on_record(make: Make) -> None:
    """A database that takes nothing stops the start, before Slurm hears of it."""
    server, door, owner = make()
    owner.refuses = True
    with pytest.raises(StartFailedError, match="database"):
        await server.start(launch())
    assert "submit" not in door.asked


async def test_refusal_is_told(make: Make) -> None:
    """Slurm's own no ends the start with its words, as the person's fault."""
    server, door, _ = make(None)
    door.submitted = SlurmRejectedError("Slurm refused it: Invalid account")
    with pytest.raises(StartFailedError, match="Invalid account") as caught:
        await server.start(launch())
    assert caught.value.status_code == 400
    assert await server.poll() is not None


@pytest.mark.parametrize(
    ("words", "no_room"),
    [
        ("Required partition not available (inactive or drain)", True),
        ("Requested node configuration is not available", True),
        (
            "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            True,
        ),
        ("Invalid account or account/partition combination specified", False),
        ("Invalid qos specification", False),
    ],
)
async def test_refusals_for_want_of_room(make: Make, words: str, no_room: bool) -> None:
    """Another backend is tried only where more room would have helped; sbatch's own words decide."""
    server, door, _ = make(None)
    door.submitted = SlurmRejectedError(f"Slurm refused it: {words}")
    with pytest.raises(StartFailedError, match="Slurm refused it") as failure:
        await server.start(launch())
    assert isinstance(failure.value, NoCapacityError) is no_room


async def test_lost_reply_is_adopted(make: Make) -> None:
    """A job whose reply was lost is found by its name, even after Slurm was silent for a while."""
    server, door, _ = make(None, SILENCE, SILENCE, None, JobState.RUNNING)
    door.submitted = LOST
    assert await reported(server, begin(server)) == ADDRESS
    assert door.asked.count("submit") == 1


async def test_lost_reply_and_no_job(make: Make) -> None:
    """After enough whole answers without it there is no job; its watch does not live on."""
    server, door, _ = make(None)
    door.submitted = LOST
    with pytest.raises(StartFailedError, match="no such job has appeared"):
        await server.start(launch())
    assert door.asked.count("submit") == 1
    name = server.watch.name if server.watch else ""
    assert await server.poll() is not None
    server.release()
    assert not server.backend.poller.watches(name)  # so the reaper ends it, should it turn up


async def test_lost_reply_and_a_silent_slurm(make: Make) -> None:
    """Silence proves nothing: the job is looked for until patience ends."""
    server, door, _ = make(SILENCE)
    door.submitted = LOST
    start = begin(server)
    await until(lambda: door.asked.count("queue") > 20)
    assert not start.done()
    assert await server.poll() is None
    start.cancel()
    async with asyncio.timeout(2):
        await server.stop()  # who gives up does not wait as long


async def test_end_during_the_start_is_told(make: Make) -> None:
    """A job that ends before its server has reported ends the start, with the reason."""
    server, _, owner = make(JobState.PENDING, JobState.RUNNING, JobState.OUT_OF_MEMORY)
    with pytest.raises(StartFailedError, match="memory limit"):
        await server.start(launch())
    ended = await server.poll()
    assert ended is not None
    assert owner.heard == 1


async def test_only_running_time_counts(make: Make) -> None:
    """Neither waiting, nor suspension, nor silence uses up the time a server has to come up."""
    still = [JobState.SUSPENDED] * 10 + [JobState.PENDING] * 10
    server, door, _ = make(
        JobState.PENDING, JobState.RUNNING, *still, *([SILENCE] * 5), JobState.RUNNING
    )
    server.backend.startup_timeout = 0.15
    start = begin(server)
    await until(lambda: len(door.answers) == 1)
    assert not start.done()
    with pytest.raises(StartFailedError, match="did not report"):
        await start


# ---- a start is cancelled -----------------------------------------------------------------------


async def test_cancelled_while_submitting(make: Make) -> None:
    """A job that is submitted after its start was cancelled is cancelled, too."""
    server, door, _ = make(JobState.PENDING)
    gate = asyncio.Event()

    async def slow() -> int:
        await gate.wait()
        return 7

    door.submitted = slow

    def cancelled(_signal: object) -> None:
        door.answers = [[]]
        door.lost = True

    door.cancelling = cancelled
    start = begin(server)
    await until(lambda: "submit" in door.asked)
    start.cancel()
    assert await server.poll() is None  # unknown is not over: so the hub calls stop
    stop = asyncio.ensure_future(server.stop())
    await asyncio.sleep(0)
    assert not stop.done()
    gate.set()
    async with asyncio.timeout(3):
        await stop
    assert door.cancels == [None]


async def test_cancelled_while_refused(make: Make) -> None:
    """When the submission fails after the start was cancelled, there is nothing to stop."""
    server, door, _ = make(None)
    gate = asyncio.Event()

    async def refuse() -> int:
        await gate.wait()
        msg = "Slurm refused it"
        raise SlurmRejectedError(msg)

    door.submitted = refuse
    start = begin(server)
    await until(lambda: "submit" in door.asked)
    start.cancel()
    stop = asyncio.ensure_future(server.stop())
    gate.set()
    async with asyncio.timeout(3):
        await stop
    assert door.cancels == []


# ---- addresses ----------------------------------------------------------------------------------


async def test_address_of_another_node(make: Make) -> None:
    """An address that is not the job's node is refused for good, but not on an old answer."""
    server, door, _ = make()
    start = begin(server)
    await until(lambda: server.watch is not None and server.watch.job is not None)
    asked = door.asked.count("queue")
    with pytest.raises(AddressRefusedError) as caught:
        await server.accept_address(ServerAddress("evil", 1))
    assert caught.value.status_code == 400
    assert door.asked.count("queue") > asked
    assert await reported(server, start) == ADDRESS


async def test_address_of_a_requeued_job(make: Make) -> None:
    """A job that moved since the last answer is believed after a new one."""
    server, door, owner = make()
    await reported(server, begin(server))
    assert server.watch is not None
    name = server.watch.name
    door.answers = [[job(name=name, node_list="cn02")]]
    assert await server.accept_address(ServerAddress("cn02", 99))
    assert owner.kept[-1]["address"] == {"host": "cn02", "port": 99}
    assert not await server.accept_address(ServerAddress("cn02", 99))


async def test_address_while_slurm_is_silent(make: Make) -> None:
    """Without an answer an address is neither taken nor refused: the job reports again."""
    server, door, _ = make()
    await reported(server, begin(server))
    door.answers = [SILENCE]
    with pytest.raises(AddressRefusedError) as caught:
        await server.accept_address(ServerAddress("cn02", 99))
    assert caught.value.status_code == 503
    assert server.address == ADDRESS


async def test_address_without_a_job(make: Make) -> None:
    """A server that is not there has no address."""
    server, _, _ = make()
    with pytest.raises(AddressRefusedError) as caught:
        await server.accept_address(ADDRESS)
    assert caught.value.status_code == 409


# ---- stop ---------------------------------------------------------------------------------------


async def test_graceful_stop(make: Make) -> None:
    """A server that ends on SIGTERM is not cancelled."""
    server, door, owner = make()
    await reported(server, begin(server))
    assert server.watch is not None
    over = job(JobState.COMPLETED, name=server.watch.name)
    door.cancelling = lambda _: door.answers.__setitem__(slice(None), [[over]])
    await server.stop()
    assert door.cancels == ["TERM"]
    assert owner.heard == 0  # the hub asked for it
    assert await server.poll() is not None


async def test_stop_by_force(make: Make) -> None:
    """One that does not end in its grace time, or is to end now, is cancelled until it is over."""
    for now in (False, True):
        server, door, _ = make()
        await reported(server, begin(server))
        assert server.watch is not None
        over = job(JobState.CANCELLED, name=server.watch.name)

        def cancelled(signal: object, door: ScriptedDoor = door, over: Job = over) -> None:
            if signal is None:
                door.answers = [[over]]

        door.cancelling = cancelled
        await server.stop(now=now)
        assert door.cancels == ([None] if now else ["TERM", None])


async def test_suspended_server_is_not_asked(make: Make) -> None:
    """A suspended server hears no SIGTERM: it is cancelled at once."""
    server, door, _ = make()
    await reported(server, begin(server))
    assert server.watch is not None
    name = server.watch.name
    door.answers = [[job(JobState.SUSPENDED, name=name)]]
    await server.backend.poller.fresh()
    assert server.waits
    over = job(JobState.CANCELLED, name=name)
    door.cancelling = lambda _: door.answers.__setitem__(slice(None), [[over]])
    await server.stop()
    assert door.cancels == [None]


@pytest.mark.parametrize("silent", [True, False])
async def test_stop_says_that_it_could_not(make: Make, silent: bool) -> None:
    """When Slurm does not agree in time, the stop says so, and leaves the job to the reaper."""
    server, door, _ = make()
    await reported(server, begin(server))
    assert server.watch is not None
    name = server.watch.name
    if silent:
        door.answers, door.cancelling = [SILENCE], SILENCE
    with pytest.raises(StopFailedError, match="has not confirmed") as caught:
        await server.stop()
    assert ("Slurm is silent" in str(caught.value)) is silent
    assert "RUNNING" in str(caught.value)
    assert not server.backend.poller.watches(name)


# ---- between hubs -------------------------------------------------------------------------------


def successor(server: SlurmServer, state: dict[str, Any]) -> tuple[SlurmServer, Owner]:
    """The server as the next hub takes it up."""
    server.release()
    owner = Owner()
    later = owner.server = SlurmServer(server.backend, owner)  # type: ignore[arg-type]
    later.restore(state)
    return later, owner


async def test_taken_up_as_it_was(make: Make) -> None:
    """A server that ran goes on running under the next hub."""
    server, door, owner = make()
    await reported(server, begin(server))
    name = owner.kept[-1]["name"]
    later, _ = successor(server, owner.kept[-1])
    door.answers = [[job(name=name)]]
    assert not later.unfinished
    assert later.address == ADDRESS
    assert await later.poll() is None


async def test_taken_up_while_slurm_is_silent(make: Make) -> None:
    """A hub that starts while Slurm is silent takes no server for over."""
    server, door, owner = make()
    await reported(server, begin(server))
    later, _ = successor(server, owner.kept[-1])
    door.answers = [SILENCE]
    later.backend.poller.queue = None
    assert await later.poll() is None
    assert await later.poll() is None


async def test_ended_between_two_hubs(make: Make) -> None:
    """A server that ended while no hub was there is over, with the reason."""
    server, door, owner = make()
    await reported(server, begin(server))
    later, _ = successor(server, owner.kept[-1])
    door.answers = [[job(JobState.TIMEOUT, name=owner.kept[-1]["name"])]]
    later.backend.poller.queue = None
    ended = await later.poll()
    assert ended is not None
    assert "walltime" in ended.words


async def test_unfinished_start_goes_on(make: Make) -> None:
    """A start whose hub was killed goes on, whether the job's id was on record or not."""
    for kept in (0, 1):
        server, door, owner = make(JobState.PENDING)
        start = begin(server)
        await until(lambda owner=owner: len(owner.kept) > 1)
        start.cancel()
        later, again = successor(server, owner.kept[kept])
        assert later.unfinished
        name = owner.kept[0]["name"]
        resumed = asyncio.ensure_future(later.resume())
        door.answers = [[job(name=name)]]
        assert await reported(later, resumed) == ADDRESS
        assert not later.unfinished
        assert again.kept[-1]["job_id"] == 7
        later.release()


async def test_start_that_never_reached_slurm(make: Make) -> None:
    """A start on record without a job is over after some whole answers, and not before."""
    server, door, owner = make(SILENCE)
    door.submitted = LOST
    start = begin(server)
    await until(lambda: owner.kept)
    start.cancel()
    later, _ = successor(server, owner.kept[0])
    resumed = asyncio.ensure_future(later.resume())
    await until(lambda: door.asked.count("queue") > 10)
    assert not resumed.done()
    door.answers = [[]]
    with pytest.raises(StartFailedError, match="Start it again"):
        await resumed
    assert await later.poll() is not None


async def test_nothing_to_take_up(make: Make) -> None:
    """A state without a job is that of a server that was not started."""
    server, _, _ = make()
    server.restore({})
    assert not server.unfinished
    ended = await server.poll()
    assert ended is not None
    assert ended.exit_code == 0
    await server.stop()


def test_silence_is_unavailable() -> None:
    """The tests above speak of the error that means UNKNOWN."""
    assert isinstance(SILENCE, SlurmUnavailableError)
