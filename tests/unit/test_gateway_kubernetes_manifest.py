"""What is submitted to Kubernetes for a Dask cluster: the person's pod with another command."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from qhub_gateway import kubernetes_manifest as manifest
from qhub_gateway.kubernetes_manifest import Place
from qhub_gateway.requests import ClusterRequest, Owner, Size
from qhub_gateway.targets.target import WORKER_NAME, ClusterSpec, JobRef
from qhub_spawner.identity import Identity
from qhub_spawner.kubernetes.manifest import Settings, Storage
from qhub_spawner.profiles import Profile
from qhub_spawner.quantities import Cpu, Duration, Memory

NAME = "0123456789abcdef" * 2
REF = JobRef("qhub-prod-00000000000000aa", user="alice")
ALICE = Identity.model_validate(
    {
        "version": 1,
        "uid": 12001,
        "gid": 12002,
        "gids": [500],
        "home": "/home/alice",
        "groups": [{"path": "/lab", "name": "lab", "gid": 700, "access": "rw"}],
    }
)
# as KubeSpawner makes it of its traits
BASE: dict[str, Any] = {
    "metadata": {"name": "jupyter-alice", "labels": {"component": "singleuser-server"}},
    "spec": {
        "automountServiceAccountToken": False,
        "containers": [
            {
                "name": "notebook",
                "image": "base:1",
                "args": ["jupyterhub-singleuser"],
                "env": [{"name": "SITE", "value": "1"}],
                "lifecycle": {"postStart": {"exec": {"command": ["true"]}}},
                "livenessProbe": {"httpGet": {"port": 8888}},
                "ports": [{"containerPort": 8888, "name": "notebook-port"}],
                "resources": {"limits": {}, "requests": {}},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            },
            {"name": "beside", "image": "beside:1"},
        ],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "alice"}}],
    },
}
SETTINGS = Settings(
    storage=Storage(
        home_volume={"persistentVolumeClaim": {"claimName": "homes"}},
        shared_volume={"persistentVolumeClaim": {"claimName": "shared"}},
    ),
    spot_pool={"node_selector": {"pool": "spot"}, "tolerations": [{"key": "spot"}]},
)
PLACE = Place("prod", SETTINGS)


def spec_of(*, gpus: int = 0, environment: dict[str, str] | None = None, **profile: object) -> Any:
    """A cluster of alice's."""
    written = {"slug": "p", "display_name": "P", "cpu": 8, "memory": "32 GiB", "kubernetes": {}}
    request = ClusterRequest(
        owner=Owner(name="alice", identity=ALICE),
        slug="p",
        options={},
        profile=Profile.model_validate({**written, **profile}),
        backend="kubernetes",
        backends=("kubernetes",),
        worker=Size(cpu=Cpu(2000), memory=Memory(4 * 2**30), gpus=gpus),
        worker_threads=2,
        scheduler=Size(cpu=Cpu(500), memory=Memory(2**30)),
        walltime=Duration(7200),
        scheduler_walltime=Duration(86400),
        idle_timeout=None,
        max_workers=None,
    )
    secret = {"DASK_GATEWAY_API_TOKEN": "s3cret", "DASK_GATEWAY_CLUSTER_NAME": NAME}
    return ClusterSpec(
        name=NAME,
        request=request,
        scheduler_argv=("dask", "scheduler", "--preload", "a $(HOME) b"),
        worker_argv=("dask", "worker", "tls://10.0.0.1:1", "--name", WORKER_NAME),
        environment={**secret, **(environment or {})},
        tls_cert=b"certificate",
        tls_key=b"key",
    )


def scheduler(place: Place = PLACE, **fields: Any) -> Any:
    """A scheduler's pod; what it is made of is not changed."""
    before = copy.deepcopy(BASE)
    pod = manifest.scheduler_pod(spec_of(**fields), REF, BASE, place)
    assert before == BASE
    return pod


def worker(place: Place = PLACE, **fields: Any) -> Any:
    """A worker's pod."""
    return manifest.worker_pods(spec_of(**fields), {"w-1": REF}, BASE, place)[REF]


