"""What a profile would meet: quantities, requests, taints, free room, pools that grow, quotas."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhub_spawner.availability import Availability, StartEstimate
from qhub_spawner.kubernetes.amounts import (
    amount_words,
    amounts_of,
    left_words,
    parse_bytes,
    parse_millicores,
    parse_quantity,
)
from qhub_spawner.kubernetes.capacity import (
    Cluster,
    Node,
    Request,
    ScalablePool,
    Taint,
    availability_of,
    combined,
    quota_availability,
    tolerates,
)
from qhub_spawner.kubernetes.pods import Pod, PodState, Why
from tests.unit import hostile
from tests.unit.recorded import kubernetes as recorded

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
GPU = "nvidia.com/gpu"
GIB = 2**30
RESERVED = Taint(GPU, "present", "NoSchedule")
TOLERATES = ({"key": GPU, "operator": "Exists"},)


def node(name: str = "cn1", **changes: Any) -> Node:
    """Return a node of 8 cores and 32 GiB that is ready."""
    allocatable = {"cpu": 8000, "memory": 32 * GIB, "pods": 110, **changes.pop("allocatable", {})}
    return Node(name, allocatable, **changes)


def gpu_node(name: str = "gn1", **changes: Any) -> Node:
    labels = {"pool": "gpu"}
    return node(name, allocatable={GPU: 4}, labels=labels, taints=(RESERVED,), **changes)


def pod(where: str = "cn1", *, minutes: int | None = None, owner: str = "", **amounts: int) -> Pod:
    """Return a pod that runs there, with an end in so many minutes."""
    return Pod(
        state=PodState.RUNNING,
        phase="Running",
        node=where,
        requests={"pods": 1, **{name.replace("gpu", GPU): n for name, n in amounts.items()}},
        deadline=None if minutes is None else NOW + timedelta(minutes=minutes),
        owner=owner,
    )


def waiting(**changes: Any) -> Pod:
    why = Why("Unschedulable", "0/1 nodes are available")
    changes.setdefault("requests", {"cpu": 1000, "pods": 1})
    return Pod(state=PodState.PENDING, phase="Pending", unscheduled=why, **changes)


SMALL = Request(cpu_millicores=1000, memory_bytes=4 * GIB)
ON_GPU = Request(cpu_millicores=2000, gpus=2, node_selector={"pool": "gpu"}, tolerations=TOLERATES)


def look(
    request: Request, nodes: list[Node], pods: list[Pod] | None = None, **more: Any
) -> Availability:
    return availability_of(request, Cluster.of(nodes, pods or []), as_of=NOW, **more)


# --- quantities


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("128974848", 128974848),
        ("129e6", 129_000_000),
        ("129E6", 129_000_000),
        ("129M", 129_000_000),
        ("128974848000m", 128974848),
        ("123Mi", 123 * 2**20),
        ("4Gi", 4 * GIB),
        ("1.5Gi", 1536 * 2**20),
        ("2k", 2000),
        ("1e3", 1000),
        ("1E", 10**18),
        ("1Ei", 2**60),
        ("+5", 5),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("250m", Fraction(1, 4)),
        ("100n", Fraction(1, 10**7)),
        ("7u", Fraction(7, 10**6)),
        ("1e-3", Fraction(1, 1000)),
        ("-1", -1),
        ("99E", 2**63 - 1),
        ("1e999", 2**63 - 1),
        (3, 3),
        (10**30, 2**63 - 1),
        (0.5, Fraction(1, 2)),
        (9.0, 9),
        (1e30, 2**63 - 1),
    ],
)
def test_quantities(text: str, amount: Fraction) -> None:
    """Exactly what the API reference says, and no more than 2^63-1."""
    assert parse_quantity(text) == amount


@pytest.mark.parametrize(
    "text",
    ["", " ", "4 Gi", "4gi", "4K", "4GB", "Gi", "1e", "1e1.5", "1e9999", "0x10", "1_000", "nan",
     "infinity", "1.2.3", "٣", "4Gi\n", "--1", "." , "9" * 65, None, True,
     math.nan, math.inf, [], {}],
)  # fmt: skip
def test_what_is_no_quantity_is_refused(text: Any) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match="is not a quantity"):
        parse_quantity(text)


@pytest.mark.parametrize("name", hostile.TEXTS)
def test_hostile_quantities(name: str) -> None:
    """Refused as well, but for the few that are numbers."""
    text = hostile.TEXTS[name]
    if name in {"negative", "zero", "exponent"}:
        assert parse_quantity(text) == min(Fraction(text), 2**63 - 1)
        return
    with pytest.raises(ValueError, match="is not a quantity"):
        parse_quantity(text)


def test_parts_round_up() -> None:
    """As Kubernetes does: nothing is promised that is not there."""
    assert parse_millicores("0.0001") == 1
    assert parse_millicores("1.0005") == 1001
    assert parse_millicores("100n") == 1
    assert parse_bytes("400m") == 1
    assert parse_bytes("0.5Ki") == 512


@given(st.integers(0, 2**62))
def test_whole_numbers_are_exact(number: int) -> None:
    """Bytes as bytes, millicores as millicores."""
    assert parse_bytes(str(number)) == number
    assert parse_millicores(f"{number}m") == number


@given(st.text(max_size=12))
def test_any_text_is_a_quantity_or_refused(text: str) -> None:
    """Nothing else is raised; what a list cannot read is passed over there."""
    try:
        assert parse_quantity(text) <= 2**63 - 1
    except ValueError:
        assert amounts_of({"cpu": text}) == {}


def test_a_list_of_amounts() -> None:
    """The cpu in millicores, everything else in its own unit."""
    quantities = {"cpu": "1500m", "memory": "1Gi", GPU: "2", "odd": "x", "less": "-1"}
    assert amounts_of(quantities) == {"cpu": 1500, "memory": GIB, GPU: 2}
    assert amounts_of(None) == amounts_of([1]) == {}


@pytest.mark.parametrize(
    ("name", "amount", "words"),
    [
        ("cpu", 1000, "1 core"),
        ("cpu", 500, "0.5 cores"),
        ("cpu", 0, "enough cores"),
        ("memory", 600 * 2**20, "600 MiB of memory"),
        ("memory", 1536 * 2**20, "1536 MiB of memory"),
        ("memory", 123_456_789_123, "about 115 GiB of memory"),
        ("ephemeral-storage", 10**9, "1 GB of local disk space"),
        (GPU, 1, "1 GPU"),
        ("amd.com/gpu", 8, "8 GPUs"),
        ("gpu.intel.com/i915", 1, "1 GPU"),
        (GPU, 0, "enough GPUs"),
        ("nvidia.com/mig-1g.5gb", 2, "2 nvidia.com/mig-1g.5gb"),
        ("example.com/tpu", 0, "enough example.com/tpu"),
        ("pods", 3, "3 pods"),
    ],
)
def test_amounts_in_words(name: str, amount: int, words: str) -> None:
    """As people say them; 0 is an amount that is not known."""
    assert amount_words(name, amount) == words
    assert left_words(name, 0) == "none"


# --- taints and nodes


@pytest.mark.parametrize(
    ("toleration", "covers"),
    [
        ({"key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule"}, True),
        ({"key": "a", "value": "b"}, True),
        ({"key": "a", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "", "operator": "Exists", "effect": "NoSchedule"}, True),
        ({"operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "a", "operator": "Equal", "value": "c"}, False),
        ({"key": "a"}, False),
        ({"key": "c", "operator": "Exists"}, False),
        ({"key": "a", "value": "b", "effect": "NoExecute"}, False),
        ({"key": "a", "operator": "Gt", "value": "b"}, False),
        ({"operator": "Equal", "value": "b"}, False),
        ({}, False),
    ],
)
def test_tolerations(toleration: dict[str, Any], covers: bool) -> None:
    """Key, operator, value and effect as the API reference says."""
    assert tolerates([toleration], Taint("a", "b", "NoSchedule")) is covers
    assert tolerates([{}, toleration], Taint("a", "b", "NoSchedule")) is covers


def test_a_soft_taint_keeps_nobody_off() -> None:
    """PreferNoSchedule is a wish."""
    soft = node(taints=(Taint("a", "b", "PreferNoSchedule"),))
    assert look(SMALL, [soft]).start.kind == "now"
    for effect in ("NoSchedule", "NoExecute"):
        hard = node(taints=(Taint("a", "b", effect),))
        assert look(SMALL, [hard]).nodes_total == 0


def test_a_recorded_node() -> None:
    """A real node with two GPUs, one of them in use by a pod with a walltime."""
    others = recorded.document("others")
    found = Node.of(others["node"])
    assert found.name == "node1"
    assert found.up
    assert found.taints == ()
    assert found.allocatable[GPU] == 2
    assert found.allocatable["cpu"] == 2000
    assert found.labels["kubernetes.io/os"] == "linux"
    pods = [Pod.of(each) for each in others["all-pods"]]
    cluster = Cluster.of([found], pods)
    one = availability_of(Request(cpu_millicores=10, gpus=1), cluster, as_of=NOW)
    assert (one.gpus_free, one.gpus_total, one.nodes_total, one.start.kind) == (1, 2, 1, "now")
    two = availability_of(Request(cpu_millicores=10, gpus=2), cluster, as_of=NOW)
    ends = next(each.deadline for each in pods if each.name == "jupyter-with-gpu")
    assert (two.start.kind, two.start.at, two.start.source) == ("at", ends, "calculated")


def test_recorded_nodes_that_take_nothing() -> None:
    """One is cordoned, one has been lost; both are still of their kind."""
    others = recorded.document("others")
    for name in ("closed-node", "lost-node"):
        found = Node.of(others[name])
        assert not found.up
        seen = look(Request(cpu_millicores=10), [found])
        assert (seen.nodes_idle, seen.nodes_total, seen.cpus_free) == (0, 1, 0)
        assert seen.problem == "no node that could run it takes servers now"
        assert seen.start.kind == "unknown"


# --- availability


def test_room_now() -> None:
    """A free node: how much there is, and that it starts."""
    seen = look(SMALL, [node(), node("cn2")], [pod(cpu=2500)])
    assert seen == Availability(
        nodes_idle=1,
        nodes_total=2,
        cpus_free=13,
        jobs_waiting=0,
        start=replace(seen.start, kind="now", source="calculated"),
        as_of=NOW,
    )


@pytest.mark.parametrize(
    "taken",
    [{"cpu": 7500}, {"memory": 30 * GIB}, {"cpu": 9000}],
)
def test_no_room_now(taken: dict[str, int]) -> None:
    """Each resource counts; without any walltime nobody knows when."""
    seen = look(SMALL, [node()], [pod(**taken)])
    assert seen.start.kind == "unknown"
    assert seen.cpus_free is not None
    assert seen.cpus_free >= 0
    assert not seen.scale_up
    assert seen.problem is None


def test_a_node_that_is_overcommitted_still_takes_what_asks_for_nothing() -> None:
    """A request of zero always fits."""
    assert look(Request(), [node()], [pod(cpu=9000)]).start.kind == "now"


def test_a_node_takes_so_many_pods() -> None:
    """A pod is a resource too."""
    crowded = node(allocatable={"pods": 2})
    assert look(Request(), [crowded], [pod(), pod()]).start.kind == "unknown"


def test_pods_that_have_ended_hold_nothing() -> None:
    """And pods whose node does not answer still do."""
    ended = replace(pod(cpu=8000), phase="Succeeded", state=PodState.SUCCEEDED)
    assert look(SMALL, [node()], [ended]).start.kind == "now"
    lost = replace(pod(cpu=8000), state=PodState.UNKNOWN)
    assert look(SMALL, [node()], [lost]).start.kind == "unknown"
    with_sidecar = replace(pod(cpu=8000), state=PodState.SUCCEEDED)  # the phase is still Running
    assert look(SMALL, [node()], [with_sidecar]).start.kind == "unknown"


def test_daemons_do_not_make_a_node_busy() -> None:
    """What runs on every node is not counted as work, but its requests are."""
    daemons = [pod(owner="DaemonSet", cpu=500), pod(owner="Node", cpu=200)]
    seen = look(SMALL, [node()], daemons)
    assert (seen.nodes_idle, seen.cpus_free) == (1, 7)


def test_gpus() -> None:
    """Counted on the nodes of their kind, for who asks for some."""
    nodes = [node(), gpu_node(), gpu_node("gn2")]
    seen = look(ON_GPU, nodes, [pod("gn1", cpu=1000, gpu=3)])
    assert (seen.gpus_free, seen.gpus_total, seen.nodes_total) == (5, 8, 2)
    assert seen.start.kind == "now"
    full = [pod("gn1", gpu=3), pod("gn2", gpu=4)]
    seen = look(ON_GPU, nodes, full)
    assert (seen.gpus_free, seen.start.kind) == (1, "unknown")
    assert look(SMALL, nodes).gpus_free is None
    other = replace(ON_GPU, gpu_resource="amd.com/gpu")
    assert look(other, nodes).problem == "the cluster has no node that could run it"


def test_nodes_are_of_a_kind_by_selector_taint_and_size() -> None:
    """What Kubernetes writes on a node in trouble does not change its kind."""
    assert look(replace(ON_GPU, tolerations=()), [gpu_node()]).nodes_total == 0
    assert look(replace(ON_GPU, node_selector={"pool": "cpu"}), [gpu_node()]).nodes_total == 0
    assert look(replace(ON_GPU, gpus=5), [gpu_node()]).nodes_total == 0
    ill = gpu_node(ready=False)
    ill = replace(ill, taints=(*ill.taints, Taint("node.kubernetes.io/not-ready", "", "NoExecute")))
    seen = look(ON_GPU, [ill])
    assert (seen.nodes_total, seen.start.kind) == (1, "unknown")


@pytest.mark.parametrize(
    ("demand", "fits"),
    [
        ({"key": "pool", "operator": "In", "values": ["gpu", "x"]}, True),
        ({"key": "pool", "operator": "In", "values": ["x"]}, False),
        ({"key": "pool", "operator": "NotIn", "values": ["x"]}, True),
        ({"key": "other", "operator": "NotIn", "values": ["x"]}, True),
        ({"key": "pool", "operator": "Exists"}, True),
        ({"key": "other", "operator": "Exists"}, False),
        ({"key": "other", "operator": "DoesNotExist"}, True),
        ({"key": "size", "operator": "Gt", "values": ["3"]}, True),
        ({"key": "size", "operator": "Gt", "values": ["4"]}, False),
        ({"key": "size", "operator": "Lt", "values": ["5"]}, True),
        ({"key": "pool", "operator": "Lt", "values": ["5"]}, False),
        ({"key": "pool", "operator": "Unheard"}, False),
    ],
)
def test_what_an_affinity_demands(demand: dict[str, Any], fits: bool) -> None:
    """A node must match all of one term; a term that says nothing matches none."""
    labels = {"pool": "gpu", "size": "4"}
    term = {"matchExpressions": [demand]}
    for terms in ([term], [{}, term], [{"matchExpressions": [demand, demand]}]):
        affinity = {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}
            }
        }
        request = Request.of({"spec": {"containers": [], "affinity": affinity}})
        assert request.could_run_on(node(labels=labels)) is fits
        view = look(request, nodes=[node(labels=labels)])
        assert (view.start.kind == "now") is fits


def test_an_affinity_names_a_node() -> None:
    """By its own name, which is no label."""
    field = {"key": "metadata.name", "operator": "In", "values": ["cn2"]}
    request = Request(terms=[{"matchFields": [field]}])
    assert [request.could_run_on(node(name)) for name in ("cn1", "cn2")] == [False, True]
    assert not Request(terms=[]).could_run_on(node())


@pytest.mark.parametrize("kind", ["podAffinity", "podAntiAffinity", "spread"])
def test_what_depends_on_other_pods_is_unknown(kind: str) -> None:
    """Where other pods decide, nobody is promised a start."""
    term = {"labelSelector": {}, "topologyKey": "kubernetes.io/hostname"}
    spec: dict[str, Any] = {"containers": []}
    if kind == "spread":
        spec["topologySpreadConstraints"] = [{**term, "whenUnsatisfiable": "DoNotSchedule"}]
    else:
        spec["affinity"] = {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    view = look(Request.of({"spec": spec}), nodes=[node()])
    assert (view.start.kind, view.problem, view.nodes_total) == ("unknown", None, 1)
    soft = {**term, "whenUnsatisfiable": "ScheduleAnyway"}
    request = Request.of({"spec": {"containers": [], "topologySpreadConstraints": [soft]}})
    assert look(request, nodes=[node()]).start.kind == "now"


def test_walltimes_say_when_there_is_room() -> None:
    """The moment by which enough has ended, on one node, whatever is over already."""
    pods = [pod(cpu=4000, minutes=30), pod(cpu=4000, minutes=10), pod("cn2", cpu=8000)]
    seen = look(SMALL, [node(), node("cn2")], pods)
    assert (seen.start.kind, seen.start.at) == ("at", NOW + timedelta(minutes=10))
    whole = look(replace(SMALL, cpu_millicores=8000), [node(), node("cn2")], pods)
    assert whole.start.at == NOW + timedelta(minutes=30)
    elsewhere = [pod("cn9", cpu=8000, minutes=1), pod(cpu=8000)]
    assert look(SMALL, [node()], elsewhere).start.kind == "unknown"
    late = look(SMALL, [node()], [pod(cpu=8000, minutes=-5)])
    assert late.start.at == NOW


def test_a_pool_that_may_grow() -> None:
    """A node can be added while the pool has fewer than it may, and if it would be of use."""
    new = {"cpu": 8000, "memory": 32 * GIB, "pods": 110, GPU: 4}
    pool = ScalablePool({"pool": "gpu"}, 2, new, (RESERVED,))
    seen = look(ON_GPU, [node()], scalable=[pool])
    assert (seen.scale_up, seen.start.kind, seen.problem) == (True, "unknown", None)
    assert (seen.nodes_total, seen.gpus_free) == (0, 0)
    full = [pod("gn1", gpu=4, minutes=5)]
    assert look(ON_GPU, [gpu_node()], full, scalable=[pool]).scale_up
    grown = look(ON_GPU, [gpu_node(), gpu_node("gn2", ready=False)], full, scalable=[pool])
    assert (grown.scale_up, grown.start.kind) == (False, "at")
    assert not look(ON_GPU, [gpu_node()], scalable=[pool]).scale_up  # there is room
    for useless in (
        replace(pool, allocatable={**new, GPU: 1}),
        replace(pool, taints=(RESERVED, Taint("spot"))),
        replace(pool, labels={"pool": "spot"}),
        replace(pool, max_nodes=0),
    ):
        assert not look(ON_GPU, [node()], scalable=[useless]).scale_up


def test_who_waits_for_the_same() -> None:
    """Pods that no node takes are counted where they could run; others are in nobody's way."""
    for_gpu = waiting(
        requests={GPU: 1, "pods": 1}, node_selector={"pool": "gpu"}, tolerations=TOLERATES
    )
    pods = [waiting(), waiting(deleting=True), for_gpu, Pod(state=PodState.PENDING)]
    nodes = [node(), gpu_node()]
    assert look(SMALL, nodes, pods).jobs_waiting == 1
    assert look(ON_GPU, nodes, pods).jobs_waiting == 1
    assert look(SMALL, nodes, pods).start.kind == "now"
    pool = ScalablePool({"pool": "gpu"}, 1, {"cpu": 8000, "pods": 9, GPU: 4}, (RESERVED,))
    assert look(ON_GPU, [node()], pods, scalable=[pool]).jobs_waiting == 1


