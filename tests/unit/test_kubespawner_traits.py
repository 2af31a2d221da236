"""Every trait of ``c.KubeSpawner``: it shapes what is made, or the hub heeds it, or it is warned of."""

from __future__ import annotations

import logging
import re
from types import SimpleNamespace
from typing import Any

import pytest
from jupyterhub.spawner import Spawner
from kubernetes_asyncio.client import V1PodSecurityContext
from kubespawner import KubeSpawner
from traitlets.config import Config

from qhub_spawner.conversion import converted
from qhub_spawner.inherited import fit_start_timeout
from qhub_spawner.kubernetes.pod_spawner import PodSpawner
from qhub_spawner.kubernetes.possible import without_effect
from qhub_spawner.kubespawner_traits import OF_THE_HUB, REPLACED, instead
from qhub_spawner.profiles import Profile
from qhub_spawner.spawner import QHubSpawner

LOG = logging.getLogger("hub")
POD = {
    "metadata": {"name": "p", "uid": "u"},
    "spec": {"containers": [{"ports": [{"name": "notebook-port", "containerPort": 8888}]}]},
    "status": {"podIP": "192.0.2.1"},
}
TERM = {"matchExpressions": [{"key": "k", "operator": "Exists"}]}
PREFERRED = {"weight": 1, "preference": TERM}
POD_TERM = {"labelSelector": {"matchLabels": {"a": "b"}}, "topologyKey": "zone"}
BESIDE = {"name": "beside", "image": "x"}


def marked(_self: Any, pod: Any) -> Any:
    """A hook that changes a pod."""
    pod.metadata.labels["hooked"] = "yes"
    return pod


