"""A service that the hub runs ends with it, also where the hub was killed and could not end it.

Otherwise the next hub would run a second one, and this one would go on with a token of the past.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping

__all__ = ["RUN_BY", "hub_is_gone"]

RUN_BY = "QHUB_GROUP_SYNC_RUN_BY"
"""The variable with the process number of the hub that runs the service."""

_LOOK_SECONDS = 1.0


async def hub_is_gone(environment: Mapping[str, str]) -> None:
    """Return once the hub that started this process is gone; never where none did.

    Args:
        environment: Of this process.
    """
    hub = environment.get(RUN_BY, "")
    if hub != str(os.getppid()):  # systemd's, or behind a command of the site's own
        await asyncio.Event().wait()
    while hub == str(os.getppid()):  # noqa: ASYNC110 - nothing tells of a parent's end
        await asyncio.sleep(_LOOK_SECONDS)
