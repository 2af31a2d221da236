"""A pod's JSON: read without trust, and kept in memory without what is not needed."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhub_spawner.kubernetes import names
from qhub_spawner.kubernetes.amounts import limits_of, requests_of
from qhub_spawner.kubernetes.capacity import Node
from qhub_spawner.kubernetes.documents import moment, said
from qhub_spawner.kubernetes.events import Event, in_order, latest, read_all
from qhub_spawner.kubernetes.pods import NOT_SAID, Pod, PodState, Why, slim
from qhub_spawner.kubernetes.slimming import slim_event, slim_node
from tests.unit import hostile
from tests.unit.recorded import kubernetes as recorded
from tests.unit.recorded.kubernetes import SECRET

ALL = sorted(recorded.document("pods"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)
CONTAINER_STATE = st.fixed_dictionaries(
    {},
    optional={
        "running": st.just({"startedAt": "2026-11-21T08:00:00Z"}) | JSON,
        "waiting": st.fixed_dictionaries(
            {"reason": st.sampled_from(["PodInitializing", "ErrImagePull", ""])},
            optional={"message": st.text(max_size=20)},
        )
        | JSON,
        "terminated": st.fixed_dictionaries(
            {"exitCode": st.integers(0, 255)},
            optional={
                "reason": st.sampled_from(["OOMKilled", "StartError", "Error"]),
                "message": st.text(max_size=20),
            },
        )
        | JSON,
    },
)
CONTAINERS = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["notebook", "agent"])},
        optional={
            "image": st.text(max_size=8),
            "restartPolicy": st.sampled_from(["Always", "Never"]),
            "restartPolicyRules": JSON,
            "resources": st.fixed_dictionaries(
                {}, optional={"requests": st.just({"cpu": "10m"}) | JSON, "limits": JSON}
            ),
            "env": JSON,
        },
    )
    | JSON,
    max_size=3,
)
STATUSES = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["notebook", "agent"])},
        optional={
            "state": CONTAINER_STATE | JSON,
            "lastState": CONTAINER_STATE | JSON,
            "restartCount": st.integers(0, 3) | JSON,
        },
    )
    | JSON,
    max_size=3,
)
CONDITIONS = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["PodScheduled", "Ready", "ContainersReady"]),
            "status": st.sampled_from(["True", "False"]),
        },
        optional={"reason": st.text(max_size=8), "message": st.text(max_size=40)},
    )
    | JSON,
    max_size=3,
)
MANIFESTS = st.fixed_dictionaries(
    {},
    optional={
        "metadata": st.fixed_dictionaries(
            {},
            optional={
                "name": JSON,
                "uid": st.text(max_size=8),
                "labels": JSON | st.dictionaries(st.just(names.HUB), st.text(max_size=4)),
                "annotations": JSON | st.dictionaries(st.just(names.USER), st.text(max_size=4)),
                "deletionTimestamp": st.just("2026-11-21T08:00:00Z") | JSON,
                "creationTimestamp": JSON,
                "ownerReferences": JSON | st.just([{"kind": "DaemonSet", "name": "x"}]),
                "managedFields": JSON,
            },
        )
        | JSON,
        "spec": st.fixed_dictionaries(
            {},
            optional={
                "containers": CONTAINERS | JSON,
                "initContainers": CONTAINERS | JSON,
                "restartPolicy": st.sampled_from(["Always", "Never", "OnFailure"]) | JSON,
                "nodeName": st.just("node1") | JSON,
                "tolerations": JSON,
                "nodeSelector": JSON,
                "overhead": JSON,
                "readinessGates": JSON,
                "activeDeadlineSeconds": st.integers() | JSON,
                "volumes": JSON,
            },
        )
        | JSON,
        "status": st.fixed_dictionaries(
            {},
            optional={
                "phase": st.sampled_from(["Pending", "Running", "Failed", "Unknown"]) | JSON,
                "containerStatuses": STATUSES | JSON,
                "initContainerStatuses": STATUSES | JSON,
                "conditions": CONDITIONS | JSON,
                "podIP": st.sampled_from(["10.0.0.1", "fd00::1", "x"]) | JSON,
                "podIPs": JSON,
                "startTime": st.just("2026-11-21T08:00:00Z") | JSON,
                "reason": JSON | st.just("NodeLost"),
            },
        )
        | JSON,
    },
)


def made(phase: str = "Running", **changes: Any) -> dict[str, Any]:
    """Return a pod whose server runs; `state`, `policy`, `spec`, `status`, `metadata` change it."""
    state = changes.pop("state", {"running": {"startedAt": "2026-11-21T08:00:05Z"}})
    own = {"name": "notebook", "state": state, "restartCount": changes.pop("restarts", 0)}
    return {
        "metadata": {"name": "jupyter-ada", **changes.pop("metadata", {})},
        "spec": {
            "nodeName": "node1",
            "restartPolicy": changes.pop("policy", "Never"),
            "containers": [{"name": "notebook", "image": "lab:1"}],
            **changes.pop("spec", {}),
        },
        "status": {
            "phase": phase,
            "podIP": "10.0.0.7",
            "containerStatuses": [own],
            **changes.pop("status", {}),
        },
    }


def ended(code: int, reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason}}


def conditions(**values: str) -> dict[str, Any]:
    return {"conditions": [{"type": name, "status": value} for name, value in values.items()]}


# --- recorded


@pytest.mark.parametrize(
    ("name", "state", "code"),
    [
        ("running", PodState.RUNNING, None),
        ("with-gpu", PodState.RUNNING, None),
        ("succeeded", PodState.SUCCEEDED, 0),
        ("sidecar", PodState.SUCCEEDED, 0),
        ("failed", PodState.FAILED, 3),
        ("oom", PodState.FAILED, 137),
        ("deadline", PodState.FAILED, 137),
        ("no-program", PodState.FAILED, 128),
        ("init", PodState.FAILED, 1),
        ("crashloop", PodState.STARTING, 3),
        ("no-image", PodState.PULLING, None),
        ("never-image", PodState.PULLING, None),
        ("image-name", PodState.PULLING, None),
        ("no-secret", PodState.PULLING, None),
        ("init-image", PodState.PULLING, None),
        ("no-folder", PodState.SCHEDULED, None),
        ("no-secret-volume", PodState.SCHEDULED, None),
        ("gpus", PodState.PENDING, None),
        ("cores", PodState.PENDING, None),
        ("selector", PodState.PENDING, None),
        ("no-claim", PodState.PENDING, None),
        ("unbound-claim", PodState.PENDING, None),
        ("gated", PodState.PENDING, None),
        ("closed", PodState.PENDING, None),
        ("preemptor", PodState.PENDING, None),
        ("deleted", PodState.TERMINATING, None),
        ("drained", PodState.TERMINATING, None),
        ("preempted", PodState.TERMINATING, None),
        ("tainted", PodState.TERMINATING, None),
        ("lost", PodState.UNKNOWN, None),
    ],
)
def test_recorded_states(name: str, state: PodState, code: int | None) -> None:
    """Each recorded fate has its state and, where the container ended, its exit code."""
    pod = Pod.of(recorded.pod(name))
    assert (pod.state, pod.exit_code) == (state, code)
    assert pod.over == (state in {PodState.SUCCEEDED, PodState.FAILED})
    assert pod.running == (state is PodState.RUNNING)
    assert sum((pod.over, pod.running, pod.waiting)) <= 1


def test_recorded_evictions() -> None:
    """A pod that used too much disk is over, with the kubelet's reason."""
    for name in ("full-disk", "full-volume"):
        pod = Pod.of(recorded.pod(name))
        assert pod.state is PodState.FAILED
        assert pod.why.reason == "Evicted"


