"""What a profile would meet on the cluster: read from the recorded answers of sinfo and squeue."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhub_spawner.profiles import Profile
from qhub_spawner.slurm.capacity import Cluster, Request, availability_of, expand_hosts, parse_gres
from qhub_spawner.slurm.parsing import default_partition, parse_nodes, parse_queue
from tests.unit import recorded

NODES = parse_nodes(recorded.text("machines.txt"))
JOBS = parse_queue(recorded.text("queue.txt"), recorded.MARK)
NOW = next(job.start for job in JOBS if job.job_id == recorded.jobs()["running"])
assert NOW is not None
CLUSTER = Cluster.of(NODES, JOBS, default_partition(recorded.text("machines.txt")))


def profile(**fields: Any) -> Profile:
    """Return a profile for the GPU partition, or another."""
    slurm = fields.pop("slurm", {"partition": "gpu", "qos": "gpu"})
    return Profile.model_validate(
        {"slug": "x", "display_name": "X", "slurm": slurm, "memory": "100M", **fields}
    )


def look(asked: Profile, cluster: Cluster = CLUSTER) -> Any:
    """Return what it would meet in the recording."""
    return availability_of(asked, cluster, as_of=NOW, now=NOW, stale=False)


def test_recorded_gpu_partition() -> None:
    """One of two GPUs is free, one core too: it would start now."""
    found = look(profile(gpu=1))
    assert (found.gpus_free, found.gpus_total) == (1, 2)
    assert (found.nodes_idle, found.nodes_total, found.cpus_free) == (0, 1, 1)
    assert found.start.kind == "now"
    assert found.problem is None


def test_recorded_wait_for_the_second_gpu() -> None:
    """Both GPUs: when the running job's walltime ends."""
    found = look(profile(gpu=2))
    running = next(job for job in JOBS if job.job_id == recorded.jobs()["gpu"])
    assert found.start.kind == "at"
    assert found.start.at == running.end
    assert found.start.source == "calculated"


def test_recorded_queue_before_us() -> None:
    """Where others wait for room, nobody is promised a start now."""
    found = look(profile(slurm={"partition": "general"}))
    assert found.jobs_waiting == 5  # two for resources, three held
    assert found.start.kind != "now"


def test_recorded_node_that_is_down() -> None:
    """A partition without any node that takes jobs says so."""
    found = look(profile(slurm={"partition": "highmem"}))
    assert found.nodes_idle == 0
    assert found.problem == "no node of partition highmem takes jobs now"
    assert found.start.kind == "unknown"


def test_no_partition_is_the_default_one() -> None:
    """A profile that names none goes where sbatch would send it."""
    assert look(profile(slurm={})).nodes_total == 2


def test_a_partition_that_is_not_there() -> None:
    """Nothing is known, and it says why."""
    found = look(profile(slurm={"partition": "gone"}))
    assert found.nodes_total is None
    assert found.problem == "partition gone is not on the cluster now"


def test_nothing_fits() -> None:
    """More memory than any node has: no promise."""
    found = look(profile(memory="100 GiB", slurm={"partition": "gpu"}))
    assert found.start.kind != "now"


def test_constraint() -> None:
    """Only nodes with the features count; operators are not guessed at."""
    assert look(profile(slurm={"partition": "general", "constraint": "gpu"})).nodes_total == 0
    assert look(profile(slurm={"partition": "general", "constraint": "general"})).nodes_total == 2
    assert Request.of(profile(slurm={"constraint": "a|b"})).features == frozenset()


@pytest.mark.parametrize(
    ("state", "up"),
    [
        ("idle", True),
        ("mixed", True),
        ("allocated+", True),
        ("idle~", True),
        ("completing", True),
        ("planned", True),
        ("down*", False),
        ("drained", False),
        ("draining", False),
        ("unknown", False),
        ("maint", False),
        ("fail", False),
        ("", False),
    ],
)
def test_node_states(state: str, up: bool) -> None:
    """A node whose state is not known to take jobs takes none."""
    assert replace(NODES[0], state=state).up is up
    assert not replace(NODES[0], state=state, partition_up=False).up


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("gpu:a100:2(IDX:0-1)", {"a100": 2}),
        ("gpu:a100:1(IDX:0),gpu:h100:3(IDX:0-2)", {"a100": 1, "h100": 3}),
        ("gres:gpu:a100:1", {"a100": 1}),
        ("gres/gpu:2", {"": 2}),
        ("gpu", {"": 1}),
        ("gpu:0", {"": 0}),
        ("craynetwork:4", {}),
        ("(null)", {}),
        ("", {}),
        ("gpu:a100:x", {}),
    ],
)
def test_gres(text: str, found: dict[str, int]) -> None:
    """GPUs out of Slurm's lists of generic resources."""
    assert parse_gres(text) == found


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", []),
        ("cn01", ["cn01"]),
        ("cn[01-02,10]", ["cn01", "cn02", "cn10"]),
        ("a[1-2]-ib,b", ["a1-ib", "a2-ib", "b"]),
        ("cn[x]", []),
        ("cn[2-1]", []),
    ],
)
def test_hosts(text: str, hosts: list[str]) -> None:
    """Slurm's host lists."""
    assert expand_hosts(text) == hosts


@given(st.text(alphabet="cn[]019-,", max_size=9))
def test_any_host_list(text: str) -> None:
    """Whatever stands there is read in finite time, or left out."""
    assert isinstance(expand_hosts(text), list)


def test_now_is_aware() -> None:
    """All times are UTC."""
    assert isinstance(NOW, datetime)
    assert NOW.tzinfo is UTC
