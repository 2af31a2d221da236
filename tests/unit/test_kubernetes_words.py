"""What a person reads while their pod waits, when it has ended, and when it was refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhub_spawner.kubernetes.events import Event, read_all
from qhub_spawner.kubernetes.pods import Pod, PodState, Why
from qhub_spawner.kubernetes.refusals import quota_words, refusal_words
from qhub_spawner.kubernetes.scheduling import (
    Growth,
    Want,
    find_growth,
    for_want_of_capacity,
    parse_verdict,
)
from qhub_spawner.kubernetes.words import Granted, ending_words, stuck_words, waiting_words
from tests.unit import hostile
from tests.unit.recorded import kubernetes as recorded
from tests.unit.recorded.kubernetes import SECRET

NOW = datetime(2026, 11, 21, 9, 5, tzinfo=UTC)
GRANTED = Granted(memory="64 MiB", walltime="2 h")
GPU = "nvidia.com/gpu"
PENDING = Pod(state=PodState.PENDING, phase="Pending", requests={"cpu": 4000, GPU: 2})
RUNNING = Pod(state=PodState.RUNNING, phase="Running", node="node1", ip="10.0.0.7")
FAILED = Pod(state=PodState.FAILED, phase="Failed", node="node1", exit_code=137)


def event(reason: str, message: str = "", minutes_ago: float = 0, source: str = "") -> Event:
    at = NOW - timedelta(minutes=minutes_ago)
    return Event(reason, message, source=source, first=at, last=at)


def unschedulable(message: str, **changes: Any) -> Pod:
    return replace(PENDING, unscheduled=Why("Unschedulable", message), **changes)


FULL = unschedulable("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
SCALE_UP = event("TriggeredScaleUp", "pod triggered scale-up: [{gke-gpu-grp 1->2 (max: 3)}]", 1)
NOMINATED = event("Nominated", "Pod should schedule on: nodeclaim/gpu-ljvhl", 1, "karpenter")
NO_SCALE_UP = event(
    "NotTriggerScaleUp",
    "pod didn't trigger scale-up: 1 max node group size reached, "
    "2 node(s) didn't match Pod's node affinity/selector",
    0,
    "cluster-autoscaler",
)


# --- recorded


@pytest.mark.parametrize(
    ("name", "words", "percent"),
    [
        ("gpus", "No node has 2 GPUs free: it starts as soon as one has.", 15),
        (
            "cores",
            "No node has 100 cores and 4000 GiB of memory free: it starts as soon as one has.",
            15,
        ),
        ("selector", "No node of the cluster is of the kind it asks for.", 15),
        ("closed", "The nodes for it are drained or take no new pods.", 15),
        ("not-ready", "Every node is reserved for others, or in trouble (taints).", 15),
        ("no-claim", "Its storage claim claim-ada does not exist.", 15),
        ("unbound-claim", "Its storage has not been provided yet.", 15),
        ("gated", "Something in the cluster holds it back (scheduling gates).", 15),
        (
            "preemptor",
            "Kubernetes ends pods of lower priority on node node1 to make room for it.",
            25,
        ),
        (
            "no-folder",
            "The volume home cannot be mounted: its folder is not there; Kubernetes tries again.",
            30,
        ),
        (
            "no-secret-volume",
            "The volume home needs the secret nope, which does not exist; Kubernetes tries again.",
            30,
        ),
        (
            "no-image",
            (
                "The image qhub.test/none:1 cannot be fetched: the registry cannot be reached; "
                "Kubernetes tries again."
            ),
            45,
        ),
        (
            "init-image",
            (
                "The image qhub.test/none:1 cannot be fetched: the registry cannot be reached; "
                "Kubernetes tries again."
            ),
            45,
        ),
        (
            "never-image",
            (
                "The image qhub.test/none:1 is not on the node, and may not be fetched "
                "(pull policy Never); Kubernetes tries again."
            ),
            45,
        ),
        (
            "image-name",
            "Not/A:Name:At:All is not the name of an image; Kubernetes tries again.",
            45,
        ),
        (
            "no-secret",
            "The secret nope that its container needs does not exist; Kubernetes tries again.",
            45,
        ),
        ("running", "The server runs on node node1; it is starting to listen.", 75),
        ("lost", "Node node1 does not answer Kubernetes; the server may still run there.", 50),
        ("deleted", "The pod is being ended: it was deleted.", 90),
        ("drained", "The pod is being ended: its node node1 was drained, and it was evicted.", 90),
        ("failed", "The server has ended.", 90),
    ],
)
def test_recorded_waiting(name: str, words: str, percent: int) -> None:
    """What a real cluster said, as a person reads it; its JSON is taken as it is."""
    pod = Pod.of(recorded.pod(name))
    assert waiting_words(pod, recorded.events(name), now=NOW) == (words, percent)


def test_a_recorded_crash() -> None:
    """A server that ends again and again says how it ended."""
    pod = Pod.of(recorded.pod("crashloop"))
    words, _ = waiting_words(pod, recorded.events("crashloop"), now=NOW)
    assert words.startswith(
        f"The server ended {pod.restarts + 1} times: it failed with exit code 3"
    )


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("succeeded", 0, "it ended by itself"),
        ("sidecar", 0, "it ended by itself"),
        ("failed", 3, "it failed with exit code 3 on node1"),
        ("oom", 137, "its memory limit of 64 MiB was reached"),
        ("deadline", 137, "its walltime of 2 h ended"),
        ("full-disk", 137, "its limit of 10 MiB of local disk space was reached"),
        ("full-volume", 137, "its volume tmp held more than the limit of 10 MiB"),
        ("no-program", 128, "the program jupyterhub-singleusr cannot be run in its image"),
        ("init", 1, "what prepares its start (prepare) failed with exit code 1"),
        # what follows was not over when it was seen last, and is gone now
        ("deleted", 1, "its pod was deleted on node1, not by the hub"),
        ("drained", 1, "its node node1 was drained, and it was evicted"),
        ("tainted", 1, "its node node1 was closed to it (a taint was set)"),
        (
            "preempted",
            1,
            "a pod with a higher priority took its place on its node node1 (preempted)",
        ),
        ("running", 1, "its pod was deleted on node1, not by the hub"),
        ("gpus", 1, "its pod was deleted, not by the hub"),
    ],
)
def test_recorded_endings(name: str, code: int, words: str) -> None:
    """Each recorded end is told; only a server that ended by itself with 0 is a success."""
    pod = Pod.of(recorded.pod(name))
    assert ending_words(pod, recorded.events(name), GRANTED) == (code, words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "quota",
            "the namespace's quota has no room: 600 MiB of memory asked for, 424 MiB of 1 GiB left",
        ),
        (
            "quota-several",
            (
                "the namespace's quota has no room: "
                "600 MiB of memory asked for, 424 MiB of 1 GiB left; "
                "0.45 cores asked for, 0.4 of 0.5 left; 3 GPUs asked for, 2 of 2 left"
            ),
        ),
        ("quota-pods", "the namespace's quota allows 1 pod, and no more"),
    ],
)
def test_recorded_quota(name: str, words: str) -> None:
    """A quota says how much was asked for and how much is left."""
    status = recorded.refusal(name)
    assert quota_words(status) == words
    assert refusal_words(status) == words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("priority-class", "the cluster has no priority class nope"),
        ("service-account", "the namespace has no service account nope"),
        ("runtime-class", "the cluster has no runtime class nope"),
        ("no-namespace", "the cluster has no namespace nope"),
        ("exists", "there is a pod jupyter-running already"),
        ("limit-range", "the namespace allows at most 2Gi of memory for each container, not 4Gi"),
        ("quota-unspecified", "the namespace's quota asks for limits.memory for: notebook"),
        (
            "pod-security",
            (
                "the pod breaks the namespace's rule restricted (Pod Security): "
                "allowPrivilegeEscalation != false, unrestricted capabilities, "
                "runAsNonRoot != true, seccompProfile"
            ),
        ),
        (
            "invalid",
            (
                "the pod is not valid: spec.containers[0].env[0].name: required value; "
                "spec.containers[0].env[1].name: invalid value; "
                "spec.containers[0].imagePullPolicy: supported values: "
                '"Always", "IfNotPresent", "Never"'
            ),
        ),
    ],
)
def test_recorded_refusals(name: str, words: str) -> None:
    """A refusal names what is missing or wrong; a quota it is not."""
    status = recorded.refusal(name)
    assert refusal_words(status) == words
    assert quota_words(status) == ""


def test_no_recorded_words_hold_the_secret() -> None:
    """Whatever is said of pods that hold a secret."""
    for name in recorded.document("pods"):
        pod, events = Pod.of(recorded.pod(name)), recorded.events(name)
        for words in (
            waiting_words(pod, events, now=NOW)[0],
            ending_words(pod, events, GRANTED)[1],
            stuck_words(pod, events) or "",
        ):
            assert SECRET not in words
    for name in recorded.document("refusals"):
        assert SECRET not in refusal_words(recorded.refusal(name))


# --- no node


@pytest.mark.parametrize(
    ("message", "want", "words"),
    [
        (
            ("0/3 nodes are available: 1 Insufficient memory, 2 node(s) had untolerated taint "
            "{node-role.kubernetes.io/control-plane: }. preemption: 0/3 nodes are available: "
            "1 No preemption victims found for incoming pod, 2 Preemption is not helpful for "
            "scheduling."),
            Want.ROOM,
            "no node has enough memory free",
        ),
        (
            "0/8 nodes are available: 1 Insufficient cpu, 8 Insufficient nvidia.com/gpu.",
            Want.ROOM,
            "no node has 4 cores and 2 GPUs free",
        ),
        ("0/2 nodes are available: 2 Too many pods.", Want.ROOM,
         "the nodes for it run as many pods as they may"),
        (
            ("0/4 nodes are available: 1 node(s) were unschedulable, "
            "3 node(s) didn't match Pod's node affinity/selector."),
            Want.CLOSED,
            "the nodes for it are drained or take no new pods",
        ),
        (
            ("0/3 nodes are available: 3 node(s) had untolerated taint "
            "{node.kubernetes.io/not-ready: }."),
            Want.CLOSED,
            "the nodes for it are not ready, drained or in trouble",
        ),
        (
            "0/3 nodes are available: 3 node(s) had taint {a: b}, that the pod didn't tolerate.",
            Want.RESERVED,
            "every node is reserved for others, or in trouble (taints)",
        ),
        (
            ("0/3 nodes are available: 1 node(s) had untolerated taint(s), "
            "2 node(s) didn't match Pod's node affinity/selector."),
            Want.KIND,
            "no node of the cluster is of the kind it asks for",
        ),
        (
            "0/3 nodes are available: 3 node(s) had volume node affinity conflict.",
            Want.VOLUME,
            "its volume cannot be reached from the free nodes",
        ),
        (
            "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules.",
            Want.RULE,
            "no node fits its rules of affinity to other pods",
        ),
        (
            "0/3 nodes are available: 3 node(s) didn't match pod topology spread constraints.",
            Want.RULE,
            "no node fits its rules of topology",
        ),
        (
            '0/3 nodes are available: persistentvolumeclaim "claim-ada" is being deleted.',
            Want.VOLUME,
            "its storage claim claim-ada is being deleted",
        ),
        (
            ("0/3 nodes are available: 3 node(s) unavailable due to PersistentVolumeClaim with "
            "ReadWriteOncePod access mode already in-use by another pod."),
            Want.VOLUME,
            "another pod uses its volume",
        ),
        ("no nodes available to schedule pods", Want.CLOSED, "the cluster has no node now"),
        ("0/3 nodes are available:", Want.OTHER, "no node takes it now"),
        ("0/3 nodes are available: 3 node(s) feel blue.", Want.OTHER,
         "Kubernetes says: node(s) feel blue"),
        ("running PreFilter plugin: boom", Want.OTHER,
         "Kubernetes says: running PreFilter plugin: boom"),
    ],
)  # fmt: skip
def test_what_the_scheduler_says(message: str, want: Want, words: str) -> None:
    """The plain statement is about what is nearest to a start, in amounts that were asked for."""
    verdict = parse_verdict(message, PENDING.requests)
    assert (verdict.want, verdict.words) == (want, words)


@pytest.mark.parametrize(
    ("events", "growth", "words"),
    [
        ([], Growth.SILENT, "it starts as soon as one has"),
        ([SCALE_UP], Growth.UNDERWAY, "the cluster adds one now, which takes some minutes"),
        ([NOMINATED], Growth.UNDERWAY, "the cluster adds one now, which takes some minutes"),
        ([NO_SCALE_UP], Growth.AT_LIMIT, "the cluster adds no more nodes of this kind"),
        (
            [event("NotTriggerScaleUp", "pod didn't trigger scale-up: 1 in backoff after failed"
                   " scale-up")],
            Growth.FAILED,
            "the cluster could not add one and tries again later",
        ),
        (
            [SCALE_UP, event("FailedScaleUp", "Node scale up in zones us-east1-b associated with "
                             "this pod failed: GCE out of resources.")],
            Growth.FAILED,
            "the cluster could not add one and tries again later",
        ),
        (
            [event("NotTriggerScaleUp", "pod didn't trigger scale-up (it wouldn't fit if a new "
                   "node is added)")],
            Growth.USELESS,
            "adding a node would not help",
        ),
        (
            [event("FailedScheduling", 'Failed to schedule pod, all available instance types '
                   'exceed limits for nodepool: "gpu"', 0, "karpenter")],
            Growth.AT_LIMIT,
            "the cluster adds no more nodes of this kind",
        ),
        (
            [event("FailedScheduling", 'Failed to schedule pod, incompatible with nodepool "gpu",'
                   ' no instance type satisfied resources', 0, "eks-auto-mode/compute")],
            Growth.USELESS,
            "adding a node would not help",
        ),
        (
            [replace(SCALE_UP, last=NOW - timedelta(minutes=20))],
            Growth.FAILED,
            "the cluster could not add one and tries again later",
        ),
    ],
)  # fmt: skip
def test_what_the_autoscalers_say(events: list[Event], growth: Growth, words: str) -> None:
    """Whether a node is on its way decides about falling over to another backend."""
    assert find_growth(events, NOW) is growth
    text, percent = waiting_words(FULL, events, now=NOW)
    assert text == f"No node has 2 GPUs free: {words}."
    assert percent == (20 if growth is Growth.UNDERWAY else 15)
    assert for_want_of_capacity(FULL, events, NOW) == (growth is not Growth.UNDERWAY)


def test_the_last_word_of_an_autoscaler_counts() -> None:
    """First full, then another pool takes it: the order of the list says nothing."""
    earlier = replace(NO_SCALE_UP, last=NOW - timedelta(minutes=5))
    for events in ([earlier, SCALE_UP], [SCALE_UP, earlier]):
        assert find_growth(events, NOW) is Growth.UNDERWAY
    assert find_growth([SCALE_UP, NO_SCALE_UP], NOW) is Growth.AT_LIMIT
    old = replace(SCALE_UP, last=NOW - timedelta(days=1))
    assert find_growth([old]) is Growth.UNDERWAY


def test_karpenters_word_is_not_the_schedulers() -> None:
    """Its FailedScheduling says nothing of the nodes that are there."""
    pod = replace(PENDING, unscheduled=Why("Unschedulable"))
    karpenter = event("FailedScheduling", "Failed to schedule pod, no nodepool", 0, "karpenter")
    scheduler = event("FailedScheduling", "0/3 nodes are available: 3 Insufficient cpu.", 1)
    words, _ = waiting_words(pod, [scheduler, karpenter], now=NOW)
    assert words == "No node has 4 cores free: adding a node would not help."
    assert waiting_words(PENDING, [karpenter], now=NOW) == ("Kubernetes looks for a node.", 10)


@pytest.mark.parametrize(
    ("pod", "wanting"),
    [
        (FULL, True),
        (unschedulable("0/3 nodes are available: 3 node(s) were unschedulable."), True),
        (unschedulable("0/3 nodes are available: 3 node(s) had untolerated taint(s)."), True),
        (unschedulable("no nodes available to schedule pods"), True),
        (unschedulable('0/1 nodes are available: persistentvolumeclaim "x" not found.'), False),
        (unschedulable("0/1 nodes are available: 1 node(s) feel blue."), False),
        (replace(FULL, deleting=True), False),
        (replace(FULL, nominated_node="node1"), False),
        (PENDING, False),
        (RUNNING, False),
        (FAILED, False),
        (Pod(), False),
        (replace(FAILED, why=Why("OutOfcpu", "Pod was rejected: Node didn't have enough")), True),
    ],
)  # fmt: skip
def test_for_want_of_capacity(pod: Pod, wanting: bool) -> None:
    """Only room that is missing is a reason to go elsewhere; what is unknown is none."""
    assert for_want_of_capacity(pod, []) is wanting


def test_an_older_event_is_read_where_the_condition_says_nothing() -> None:
    """A scheduler that leaves the condition empty still writes events."""
    pod = replace(PENDING, unscheduled=Why("Unschedulable", ""))
    full = event("FailedScheduling", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    assert for_want_of_capacity(pod, [full])
    assert not for_want_of_capacity(pod, [])


def test_recorded_want_of_capacity() -> None:
    """The same with what a real cluster said."""
    for name, wanting in {
        "gpus": True,
        "cores": True,
        "selector": True,
        "closed": True,
        "not-ready": True,
        "no-claim": False,
        "unbound-claim": False,
        "gated": False,
        "preemptor": False,
        "no-image": False,
        "running": False,
        "lost": False,
        "oom": False,
    }.items():
        pod = Pod.of(recorded.pod(name))
        assert for_want_of_capacity(pod, recorded.events(name)) is wanting, name


# --- on a node


@pytest.mark.parametrize(
    ("events", "words", "percent"),
    [
        ([], "Node node1 prepares the container.", 45),
        ([event("Pulling", 'Pulling image "lab:1"')], "Node node1 fetches the image lab:1.", 40),
        (
            [event("Pulling", 'Pulling image "lab:1"', 3.5)],
            "Node node1 fetches the image lab:1 (3 min so far).",
            40,
        ),
        (
            [event("Pulling", "", 1), event("Pulled")],
            "The image is on node node1, which makes the container.",
            60,
        ),
        (
            [event("Pulled", "already present")],
            "The image is on node node1, which makes the container.",
            60,
        ),
    ],
)
def test_fetching_the_image(events: list[Event], words: str, percent: int) -> None:
    """How long an image is already on its way, and when it is there."""
    pod = Pod(state=PodState.PULLING, node="node1", image="lab:1")
    assert waiting_words(pod, events, now=NOW) == (words, percent)


@pytest.mark.parametrize(
    ("reason", "message", "words"),
    [
        (
            "FailedMount",
            (
                'MountVolume.SetUp failed for volume "home" : mount failed: exit status 32 '
                "Mounting arguments: -t cifs -o username=hub,password=hunter2 //nas/home "
                "mount error(13): Permission denied"
            ),
            "The volume home cannot be mounted: the storage does not allow it",
        ),
        (
            "FailedMount",
            (
                "Unable to attach or mount volumes: unmounted volumes=[home], unattached "
                "volumes=[home shm]: timed out waiting for the condition"
            ),
            "The volume home cannot be mounted: the storage does not answer",
        ),
        (
            "FailedAttachVolume",
            'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) jupyter-bob',
            "The volume pvc-1 cannot be mounted: another node still uses it",
        ),
        (
            "FailedMount",
            'MountVolume.SetUp failed for volume "x" : configmap "settings" not found',
            "The volume x needs the config map settings, which does not exist",
        ),
        ("FailedMount", "hmm", "A volume cannot be mounted"),
        (
            "FailedCreatePodSandBox",
            'Failed to create pod sandbox: plugin type="bridge" failed (add): no addresses',
            "The pod's network cannot be set up on its node",
        ),
        (
            "FailedPrepareDynamicResources",
            "",
            "The node cannot prepare the devices that it asks for",
        ),
    ],
)
def test_trouble_on_the_node(reason: str, message: str, words: str) -> None:
    """Volumes and network: recognised, never quoted, for a mount's options hold passwords."""
    pod = Pod(state=PodState.SCHEDULED, node="node1")
    found, percent = waiting_words(pod, [event(reason, message)], now=NOW)
    assert (found, percent) == (f"{words}; Kubernetes tries again.", 30)
    quiet, _ = waiting_words(pod, [], now=NOW)
    assert quiet == "The server was given node node1, which prepares its volumes and network."


