"""Hubs for the contract of backends: one for each, for the whole file."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
        kind: local, command-line, rest or kubernetes.
        account: The Unix account that alice's servers run as.
        home: Her home, at the same path here and for her servers.
        kill: Ends a server from outside; takes its pid and the id of its job, or its pod's name.
        killed_words: What its person is then told.
    """

    hub: Any
    kind: str
    account: str
    home: Path
    kill: Callable[[int, str], None]
    killed_words: str
    identities: dict[str, dict[str, Any]] = field(default_factory=dict)


@pytest.fixture(scope="module", params=["local", "command-line", "rest", "kubernetes"])
def backend_hub(request: pytest.FixtureRequest, user_bin: Path) -> Iterator[BackendHub]:
    """A hub for each backend in turn."""
    folder = Path(tempfile.mkdtemp(prefix="qhub-backend-"))
    folder.chmod(0o755)
    wrapper = folder / "singleuser"
    wrapper.write_text(WRAPPER.format(singleuser=user_bin / "jupyterhub-singleuser"))
    wrapper.chmod(0o755)
    make = {"local": local_hub, "kubernetes": kubernetes_hub}.get(request.param, slurm_hub)
    made = make(request, folder, wrapper, user_bin)
    made.hub.start()
    made.hub.add_user("alice")
    made.hub.add_user("bob")
    for name, identity in made.identities.items():
        made.hub.set_identity(name, identity)
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


def kubernetes_hub(
    request: pytest.FixtureRequest, folder: Path, wrapper: Path, user_bin: Path
) -> BackendHub:
    """A hub whose servers are pods, with homes on a volume and everybody's identity known."""
    from tests.systems.kubernetes import USER_PREFIX
    from tests.systems.kubernetes_hub import RESTRICTED, KubernetesHub, offer_folder

    cluster = request.getfixturevalue("kubernetes")
    namespace = cluster.make_namespace(labels=RESTRICTED)
    wrapper.write_text(WRAPPER.format(singleuser=f"{USER_PREFIX}/bin/jupyterhub-singleuser"))
    homes = folder / "homes"
    for name, offered in (("programs", folder), ("homes", homes)):
        offer_folder(cluster, namespace, name, offered)
    identities = {}
    for uid, name in ((12001, "alice"), (12002, "bob")):
        home = homes / name
        home.mkdir(parents=True)
        os.chown(home, uid, uid)
        home.chmod(0o700)
        identities[name] = {"version": 1, "uid": uid, "gid": uid, "home": str(home)}
    config = """
programs = {"persistentVolumeClaim": {"claimName": "programs", "readOnly": True}}
c.KubeSpawner.environment = c.Spawner.environment
c.KubeSpawner.volumes = [{"name": "programs", **programs}]
c.KubeSpawner.volume_mounts = [{"name": "programs", "mountPath": "/opt/programs"}]
c.KubernetesBackend.home_volume = {"persistentVolumeClaim": {"claimName": "homes"}}
"""
    block = '"kubernetes": {"cpu_request": "10m", "memory_request": "64 MiB"}'
    profiles = PROFILES.format(wrapper="/opt/programs/singleuser", homes=homes, block=block)
    hub = KubernetesHub(cluster, profiles=profiles, config=config, namespace=namespace)

    def delete(_pid: int, pod: str) -> None:
        cluster.request("DELETE", f"/api/v1/namespaces/{namespace}/pods/{pod}")

    words = "its pod was deleted on node1, not by the hub"
    return BackendHub(
        *(hub, "kubernetes", "alice", homes / "alice"), delete, words, identities=identities
    )
