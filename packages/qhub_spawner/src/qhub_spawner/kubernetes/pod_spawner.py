"""KubeSpawner as a maker of manifests: its traits and templates, none of its requests.

One is made for each server, beside its `QHubSpawner`. Whatever ``c.KubeSpawner.*`` says applies to
it; traits that every spawner has may be set on ``c.QHubSpawner`` as well. See ADR 0009.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, Protocol

from jupyterhub.spawner import Spawner
from kubernetes_asyncio.config import ConfigException
from kubespawner import KubeSpawner
from kubespawner.clients import shared_client
from kubespawner.objects import make_owner_reference
from traitlets import TraitError, default
from traitlets.config import Config

from qhub_spawner.kubernetes.merging import literal
from qhub_spawner.launch import StartFailedError
from qhub_spawner.profiles import Profile

Json = dict[str, Any]


class HubSpawner(Protocol):
    """What is taken over from the spawner that the hub knows."""

    user: Any
    hub: Any
    config: Any
    log: Any
    orm_spawner: Any


# What the hub gives a spawner, beside its configuration.
_HANDED_OVER = (
    "user", "hub", "orm_spawner", "authenticator", "proxy_spec", "oauth_client_id",
    "oauth_client_allowed_scopes", "oauth_access_scopes", "cookie_options",
    "cookie_host_prefix_enabled", "trusted_alt_names", "user_options", "internal_ssl",
    "internal_trust_bundles", "internal_certs_location", "cert_paths", "public_url",
    "public_hub_url", "admin_access", "api_token", "handler",
)  # fmt: skip

_GROUPS_POLICY = "supplementalGroupsPolicy"


class PodSpawner(KubeSpawner):  # type: ignore[misc]  # kubespawner has no types
    """The traits of ``c.KubeSpawner``, for one server of a `QHubSpawner`."""

    def __init__(self, *args: Any, cluster: bool = True, **kwargs: Any) -> None:  # noqa: ANN401
        """Take the configuration.

        Args:
            args: As every spawner's.
            cluster: Whether it fails where Kubernetes' address is not known; to show what would be
                submitted, nobody is asked.
            kwargs: As every spawner's.

        Raises:
            ConfigException: The address is not known.
        """
        try:
            super().__init__(*args, **kwargs)
        except ConfigException:
            # KubeSpawner looks for it last of all: all else of it is ready
            if cluster:
                raise
            self.api = shared_client("CoreV1Api")

    @default("cmd")
    def _server_command(self) -> list[str]:
        # KubeSpawner would take the image's own; the server is started with the person's umask
        return ["jupyterhub-singleuser"]

    @classmethod
    def configured_for(cls, owner: HubSpawner, *, cluster: bool = True) -> PodSpawner:
        """Make the one of `owner` as the configuration alone has it: see `beside`."""
        handed = {name: getattr(owner, name) for name in _HANDED_OVER if hasattr(owner, name)}
        known = {name: value for name, value in handed.items() if name in cls.class_trait_names()}
        config = _config(owner.config, [each.__name__ for each in type(owner).mro()])
        made = cls(config=config, log=owner.log, cluster=cluster, **known)
        for name in handed.keys() - known.keys():
            setattr(made, name, handed[name])
        # JupyterHub's own setter would write to its database
        made._server = getattr(owner, "_server", None)
        return made

    @classmethod
    def beside(cls, owner: HubSpawner, *, cluster: bool = True) -> PodSpawner:
        """Make the one of `owner`; the event loop must run. For `cluster` see `__init__`."""
        made = cls.configured_for(owner, cluster=cluster)
        # a hook that was written for KubeSpawner sets its traits on what it is given
        for name in vars(owner).keys() & set(cls.class_trait_names(config=True)):
            setattr(made, name, vars(owner)[name])
        for name, before in getattr(owner, "configured", {}).items():
            # set, perhaps to what lifts the configuration's; or changed where it is
            if name in vars(owner).get("set_for_server", ()) or getattr(owner, name) != before:
                setattr(made, name, getattr(owner, name))
        # what a hook has put there for this server
        made.environment = {**made.environment, **getattr(owner, "environment", {})}
        return made

    def get_env(self) -> Any:  # noqa: ANN401 - as every spawner's
        """Return the environment; a name in what the hub itself says refers to no variable."""
        env = super().get_env()
        for name, value in env.items():
            own = name.startswith(("JUPYTERHUB_", "JPY_")) and name not in self.environment
            if own and isinstance(value, str):
                env[name] = literal(value)
        return env

    def apply(self, traits: Mapping[str, Any]) -> None:
        """Set traits for this server, as a profile of KubeSpawner overrides them.

        Raises:
            StartFailedError: There is no such trait, or it does not take the value.
        """
        for name, value in traits.items():
            if name not in self.traits(config=True):
                msg = f"The profile sets {name}, which KubeSpawner does not have."
                raise StartFailedError(msg)
            try:
                self._apply_overrides({name: copy.deepcopy(value)})
            except TraitError as error:
                msg = f"The profile sets KubeSpawner's {name} to what it does not take: {error}"
                raise StartFailedError(msg) from error

    def fit(self, profile: Profile) -> None:
        """Set the traits for what a profile says neutrally: the server's environment names them."""
        block = profile.kubernetes
        if "cpu" in profile.model_fields_set:
            self.cpu_limit = self.cpu_guarantee = profile.cpu.millicores / 1000
        if profile.memory is not None:
            self.mem_limit = self.mem_guarantee = profile.memory.bytes
        if block is not None and block.cpu_request is not None:
            self.cpu_guarantee = block.cpu_request.millicores / 1000
        if block is not None and block.memory_request is not None:
            self.mem_guarantee = block.memory_request.bytes
        if block is not None and block.image is not None:
            self.image = block.image

    async def pod(self) -> Json:
        """Return the pod that the traits describe, as JSON."""
        pod = self.plain(await self.get_pod_manifest())
        if not {"restartPolicy", "restart_policy"} & self.extra_pod_config.keys():
            # KubeSpawner's own, OnFailure, is nobody's wish; see `manifest.completed` for ours
            pod["spec"].pop("restartPolicy", None)
        return pod

    async def hooked(self, pod: Json) -> Json:
        """Let ``modify_pod_hook`` of the configuration change the pod."""
        if not self.modify_pod_hook:
            return pod
        changed = self.modify_pod_hook(self, self._model(pod, "V1Pod"))
        if inspect.isawaitable(changed):
            changed = await changed
        made = self.plain(changed)
        # a client library from before Kubernetes 1.31 drops it without a word, and a hook that
        # replaces the security context means its numbers
        policy = (pod["spec"].get("securityContext") or {}).get(_GROUPS_POLICY)
        if policy:
            context = made["spec"].get("securityContext") or {}
            made["spec"]["securityContext"] = {_GROUPS_POLICY: policy, **context}
        return made

    def own_namespace(self) -> Json:
        """Return the namespace of a person, where each has one."""
        metadata = {
            "name": self.namespace,
            "labels": self._expand_all(self.user_namespace_labels),
            "annotations": self._expand_all(self.user_namespace_annotations),
        }
        return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}

    def claim(self) -> Json:
        """Return the claim on storage that the traits describe."""
        return self.plain(self.get_pvc_manifest())

    def dependants(self, pod: Mapping[str, Any]) -> list[tuple[str, Json]]:
        """Return the kind and manifest of what belongs to a pod that exists: secret, service."""
        found: list[tuple[str, Json]] = []
        owner = make_owner_reference(self.pod_name, pod["metadata"]["uid"])
        if self.internal_ssl:
            found.append(("secrets", self.plain(self.get_secret_manifest(owner))))
        if self.internal_ssl or self.services_enabled:
            service = self.get_service_manifest(owner, self._get_pod_port(pod))
            found.append(("services", self.plain(service)))
        return found

    def url_of(self, pod: Mapping[str, Any]) -> str:
        """Return where the server in `pod` is reached: any pod with its containers' ports."""
        # KubeSpawner expects a list of ports of every container
        containers = [{"ports": [], **each} for each in pod["spec"]["containers"]]
        url: str = self._get_pod_url({**pod, "spec": {**pod["spec"], "containers": containers}})
        return url

    def plain(self, model: Any) -> Json:  # noqa: ANN401 - one of the client's classes
        """Return an object of the client library as JSON."""
        found: Json = self.api.api_client.sanitize_for_serialization(model)
        return found

    def _model(self, document: Json, kind: str) -> Any:  # noqa: ANN401
        client: Any = self.api.api_client
        return client.deserialize(SimpleNamespace(data=json.dumps(document)), kind)


