"""A person's identity in a pod, by the real kubelet, where Pod Security `restricted` is enforced."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qhub_spawner.kubernetes.manifest import path_part
from tests.systems.kubernetes_hub import RESTRICTED, KubernetesHub, offer_folder

LAB, ARCHIVE, SECRETS, ODD = 22001, 22002, 22003, 22004
ODD_NAME = "Größe & co: a/b"  # of one group: the slash is a subgroup's
FOLDERS = {
    "physics/lab": (LAB, 0o2770),
    "archive": (ARCHIVE, 0o2770),
    "secrets": (SECRETS, 0o2770),
    "/".join(path_part(part) for part in ODD_NAME.split("/")): (ODD, 0o2770),
}
GROUPS = {
    LAB: {"path": "/physics/lab", "name": "lab", "gid": LAB},
    ARCHIVE: {"path": "/archive", "name": "archive", "gid": ARCHIVE},
    SECRETS: {"path": "/secrets", "name": "secrets", "gid": SECRETS},
    ODD: {"path": f"/{ODD_NAME}", "name": "odd name:x", "gid": ODD},
}
PROFILES = """
c.QHubSpawner.profiles = [
    {"slug": "small", "display_name": "Small", "cpu": 1, "memory": "600 MiB", "kubernetes": {
        "cpu_request": "10m", "memory_request": "64 MiB",
        "volumes": {"everything": {"persistentVolumeClaim": {"claimName": "shared"}}},
        "mounts": {"/everything": {"name": "everything"}}}},
]
c.KubernetesBackend.home_volume = {"persistentVolumeClaim": {"claimName": "homes"}}
c.KubernetesBackend.shared_volume = {"persistentVolumeClaim": {"claimName": "shared"}}
"""


def identity(name: str, uid: int, gids: list[int], **access: int) -> dict[str, Any]:
    """What an authenticator hands over; `access` is a folder's gid by the kind of access."""
    groups = [{**GROUPS[gid], "access": kind[:2]} for kind, gid in access.items()]
    home = f"/home/{name}"
    return {"version": 1, "uid": uid, "gid": uid, "gids": gids, "home": home, "groups": groups}


IDENTITIES = {
    "alice": identity("alice", 12001, [ARCHIVE], rw=LAB, ro=ARCHIVE, rw_odd=ODD),
    "bob": identity("bob", 12002, [12002, LAB], rw=LAB, rw_secrets=SECRETS),
}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Homes and shared folders, as a file server holds them."""
    made = Path(tempfile.mkdtemp(prefix="qhub-identity-"))
    made.chmod(0o755)
    for name, known in IDENTITIES.items():
        home = made / "homes" / name
        home.mkdir(parents=True)
        os.chown(home, known["uid"], known["gid"])
        home.chmod(0o700)
    for path, (gid, mode) in FOLDERS.items():
        shared = made / "shared" / path
        shared.mkdir(parents=True)
        os.chown(shared, 0, gid)
        shared.chmod(mode)
    (made / "shared" / "archive" / "known").write_text("for readers\n")
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def hub(kubernetes: Any, user_bin: Path, folder: Path) -> Iterator[Any]:
    """A hub with both people's servers up."""
    namespace = kubernetes.make_namespace(labels=RESTRICTED)
    for name in ("homes", "shared"):
        offer_folder(kubernetes, namespace, name, folder / name)
    made = KubernetesHub(kubernetes, profiles=PROFILES, namespace=namespace)
    with made:
        for name, known in IDENTITIES.items():
            made.add_user(name)
            made.set_identity(name, known)
            assert made.start_server(name, {"profile": "small"}).status in {201, 202}
        for name in IDENTITIES:
            made.wait_ready(name)
        yield made
    made.tidy()


async def run(hub: Any, name: str, code: str) -> Any:
    """What `code` leaves in `seen`, run by a kernel of a person's server."""
    lines = f"""
import errno, json, os, pathlib, pwd, grp, subprocess
from pathlib import Path
def attempt(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
{code}
print(json.dumps(seen))
"""
    return json.loads(await hub.run_code(name, lines))


async def test_numbers_and_names(hub: Any) -> None:
    """uid, gid and all groups are the identity's, by number and by name, and no others."""
    code = """
seen = {"id": subprocess.check_output(["id"], text=True).strip(),
        "ids": [*os.getresuid(), *os.getresgid()], "groups": sorted(os.getgroups()),
        "name": pwd.getpwuid(os.getuid()).pw_name, "home": pwd.getpwnam("alice").pw_dir,
        "group": grp.getgrnam("lab").gr_gid}
"""
    seen = await run(hub, "alice", code)
    assert seen["id"] == (
        "uid=12001(alice) gid=12001(alice) "
        "groups=12001(alice),22001(lab),22002(archive),22004(odd_name_x)"
    )
    assert seen["ids"] == [12001] * 6
    assert seen["groups"] == [12001, LAB, ARCHIVE, ODD]
    assert (seen["name"], seen["home"], seen["group"]) == ("alice", "/home/alice", LAB)
    seen = await run(hub, "bob", 'seen = subprocess.check_output(["id"], text=True).strip()')
    assert seen == "uid=12002(bob) gid=12002(bob) groups=12002(bob),22001(lab),22003(secrets)"


