"""`gateway-first-result`: from a new Dask cluster to its first result, on Slurm.

Ours, stock dask-gateway-server with its own Slurm backend, and the floor in turn, one cluster at a
time. Each of the three has a client that waits with everything imported: the stock client of
dask-gateway asks for a cluster, for one worker, and for a sum. The floor is the same two jobs by
sbatch, with the same certificates: a scheduler, a worker as soon as that one listens, and the sum.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from dask_gateway_server import tls

from tests.systems.processes import Ports, wait_until
from tests.systems.slurm import SlurmSystem, sweep
from tests.systems.userenv import dask_environment

from . import machine
from .cluster import with_room
from .figures import Spread
from .gateway_sides import Side, Terms, both
from .spawn import Contest, in_turn, show

USER = "alice"
RUNS = 10
PARTITION = "big"
DEADLINE_SECONDS = 180
CONTEST = Contest(
    "gateway-first-result",
    "stock SlurmBackend",
    "the two jobs by sbatch, until the sum",
    ratio_goal=0.8,
)

# What a notebook or a script does, in a process that has done it before.
_HEAD = """
import json, os, sys, time
from distributed import Client
from distributed.security import Security
from dask_gateway import BasicAuth, Gateway

given = json.loads(sys.stdin.readline())
"""
_BY_GATEWAY = """
auth = BasicAuth(given["user"], given["password"])
client = Gateway(given["url"], proxy_address=given["proxy_address"], auth=auth)


def once(line):
    parts, began = [], time.monotonic()
    cluster = client.new_cluster(shutdown_on_close=False)
    parts.append(time.monotonic() - began)
    cluster.scale(1)
    dask = cluster.get_client(set_as_default=False)
    parts.append(time.monotonic() - began)
    assert dask.submit(sum, [1, 2, 3]).result(timeout=given["seconds"]) == 6
    parts.append(time.monotonic() - began)
    dask.close()
    client.stop_cluster(cluster.name)
    cluster.close(shutdown=False)
    return parts
"""
_BY_HAND = """
import subprocess, socket

security = Security(
    require_encryption=True,
    tls_ca_file=given["cert"], tls_client_cert=given["cert"], tls_client_key=given["key"],
)


def sbatch(words):
    done = subprocess.run(
        given["sbatch"], input="#!/bin/sh\\nexec " + " ".join(words) + "\\n",
        text=True, capture_output=True, check=True,
    )
    return done.stdout.strip()


def listens(port):
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def once(line):
    port, began = int(line), time.monotonic()
    jobs = [sbatch([*given["scheduler"], "--port", str(port)])]
    while not listens(port):
        time.sleep(0.01)
    parts = [time.monotonic() - began]
    address = f"tls://127.0.0.1:{port}"
    jobs.append(sbatch([*given["worker"], address]))
    dask = Client(address, security=security, set_as_default=False)
    parts.append(time.monotonic() - began)
    assert dask.submit(sum, [1, 2, 3]).result(timeout=given["seconds"]) == 6
    parts.append(time.monotonic() - began)
    dask.close()
    subprocess.run([*given["scancel"], *jobs], check=True)
    return parts
"""
_TAIL = """
for line in sys.stdin:
    print("PARTS " + json.dumps(once(line)), flush=True)
