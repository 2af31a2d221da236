"""Servers between two hubs, and while they cannot answer: what JupyterHub must not give up.

JupyterHub gives up, and stops, a server that does not answer its HTTP request in time. A job may
have good reasons not to: it is suspended, waits to run again after a requeue, or its start was
begun by a hub that has ended since. Here the backend is asked instead of a clock.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from jupyterhub import __version__
from jupyterhub.objects import Server
from jupyterhub.spawner import SpawnException
from traitlets import Any as AnyTrait
from traitlets import Bool

from qhub_spawner import starting
from qhub_spawner.launch import NoCapacityError, StartFailedError

_ATTEMPT_SECONDS = 3.0
_ADOPTION_SECONDS = 10.0


class PatientEndpoint(Server):  # type: ignore[misc]  # jupyterhub has no types
    """The HTTP endpoint of a server whose backend says whether it lives.

    Attributes:
        spawner: Whose server it is.
        adopted: Whether an earlier hub has seen it up: it is then not given up while it lives.
    """

    spawner = AnyTrait()
    adopted = Bool(False)

    async def wait_up(
        self,
        timeout: float = 10,  # noqa: ASYNC109 - JupyterHub's signature
        http: bool = False,
        ssl_context: Any = None,
        extra_path: str = "",
    ) -> Any:
        """Wait until the server answers. Time in which it cannot does not count.

        Raises:
            TimeoutError: It has ended, or had `timeout` seconds and did not answer.
        """
        backend_server = self.spawner.backend_server
        clock = asyncio.get_running_loop().time
        left, last = min(timeout, _ADOPTION_SECONDS) if self.adopted else timeout, clock()
        while True:
            ended = await backend_server.poll()
            if ended is not None:
                raise _not_up(f"The server ended before it was up: {ended.words}.")
            if self.adopted and (backend_server.waits or left <= 0):
                return SimpleNamespace(headers={"X-JupyterHub-Version": __version__})
            if left <= 0:
                raise _not_up(f"The server at {self.url} did not answer within {timeout:g} s.")
            seconds = max(0.1, min(left, _ATTEMPT_SECONDS))
            # the address may change meanwhile: a requeued job reports a new one
            answer = super().wait_up(
                timeout=seconds, http=http, ssl_context=ssl_context, extra_path=extra_path
            )
            try:
                return await asyncio.wait_for(answer, seconds + 1)
            except TimeoutError:
                now = clock()
                left, last = left if backend_server.waits else left - (now - last), now


def _not_up(words: str) -> TimeoutError:
    error: Any = TimeoutError(words)
    error.jupyterhub_message = words
    return error  # type: ignore[no-any-return]


async def take_up(spawner: Any) -> int | None:
    """Go on with a start that an earlier hub began, and return what `Spawner.poll` should.

    To people it is a start like any other: with progress, and one they can end. JupyterHub by
    itself would show them "pending check" for as long as the job waits, and refuse to stop it.
    """
    task = asyncio.ensure_future(_finish(spawner))
    spawner._spawn_future = task  # noqa: SLF001 - as JupyterHub's spawn_single_user does
    spawner._spawn_pending, spawner._check_pending = True, False  # noqa: SLF001
    forgotten = spawner.forgotten = asyncio.Event()

    def over(task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            spawner._spawn_future = None  # noqa: SLF001
        spawner._spawn_pending = False  # noqa: SLF001

    task.add_done_callback(over)
    await asyncio.wait([task])
    if task.cancelled():
        # who ended the start stops the server too; JupyterHub's check must not do so beside them
        await forgotten.wait()
        return 1
    error = task.exception()
    if error is None:
        return None
    spawner.log.error("the start of %s, begun by an earlier hub: %s", spawner._log_name, error)  # noqa: SLF001
    return 1


async def _resumed(spawner: Any) -> bool:
    """Whether the server is up where an earlier hub began it; else it was given up there.

    Raises:
        StartFailedError: It did not start, and is tried nowhere else.
    """
    try:
        address = await spawner.backend_server.resume()
    except NoCapacityError as error:
        await starting.go_elsewhere(spawner, spawner.backend_name, error)
        return False
    spawner.later = ()
    spawner.place(address)
    return True


async def _finish(spawner: Any) -> None:
    """Do what remains of a start: `User.spawn` from the address on, and the route."""
    try:
        if await _resumed(spawner):
            spawner._waiting_for_response = True  # noqa: SLF001
            await spawner.user._wait_up(spawner)  # noqa: SLF001
        else:
            # its token, certificates and hooks are the hub's to make anew
            await spawner.user.spawn(spawner.name)
    except StartFailedError as error:
        spawner.last_failed = error.words
        failed = SpawnException(error.words, reason="start-failed", status_code=error.status_code)
        failed.jupyterhub_message = error.words
        raise failed from error
    try:
        await spawner.user.settings["app"].proxy.add_user(spawner.user, spawner.name)
    except Exception:
        # the proxy may start after the hub does: no reason to end the server
        spawner.log.exception("no route to %s yet; the hub checks its routes", spawner._log_name)  # noqa: SLF001