class PersonalPods(PodSpawner):
    """The traits of ``c.KubeSpawner`` for pods of a person that are no servers.

    They have what a server of theirs has (image, volumes, nodes), and nothing of a hub: neither its
    variables nor its arguments.
    """

    @classmethod
    def of(cls, config: Config, user: str, groups: Iterable[str], log: Any) -> PersonalPods:  # noqa: ANN401
        """Make the one of a person; the event loop must run, and nobody is asked.

        Args:
            config: With ``c.KubeSpawner``.
            user: The hub's name of the person.
            groups: Their groups.
            log: As every spawner's.
        """
        person = SimpleNamespace(
            name=user,
            escaped_name=user,
            id=0,
            url="/",
            server=None,
            groups=[SimpleNamespace(name=group) for group in sorted(groups)],
        )
        hub = SimpleNamespace(public_host="", url="", base_url="/", api_url="")
        return cls(config=_config(config, _SECTIONS), user=person, hub=hub, log=log, cluster=False)

    @classmethod
    def of_nobody(cls, config: Config, log: Any) -> PersonalPods:  # noqa: ANN401
        """Make one to see what a pod takes and where it may run: nobody's name decides that.

        What a function of the configuration works out from a person is left out.
        """
        made = cls.of(config, "somebody", (), log)
        made.environment = {}
        for name in ("uid", "gid", "fs_gid"):
            setattr(made, name, None)
        made.supplemental_gids = []
        made.container_security_context = made.pod_security_context = {}
        return made

    def get_env(self) -> Any:  # noqa: ANN401 - as every spawner's
        """Return what is configured for every server, and no more."""
        return self._expand_env(self.environment)

    def get_args(self) -> list[str]:
        """Return none: the command is laid over what is made here."""
        return []


# Of `QHubSpawner`, the most special first.
_SECTIONS = ("QHubSpawner", "SlurmSpawner", "BatchSpawnerRegexStates", "BatchSpawnerBase")


def _config(config: Config, sections: Iterable[str]) -> Config:
    """Let common traits set on ``c.QHubSpawner`` apply where ``c.KubeSpawner`` is silent."""
    merged = copy.deepcopy(config)
    common = set(Spawner.class_trait_names(config=True))
    section = merged["KubeSpawner"]
    for each in sections:
        for name, value in merged.get(each, {}).items():
            if name in common and each != "Spawner" and name not in section:
                section[name] = value
    return merged