def test_a_recorded_pod_in_full() -> None:
    """All that is read of a running server, with names that are no labels."""
    pod = Pod.of(recorded.pod("running"))
    assert pod.name == "jupyter-running"
    assert pod.namespace == "lab"
    assert len(pod.uid) == 36
    assert pod.node == "node1"
    assert pod.ip.count(".") == 3
    assert pod.created is not None
    assert pod.started is not None
    assert pod.created <= pod.started
    assert pod.created.tzinfo is UTC
    assert (pod.hub_id, pod.spawn_id) == ("a1", "0123456789abcdef")
    assert (pod.user, pod.server) == ("running@example.org", "")
    assert pod.requests == {"cpu": 10, "memory": 16 * 2**20, "pods": 1}
    assert (pod.reasons, pod.owner, pod.restarts, pod.deadline) == ((), "", 0, None)
    assert pod.holds_room
    assert Pod.of(recorded.pod("with-gpu")).deadline is not None


@pytest.mark.parametrize("name", ALL)
def test_slim_keeps_what_is_read_and_no_secret(name: str) -> None:
    """What the hub keeps says the same, is a fraction of the size, and holds no value of env."""
    manifest = recorded.pod(name)
    before = copy.deepcopy(manifest)
    kept = slim(manifest)
    assert manifest == before
    assert Pod.of(kept) == Pod.of(manifest)
    assert slim(kept) == kept
    text = json.dumps(kept)
    assert SECRET in json.dumps(manifest) or name == "no-secret"
    assert SECRET not in text
    for word in ("managedFields", '"env"', '"command"', "hostPath", "secretName", "x:1000"):
        assert word not in text
    assert kept["metadata"]["annotations"].keys() <= {
        names.USER,
        names.SERVER,
        "hub.jupyter.org/username",
    }
    assert kept["metadata"]["resourceVersion"]


