"""Record a real cluster's JSON: ``python -m tests.unit.recorded.kubernetes.record``.

A Kubernetes test system is started, pods with every kind of fate are made on it, and what the API
says of them, of their events and of what it refuses goes into this folder (four minutes: a node has
to be lost). Managed fields are left out but for one pod, as they say nothing and are long.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from tests.systems.kubernetes import USER_IMAGE, ApiError, KubernetesSystem, NotReadyError
from tests.unit.recorded.kubernetes import FOLDER, SECRET

SLEEP = ["sleep", "600"]
Json = dict[str, Any]


def container(command: Iterable[str] = SLEEP, **fields: Any) -> Json:
    """Return a server's container, with a secret where secrets are."""
    resources = fields.pop("resources", {"requests": {"cpu": "10m", "memory": "16Mi"}})
    return {
        "name": "notebook",
        "image": USER_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": list(command),
        "env": [{"name": "JUPYTERHUB_API_TOKEN", "value": SECRET}],
        "resources": resources,
        **fields,
    }


def pod(name: str, *containers: Json, **spec: Any) -> Json:
    """Return a server's pod as qhub would make it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"jupyter-{name}",
            "labels": {
                "app.kubernetes.io/managed-by": "qhub-spawner",
                "qhub.dev/hub": "a1",
                "qhub.dev/spawn": "0123456789abcdef",
            },
            "annotations": {
                "qhub.dev/user": f"{name}@example.org",
                "qhub.dev/server": "",
                "qhub.dev/passwd": "ada:x:1000:1000::/home/ada:/bin/bash",
                "hub.jupyter.org/username": name,
                "example.org/else": SECRET,
            },
        },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 2,
            "containers": list(containers) or [container()],
            **spec,
        },
    }


def limited(**limits: str) -> Json:
    """Return resources with requests that are the limits."""
    return {"requests": dict(limits), "limits": dict(limits)}


def waits_for(*reasons: str) -> Callable[[Json], bool]:
    """Whether a container waits for one of these reasons."""

    def check(found: Json) -> bool:
        states = found["status"].get("containerStatuses", [])
        return any(each["state"].get("waiting", {}).get("reason") in reasons for each in states)

    return check


def runs(found: Json) -> bool:
    """Whether the pod is up."""
    return found["status"]["phase"] == "Running" and bool(found["status"].get("podIP"))


def over(found: Json) -> bool:
    """Whether the pod has ended."""
    return found["status"]["phase"] in {"Succeeded", "Failed"}


def unschedulable(found: Json) -> bool:
    """Whether the scheduler, or a gate, has spoken."""
    conditions = found["status"].get("conditions", [])
    return any(each["type"] == "PodScheduled" and each["status"] == "False" for each in conditions)


def has_ended_once(found: Json) -> bool:
    """Whether the container ended and backs off."""
    return waits_for("CrashLoopBackOff")(found)


MISSING_SECRET = {"name": "X", "valueFrom": {"secretKeyRef": {"name": "nope", "key": "x"}}}
HOME = {"name": "home", "hostPath": {"path": "/srv/qhub-nope", "type": "Directory"}}
MOUNT = [{"name": "home", "mountPath": "/home/ada"}]
SERVE_MEMORY = ["python3", "-c", "x = b'x' * 200_000_000; import time; time.sleep(60)"]
FILL_DISK = ["sh", "-c", "dd if=/dev/zero of=/tmp/big bs=1M count=40; sleep 600"]

PODS: dict[str, tuple[Json, Callable[[Json], bool]]] = {
    "running": (pod("running"), runs),
    "succeeded": (pod("succeeded", container(["true"])), over),
    "failed": (pod("failed", container(["sh", "-c", "exit 3"])), over),
    "oom": (pod("oom", container(SERVE_MEMORY, resources=limited(memory="64Mi", cpu="10m"))), over),
    "deadline": (pod("deadline", activeDeadlineSeconds=2), over),
    "crashloop": (
        pod("crashloop", container(["sh", "-c", "exit 3"]), restartPolicy="Always"),
        has_ended_once,
    ),
    "sidecar": (
        pod("sidecar", container(["true"]), {**container(), "name": "agent"}),
        lambda found: (
            any(
                "terminated" in each["state"]
                for each in found["status"].get("containerStatuses", [])
            )
            and runs(found)
        ),
    ),
    "no-image": (
        pod("no-image", container(image="qhub.test/none:1")),
        waits_for("ErrImagePull", "ImagePullBackOff"),
    ),
    "never-image": (
        pod("never-image", container(image="qhub.test/none:1", imagePullPolicy="Never")),
        waits_for("ErrImageNeverPull"),
    ),
    "image-name": (
        pod("image-name", container(image="Not/A:Name:At:All")),
        waits_for("InvalidImageName"),
    ),
    "no-program": (pod("no-program", container(["jupyterhub-singleusr"])), over),
    "no-secret": (
        pod("no-secret", container(env=[MISSING_SECRET])),
        waits_for("CreateContainerConfigError"),
    ),
    "init": (
        pod("init", initContainers=[{**container(["sh", "-c", "exit 1"]), "name": "prepare"}]),
        over,
    ),
    "init-image": (
        pod(
            "init-image", initContainers=[{**container(image="qhub.test/none:1"), "name": "fetch"}]
        ),
        lambda found: any(
            "Err" in each["state"].get("waiting", {}).get("reason", "")
            or "BackOff" in each["state"].get("waiting", {}).get("reason", "")
            for each in found["status"].get("initContainerStatuses", [])
        ),
    ),
    "full-disk": (
        pod("full-disk", container(FILL_DISK, resources=limited(**{"ephemeral-storage": "10Mi"}))),
        over,
    ),
    "full-volume": (
        pod(
            "full-volume",
            container(FILL_DISK, volumeMounts=[{"name": "tmp", "mountPath": "/tmp"}]),
            volumes=[{"name": "tmp", "emptyDir": {"sizeLimit": "10Mi"}}],
        ),
        over,
    ),
    "gpus": (
        pod("gpus", container(resources=limited(cpu="10m", **{"nvidia.com/gpu": "2"}))),
        unschedulable,
    ),
    "cores": (
        pod("cores", container(resources=limited(cpu="100", memory="4000Gi"))),
        unschedulable,
    ),
    "selector": (pod("selector", nodeSelector={"pool": "gpu"}), unschedulable),
    "no-claim": (
        pod(
            "no-claim",
            container(volumeMounts=MOUNT),
            volumes=[{"name": "home", "persistentVolumeClaim": {"claimName": "claim-ada"}}],
        ),
        unschedulable,
    ),
    "unbound-claim": (
        pod(
            "unbound-claim",
            container(volumeMounts=MOUNT),
            volumes=[{"name": "home", "persistentVolumeClaim": {"claimName": "unbound"}}],
        ),
        unschedulable,
    ),
    "gated": (pod("gated", schedulingGates=[{"name": "example.org/queue"}]), unschedulable),
    "no-folder": (pod("no-folder", container(volumeMounts=MOUNT), volumes=[HOME]), lambda _: True),
    "no-secret-volume": (
        pod(
            "no-secret-volume",
            container(volumeMounts=MOUNT),
            volumes=[{"name": "home", "secret": {"secretName": "nope"}}],
        ),
        lambda _: True,
    ),
}

REFUSED: dict[str, Json] = {
    "priority-class": pod("refused", priorityClassName="nope"),
    "service-account": pod("refused", serviceAccountName="nope"),
    "runtime-class": pod("refused", runtimeClassName="nope"),
    "invalid": pod(
        "refused",
        container(
            env=[{"name": "", "value": SECRET}, {"name": "X=", "value": SECRET}],
            imagePullPolicy="Now",
        ),
        restartPolicy="Sometimes",
    ),
    "invalid-quantity": pod("refused", container(resources=limited(memory="lots"))),
    "exists": pod("running"),
}


class Recorder:
    """Makes pods in one namespace and writes down what is said of them."""

    def __init__(self, cluster: KubernetesSystem) -> None:
        self.cluster = cluster
        self.namespace = cluster.make_namespace("lab")
        self.pods: dict[str, Json] = {}
        self.events: dict[str, list[Json]] = {}
        self.refusals: dict[str, Json] = {}
        self.others: dict[str, Any] = {}

    def path(self, name: str = "", namespace: str = "") -> str:
        path = f"/api/v1/namespaces/{namespace or self.namespace}/pods"
        return f"{path}/jupyter-{name}" if name else path

    def create(self, manifest: Json, namespace: str = "") -> None:
        self.cluster.request("POST", self.path(namespace=namespace), manifest)

    def until(self, name: str, condition: Callable[[Json], bool], seconds: float = 90) -> Json:
        def look() -> Json | None:
            found: Json = self.cluster.request("GET", self.path(name))
            return found if condition(found) else None

        try:
            return self.cluster.wait_until(look, seconds, f"pod {name}")
        except NotReadyError:
            found: Json = self.cluster.request("GET", self.path(name))
            print(f"{name} did not get there: {json.dumps(found['status'])}", file=sys.stderr)
            return found

    def events_of(self, found: Json) -> list[Json]:
        selector = f"involvedObject.uid%3D{found['metadata']['uid']}"
        path = f"/api/v1/namespaces/{self.namespace}/events?fieldSelector={selector}"
        listed: list[Json] = self.cluster.request("GET", path)["items"]
        return [without_managed(each) for each in listed]

    def note(self, name: str, found: Json) -> None:
        """Write a pod and what has been said of it down."""
        self.pods[name] = found if name == "running" else without_managed(found)
        self.events[name] = self.events_of(found)

    def delete(self, name: str, grace: int = 0) -> None:
        with suppress(ApiError):
            self.cluster.request("DELETE", f"{self.path(name)}?gracePeriodSeconds={grace}")

    def refuse(self, name: str, manifest: Json, path: str = "") -> None:
        """Write the whole answer down."""
        api = self.cluster._api
        assert api is not None
        connection = http.client.HTTPSConnection(
            str(api._address.hostname), api._address.port, context=api._context, timeout=30
        )
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        connection.request("POST", path or self.path(), json.dumps(manifest), headers)
        answer = connection.getresponse()
        found = json.loads(answer.read())
        connection.close()
        assert answer.status >= 400, f"{name} was taken"
        self.refusals[name] = found

    def save(self) -> None:
        for name in ("pods", "events", "refusals", "others"):
            text = json.dumps(getattr(self, name), indent=1, sort_keys=True)
            (FOLDER / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


def without_managed(found: Json) -> Json:
    metadata = {key: value for key, value in found["metadata"].items() if key != "managedFields"}
    return {**found, "metadata": metadata}


def record_fates(recorder: Recorder) -> None:
    claim = {
        "metadata": {"name": "unbound"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
            "storageClassName": "nope",
        },
    }
    recorder.cluster.request("POST", "/api/v1/namespaces/lab/persistentvolumeclaims", claim)
    for manifest, _ in PODS.values():
        recorder.create(manifest)
    for name in ("no-folder", "no-secret-volume"):
        # an event comes only when mounting has failed
        found = recorder.until(name, lambda _: True)
        recorder.cluster.wait_until(
            lambda found=found: any(
                each["reason"] == "FailedMount" for each in recorder.events_of(found)
            ),
            60,
            f"mount of {name}",
        )
    for name, (_, condition) in PODS.items():
        recorder.note(name, recorder.until(name, condition))
    recorder.refuse("exists", REFUSED["exists"])
    for name in PODS:
        recorder.delete(name)


def record_ends(recorder: Recorder) -> None:
    """What others do to a pod: deletion, eviction, preemption, a taint."""
    stubborn = container(["sh", "-c", "trap '' TERM; sleep 600 & wait; wait"])
    for name in ("deleted", "drained"):
        recorder.create(pod(name, stubborn, terminationGracePeriodSeconds=20))
        recorder.until(name, runs)
    recorder.delete("deleted", 20)
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {}}
    eviction["metadata"] = {"name": "jupyter-drained", "namespace": "lab"}  # type: ignore[assignment]
    recorder.cluster.request("POST", f"{recorder.path('drained')}/eviction", eviction)
    for name in ("deleted", "drained"):
        going = recorder.until(name, lambda found: "deletionTimestamp" in found["metadata"])
        recorder.note(name, going)
        recorder.delete(name)
    for name, value in (("low", 1), ("high", 1000)):
        body = {"metadata": {"name": name}, "value": value}
        recorder.cluster.request("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", body)
    big = {**stubborn, "resources": {"requests": {"cpu": "1500m"}}}
    recorder.create(
        pod("preempted", big, priorityClassName="low", terminationGracePeriodSeconds=20)
    )
    recorder.until("preempted", runs)
    recorder.create(pod("preemptor", big, priorityClassName="high"))
    going = recorder.until("preempted", lambda found: "deletionTimestamp" in found["metadata"])
    recorder.note("preempted", going)
    recorder.note("preemptor", recorder.until("preemptor", unschedulable))
    for name in ("preempted", "preemptor"):
        recorder.delete(name)


def record_refusals(recorder: Recorder) -> None:
    cluster = recorder.cluster
    for name, manifest in REFUSED.items():
        if name != "exists":
            recorder.refuse(name, manifest)
    cluster.make_namespace("strict", {"pod-security.kubernetes.io/enforce": "restricted"})
    recorder.refuse("pod-security", pod("refused"), recorder.path(namespace="strict"))
    recorder.refuse("no-namespace", pod("refused"), recorder.path(namespace="nope"))
    cluster.make_namespace("full")
    hard = {
        "requests.cpu": "500m",
        "limits.memory": "1Gi",
        "requests.nvidia.com/gpu": "2",
        "pods": "3",
    }
    quotas = "/api/v1/namespaces/full/resourcequotas"
    cluster.request("POST", quotas, {"metadata": {"name": "people"}, "spec": {"hard": hard}})
    scoped = {"hard": {"pods": "1"}, "scopes": ["BestEffort"]}
    cluster.request("POST", quotas, {"metadata": {"name": "scoped"}, "spec": scoped})
    cluster.wait_until(
        lambda: cluster.request("GET", f"{quotas}/people")["status"].get("used"), 30, "quota"
    )
    one = container(
        resources={
            "requests": {"cpu": "100m", "memory": "16Mi"},
            "limits": {"cpu": "100m", "memory": "600Mi"},
        }
    )
    recorder.refuse("quota-unspecified", pod("refused"), recorder.path(namespace="full"))
    recorder.create(pod("first", one), "full")
    recorder.refuse("quota", pod("second", one), recorder.path(namespace="full"))
    two = limited(cpu="450m", memory="600Mi", **{"nvidia.com/gpu": "3"})
    recorder.refuse(
        "quota-several", pod("second", container(resources=two)), recorder.path(namespace="full")
    )
    cluster.wait_until(
        lambda: cluster.request("GET", f"{quotas}/people")["status"]["used"]["pods"] == "1",
        30,
        "quota in use",
    )
    recorder.others["quotas"] = [
        without_managed(q) for q in cluster.request("GET", quotas)["items"]
    ]
    change = {"spec": {"hard": {"pods": "1"}}}
    cluster.request(
        "PATCH", f"{quotas}/people", change, content_type="application/merge-patch+json"
    )
    small = container(resources=limited(cpu="10m", memory="16Mi"))
    recorder.cluster.wait_until(
        lambda: cluster.request("GET", f"{quotas}/people")["status"]["hard"]["pods"] == "1",
        30,
        "smaller quota",
    )
    recorder.refuse("quota-pods", pod("second", small), recorder.path(namespace="full"))
    cluster.make_namespace("ranged")
    limits = {"limits": [{"type": "Container", "max": {"memory": "2Gi"}, "min": {"cpu": "5m"}}]}
    cluster.request(
        "POST",
        "/api/v1/namespaces/ranged/limitranges",
        {"metadata": {"name": "each"}, "spec": limits},
    )
    big = container(resources=limited(cpu="10m", memory="4Gi"))
    time.sleep(1)  # the admission plugin watches limit ranges
    recorder.refuse("limit-range", pod("refused", big), recorder.path(namespace="ranged"))


def record_nodes(recorder: Recorder) -> None:
    """The node with GPUs, cordoned, tainted, and lost."""
    cluster = recorder.cluster
    nodes = f"/api/v1/nodes/{cluster.node}"
    merge = {"content_type": "application/merge-patch+json"}
    cluster.extend_node({"nvidia.com/gpu": "2"})
    cluster.wait_until(
        lambda: cluster.request("GET", nodes)["status"]["allocatable"].get("nvidia.com/gpu"),
        60,
        "the GPUs",
    )
    one = limited(cpu="10m", **{"nvidia.com/gpu": "1"})
    recorder.create(pod("with-gpu", container(resources=one), activeDeadlineSeconds=7200))
    recorder.note("with-gpu", recorder.until("with-gpu", runs))
    recorder.others["node"] = without_managed(cluster.request("GET", nodes))
    every = cluster.request("GET", "/api/v1/pods")["items"]
    recorder.others["all-pods"] = [without_managed(each) for each in every]
    cluster.request("PATCH", nodes, {"spec": {"unschedulable": True}}, **merge)
    recorder.create(pod("closed"))
    recorder.note("closed", recorder.until("closed", unschedulable))
    recorder.others["closed-node"] = without_managed(cluster.request("GET", nodes))
    cluster.request("PATCH", nodes, {"spec": {"unschedulable": False}}, **merge)
    recorder.delete("closed")
    cluster.pause("kubelet")
    lost = recorder.until(
        "with-gpu",
        lambda found: any(
            each["type"] == "Ready" and each["status"] == "False"
            for each in found["status"]["conditions"]
        ),
        150,
    )
    recorder.note("lost", lost)
    recorder.others["lost-node"] = without_managed(cluster.request("GET", nodes))
    recorder.create(pod("not-ready"))
    recorder.note("not-ready", recorder.until("not-ready", unschedulable))
    cluster.resume("kubelet")
    recorder.delete("not-ready")
    cluster.wait_until(
        lambda: any(
            each["type"] == "Ready" and each["status"] == "True"
            for each in cluster.request("GET", nodes)["status"]["conditions"]
        ),
        60,
        "the node",
    )
    stubborn = container(["sh", "-c", "trap '' TERM; sleep 600 & wait; wait"])
    recorder.create(pod("tainted", stubborn, terminationGracePeriodSeconds=20))
    recorder.until("tainted", runs)
    taint = {"key": "maintenance", "value": "now", "effect": "NoExecute"}
    cluster.request("PATCH", nodes, {"spec": {"taints": [taint]}}, **merge)
    going = recorder.until("tainted", lambda found: "deletionTimestamp" in found["metadata"])
    recorder.note("tainted", going)


def main() -> None:
    """Record everything; what has been recorded is written even where a part fails."""
    with KubernetesSystem() as cluster:
        recorder = Recorder(cluster)
        recorder.others["version"] = cluster.request("GET", "/version")
        failures = []
        for part in (record_refusals, record_fates, record_ends, record_nodes):
            try:
                part(recorder)
            except Exception as error:  # noqa: BLE001 - the other parts are worth having
                failures.append(f"{part.__name__}: {error!r}")
            print(f"{part.__name__} done", file=sys.stderr, flush=True)
        recorder.save()
        if failures:
            raise SystemExit("\n".join(failures))


if __name__ == "__main__":
    main()