def own(pod: Any) -> Any:
    """The container that Dask runs in."""
    return pod["spec"]["containers"][0]


def variables(pod: Any) -> dict[str, str]:
    """Its variables."""
    return {each["name"]: each["value"] for each in own(pod)["env"]}


def test_a_worker_is_the_persons_pod_with_another_command() -> None:
    """Image, volumes, numbers, names and what runs beside it are as in their server."""
    pod = worker()
    container = own(pod)
    assert container["image"] == "base:1"
    assert container["command"][:2] == ["/bin/sh", "-c"]
    assert container["args"] == ["dask", "worker", "tls://10.0.0.1:1", "--name", "w-1"]
    assert not {"ports", "lifecycle", "livenessProbe"} & set(container)
    mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
    assert {"/data", "/home/alice", "/shared/lab", "/etc/qhub", "/etc/qhub-dask"} == set(mounts)
    assert mounts["/home/alice"]["subPath"] == "alice"
    context = pod["spec"]["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (12001, 12002)
    assert context["supplementalGroups"] == [500, 700]
    assert context["supplementalGroupsPolicy"] == "Strict"
    assert variables(pod)["LD_PRELOAD"] == "libnss_wrapper.so"
    assert variables(pod)["SITE"] == "1"
    assert pod["spec"]["containers"][1]["image"] == "beside:1"


def test_sizes() -> None:
    """A worker has what was asked for, a scheduler less, no GPU, and a walltime of its own."""
    fields = {"gpu": {"count": 4, "type": "a100"}, "gpus": 1}
    limits = own(worker(**fields))["resources"]["limits"]
    assert limits == {"cpu": "2000m", "memory": str(4 * 2**30), "nvidia.com/gpu": "1"}
    assert worker(**fields)["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "a100"}
    assert worker()["spec"]["activeDeadlineSeconds"] == 7200
    pod = scheduler(**fields)
    assert own(pod)["resources"]["limits"] == {"cpu": "500m", "memory": str(2**30)}
    assert "nodeSelector" not in pod["spec"]
    assert pod["spec"]["activeDeadlineSeconds"] == 86400
    assert "nvidia.com/gpu" not in own(worker(gpu=4))["resources"]["limits"]


def test_no_more_is_kept_free_than_is_asked_for() -> None:
    """What a profile keeps free for a server may be more than a whole worker has."""
    block = {"cpu_request": "1", "memory_request": "16 GiB"}
    assert own(worker(kubernetes=block))["resources"]["requests"] == {
        "cpu": "1000m",
        "memory": str(4 * 2**30),
    }
    assert own(scheduler(kubernetes=block))["resources"]["requests"] == {
        "cpu": "500m",
        "memory": str(2**30),
    }


def test_spot_is_for_workers() -> None:
    """The scheduler stays where nodes do, by the same profile."""
    fields = {"kubernetes": {"spot": True, "node_selector": {"zone": "a"}}}
    assert worker(**fields)["spec"]["nodeSelector"] == {"pool": "spot", "zone": "a"}
    assert worker(**fields)["spec"]["tolerations"] == [{"key": "spot"}]
    assert scheduler(**fields)["spec"]["nodeSelector"] == {"zone": "a"}
    assert "tolerations" not in scheduler(**fields)["spec"]


def test_a_pool_for_schedulers() -> None:
    """Its nodes are in the place of the profile's."""
    pool = {
        "node_selector": {"pool": "core"},
        "tolerations": [{"key": "core", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priority_class": "important",
    }
    fields = {"kubernetes": {"node_selector": {"pool": "gpu"}, "tolerations": [{"key": "gpu"}]}}
    spec = scheduler(Place("prod", SETTINGS, pool), **fields)["spec"]
    assert spec["nodeSelector"] == {"pool": "core"}
    assert spec["tolerations"] == pool["tolerations"]
    assert spec["affinity"] == {"nodeAffinity": {}}
    assert spec["priorityClassName"] == "important"
    assert worker(Place("prod", SETTINGS, pool), **fields)["spec"]["nodeSelector"] == {
        "pool": "gpu"
    }


def test_restricted() -> None:
    """What Pod Security `restricted` asks for, without a token of the cluster (Standards, 1.34)."""
    for pod in (scheduler(), worker()):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert spec["restartPolicy"] == "Never"
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_labels() -> None:
    """Of gateway, cluster and pod, for selecting; none that makes it a server; the person whole."""
    pod = worker()
    assert pod["metadata"]["name"] == REF.name
    assert pod["metadata"]["labels"] == {
        "app.kubernetes.io/managed-by": "qhub-gateway",
        "qhub.dev/hub": "prod",
        "qhub.dev/spawn": "00000000000000aa",
        "qhub.dev/cluster": NAME,
        "qhub.dev/role": "worker",
    }
    assert pod["metadata"]["annotations"]["qhub.dev/user"] == "alice"
    assert scheduler()["metadata"]["labels"]["qhub.dev/role"] == "scheduler"
    assert manifest.selector_of("prod", [JobRef("qhub-prod-0b"), JobRef("qhub-prod-0a")]) == (
        "app.kubernetes.io/managed-by=qhub-gateway,qhub.dev/hub=prod,qhub.dev/spawn in (0a,0b)"
    )


def test_secrets_are_in_the_secret_alone() -> None:
    """Key, certificate and token; workers see no token, and nobody a value of the secret's."""
    made = manifest.secret(spec_of(), PLACE, {"metadata": {"name": "pod", "uid": "u-1"}})
    data = {key: base64.b64decode(value).decode() for key, value in made["data"].items()}
    assert data == {"dask.crt": "certificate", "dask.pem": "key", "token": "s3cret"}
    (owner,) = made["metadata"]["ownerReferences"]
    assert owner == {"apiVersion": "v1", "kind": "Pod", "name": "pod", "uid": "u-1"}
    for pod, keys in ((scheduler(), {"dask.crt", "dask.pem", "token"}), (worker(), None)):
        assert "s3cret" not in json.dumps(pod)
        (volume,) = [each["secret"] for each in pod["spec"]["volumes"] if "secret" in each]
        assert volume["secretName"] == made["metadata"]["name"]
        assert {each["key"] for each in volume["items"]} == (keys or {"dask.crt", "dask.pem"})
    assert variables(scheduler())["DASK_GATEWAY_API_TOKEN"] == "/etc/qhub-dask/token"
    assert "DASK_GATEWAY_API_TOKEN" not in variables(worker())
    assert variables(worker())["DASK_DISTRIBUTED__COMM__TLS__WORKER__KEY"].endswith("dask.pem")


def test_a_policy_of_its_own() -> None:
    """The pods of a cluster reach one another; it says nothing of anybody else."""
    made = manifest.policy(spec_of(), PLACE, {"metadata": {"name": "pod", "uid": "u-1"}})
    same = made["spec"]["podSelector"]["matchLabels"]
    assert made["spec"]["ingress"] == [{"from": [{"podSelector": {"matchLabels": same}}]}]
    for pod in (scheduler(), worker()):
        assert same.items() <= pod["metadata"]["labels"].items()
    assert same["qhub.dev/cluster"] == NAME
    assert made["metadata"]["ownerReferences"][0]["uid"] == "u-1"


@given(value=st.text(alphabet="$()HOME{}` \n'\"\\", max_size=12))
def test_hostile_values_stay_what_they_are(value: str) -> None:
    """Kubernetes puts no variable into a value or a word, and no shell reads one."""
    pod = worker(environment={"HERS": value})
    assert variables(pod)["HERS"].replace("$$", "\0").count("$") == 0
    assert variables(pod)["HERS"].replace("$$", "$") == value
    assert own(scheduler())["args"][-1] == "a $$(HOME) b"


def test_what_is_a_servers_is_not_a_workers() -> None:
    """A profile's own container fields about command and health are left out, others kept."""
    block = {"container": {"command": ["x"], "readinessProbe": {}, "tty": True}}
    container = own(worker(kubernetes=block))
    assert container["command"][0] == "/bin/sh"
    assert "readinessProbe" not in container
    assert container["tty"] is True
