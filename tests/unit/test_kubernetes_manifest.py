"""From KubeSpawner's pod to the pod that is submitted."""

from __future__ import annotations

import copy
import re
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhub_spawner.identity import Identity
from qhub_spawner.kubernetes.manifest import Settings, Storage, completed, merged, path_part
from qhub_spawner.kubernetes.possible import with_any_image
from qhub_spawner.profiles import Profile
from tests.unit import hostile
from tests.unit.test_identity import ALICE

BASE: dict[str, Any] = {
    "metadata": {"name": "jupyter-alice", "labels": {"component": "x"}, "annotations": {}},
    "spec": {
        "containers": [
            {
                "name": "notebook",
                "image": "base:1",
                "args": ["jupyterhub-singleuser", "--debug"],
                "env": [{"name": "JUPYTERHUB_API_TOKEN", "value": "secret"}],
                "resources": {"limits": {"cpu": 4.0}, "requests": {}},
                "securityContext": {"allowPrivilegeEscalation": False},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }
        ],
        "tolerations": [{"key": "from-kubespawner", "operator": "Exists"}],
        "volumes": [{"name": "data", "emptyDir": {}}],
        "automountServiceAccountToken": False,
    },
}


def profile(**fields: Any) -> Profile:
    given_ = {"slug": "p", "display_name": "P", "kubernetes": {}, **fields}
    return Profile.model_validate(given_)


def made(identity: Identity | None = None, settings: Settings | None = None, **fields: Any) -> Any:
    before = copy.deepcopy(BASE)
    pod = completed(BASE, profile(**fields), user="alice", identity=identity, settings=settings)
    assert before == BASE, "what is given is not changed"
    return pod


def server(pod: Any) -> Any:
    (container,) = pod["spec"]["containers"]
    return container


def test_neutral_fields() -> None:
    """They become limits and requests, the GPU's resource, and the longest life."""
    pod = made(cpu="1.5", memory="2 GiB", gpu=2, walltime="2h")
    assert server(pod)["resources"] == {
        "limits": {"cpu": "1500m", "memory": "2147483648", "nvidia.com/gpu": "2"},
        "requests": {"cpu": "1500m", "memory": "2147483648", "nvidia.com/gpu": "2"},
    }
    assert pod["spec"]["activeDeadlineSeconds"] == 7200


def test_requests_of_their_own() -> None:
    """Less may be kept free than may be used."""
    block = {"cpu_request": "250m", "memory_request": "512 MiB", "ephemeral_storage": "1 GiB"}
    resources = server(made(cpu=2, memory="4 GiB", kubernetes=block))["resources"]
    assert resources["requests"] == {
        "cpu": "250m",
        "memory": "536870912",
        "ephemeral-storage": "1073741824",
    }
    assert resources["limits"]["memory"] == "4294967296"
    assert resources["limits"]["ephemeral-storage"] == "1073741824"


