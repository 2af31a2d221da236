"""On Kubernetes secrets stand in the pod's own environment, and nowhere else.

A secret in ``c.Spawner.environment``, one in a profile and the server's own token are looked for
while servers start, run, fail and stop. The last test plants a secret in each place that is looked
at, and the same search finds it in every one.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from qhub_spawner.kubernetes.merging import server_container
from tests.integration.leaks import ProcessList, files_with, texts_with
from tests.systems import stand_in
from tests.systems.kubernetes_hub import RESTRICTED, KubernetesHub, offer_folder
from tests.systems.processes import wait_until

CONFIG = """
c.QHubSpawner.profiles = "{folder}/profiles.json"
c.Spawner.cmd = ["python3", "-I", "{folder}/stand_in.py"]
c.Spawner.environment = {{"CANARY": "{secret}"}}
c.KubeSpawner.volumes = [{{"name": "canary", "persistentVolumeClaim": {{"claimName": "canary"}}}}]
c.KubeSpawner.volume_mounts = [{{"name": "canary", "mountPath": "{folder}"}}]
c.KubernetesBackend.stuck_patience = 1
c.QHubSpawner.stop_grace = 1
c.JupyterHub.tornado_settings = {{"slow_spawn_timeout": 0.1, "slow_stop_timeout": 0.1}}
"""
KINDS = ["pods", "events", "configmaps", "secrets", "services", "persistentvolumeclaims"]
PATHS = ["users", "users/alice", "users/alice/qhub/profiles", "users/alice/server/progress"]
SHOW = "import sys; from qhub_spawner.commands import main; sys.exit(main(sys.argv[1:]))"


def profiles(secret: str) -> list[dict[str, Any]]:
    """Return profiles that hold a secret: one that starts, and three that fail in their own ways."""

    def profile(slug: str, **kubernetes: Any) -> dict[str, Any]:
        block = {"cpu_request": "1m", "memory_request": "16 MiB", **kubernetes}
        return {
            "slug": slug,
            "display_name": slug,
            "memory": "64 MiB",
            "environment": {"variables": {"SECOND": secret}},
            "kubernetes": block,
        }

    return [
        profile("works"),
        profile("refused", container={"ports": [{"containerPort": 99999}]}),
        profile("imageless", image="qhub.test/none:1", image_pull_policy="IfNotPresent"),
        profile("crashes", container={"command": ["/bin/sh", "-c", "exit 3"], "args": []}),
    ]


class Search:
    """Looks for secrets wherever they must not be."""

    def __init__(self, hub: KubernetesHub, folder: Path) -> None:
        """Look at what changes from now on."""
        self.hub = hub
        self.since = time.time() - 1
        self.processes = ProcessList(folder)
        self.folders = [str(folder), str(hub.cluster.run_folder), "/tmp", "/home", "/var/tmp"]
        self.folders += ["/var/log", "/dev/shm", "/run"]

    def places(self, needles: Sequence[str]) -> set[str]:
        """Return where one of `needles` stands."""
        request, namespace = self.hub.cluster.request, self.hub.namespace
        texts: dict[str, str | bytes] = {
            "hub's log": self.hub.log.read_bytes(),
            "proxy's log": (self.hub.folder / "proxy.log").read_bytes(),
            "hub's database": (self.hub.folder / "jupyterhub.sqlite").read_bytes(),
        }
        for kind in KINDS:
            items = request("GET", f"/api/v1/namespaces/{namespace}/{kind}")["items"]
            for item in items if kind == "pods" else ():
                for each in item["spec"]["containers"]:
                    each.pop("env", None)  # where they belong
            texts[kind] = json.dumps(items)
        token = self.hub.user_token("bob")
        for path in PATHS:
            texts[f"{path} for bob"] = self.hub.api("GET", path, token=token).text
            if "progress" not in path:  # which waits for more
                texts[f"{path} for an administrator"] = self.hub.api("GET", path).text
        logs = [path for path in self.hub.cluster.run_folder.rglob("*.log") if path.is_file()]
        texts["cluster's logs"] = b"".join(path.read_bytes() for path in logs)
        found = texts_with(needles, texts)
        files = files_with(needles, self.folders, self.since, "bob")
        return found | {f"file {path}" for path in files}


@pytest.fixture
def folder(canary: str) -> Iterator[Path]:
    """What is mounted into every pod; the profiles stand there for the hub alone."""
    made = Path(tempfile.mkdtemp(prefix="qhub-canary-"))
    made.chmod(0o755)
    shutil.copy(Path(stand_in.__file__), made / "stand_in.py")
    (made / "stand_in.py").chmod(0o644)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def second() -> str:
    """The secret of the profiles."""
    return f"second-{time.monotonic_ns():x}"


@pytest.fixture
def hub(kubernetes: Any, user_bin: Path, folder: Path, canary: str, second: str) -> Iterator[Any]:
    """A hub that logs everything, with secrets to give."""
    namespace = kubernetes.make_namespace(labels=RESTRICTED)
    offer_folder(kubernetes, namespace, "canary", folder)
    file = folder / "profiles.json"
    file.write_text(json.dumps(profiles(second)))
    lines = CONFIG.format(folder=folder, secret=canary)
    made = KubernetesHub(kubernetes, profiles=lines, namespace=namespace, log_level="DEBUG")
    account = made.folder.stat()
    os.chown(file, account.st_uid, account.st_gid)
    file.chmod(0o600)
    with made:
        for name in ("alice", "bob"):
            made.add_user(name)
        yield made
    made.tidy()


def token_of(hub: KubernetesHub) -> str:
    """Return the token that a server has, as the pod's own environment says."""
    (pod,) = hub.pods().values()
    values = {each["name"]: each.get("value") for each in server_container(pod)["env"]}
    return str(values["JUPYTERHUB_API_TOKEN"])