def test_slim_drops_the_end_of_a_log() -> None:
    """A container's last message may be its log (terminationMessagePolicy); a start error is not."""
    for reason, kept in (("Error", False), ("OOMKilled", False), ("StartError", True)):
        state = {"terminated": {"exitCode": 1, "reason": reason, "message": "here"}}
        manifest = made(state=state, status={"x": 1})
        assert ("here" in json.dumps(slim(manifest))) == kept
        assert Pod.of(manifest).terminated == Why(reason, "here" if kept else "")


def test_the_recording_is_whole() -> None:
    """Of the version that is said, every pod with what was said of it."""
    assert set(recorded.document("events")) == set(ALL)
    assert recorded.document("others")["version"]["gitVersion"].startswith("v1.34.")


# --- states


@pytest.mark.parametrize(
    ("policy", "code", "state"),
    [
        ("Never", 0, PodState.SUCCEEDED),
        ("Never", 1, PodState.FAILED),
        ("OnFailure", 0, PodState.SUCCEEDED),
        ("OnFailure", 1, PodState.STARTING),
        ("Always", 0, PodState.STARTING),
        ("Always", 1, PodState.STARTING),
        ("", 1, PodState.STARTING),
        (None, 1, PodState.STARTING),
        ("Sometimes", 0, PodState.STARTING),
    ],
)
def test_a_container_that_ended_is_over_only_if_it_stays_so(
    policy: str, code: int, state: PodState
) -> None:
    """The restart policy decides; what it is unknown is taken as one that restarts."""
    assert Pod.of(made(policy=policy, state=ended(code))).state is state


def test_a_containers_own_restart_rules_come_first() -> None:
    """A container's own policy beats the pod's, and rules are not guessed (1.34, alpha)."""
    for own, state in (
        ({"restartPolicy": "Always"}, PodState.STARTING),
        ({"restartPolicy": "Never"}, PodState.FAILED),
        ({"restartPolicyRules": [{"action": "Restart"}]}, PodState.STARTING),
    ):
        manifest = made(state=ended(1), spec={"containers": [{"name": "notebook", **own}]})
        assert Pod.of(manifest).state is state
        assert Pod.of(slim(manifest)).state is state


def test_a_deleted_pod_does_not_restart_its_container() -> None:
    """Whatever its policy: while it is deleted its container's end is the end."""
    going = {"deletionTimestamp": "2026-11-21T08:00:00Z"}
    assert Pod.of(made(policy="Always", metadata=going)).state is PodState.TERMINATING
    assert Pod.of(made(policy="Always", metadata=going, state=ended(0))).over


@pytest.mark.parametrize(
    "manifest",
    [
        {},
        {"status": {}},
        made(phase=""),
        made(phase="Unknown"),
        made(phase="Rebooting"),
        made(phase="Running", status={"containerStatuses": []}),
        made(status={"reason": "NodeLost"}),
        made(status={"reason": "NodeLost"}, state=ended(0)),
        made(phase="Unknown", state=ended(1)),
        made(status=conditions(Ready="False", ContainersReady="True")),
        made(status=conditions(Ready="False", ContainersReady="True"), state=ended(1)),
        made(
            metadata={"deletionTimestamp": "2026-11-21T08:00:00Z"},
            status=conditions(Ready="False", ContainersReady="True"),
        ),
    ],
)
def test_what_is_not_known_is_neither_running_nor_over(manifest: dict[str, Any]) -> None:
    """A pod of a lost node, and one that says nothing, is unknown: its server may still run."""
    pod = Pod.of(manifest)
    assert pod.state is PodState.UNKNOWN
    assert not pod.over
    assert not pod.running
    assert not pod.waiting