def test_the_last_steps() -> None:
    """Started but without an address yet; and a pod of which nothing is known at all."""
    starting = Pod(state=PodState.STARTING, node="node1")
    assert waiting_words(starting, [], now=NOW) == ("The container starts on node node1.", 65)
    assert waiting_words(Pod(), [], now=NOW) == ("Kubernetes says nothing of the pod now.", 10)
    pulling = Pod(state=PodState.PULLING, image="lab:1")
    words, _ = waiting_words(pulling, [Event("Pulling")], now=NOW)
    assert words == "Its node fetches the image lab:1."


def test_a_crash_for_want_of_memory() -> None:
    """A server that starts again and again says that it was its memory."""
    why = Why("CrashLoopBackOff", "back-off 10s restarting failed container")
    pod = Pod(
        state=PodState.STARTING,
        restarts=2,
        terminated=Why("OOMKilled"),
        waits_for=why,
        exit_code=137,
    )
    assert stuck_words(pod, []) == "the server ended 3 times: its memory limit was reached"


def test_a_volume_that_came_after_all() -> None:
    """An older failure is not told once the volume is attached."""
    pod = Pod(state=PodState.SCHEDULED, node="node1")
    events = [event("FailedAttachVolume", "", 2), event("SuccessfulAttachVolume", "", 1)]
    assert waiting_words(pod, events, now=NOW)[0].startswith("The server was given node node1")


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            'failed to resolve reference "r.io/lab:1": r.io/lab:1: not found',
            "there is no such image",
        ),
        ("manifest unknown", "there is no such image"),
        (
            "pull access denied, repository does not exist or may require authorization",
            "there is no such image, or the registry does not let the cluster have it",
        ),
        (
            "401 Unauthorized",
            "there is no such image, or the registry does not let the cluster have it",
        ),
        ("toomanyrequests: You have reached", "the registry allows no more downloads now"),
        ("x509: certificate signed by unknown", "the registry's certificate is not trusted"),
        ("dial tcp: lookup r.io: no such host", "the registry cannot be reached"),
        ("write /x: no space left on device", "the disk of the node is full"),
        ("no match for platform in manifest", "it is not made for the node's kind of processor"),
        ("something else", ""),
    ],
)
def test_images_that_do_not_come(message: str, words: str) -> None:
    """The runtime's words in plain ones, from the container's state or from an event."""
    expected = "the image r.io/lab:1 cannot be fetched" + (f": {words}" if words else "")
    pod = Pod(state=PodState.PULLING, image="r.io/lab:1", waits_for=Why("ErrImagePull", message))
    assert stuck_words(pod, []) == expected
    backing_off = replace(pod, waits_for=Why("ImagePullBackOff", 'Back-off pulling image "x"'))
    failed = event("Failed", f'Failed to pull image "r.io/lab:1": {message}')
    assert stuck_words(backing_off, [failed, event("Failed", "Error: ErrImagePull")]) == expected


