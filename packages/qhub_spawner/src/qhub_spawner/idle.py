"""Ends servers that nobody uses, and none that works: ``c.IdleRule.*``.

The hub's own record of activity says when something passed through the proxy. It does not know a
kernel that has computed for hours without a word, nor a batch job that a notebook waits for; and a
forgotten browser tab keeps it fresh for ever. This rule asks the server itself, rarely, and Slurm's
queue, which the hub has at hand. What it finds at work it also writes into the hub's record, so
that jupyterhub-idle-culler, if it runs as well, spares the same servers.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from jupyterhub.utils import url_path_join
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from traitlets import Bool, Float
from traitlets.config import LoggingConfigurable

Busy = Callable[[Any], "Awaitable[str | None] | str | None"]
"""Takes a spawner; says what it is busy with, a phrase, or nothing."""

BUSY_SCOPE = "custom:qhub:busy"
"""The hub's scope for services that tell what people's servers are busy with."""

_TOKEN_SECONDS = 3600
_ASK_SECONDS = 10.0
_UNKNOWN_SECONDS = 60.0
# a server that works says so once a minute; one word may get lost
_TOLD_SECONDS = 150.0


class AnswerError(Exception):
    """A server does not say what it does: nothing is concluded from that."""


class Answer(NamedTuple):
    """What a server answered.

    Attributes:
        body: As JSON.
        date: When, by the server's own clock; empty if it does not say.
    """

    body: Any
    date: str = ""


@dataclass
class Use:
    """What is known of one running server's use; times are of the monotonic clock.

    The clocks of hub and servers may be stepped, or differ: between two of them nothing is counted.

    Attributes:
        active: When it was last known to be used.
        busy: What it was busy with when it was asked last; empty if with nothing.
        extended: Until when its person wants it kept.
        asked: When it was asked.
        known: Whether its last answer was one.
        silences: How often in a row it did not answer.
        told: What it said of itself, and when.
        last: Its own time of its last activity, and when it said so.
    """

    active: float
    busy: str = ""
    extended: float | None = None
    asked: float = 0.0
    known: bool = False
    silences: int = 0
    told: tuple[str, float] = ("", 0.0)
    last: tuple[str, float] = ("", 0.0)
    token: tuple[str, float] = field(default=("", 0.0), repr=False)


class IdleRule(LoggingConfigurable):
    """When a server counts as idle, and what then happens."""

    timeout = Float(
        1800.0,
        min=0.0,
        config=True,
        help="""
        How long a server may stand idle before it is ended, in seconds; 0 ends none. Default: 1800,
        half an hour: long enough for a meeting, short enough that the next person gets the GPU.

        Example: ``c.IdleRule.timeout = 15 * 60``
        """,
    )
    max_extension = Float(
        12 * 3600.0,
        min=0.0,
        config=True,
        help="""
        How far ahead a person may ask for their idle server to be kept, in seconds; 0 lets nobody.
        Default: 12 hours, a night.
        """,
    )
    check_interval = Float(
        60.0,
        min=1.0,
        config=True,
        help="""
        How often the rule looks, in seconds. A server is asked only when it could be idle by then,
        so about twice in `timeout`. Default: 60.
        """,
    )
    jobs_count = Bool(
        True,
        config=True,
        help="""
        Whether a server of a person whose own Slurm jobs, submitted since it started, wait or run
        counts as busy. Default: True.
        """,
    )

    def __init__(self, app: Any, **kwargs: Any) -> None:
        """Belong to a hub; nothing is asked before `run`."""
        super().__init__(parent=app, **kwargs)
        self.app = app
        self.busy_with: list[Busy] = []
        self._uses: dict[tuple[str, str], Use] = {}
        self._ending: set[asyncio.Task[None]] = set()

    # ---- the loop

    async def run(self) -> None:
        """Look again and again; cancel to end."""
        while True:
            await asyncio.sleep(self.check_interval)
            try:
                await self.look()
            except Exception:
                self.log.exception("looking for idle servers failed")

    async def look(self) -> None:
        """Ask every server that could be idle, and end those that are."""
        there = self._there()
        for key in self._uses.keys() - there.keys():
            del self._uses[key]
        spawners = {key: it for key, it in there.items() if it.ready and not it.pending}
        self._keep_promises(spawners)
        if not self.timeout:
            return
        due = [key for key in spawners if self._due(self._use(key, spawners[key]))]
        for start in range(0, len(due), 20):
            batch = due[start : start + 20]
            await asyncio.gather(*(self._look_at(key, spawners[key]) for key in batch))

    def _keep_promises(self, spawners: Mapping[tuple[str, str], Any]) -> None:
        """Have everybody else spare the servers, too, that their people want kept."""
        for key, use in self._uses.items():
            promised = use.extended is not None and use.extended > time.monotonic()
            if promised and key in spawners:
                self._record(spawners[key])

    def _there(self) -> dict[tuple[str, str], Any]:
        """Return all servers; a hub that has just started does not yet find them ready."""
        return {
            (user.name, name): spawner
            for user in list(self.app.users.values())
            for name, spawner in list(user.spawners.items())
            if getattr(spawner, "backend_server", None) is not None
        }

    def _use(self, key: tuple[str, str], spawner: Any) -> Use:
        if key not in self._uses:
            # a hub that has just started knows nothing: the time begins about now
            started = _aware(getattr(spawner.orm_spawner, "started", None))
            age = max(0.0, (datetime.now(UTC) - started).total_seconds())
            self._uses[key] = Use(active=time.monotonic() - min(age, 60.0, self.timeout / 2))
        return self._uses[key]

    def _due(self, use: Use) -> bool:
        """Whether it could be idle, and has not been asked just now."""
        quiet = time.monotonic() - use.active
        since = time.monotonic() - use.asked if use.asked else float("inf")
        if use.silences:  # it did not answer: ask again, less and less often
            return since > min(_UNKNOWN_SECONDS * 2.0**use.silences, self.timeout / 2)
        return quiet >= self.timeout / 2 and since >= min(self.timeout / 2, self._left(use))

    def _left(self, use: Use) -> float:
        return max(0.0, self.ends_at(use) - time.monotonic())

    def ends_at(self, use: Use) -> float:
        """Return when a server is ended if nobody uses it until then, by the monotonic clock."""
        ends = use.active + self.timeout
        return max(ends, use.extended) if use.extended is not None else ends

    async def _look_at(self, key: tuple[str, str], spawner: Any) -> None:
        use = self._uses[key]
        await self.refresh(spawner, use)
        if not use.known or use.busy or self.ends_at(use) > time.monotonic():
            return
        if not spawner.ready or spawner.pending:
            return
        minutes = f"{self.timeout / 60:g} min"
        self.log.info("ending server %s: idle for %s", spawner._log_name, minutes)  # noqa: SLF001
        spawner.last_ended = f"it was idle for {minutes}"
        task = asyncio.ensure_future(self._end(spawner))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, spawner: Any) -> None:
        user, name = spawner.user, spawner.name
        spawner._stop_pending = True  # noqa: SLF001 - as the hub's own handler does
        try:
            await self.app.proxy.delete_user(user, name)
            await user.stop(name)
        except Exception:
            self.log.exception("ending the idle server %s failed", spawner._log_name)  # noqa: SLF001
        finally:
            spawner._stop_pending = False  # noqa: SLF001

    # ---- one server

    async def refresh(self, spawner: Any, use: Use) -> None:
        """Find out what a server does now; what is not answered changes nothing."""
        use.asked = time.monotonic()
        try:
            active, busy = await self._asked(spawner, use)
        except (AnswerError, OSError, ValueError) as error:
            self.log.debug("%s does not say what it does: %s", spawner._log_name, error)  # noqa: SLF001
            use.known, use.silences = False, min(use.silences + 1, 8)
            return
        use.known, use.busy, use.silences = True, busy, 0
        if busy:
            active = time.monotonic()
            self._record(spawner)
        use.active = max(use.active, active)

    async def _asked(self, spawner: Any, use: Use) -> tuple[float, str]:
        what, when = use.told
        if what and time.monotonic() - when < _TOLD_SECONDS:
            return use.active, what
        for says in (self._jobs, *self.busy_with):
            said = says(spawner)
            if isinstance(said, Awaitable):
                said = await said
            if said:
                return use.active, said
        kernels = (await self._get(spawner, use, "api/kernels?no_track_activity=1")).body
        if not isinstance(kernels, list):
            raise AnswerError("its list of kernels is none")
        working = sum(
            kernel.get("execution_state") in {"busy", "starting"}
            for kernel in kernels
            if isinstance(kernel, dict)
        )
        if working:
            return use.active, "a kernel runs" if working == 1 else f"{working} kernels run"
        status = await self._get(spawner, use, "api/status")
        if not isinstance(status.body, dict) or "last_activity" not in status.body:
            raise AnswerError("its status has no last_activity")
        # the newest of kernels' and terminals' output and of what a person did, without polling
        return _used(use, str(status.body["last_activity"]), status.date), ""

    def told(self, spawner: Any, what: str) -> None:
        """Take what a server is at work at: from itself (`qhub_spawner.work`) or from a service."""
        use = self._use((spawner.user.name, spawner.name), spawner)
        use.active = time.monotonic()
        use.told, use.busy, use.known = (what, use.active), what, True
        self._record(spawner)

    def _jobs(self, spawner: Any) -> str | None:
        """Say which job of the person's own, submitted since the server started, is not over."""
        queue = self.queue()
        if not self.jobs_count or queue is None:
            return None
        started = _aware(getattr(spawner.orm_spawner, "started", None))
        state: Any = getattr(spawner.backend_server, "state", dict)()
        ours = [job.submitted for job in queue.jobs if job.name == state.get("name")]
        started = next(filter(None, ours), started)  # by Slurm's own clock, if it is a job itself
        for job in queue.jobs:
            own = job.user == spawner.user.name and not job.name.startswith("qhub-")
            if own and not job.state.over and job.submitted and job.submitted >= started:
                state = "waits" if job.state.waiting else "runs"
                return f"the Slurm job {job.job_id} that was started meanwhile {state}"
        return None

    def queue(self) -> Any:
        """Return Slurm's queue as the hub knows it; the runtime puts its own here."""
        return None

    async def _get(self, spawner: Any, use: Use, path: str) -> Answer:
        url = url_path_join(spawner.server.url, path)
        request = HTTPRequest(
            url,
            headers={"Authorization": f"token {self._token(spawner, use)}"},
            request_timeout=_ASK_SECONDS,
            connect_timeout=_ASK_SECONDS,
            follow_redirects=False,
        )
        answer = await AsyncHTTPClient().fetch(request, raise_error=False)
        if answer.code != 200:  # noqa: PLR2004 - HTTP
            raise AnswerError(f"{path} answered {answer.code}")
        return Answer(json.loads(answer.body), answer.headers.get("Date", ""))

    def _token(self, spawner: Any, use: Use) -> str:
        if spawner.api_token:  # the server's own; a hub that was restarted has only its digest
            return str(spawner.api_token)
        token, until = use.token
        if time.monotonic() > until:
            scope = f"access:servers!server={spawner.user.name}/{spawner.name}"
            token = spawner.user.new_api_token(
                note="idle rule of qhub", expires_in=_TOKEN_SECONDS, scopes=[scope]
            )
            use.token = token, time.monotonic() + _TOKEN_SECONDS * 0.9
        return token

    def _record(self, spawner: Any) -> None:
        """Tell the hub, and so everybody who asks it, that the server is used now."""
        naive = datetime.now(UTC).replace(tzinfo=None)
        orm = spawner.orm_spawner
        if orm is not None and (orm.last_activity is None or orm.last_activity < naive):
            orm.last_activity = naive
            self.app.db.commit()

    # ---- what the person sees and may do

    async def described(self, spawner: Any, *, ask: bool = True) -> dict[str, Any]:
        """Return what is known of a running server's use, as JSON."""
        use = self._use((spawner.user.name, spawner.name), spawner)
        if ask and time.monotonic() - use.asked > 5:  # noqa: PLR2004 - somebody may click
            await self.refresh(spawner, use)
        if not self.timeout:
            return {"timeout_seconds": None, "ends_at": None, "seconds_left": None}
        return {
            "timeout_seconds": self.timeout,
            "last_used": _time_of_day(use.active),
            "busy": use.busy or None,
            "known": use.known,
            "ends_at": None if use.busy else _time_of_day(self.ends_at(use)),
            "seconds_left": None if use.busy else round(self._left(use)),
            "extended_until": None if use.extended is None else _time_of_day(use.extended),
            "max_extension_seconds": self.max_extension,
        }

    def extend(self, spawner: Any, seconds: float) -> None:
        """Keep a server for so long from now, used or not.

        Raises:
            ValueError: Longer than `max_extension`, or not a positive number.
        """
        if not 0 < seconds <= self.max_extension:
            msg = f"{seconds:g} s: expected more than 0 and at most {self.max_extension:g} s"
            raise ValueError(msg)
        use = self._use((spawner.user.name, spawner.name), spawner)
        use.extended = time.monotonic() + seconds
        self._record(spawner)
        self.log.info("%s is kept until %s", spawner._log_name, _time_of_day(use.extended))  # noqa: SLF001

    def state(self, spawner: Any) -> Mapping[str, Any]:
        """Return what must outlive the hub."""
        use = self._uses.get((spawner.user.name, spawner.name))
        if use is None or use.extended is None:
            return {}
        return {"extended": _time_of_day(use.extended)}

    def restore(self, spawner: Any, state: Mapping[str, Any]) -> None:
        """Take up what an earlier hub promised."""
        if state.get("extended"):
            use = self._use((spawner.user.name, spawner.name), spawner)
            until = datetime.fromisoformat(str(state["extended"]))
            left = (until - datetime.now(UTC)).total_seconds()
            use.extended = time.monotonic() + min(left, self.max_extension)


