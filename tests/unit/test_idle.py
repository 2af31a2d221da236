"""When a server counts as idle: decisions only, no server runs."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest
from traitlets.config import Config

from qhub_spawner.idle import Answer, AnswerError, IdleRule, Use
from qhub_spawner.slurm.jobs import Job, JobState

NOW = datetime.now(UTC)


class Rule(IdleRule):
    """A rule whose servers answer what the test says."""

    answers: dict[str, Any]
    ended: list[str]
    server_clock: timedelta | None = timedelta()

    async def _get(self, spawner: Any, use: Use, path: str) -> Answer:
        answer = self.answers[path.partition("?")[0]]
        if isinstance(answer, Exception):
            raise answer
        if self.server_clock is None:
            return Answer(answer)
        now = datetime.now(UTC) + self.server_clock
        return Answer(answer, format_datetime(now, usegmt=True))

    async def _end(self, spawner: Any) -> None:
        self.ended.append(spawner.name)


class Orm(SimpleNamespace):
    pass


def made(
    *, minutes: float = 60, kernels: Any = (), status: Any = None, **traits: Any
) -> tuple[Rule, Any, Use]:
    """Return a rule, and a server that was used last so many minutes ago."""
    spawner = SimpleNamespace(
        name="",
        ready=True,
        pending=None,
        backend_server=object(),
        last_ended="",
        _log_name="alice",
        orm_spawner=Orm(
            started=(NOW - timedelta(hours=5)).replace(tzinfo=None), last_activity=None
        ),
        user=SimpleNamespace(name="alice", spawners={}),
    )
    spawner.user.spawners[""] = spawner
    app = SimpleNamespace(
        users={"alice": spawner.user},
        db=SimpleNamespace(commit=lambda: None),
        config=Config({"IdleRule": traits}),
    )
    rule = Rule.__new__(Rule)
    IdleRule.__init__(rule, _configurable(app))
    rule.app = app
    last = NOW - timedelta(minutes=minutes)
    rule.answers = {
        "api/kernels": list(kernels),
        "api/status": status or {"last_activity": last.isoformat()},
    }
    rule.ended = []
    use = Use(active=time.monotonic() - minutes * 60)
    rule._uses["alice", ""] = use
    return rule, spawner, use


def _configurable(app: Any) -> Any:
    from traitlets.config import SingletonConfigurable

    return SingletonConfigurable(config=app.config)


async def test_idle() -> None:
    """Beyond the time, with no kernel at work: it ends, and its person is told for how long."""
    rule, spawner, _ = made(minutes=31)
    await rule.look()
    assert spawner.last_ended == "it was idle for 30 min"
    await asyncio.sleep(0)
    assert rule.ended == [""]


@pytest.mark.parametrize("minutes", [0, 5, 10])  # the run itself may have taken minutes by now
async def test_used(minutes: float) -> None:
    """Within the time: it stays."""
    rule, spawner, use = made(minutes=minutes)
    await rule.look()
    assert not spawner.last_ended
    assert rule.ends_at(use) > time.monotonic()


@pytest.mark.parametrize("state", ["busy", "starting"])
async def test_a_kernel_at_work(state: str) -> None:
    """It is use, and stands in the hub's record, for others that go by that."""
    rule, spawner, use = made(kernels=[{"execution_state": "idle"}, {"execution_state": state}])
    await rule.look()
    assert use.busy == "a kernel runs"
    assert not spawner.last_ended
    assert spawner.orm_spawner.last_activity >= NOW.replace(tzinfo=None)


@pytest.mark.parametrize(
    "answer",
    [
        AnswerError("403"),
        OSError("refused"),
        {"no": "list"},
        None,
        ValueError("no JSON"),
    ],
)
async def test_the_unknown_is_not_idle(answer: Any) -> None:
    """No answer, a refusal or nonsense ends nothing."""
    rule, spawner, use = made()
    rule.answers["api/kernels"] = answer
    await rule.look()
    assert not spawner.last_ended
    assert not use.known


@pytest.mark.parametrize("status", [{}, [], {"last_activity": "soon"}])
async def test_a_status_that_makes_no_sense(status: Any) -> None:
    """It is no answer."""
    rule, spawner, _ = made()
    rule.answers["api/status"] = status
    await rule.look()
    assert not spawner.last_ended


