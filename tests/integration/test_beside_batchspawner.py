"""The README's table beside stock SlurmSpawner: both on one real Slurm, in the same minutes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.systems.processes import wait_until

TOKEN = "import os; print(os.environ['JUPYTERHUB_API_TOKEN'])"
FAST = "c.Spawner.poll_interval = 1\n"
INJECTED = "general\n#SBATCH --comment=injected"


@pytest.fixture
def stock_on(slurm: Any, tmp_path: Path) -> Iterator[Any]:
    """Make hubs with batchspawner 1.3 as it comes; `query` is what it runs to ask for a job."""
    from benchmarks.rivals import StockHub

    hubs: list[Any] = []

    def make(config: str = "") -> Any:
        hub = StockHub(slurm, config=FAST + config)
        hubs.append(hub)
        hub.start()
        hub.add_user("alice")
        return hub

    yield make
    for hub in hubs:
        hub.stop()
    slurm.run(["scancel", "--user=alice"])


def jobs_of(slurm: Any, user: str = "alice") -> dict[int, tuple[str, str]]:
    """State and comment of all live jobs of a person."""
    out = slurm.run(["squeue", "-h", "-u", user, "-o", "%A|%T|%k"]).stdout
    rows = [line.split("|", 2) for line in out.splitlines()]
    return {int(job): (state, comment) for job, state, comment in rows}


def started(hub: Any, choice: object = None) -> None:
    """Start alice's server and wait until it is ready.

    Stock gives up some starts by itself where the machine is busy, with a 500: those are repeated.
    """
    answer = wait_until(
        lambda: (
            (said := hub.start_server("alice", choice or {})).status in {201, 202, 400} and said
        ),
        120,
        "a start",
        poll_seconds=2,
    )
    assert answer.status in {201, 202}, answer.text
    hub.wait_ready("alice")


def ready(hub: Any) -> bool:
    """Whether the hub still holds alice's server as running."""
    return bool((hub.server("alice") or {}).get("ready"))


def stays_ready(hub: Any, looks: int = 12) -> None:
    """Look at the server once a second, while the hub polls it as often: it never goes."""
    left = iter(range(looks))

    def seen_often_enough() -> bool:
        assert ready(hub)
        return next(left, None) is None

    wait_until(seen_often_enough, 10 * looks, poll_seconds=1)


def only_job(slurm: Any) -> int:
    """The one live job of alice."""
    (job,) = jobs_of(slurm)
    return job


def test_a_suspended_job(stock_on: Any, hub_on: Any, slurm: Any) -> None:
    """Stock gives the server up, and its job runs on as nobody's; ours waits for it."""
    hub = stock_on()
    started(hub)
    job = only_job(slurm)
    slurm.run(["scontrol", "suspend", str(job)])
    wait_until(lambda: not ready(hub), 60, "stock gives the server up", poll_seconds=0.5)
    slurm.run(["scontrol", "resume", str(job)])
    wait_until(lambda: jobs_of(slurm)[job][0] == "RUNNING", 20, "the job runs again")
    slurm.run(["scancel", str(job)])

    wait_until(lambda: not jobs_of(slurm), 30, "the end of stock's job")
    hub = hub_on(config=FAST + "c.SlurmBackend.poll_rest = 3\n")
    started(hub)
    job = only_job(slurm)
    slurm.run(["scontrol", "suspend", str(job)])
    stays_ready(hub)
    slurm.run(["scontrol", "resume", str(job)])
    assert ready(hub)
    assert only_job(slurm) == job


def test_an_answer_that_makes_no_sense(
    stock_on: Any, hub_on: Any, slurm: Any, tmp_path: Path
) -> None:
    """When squeue prints garbage, stock gives the server up; to ours it means nothing."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == 0 and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    broken = tmp_path / "broken"
    squeue = tmp_path / "squeue"
    squeue.write_text(
        f'#!/bin/sh\n[ -e {broken} ] && {{ echo "%%&!"; exit 0; }}\nexec /usr/bin/squeue "$@"\n'
    )
    squeue.chmod(0o755)
    query = f"{squeue} -h -j {{job_id}} -o '%T %B'"
    hub = stock_on(f"c.SlurmSpawner.batch_query_cmd = {query!r}\n")
    hub.sudo_rule.write_text(hub.sudo_rule.read_text().rstrip() + f", {squeue}\n")
    started(hub)
    job = only_job(slurm)
    broken.touch()
    wait_until(lambda: not ready(hub), 60, "stock gives the server up", poll_seconds=0.5)
    assert jobs_of(slurm)[job][0] == "RUNNING"
    broken.unlink()
    slurm.run(["scancel", str(job)])

    wait_until(lambda: not jobs_of(slurm), 30, "the end of stock's job")
    for name in ("sinfo", "sacct", "sacctmgr", "scontrol", "sbatch", "scancel"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    hub = hub_on(config=FAST + "c.SlurmBackend.poll_rest = 3\n", slurm_bin=str(tmp_path))
    started(hub)
    job = only_job(slurm)
    broken.touch()
    said = "Slurm's queue is unknown (failure 1)"
    wait_until(lambda: said in hub.log.read_text(), 60, said, poll_seconds=0.5)
    stays_ready(hub)
    broken.unlink()
    assert jobs_of(slurm)[job][0] == "RUNNING"


def test_what_a_script_sends(stock_on: Any, hub_on: Any, slurm: Any) -> None:
    """A line of a person's own enters stock's job; ours answers 400 and submits nothing."""
    hub = stock_on()
    started(hub, {"partition": INJECTED})
    assert jobs_of(slurm)[only_job(slurm)][1] == "injected"
    slurm.run(["scancel", "--user=alice"])
    wait_until(lambda: not jobs_of(slurm), 30, "the end of stock's job")

    hub = hub_on()
    for choice in ({"partition": INJECTED}, {"profile": INJECTED}):
        assert hub.start_server("alice", choice).status == 400
    assert jobs_of(slurm) == {}


async def test_the_log(stock_on: Any, hub_on: Any) -> None:
    """At level DEBUG stock's log has the server's token; ours never has."""
    debug = 'c.JupyterHub.log_level = "DEBUG"\n'
    hub = stock_on(debug)
    started(hub)
    token = (await hub.run_code("alice", TOKEN)).strip()
    assert token in hub.log.read_text()
    hub.stop_server("alice")
    hub = hub_on(config=debug)
    started(hub)
    token = (await hub.run_code("alice", TOKEN)).strip()
    assert len(token) >= 32
    assert token not in hub.log.read_text()
