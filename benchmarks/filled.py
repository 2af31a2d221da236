"""A hub's database that holds running servers, as if this hub had started them before."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cluster import Sleeper


@dataclass(frozen=True)
class Kept:
    """A running server as a hub's database has it.

    Attributes:
        user: Whose it is.
        server: Its name.
        host: Where it answers, with `port`.
        port: See `host`.
        state: What the hub's spawner keeps of it.
    """

    user: str
    server: str
    host: str
    port: int
    state: Mapping[str, Any]


def qhub_kept(sleeper: Sleeper, port: int) -> Kept:
    """Return a server of QHubSpawner that answers on loopback."""
    state = {
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
    return Kept(sleeper.user, sleeper.server, "127.0.0.1", port, state)


def stock_kept(sleeper: Sleeper, port: int) -> Kept:
    """Return a server of SlurmSpawner that answers on loopback."""
    state = {"job_id": str(sleeper.job_id), "job_status": "RUNNING big01"}
    return Kept(sleeper.user, sleeper.server, "127.0.0.1", port, state)


def fill(database: Path, servers: Iterable[Kept]) -> int:
    """Write servers into the database of a hub that does not run now; returns how many are new.

    Args:
        database: The hub's SQLite file, made by the hub itself, with the servers' users in it.
        servers: Those that are in the database already are left as they are.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it greets when it is imported
    from jupyterhub import orm  # noqa: PLC0415 - and configures logging

    with orm.new_session_factory(f"sqlite:///{database}")() as session:
        users = {user.name: user for user in session.query(orm.User)}
        known = {
            (spawner.user.name, spawner.name)
            for spawner in session.query(orm.Spawner).filter(orm.Spawner.server != None)  # noqa: E711 - SQL
        }
        new = [each for each in servers if (each.user, each.server) not in known]
        for each in new:
            server = orm.Server(
                proto="http",
                ip=each.host,
                port=each.port,
                base_url=f"/user/{each.user}/{each.server}/",
            )
            session.add(
                orm.Spawner(
                    name=each.server,
                    user=users[each.user],
                    server=server,
                    state=dict(each.state),
                    user_options={},
                )
            )
        session.commit()
        session.bind.dispose()
    return len(new)
