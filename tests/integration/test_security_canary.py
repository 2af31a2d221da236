"""Secrets never stand in a process list, a log, Slurm's records, or a file that others can read.

A secret in ``c.Spawner.environment``, one in a profile and the server's own token are looked for
while a server starts, runs and stops. The last test plants a secret in each of those places, and
the same search finds it in every one.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.leaks import ProcessList, files_with, texts_with
from tests.systems import stand_in
from tests.systems.processes import wait_until

PROFILES = """
c.Spawner.cmd = ["/usr/bin/python3", "-I", "{program}"]
c.Spawner.environment = {{"CANARY": "{secret}"}}
c.QHubSpawner.stop_grace = 5
c.QHubSpawner.profiles = [
    {{"slug": "small", "display_name": "Small", "cpu": 1, "memory": "50 MiB", "walltime": "10m",
     "slurm": {{"partition": "general"}},
     "environment": {{"variables": {{"STAND_IN_HOLD": "{hold}", "SECOND": "{second}"}}}}}},
]
"""


class Search:
    """Looks for secrets wherever they must not be."""

    def __init__(self, slurm: Any, hub: Any) -> None:
        """Look at what changes from now on."""
        self.slurm = slurm
        self.hub = hub
        self.since = time.time() - 1
        self.processes = ProcessList(Path(slurm.run_folder))
        self.folders = [str(slurm.run_folder), "/tmp", "/home", "/var/tmp", "/var/log"]
        self.folders += ["/dev/shm", "/run"]

    def places(self, needles: Sequence[str], job_id: int) -> set[str]:
        """Return where one of `needles` stands."""
        run = self.slurm.run
        job = str(job_id)
        texts = {
            "scontrol show job": run(["scontrol", "-dd", "show", "job", job], check=False).stdout,
            "batch script": run(
                ["scontrol", "write", "batch_script", job, "-"], check=False
            ).stdout,
            "squeue": run(["squeue", "-a", "-t", "all", "-O", "ALL"], check=False).stdout
            + run(["squeue", "-a", "-t", "all", "-o", "%all"], check=False).stdout,
            "sacct": run(["sacct", "-P", "-o", "ALL", "-j", job]).stdout
            + run(["sacct", "-P", "-B", "-j", job], check=False).stdout
            + run(["sacct", "-P", "--env-vars", "-j", job], check=False).stdout,
            "accounting database": self._database(),
            "hub's log": self.hub.log.read_bytes() + (self.hub.folder / "proxy.log").read_bytes(),
            "Slurm's logs": b"".join(
                path.read_bytes()
                for path in [
                    *(self.slurm.run_folder / "log").rglob("*"),
                    self.slurm.run_folder / "munge" / "munged.log",
                ]
                if path.is_file()
            ),
        }
        found = texts_with(needles, texts)
        return found | {f"file {path}" for path in self.files(needles, "bob")}

    def files(self, needles: Sequence[str], person: str) -> list[str]:
        """Return the files that a person can read and that hold a secret."""
        return files_with(needles, self.folders, self.since, person)

    def _database(self) -> bytes:
        socket = self.slurm.run_folder / "db" / "mariadb.sock"
        dump = ["mysqldump", "--no-defaults", f"--socket={socket}", "--user=root"]
        dump += ["--all-databases", "--single-transaction", "--skip-lock-tables"]
        done = subprocess.run(dump, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert b"job_table" in done.stdout
        return done.stdout


def job_of(person: str, hub: Any) -> int:
    """Return the id of the job of a server, once the hub has it on record."""
    state = (hub.server(person) or {}).get("state") or {}
    return int((state.get("qhub") or {}).get("job_id") or 0)


def token_of(person: str, job_id: int) -> str:
    """Return the token that the server of a job has, from its process's environment (as root)."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"SLURM_JOB_ID={job_id}".encode() in variables:
            for each in variables:
                if each.startswith(b"JUPYTERHUB_API_TOKEN="):
                    return each.partition(b"=")[2].decode()
    return ""


