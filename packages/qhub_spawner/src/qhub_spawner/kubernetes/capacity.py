"""What a profile would meet on the cluster now, worked out from nodes and pods, or from a quota.

Nothing here asks Kubernetes: everything comes from lists that are watched anyway. Sources: API
reference v1.34, ``Node``, ``ResourceQuota``; "Taints and Tolerations".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

from qhub_spawner.availability import Availability, StartEstimate
from qhub_spawner.kubernetes.affinity import demands_neighbours, node_terms, term_matches
from qhub_spawner.kubernetes.amounts import (
    CPU,
    MEMORY,
    PODS,
    Amounts,
    added,
    amount_words,
    amounts_of,
    limits_of,
    missing_from,
    requests_of,
)
from qhub_spawner.kubernetes.documents import Document, items, mapping, texts
from qhub_spawner.kubernetes.nodes import Node, ScalablePool, Taint, tolerates
from qhub_spawner.kubernetes.pods import Pod

__all__ = [
    "Cluster",
    "Node",
    "Request",
    "ScalablePool",
    "Taint",
    "availability_of",
    "combined",
    "quota_availability",
    "tolerates",
]

GPU = "nvidia.com/gpu"


_KEEPS_OFF = frozenset({"NoSchedule", "NoExecute", ""})
_OF_THE_MOMENT = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/")


@dataclass(frozen=True)
class Request:
    """What one server takes, and where it may run.

    Attributes:
        cpu_millicores: Requested, in thousandths of a core.
        memory_bytes: Requested.
        gpus: Of the resource `gpu_resource`.
        gpu_resource: Name of the device to count.
        others: Further resources by name, see `amounts`.
        node_selector: Labels that a node must have.
        tolerations: Taints that a node may have, as in ``PodSpec``.
        limits: What a quota on ``limits.*`` counts; the same as requested where it is left out.
        terms: Of its node affinity: a node must match one; ``None`` where nothing is demanded.
        uncertain: Whether it also depends on other pods where it may run.
    """

    cpu_millicores: int = 0
    memory_bytes: int = 0
    gpus: int = 0
    gpu_resource: str = GPU
    others: Amounts = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Document] = ()
    limits: Amounts = field(default_factory=dict)
    terms: Sequence[Document] | None = None
    uncertain: bool = False

    @classmethod
    def of(cls, manifest: Mapping[str, Any], *, gpu_resource: str = GPU) -> Request:
        """Return what a pod asks for; `manifest` may not have been sent yet."""
        spec = mapping(manifest, "spec")
        requests = requests_of(manifest)
        return cls(
            cpu_millicores=requests.pop(CPU, 0),
            memory_bytes=requests.pop(MEMORY, 0),
            gpus=requests.pop(gpu_resource, 0),
            gpu_resource=gpu_resource,
            others=requests,
            node_selector=texts(spec, "nodeSelector"),
            tolerations=tuple(items(spec, "tolerations")),
            limits=limits_of(manifest),
            terms=node_terms(spec),
            uncertain=demands_neighbours(spec),
        )

    @property
    def amounts(self) -> dict[str, int]:
        """All of it by name of the resource; a pod always counts as one of ``pods``."""
        return {
            PODS: 1,
            **self.others,
            CPU: self.cpu_millicores,
            MEMORY: self.memory_bytes,
            self.gpu_resource: self.gpus,
        }

    def could_run_on(self, node: Node) -> bool:
        """Whether the node is of the kind that is asked for, and large enough when empty.

        What Kubernetes itself writes on a node in trouble does not change its kind.
        """
        lasting = [taint for taint in node.taints if not taint.key.startswith(_OF_THE_MOMENT)]
        return (
            self.node_selector.items() <= node.labels.items()
            and self._wants(node)
            and self._accepts(lasting)
            and not missing_from(node.allocatable, self.amounts)
        )

    def fits_now(self, node: Node, free: Amounts) -> bool:
        """Whether a node of the right kind takes it at this moment."""
        return node.up and self._accepts(node.taints) and not missing_from(free, self.amounts)

    def _wants(self, node: Node) -> bool:
        return self.terms is None or any(
            term_matches(term, node.name, node.labels) for term in self.terms
        )

    def _accepts(self, taints: Iterable[Taint]) -> bool:
        return all(
            taint.effect not in _KEEPS_OFF or tolerates(self.tolerations, taint) for taint in taints
        )


class Release(NamedTuple):
    """What a pod gives back on its node when its walltime ends."""

    at: datetime
    node: str
    amounts: Amounts


@dataclass(frozen=True)
class Cluster:
    """Nodes and what is free on them, made once for each refresh.

    Attributes:
        nodes: All of them.
        free: By node: what nobody has requested.
        busy: Nodes with pods that are neither of a ``DaemonSet`` nor of the node itself.
        waiting: Pods for which the scheduler has found no node.
        releases: In the order of their ends.
    """

    nodes: tuple[Node, ...]
    free: Mapping[str, Amounts]
    busy: frozenset[str]
    waiting: tuple[Request, ...]
    releases: tuple[Release, ...]

    @classmethod
    def of(cls, nodes: Iterable[Node], pods: Iterable[Pod]) -> Cluster:
        """Count what is free.

        Args:
            nodes: All nodes.
            pods: Those of every namespace; what is missing here counts as free.
        """
        taken: defaultdict[str, Amounts] = defaultdict(dict)
        busy: set[str] = set()
        waiting: list[Request] = []
        releases: list[Release] = []
        for pod in pods:
            if pod.holds_room:
                taken[pod.node] = added(taken[pod.node], pod.requests)
                if pod.owner not in {"DaemonSet", "Node"}:
                    busy.add(pod.node)
                if pod.deadline is not None:
                    releases.append(Release(pod.deadline, pod.node, pod.requests))
            elif pod.unschedulable and not pod.deleting:
                waiting.append(_request_of(pod))
        all_nodes = tuple(nodes)
        free = {node.name: _less(node.allocatable, taken[node.name]) for node in all_nodes}
        in_order = sorted(releases, key=lambda release: release.at)
        return cls(all_nodes, free, frozenset(busy), tuple(waiting), tuple(in_order))


def _request_of(pod: Pod) -> Request:
    return Request(
        others=pod.requests, node_selector=pod.node_selector, tolerations=pod.tolerations
    )


def _less(amounts: Amounts, taken: Amounts) -> dict[str, int]:
    return {name: amount - taken.get(name, 0) for name, amount in amounts.items()}


def availability_of(
    request: Request,
    cluster: Cluster,
    *,
    as_of: datetime,
    scalable: Sequence[ScalablePool] = (),
    stale: bool = False,
) -> Availability:
    """Return what a server would meet.

    The start is ``now`` where a node has room: the scheduler does not make a pod that fits wait for
    those that do not. Else a pool may add a node (`Availability.scale_up`). Else the start is
    calculated from the walltimes of running pods, and so the latest moment by which room for this
    server appears if no other comes first; pods without a walltime promise nothing. Of a server
    that demands or shuns other pods on its node, the start is unknown.

    Args:
        request: What the server takes.
        cluster: What is there.
        as_of: When nodes and pods were read.
        scalable: The pools that may grow.
        stale: Whether the last reading failed.
    """
    kind = [node for node in cluster.nodes if request.could_run_on(node)]
    up = [node for node in kind if node.up]
    growing = [
        pool.new_node
        for pool in scalable
        if request.could_run_on(pool.new_node) and pool.may_grow(cluster.nodes)
    ]
    start, scale_up = StartEstimate(), False
    if any(request.fits_now(node, cluster.free[node.name]) for node in up):
        start = StartEstimate(kind="now", source="calculated")
    elif growing:
        scale_up = True
    else:
        start = _when_free(request, up, cluster, as_of)
    if request.uncertain:
        start = StartEstimate()
    device = request.gpu_resource if request.gpus else None
    return Availability(
        nodes_idle=sum(node.name not in cluster.busy for node in up),
        nodes_total=len(kind),
        cpus_free=sum(max(0, cluster.free[node.name].get(CPU, 0)) for node in up) // 1000,
        gpus_free=sum(max(0, cluster.free[node.name].get(device, 0)) for node in up)
        if device
        else None,
        gpus_total=sum(node.allocatable.get(device, 0) for node in kind) if device else None,
        jobs_waiting=sum(
            any(other.could_run_on(node) for node in (*kind, *growing)) for other in cluster.waiting
        ),
        start=start,
        as_of=as_of,
        stale=stale,
        problem=_problem(kind, up, growing),
        scale_up=scale_up,
    )


def _problem(kind: Sequence[Node], up: Sequence[Node], growing: Sequence[Node]) -> str | None:
    if up or growing:
        return None
    if kind:
        return "no node that could run it takes servers now"
    return "the cluster has no node that could run it"


def _when_free(
    request: Request, nodes: Sequence[Node], cluster: Cluster, now: datetime
) -> StartEstimate:
    """Walk through the ends of the running pods until a node has room."""
    free = {node.name: cluster.free[node.name] for node in nodes}
    by_name = {node.name: node for node in nodes}
    for release in cluster.releases:
        if release.node in free:
            free[release.node] = added(free[release.node], release.amounts)
            if request.fits_now(by_name[release.node], free[release.node]):
                return StartEstimate(kind="at", at=max(release.at, now), source="calculated")
    return StartEstimate()


# --- from a quota alone


def quota_availability(
    request: Request,
    quotas: Iterable[Mapping[str, Any]],
    *,
    as_of: datetime | None = None,
    stale: bool = False,
) -> Availability:
    """Return what the quotas of a namespace leave, where the hub may not see the nodes.

    A quota with scopes counts only some of the pods and is passed over. What a quota leaves is
    allowed, which does not mean that a node has it: the source of the start says so.

    Args:
        request: What the server takes.
        quotas: ``ResourceQuota`` objects of the namespace.
        as_of: When they were read.
        stale: Whether the last reading failed.
    """
    left: dict[str, int] = {}
    most: dict[str, int] = {}
    lacking: dict[str, int] = {}
    counted = False
    for quota in quotas:
        spec = mapping(quota, "spec")
        if spec.get("scopes") or mapping(spec, "scopeSelector"):
            continue
        hard = _hard(mapping(quota, "status", "hard") or mapping(spec, "hard"))
        used = _hard(mapping(quota, "status", "used"))
        for (name, limited), amount in hard.items():
            counted = True
            rest = max(0, amount - used.get((name, limited), 0))
            left[name] = min(left.get(name, rest), rest)
            most[name] = min(most.get(name, amount), amount)
            wanted = _wanted(request, name, limited=limited)
            if wanted > rest:
                lacking[name] = max(lacking.get(name, 0), wanted)
    if not counted:
        return Availability(as_of=as_of, stale=stale)
    words = " and ".join(amount_words(name, amount) for name, amount in sorted(lacking.items()))
    device = request.gpu_resource if request.gpus else ""
    return Availability(
        cpus_free=left[CPU] // 1000 if CPU in left else None,
        gpus_free=left.get(device),
        gpus_total=most.get(device),
        start=StartEstimate() if lacking else StartEstimate(kind="now", source="quota"),
        as_of=as_of,
        stale=stale,
        problem=f"the namespace's quota has no room for {words}" if lacking else None,
    )


def combined(nodes: Availability, quota: Availability) -> Availability:
    """Return what both leave: of each figure the smaller one, and a start only where both allow it.

    Args:
        nodes: What the nodes have, see `availability_of`.
        quota: What the quotas of the namespace allow, see `quota_availability`.
    """
    if quota.start.kind == "unknown" and quota.problem is None:
        return nodes  # no quota counts this
    barred = quota.problem is not None
    problems = [each for each in (nodes.problem, quota.problem) if each is not None]
    read = [each for each in (nodes.as_of, quota.as_of) if each is not None]
    return replace(
        nodes,
        cpus_free=_smaller(nodes.cpus_free, quota.cpus_free),
        gpus_free=_smaller(nodes.gpus_free, quota.gpus_free),
        gpus_total=_smaller(nodes.gpus_total, quota.gpus_total),
        start=StartEstimate() if barred else nodes.start,
        scale_up=nodes.scale_up and not barred,
        as_of=min(read, default=None),
        stale=nodes.stale or quota.stale,
        problem=", and ".join(problems) or None,
    )


def _smaller(one: int | None, other: int | None) -> int | None:
    return min((each for each in (one, other) if each is not None), default=None)


def _hard(amounts: Document) -> dict[tuple[str, bool], int]:
    """Return a quota's amounts by resource, and whether it is about limits.

    ``cpu`` and ``requests.cpu`` are the same (concepts, "Resource Quotas").
    """
    found: dict[tuple[str, bool], int] = {}
    for key, value in texts(amounts).items():
        name = key.removeprefix("requests.").removeprefix("limits.").removeprefix("count/")
        for parsed in amounts_of({name: value}).values():
            found[name, key.startswith("limits.")] = parsed
    return found


def _wanted(request: Request, name: str, *, limited: bool) -> int:
    requested = request.amounts.get(name, 0)
    return request.limits.get(name, requested) if limited else requested
