"""Dask clusters on the real Slurm, from the stock client of dask-gateway.

One gateway for each transport serves every test. What happens without one is in the drills.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.systems.dask_client import StayingClient, run_client
from tests.systems.gateway import GatewaySystem
from tests.systems.processes import wait_until
from tests.systems.userenv import dask_environment

pytestmark = pytest.mark.timeout(600)

SECONDS = 180.0
NEW = """
cluster = client.new_cluster(shutdown_on_close=False, **values.get("options", {}))
cluster.scale(values["workers"])
dask = cluster.get_client(set_as_default=False)
dask.wait_for_workers(min(values["workers"], values.get("wait_for", 1000)), timeout=180)
assert sum(dask.gather(dask.map(lambda x: x * x, range(20)))) == 2470
answer = cluster.name
"""
AGAIN = """
cluster = client.connect(values["name"], shutdown_on_close=False)
dask = cluster.get_client(set_as_default=False)
if "workers" in values:
    cluster.scale(values["workers"])
    dask.wait_for_workers(values["workers"], timeout=180)
answer = dask.submit(sum, [1, 2, 3]).result(timeout=60)
"""
STOP = 'client.stop_cluster(values["name"])'
# a cluster whose workers last two minutes, and the time of day as something that only one has
LASTING = """
cluster = client.new_cluster(profile="lasting", shutdown_on_close=False)
cluster.scale(1)
dask = cluster.get_client(set_as_default=False)
dask.wait_for_workers(1, timeout=180)
kept = dask.submit(time.time, pure=False)
workers = lambda: {each["name"] for each in dask.scheduler_info()["workers"].values()}
first, moment = workers(), kept.result(timeout=60)
answer = cluster.name
"""
REPLACED = """
deadline = time.monotonic() + values["seconds"]
while (workers() == first or len(workers()) != 1) and time.monotonic() < deadline:
    time.sleep(0.5)
assert len(workers()) == 1 and workers() != first, workers()
answer = kept.result(timeout=60) == moment
"""
ADAPTIVE = """
with client.new_cluster() as other:
    names = [other.name]
cluster = client.new_cluster(idle_timeout="20 s", shutdown_on_close=False)
names.append(cluster.name)
cluster.adapt(minimum=0, maximum=2)
dask = cluster.get_client(set_as_default=False)
most, left = 0, dask.map(lambda x: time.sleep(1) or x, range(20))
while not all(each.done() for each in left):
    most = max(most, len(dask.scheduler_info()["workers"]))
    time.sleep(0.2)