def test_a_readiness_gate_is_no_lost_node() -> None:
    """With gates the kubelet itself says that a pod is not ready though its containers are."""
    status = conditions(Ready="False", ContainersReady="True")
    manifest = made(status=status, spec={"readinessGates": [{"conditionType": "x"}]})
    assert Pod.of(manifest).running
    assert Pod.of(slim(manifest)).running


def test_a_terminal_phase_is_the_last_word() -> None:
    """Kubernetes promises that such a pod never runs again, whatever else stands there."""
    for phase, state in (("Failed", PodState.FAILED), ("Succeeded", PodState.SUCCEEDED)):
        pod = Pod.of(made(phase=phase, status={"reason": "NodeLost", "containerStatuses": []}))
        assert pod.state is state
        assert not pod.holds_room


def test_the_way_to_a_running_server() -> None:
    """Scheduled, prepared, started, with an address: one after the other."""
    waiting = {"waiting": {"reason": "ContainerCreating"}}
    nowhere = {"nodeName": ""}
    assert Pod.of(made("Pending", state=waiting, spec=nowhere)).state is PodState.PENDING
    assert Pod.of(made("Pending", state=waiting)).state is PodState.SCHEDULED
    prepared = conditions(PodReadyToStartContainers="True")
    assert Pod.of(made("Pending", state=waiting, status=prepared)).state is PodState.PULLING
    assert Pod.of(made(status={"podIP": ""})).state is PodState.STARTING
    assert Pod.of(made(state=waiting, restarts=1)).state is PodState.STARTING
    assert Pod.of(made()).state is PodState.RUNNING


# --- fields


@pytest.mark.parametrize(
    ("status", "ip"),
    [
        ({"podIP": "10.1.2.3"}, "10.1.2.3"),
        ({"podIP": "fd00:0::7", "podIPs": [{"ip": "fd00::7"}]}, "fd00::7"),
        ({"podIP": "", "podIPs": [{"ip": "fd00::7"}, {"ip": "10.1.2.3"}]}, "fd00::7"),
        ({"podIP": None, "podIPs": [3, {"ip": None}, {"ip": "10.1.2.3"}]}, "10.1.2.3"),
        ({"podIP": "fe80::1%eth0"}, ""),
        ({"podIP": "example.org"}, ""),
        ({"podIP": "10.1.2.3:8888"}, ""),
        ({"podIP": 10}, ""),
    ],
)
def test_addresses(status: dict[str, Any], ip: str) -> None:
    """v4 or v6, the pod's first; what is no address is none, for the hub will connect to it."""
    pod = Pod.of(made(status=status))
    assert (pod.ip, pod.running) == (ip, bool(ip))


def test_the_servers_container_is_the_one_called_notebook() -> None:
    """Else the first of the specification; the order of the statuses says nothing."""
    statuses = [
        {"name": "agent", "state": ended(9)},
        {"name": "notebook", "state": ended(4)},
    ]
    both = [{"name": "agent"}, {"name": "notebook"}]
    status = {"containerStatuses": statuses}
    assert Pod.of(made(status=status, spec={"containers": both})).exit_code == 4
    assert Pod.of(made(status=status, spec={"containers": [{"name": "agent"}]})).exit_code == 9
    assert Pod.of(made(status=status, spec={"containers": []})).exit_code == 4


def test_the_last_end_is_told_while_it_waits_to_start_again() -> None:
    """Why it crashed stands in lastState by then; a server that runs again has not ended."""
    last = {"lastState": ended(137, "OOMKilled")}
    waits = {
        "name": "notebook",
        "restartCount": 2,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    }
    pod = Pod.of(made(policy="Always", status={"containerStatuses": [waits | last]}))
    assert (pod.exit_code, pod.terminated.reason, pod.restarts) == (137, "OOMKilled", 2)
    assert pod.reasons == ("OOMKilled", "CrashLoopBackOff")
    runs = {"name": "notebook", "restartCount": 2, "state": {"running": {}}}
    pod = Pod.of(made(policy="Always", status={"containerStatuses": [runs | last]}))
    assert (pod.exit_code, pod.terminated, pod.running) == (None, NOT_SAID, True)


