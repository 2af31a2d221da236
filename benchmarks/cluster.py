"""The cluster that the poll and form benchmarks run on, and the jobs that fill it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.systems.processes import NotReadyError
from tests.systems.slurm import NODES, PARTITIONS, Definition, Node, Partition, SlurmSystem

SUBMITTERS = 4
START_SECONDS = 300


def with_room(cpus: int) -> Definition:
    """Describe the test cluster with one more node, `big01`, which believes in so many CPUs.

    The partition `busy` has a single CPU, so that one job fills it and others wait.
    """
    big = Node("big01", cpus=cpus, memory_mib=100 * cpus)
    busy = Node("busy01", cpus=1, memory_mib=100_000)
    return Definition(
        nodes=(*NODES, big, busy),
        partitions=(
            *PARTITIONS,
            Partition("big", (big.name,), default_memory_per_cpu_mib=10),
            Partition("busy", (busy.name,), default_memory_per_cpu_mib=10),
        ),
        settings={
            "SchedulerParameters": "sched_interval=2,batch_sched_delay=0,defer_batch,"
            "default_queue_depth=10000,bf_interval=30",
            "MaxJobCount": "20000",
            # thousands of jobs that do nothing must not keep the machine busy with their limits
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "JobAcctGatherType": "jobacct_gather/none",
        },
    )


@dataclass(frozen=True)
class Sleeper:
    """A running job that stands for a server."""

    user: str
    server: str
    name: str
    job_id: int


class Sleepers:
    """Running jobs, named as qhub names the jobs of its servers."""

    def __init__(self, slurm: SlurmSystem, hub_id: str, users: Sequence[str]) -> None:
        """Submit nothing yet."""
        self.slurm = slurm
        self.hub_id = hub_id
        self.users = users
        self.all: list[Sleeper] = []

    def grow_to(self, count: int) -> None:
        """Submit more until there are `count`, and wait until all run."""
        with ThreadPoolExecutor(SUBMITTERS) as pool:
            self.all += pool.map(self._submit, range(len(self.all), count))
        try:
            self.slurm.wait_until(lambda: self._running() >= count, START_SECONDS, "all jobs")
        except NotReadyError as error:
            msg = f"{self._running()} of {count} jobs run after {START_SECONDS} s"
            raise RuntimeError(msg) from error

    def _submit(self, index: int) -> Sleeper:
        user = self.users[index % len(self.users)]
        name = f"qhub-{self.hub_id}-{index:016x}"
        options = ("--partition=big", "--mem=10M", "--time=2:00:00", f"--job-name={name}")
        job_id = self.slurm.sbatch(user, "exec sleep infinity", *options)
        return Sleeper(user, f"s{index:05d}", name, job_id)

    def _running(self) -> int:
        command = ["squeue", "-h", "--states=R", "--partition=big", "--format=%A"]
        return len(self.slurm.run(command).stdout.split())


def fill_busy_partition(slurm: SlurmSystem, user: str) -> int:
    """Start the one job that fills the partition `busy`; returns its id."""
    options = ("--partition=busy", "--mem=10M", "--time=2:00:00")
    job = slurm.sbatch(user, "exec sleep infinity", *options)
    slurm.wait_until(lambda: slurm.job_state(job) == "RUNNING", 30, "the job that fills `busy`")
    return job