def test_the_name_of_an_image_is_no_reason() -> None:
    """An image may be called what it likes."""
    why = Why("ErrImagePull", "denied/timeout:429: manifest unknown")
    pod = Pod(state=PodState.PULLING, image="denied/timeout:429", waits_for=why)
    words = stuck_words(pod, [])
    assert words == "the image denied/timeout:429 cannot be fetched: there is no such image"


@pytest.mark.parametrize(
    ("why", "words"),
    [
        (Why("ContainerCreating"), None),
        (Why("PodInitializing"), None),
        (Why(), None),
        (
            Why("CreateContainerConfigError", 'secret "x" not found'),
            "the secret x that its container needs does not exist",
        ),
        (
            Why(
                "CreateContainerConfigError",
                (
                    "container has runAsNonRoot and image has non-numeric user (jovyan), cannot "
                    'verify user is non-root (pod: "jupyter-ada_people(1-2)", container: notebook)'
                ),
            ),
            (
                "its image names its user (jovyan) and not a number, so that nobody can tell that "
                "it is not root: it needs another image, or a number from the administrator"
            ),
        ),
        (
            Why(
                "CreateContainerConfigError",
                (
                    "container has runAsNonRoot and image will run as root (pod: "
                    '"jupyter-ada_people(1-2)", container: notebook)'
                ),
            ),
            (
                "its image would run as root, which is not allowed: it needs another image, or a "
                "number from the administrator"
            ),
        ),
        (
            Why(
                "CreateContainerConfigError",
                (
                    'failed to create subPath directory for volumeMount "qhub-homes" of container '
                    '"notebook"'
                ),
            ),
            (
                "its folder in the volume qhub-homes cannot be had: the administrator has to make "
                "it, or to let nodes make it"
            ),
        ),
        (
            Why("CreateContainerConfigError", "couldn't find key token in Secret people/ada"),
            "the secret that its container needs has no token",
        ),
        (
            Why("CreateContainerConfigError", "something that no kubelet has said before"),
            "its container cannot be made as it is described",
        ),
        (
            Why("RunContainerError", 'exec: "nope": executable file not found in $PATH'),
            "the program nope cannot be run in the image lab:1",
        ),
        (Why("CreateContainerError", "context deadline exceeded"), "its container cannot be made"),
        (Why("SignatureValidationFailed"), "the signature of the image lab:1 is not valid"),
    ],
)
def test_what_does_not_mend_itself(why: Why, words: str | None) -> None:
    """Why a container cannot start as things are; nothing where it just takes time."""
    pod = Pod(state=PodState.PULLING, node="node1", image="lab:1", waits_for=why)
    assert stuck_words(pod, []) == words


