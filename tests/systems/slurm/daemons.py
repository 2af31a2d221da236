"""The daemons of one instance: their commands, whom they run as, and when they serve."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from functools import partial

from ..processes import Daemon, listening, socket_accepts
from .cgroups import InstanceCgroups
from .configuration import Places
from .definition import Definition
from .packages import SEARCH_PATH, program
from .unix_users import REST_USER

IN_SERVICE = ("idle", "mixed", "allocated", "completing", "reserved", "draining", "drained")


def daemons(definition: Definition, places: Places, cgroups: InstanceCgroups) -> dict[str, Daemon]:
    """All daemons by name, in the order in which they are started."""
    folder = places.folder
    base = {"PATH": SEARCH_PATH, "LANG": "C.UTF-8", "SLURM_CONF": str(places.slurm_conf)}
    found: dict[str, Daemon] = {}

    def add(
        name: str,
        argv: Sequence[str],
        ready: Callable[[], bool],
        user: str | None = None,
        **variables: str,
    ) -> None:
        found[name] = Daemon(
            name=name,
            argv=argv,
            log=folder / "log" / name.replace(":", "@"),
            record=folder / "pids" / f"{name.replace(':', '@')}.json",
            ready=ready,
            user=user,
            environment={**base, **variables},
        )

    add("munged", munged(places), lambda: socket_accepts(places.munge_socket), "munge")
    add("mariadbd", mariadbd(places), lambda: listening(places.mariadb_port), "mysql")
    add("slurmdbd", [program("slurmdbd"), "-D"], lambda: listening(places.slurmdbd_port), "slurm")
    add("slurmctld", [program("slurmctld"), "-D"], lambda: controller_up(places, base), "slurm")
    for node in definition.nodes:
        argv = cgroups.enter([program("slurmd"), "-D", "-N", node.name])
        add(f"slurmd:{node.name}", argv, partial(node_up, places, node.name, base))
    # SLURM_JWT=daemon: it has no identity of its own, each request brings its token
    address = f"127.0.0.1:{places.slurmrestd_port}"
    restd = [program("slurmrestd"), "-a", "rest_auth/jwt"]
    if definition.settings.get("AccountingStorageType") == "accounting_storage/none":
        restd += ["-s", "openapi/v0.0.38"]  # the plugin for slurmdbd refuses to start without it
    restd.append(address)
    add(
        "slurmrestd",
        restd,
        lambda: listening(places.slurmrestd_port),
        REST_USER,
        SLURM_JWT="daemon",
    )
    return found


def munged(places: Places) -> list[str]:
    """The command of munged, with a key, socket and seed of its own."""
    folder = places.folder / "munge"
    return [
        program("munged"),
        "--foreground",
        f"--socket={places.munge_socket}",
        f"--key-file={folder}/munge.key",
        f"--log-file={folder}/munged.log",
        f"--pid-file={folder}/munged.pid",
        f"--seed-file={folder}/munge.seed",
        "--num-threads=4",
    ]


def mariadbd(places: Places) -> list[str]:
    """The command of mariadbd: small, and fast rather than durable, as its data is thrown away."""
    folder = places.folder / "db"
    return [
        program("mariadbd"),
        "--no-defaults",
        f"--datadir={folder}/data",
        f"--socket={folder}/mariadb.sock",
        f"--pid-file={folder}/mariadb.pid",
        f"--port={places.mariadb_port}",
        f"--init-file={folder}/init.sql",
        f"--tmpdir={folder}",
        "--bind-address=127.0.0.1",
        "--skip-name-resolve",
        "--skip-log-bin",
        "--performance-schema=off",
        "--innodb-buffer-pool-size=64M",
        "--innodb-log-file-size=8M",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-flush-method=nosync",
        "--innodb-lock-wait-timeout=900",
    ]


def controller_up(places: Places, environment: dict[str, str]) -> bool:
    """Whether slurmctld answers: "Slurmctld(primary) at HOST is UP"."""
    # asked only when the port is open: scontrol tries a closed one again after a second
    return listening(places.slurmctld_port) and " is UP" in _ask(["scontrol", "ping"], environment)


def node_up(places: Places, name: str, environment: dict[str, str]) -> bool:
    """Whether a node's slurmd listens and slurmctld has heard of it ("idle*": it has not)."""
    if not listening(places.node_ports[name]):
        return False
    state = _ask(["sinfo", "-h", "-N", "-n", name, "-o", "%T"], environment).split("\n")[0]
    return state in IN_SERVICE


def _ask(argv: list[str], environment: dict[str, str]) -> str:
    try:
        done = subprocess.run(
            [program(argv[0]), *argv[1:]],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            env=environment, timeout=10, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout
