"""Slurm as a target, on a scripted door: what its answers mean for a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from qhub_gateway.errors import (
    HostRefusedError,
    LogElsewhereError,
    StartRefusedError,
    TargetFullError,
    TargetSilentError,
)
from qhub_gateway.targets.slurm import SlurmTarget
from qhub_gateway.targets.target import UNKNOWN, ClusterSpec, JobRef, Phase
from qhub_spawner.errors import SlurmRejectedError, SlurmUnavailableError
from qhub_spawner.slurm.backend import SlurmBackend
from qhub_spawner.slurm.door import Cancellation
from qhub_spawner.slurm.jobs import JobState
from tests.unit.scripted_door import FAST, LOG, SILENCE, ScriptedDoor, job, until
from tests.unit.test_gateway_slurm_script import request_of

CLUSTER = "0123456789abcdef" * 2
POLICY = (
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy "
    "(job submit limit, user's size and/or time limits)"
)


def spec() -> ClusterSpec:
    """A cluster of alice's."""
    return ClusterSpec(
        name=CLUSTER,
        request=request_of(),
        scheduler_argv=("scheduler",),
        worker_argv=("worker",),
        environment={"SECRET": "x"},
        tls_cert=b"certificate",
        tls_key=b"key",
    )


@pytest.fixture
def door() -> ScriptedDoor:
    """What a test scripts."""
    return ScriptedDoor()


@pytest.fixture
async def target(door: ScriptedDoor, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SlurmTarget]:
    """The target on it."""
    monkeypatch.setattr(SlurmBackend, "_make_door", lambda self: door)
    backend = SlurmBackend(hub_id="g1")
    backend.poller.intervals = FAST
    made = SlurmTarget(backend, LOG)
    await made.open()
    yield made
    await made.close()


def array(target: SlurmTarget, size: int) -> list[Any]:
    """Plan workers that go into one array."""
    (group,) = target.plan_workers(spec(), [f"{number:032x}" for number in range(size)])
    return list(group)


@pytest.mark.enable_socket  # numbers are "resolved" without any network
async def test_where_a_scheduler_is(door: ScriptedDoor, target: SlurmTarget) -> None:
    """A scheduler is where Slurm says that its job runs; while Slurm does not say, nothing is known."""
    ref = target.plan_scheduler(spec()).numbered(7)
    target.backend.server_networks = ["198.51.100.0/24"]
    door.answers = [[job(JobState.PENDING, name=ref.name, node_list="")]]
    target.follow(ref)
    with pytest.raises(TargetSilentError, match="does not say now"):
        await target.check_host(ref, "192.0.2.7")
    door.answers = [[job(name=ref.name, node_list="192.0.2.7")]]
    await target.check_host(ref, "192.0.2.7")
    await target.check_host(ref, "198.51.100.7")
    # this machine is not the node
    for host in ("192.0.2.8", "127.0.0.1", "0.0.0.0", "224.0.0.1", ""):
        with pytest.raises(HostRefusedError, match=r"expected one of: 192[.]0[.]2[.]7"):
            await target.check_host(ref, host)
    # a node that is this machine has every address of it
    door.answers = [[job(name=ref.name, node_list="127.0.0.1")]]
    assert await target.poller.fresh()
    await target.check_host(ref, "127.0.0.2")
    for host in ("192.0.2.8", "0.0.0.0", "224.0.0.1"):
        with pytest.raises(HostRefusedError):
            await target.check_host(ref, host)


@pytest.mark.parametrize(
    ("stderr", "kind", "certain"),
    [
        (f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{POLICY}", TargetFullError, True),
        (f"sbatch: error: AssocMaxSubmitJobLimit\n{POLICY}", TargetFullError, True),
        (f"sbatch: error: AssocGrpSubmitJobsLimit\n{POLICY}", TargetFullError, True),
        (POLICY, TargetFullError, False),
        (f"sbatch: error: QOSMaxWallDurationPerJobLimit\n{POLICY}", TargetFullError, False),
        ("sbatch: error: Batch job submission failed: Invalid account", StartRefusedError, None),
    ],
)
async def test_a_no(
    target: SlurmTarget, door: ScriptedDoor, stderr: str, kind: type[Exception], certain: object
) -> None:
    """No more jobs of a person is not no for ever, where Slurm says which it is."""
    words = f"Slurm refused it: {stderr.rpartition(': ')[2]}"
    door.submitted = SlurmRejectedError(words, exit_code=1, stderr=stderr)
    with pytest.raises(kind) as caught:
        await target.start_workers(spec(), array(target, 3))
    assert getattr(caught.value, "certain", None) == certain
    assert not target._watches


async def test_small_arrays(target: SlurmTarget, door: ScriptedDoor) -> None:
    """Where arrays may have fewer tasks than 500 they have fewer, as many as Slurm takes."""
    text = "Invalid job array specification"  # Slurm 22.05.8, by sbatch and by slurmrestd
    sizes: list[int] = []

    async def submit() -> int:
        sizes.append(len(target._watches))
        if sizes[-1] > 100:
            failed = f"sbatch: error: Batch job submission failed: {text}"
            raise SlurmRejectedError(f"Slurm refused it: {text}", exit_code=1, stderr=failed)
        return 7

    door.submitted = submit
    names = [f"{number:032x}" for number in range(500)]
    for _ in range(3):
        with pytest.raises(TargetFullError) as caught:
            await target.start_workers(spec(), target.plan_workers(spec(), names)[0])
        assert not caught.value.certain
    groups = target.plan_workers(spec(), names)
    assert len(await target.start_workers(spec(), groups[0])) == 56
    assert sizes == [500, 250, 125, 56]
    assert sum(map(len, groups)) == 500


async def test_silence(target: SlurmTarget, door: ScriptedDoor) -> None:
    """A Slurm that does not answer has started nothing, as far as is known."""
    door.submitted = SlurmUnavailableError("silent")
    with pytest.raises(TargetSilentError):
        await target.start_workers(spec(), array(target, 3))


async def test_tasks(target: SlurmTarget, door: ScriptedDoor) -> None:
    """Each task is a worker of its own; all of an array are cancelled by its number alone."""
    planned = array(target, 3)
    refs = await target.start_workers(spec(), planned)
    assert {ref.number for ref in refs} == {7}
    name = refs[0].name
    waits = job(JobState.PENDING, name=name, tasks=(range(1, 3),), reason="Resources")
    runs = job(JobState.RUNNING, name=name, tasks=(range(1),))
    door.answers = [[waits, runs]]
    await until(lambda: target.state(refs[0]).phase is Phase.RUNNING)
    assert [target.state(ref).phase for ref in refs[1:]] == [Phase.QUEUED] * 2
    assert target.state(refs[1]).words == "it is next, and starts as soon as enough is free"
    await target.stop([refs[1]])
    await target.stop(refs)
    cancelled = [each[2] for each in door.asked if each[0] == "cancel_many"]
    assert cancelled == [(Cancellation(7, name, (1,)),), (Cancellation(7, name, None),)]
    door.cancelling = SILENCE
    with pytest.raises(TargetSilentError):
        await target.stop(refs)
    target.forget(refs)
    assert target.state(refs[0]) is UNKNOWN


async def test_logs(
    target: SlurmTarget, door: ScriptedDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the person, from their home; where that cannot be, they are told where to look."""
    ref, asked = JobRef("qhub-g1-0011223344556677", user="alice"), []

    async def read_log(user: str, cluster: str, name: str, most: int) -> str | None:
        asked.append((user, cluster, name, most))
        return None if name == "scheduler" else "text"

    with pytest.raises(LogElsewhereError, match=rf"~/.*/dask/{CLUSTER}/scheduler\.log, in .*alice"):
        await target.read_log(spec(), None, ref, 10)
    monkeypatch.setattr(door, "read_log", read_log)
    assert await target.read_log(spec(), None, ref, 10) == ""
    assert await target.read_log(spec(), "w", ref, 10) == "text"
    assert asked == [("alice", CLUSTER, "scheduler", 10), ("alice", CLUSTER, "w", 10)]

    async def silent(*asked: object) -> None:
        raise SILENCE

    monkeypatch.setattr(door, "read_log", silent)
    with pytest.raises(TargetSilentError):
        await target.read_log(spec(), None, ref, 10)