def test_a_volume_that_nothing_brings() -> None:
    """A missing secret of a volume does not pass by itself; a file server may answer yet."""
    pod = Pod(state=PodState.SCHEDULED, node="node1", waits_for=Why("ContainerCreating"))
    missing = event("FailedMount", 'MountVolume.SetUp failed for "x" : secret "nope" not found', 2)
    slow = event("FailedMount", 'MountVolume.SetUp failed for volume "home" : timed out', 1)
    assert stuck_words(pod, []) is None
    assert stuck_words(pod, [missing]) == ("a volume needs the secret nope, which does not exist")
    assert stuck_words(pod, [missing, slow]) is None
    # what an older kubelet does not say otherwise
    assert stuck_words(pod, [missing, event("Pulling", "Pulling image", 1)]) is None


# --- endings


@pytest.mark.parametrize(
    ("pod", "code", "words"),
    [
        (
            replace(FAILED, why=Why("Evicted", "The node was low on resource: memory. Threshold "
                                    "quantity: 100Mi, available: 90Mi. Container notebook was "
                                    "using 600Mi, request is 500Mi.")),
            137,
            "its node ran out of memory, and it was evicted",
        ),
        (
            replace(FAILED, why=Why("Evicted", "The node was low on resource: ephemeral-storage. ")),
            137,
            "the disk of its node was full, and it was evicted",
        ),
        (
            replace(FAILED, why=Why("Evicted", "Evicted by kubectl drain")),
            137,
            "its node was drained, and it was evicted",
        ),
        (
            replace(FAILED, why=Why("Evicted", 'Usage of EmptyDir volume "x" exceeds the limit '
                                    '"much". ')),
            137,
            "its volume x held more than the limit of much",
        ),
        (
            replace(FAILED, why=Why("Evicted", "The node had condition: [DiskPressure]. ")),
            137,
            "it was evicted from its node",
        ),
        (
            replace(FAILED, why=Why("Evicted", 'Container notebook exceeded its local ephemeral '
                                    'storage limit "1Gi". ')),
            137,
            "its limit of 1 GiB of local disk space was reached",
        ),
        (
            replace(FAILED, exit_code=None, why=Why(
                "UnexpectedAdmissionError",
                "Pod was rejected: Allocate failed due to requested number of devices "
                "unavailable for nvidia.com/gpu. Requested: 2, Available: 1, which is unexpected"),
                requests={GPU: 2}),
            1,
            "its node node1 had no room for it any more (2 GPUs)",
        ),
        (
            replace(FAILED, exit_code=None, why=Why("OutOfmemory", "Pod was rejected: Node"),
                    requests={"memory": 2**30}),
            1,
            "its node node1 had no room for it any more (1 GiB of memory)",
        ),
        (
            replace(FAILED, why=Why("Terminated", "Pod was terminated in response to imminent "
                                    "node shutdown.")),
            137,
            "its node node1 was shut down",
        ),
        (
            replace(FAILED, why=Why("Preempting", "Preempted in order to admit critical pod")),
            137,
            "a pod with a higher priority took its place on its node node1 (preempted)",
        ),
        (
            replace(FAILED, disruption=Why("DeletionByPodGC", "PodGC: node no longer exists")),
            137,
            "its node node1 is gone",
        ),
        (
            replace(FAILED, disruption=Why("TerminationByKubelet", "The node was low on resource: "
                                           "pids. ")),
            137,
            "its node could run no more processes, and it was evicted",
        ),
        (replace(FAILED, terminated=Why("Error")), 137, "it was killed by signal 9 on node1"),
        (
            replace(FAILED, terminated=Why("ContainerStatusUnknown")),
            137,
            "its node node1 lost sight of it",
        ),
        (
            replace(FAILED, exit_code=None, why=Why("NodeShutdown", "Pod was rejected")),
            1,
            "its node node1 was shutting down",
        ),
        (replace(FAILED, exit_code=None), 1, "Kubernetes does not say why"),
        (
            replace(FAILED, exit_code=None, why=Why("Odd", "Something odd")),
            1,
            "Something odd",
        ),
        (
            replace(FAILED, state=PodState.SUCCEEDED, exit_code=0, deleting=True),
            1,
            "its pod was deleted on node1, not by the hub",
        ),
        (replace(RUNNING, why=Why("NodeLost")), 1, "its node node1 stopped answering"),
        (None, 1, "Kubernetes has no pod of it any more, and keeps nothing that could say why"),
        (Pod(), 1, "its pod was deleted, not by the hub"),
    ],
)  # fmt: skip
def test_endings(pod: Pod | None, code: int, words: str) -> None:
    """Who ended a server decides what is said and that it is no success."""
    assert ending_words(pod, [], GRANTED) == (code, words)


