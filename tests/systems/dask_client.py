"""The stock client of dask-gateway in a process of its own, as a notebook or a script has it.

In a process that goes on, its loops and finalizers outlive the test that made it.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from typing import Any

from .gateway import GatewaySystem

_HEAD = """
import json, os, sys, time
from dask_gateway import BasicAuth, Gateway

given = json.loads(sys.stdin.readline())
auth = BasicAuth(given["user"], given["password"])
client = Gateway(given["url"], proxy_address=given["proxy_address"], auth=auth)
values = given["values"]
answer = None
"""
_TAIL = """
print("ANSWER " + json.dumps(answer), flush=True)
os._exit(0)
"""


class ClientFailedError(AssertionError):
    """A script of a client raised something, or did not end in time."""


def run_client(
    gateway: GatewaySystem, script: str, *, user: str = "alice", seconds: float = 120, **values: Any
) -> Any:
    """Run a script that has `client` and `values`, and return what it puts into `answer`."""
    given = _given(gateway, user, values)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _HEAD + script + _TAIL],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        said_so_far = (late.stderr or b"").decode(errors="replace")[-3000:]
        msg = f"the client did not end in {seconds:g} s:\n{said_so_far}\n{gateway.log()[-3000:]}"
        raise ClientFailedError(msg) from None
    said = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert said, f"the client failed:\n{done.stderr[-3000:]}\n{gateway.log()[-3000:]}"
    return json.loads(said[-1].removeprefix("ANSWER "))


def _given(gateway: GatewaySystem, user: str, values: dict[str, Any]) -> dict[str, Any]:
    return {
        "user": user,
        "password": gateway.password,
        "url": gateway.url,
        "proxy_address": gateway.proxy_address,
        "values": values,
    }


_LOOP = """
for line in sys.stdin:
    order = json.loads(line)
    values, answer, failure = order["values"], None, None
    try:
        exec(order["script"])
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    print("ANSWER " + json.dumps([failure, answer]), flush=True)
os._exit(0)
"""


class StayingClient:
    """The stock client in a process that stays, as a notebook does; names outlive each script.

    Attributes:
        gateway: Whom it asks.
    """

    def __init__(self, gateway: GatewaySystem, *, user: str = "alice") -> None:
        """Start it."""
        self.gateway = gateway
        self._errors = gateway.folder / f"client-{user}-{time.monotonic_ns()}.log"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-c", _HEAD + _LOOP],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        self._say(_given(gateway, user, {}))
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _say(self, data: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(data).encode() + b"\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(b"ANSWER "):
                self._answers.put(line.removeprefix(b"ANSWER "))
        self._answers.put(b"")

    def ask(self, script: str, *, seconds: float = 180, **values: Any) -> Any:
        """Run a script that has `client`, `values` and every name of earlier ones.

        `seconds` is among the values; half as much again is waited for.

        Raises:
            ClientFailedError: It raised something, or did not end in time.
        """
        self._say({"script": script, "values": {"seconds": seconds, **values}})
        try:
            line = self._answers.get(timeout=seconds * 1.5)
        except queue.Empty:
            raise ClientFailedError(f"no answer within {seconds:g} s\n{self.told()}") from None
        if not line:
            raise ClientFailedError(f"the client ended\n{self.told()}")
        failure, answer = json.loads(line)
        if failure is not None:
            raise ClientFailedError(f"{failure}\n{self.told()}")
        return answer

    def told(self) -> str:
        """Return the last of what it and the gateway have written."""
        return self._errors.read_text(errors="replace")[-3000:] + self.gateway.log()[-3000:]

    def close(self) -> None:
        """End it at once, as when a laptop's lid is closed: nothing is told to anybody."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