def _used(use: Use, last: str, date: str) -> float:
    """Return when a server was used, by our clock, from what it says by its own.

    Args:
        use: What is known of it; takes note of the answer.
        last: When it was used, ISO 8601.
        date: When it said so, as HTTP has it.

    Raises:
        AnswerError: It does not say what time it has.
        ValueError: A time is none.
    """
    now = time.monotonic()
    before, when = use.last
    try:
        quiet = (parsedate_to_datetime(date) - datetime.fromisoformat(last)).total_seconds()
    except TypeError as error:
        raise AnswerError("its answer has no Date, or its last_activity no time zone") from error
    use.last = last, now
    if last == before:
        return use.active  # nothing since it was asked last, wherever its clock has gone
    # it was used since it was asked last, if it was
    return now - max(0.0, min(quiet, now - when) if before else quiet)


def _time_of_day(monotonic: float) -> str:
    """Return what the hub's clock says at a time of the monotonic one, ISO 8601."""
    at = datetime.now(UTC) + timedelta(seconds=monotonic - time.monotonic())
    return at.isoformat(timespec="seconds")


def _aware(naive: datetime | None) -> datetime:
    """Return one of the hub's times, which are UTC without saying so."""
    return naive.replace(tzinfo=UTC) if naive is not None else datetime.fromtimestamp(0, UTC)