@pytest.mark.parametrize(
    ("events", "words"),
    [
        (
            [event("TaintManagerEviction", "Marking for deletion Pod lab/jupyter-ada")],
            "its node node1 was closed to it (a taint was set)",
        ),
        (
            [event("NodeNotReady", "Node is not ready", 6),
             event("TaintManagerEviction", "Marking for deletion Pod lab/jupyter-ada")],
            "its node node1 stopped answering",
        ),
        (
            [event("TaintManagerEviction", "Marking for deletion", 2),
             event("TaintManagerEviction", "Cancelling deletion of Pod lab/jupyter-ada", 1)],
            "its pod was deleted on node1, not by the hub",
        ),
        (
            [event("Preempted", "Preempted by pod x on node node1"), event("Killing", "Stopping")],
            "a pod with a higher priority took its place on its node node1 (preempted)",
        ),
        (
            [event("ScaleDown", "deleting pod for node scale down")],
            "its node node1 was removed to make the cluster smaller",
        ),
        (
            [event("Evicted", "The node was low on resource: memory. ")],
            "its node ran out of memory, and it was evicted",
        ),
        ([event("Unhealthy"), event("Killing")], "its pod was deleted on node1, not by the hub"),
    ],
)  # fmt: skip
def test_pods_that_are_gone_are_explained_by_their_events(events: list[Event], words: str) -> None:
    """Events outlive the pod for an hour."""
    assert ending_words(RUNNING, events, GRANTED) == (1, words)


