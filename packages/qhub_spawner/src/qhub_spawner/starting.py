"""The start of a server: on the backend that was decided, or else where there is room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from qhub_spawner import certificates
from qhub_spawner.access import Selection
from qhub_spawner.errors import QHubSpawnerError, SlurmError
from qhub_spawner.identity import Identity, IdentityError, identity_of
from qhub_spawner.launch import (
    BackendServer,
    Launch,
    NoCapacityError,
    Progress,
    ServerAddress,
    StartFailedError,
)
from qhub_spawner.profiles import BackendName
from qhub_spawner.slurm.script import account_name

if TYPE_CHECKING:
    from qhub_spawner.spawner import QHubSpawner

PLACES = {"slurm": "Slurm", "kubernetes": "Kubernetes", "local": "the hub's own machine"}
_TRYING = " Trying "


async def start(spawner: QHubSpawner, selection: Selection) -> ServerAddress:
    """Start what was selected, and return where it listens.

    A profile with several backends goes on to the next one where there is no room, unless the
    person chose the backend themselves. What is left to try stands in `QHubSpawner.later`, and on
    record: a start that an earlier hub began goes on from there.

    Raises:
        StartFailedError: It did not start; says why, of every backend that was tried.
        SelectionError: The person's name cannot be an account of the cluster.
    """
    identity = await identity_of_person(spawner)
    order = [selection.backend, *(each for each in selection.backends if each != selection.backend)]
    if selection.profile.policy == "ask":
        order = order[:1]
    order = [name for name in spawner.later if name in order] or order
    for at, name in enumerate(order):
        spawner.later = tuple(order[at + 1 :])
        try:
            address = await _start_on(spawner, selection, name, identity)
        except NoCapacityError as error:
            await go_elsewhere(spawner, name, error)
        else:
            spawner.later = ()  # after any other end the hub clears the spawner's state
            return address
    msg = "the selection names no backend"
    raise AssertionError(msg)


async def go_elsewhere(spawner: QHubSpawner, name: str, error: NoCapacityError) -> None:
    """Give up what was begun on a backend without room, and tell where it is tried next.

    Raises:
        NoCapacityError: There is nowhere else; says why, of every backend that was tried.
        StartFailedError: It cannot be given up.
    """
    place = PLACES[name][:1].upper() + PLACES[name][1:]
    why = f"{place} has no room now: {error.words}"
    if not spawner.later:
        said = [note.rpartition(_TRYING)[0] for note in spawner.notes]
        raise NoCapacityError(" ".join([*said, why]), status_code=error.status_code) from error
    spawner.log.warning("%s starts on %s: %s", spawner._log_name, spawner.later[0], why)  # noqa: SLF001
    await _give_up(spawner)
    spawner.notes.append(f"{why}{_TRYING}{PLACES[spawner.later[0]]} instead.")


async def _start_on(
    spawner: QHubSpawner,
    selection: Selection,
    name: BackendName,
    identity: Identity | None,
) -> ServerAddress:
    if name == "slurm":
        account_name(spawner.user.name)
    spawner.use(name, spawner.runtime.backend(name).server(spawner))
    launch = Launch(
        user=spawner.user.name,
        server_name=spawner.name,
        selection=selection,
        environment=spawner.launch_environment(selection, name),
        argv=(*spawner.cmd, *spawner.get_args()),
        grace_seconds=spawner.stop_grace,
        identity=identity,
        alternatives=bool(spawner.later),
    )
    assert spawner.backend_server is not None  # noqa: S101 - just made
    return await spawner.backend_server.start(launch)


async def _give_up(spawner: QHubSpawner) -> None:
    """End what was begun on a backend without room: never may two servers run for one."""
    if spawner.backend_server is None:
        return
    try:
        await spawner.backend_server.stop(now=True)
    except QHubSpawnerError as error:
        msg = f"It could not be given up where there is no room: {error}"
        raise StartFailedError(msg, status_code=503) from error


async def identity_of_person(spawner: QHubSpawner) -> Identity | None:
    """Return who the person is on every target; ``None`` if the authenticator does not say.

    Raises:
        StartFailedError: What it says is not usable: nothing is started as a guess.
    """
    try:
        return identity_of(await spawner.user.get_auth_state())
    except IdentityError as error:
        spawner.log.error("%s: %s", spawner.user.name, error)  # noqa: TRY400 - it says all
        msg = (
            "Your account's numbers and groups are not usable; the hub's administrator can see why."
        )
        raise StartFailedError(msg) from error


async def certificate_names(spawner: QHubSpawner, selection: Selection) -> list[str]:
    """Return the names that the server's certificate needs, on any backend it may start on.

    Raises:
        SlurmError: The backend that is tried first does not say which nodes it has.
    """
    configured = spawner.ssl_alt_names
    found = list(configured() if callable(configured) else configured)
    for name in selection.backends:
        backend: Any = spawner.runtime.backend(name)
        if name == "kubernetes":
            found += [each for each in backend.alternative_names(spawner) if each not in found]
        if name != "slurm":
            continue
        try:
            machines = backend.views.machines or await backend.views.refresh_machines()
        except SlurmError as error:
            if name == selection.backend:
                raise
            spawner.log.warning("the certificate lacks Slurm's nodes: %s", error)
        else:
            found = certificates.alternative_names(machines.nodes, found)
    return found


async def progress(spawner: QHubSpawner) -> AsyncIterator[Progress]:
    """Yield what happens during a start, across the backends that are tried."""
    followed: BackendServer | None = None
    told = 0
    while True:
        while spawner.backend_server is None:  # noqa: ASYNC110 - JupyterHub begins both at once
            await asyncio.sleep(0.05)
        for note in spawner.notes[told:]:
            yield Progress(note, 5)
        told = len(spawner.notes)
        if spawner.backend_server is followed:
            if spawner.server_is_placed():
                return
            await asyncio.sleep(0.1)
            continue
        followed = spawner.backend_server
        steps = followed.progress()
        try:
            async for step in _until_left(spawner, followed, steps):
                yield step
        finally:
            with suppress(RuntimeError):
                await steps.aclose()  # type: ignore[attr-defined]


async def _until_left(
    spawner: QHubSpawner, server: BackendServer, steps: AsyncIterator[Progress]
) -> AsyncIterator[Progress]:
    """Yield a server's steps until they end, or another backend is tried."""
    while True:
        step = asyncio.ensure_future(anext(steps, None))
        try:
            while not step.done():
                await asyncio.wait([step], timeout=0.25)
                if not step.done() and spawner.backend_server is not server:
                    return
            found = step.result()
        finally:
            step.cancel()
        if found is None:
            return
        yield found
