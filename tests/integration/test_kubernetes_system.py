"""The Kubernetes test system itself: what tests of the product rely on."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from qhub_spawner.kubernetes.pods import Pod
from qhub_spawner.kubernetes.words import Granted, ending_words
from tests.systems.kubernetes import (
    USER_IMAGE,
    USER_PREFIX,
    CommandFailedError,
    KubernetesSystem,
    sweep,
)
from tests.systems.kubernetes.kwok import SELECTOR, TOLERATION
from tests.systems.kubernetes.places import Addresses
from tests.systems.processes import ProcessId, wait_until

CHECKOUT = Path(__file__).resolve().parents[2]
MEBIBYTE = 1 << 20
LIMIT_FILES = ("memory.limit_in_bytes", "memory.max")  # of cgroup v1 and v2


@pytest.fixture(scope="module")
def namespace(kubernetes: KubernetesSystem) -> str:
    """A namespace without limits."""
    return kubernetes.make_namespace()


def pod(name: str, command: list[str], **spec: Any) -> dict[str, Any]:
    """The manifest of a pod with one container of the user image."""
    resources = spec.pop("resources", {"limits": {"memory": "300Mi"}, "requests": {"cpu": "10m"}})
    container = {"name": "main", "image": USER_IMAGE, "command": command, "resources": resources}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "containers": [container],
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            **spec,
        },
    }


def make(cluster: KubernetesSystem, namespace: str, manifest: dict[str, Any]) -> str:
    """Make a pod; returns its path in the API."""
    pods = f"/api/v1/namespaces/{namespace}/pods"
    cluster.request("POST", pods, manifest)
    return f"{pods}/{manifest['metadata']['name']}"


def status(cluster: KubernetesSystem, path: str, phase: str) -> dict[str, Any]:
    """The pod's status, once it is in this phase."""

    def reached() -> dict[str, Any] | None:
        found: dict[str, Any] = cluster.request("GET", path)["status"]
        return found if found["phase"] == phase else None

    return wait_until(reached, 60, f"{path} {phase}")