def test_an_end_without_limits() -> None:
    """Where the person chose none, none is named."""
    oom = replace(FAILED, terminated=Why("OOMKilled"))
    assert ending_words(oom, [], Granted())[1] == "its memory limit was reached"
    late = replace(FAILED, why=Why("DeadlineExceeded"))
    assert ending_words(late, [], Granted())[1] == "its walltime ended"


# --- refusals


def status(message: str, code: int = 403, **more: Any) -> dict[str, Any]:
    return {"kind": "Status", "message": message, "code": code, **more}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            status('admission webhook "v.kyverno.svc" denied the request: images must come from '
                   "harbor; token=hunter2", 400),
            ("a rule of the cluster (v.kyverno.svc) forbids it: images must come from harbor; "
            "token=***"),
        ),
        (
            status('admission webhook "v.svc" denied the request without explanation'),
            "a rule of the cluster (v.svc) forbids it",
        ),
        (
            status("pods \"x\" is forbidden: ValidatingAdmissionPolicy 'small' with binding 'b' "
                   "denied request: too big", 422),
            "a rule of the cluster (small) forbids it: too big",
        ),
        (
            status('Internal error occurred: failed calling webhook "v.svc": failed to call '
                   'webhook: Post "https://v.svc:443/?timeout=10s": refused', 500),
            "a rule of the cluster (v.svc) does not answer",
        ),
        (
            status('pods is forbidden: User "system:serviceaccount:hub:hub" cannot create resource '
                   '"pods" in API group "" in the namespace "lab"'),
            "the hub may not create pods in the namespace lab",
        ),
        (
            status('pods "x" is forbidden: unable to create new content in namespace lab because '
                   "it is being terminated"),
            "the namespace is being deleted",
        ),
        (
            status('pods "x" is forbidden: status unknown for quota: q, resources: pods'),
            "the cluster has not counted the namespace's quota yet",
        ),
        (
            status('pods "x" is forbidden: [minimum cpu usage per Container is 10m, but request is '
                   "5m, maximum memory usage per Pod is 2Gi, but limit is 4Gi]"),
            "the namespace allows at least 10m of cpu for each container, not 5m",
        ),
        (
            status('pods "x" is forbidden: maximum memory usage per Container is 2Gi.  No limit is '
                   "specified"),
            "the namespace allows at most 2Gi of memory for each container",
        ),
        (status("Unauthorized", 401), "the cluster does not accept the hub's credentials"),
        (status("slow down", 429), "the cluster has too much to do now"),
        (status("etcdserver: timeout", 500),
         "the cluster cannot take it now (its API server answers 500)"),
        (status("no idea", 400), "Kubernetes refuses it: no idea"),
        (status("", 403, reason="Forbidden"),
         "Kubernetes refuses it (Forbidden), and does not say why"),
        ({}, "Kubernetes refuses it, and does not say why"),
        (status("exceeded quota: hm"), "the namespace's quota has no room"),
        (
            status("exceeded quota: q, requested: requests.cpu=x, used: , limited: "),
            ("the namespace's quota has no room: exceeded quota: q, requested: requests.cpu=x, "
            "used: , limited:"),
        ),
        (status("", 422), "the pod is not valid"),
        (
            status("exceeded quota: q, requested: cpu=1,requests.cpu=1, used: cpu=1,requests.cpu=1, "
                   "limited: cpu=1,requests.cpu=1"),
            "the namespace's quota has no room: 1 core asked for, none of 1 left",
        ),
    ],
)  # fmt: skip
def test_refusals(answer: dict[str, Any], words: str) -> None:
    """Each way to say no, as the API server of 1.34 writes it."""
    assert refusal_words(answer) == words


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ('Invalid value: "hunter2": must be something', "must be something"),
        ("Invalid value: -1: must be greater than 0", "must be greater than 0"),
        ("Invalid value: true: must not be set", "must not be set"),
        ("Required value", "required value"),
        ('Duplicate value: "hunter2"', "duplicate value"),
        ("Forbidden: may not be set", "may not be set"),
        ('Invalid value: "hun\\"ter2": must be something', "must be something"),
        ('Invalid value: core.Secret{Key:"hunter2"}: bad', "invalid value"),
        ('Invalid value: {"key":"hunter2"}: bad', "invalid value"),
        ("hunter2 is odd", "not accepted"),
        ("", "not accepted"),
    ],
)
def test_an_invalid_value_is_never_repeated(message: str, words: str) -> None:
    """The field and the rule are told; a value may be a secret."""
    cause = {"field": "spec.containers[0].image", "message": message}
    answer = status("Pod is invalid: hunter2", 422, details={"causes": [cause]})
    assert refusal_words(answer) == f"the pod is not valid: spec.containers[0].image: {words}"