os._exit(0)
"""


class Asker:
    """A client in a process of its own, which does the same again and again."""

    def __init__(self, script: str, given: Mapping[str, Any], log: Path) -> None:
        """Start it when the context is entered.

        Args:
            script: Defines ``once``.
            given: What the script knows; passwords too, so it goes by standard input.
            log: Where its complaints go.
        """
        self._script = _HEAD + script + _TAIL
        self._given = json.dumps({**given, "seconds": DEADLINE_SECONDS})
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", self._script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._say(self._given)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process, *pipes = self._running()
        process.kill()
        process.wait()
        for pipe in pipes:
            pipe.close()

    def _say(self, line: str) -> None:
        _, stdin, _ = self._running()
        stdin.write(line + "\n")
        stdin.flush()

    def _running(self) -> tuple[subprocess.Popen[str], IO[str], IO[str]]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            msg = "this client has not been started"
            raise RuntimeError(msg)
        return process, process.stdin, process.stdout

    def once(self, line: str = "") -> list[float]:
        """Return the seconds until the scheduler was there, was connected to, and had the sum.

        Raises:
            RuntimeError: The client failed; with the end of what it wrote.
        """
        self._say(line)
        for said in self._running()[2]:
            if said.startswith("PARTS "):
                parts: list[float] = json.loads(said.removeprefix("PARTS "))
                return parts
        msg = f"the client failed:\n{self._log.read_text()[-3000:]}"
        raise RuntimeError(msg)


class Floor:
    """The two jobs by hand.

    Attributes:
        given: What its client knows.
    """

    def __init__(self, slurm: SlurmSystem, folder: Path) -> None:
        """Make a certificate that the person may read."""
        self._ports = Ports()
        cert, key = folder / "floor.crt", folder / "floor.pem"
        for path, text in zip((cert, key), tls.new_keypair("floor"), strict=True):
            path.write_bytes(text)
            shutil.chown(path, USER)
        prefix = "DASK_DISTRIBUTED__COMM__"
        settings = {f"{prefix}REQUIRE_ENCRYPTION": "True", f"{prefix}TLS__CA_FILE": str(cert)}
        for role in ("SCHEDULER", "WORKER"):
            settings |= {f"{prefix}TLS__{role}__CERT": str(cert)}
            settings |= {f"{prefix}TLS__{role}__KEY": str(key)}
        environment = ["env", f"SLURM_CONF={slurm.slurm_conf}"]
        environment += [f"{name}={value}" for name, value in settings.items()]
        options = [f"--partition={PARTITION}", "--mem=300M", "--cpus-per-task=1", "--export=ALL"]
        dask = [f"{dask_environment()}/bin/python", "-m"]
        dashboard = ["--dashboard-address", "127.0.0.1:0"]
        self.given = {
            "cert": str(cert),
            "key": str(key),
            "sbatch": [
                *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups"),
                *(*environment, "sbatch", "--parsable", "--output=/dev/null", "--chdir=/tmp"),
                *options,
            ],
            "scancel": ["env", f"SLURM_CONF={slurm.slurm_conf}", "scancel"],
            "scheduler": [
                *(*dask, "distributed.cli.dask_scheduler", "--protocol", "tls"),
                *("--host", "127.0.0.1", *dashboard),
            ],
            "worker": [
                *(*dask, "distributed.cli.dask_worker", *dashboard),
                *("--nthreads", "1", "--memory-limit", "300000000"),
            ],
        }

    def port(self) -> str:
        """Return a port for the next scheduler."""
        return str(self._ports.reserve()[0])

    def close(self) -> None:
        """Give the ports back."""
        self._ports.release()


def until_empty(slurm: SlurmSystem) -> None:
    """Wait until no job is left, ending ones included."""
    wait_until(
        lambda: not slurm.run(["squeue", "-h", "-o", "%A"]).stdout.strip(), 120, "an empty queue"
    )


def measure(
    slurm: SlurmSystem, sides: Mapping[Any, Side], stack: ExitStack, runs: int
) -> dict[str, list[float]]:
    """Run each kind once to warm up, then `runs` rounds, whose order turns."""
    folder = sides["ours"].folder
    floor = Floor(slurm, folder)
    stack.callback(floor.close)
    askers = {
        kind: stack.enter_context(
            Asker(
                _BY_GATEWAY,
                {
                    "user": USER,
                    "password": side.password,
                    "url": side.url,
                    "proxy_address": side.proxy_address,
                },
                folder / f"{kind}-client.log",
            )
        )
        for kind, side in sides.items()
    }
    askers["floor"] = stack.enter_context(Asker(_BY_HAND, floor.given, folder / "floor-client.log"))

    def once(kind: str) -> float:
        parts = askers[kind].once(floor.port() if kind == "floor" else "")
        until_empty(slurm)
        words = ", ".join(f"{part:.2f}" for part in parts)
        print(f"{kind}: scheduler, connected, result after {words} s", flush=True)
        return parts[-1]

    for kind in askers:
        once(kind)
    print("that was to warm up", flush=True)
    return in_turn({kind: lambda kind=kind: once(kind) for kind in askers}, runs)  # type: ignore[misc]


def run(*, quick: bool, runs: int | None) -> None:
    """Measure, and print."""
    rounds = runs or (2 if quick else RUNS)
    print(f"gateway-first-result: new cluster to first result, {rounds} runs each in turn")
    print(machine.described("slurm", "gateway"), flush=True)
    sweep()
    terms = Terms(PARTITION, memory="300 MiB", sleepers=False)
    with (
        SlurmSystem(with_room(20)) as slurm,
        both(slurm, terms) as sides,
        ExitStack() as stack,
    ):
        seconds = measure(slurm, sides, stack, rounds)
    show(CONTEST, {kind: Spread.of(values) for kind, values in seconds.items()}, rounds)