answer = [names, sum(dask.gather(left)), most]
"""
NODES = """
import subprocess
cluster = client.new_cluster(profile="wide", shutdown_on_close=False)
cluster.scale(1)
dask = cluster.get_client(set_as_default=False)
def nodes():
    argv = ["srun", "--overlap", "--ntasks=2", "--nodes=2", "printenv", "SLURMD_NODENAME"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    return done.stdout.split(), done.stderr
answer = [cluster.name, *dask.submit(nodes).result(timeout=180)]
"""
SITE = """
site = Site.model_validate({
    "profiles": {
        "lasting": {
            "replace_before": "1 min",
            "scheduler_walltime": "1h",
            "scheduler_slurm": {"partition": "gpu", "qos": "gpu"},
            "scheduler_memory": "200 MiB",
        },
        "humble": {
            "scheduler_slurm": {"partition": "gpu", "qos": "gpu"},
            "scheduler_memory": "200 MiB",
        },
    },
})


def options_of(user):
    return ProfileOptions(catalogue, Owner(name=user.name), site=site)


c.QHubGatewayBackend.cluster_options = options_of
c.QHubGatewayBackend.check_timeouts_period = 2
# a machine that does other things at the same time must not look like a cluster that is gone
c.QHubGatewayBackend.cluster_heartbeat_timeout = 600
c.QHubGatewayBackend.cluster_start_timeout = 600
c.QHubGatewayBackend.worker_start_timeout = 600
"""


def profiles() -> list[dict[str, Any]]:
    """Small jobs; some that end soon; and some of two nodes with everything Slurm may be told."""
    common = {"cpu": 1, "memory": "300 MiB", "environment": {"prefix": str(dask_environment())}}
    wide = {"account": "research", "qos": "short", "constraint": "general", "partition": "general"}
    return [
        {**common, "slug": "small", "display_name": "Small", "walltime": "1h", "slurm": {}},
        {
            **common,
            "slug": "lasting",
            "display_name": "Lasting",
            "walltime": "2 min",
            "slurm": {"partition": "highmem"},
        },
        {
            **common,
            "slug": "few",
            "display_name": "Few",
            "walltime": "10 min",
            "slurm": {"qos": "short"},
        },
        {
            **common,
            "slug": "humble",
            "display_name": "Humble",
            "walltime": "10 min",
            "slurm": {"partition": "general", "qos": "short"},
        },
        {
            **common,
            "slug": "wide",
            "display_name": "Wide",
            "walltime": "10 min",
            "nodes": 2,
            "slurm": {**wide, "reservation": "course", "directives": ["--ntasks-per-node=1"]},
        },
    ]


@pytest.fixture(scope="module")
def gateways(slurm: Any) -> Iterator[Callable[[str], GatewaySystem]]:
    """Give the gateway of a transport; afterwards none and no job is left."""
    made: dict[str, GatewaySystem] = {}

    def give(transport: str) -> GatewaySystem:
        if transport not in made:
            folder = Path(tempfile.mkdtemp(prefix="qhub-gateway-"))
            folder.chmod(0o755)
            made[transport] = GatewaySystem(
                folder, slurm=slurm, transport=transport, profiles=profiles(), config=SITE
            )
            made[transport].start()
        return made[transport]

    yield give
    for gateway in made.values():
        gateway.stop()
        shutil.rmtree(gateway.folder)
    slurm.run(["scancel", "--user=alice"])
    wait_until(lambda: not squeue(slurm, ""), SECONDS, "the end of every job")


@pytest.fixture(scope="module")
def lasting(gateways: Callable[[str], GatewaySystem]) -> Iterator[tuple[StayingClient, str]]:
    """A cluster that was there before every test, and a client of it that stays."""
    client = StayingClient(gateways("command-line"))
    yield client, client.ask(LASTING)
    client.close()


@pytest.fixture
def gateway(
    slurm: Any, gateways: Callable[[str], GatewaySystem], lasting: tuple[StayingClient, str]
) -> Iterator[GatewaySystem]:
    """The gateway by Slurm's commands; after each test its clusters end."""
    made = gateways("command-line")
    yield made
    end_all(slurm, made, lasting[1])


def scale(gateway: GatewaySystem, name: str, count: int) -> None:
    """Ask for another number of workers, as the client does."""
    code, said = gateway.api("POST", f"clusters/{name}/scale", "alice", {"count": count})
    assert (code, said) == (200, {"ok": True, "msg": None})


def end_all(slurm: Any, gateway: GatewaySystem, *but: str) -> None:
    """End every cluster but some, and wait until nothing of it is left."""
    for name in gateway.api("GET", "clusters/", "alice")[1]:
        if name not in but:
            gateway.api("DELETE", f"clusters/{name}", "alice")
    wait_until(lambda: not squeue(slurm), SECONDS, "the end of every job")


def processes() -> list[Path]:
    """Return the folders of all processes."""
    return list(Path("/proc").glob("[0-9]*"))


def environment_of(process: Path) -> bytes:
    """Return the environment of a process of Dask's, nothing of any other."""
    return _read(process / "environ") if b"distributed.cli" in _read(process / "cmdline") else b""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""


def squeue(slurm: Any, partition: str = "general") -> dict[str, tuple[str, str, str]]:
    """Return name, state and user of every job of a partition that is not over, by its id."""
    argv = ["squeue", "-h", "-a", "-r", "-o", "%i|%j|%T|%u"]
    of = [f"--partition={partition}"] if partition else []
    lines = slurm.run([*argv, *of]).stdout.splitlines()
    fields = (line.split("|") for line in lines)
    return {job: (name, state, user) for job, name, state, user in fields}


def running(slurm: Any) -> set[str]:
    """Return the jobs that run."""
    return {job for job, (_, state, _) in squeue(slurm).items() if state == "RUNNING"}


def test_a_cluster(
    slurm: Any,
    gateways: Callable[[str], GatewaySystem],
    lasting: tuple[StayingClient, str],
    transport: str,
) -> None:
    """New, its workers one array, computed on, smaller, gone: as the person, and nothing is left."""
    gateway = gateways(transport)
    # with the scheduler, what two nodes of two CPUs hold
    name = run_client(gateway, NEW, workers=3)
    jobs = squeue(slurm)
    assert len({job.partition("_")[0] for job in jobs if "_" in job}) == 1
    assert {user for _, _, user in jobs.values()} == {"alice"}
    assert all(job.startswith(f"qhub-{gateway.gateway_id}-") for job, _, _ in jobs.values())
    scale(gateway, name, 1)
    wait_until(lambda: len(squeue(slurm)) == 2, SECONDS, "two jobs")
    assert run_client(gateway, AGAIN, name=name) == 6
    end_all(slurm, gateway, lasting[1])
    # one that Slurm killed at the worst moment may leave the name, and never what was in it
    left = Path(tempfile.gettempdir()).glob("qhub-dask-*")
    assert not any(path.stat().st_size for path in left)


def test_nothing_secret_is_shown(slurm: Any, gateway: GatewaySystem) -> None:
    """Neither the cluster's token nor its key is in a process list, in Slurm, or in a log."""
    name = run_client(gateway, NEW, workers=1)
    environments = [
        each
        for each in map(environment_of, processes())
        if gateway.url.encode() in each and name.encode() in each
    ]
    tokens = {
        word.partition(b"=")[2].decode()
        for environment in environments
        for word in environment.split(b"\0")
        if word.startswith(b"DASK_GATEWAY_API_TOKEN=")
    }
    assert len(tokens) == 1
    assert not any(b"PRIVATE KEY" in environment for environment in environments)
    secret = tokens.pop()
    shown = [
        slurm.run(["scontrol", "show", "job"]).stdout,
        slurm.run(["sacct", "-a", "-P", "--format=ALL"]).stdout,
        gateway.log(),
        *(_read(path / "cmdline").decode(errors="replace") for path in processes()),
    ]
    assert name in "".join(shown)
    assert not any(secret in text or "PRIVATE KEY" in text for text in shown)


def test_waiting_is_no_failure(slurm: Any, gateway: GatewaySystem) -> None:
    """Workers that find no room keep their place; a smaller number gives up exactly the rest."""
    name = run_client(gateway, NEW, workers=8, wait_for=3)
    before = squeue(slurm)
    at_work = running(slurm)
    assert (len(before), len(at_work)) == (9, 4)
    assert run_client(gateway, AGAIN, name=name) == 6
    assert squeue(slurm) == before
    scale(gateway, name, 7)
    wait_until(lambda: len(squeue(slurm)) == 8, SECONDS, "one job less")
    scale(gateway, name, 4)
    wait_until(lambda: len(squeue(slurm)) == 5, SECONDS, "three jobs less")
    assert at_work <= set(squeue(slurm))


def test_adaptive_and_idle(slurm: Any, gateway: GatewaySystem) -> None:
    """As many workers as there is work, and none without; a cluster without work ends by itself.

    One that is closed ends with its client, unless it was told otherwise.
    """
    names, total, most = run_client(gateway, ADAPTIVE, seconds=SECONDS * 2)
    assert total == 190
    assert most == 2

    def over() -> bool:
        listed = gateway.api("GET", "clusters/", "alice")[1]
        return not set(names) & set(listed)

    wait_until(over, SECONDS, "the end of both clusters")
    wait_until(lambda: not squeue(slurm), SECONDS, "the end of every job")


def test_all_that_slurm_is_told(
    slurm: Any, gateway: GatewaySystem, lasting: tuple[StayingClient, str]
) -> None:
    """Account, QOS, constraint, reservation and nodes; what a task starts by srun has them all."""
    nodes = ["nodes=cn01,cn02", "flags=overlap,ignore_jobs"]
    make = ["scontrol", "create", "reservation=course", "starttime=now", "duration=60"]
    slurm.run([*make, "accounts=research", *nodes])
    try:
        name, found, errors = run_client(gateway, NODES, seconds=SECONDS * 2)
        assert sorted(found) == ["cn01", "cn02"], errors
        shown = slurm.run(["scontrol", "show", "job", "--oneliner"]).stdout
        jobs = [line for line in shown.splitlines() if name in line and "JobState=RUNNING" in line]
        assert len(jobs) == 2
        for job in jobs:
            for words in ("Account=research", "QOS=short", "Features=general", "Requeue=0"):
                assert words in job, job
            assert "Reservation=course" in job
        assert sorted(word for job in jobs for word in job.split() if "NumNodes=" in word) == [
            "NumNodes=1",
            "NumNodes=2",
        ]
    finally:
        end_all(slurm, gateway, lasting[1])
        slurm.run(["scontrol", "delete", "reservation=course"])


def test_no_more_jobs(
    slurm: Any, gateway: GatewaySystem, lasting: tuple[StayingClient, str]
) -> None:
    """Where a QOS lets a person have three jobs a cluster has two workers, and more when it may."""
    limit = ["sacctmgr", "-i", "modify", "qos", "short", "set"]
    slurm.run([*limit, "MaxSubmitJobsPerUser=3"])
    try:
        name = run_client(gateway, NEW, workers=3, wait_for=2, options={"profile": "few"})
        wait_until(lambda: f"workers of cluster {name} wait" in gateway.log(), SECONDS, "a refusal")
        assert len(squeue(slurm)) == 3
    finally:
        slurm.run([*limit, "MaxSubmitJobsPerUser=-1"])
    wait_until(lambda: len(squeue(slurm)) == 4, SECONDS, "the third worker")
    assert run_client(gateway, AGAIN, name=name) == 6


def test_preempted(slurm: Any, gateway: GatewaySystem) -> None:
    """A worker that a job of a higher QOS has killed is replaced when that job leaves room again.

    Slurm would start it anew, which it may not.
    """
    sacctmgr = ["sacctmgr", "-i"]
    slurm.run([*sacctmgr, "add", "qos", "urgent", "Preempt=short"])
    urgent = None
    try:
        slurm.run([*sacctmgr, "modify", "user", "bob", "set", "qos+=urgent"])
        name = run_client(gateway, NEW, workers=1, options={"profile": "humble"})
        (worker,) = squeue(slurm)
        options = ("--partition=general", "--qos=urgent", "--nodes=2", "--exclusive", "--time=20")
        urgent = slurm.sbatch("bob", "sleep 1200", *options)
        wait_until(lambda: slurm.job_state(urgent) == "RUNNING", SECONDS, "the preempting job")
        number = int(worker.partition("_")[0])
        # accounting learns of it a moment later
        wait_until(
            lambda: "PREEMPTED" in slurm.accounted(number).values(), SECONDS, "what accounting says"
        )
        wait_until(lambda: worker not in squeue(slurm), SECONDS, "the end of the worker")
        wait_until(lambda: len(squeue(slurm)) == 2, SECONDS, "its successor, which waits")
        slurm.run(["scancel", str(urgent)])
        wait_until(lambda: len(running(slurm)) == 1, SECONDS, "its successor")
        assert run_client(gateway, AGAIN, name=name) == 6
    finally:
        if urgent is not None:
            slurm.run(["scancel", str(urgent)])
        slurm.run([*sacctmgr, "modify", "user", "bob", "set", "qos-=urgent"], check=False)
        slurm.run([*sacctmgr, "delete", "qos", "urgent"], check=False)


def test_replaced_in_time(slurm: Any, lasting: tuple[StayingClient, str]) -> None:
    """Before a worker's walltime ends another has its place and its data; nothing is cut off."""
    client, _ = lasting
    assert client.ask(REPLACED, seconds=SECONDS) is True
    ended = slurm.run(["sacct", "-a", "-n", "-P", "-X", "--format=State,Partition"]).stdout
    assert "TIMEOUT" not in ended
    assert [state for _, state, _ in squeue(slurm, "gpu").values()] == ["RUNNING"]
