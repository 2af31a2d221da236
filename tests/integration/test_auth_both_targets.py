"""The same people in Slurm jobs and in pods: their numbers, and the folders they share."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.__main__ import STAGES
from demo.check import log_in
from demo.keycloak import keycloak_stage
from demo.visitor import Visitor
from tests.conftest import missing
from tests.systems.processes import SystemUnavailableError, wait_until

JOB, POD = "general", "container"
SEEN = """
import grp, json, os, pwd, stat
from pathlib import Path

def attempt(work):
    try:
        return work()
    except OSError as error:
        return type(error).__name__

team = Path("{shared}/physics/team-a")
{code}
print(json.dumps(seen))
"""
WHO = """
seen = {"uid": os.getuid(), "gid": os.getgid(), "groups": sorted(os.getgroups()),
        "name": pwd.getpwuid(os.getuid()).pw_name, "home": str(Path.home()),
        "job": "SLURM_JOB_ID" in os.environ}
"""


@pytest.fixture(scope="module")
def stage() -> Iterator[Any]:
    """Keycloak, Slurm, Kubernetes and one hub, as the demo brings them up; alice, bob and others came in."""
    if os.geteuid() != 0:
        missing("Slurm and Kubernetes", SystemUnavailableError("they need root"))
    held_back = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        with keycloak_stage(None, "both", STAGES["both"]) as stage:
            for name in ("alice", "bob", "carol", "dave"):
                log_in(Visitor(), stage.hub.url, name, stage.password)
            yield stage
    except SystemUnavailableError as error:
        missing("Keycloak with Slurm and Kubernetes", error)
    finally:
        # a demo that ends lets no signal disturb it, and what it starts then inherits that
        signal.pthread_sigmask(signal.SIG_SETMASK, held_back)


@pytest.fixture(scope="module")
def shared(stage: Any) -> Path:
    """Where the shared folders are: on this machine, in jobs and in pods alike."""
    return Path(stage.entrance.places["shared"])


async def run(stage: Any, name: str, profile: str, code: str) -> Any:
    """Run code as somebody, in a server of theirs with that profile, which is started if need be."""
    hub = stage.hub
    if not (hub.server(name, profile) or {}).get("ready"):
        answer = hub.start_server(name, {"profile": profile}, profile)
        assert answer.status in {201, 202}, answer.text
        hub.wait_ready(name, profile)
    text = SEEN.replace("{shared}", str(stage.entrance.places["shared"])).replace("{code}", code)
    return json.loads((await hub.run_code(name, text, profile)).splitlines()[-1])


@pytest.fixture(scope="module")
async def team(stage: Any, shared: Path) -> Path:
    """The folder of alice's team, which is made when she starts a server."""
    code = '(team / "from-alice").write_text("alice in a job"); seen = "done"'
    assert await run(stage, "alice", JOB, code) == "done"
    return shared / "physics" / "team-a"


@pytest.mark.parametrize("name", ["alice", "carol"])
async def test_one_person_is_the_same_in_a_job_and_in_a_pod(stage: Any, name: str) -> None:
    """uid, primary group, all other groups, name and home are the same numbers and words."""
    job, pod = await run(stage, name, JOB, WHO), await run(stage, name, POD, WHO)
    assert (job.pop("job"), pod.pop("job")) == (True, False)
    assert job == pod
    assert job["name"] == name
    identity = stage.hub.api("GET", f"users/{name}").json["auth_state"]["qhub"]
    assert (job["uid"], job["gid"], job["home"]) == (
        identity["uid"],
        identity["gid"],
        identity["home"],
    )
    assert set(identity["gids"]) <= set(job["groups"]) | {job["gid"]}


async def test_a_team_works_in_one_folder_from_both(stage: Any, team: Path) -> None:
    """alice in a job and bob in a pod write into their group's folder, and read and go on in each other's files."""
    code = """
(team / "from-bob").write_text("bob in a pod")
with (team / "from-alice").open("a") as file:
    file.write(", and bob")
seen = (team / "from-alice").read_text()
"""
    assert (await run(stage, "bob", POD, code)).startswith("alice in a job, and bob")
    code = """
with (team / "from-bob").open("a") as file:
    file.write(", and alice")
seen = (team / "from-bob").read_text()
"""
    assert await run(stage, "alice", JOB, code) == "bob in a pod, and alice"
    identity = stage.hub.api("GET", "users/alice").json["auth_state"]["qhub"]
    (known,) = [each for each in identity["groups"] if each["path"] == "/physics/team-a"]
    for name in ("from-alice", "from-bob"):
        status = (team / name).stat()
        assert status.st_gid == known["gid"] == 7001
        assert stat.S_IMODE(status.st_mode) & 0o060 == 0o060


@pytest.mark.parametrize("profile", [JOB, POD])
async def test_a_reader_reads_and_cannot_write(stage: Any, team: Path, profile: str) -> None:
    """carol, whose group may only read, reads what the team has written and changes nothing, on either target."""
    (team / "known").write_text("the team's")
    code = """
seen = [attempt((team / "known").read_text), attempt(lambda: (team / "new").write_text("x")),
        attempt(lambda: (team / "known").write_text("x")), attempt((team / "known").unlink)]
"""
    text, *refused = await run(stage, "carol", profile, code)
    assert text == "the team's"
    assert set(refused) <= {"PermissionError", "OSError"}, refused
    assert (team / "known").read_text() == "the team's"


@pytest.mark.parametrize("profile", [JOB, POD])
@pytest.mark.usefixtures("team")
async def test_who_is_not_in_the_team_cannot_see(stage: Any, profile: str) -> None:
    """dave, of the group above, has that group's folder, and nothing of the team's."""
    code = """
seen = [attempt(lambda: (team.parent / "from-dave").write_text("dave") > 0),
        attempt(lambda: os.listdir(team)), attempt((team / "from-alice").read_text),
        attempt(lambda: (team / "new").write_text("x")),
        attempt(lambda: team.rename(team.parent / "mine"))]
"""
    own, *refused = await run(stage, "dave", profile, code)
    assert own is True
    assert set(refused) <= {"PermissionError", "OSError"}, refused


async def test_a_group_that_is_left_is_gone_at_once(stage: Any) -> None:
    """Taken out of the group in Keycloak, bob loses group, share and profile within seconds, and does nothing for it."""
    hub, admin = stage.hub, stage.entrance.realm.admin

    def now() -> tuple[set[str], set[str], set[str]]:
        user = hub.api("GET", "users/bob").json
        offered = hub.api("GET", "users/bob/qhub/profiles").json["profiles"]
        shares = {each["path"] for each in user["auth_state"]["qhub"]["groups"]}
        return set(user["groups"]), shares, {each["slug"] for each in offered}

    groups, shares, profiles = now()
    assert "/physics/team-a" in groups & shares
    assert "gpu" in profiles
    admin.remove_member("bob", "/physics/team-a")
    try:
        wait_until(lambda: "/physics" not in now()[0], 60, "the group gone from the hub")
        groups, shares, profiles = now()
        assert not {each for each in groups | shares if each.startswith("/physics")}
        assert "gpu" not in profiles
    finally:
        admin.add_member("bob", "/physics/team-a")
    wait_until(lambda: "/physics/team-a" in now()[0], 60, "the group back at the hub")