def job(**fields: Any) -> Job:
    given: dict[str, Any] = {
        "job_id": 7,
        "state": JobState.RUNNING,
        "name": "train",
        "user": "alice",
        "submitted": NOW - timedelta(hours=1),
    }
    return Job(**given | fields)


@pytest.mark.parametrize(
    ("other", "busy"),
    [
        (job(), True),
        (job(state=JobState.PENDING), True),
        (job(state=JobState.COMPLETED), False),
        (job(user="bob"), False),
        (job(submitted=NOW - timedelta(hours=9)), False),
        (job(submitted=None), False),
        (job(name="qhub-ab-0011223344556677"), False),
    ],
)
async def test_slurm_jobs(other: Job, busy: bool) -> None:
    """The person's own jobs since the server started count; others', older ones, servers do not."""
    rule, spawner, use = made()
    rule.queue = lambda: SimpleNamespace(jobs=(other,))  # type: ignore[method-assign]
    await rule.look()
    assert bool(use.busy) is busy
    assert bool(spawner.last_ended) is not busy


@pytest.mark.parametrize(("minutes", "busy"), [(1, True), (-1, False)])
async def test_slurms_clock_differs(minutes: float, busy: bool) -> None:
    """A server on Slurm and other jobs are compared by Slurm's own clock."""
    rule, spawner, use = made()
    name = "qhub-ab-0011223344556677"
    spawner.backend_server = SimpleNamespace(state=lambda: {"name": name})
    begun = NOW - timedelta(days=3)
    jobs = (
        job(job_id=8, name=name, submitted=begun),
        job(submitted=begun + timedelta(minutes=minutes)),
    )
    rule.queue = lambda: SimpleNamespace(jobs=jobs)  # type: ignore[method-assign]
    await rule.look()
    assert bool(use.busy) is busy


async def test_jobs_need_not_count() -> None:
    """The administrator decides."""
    rule, spawner, _ = made(jobs_count=False)
    rule.queue = lambda: SimpleNamespace(jobs=(job(),))  # type: ignore[method-assign]
    await rule.look()
    assert spawner.last_ended


async def test_what_others_add() -> None:
    """Another part of the hub can say what a server is busy with, plain or async."""

    async def dask(spawner: Any) -> str | None:
        return f"the Dask cluster of {spawner.user.name} runs"

    rule, spawner, use = made()
    rule.busy_with.append(dask)
    await rule.look()
    assert use.busy == "the Dask cluster of alice runs"
    assert not spawner.last_ended


async def test_extended() -> None:
    """What was promised is kept, over a restart of the hub too, and then it is over."""
    rule, spawner, use = made()
    rule.extend(spawner, 3600)
    await rule.look()
    assert not spawner.last_ended
    later, spawner2, use2 = made(minutes=60)
    later.restore(spawner2, rule.state(spawner))
    assert use.extended is not None
    assert use2.extended == pytest.approx(use.extended, abs=5)
    use.extended = time.monotonic() - 1
    use.asked = 0
    await rule.look()
    assert spawner.last_ended


@pytest.mark.parametrize("seconds", [0, -1, 12 * 3600 + 1, float("nan"), float("inf")])
def test_beyond_the_bound(seconds: float) -> None:
    """It is refused, with what would be accepted."""
    rule, spawner, use = made()
    with pytest.raises(ValueError, match="at most 43200 s"):
        rule.extend(spawner, seconds)
    assert use.extended is None


async def test_a_promise_stands_in_the_hubs_record() -> None:
    """A server that its person wants kept is used, for whoever goes by the hub's record: each look."""
    rule, spawner, _ = made(timeout=0)
    rule.extend(spawner, 3600)
    for _ in range(2):
        spawner.orm_spawner.last_activity = None
        await rule.look()
        assert spawner.orm_spawner.last_activity >= NOW.replace(tzinfo=None)
    rule._uses["alice", ""].extended = time.monotonic() - 1
    spawner.orm_spawner.last_activity = None
    await rule.look()
    assert spawner.orm_spawner.last_activity is None


async def test_a_promise_waits_for_its_server() -> None:
    """A hub that has just started keeps what was promised until it finds the server ready."""
    rule, spawner, _ = made()
    rule.extend(spawner, 3600)
    spawner.ready = False
    spawner.orm_spawner.last_activity = None
    await rule.look()
    assert spawner.orm_spawner.last_activity is None
    spawner.ready = True
    await rule.look()
    assert spawner.orm_spawner.last_activity is not None
    assert not spawner.last_ended
    spawner.backend_server = None
    await rule.look()
    assert rule.state(spawner) == {}