def test_nothing_is_there() -> None:
    """An empty cluster is not a broken one: it says what it lacks, and how old it is."""
    seen = look(SMALL, [], stale=True)
    assert seen.problem == "the cluster has no node that could run it"
    assert (seen.stale, seen.as_of, seen.nodes_total, seen.jobs_waiting) == (True, NOW, 0, 0)


def test_a_request_from_a_manifest() -> None:
    """What would be sent is what is looked for."""
    manifest = recorded.pod("with-gpu")
    request = Request.of(manifest)
    assert (request.cpu_millicores, request.gpus, request.gpu_resource) == (10, 1, GPU)
    assert request.amounts == {"cpu": 10, "memory": 0, GPU: 1, "pods": 1}
    assert request.limits == {"cpu": 10, GPU: 1, "pods": 1}
    assert request.tolerations
    selector = Request.of(recorded.pod("selector")).node_selector
    assert selector == {"pool": "gpu"}
    other = Request.of(manifest, gpu_resource="amd.com/gpu")
    assert (other.gpus, other.others[GPU]) == (0, 1)
    assert not other.could_run_on(node())
    assert Request.of({}) == Request(others={"pods": 1}, limits={"pods": 1})


AMOUNTS = st.fixed_dictionaries(
    {}, optional={name: st.integers(0, 9000) for name in ("cpu", "memory", GPU, "pods")}
)