def test_an_init_container_that_cannot_start_is_why_the_server_waits() -> None:
    """The server's own container only says PodInitializing; the image is the other's."""
    pod = Pod.of(recorded.pod("init-image"))
    assert pod.waits_for.reason in {"ErrImagePull", "ImagePullBackOff"}
    assert pod.image == "qhub.test/none:1"


def test_deadlines() -> None:
    """The walltime counts from the start of the pod; nonsense is no deadline."""
    begun = {"startTime": "2026-11-21T08:00:00Z"}
    pod = Pod.of(made(status=begun, spec={"activeDeadlineSeconds": 7200}))
    assert pod.deadline == datetime(2026, 11, 21, 10, tzinfo=UTC)
    for seconds in (None, "7200", True, 10**30):
        assert Pod.of(made(status=begun, spec={"activeDeadlineSeconds": seconds})).deadline is None


def test_messages_are_cleaned() -> None:
    """Control characters and credentials of the cluster's own text do not come through."""
    message = "bad\x00 \u202ething: Head https://robot:hunter2@reg.example/v2?sig=abc\nnext"
    pod = Pod.of(made("Failed", status={"reason": "Evicted", "message": message}))
    assert pod.why.message == "bad thing: Head https://***@reg.example/v2 next"


# --- anything at all


@given(MANIFESTS | JSON)
def test_anything_is_read(manifest: Any) -> None:
    """Whatever the API sends, nothing raises, and slim loses nothing that is read."""
    pod = Pod.of(manifest)
    kept = slim(manifest)
    assert Pod.of(kept) == pod
    assert slim(kept) == kept
    assert not (pod.over and pod.running)
    assert pod.state is not PodState.RUNNING or pod.ip


@given(JSON | st.dictionaries(st.sampled_from(["involvedObject", "series", "count"]), JSON))
def test_any_event_is_read(manifest: Any) -> None:
    """So with events."""
    assert Event.of(slim_event(manifest)) == Event.of(manifest)


@given(JSON | st.dictionaries(st.sampled_from(["metadata", "spec", "status"]), JSON))
def test_any_node_is_read(manifest: Any) -> None:
    """So with nodes."""
    assert Node.of(slim_node(manifest)) == Node.of(manifest)


@pytest.mark.parametrize("name", hostile.DATA)
def test_hostile_data(name: str) -> None:
    """So with what a person might send, in place of any part."""
    data = hostile.DATA[name]
    for manifest in (data, {"metadata": data, "spec": data, "status": data}):
        assert Pod.of(slim(manifest)) == Pod.of(manifest)  # type: ignore[arg-type]


# --- events and text


def test_recorded_events() -> None:
    """Who said what when: the scheduler first, then the kubelet."""
    heard = read_all(recorded.events("running"))
    assert heard[0].reason == "Scheduled"
    assert heard[0].source == "default-scheduler"
    assert [event.reason for event in heard].index("Created") < len(heard)
    assert all(event.last is not None and event.kind == "Pod" for event in heard)
    assert {event.uid for event in heard} == {Pod.of(recorded.pod("running")).uid}
    for manifest in recorded.events("running"):
        assert Event.of(slim_event(manifest)) == Event.of(manifest)


def test_events_of_both_groups() -> None:
    """The newer group has other names for the same; a series tells how often, and when last."""
    old = {
        "reason": "BackOff",
        "message": "Back-off",
        "type": "Warning",
        "involvedObject": {"kind": "Pod", "name": "x", "namespace": "n", "uid": "u"},
        "source": {"component": "kubelet"},
        "firstTimestamp": "2026-11-21T08:00:00Z",
        "lastTimestamp": "2026-11-21T08:02:00Z",
        "count": 3,
    }
    new = {
        "reason": "BackOff",
        "note": "Back-off",
        "type": "Warning",
        "regarding": {"kind": "Pod", "name": "x", "namespace": "n", "uid": "u"},
        "reportingController": "kubelet",
        "eventTime": "2026-11-21T08:00:00.000000Z",
        "series": {"count": 3, "lastObservedTime": "2026-11-21T08:02:00.000000Z"},
    }
    assert Event.of(old) == Event.of(new)
    assert Event.of(old).count == 3
    assert Event.of(old).warning