# --- anything at all

TEXTS = st.text(max_size=60) | st.sampled_from(list(hostile.TEXTS.values()))
WHYS = st.builds(
    Why,
    st.sampled_from(
        [
            "",
            "Evicted",
            "OutOfcpu",
            "ErrImagePull",
            "CrashLoopBackOff",
            "Unschedulable",
            "OOMKilled",
        ]
    ),
    TEXTS,
)
PODS = st.builds(
    Pod,
    state=st.sampled_from(PodState),
    node=TEXTS,
    image=TEXTS,
    exit_code=st.none() | st.integers(0, 255),
    why=WHYS,
    unscheduled=WHYS,
    waits_for=WHYS,
    terminated=WHYS,
    disruption=WHYS,
    deleting=st.booleans(),
    requests=st.dictionaries(st.sampled_from(["cpu", "memory", GPU]), st.integers(0, 2**63)),
)
REASONS = st.sampled_from(
    ["FailedScheduling", "TriggeredScaleUp", "FailedMount", "Failed", "Pulling", "Evicted", "x"]
)
MOMENTS = st.none() | st.integers(-60, 60).map(lambda minutes: NOW + timedelta(minutes=minutes))
EVENTS = st.lists(st.builds(Event, REASONS, TEXTS, last=MOMENTS), max_size=4)