# A value of each trait that shapes a pod or what belongs to it, unlike its default.
VALUES: dict[str, Any] = {
    "after_pod_created_hook": print,
    "allow_privilege_escalation": True,
    "args": ["--x"],
    "automount_service_account_token": True,
    "cmd": ["x"],
    "common_labels": {"a": "b"},
    "component_label": "x",
    "container_security_context": {"readOnlyRootFilesystem": True},
    "cpu_guarantee": 0.5,
    "cpu_limit": 2,
    "debug": True,
    "default_url": "/x",
    "delete_pvc": False,
    "delete_stopped_pods": False,
    "disable_user_config": True,
    "dns_name_template": "x",
    "enable_user_namespaces": True,
    "env_keep": ["KEPT"],
    "environment": {"A": "b"},
    "extra_annotations": {"a": "b"},
    "extra_container_config": {"tty": True},
    "extra_containers": [BESIDE],
    "extra_labels": {"a": "b"},
    "extra_pod_config": {"hostname": "x"},
    "extra_resource_guarantees": {"x/y": "1"},
    "extra_resource_limits": {"x/y": "1"},
    "fs_gid": 7,
    "get_pod_url": lambda _self, _pod: "http://x",
    "gid": 7,
    "hub_connect_ip": "192.0.2.9",
    "hub_connect_port": 9,
    "hub_connect_url": "http://x",
    "image": "x",
    "image_pull_policy": "Always",
    "image_pull_secrets": ["x"],
    "init_containers": [BESIDE],
    "ip": "192.0.2.9",
    "k8s_api_host": "https://x",
    "k8s_api_ssl_ca_cert": "/x",
    "k8s_api_verify_ssl": False,
    "lifecycle_hooks": {"preStop": {"exec": {"command": ["x"]}}},
    "mem_guarantee": "1G",
    "mem_limit": "2G",
    "modify_pod_hook": marked,
    "namespace": "x",
    "node_affinity_preferred": [PREFERRED],
    "node_affinity_required": [TERM],
    "node_selector": {"a": "b"},
    "notebook_dir": "/x",
    "pod_affinity_preferred": [{"weight": 1, "podAffinityTerm": POD_TERM}],
    "pod_affinity_required": [POD_TERM],
    "pod_anti_affinity_preferred": [{"weight": 1, "podAffinityTerm": POD_TERM}],
    "pod_anti_affinity_required": [POD_TERM],
    "pod_connect_ip": "x",
    "pod_name_template": "x",
    "pod_security_context": {"fsGroupChangePolicy": "Always"},
    "port": 9999,
    "priority_class_name": "x",
    "privileged": True,
    "pvc_name_template": "x",
    "scheduler_name": "x",
    "secret_mount_path": "/x",
    "secret_name_template": "x",
    "service_account": "x",
    "services_enabled": True,
    "slug_scheme": "escape",
    "ssl_alt_names": ["DNS:x"],
    "storage_access_modes": ["ReadOnlyMany"],
    "storage_capacity": "7Gi",
    "storage_class": "x",
    "storage_extra_annotations": {"a": "b"},
    "storage_extra_labels": {"a": "b"},
    "storage_pvc_ensure": True,
    "storage_selector": {"matchLabels": {"a": "b"}},
    "supplemental_gids": [7],
    "tolerations": [{"key": "k"}],
    "uid": 7,
    "user_namespace_annotations": {"a": "b"},
    "user_namespace_labels": {"a": "b"},
    "user_namespace_template": "x",
    "volume_mounts": [{"name": "x", "mountPath": "/x"}],
    "volumes": [{"name": "x", "emptyDir": {}}],
    "working_dir": "/x",
}
# Asked of the trait itself, where Kubernetes is asked for something: `creating`, `server`,
# `backend`; and of the whole configuration, where the hub finds its cluster.
ASKED = (
    "after_pod_created_hook", "delete_pvc", "delete_stopped_pods", "enable_user_namespaces",
    "k8s_api_host", "k8s_api_ssl_ca_cert", "k8s_api_verify_ssl", "storage_pvc_ensure",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")
    monkeypatch.setenv("KEPT", "1")  # for env_keep


def owner(*, internal_ssl: bool = False, **sections: Any) -> QHubSpawner:
    """A spawner of a person in a hub that does not run."""
    user = SimpleNamespace(
        name="Ann Other", escaped_name="x", id=7, url="/user/x/", server=None, groups=[]
    )
    hub = SimpleNamespace(public_host="", url="http://h", base_url="/", api_url="http://h/api")
    made = QHubSpawner(config=Config(sections), user=user, hub=hub, log=LOG)
    made.internal_ssl = internal_ssl
    if internal_ssl:
        made.cert_paths = dict.fromkeys(("keyfile", "certfile", "cafile"), __file__)
        made.internal_trust_bundles = {"hub-ca": __file__}
    return made


async def made_of(*, internal_ssl: bool, **traits: Any) -> str:
    """All that a PodSpawner makes of its traits."""
    # no cluster is asked; its address is looked for at the very end
    pods = PodSpawner.beside(owner(internal_ssl=internal_ssl, KubeSpawner=traits), cluster=False)
    pod = await pods.pod()
    found = [
        *(pod, await pods.hooked(pod), pods.own_namespace(), pods.claim(), pods.namespace),
        *(pods.pod_name, pods.pvc_name, pods.dependants(POD), pods.url_of(POD)),
        *(list(pods.ssl_alt_names), vars(pods.hub)),
        *(getattr(pods, name) for name in ASKED),
    ]
    return re.sub(r" at 0x\w+", "", repr(found))


def test_all_are_known() -> None:
    """A trait of another version of KubeSpawner must be sorted before that version is used."""
    known = [set(VALUES), set(OF_THE_HUB), set(REPLACED)]
    assert set(KubeSpawner.class_trait_names(config=True)) == set.union(*known)
    assert sum(map(len, known)) == len(set.union(*known)), "each is in one of them"
    assert set(Spawner.class_trait_names(config=True)) >= OF_THE_HUB


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of hub_connect_ip, as its value is set
async def test_what_shapes_a_pod() -> None:
    """Each trait that is not the hub's makes a difference under ``c.KubeSpawner``."""
    plain = {each: await made_of(internal_ssl=each) for each in (False, True)}
    for name, value in VALUES.items():
        secured = name.startswith("secret_")
        # a namespace of one's own is what its template and labels are for
        more = {"enable_user_namespaces": True} if name == "user_namespace_template" else {}
        before = await made_of(internal_ssl=secured, **more) if more else plain[secured]
        assert await made_of(internal_ssl=secured, **more, **{name: value}) != before, name


HUB_VALUES: dict[str, Any] = {
    "auth_state_hook": print,
    "consecutive_failure_limit": 7,
    "group_overrides": {"x": {"groups": ["g"], "spawner_override": {"debug": True}}},
    "http_timeout": 7,
    "oauth_client_allowed_scopes": ["access:servers!server"],
    "oauth_roles": ["user"],
    "options_form": "<p>",
    "options_from_form": print,
    "poll_interval": 7,
    "poll_jitter": 0.7,
    "post_stop_hook": print,
    "pre_spawn_hook": print,
    "progress_ready_hook": print,
    "server_token_scopes": ["self"],
    "ssl_alt_names_include_local": False,
}


@pytest.mark.parametrize("name", sorted(OF_THE_HUB - {"start_timeout"}))
def test_what_the_hub_heeds(name: str) -> None:
    """What every spawner has is the spawner's own, unless a more special section says otherwise."""
    said, other = HUB_VALUES[name], getattr(owner(), name)
    assert other != said
    assert getattr(owner(KubeSpawner={name: said}), name) == said
    assert getattr(owner(KubeSpawner={name: said}, Spawner={name: other}), name) == said
    found = owner(KubeSpawner={name: said}, QHubSpawner={name: other})
    assert getattr(found, name) == other


def test_nothing_of_a_pod_reaches_another_backend() -> None:
    """What ``c.KubeSpawner`` says of a pod is not said of a job."""
    found = owner(KubeSpawner={"cmd": ["x"], "environment": {"A": "b"}, "port": 9, "args": ["--x"]})
    assert (found.cmd, found.environment, found.args) == (owner().cmd, {}, [])


@pytest.mark.parametrize(
    ("backends", "sections", "seconds"),
    [
        (["kubernetes"], {}, 300),
        (["kubernetes"], {"Spawner": {"start_timeout": 60}}, 300),
        (["kubernetes"], {"QHubSpawner": {"start_timeout": 60}}, 60),
        (["kubernetes", "slurm"], {}, 7 * 24 * 3600),
        (["slurm"], {}, 7 * 24 * 3600),
        (["slurm"], {"Spawner": {"start_timeout": 60}}, 60),
    ],
)
def test_start_timeout(backends: list[str], sections: Any, seconds: int) -> None:
    """KubeSpawner's holds where only Kubernetes may start it, however often: a queue takes days."""
    found = owner(KubeSpawner={"start_timeout": 300}, **sections)
    for each in (["kubernetes"], ["slurm"], backends):
        fit_start_timeout(found, SimpleNamespace(backends=each))  # type: ignore[arg-type]
    assert found.start_timeout == seconds
    found.start_timeout = 17  # as a hook may set it
    fit_start_timeout(found, SimpleNamespace(backends=["kubernetes"]))  # type: ignore[arg-type]
    assert found.start_timeout == 17


@pytest.mark.parametrize("name", sorted(REPLACED))
def test_what_has_no_effect_is_said(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """At start, with what does the same."""
    with caplog.at_level(logging.WARNING, "hub"):
        owner(KubeSpawner={name: "x"}).warn_of_replaced_traits()
    assert f"c.KubeSpawner.{name} has no effect with QHubSpawner: {REPLACED[name]}" in caplog.text


def test_nothing_to_say(caplog: pytest.LogCaptureFixture) -> None:
    """And nothing else is."""
    with caplog.at_level(logging.WARNING, "hub"):
        said = {"image": "x", "start_timeout": 300, "pre_spawn_hook": print}
        owner(KubeSpawner=said).warn_of_replaced_traits()
    assert caplog.text == ""


async def test_a_hook_sets_traits_of_kubespawner() -> None:
    """A hook that was written for KubeSpawner says what this one server gets."""
    found = owner(KubeSpawner={"image": "x"})
    found.image = "y"
    found.mem_limit = "2G"
    found.args.append("--more")
    pods = PodSpawner.beside(found, cluster=False)
    assert (pods.image, pods.mem_limit, pods.args) == ("y", 2 * 2**30, ["--more"])
    found = owner(KubeSpawner={"mem_limit": "1G"}, Spawner={"args": ["--x"]})
    pods = PodSpawner.beside(found, cluster=False)
    assert (pods.mem_limit, pods.args) == (2**30, ["--x"])


async def test_overrides_of_groups() -> None:
    """What ``c.KubeSpawner.group_overrides`` gives a group reaches the pods of its people."""
    override = {"groups": ["big"], "spawner_override": {"mem_limit": "8G", "image": "large"}}
    found = owner(KubeSpawner={"mem_limit": "1G", "group_overrides": {"1": override}})
    found.user.groups = [SimpleNamespace(name="big")]
    await found.apply_group_overrides()
    pods = PodSpawner.beside(found, cluster=False)
    assert (pods.mem_limit, pods.image) == (8 * 2**30, "large")


CONFIGURED: dict[str, Any] = {
    "node_selector": {"disk": "ssd"},
    "extra_resource_limits": {"x/a": "1"},
    "volumes": [{"name": "x", "emptyDir": {}}],
}


async def test_overrides_of_groups_change_what_is_configured() -> None:
    """They merge dicts with, and call functions on, what ``c.KubeSpawner`` says of every server."""
    override = {
        "node_selector": {"pool": "gpu"},
        "extra_resource_limits": {"x/b": "2"},
        "volumes": lambda spawner: [*spawner.volumes, {"name": "y"}],
        "extra_labels": {"a": "b"},
    }
    overrides = {"1": {"groups": ["big"], "spawner_override": override}}
    found = owner(KubeSpawner={**CONFIGURED, "group_overrides": overrides})
    found.user.groups = [SimpleNamespace(name="big")]
    await found.apply_group_overrides()
    pods = PodSpawner.beside(found, cluster=False)
    assert pods.node_selector == {"disk": "ssd", "pool": "gpu"}
    assert pods.extra_resource_limits == {"x/a": "1", "x/b": "2"}
    assert [each["name"] for each in pods.volumes] == ["x", "y"]
    assert pods.extra_labels == {"a": "b"}


async def test_a_hook_changes_what_is_configured() -> None:
    """In place, for its own server: the configuration stays for the next one."""
    config = Config(KubeSpawner=CONFIGURED)
    found = owner(**config)
    found.volumes.append({"name": "y"})
    found.node_selector["pool"] = "gpu"
    pods = PodSpawner.beside(found, cluster=False)
    assert [each["name"] for each in pods.volumes] == ["x", "y"]
    assert pods.node_selector == {"disk": "ssd", "pool": "gpu"}
    assert config == Config(KubeSpawner=CONFIGURED)
    assert PodSpawner.beside(owner(**config), cluster=False).volumes == CONFIGURED["volumes"]


async def test_what_is_no_trait_of_kubespawner_is_missing() -> None:
    """So is everything of KubeSpawner in a hub that has nothing to do with Kubernetes."""
    found = owner(KubeSpawner=CONFIGURED)
    for name in ("no_such", "get_pod_manifest", "pod_name", "_namespace"):
        with pytest.raises(AttributeError, match=f"has no attribute '{name}'"):
            getattr(found, name)
    with pytest.raises(AttributeError, match="has no attribute 'volumes'"):
        _ = owner().volumes
    assert not hasattr(found, "no_such")
    seen = owner()
    seen.user.settings = {"qhub_runtime": SimpleNamespace(has_backend=lambda name: name)}
    assert seen.volumes == []


async def test_a_hook_lifts_what_is_configured() -> None:
    """What it sets holds, also if it is what a QHubSpawner has where nothing is configured."""
    said = {"mem_limit": "1G", "debug": True, "default_url": "/x", "args": ["--x"], "cpu_limit": 2}
    found = owner(KubeSpawner=said)
    found.mem_limit, found.debug, found.default_url, found.args = None, False, "", []
    pods = PodSpawner.beside(found, cluster=False)
    assert (pods.mem_limit, pods.debug, pods.default_url, pods.args) == (None, False, "", [])
    assert pods.cpu_limit == 2


def other_context(_self: Any, pod: Any) -> Any:
    """A hook that has its own idea of who the pod runs as."""
    pod.spec.security_context = V1PodSecurityContext(run_as_user=7)
    return pod


def merging(_self: Any, pod: Any) -> Any:
    """A hook that wants the image's groups."""
    pod.spec.security_context.supplemental_groups_policy = "Merge"
    return pod


@pytest.mark.parametrize(
    ("hook", "old", "context"),
    [
        (marked, False, {"runAsUser": 1, "supplementalGroupsPolicy": "Strict"}),
        (marked, True, {"runAsUser": 1, "supplementalGroupsPolicy": "Strict"}),
        (other_context, False, {"runAsUser": 7, "supplementalGroupsPolicy": "Strict"}),
        (merging, False, {"runAsUser": 1, "supplementalGroupsPolicy": "Merge"}),
    ],
)
async def test_a_hook_keeps_the_images_groups_out(
    hook: Any, old: bool, context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with a client library that does not know how; only the hook's own word lifts that."""
    if old:
        known = dict(V1PodSecurityContext.openapi_types)
        known.pop("supplemental_groups_policy")
        monkeypatch.setattr(V1PodSecurityContext, "openapi_types", known)
    pods = PodSpawner.beside(owner(KubeSpawner={"modify_pod_hook": hook}), cluster=False)
    pod = await pods.pod()
    strict = {"runAsUser": 1, "supplementalGroupsPolicy": "Strict"}
    pod["spec"]["securityContext"] = strict
    made = await pods.hooked(pod)
    assert made["spec"]["securityContext"] == context


def test_convert_notes_what_has_no_effect_in_a_profile() -> None:
    """It is left out, and said, with what to use."""
    override = {"start_timeout": 9, "delete_grace_period": 9, "default_url": "/lab"}
    made = converted([{"slug": "a", "kubespawner_override": override}])
    assert made.profiles[0]["kubernetes"] == {"kubespawner": {"default_url": "/lab"}}
    assert made.notes == [
        f"a: override: {name} has no effect in a profile: left out; {instead(name)}"
        for name in ("start_timeout", "delete_grace_period")
    ]


def test_a_profile_that_sets_what_has_no_effect_there() -> None:
    """It is named with its place; the hub starts all the same."""
    said = {"kubespawner": {"http_timeout": 9, "default_url": "/lab"}}
    blocks: list[Any] = [{}, said]
    profiles = [
        Profile.model_validate({"slug": "a", "display_name": "A", "kubernetes": block})
        for block in blocks
    ]
    words = (
        "profiles[1] (a).kubernetes.kubespawner: http_timeout has no effect in a profile: set "
        "c.QHubSpawner.http_timeout for the whole hub"
    )
    assert without_effect(profiles) == [words]