def test_secrets_stand_nowhere_else(hub: Any, folder: Path, canary: str, second: str) -> None:
    """While a server starts, runs and stops, and while others fail, no secret is to be found."""
    search = Search(hub, folder)
    with search.processes:
        assert hub.start_server("alice", {"profile": "works"}).status in {201, 202}
        wait_until(hub.pods, 30, "the pod")
        needles = [canary, second, token_of(hub)]
        (pod,) = hub.pods().values()
        own = json.dumps(server_container(pod)["env"])
        assert all(needle in own for needle in needles)
        assert search.places(needles) == set()
        hub.wait_ready("alice")
        assert search.places(needles) == set()
        hub.stop_server("alice")
        hub.wait_stopped("alice")
        assert search.places(needles) == set()
        for slug in ("refused", "imageless", "crashes"):
            answer = hub.start_server("alice", {"profile": slug})
            assert not [needle for needle in needles if needle in answer.text]
            hub.wait_stopped("alice")
            assert "last_failed" in (hub.server("alice") or {}).get("state", {}), slug
            assert search.places(needles) == set()
    assert search.processes.lines_with(needles) == []
    assert b"stand_in.py" in search.processes.seen
    assert "is refused" in hub.log.read_text()


def test_show_masks(hub: Any, folder: Path, canary: str, second: str) -> None:
    """What would be submitted is shown to its administrator without any value that may be secret."""
    config = str(hub.folder / "jupyterhub_config.py")
    asked = [str(folder / "profiles.json"), "works", "--user", "alice", "--config", config]
    shown = hub.run(["python", "-c", SHOW, "show", *asked])
    assert "(not shown)" in shown
    for name in ("CANARY", "SECOND", "JUPYTERHUB_API_TOKEN"):
        assert name in shown
    assert not [each for each in (canary, second, hub.token) if each in shown]


def test_the_search_finds_what_is_there(hub: Any, folder: Path, canary: str) -> None:
    """The same search finds a secret that is planted in each of those places."""
    search, request = Search(hub, folder), hub.cluster.request
    core = f"/api/v1/namespaces/{hub.namespace}"
    with search.processes:
        (folder / "left").write_text(canary)
        noted = {"name": "planted", "annotations": {"planted": canary}}
        request("POST", f"{core}/configmaps", {"metadata": noted})
        request("POST", f"{core}/pods", {"metadata": {"name": "planted"}, "spec": planted(canary)})
        hub.api("GET", f"users/{canary}")
        hub.add_user("bob")
        hub.api("POST", "users/bob/tokens", {"note": canary})
        expected = {
            *("pods", "events", "configmaps", "hub's log", "hub's database", "cluster's logs"),
            f"file {folder / 'left'}",
        }
        found: set[str] = set()
        deadline = time.monotonic() + 30
        while not found >= expected and time.monotonic() < deadline:  # the kubelet comes late
            found |= search.places([canary])
    assert found >= expected


def planted(secret: str) -> dict[str, Any]:
    """Return the spec of a pod whose image cannot be had: the kubelet says its name everywhere."""
    context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return {
        "containers": [
            {"name": "notebook", "image": f"qhub.test/{secret}:1", "securityContext": context}
        ],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
