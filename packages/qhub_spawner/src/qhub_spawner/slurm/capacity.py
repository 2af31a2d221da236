"""What a profile would meet on the cluster now, worked out from two cached answers.

Nothing here asks Slurm: `availability_of` reads the nodes (sinfo) and the queue (squeue) that
the poller holds, so that a page view costs the cluster nothing.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from qhub_spawner.availability import Availability, StartEstimate
from qhub_spawner.profiles import Profile
from qhub_spawner.slurm.jobs import Job, JobState

_UP_STATES = frozenset(
    {"idle", "mixed", "allocated", "completing", "planned", "reserved", "blocked"}
)
_GRES = re.compile(r"gpu(?::(?P<type>[A-Za-z][^:(,]*))?(?::(?P<count>\d+))?(?:\([^)]*\))?")


@dataclass(frozen=True, slots=True)
class Node:
    """One node in one of its partitions; memory in MiB, GPUs by type (``""`` when untyped)."""

    name: str
    address: str
    partition: str
    state: str
    cpus_total: int
    cpus_allocated: int
    cpus_idle: int
    memory_mebibytes: int
    memory_allocated_mebibytes: int
    gpus: Mapping[str, int]
    gpus_used: Mapping[str, int]
    features: frozenset[str] = frozenset()
    partition_walltime_seconds: int | None = None
    partition_up: bool = True

    @property
    def up(self) -> bool:
        """Whether the node takes jobs: its state, without flags such as ``*`` or ``~``."""
        return self.partition_up and self.state.rstrip("*~#!%$@^-+").lower() in _UP_STATES

    @property
    def idle(self) -> bool:
        """Whether nothing runs there."""
        return self.up and self.cpus_allocated == 0


def parse_gres(text: str) -> dict[str, int]:
    """Read the GPUs out of a GRES list; other kinds of resource are passed over.

    >>> parse_gres("gpu:a100:2(IDX:0-1),craynetwork:4")
    {'a100': 2}
    >>> parse_gres("gpu:3(S:0)"), parse_gres("(null)")
    ({'': 3}, {})
    """
    found: Counter[str] = Counter()
    for item in re.split(r",(?![^(]*\))", text):
        match = _GRES.fullmatch(item.strip().removeprefix("gres/").removeprefix("gres:"))
        if match is not None:
            found[match["type"] or ""] += int(match["count"] or 1)
    return dict(found)


@dataclass(frozen=True)
class Request:
    """What one server takes on each node: cores, MiB of memory, GPUs."""

    nodes: int
    cpus: int
    memory_mebibytes: int
    gpus: int
    gpu_type: str
    partition: str | None
    features: frozenset[str]
    exclusive: bool

    @classmethod
    def of(cls, profile: Profile) -> Request:
        """Return what `profile` asks of Slurm. A constraint with operators is not read."""
        block = profile.slurm
        gres = parse_gres(block.gres) if block and block.gres else {}
        gpu_type, gpus = next(iter(gres.items()), ("", 0))
        if profile.gpu is not None:
            gpu_type, gpus = profile.gpu.type or "", profile.gpu.count
        constraint = (block.constraint if block else None) or ""
        return cls(
            nodes=profile.nodes,
            cpus=math.ceil(profile.cpu.millicores / 1000),
            memory_mebibytes=math.ceil(profile.memory.bytes / 2**20) if profile.memory else 0,
            gpus=gpus,
            gpu_type=gpu_type,
            partition=block.partition if block else None,
            features=frozenset(constraint.split("&"))
            if re.fullmatch(r"[\w&]+", constraint)
            else frozenset(),
            exclusive=bool(block and block.exclusive),
        )

    def gpus_free_on(self, node: Node) -> int:
        """Return how many fitting GPUs of `node` nobody uses."""
        return max(
            0, _matching(node.gpus, self.gpu_type) - _matching(node.gpus_used, self.gpu_type)
        )

    def could_run_on(self, node: Node) -> bool:
        """Whether the node is of the asked kind, busy or not."""
        return self.features <= node.features and (
            not self.gpus or _matching(node.gpus, self.gpu_type) >= self.gpus
        )

    def fits_now(self, node: Node) -> bool:
        """Whether the node has room at this moment."""
        if not node.up or (self.exclusive and not node.idle):
            return False
        memory_free = node.memory_mebibytes - node.memory_allocated_mebibytes
        return (
            node.cpus_idle >= self.cpus
            and memory_free >= self.memory_mebibytes
            and self.gpus_free_on(node) >= self.gpus
        )


def _matching(gpus: Mapping[str, int], gpu_type: str) -> int:
    if not gpu_type:
        return sum(gpus.values())
    # a node may count used GPUs without their type
    return gpus.get(gpu_type, 0) + gpus.get("", 0)


@dataclass(frozen=True)
class Release:
    """What one running job gives back when it ends: cores and GPUs on each of its nodes."""

    at: datetime
    hosts: Sequence[str]
    cpus: int
    gpus: int

    @classmethod
    def of(cls, job: Job, at: datetime) -> Release:
        """Read it from the job; `at` is its end."""
        gpus = sum(parse_gres(job.gres).values())
        return cls(at, expand_hosts(job.node_list), job.cpus // job.nodes, gpus)


@dataclass(frozen=True)
class Cluster:
    """Nodes and queue by partition, made once for each refresh."""

    nodes: Mapping[str, Sequence[Node]]
    waiting: Mapping[str, int]
    blocked: frozenset[str]
    jobs: Mapping[str, Sequence[Job]]
    default_partition: str | None
    _releases: dict[str, Sequence[Release]] = field(default_factory=dict, repr=False, compare=False)

    def releases(self, partition: str) -> Sequence[Release]:
        """Return what the partition's running jobs give back, in the order of their ends.

        Made when first asked for: a page of many profiles asks for the same partitions.
        """
        if partition not in self._releases:
            ending = (job for job in self.jobs.get(partition, ()) if job.nodes)
            found = (Release.of(job, job.end) for job in ending if job.end is not None)
            self._releases[partition] = sorted(found, key=lambda release: release.at)
        return self._releases[partition]

    @classmethod
    def of(
        cls, nodes: Sequence[Node], jobs: Sequence[Job], default_partition: str | None = None
    ) -> Cluster:
        """Group one answer of sinfo and one of squeue by partition."""
        by_partition: dict[str, list[Node]] = defaultdict(list)
        for node in nodes:
            by_partition[node.partition].append(node)
        waiting: Counter[str] = Counter()
        blocked = set()
        running: dict[str, list[Job]] = defaultdict(list)
        for job in jobs:
            if job.state is JobState.PENDING:
                for partition in job.partition.split(","):
                    waiting[partition] += 1
                    # jobs that wait for room are served before a newcomer;
                    # those that wait for a dependency, a limit or a date are not in its way
                    if job.reason in {"Resources", "Priority"}:
                        blocked.add(partition)
            elif not job.state.over:
                running[job.partition].append(job)
        return cls(by_partition, waiting, frozenset(blocked), running, default_partition)


def availability_of(
    profile: Profile, cluster: Cluster, *, as_of: datetime, now: datetime, stale: bool
) -> Availability:
    """Return what `profile` would meet.

    The start is ``now`` only where enough nodes have room and nobody waits for them; otherwise
    it is calculated from the walltimes of running jobs, and so the latest moment by which room
    for this server appears if no other job comes first.
    """
    request = Request.of(profile)
    partition = request.partition or cluster.default_partition
    if partition is None or partition not in cluster.nodes:
        return Availability(
            as_of=as_of,
            stale=stale,
            problem=f"partition {partition} is not on the cluster now" if partition else None,
        )
    kind = [node for node in cluster.nodes[partition] if request.could_run_on(node)]
    up = [node for node in kind if node.up]
    has_gpus = any(node.gpus for node in kind)
    fitting = sum(request.fits_now(node) for node in up)
    if fitting >= request.nodes and partition not in cluster.blocked:
        start = StartEstimate(kind="now", source="calculated")
    else:
        start = _when_free(request, up, cluster.releases(partition), now)
    return Availability(
        nodes_idle=sum(node.idle for node in up),
        nodes_total=len(kind),
        cpus_free=sum(node.cpus_idle for node in up),
        gpus_free=sum(request.gpus_free_on(node) for node in up) if has_gpus else None,
        gpus_total=sum(_matching(node.gpus, request.gpu_type) for node in kind)
        if has_gpus
        else None,
        jobs_waiting=cluster.waiting.get(partition, 0),
        start=start,
        as_of=as_of,
        stale=stale,
        problem=None if up else f"no node of partition {partition} takes jobs now",
    )


def _when_free(
    request: Request, nodes: Sequence[Node], releases: Sequence[Release], now: datetime
) -> StartEstimate:
    """Walk through the ends of the running jobs until enough nodes have room."""
    cpus = {node.name: node.cpus_idle for node in nodes}
    gpus = {node.name: request.gpus_free_on(node) for node in nodes}
    room = {name for name in cpus if cpus[name] >= request.cpus and gpus[name] >= request.gpus}
    for release in releases:
        for name in release.hosts:
            if name in cpus:
                cpus[name] += release.cpus
                gpus[name] += release.gpus
                if cpus[name] >= request.cpus and gpus[name] >= request.gpus:
                    room.add(name)
        if len(room) >= request.nodes:
            return StartEstimate(kind="at", at=max(release.at, now), source="calculated")
    return StartEstimate()


def expand_hosts(text: str) -> list[str]:
    """Expand a host list as Slurm prints it (man squeue, NODELIST).

    >>> expand_hosts("cn[01-03,7],gpu1")
    ['cn01', 'cn02', 'cn03', 'cn7', 'gpu1']
    """
    hosts: list[str] = []
    for item in re.split(r",(?![^\[]*\])", text):
        match = re.fullmatch(r"([^\[]*)\[([^\]]*)\](.*)", item)
        if match is None:
            hosts.extend(filter(None, [item]))
            continue
        prefix, ranges, suffix = match.groups()
        for part in ranges.split(","):
            first, _, last = part.partition("-")
            if not first.isdigit() or not (last or first).isdigit():
                continue
            width = len(first)
            hosts.extend(
                f"{prefix}{number:0{width}d}{suffix}"
                for number in range(int(first), int(last or first) + 1)
            )
    return hosts
