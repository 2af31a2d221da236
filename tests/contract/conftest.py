"""Hubs for the contract of backends: one for each, for the whole file."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Notes that it was asked to end, with some time, and only then ends.
WRAPPER = """#!/bin/bash
{singleuser} "$@" &
child=$!
end() {{
  sleep 0.3
  echo "ended well" >"$HOME/qhub-note-$JUPYTERHUB_SERVER_NAME"
  kill -TERM "$child"
}}
trap end TERM
wait "$child"; status=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; status=$?; done
exit "$status"
"""
PROFILES = """
c.Spawner.cmd = ["{wrapper}"]
c.Spawner.environment = {{"FROM_THE_HUB": "line one\\nline 'two' $HOME"}}
c.LocalBackend.home = "{homes}"
common = {{"cpu": 1, "memory": "600 MiB", "walltime": "1h", {block}}}
c.QHubSpawner.profiles = [
    {{"slug": "good", "display_name": "Good", "default": True,
      "environment": {{"variables": {{"FROM_THE_PROFILE": "yes"}}}}, **common}},
    {{"slug": "broken", "display_name": "Broken",
      "environment": {{"variables": {{"JUPYTERHUB_SINGLEUSER_APP": "no.such.module.App"}}}},
      **common}},
    {{"slug": "secret", "display_name": "Secret", "access": {{"users": ["bob"]}}, **common}},
]
"""


@dataclass
class BackendHub:
    """A running hub whose profiles all go to one backend.

    Attributes:
        hub: The hub.
        kind: local, command-line or rest.
        account: The Unix account that alice's servers run as.
        kill: Ends a server from outside; takes its pid and its job's id.
        killed_words: What its person is then told.
    """

    hub: Any
    kind: str
    account: str
    home: Path
    kill: Callable[[int, str], None]
    killed_words: str


@pytest.fixture(scope="module", params=["local", "command-line", "rest"])
def backend_hub(request: pytest.FixtureRequest, user_bin: Path) -> Iterator[BackendHub]:
    """A hub for each backend in turn."""
    folder = Path(tempfile.mkdtemp(prefix="qhub-backend-"))
    folder.chmod(0o755)
    wrapper = folder / "singleuser"
    wrapper.write_text(WRAPPER.format(singleuser=user_bin / "jupyterhub-singleuser"))
    wrapper.chmod(0o755)
    make = local_hub if request.param == "local" else slurm_hub
    made = make(request, folder, wrapper, user_bin)
    made.hub.start()
    made.hub.add_user("alice")
    made.hub.add_user("bob")
    try:
        yield made
    finally:
        for name in ("alice", "bob"):
            for server in (made.hub.api("GET", f"users/{name}").json or {}).get("servers", {}):
                made.hub.stop_server(name, server)
                made.hub.wait_stopped(name, server)
        made.hub.stop()
        for note in made.home.glob("qhub-note-*"):
            note.unlink()
        shutil.rmtree(folder)


def local_hub(
    request: pytest.FixtureRequest, folder: Path, wrapper: Path, user_bin: Path
) -> BackendHub:
    """A hub whose servers are processes beside it."""
    from tests.systems.hub import HubSystem
    from tests.systems.slurm.unix_users import HUB_USER, ensure_service_user
    from tests.systems.userenv import product_site

    ensure_service_user(HUB_USER)
    homes = folder / "hub" / "homes"
    config = PROFILES.format(wrapper=wrapper, homes=homes, block='"local": {}')
    site = product_site(folder)
    hub = HubSystem(
        *(folder / "hub", config), environment_bin=user_bin, python_path=site, user=HUB_USER
    )
    words = "it failed with exit code 137"  # the wrapper's, as its child was killed
    return BackendHub(
        *(hub, "local", HUB_USER, homes / "alice"),
        lambda pid, _job: os.kill(pid, signal.SIGKILL),
        words,
    )


def slurm_hub(
    request: pytest.FixtureRequest, folder: Path, wrapper: Path, user_bin: Path
) -> BackendHub:
    """A hub whose servers are jobs."""
    from tests.systems.slurm_hub import SlurmHub

    slurm = request.getfixturevalue("slurm")
    block = '"slurm": {"partition": "general"}'
    profiles = PROFILES.format(wrapper=wrapper, homes=folder, block=block)
    hub = SlurmHub(slurm, transport=request.param, profiles=profiles)

    def cancel(_pid: int, job: str) -> None:
        slurm.run(["scancel", job], "alice")

    words = "it was cancelled by alice"
    return BackendHub(hub, request.param, "alice", Path("/home/alice"), cancel, words)