def test_gpus_of_another_maker_and_type() -> None:
    """The device's name and the label of its type are the administrator's."""
    pod = made(gpu={"count": 1, "type": "mi300"}, kubernetes={"gpu_resource": "amd.com/gpu"})
    assert server(pod)["resources"]["limits"]["amd.com/gpu"] == "1"
    assert pod["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "mi300"}


def test_where_it_may_run() -> None:
    """Selector, tolerations beside KubeSpawner's, affinity, spot pool, classes."""
    settings = Settings(
        spot_pool={"node_selector": {"pool": "spot"}, "tolerations": [{"key": "spot"}]}
    )
    block = {
        "node_selector": {"zone": "a"},
        "tolerations": [{"key": "mine", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"x": 1}},
        "spot": True,
        "priority_class": "high",
        "runtime_class": "kata",
        "scheduler": "packed",
        "service_account": "people",
    }
    spec = made(settings=settings, kubernetes=block)["spec"]
    assert spec["nodeSelector"] == {"zone": "a", "pool": "spot"}
    assert [each["key"] for each in spec["tolerations"]] == ["from-kubespawner", "mine", "spot"]
    assert spec["affinity"] == {"nodeAffinity": {"x": 1}}
    assert (spec["priorityClassName"], spec["runtimeClassName"]) == ("high", "kata")
    assert (spec["schedulerName"], spec["serviceAccountName"]) == ("packed", "people")


def test_overlays_merge() -> None:
    """Objects merge by key, Kubernetes' keyed lists by theirs, and nothing is lost."""
    pod = made(
        environment={"variables": {"OMP_NUM_THREADS": 2}},
        kubernetes={
            "image": "lab:2",
            "volumes": {"data": {"hostPath": {"path": "/srv"}, "emptyDir": None}},
            "mounts": {"/more": {"name": "data", "readOnly": True}},
            "shared_memory": "1 GiB",
            "container": {"env": [{"name": "EXTRA", "value": "x"}], "tty": True},
            "pod": {"hostname": "lab", "containers": [{"name": "sidecar", "image": "s:1"}]},
        },
    )
    first, second = pod["spec"]["containers"]
    assert (first["image"], first["tty"], second["name"]) == ("lab:2", True, "sidecar")
    assert {each["name"] for each in first["env"]} == {
        "JUPYTERHUB_API_TOKEN",
        "OMP_NUM_THREADS",
        "EXTRA",
    }
    paths = [each["mountPath"] for each in first["volumeMounts"]]
    assert paths == ["/data", "/more", "/dev/shm"]
    assert pod["spec"]["volumes"][0]["hostPath"] == {"path": "/srv"}
    assert pod["spec"]["hostname"] == "lab"


def test_restricted_where_nothing_else_is_configured() -> None:
    """What Pod Security `restricted` asks for (Pod Security Standards, 1.34)."""
    pod = made()
    assert pod["spec"]["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert server(pod)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    own = made(kubernetes={"pod": {"securityContext": {"runAsNonRoot": False}}})
    assert own["spec"]["securityContext"]["runAsNonRoot"] is False
    assert "securityContext" not in made(settings=Settings(restricted=False))["spec"]


@pytest.mark.parametrize(
    ("kubespawner", "field", "mounted"),
    [
        ({}, None, False),
        ({"serviceAccountName": "team"}, None, None),  # as Kubernetes does: it is mounted
        ({"serviceAccountName": "team", "automountServiceAccountToken": False}, None, False),
        ({"automountServiceAccountToken": True}, None, True),
        ({}, "other", False),
        ({"serviceAccountName": "team"}, "other", False),
    ],
)
def test_token_of_a_service_account(kubespawner: Any, field: Any, mounted: Any) -> None:
    """It is mounted where ``c.KubeSpawner`` names an account, and not where a profile does."""
    base = copy.deepcopy(BASE)
    del base["spec"]["automountServiceAccountToken"]
    base["spec"] |= kubespawner
    block = {"kubernetes": {"service_account": field}} if field else {}
    spec = completed(base, profile(**block), user="alice")["spec"]
    assert spec.get("automountServiceAccountToken") is mounted
    assert spec.get("serviceAccountName") == (field or kubespawner.get("serviceAccountName"))


def test_the_person() -> None:
    """Numbers, names from files that are there before the container starts, home, umask."""
    pod = made(Identity.model_validate(ALICE))
    assert pod["spec"]["securityContext"] | {"seccompProfile": None} == {
        "runAsNonRoot": True,
        "seccompProfile": None,
        "runAsUser": 20001,
        "runAsGroup": 20001,
        "supplementalGroups": [30001, 30002],
        "supplementalGroupsPolicy": "Strict",
    }
    container = server(pod)
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert variables["HOME"] == "/home/alice"
    assert variables["LD_PRELOAD"] == "libnss_wrapper.so"
    assert "alice:x:20001:20001:" in pod["metadata"]["annotations"]["qhub.dev/passwd"]
    shell, option, text, name = container["command"]
    assert (shell, option, name) == ("/bin/sh", "-c", "qhub")
    assert text.startswith("umask 0002; ")
    assert text.endswith(' & exec "$@"')
    assert "Tell the hub what a server works at" in text
    assert "$(" not in text  # Kubernetes would put a variable there
    assert container["args"] == ["jupyterhub-singleuser", "--debug"]
    assert not pod["spec"].get("initContainers")
    assert "lifecycle" not in container


def test_no_group_but_the_persons() -> None:
    """A group for everybody's volumes, and a laxer rule for the image's groups, are taken away."""
    context = {"fsGroup": 100, "supplementalGroups": [7], "supplementalGroupsPolicy": "Merge"}
    base = merged(BASE, {"spec": {"securityContext": context}})
    identity = Identity.model_validate(ALICE)
    found = completed(base, profile(), user="alice", identity=identity)["spec"]["securityContext"]
    assert found["supplementalGroups"] == [30001, 30002]
    assert found["supplementalGroupsPolicy"] == "Strict"
    assert "fsGroup" not in found
    lax = Settings(strict_groups=False)
    found = completed(base, profile(), user="alice", identity=identity, settings=lax)
    # not even named: an older node knows nothing of it
    assert "supplementalGroupsPolicy" not in found["spec"]["securityContext"]
    assert "fsGroup" not in found["spec"]["securityContext"]


def test_who_may_write_an_image() -> None:
    """Where an image may add groups, the log names the profiles that take any."""
    free = {"display_name": "Image", "free": {"sets": "kubernetes.image"}}
    (line,) = with_any_image([profile(), profile(options={"image": free})])
    assert line.startswith("profiles[1] (p).options.image.free: people may write an image")


def test_a_uid_of_the_container_does_not_beat_the_person() -> None:
    """KubeSpawner's `uid` stands in the container: the person's own number takes its place."""
    base = merged(
        BASE,
        {
            "spec": {
                "containers": [
                    {"name": "notebook", "securityContext": {"runAsUser": 0, "runAsGroup": 0}}
                ]
            }
        },
    )
    pod = completed(base, profile(), user="alice", identity=Identity.model_validate(ALICE))
    assert not {"runAsUser", "runAsGroup"} & server(pod)["securityContext"].keys()


def test_home_and_shared_folders() -> None:
    """The home, and each group's folder at its full path, read-only where the contract says so."""
    storage = Storage(
        home_volume={"hostPath": {"path": "/srv/homes"}},
        shared_volume={"hostPath": {"path": "/srv/shared"}},
    )
    pod = made(Identity.model_validate(ALICE), Settings(storage=storage))
    mounts = {each["mountPath"]: each for each in server(pod)["volumeMounts"]}
    assert mounts["/home/alice"]["subPath"] == "alice"
    assert mounts["/shared/physics"]["readOnly"] is False
    assert mounts["/shared/physics/data"] == {
        "name": "qhub-shared",
        "mountPath": "/shared/physics/data",
        "subPath": "physics/data",
        "readOnly": True,
    }
    assert server(pod)["workingDir"] == "/home/alice"
    assert not [
        each
        for each in server(made(settings=Settings(storage=storage)))["volumeMounts"]
        if each["name"] == "qhub-shared"
    ], "without an identity there are no groups"


NAMES = st.sampled_from(sorted(hostile.TEXTS.values())) | st.text(min_size=1, max_size=80)


@given(NAMES)
def test_paths_of_any_name(name: str) -> None:
    """One part of a path, which says the whole name."""
    part = path_part(name)
    assert part not in {"", ".", ".."}
    assert part.isascii()
    assert not set(part) & set("/\\\0\n $\"'`;&|")
    assert len(part) <= 255
    if name and "%-" not in part:
        assert unquote(part, errors="surrogatepass") == name


@given(NAMES, NAMES)
def test_paths_of_two_names_differ(one: str, other: str) -> None:
    """No two people and no two groups share a folder."""
    assert (path_part(one) == path_part(other)) == (one == other)


def test_a_claim_is_mounted_once() -> None:
    """Homes and shared folders on one claim, which the profile mounts, too: one volume for all."""
    claim = {"persistentVolumeClaim": {"claimName": "files"}}
    storage = Storage(home_volume=claim, home_folder="homes/{user}", shared_volume=claim)
    for block, name in (({}, "qhub-homes"), ({"volumes": {"all": claim}}, "all")):
        known = Identity.model_validate(ALICE)
        pod = made(known, Settings(storage=storage), kubernetes=block)
        claims = [each for each in pod["spec"]["volumes"] if "persistentVolumeClaim" in each]
        assert claims == [{**claim, "name": name}]
        mounts = server(pod)["volumeMounts"]
        assert {each["name"] for each in mounts if "subPath" in each} == {name}


def test_an_ended_server_is_not_started_again() -> None:
    """Kubernetes' own default is to start containers again and again; a configured policy stays."""
    assert made()["spec"]["restartPolicy"] == "Never"
    block = {"pod": {"restartPolicy": "OnFailure"}}
    assert made(kubernetes=block)["spec"]["restartPolicy"] == "OnFailure"
    base = {"spec": {**BASE["spec"], "restartPolicy": "Always"}}
    pod = completed(base, profile(), user="alice")
    assert pod["spec"]["restartPolicy"] == "Always"


@pytest.mark.parametrize(
    ("base", "over", "result"),
    [
        ({"a": {"b": 1}}, {"a": {"c": 2}}, {"a": {"b": 1, "c": 2}}),
        ({"a": 1}, {"a": None}, {}),
        ({"a": [1]}, {"a": [2]}, {"a": [2]}),
        ({"env": [{"name": "a", "value": "1"}]}, {"env": [{"name": "a", "value": "2"}]},
         {"env": [{"name": "a", "value": "2"}]}),
        ({"env": [{"name": "a"}]}, {"env": [{"name": "b"}]}, {"env": [{"name": "a"}, {"name": "b"}]}),
    ],
)  # fmt: skip
def test_merging(base: Any, over: Any, result: Any) -> None:
    """As a strategic merge of Kubernetes does."""
    assert merged(base, over) == result


@pytest.mark.parametrize("name", [".", "..", "...", "-", "a/../b", "x" * 300])
def test_home_of_any_name(name: str) -> None:
    """Without an identity the home is one folder below /home, whatever the name."""
    storage = Storage(home_volume={"persistentVolumeClaim": {"claimName": "homes"}})
    pod = completed(BASE, profile(), user=name, settings=Settings(storage=storage))
    (mount,) = (each for each in server(pod)["volumeMounts"] if each["name"] == "qhub-homes")
    assert re.fullmatch(r"/home/[A-Za-z0-9_.@-]{1,32}", mount["mountPath"])
    assert mount["mountPath"] not in {"/home/.", "/home/.."}
    assert mount["subPath"] == path_part(name)


@pytest.mark.parametrize(
    ("name", "written"),
    [("alice", "alice"), ("$(HOME)", "$$(HOME)"), ("$$(A)", "$$$$(A)"), ("a$", "a$$")],
)
def test_a_name_refers_to_no_variable(name: str, written: str) -> None:
    """Kubernetes makes `$` of each `$$`, and so leaves the name as it is."""
    from qhub_spawner.kubernetes.pod_spawner import literal

    assert literal(name) == written
    assert written.replace("$$", "$") == name
