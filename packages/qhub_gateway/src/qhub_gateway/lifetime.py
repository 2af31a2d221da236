"""Services that a hub runs end with it, also where it was killed and could not end them.

Otherwise they would keep their ports, and those of the next hub could not begin.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping

__all__ = ["RUN_BY", "end_with_hub"]

RUN_BY = "QHUB_GATEWAY_RUN_BY"
"""The variable with the process number of the hub that runs a service."""

_LOOK_SECONDS = 1.0


async def end_with_hub(environment: Mapping[str, str]) -> None:
    """Return never, but ask this process to end (SIGTERM) once the hub that runs it is gone.

    Args:
        environment: Of this process; where it was not started by a hub, nothing happens.
    """
    hub = environment.get(RUN_BY, "")
    while hub and os.getppid() == int(hub):  # noqa: ASYNC110 - nothing tells of a parent's end
        await asyncio.sleep(_LOOK_SECONDS)
    if hub:
        os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.Event().wait()