class StepClock(datetime):
    """The hub's clock, which somebody sets."""

    step = timedelta()

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime.now(tz) + cls.step


@pytest.mark.parametrize("step", [timedelta(hours=1), timedelta(days=-1), timedelta(days=9)])
async def test_the_hubs_clock_is_set(step: timedelta, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the hub's clock says: a server that was just used stays, an idle one ends."""
    monkeypatch.setattr("qhub_spawner.idle.datetime", StepClock)
    used, used_server, _ = made(minutes=1)
    unused, unused_server, _ = made(minutes=31)
    monkeypatch.setattr(StepClock, "step", step)
    used._uses["alice", ""].active -= 30 * 60  # it is asked
    await used.look()
    await unused.look()
    assert not used_server.last_ended
    assert unused_server.last_ended


@pytest.mark.parametrize("skew", [timedelta(hours=1), timedelta(hours=-1), timedelta(days=-9)])
async def test_a_servers_clock_differs(skew: timedelta) -> None:
    """Its own times are compared with its own clock only."""
    for minutes, ends in ((1, False), (31, True)):
        rule, spawner, use = made(minutes=minutes)
        rule.server_clock = skew
        last = datetime.now(UTC) + skew - timedelta(minutes=minutes)
        rule.answers["api/status"] = {"last_activity": last.isoformat()}
        use.active = time.monotonic() - 31 * 60
        await rule.look()
        assert bool(spawner.last_ended) is ends


@pytest.mark.parametrize("step", [timedelta(hours=5), timedelta(hours=-5)])
async def test_a_servers_clock_is_set(step: timedelta) -> None:
    """Between two answers only that its last activity is another counts, and never the clock."""
    rule, spawner, use = made(minutes=16)
    await rule.look()
    assert use.known
    active = use.active
    rule.server_clock = step
    use.asked -= 16 * 60
    await rule.look()
    assert use.active == active
    # it was used after the first answer, and then its clock was set
    rule.answers["api/status"] = {"last_activity": datetime.now(UTC).isoformat()}
    use.last = use.last[0], time.monotonic() - 60
    use.active, use.asked = time.monotonic() - 31 * 60, 0
    await rule.look()
    assert not spawner.last_ended
    assert use.active >= time.monotonic() - 90


@pytest.mark.parametrize("clock", [None, timedelta()])
async def test_a_server_that_does_not_say_the_time(clock: timedelta | None) -> None:
    """Without a Date, or a zone, nothing is known of it."""
    last = NOW - timedelta(hours=2)
    said = last.isoformat() if clock is None else last.replace(tzinfo=None).isoformat()
    rule, spawner, use = made(status={"last_activity": said})
    rule.server_clock = clock
    await rule.look()
    assert not use.known
    assert not spawner.last_ended


async def test_asked_only_when_it_matters() -> None:
    """A server that could not be idle yet is not asked, and none at each look."""
    rule, _, use = made(minutes=10)
    await rule.look()
    assert not use.asked
    use.active -= 6 * 60
    await rule.look()
    asked = use.asked
    assert asked
    await rule.look()
    assert use.asked == asked


async def test_silence_is_asked_less_and_less() -> None:
    """A server that does not answer costs little."""
    rule, _, use = made(minutes=60)
    rule.answers["api/kernels"] = AnswerError("500")
    waits = []
    for _ in range(6):
        use.asked -= 3600
        await rule.look()
        for seconds in range(0, 1800, 10):
            use.asked = time.monotonic() - seconds
            if rule._due(use):
                waits.append(seconds)
                break
    assert waits == sorted(waits)
    assert waits[0] >= 120
    assert waits[-1] >= 890


async def test_a_hub_that_has_just_started() -> None:
    """It knows nothing of earlier use: every server has the whole time."""
    rule, spawner, _ = made()
    rule._uses.clear()
    rule.answers["api/kernels"] = AnswerError("not yet")
    await rule.look()
    assert not spawner.last_ended
    described = await rule.described(spawner, ask=False)
    assert described["seconds_left"] > 1600


async def test_turned_off() -> None:
    """Nothing is said of an end that does not come."""
    rule, spawner, _ = made(timeout=0)
    described = await rule.described(spawner)
    assert described == {"timeout_seconds": None, "ends_at": None, "seconds_left": None}