def test_the_order_of_events() -> None:
    """The last word counts; one without a time is older than all."""
    first = Event("Pulling", last=datetime(2026, 11, 21, 8, tzinfo=UTC))
    second = Event("Pulled", last=datetime(2026, 11, 21, 9, tzinfo=UTC))
    assert in_order([second, first, Event("Pulled")])[-1] is second
    assert latest([second, first], "Pulling") is first
    assert latest([first], "Killing") is None


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a\nb\tc\x00d", "a b c d"),
        ("\u202eevil\u2066", "evil"),
        ("\ud800", ""),
        ("x" * 300, "x" * 197 + "..."),
        ("Get https://me:pw@reg.io/v2: 401", "Get https://***@reg.io/v2: 401"),
        ("https://s3.example/x?X-Sig=1&y=2 gone", "https://s3.example/x gone"),
        ("-o username=hub,password=hunter2,vers=3", "-o username=hub,password=***,vers=3"),
        ('{"apiToken": "s3cret value", "x": 1}', '{"apiToken": ***, "x": 1}'),
        ("Authorization: Bearer abcdef123456", "Authorization: ***"),
        ("sent Bearer abcdef123456 to", "sent Bearer *** to"),
        ("token eyJhbGciOiJSUzI1NiJ9.eyJzdWIi.c2ln here", "token *** here"),
        ("key 0123456789abcdef0123456789abcdef end", "key *** end"),
        ('secret "jupyter-ada" not found', 'secret "jupyter-ada" not found'),
        (
            'volume "secret-home" : secret "x" not found',
            'volume "secret-home" : secret "x" not found',
        ),
    ],
)
def test_text_of_the_cluster_is_made_fit_to_show(text: str, clean: str) -> None:
    """One visible line of sane length, without what looks like a credential."""
    assert said(text) == clean


@given(st.text(max_size=400))
def test_fit_to_show_is_fit_to_show(text: str) -> None:
    """Cleaning twice changes nothing, and nothing invisible is left."""
    once = said(text)
    assert said(once) == once
    assert len(once) <= 200
    assert once.isprintable()


@pytest.mark.parametrize(
    "text", ["", "soon", "2026-11-21", "2026-11-21T08:00:00", "0001-01-01T00:00:00+14:00", "\0"]
)
def test_what_is_no_time_is_none(text: str) -> None:
    """A time without zone is not guessed."""
    assert moment({"at": text}, "at") is None


# --- requests


def test_requests_as_the_scheduler_counts_them() -> None:
    """Containers are summed, sidecars too; init containers are a bound; overhead is added."""

    def container(cpu: str, **more: Any) -> dict[str, Any]:
        return {"resources": {"requests": {"cpu": cpu}}, **more}

    sidecar = container("100m", restartPolicy="Always")
    spec: dict[str, Any] = {"containers": [container("1"), container("500m")]}
    assert requests_of({"spec": spec}) == {"cpu": 1500, "pods": 1}
    spec["initContainers"] = [container("1200m")]
    assert requests_of({"spec": spec})["cpu"] == 1500
    spec["initContainers"] = [sidecar, container("3")]
    assert requests_of({"spec": spec})["cpu"] == 3100
    spec["initContainers"] = [container("1600m"), sidecar]
    assert requests_of({"spec": spec})["cpu"] == 1600
    spec["overhead"] = {"cpu": "250m", "memory": "64Mi"}
    assert requests_of({"spec": spec}) == {"cpu": 1850, "memory": 2**26, "pods": 1}
    spec["resources"] = {"requests": {"cpu": "5"}}
    assert requests_of({"spec": spec})["cpu"] == 5250


def test_a_limit_is_the_request_that_is_left_out() -> None:
    """As the API server fills it in."""
    resources = {"limits": {"cpu": "2", "nvidia.com/gpu": "1"}, "requests": {"cpu": "1"}}
    manifest = {"spec": {"containers": [{"resources": resources}]}}
    assert requests_of(manifest) == {"cpu": 1000, "nvidia.com/gpu": 1, "pods": 1}
    assert limits_of(manifest) == {"cpu": 2000, "nvidia.com/gpu": 1, "pods": 1}