@given(AMOUNTS, st.lists(AMOUNTS, max_size=5), st.integers(0, 6))
def test_what_is_promised_is_there(
    room: dict[str, int], taken: list[dict[str, int]], gpus: int
) -> None:
    """A start now is said exactly where every resource that is asked for is left."""
    request = Request(cpu_millicores=1000, gpus=gpus)
    pods = [replace(pod(), requests=each) for each in taken]
    seen = availability_of(request, Cluster.of([Node("cn1", room)], pods), as_of=NOW)
    left = {name: n - sum(each.get(name, 0) for each in taken) for name, n in room.items()}
    fits = all(left.get(name, 0) >= amount for name, amount in request.amounts.items() if amount)
    assert (seen.start.kind == "now") == fits
    for figure in (seen.cpus_free, seen.gpus_free, seen.gpus_total, seen.nodes_idle):
        assert figure is None or figure >= 0


# --- quotas


def quota(hard: dict[str, str], used: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {"spec": {"hard": hard, **spec}, "status": {"hard": hard, "used": used or {}}}


def test_recorded_quotas() -> None:
    """A quota in use, and one with a scope, which is passed over."""
    quotas = recorded.document("others")["quotas"]
    assert {each["metadata"]["name"] for each in quotas} == {"people", "scoped"}
    small = Request(cpu_millicores=100, memory_bytes=100 * 2**20, gpus=2)
    seen = quota_availability(small, quotas, as_of=NOW)
    assert (seen.cpus_free, seen.gpus_free, seen.gpus_total) == (0, 2, 2)
    assert (seen.start.kind, seen.start.source, seen.problem) == ("now", "quota", None)
    assert (seen.nodes_total, seen.jobs_waiting, seen.as_of) == (None, None, NOW)
    seen = quota_availability(replace(small, memory_bytes=GIB, gpus=3), quotas, stale=True)
    assert seen.problem == "the namespace's quota has no room for 1 GiB of memory and 3 GPUs"
    assert (seen.start.kind, seen.stale) == ("unknown", True)


@pytest.mark.parametrize(
    ("hard", "used", "fits"),
    [
        ({"requests.cpu": "4"}, {"requests.cpu": "3"}, True),
        ({"requests.cpu": "4"}, {"requests.cpu": "3500m"}, False),
        ({"cpu": "4"}, {"cpu": "3500m"}, False),
        ({"limits.cpu": "4"}, {"limits.cpu": "2"}, True),
        ({"limits.cpu": "4"}, {"limits.cpu": "3"}, False),
        ({"limits.memory": "16Gi"}, {"limits.memory": "12Gi"}, True),
        ({"requests.memory": "16Gi"}, {"requests.memory": "13Gi"}, False),
        ({"pods": "3"}, {"pods": "2"}, True),
        ({"pods": "3"}, {"pods": "3"}, False),
        ({"count/pods": "3"}, {"count/pods": "3"}, False),
        ({"requests.nvidia.com/gpu": "1"}, {}, True),
        ({"requests.nvidia.com/gpu": "0"}, {}, False),
        ({"services": "0"}, {}, True),
        ({"requests.cpu": "1"}, {"requests.cpu": "5"}, False),
    ],
)
def test_each_key_of_a_quota(hard: dict[str, str], used: dict[str, str], fits: bool) -> None:
    """Requests and limits are different sums; what the server does not take is no obstacle."""
    request = replace(SMALL, gpus=1, limits={"cpu": 2000})
    seen = quota_availability(request, [quota(hard, used)])
    assert (seen.start.kind == "now") is fits
    assert (seen.problem is None) is fits
    assert seen.cpus_free is None or seen.cpus_free >= 0


def test_several_quotas() -> None:
    """The tightest counts."""
    quotas = [
        quota({"cpu": "8"}, {"cpu": "1"}),
        quota({"requests.cpu": "6"}, {"requests.cpu": "4"}),
    ]
    assert quota_availability(SMALL, quotas).cpus_free == 2
    assert quota_availability(replace(SMALL, cpu_millicores=3000), quotas).problem is not None


@pytest.mark.parametrize(
    "quotas",
    [
        [],
        [quota({"pods": "0"}, scopes=["BestEffort"])],
        [
            quota(
                {"pods": "0"}, scopeSelector={"matchExpressions": [{"scopeName": "PriorityClass"}]}
            )
        ],
        [{}],
        [{"status": {"hard": {"pods": "many"}}}],
    ],
)
def test_no_quota_that_counts_says_nothing(quotas: list[dict[str, Any]]) -> None:
    """Nothing is known then, which is not the same as room."""
    assert quota_availability(SMALL, quotas, as_of=NOW) == Availability(as_of=NOW)


@pytest.mark.parametrize("name", hostile.DATA)
def test_hostile_quotas(name: str) -> None:
    """Whatever stands there, nothing is raised."""
    data = hostile.DATA[name]
    odd: Any = {"spec": data, "status": {"hard": data, "used": data}}
    assert quota_availability(SMALL, [odd]).nodes_total is None
    assert Request.of(odd).gpus == 0


REAL = StartEstimate("now", source="calculated")
BY_NODES = Availability(
    nodes_idle=2, nodes_total=3, cpus_free=16, gpus_free=2, gpus_total=4, start=REAL, as_of=NOW
)
BY_QUOTA = StartEstimate("now", source="quota")


@pytest.mark.parametrize(
    ("quota_view", "changes"),
    [
        (Availability(as_of=NOW, stale=True), {}),
        (Availability(cpus_free=4, start=BY_QUOTA), {"cpus_free": 4}),
        (
            Availability(cpus_free=99, gpus_free=1, gpus_total=9, start=BY_QUOTA),
            {"gpus_free": 1},
        ),
        (
            Availability(gpus_free=0, gpus_total=2, problem="no room for 1 GPU", stale=True),
            {
                "gpus_free": 0,
                "gpus_total": 2,
                "problem": "no room for 1 GPU",
                "start": StartEstimate(),
                "stale": True,
            },
        ),
        (
            Availability(cpus_free=4, start=BY_QUOTA, as_of=NOW - timedelta(minutes=1)),
            {"cpus_free": 4, "as_of": NOW - timedelta(minutes=1)},
        ),
    ],
)
def test_nodes_and_quota(quota_view: Availability, changes: dict[str, Any]) -> None:
    """The smaller figure counts; a quota that is full keeps the server, one that is silent nothing."""
    assert combined(BY_NODES, quota_view) == replace(BY_NODES, **changes)


def test_a_full_quota_is_not_mended_by_a_new_node() -> None:
    """No node is promised to who may not have it; and both reasons are told."""
    growing = Availability(nodes_total=0, scale_up=True, problem="no node that could run it")
    found = combined(growing, Availability(problem="the quota has no room"))
    assert not found.scale_up
    assert found.problem == "no node that could run it, and the quota has no room"
