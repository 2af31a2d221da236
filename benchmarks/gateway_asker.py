"""A client of Dask in a process of its own, which has everything imported and waits to be asked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from tests.systems.gateway import GatewaySystem

DEADLINE_SECONDS = 180

# What a notebook or a script does, in a process that has done it before.
_HEAD = """
import gc, json, os, sys, time
from distributed import Client
from distributed.security import Security
from dask_gateway import BasicAuth, Gateway

# dask_gateway's finalizer waits for its loop: for ever, if the collector runs it in that loop
gc.disable()
given = json.loads(sys.stdin.readline())
parts = []


def begin():
    global began
    parts.clear()
    began = time.monotonic()


def note():
    parts.append(time.monotonic() - began)


def first_result():
    assert dask.submit(sum, [1, 2, 3]).result(timeout=given["seconds"]) == 6
    note()
"""
BY_GATEWAY = """
auth = BasicAuth(given["user"], given["password"])
client = Gateway(given["url"], proxy_address=given["proxy_address"], auth=auth)


def once(line):
    global cluster, dask
    begin()
    cluster = client.new_cluster(shutdown_on_close=False)
    note()
    cluster.scale(1)
    dask = cluster.get_client(set_as_default=False)
    note()
    first_result()


def end():
    dask.close()
    client.stop_cluster(cluster.name)
    cluster.close(shutdown=False)
"""
# Of a scheduler that is there.
BY_ADDRESS = """
security = Security(
    require_encryption=True,
    tls_ca_file=given["cert"], tls_client_cert=given["cert"], tls_client_key=given["key"],
)


def once(line):
    global dask
    begin()
    note()
    dask = Client(line.strip(), security=security, set_as_default=False)
    note()
    first_result()


def end():
    dask.close()
"""
BY_HAND = """
import subprocess, socket

jobs = []
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
    global dask
    port = int(line)
    begin()
    jobs[:] = [sbatch([*given["scheduler"], "--port", str(port)])]
    while not listens(port):
        time.sleep(0.01)
    note()
    address = f"tls://127.0.0.1:{port}"
    jobs.append(sbatch([*given["worker"], address]))
    dask = Client(address, security=security, set_as_default=False)
    note()
    first_result()


def end():
    dask.close()
    subprocess.run([*given["scancel"], *jobs], check=True)
"""
_TAIL = """
for line in sys.stdin:
    if line == "END\\n":
        end()
    else:
        once(line)
    print("PARTS " + json.dumps(parts), flush=True)
os._exit(0)
"""


class Asker:
    """A client in a process of its own, which does the same again and again."""

    def __init__(self, script: str, given: Mapping[str, Any], log: Path) -> None:
        """Start it when the context is entered.

        Args:
            script: Defines ``once`` and ``end``.
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

        The cluster stays until `end`.

        Raises:
            RuntimeError: The client failed; with the end of what it wrote.
        """
        self._say(line)
        return self._answer()

    def end(self) -> None:
        """End the cluster.

        Raises:
            RuntimeError: As in `once`.
        """
        self._say("END")
        self._answer()

    def _answer(self) -> list[float]:
        for said in self._running()[2]:
            if said.startswith("PARTS "):
                parts: list[float] = json.loads(said.removeprefix("PARTS "))
                return parts
        msg = f"the client failed:\n{self._log.read_text()[-3000:]}"
        raise RuntimeError(msg)


def of_gateway(gateway: GatewaySystem, user: str) -> dict[str, str]:
    """Return what a client of a gateway has to know."""
    return {
        "user": user,
        "password": gateway.password,
        "url": gateway.url,
        "proxy_address": gateway.proxy_address,
    }
