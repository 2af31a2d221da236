"""What a test cluster consists of: nodes, partitions, QOS, accounts, associations (pure data)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Node:
    """One slurmd on this host.

    Attributes:
        name: The node's name; `%B` in squeue. It does not resolve as a host name.
        cpus: CPUs that Slurm believes in; may exceed the machine's (a benchmark's sleepers).
        memory_mib: Memory that Slurm hands out, in MiB; may exceed the machine's.
        gpus: How many GPUs (null devices that CUDA_VISIBLE_DEVICES counts).
        gpu_type: Their type in GRES.
        features: Names for `--constraint`.
    """

    name: str
    cpus: int = 2
    memory_mib: int = 4000
    gpus: int = 0
    gpu_type: str = "a100"
    features: tuple[str, ...] = ()


@dataclass(frozen=True)
class Partition:
    """A partition; times in Slurm's form, memory in MiB per CPU, more settings in `extra`."""

    name: str
    nodes: tuple[str, ...]
    default: bool = False
    max_time: str = "08:00:00"
    default_time: str = "01:00:00"
    default_memory_per_cpu_mib: int = 500
    allow_accounts: tuple[str, ...] = ()
    allow_qos: tuple[str, ...] = ()
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Qos:
    """A quality of service; `limits` as sacctmgr(1) names them (`MaxWall`, `MaxJobsPerUser`, …)."""

    name: str
    limits: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Association:
    """A Unix user's membership in an account; the user's first one is the default account."""

    user: str
    account: str
    qos: tuple[str, ...] = ("normal",)
    limits: Mapping[str, str] = field(default_factory=dict)


NODES = (
    Node("cn01", features=("general",)),
    Node("cn02", features=("general",)),
    Node("hm01", memory_mib=16000, features=("highmem",)),
    Node("gpu01", memory_mib=8000, gpus=2, features=("gpu",)),
)

PARTITIONS = (
    Partition("general", ("cn01", "cn02"), default=True),
    Partition(
        "highmem",
        ("hm01",),
        max_time="04:00:00",
        default_time="00:30:00",
        default_memory_per_cpu_mib=2000,
        allow_accounts=("research",),
    ),
    Partition(
        "gpu",
        ("gpu01",),
        max_time="02:00:00",
        default_time="00:30:00",
        default_memory_per_cpu_mib=1000,
        allow_qos=("gpu",),
    ),
)

# "normal" exists in every accounting database.
QOS = (
    Qos("normal"),
    Qos("gpu"),
    Qos("short", {"MaxWall": "00:30:00", "Priority": "100"}),
    Qos("single", {"MaxJobsPerUser": "1"}),
)

ACCOUNTS = ("research", "teaching", "physics")

ASSOCIATIONS = (
    Association("alice", "research", ("normal", "gpu", "short", "single")),
    Association("alice", "physics", ("normal",)),
    Association("bob", "teaching", ("normal", "short"), {"MaxWall": "02:00:00"}),
)


@dataclass(frozen=True)
class Definition:
    """A whole cluster.

    Attributes:
        nodes: The nodes; a slurmd is started for each.
        partitions: The partitions.
        qos: The QOS, made before slurmctld starts (a partition's AllowQos must name existing ones).
        accounts: The accounts.
        associations: Who may use which account; their Unix users are created when absent.
        cluster_name: ClusterName.
        min_job_age_seconds: How long slurmctld remembers an ended job (MinJobAge).
        settings: More settings of slurm.conf, or other values for those of `configuration`.
        extra_lines: Lines added at the end of slurm.conf.
    """

    nodes: tuple[Node, ...] = NODES
    partitions: tuple[Partition, ...] = PARTITIONS
    qos: tuple[Qos, ...] = QOS
    accounts: tuple[str, ...] = ACCOUNTS
    associations: tuple[Association, ...] = ASSOCIATIONS
    cluster_name: str = "test"
    min_job_age_seconds: int = 120
    settings: Mapping[str, str] = field(default_factory=dict)
    extra_lines: tuple[str, ...] = ()

    @property
    def users(self) -> tuple[str, ...]:
        """The Unix users that stand in associations, each once, in order."""
        return tuple(dict.fromkeys(association.user for association in self.associations))