@contextmanager
def watched(slurm: Any, hub: Any) -> Iterator[Search]:
    """Look at the process list within the block."""
    search = Search(slurm, hub)
    with search.processes:
        yield search


@pytest.fixture
def quiet_hub(
    slurm: Any, hub_on: Callable[..., Any], transport: str, canary: str
) -> tuple[Any, str, Path]:
    """A hub that logs everything, with secrets to give; the second of them, and what holds a server."""
    folder = Path(slurm.run_folder)
    program = folder / "stand_in.py"
    shutil.copy(Path(stand_in.__file__), program)
    program.chmod(0o755)
    second = f"canary-{secrets.token_hex(12)}"
    hold = folder / f"hold-{secrets.token_hex(4)}"
    profiles = PROFILES.format(program=program, secret=canary, second=second, hold=hold)
    hub = hub_on(transport=transport, profiles=profiles, log_level="DEBUG")
    return hub, second, hold


def test_secrets_stand_nowhere(
    slurm: Any, quiet_hub: tuple[Any, str, Path], transport: str, canary: str
) -> None:
    """While a server starts, runs and stops, no secret of its environment is to be found."""
    hub, second, hold = quiet_hub
    hold.touch()
    with watched(slurm, hub) as search:
        answer = hub.start_server("alice", {})
        assert answer.status in {201, 202}, answer.text
        job_id = wait_until(lambda: job_of("alice", hub), 30, "the job")
        token = wait_until(
            lambda: token_of("alice", job_id), 60, "the server in the job", poll_seconds=0.2
        )
        needles = [canary, second, token]
        assert search.places(needles, job_id) == set()
        hold.unlink()
        hub.wait_ready("alice")
        assert search.places(needles, job_id) == set()
        shown = hub.api("GET", "users/alice?include_stopped_servers=1").text
        shown += hub.api("GET", "users/alice/qhub/profiles").text
        with urllib.request.urlopen(f"{hub.url}user/alice/", timeout=10) as page:
            assert json.loads(page.read())["job"] == job_id
        hub.stop_server("alice")
        hub.wait_stopped("alice")
        wait_until(lambda: slurm.accounted(job_id), 20, "the end in accounting")
        assert search.places(needles, job_id) == set()
    assert not [needle for needle in needles if needle in shown]
    # the watch is quick enough to see the commands that could have told
    if transport == "command-line":
        assert search.processes.ran("sbatch")
        assert search.processes.ran(hub.door.name)


def test_the_search_finds_what_is_there(
    slurm: Any, hub_on: Callable[..., Any], canary: str, tmp_path: Path
) -> None:
    """The same search finds a secret that is planted in each of those places."""
    hub = hub_on(log_level="DEBUG")
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    left = tmp_path / "left"
    with watched(slurm, hub) as search:
        left.write_text(f"TOKEN={canary}\n")
        script = f"# {canary}\necho {canary} > $HOME/kept; chmod 600 $HOME/kept; sleep 30\n"
        job_id = slurm.sbatch("alice", script, f"--comment={canary}", "--mem=50M")
        hub.api("GET", f"users/{canary}")
        refused = slurm.run(["sbatch", f"--partition={canary}", "--wrap=id"], "alice", check=False)
        assert refused.returncode
        expected = {
            *("scontrol show job", "batch script", "squeue", "sacct", "accounting database"),
            *("hub's log", "Slurm's logs", f"file {left}"),
        }
        found: set[str] = set()
        deadline = time.monotonic() + 30
        while not found >= expected and time.monotonic() < deadline:  # accounting comes late
            found = search.places([canary], job_id)
        assert found >= expected
        assert search.files([canary], "alice").count("/home/alice/kept") == 1
        # what alice keeps for herself is not what others can read
        assert not [place for place in found if place.startswith("file /home/alice")]
        slurm.run(["scancel", str(job_id)])
    assert search.processes.lines_with([canary])
    Path("/home/alice/kept").unlink()