@given(PODS, EVENTS)
def test_any_pod_has_words(pod: Pod, events: list[Event]) -> None:
    """Whatever the cluster says, a person reads one short visible line."""
    words, percent = waiting_words(pod, events, now=NOW)
    assert 0 <= percent <= 100
    code, why = ending_words(pod, events, GRANTED)
    assert (code == 0) == (why == "it ended by itself")
    stuck = stuck_words(pod, events) or "x"
    assert for_want_of_capacity(pod, events, NOW) in {True, False}
    for line in (words, why, stuck):
        assert 0 < len(line) < 500
        assert line.isprintable()
    assert not (pod.state is PodState.UNKNOWN and for_want_of_capacity(pod, events))


@given(st.dictionaries(st.sampled_from(["message", "reason", "code", "details"]), TEXTS))
def test_any_refusal_has_words(answer: dict[str, Any]) -> None:
    """So with refusals."""
    words = refusal_words(answer)
    assert 0 < len(words) < 500
    assert words.isprintable()


@given(TEXTS.map(lambda text: f"0/3 nodes are available: 3 {text}, 2 Insufficient {text}."))
def test_any_word_of_the_scheduler_is_read(message: str) -> None:
    """So with its messages."""
    words = parse_verdict(message, {}).words
    assert words
    assert len(words) < 1000


def test_events_are_read_or_json() -> None:
    """Both forms say the same, in any order."""
    heard = recorded.events("no-image")
    pod = Pod.of(recorded.pod("no-image"))
    forms: list[Any] = [heard, list(reversed(heard)), read_all(heard)]
    assert len({waiting_words(pod, form, now=NOW) for form in forms}) == 1
