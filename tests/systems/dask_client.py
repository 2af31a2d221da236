"""The stock client of dask-gateway in a process of its own, as a notebook or a script has it.

In a process that goes on, its loops and finalizers outlive the test that made it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from .gateway import GatewaySystem

_HEAD = """
import json, os, sys, time
from dask_gateway import BasicAuth, Gateway

given = json.load(sys.stdin)
auth = BasicAuth(given["user"], given["password"])
client = Gateway(given["url"], proxy_address=given["proxy_address"], auth=auth)
values = given["values"]
answer = None
"""
_TAIL = """
print("ANSWER " + json.dumps(answer), flush=True)
os._exit(0)
"""


def run_client(
    gateway: GatewaySystem, script: str, *, user: str = "alice", seconds: float = 120, **values: Any
) -> Any:
    """Run a script that has `client` and `values`, and return what it puts into `answer`."""
    given = {
        "user": user,
        "password": gateway.password,
        "url": gateway.url,
        "proxy_address": gateway.proxy_address,
        "values": values,
    }
    done = subprocess.run(
        [sys.executable, "-c", _HEAD + script + _TAIL],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    said = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert said, f"the client failed:\n{done.stderr[-3000:]}\n{gateway.log()[-3000:]}"
    return json.loads(said[-1].removeprefix("ANSWER "))