def fetch(url: str) -> str:
    """What this address answers, once something listens there."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def answer() -> str | None:
        try:
            with opener.open(url, timeout=5) as reply:
                return str(reply.read().decode())
        except OSError:
            return None

    return wait_until(answer, 30, url)


def test_node_is_ready_with_the_version_that_it_says(kubernetes: KubernetesSystem) -> None:
    """The node is a real kubelet of Kubernetes 1.34."""
    nodes = kubernetes.request("GET", "/api/v1/nodes")["items"]
    assert [node["metadata"]["name"] for node in nodes] == [kubernetes.node]
    assert nodes[0]["status"]["nodeInfo"]["kubeletVersion"].startswith("v1.34.")


def test_pod_has_its_identity_and_its_memory_limit(
    kubernetes: KubernetesSystem, namespace: str
) -> None:
    """uid, gid and all groups are as asked; the limit is in its cgroup; this machine reaches it."""
    show = "grep -E '^(Uid|Gid|Groups)' /proc/self/status > /tmp/status; cd /tmp"
    context = {
        "runAsUser": 12345,
        "runAsGroup": 23456,
        "fsGroup": 34567,
        "supplementalGroups": [45678],
    }
    command = ["sh", "-c", f"{show}; exec python3 -m http.server 8000"]
    path = make(kubernetes, namespace, pod("identity", command, securityContext=context))
    address = status(kubernetes, path, "Running")["podIP"]
    lines = fetch(f"http://{address}:8000/status").splitlines()
    found = {line.split(":")[0]: line.split()[1:] for line in lines}
    assert set(found["Uid"]) == {"12345"}
    assert set(found["Gid"]) == {"23456"}
    assert set(found["Groups"]) == {"23456", "34567", "45678"}
    cgroup = kubernetes.container_cgroup(namespace, "identity")
    limits = [cgroup / name for name in LIMIT_FILES if (cgroup / name).exists()]
    assert [int(file.read_text()) for file in limits] == [300 * MEBIBYTE]


def test_groups_of_the_image_are_kept_out_or_the_pod_is(
    kubernetes: KubernetesSystem, namespace: str
) -> None:
    """A node that cannot hold `Strict` refuses the pod, in words; one that can gives those groups."""
    node = kubernetes.request("GET", f"/api/v1/nodes/{kubernetes.node}")["status"]
    context = {
        "runAsUser": 12345,
        "runAsGroup": 23456,
        "supplementalGroups": [45678],
        "supplementalGroupsPolicy": "Strict",
    }
    command = ["sh", "-c", 'test "$(id -G)" = "23456 45678"']
    manifest = pod("strict-groups", command, securityContext=context)
    path = make(kubernetes, namespace, manifest)
    if (node.get("features") or {}).get("supplementalGroupsPolicy"):
        assert status(kubernetes, path, "Succeeded")
        return
    assert status(kubernetes, path, "Failed")["reason"] == "SupplementalGroupsPolicyNotSupported"
    _, words = ending_words(Pod.of(kubernetes.request("GET", path)), [], Granted())
    assert "cannot keep an image from adding groups" in words


def test_pod_over_its_memory_limit_is_killed(kubernetes: KubernetesSystem, namespace: str) -> None:
    """Memory limits are real, and Kubernetes says what happened."""
    manifest = pod("hungry", ["python3", "-c", f"x = bytearray({400 * MEBIBYTE})"])
    path = make(kubernetes, namespace, manifest)
    containers = status(kubernetes, path, "Failed")["containerStatuses"]
    assert containers[0]["state"]["terminated"]["reason"] == "OOMKilled"


def test_missing_image_is_said_at_once(kubernetes: KubernetesSystem, namespace: str) -> None:
    """An image that is not here cannot be pulled, and Kubernetes says so within seconds."""
    manifest = pod("missing-image", ["true"])
    manifest["spec"]["containers"][0]["image"] = "qhub.test/none:1"
    path = make(kubernetes, namespace, manifest)

    def waits() -> str:
        found = kubernetes.request("GET", path)["status"].get("containerStatuses", [])
        return "".join(each["state"].get("waiting", {}).get("reason", "") for each in found)

    wait_until(lambda: waits() in {"ErrImagePull", "ImagePullBackOff"}, 20, "ErrImagePull")
    kubernetes.request("DELETE", path)


def test_pods_reach_this_machine(kubernetes: KubernetesSystem, namespace: str) -> None:
    """What listens on `host_address` is reached from a pod: so a hub can be."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"the hub")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer((kubernetes.host_address, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://{kubernetes.host_address}:{server.server_port}/"
        code = f"import urllib.request as r; print(r.urlopen({url!r}, timeout=20).read().decode())"
        try:
            status(
                kubernetes,
                path := make(kubernetes, namespace, pod("caller", ["python3", "-c", code])),
                "Succeeded",
            )
        finally:
            server.shutdown()
            thread.join()
    assert kubernetes.request("GET", f"{path}/log").strip() == "the hub"


def test_user_image_has_servers_and_nothing_of_ours(
    kubernetes: KubernetesSystem, namespace: str
) -> None:
    """JupyterHub's server, JupyterLab and nss_wrapper are there, at constraints.txt's versions."""
    code = (
        "import importlib.metadata as m, importlib.util as u, json, pathlib;"
        "names = ('jupyterhub', 'jupyterlab', 'ipykernel');"
        "found = {name: m.version(name) for name in names};"
        "found['ours'] = u.find_spec('qhub_spawner') is not None;"
        "found['wrapper'] = bool(list(pathlib.Path('/usr/lib').rglob('libnss_wrapper.so')));"
        "print(json.dumps(found))"
    )
    server = f"{USER_PREFIX}/bin/jupyterhub-singleuser --version > /dev/null"
    command = ["sh", "-c", f'{server} && exec {USER_PREFIX}/bin/python -c "{code}"']
    context = {"runAsUser": 12345, "runAsGroup": 12345}
    manifest = pod("image", command, securityContext=context)
    path = make(kubernetes, namespace, manifest)
    status(kubernetes, path, "Succeeded")
    found = kubernetes.request("GET", f"{path}/log")
    assert found.pop("ours") is False
    assert found.pop("wrapper") is True
    pinned = (CHECKOUT / "constraints.txt").read_text().splitlines()
    assert {f"{name}=={version}" for name, version in found.items()} <= set(pinned)