async def test_home(hub: Any, folder: Path) -> None:
    """The server stands in its person's own home, which is on the volume and theirs alone."""
    code = """
seen = {"cwd": os.getcwd(), "HOME": os.environ["HOME"], "USER": os.environ["USER"],
        "written": Path("~/note").expanduser().write_text("mine"),
        "others": sorted(each.name for each in Path("/home").iterdir())}
"""
    seen = await run(hub, "alice", code)
    assert seen["cwd"] == seen["HOME"] == "/home/alice"
    assert seen["USER"] == "alice"
    assert seen["others"] == ["alice"]
    note = (folder / "homes" / "alice" / "note").stat()
    assert (note.st_uid, note.st_gid) == (12001, 12001)


async def test_what_is_made_in_a_shared_folder_is_the_groups(hub: Any, folder: Path) -> None:
    """A file and a folder carry the group and are group-writable; another member goes on in them."""
    code = """
made = Path("/shared/physics/lab/made")
made.write_text("alice")
(made.parent / "folder").mkdir()
os.umask(mask := os.umask(0))
seen = mask
"""
    assert await run(hub, "alice", code) == 0o002
    made, inside = (folder / "shared/physics/lab" / name for name in ("made", "folder"))
    assert (made.stat().st_uid, made.stat().st_gid) == (12001, LAB)
    assert stat.S_IMODE(made.stat().st_mode) == 0o664
    assert inside.stat().st_gid == LAB
    assert stat.S_IMODE(inside.stat().st_mode) == 0o2775
    code = """
with Path("/shared/physics/lab/made").open("a") as file:
    file.write(" and bob")
seen = attempt(lambda: Path("/shared/physics/lab/folder/his").write_text("bob"))
"""
    assert await run(hub, "bob", code) == "done"
    assert made.read_text() == "alice and bob"
    assert (inside / "his").stat().st_gid == LAB


async def test_reader_cannot_write(hub: Any) -> None:
    """Who may only read a folder reads it, and writes nothing there, whatever its mode says."""
    code = """
shared = Path("/shared/archive")
seen = [(shared / "known").read_text(), attempt(lambda: (shared / "new").write_text("x")),
        attempt(lambda: (shared / "known").unlink())]
"""
    assert await run(hub, "alice", code) == ["for readers\n", "EROFS", "EROFS"]


async def test_other_groups_cannot_read(hub: Any) -> None:
    """The folder of a group one is not in is not mounted; where it is in view, it is refused."""
    code = """
seen = [sorted(each.name for each in Path("/shared").iterdir()),
        attempt(lambda: os.listdir("/everything/secrets")),
        attempt(lambda: Path("/everything/secrets/new").write_text("x"))]
"""
    shared, *refused = await run(hub, "alice", code)
    assert shared == sorted(["physics", "archive", path_part("Größe & co: a")])
    assert refused == ["EACCES", "EACCES"]
    code = 'seen = attempt(lambda: Path("/shared/secrets/ours").write_text("x"))'
    assert await run(hub, "bob", code) == "done"


async def test_folder_of_a_group_with_an_odd_name(hub: Any, folder: Path) -> None:
    """Its name is safe in paths, reversible, and the same on the volume and in the pod."""
    path = "/".join(path_part(part) for part in ODD_NAME.split("/"))
    code = f'seen = attempt(lambda: Path("/shared/{path}/new").write_text("x"))'
    assert await run(hub, "alice", code) == "done"
    assert (folder / "shared" / path / "new").stat().st_gid == ODD


async def test_nothing_more_than_restricted(hub: Any) -> None:
    """No capability, no way to more, a system-call filter, no token of the cluster, no root."""
    code = """
lines = Path("/proc/self/status").read_text().splitlines()
seen = {line.split(":")[0]: line.split()[1] for line in lines if ":" in line and line.split()[1:]}
seen = {name: seen[name] for name in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")}
seen["token"] = Path("/var/run/secrets/kubernetes.io").exists()
"""
    seen = await run(hub, "alice", code)
    none = "0" * 16
    assert seen == {
        "CapEff": none, "CapBnd": none, "NoNewPrivs": "1", "Seccomp": "2", "token": False,
    }  # fmt: skip
    namespace = hub.cluster.request("GET", f"/api/v1/namespaces/{hub.namespace}")
    assert namespace["metadata"]["labels"].items() >= RESTRICTED.items()
    for pod in hub.pods().values():
        spec = pod["spec"]
        assert "initContainers" not in spec
        assert not any(each.get("lifecycle") for each in spec["containers"])
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] in {12001, 12002}


@pytest.mark.parametrize(
    "wrong",
    [
        {"uid": 0},
        {"gid": 0},
        {"gids": [0]},
        {"home": "/home/../etc"},
        {"version": 2},
        {"groups": [{**GROUPS[LAB], "gid": 0, "access": "rw"}]},
    ],
    ids=str,
)
def test_unusable_identity_starts_nothing(hub: Any, wrong: dict[str, Any]) -> None:
    """Root's numbers, or what is not understood: the person is told, and no pod is made."""
    hub.add_user("carol")
    hub.set_identity("carol", {**identity("carol", 12003, []), **wrong})
    before = set(hub.pods())
    answer = hub.start_server("carol", {"profile": "small"})
    assert answer.status == 500
    assert "account's numbers and groups are not usable" in answer.json["message"]
    assert set(hub.pods()) == before
