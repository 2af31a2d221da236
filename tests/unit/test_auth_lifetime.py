"""The group sync ends with the hub that runs it."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from traitlets.config import Config

from qhub_auth.configure import group_sync
from qhub_auth.sync import lifetime
from qhub_auth.sync.lifetime import RUN_BY, hub_is_gone


async def test_a_hub_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noticed when this process has another parent."""
    monkeypatch.setattr(lifetime, "_LOOK_SECONDS", 0.01)
    parent = [4711]
    monkeypatch.setattr(os, "getppid", lambda: parent[0])
    task = asyncio.ensure_future(hub_is_gone({RUN_BY: "4711"}))
    done, _ = await asyncio.wait({task}, timeout=0.1)
    assert not done
    parent[0] = 1
    async with asyncio.timeout(60):
        await task


@pytest.mark.parametrize("environment", [{}, {RUN_BY: ""}, {RUN_BY: "1"}, {RUN_BY: "x"}])
async def test_nobody_runs_it(environment: dict[str, str]) -> None:
    """Where no hub started it, and where a command of the site's own stands between, it goes on."""
    task = asyncio.ensure_future(hub_is_gone(environment))
    done, _ = await asyncio.wait({task}, timeout=0.1)
    assert not done
    task.cancel()


def test_the_hub_says_who_it_is(tmp_path: Any) -> None:
    """What the hub starts knows the hub's process."""
    c = Config()
    group_sync(c, config_file=str(tmp_path / "settings.py"))
    assert c.JupyterHub.services[0]["environment"][RUN_BY] == str(os.getpid())
