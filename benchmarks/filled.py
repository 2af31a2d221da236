"""A hub's database that holds running servers, as if this hub had started them before."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .cluster import Sleeper

State = Callable[[Sleeper, int], Mapping[str, Any]]


def qhub_state(sleeper: Sleeper, port: int) -> dict[str, Any]:
    """Return what QHubSpawner keeps of a running server."""
    return {
        "backend": "slurm",
        "qhub": {
            "version": 1,
            "name": sleeper.name,
            "user": sleeper.user,
            "job_id": sleeper.job_id,
            "memory": "10 MiB",
            "walltime": "8h",
            "grace_seconds": 0,
            "address": {"host": "127.0.0.1", "port": port},
        },
    }


def stock_state(sleeper: Sleeper, port: int) -> dict[str, Any]:
    """Return what SlurmSpawner keeps of a running server."""
    del port
    return {"job_id": str(sleeper.job_id), "job_status": "RUNNING big01"}


def fill(database: Path, sleepers: Iterable[Sleeper], port: int, state: State) -> int:
    """Write servers into the database of a hub that does not run now; returns how many are new.

    Args:
        database: The hub's SQLite file, made by the hub itself, with the sleepers' users in it.
        sleepers: The jobs; those that are in the database already are left as they are.
        port: Where every one of the servers answers, on loopback.
        state: How the hub's spawner keeps them.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it greets when it is imported
    from jupyterhub import orm  # noqa: PLC0415 - and configures logging

    with orm.new_session_factory(f"sqlite:///{database}")() as session:
        users = {user.name: user for user in session.query(orm.User)}
        known = {
            (spawner.user.name, spawner.name)
            for spawner in session.query(orm.Spawner).filter(orm.Spawner.server != None)  # noqa: E711 - SQL
        }
        new = [each for each in sleepers if (each.user, each.server) not in known]
        for each in new:
            server = orm.Server(
                proto="http",
                ip="127.0.0.1",
                port=port,
                base_url=f"/user/{each.user}/{each.server}/",
            )
            session.add(
                orm.Spawner(
                    name=each.server,
                    user=users[each.user],
                    server=server,
                    state=dict(state(each, port)),
                    user_options={},
                )
            )
        session.commit()
        session.bind.dispose()
    return len(new)