def test_pod_security_is_enforced(kubernetes: KubernetesSystem) -> None:
    """Where a namespace asks for `restricted`, a privileged pod is refused and a meek one runs."""
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    restricted = kubernetes.make_namespace(labels=label)
    manifest = pod("refused", ["sleep", "1"])
    manifest["metadata"]["namespace"] = restricted
    container = manifest["spec"]["containers"][0]
    container["securityContext"] = {"privileged": True}
    with pytest.raises(CommandFailedError, match='violates PodSecurity "restricted:latest"'):
        kubernetes.apply(manifest)
    show = "grep -E '^(NoNewPrivs|CapBnd|Seccomp):' /proc/self/status"
    manifest = pod("meek", ["sh", "-c", show])
    manifest["spec"]["containers"][0]["securityContext"] = {
        "runAsNonRoot": True,
        "runAsUser": 12345,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    path = make(kubernetes, restricted, manifest)
    status(kubernetes, path, "Succeeded")
    lines = kubernetes.request("GET", f"{path}/log").splitlines()
    assert dict(line.split(":\t") for line in lines) == {
        "CapBnd": "0" * 16,
        "NoNewPrivs": "1",
        "Seccomp": "2",
    }


def test_volumes_are_this_machines_folders_and_single_files(
    kubernetes: KubernetesSystem, namespace: str, tmp_path: Path
) -> None:
    """hostPath read-write and read-only, and one file of a ConfigMap in the place of /etc/passwd."""
    for folder in (tmp_path / "home", tmp_path / "shared"):
        folder.mkdir(mode=0o700)
        os.chown(folder, 12345, 12345)
    entry = "alice:x:12345:12345::/home/alice:/bin/sh\n"
    files = {"metadata": {"name": "names"}, "data": {"passwd": entry}}
    kubernetes.request("POST", f"/api/v1/namespaces/{namespace}/configmaps", files)
    command = "id -un > home/made; touch shared/made; echo wrote: $?"
    manifest = pod(
        "volumes",
        ["sh", "-c", f"cd /data; {command}"],
        securityContext={"runAsUser": 12345, "runAsGroup": 12345},
        volumes=[
            {"name": "home", "hostPath": {"path": str(tmp_path / "home"), "type": "Directory"}},
            {"name": "shared", "hostPath": {"path": str(tmp_path / "shared")}},
            {"name": "names", "configMap": {"name": "names"}},
        ],
    )
    manifest["spec"]["containers"][0]["volumeMounts"] = [
        {"name": "home", "mountPath": "/data/home"},
        {"name": "shared", "mountPath": "/data/shared", "readOnly": True},
        {"name": "names", "mountPath": "/etc/passwd", "subPath": "passwd"},
    ]
    path = make(kubernetes, namespace, manifest)
    status(kubernetes, path, "Succeeded")
    assert (tmp_path / "home" / "made").read_text() == "alice\n"
    assert (tmp_path / "home" / "made").stat().st_uid == 12345
    assert "wrote: 1" in kubernetes.request("GET", f"{path}/log")
    assert not (tmp_path / "shared" / "made").exists()


def test_service_account_may_do_what_its_role_says(
    kubernetes: KubernetesSystem, namespace: str
) -> None:
    """A kubeconfig of a service account is a real token: nothing is allowed until a role says so."""
    config = kubernetes.service_account_kubeconfig(namespace, "hub")
    assert config.stat().st_mode & 0o077 == 0
    ask = [f"--kubeconfig={config}", "get", "pods"]
    assert "forbidden" in kubernetes.kubectl(*ask, check=False).stderr
    words = ["--namespace", namespace]
    kubernetes.kubectl("create", "role", "hub", "--verb=list", "--resource=pods", *words)
    account = f"--serviceaccount={namespace}:hub"
    kubernetes.kubectl("create", "rolebinding", "hub", "--role=hub", account, *words)
    kubernetes.kubectl(*ask)
    refused = kubernetes.kubectl(f"--kubeconfig={config}", "get", "secrets", check=False)
    assert "forbidden" in refused.stderr


@pytest.mark.parametrize("name", ["kube-apiserver", "etcd", "kubelet", "containerd"])
def test_pods_outlive_a_daemon(kubernetes: KubernetesSystem, namespace: str, name: str) -> None:
    """A daemon can be killed and started again, and pods run on."""
    path = make(kubernetes, namespace, pod(f"outlives-{name}", ["sleep", "1000"]))
    before = status(kubernetes, path, "Running")["containerStatuses"][0]
    kubernetes.kill_daemon(name)
    assert not kubernetes.daemon(name).running
    kubernetes.start_daemon(name)
    after = status(kubernetes, path, "Running")["containerStatuses"][0]
    assert after["containerID"] == before["containerID"]
    assert after["restartCount"] == 0
    kubernetes.request("DELETE", path)


def test_fake_nodes_take_pods(kubernetes: KubernetesSystem, namespace: str) -> None:
    """Kwok's nodes are Ready, the real scheduler uses them, and their pods are soon Running."""
    kubernetes.start_kwok(2)
    placed = {"nodeSelector": SELECTOR, "tolerations": [TOLERATION]}
    paths = [make(kubernetes, namespace, pod(f"fake-{n}", ["x"], **placed)) for n in range(5)]
    try:
        for path in paths:
            status(kubernetes, path, "Running")
    finally:
        kubernetes.stop_kwok()
    nodes = kubernetes.request("GET", "/api/v1/nodes")["items"]
    assert [node["metadata"]["name"] for node in nodes] == [kubernetes.node]


# What shows on this machine that a system is there, by a command each.
TRACES = (
    ["ip", "-brief", "link"],
    ["ip", "route"],
    ["iptables-save"],
    ["mount"],
    ["find", "/sys/fs/cgroup", "-maxdepth", "2", "-name", "qkube-*"],
)
SETTINGS = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward")


def traces(folder: Path, addresses: Addresses) -> list[str]:
    """What shows of one system (others may come and go): lines of commands, and processes."""
    words = (folder.name, f"{addresses.link}@", str(addresses.pods), str(addresses.services))
    found = []
    for command in TRACES:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines()
        found += [line for line in lines if any(word in line for word in words)]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command_line = (process / "cmdline").read_bytes()
            groups = (process / "cgroup").read_text()
        except OSError:
            continue
        ended = ProcessId.of(int(process.name)) is None  # and not yet collected by its parent
        if (folder.name.encode() in command_line or folder.name in groups) and not ended:
            words_of = command_line.decode(errors="replace").split("\0")
            found.append(f"{process}: {' '.join(words_of)}")
    return found


def settings() -> dict[str, str]:
    """Settings of this machine that a kubelet or kube-proxy would change."""
    return {name: Path("/proc/sys", name).read_text() for name in SETTINGS}


def packet_filter() -> set[str]:
    """Rules and chains that kube-proxy, kubelet or CNI made."""
    saved = subprocess.run(["iptables-save"], capture_output=True, text=True, check=False).stdout
    return {line for line in saved.splitlines() if "KUBE" in line or "CNI" in line}


def test_stop_leaves_nothing_behind() -> None:
    """No process, mount, link, route, rule, cgroup or setting; and the run folder is gone."""
    before = settings(), packet_filter()
    with KubernetesSystem() as system:
        folder, addresses = system.run_folder, system.places.addresses
        path = make(system, "default", pod("some", ["sleep", "1000"]))
        status(system, path, "Running")
        shown = "\n".join(traces(folder, addresses))
        for word in (
            addresses.link,
            str(addresses.pods),
            "kubelet",
            "/sys/fs/cgroup",
            "sleep 1000",
        ):
            assert word in shown
    assert not folder.exists()
    assert traces(folder, addresses) == []
    assert (settings(), packet_filter()) == before


def test_sweep_ends_what_a_killed_run_left() -> None:
    """A run that was killed leaves daemons and pods; the sweep finds and ends all of them."""
    program = """
import sys
from tests.systems.kubernetes import KubernetesSystem
system = KubernetesSystem(announce=lambda _: None)
system.start()
print(system.places.addresses.slot, system.run_folder, flush=True)
sys.stdin.read()
"""
    owner = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    with owner:
        assert owner.stdout is not None
        slot, _, name = owner.stdout.readline().decode().strip().partition(" ")
        folder, addresses = Path(name), Addresses(int(slot))
        owner.send_signal(signal.SIGKILL)
    assert traces(folder, addresses) != []
    sweep()
    assert not folder.exists()
    assert traces(folder, addresses) == []
