"""What profiles and choices are made of: who, how much, which software, which backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    StrictInt,
    model_validator,
)

from qhub_spawner.errors import ValueRefusedError
from qhub_spawner.fields import (
    Constraint,
    EnvironmentValue,
    Gres,
    ImageName,
    KubernetesName,
    LabelKey,
    LabelValue,
    ModuleName,
    Names,
    Prefix,
    ResourceName,
    ShellText,
    SlurmName,
    SlurmNames,
    SlurmOption,
    VariableName,
    shorthand_schema,
)
from qhub_spawner.quantities import Cpu, Duration, Memory

__all__ = [
    "Access",
    "Environment",
    "Gpu",
    "KubernetesBlock",
    "LocalBlock",
    "Model",
    "Overrides",
    "SlurmBlock",
    "merged",
]

_M = TypeVar("_M", bound=BaseModel)


class Model(BaseModel):
    """What every model of a profile has in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Access(Model):
    """Who may have something; without any list: everyone."""

    groups: Names = ()
    """Names of hub groups; a member of any of them may."""
    users: Names = ()
    """Names of hub users who may, in any group or none."""

    @model_validator(mode="after")
    def _no_lonely_empty_list(self) -> Self:
        # A list that came out empty must not open a door to everyone.
        if not self.groups and not self.users and len(self.model_fields_set) == 1:
            written = next(iter(self.model_fields_set))
            msg = f"an empty list of {written} would mean everyone"
            raise ValueRefusedError(
                msg,
                accepted="at least one name, or no 'access' at all for everyone",
                at=(written,),
                value=[],
            )
        return self


class Gpu(Model):
    """GPUs of one server; a bare number is the count."""

    count: Annotated[StrictInt, Field(ge=0, le=64)] = 1
    """How many; 0 takes away those of the profile."""
    type: SlurmName | None = None
    """As the backend calls it, e.g. ``a100``; any when left out."""

    @model_validator(mode="before")
    @classmethod
    def _from_count(cls, value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool):
            return {"count": value}
        return value

    __get_pydantic_json_schema__ = shorthand_schema(
        {"type": "integer", "minimum": 0, "maximum": 64}
    )


class Environment(Model):
    """The software a server starts in; a bare text is the prefix."""

    prefix: Prefix | None = None
    """Absolute path of an environment whose ``bin/`` has ``jupyterhub-singleuser``; the backend's
    own if left out."""
    variables: dict[VariableName, EnvironmentValue] = Field(default_factory=dict)
    """Further environment variables of the server. Not for secrets."""

    @model_validator(mode="before")
    @classmethod
    def _from_prefix(cls, value: object) -> object:
        return {"prefix": value} if isinstance(value, str) else value

    __get_pydantic_json_schema__ = shorthand_schema({"type": "string"})


class SlurmBlock(Model):
    """What only Slurm understands; each becomes one ``sbatch`` option (sbatch(1), 22.05)."""

    partition: SlurmNames | None = None
    """``--partition``; several with commas."""
    account: SlurmName | None = None
    """``--account``; the person's default account if left out."""
    qos: SlurmName | None = None
    """``--qos``."""
    reservation: SlurmNames | None = None
    """``--reservation``."""
    constraint: Constraint | None = None
    """``--constraint``, e.g. ``intel&ib``."""
    gres: Gres | None = None
    """``--gres`` beside the GPUs, e.g. ``scratch:20G``."""
    cluster: SlurmNames | None = None
    """``--clusters``."""
    exclusive: StrictBool = False
    """Whole nodes, not shared with other jobs."""
    modules: tuple[ModuleName, ...] = ()
    """Environment modules to load before the server starts."""
    prologue: ShellText = ""
    """Shell text that runs in the job before the server."""
    epilogue: ShellText = ""
    """Shell text that runs in the job after the server."""
    directives: tuple[SlurmOption, ...] = ()
    """Further sbatch options, each beginning with ``--``, e.g. ``--mail-type=END``."""


JsonObject = dict[str, JsonValue]


class KubernetesBlock(Model):
    """What only Kubernetes understands (Pod v1, 1.34).

    What is left out stays as the traits of ``c.KubeSpawner`` say. Of two blocks mappings merge by
    key, to any depth, and lists are replaced.
    """

    image: ImageName | None = None
    """The container image of the server."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the node fetches the image."""
    image_pull_secrets: tuple[KubernetesName, ...] = ()
    """Secrets of the namespace with which the node fetches it."""
    gpu_resource: ResourceName = "nvidia.com/gpu"
    """The name under which the nodes offer GPUs."""
    cpu_request: Cpu | None = None
    """Cores that are kept free for the server; as many as ``cpu`` if left out."""
    memory_request: Memory | None = None
    """Memory that is kept free for the server; as much as ``memory`` if left out."""
    ephemeral_storage: Memory | None = None
    """Room on the node's own disk, as request and limit."""
    shared_memory: Memory | None = None
    """Size of ``/dev/shm``, counted as memory of the server."""
    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: tuple[JsonObject, ...] = ()
    """Taints that do not keep the server away, as Kubernetes writes them."""
    affinity: JsonObject = Field(default_factory=dict)
    """Affinity, as Kubernetes writes it."""
    spot: StrictBool = False
    """Run on the pool of nodes that may be taken away; see ``c.KubernetesBackend.spot_pool``."""
    priority_class: KubernetesName | None = None
    """The priority class."""
    runtime_class: KubernetesName | None = None
    """The runtime class, e.g. of a sandbox or of a GPU runtime."""
    scheduler: KubernetesName | None = None
    """The scheduler."""
    service_account: KubernetesName | None = None
    """The service account; its token is mounted only if ``c.KubeSpawner`` says so."""
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    """Further labels of the pod."""
    annotations: dict[LabelKey, EnvironmentValue] = Field(default_factory=dict)
    """Further annotations of the pod."""
    volumes: dict[KubernetesName, JsonObject] = Field(default_factory=dict)
    """Further volumes by name, as Kubernetes writes them without their name."""
    mounts: dict[Prefix, JsonObject] = Field(default_factory=dict)
    """Where they are mounted, by path; as Kubernetes writes it without its path."""
    container: JsonObject = Field(default_factory=dict)
    """Laid over the server's container, as Kubernetes writes it."""
    pod: JsonObject = Field(default_factory=dict)
    """Laid over the pod's ``spec``, as Kubernetes writes it."""
    kubespawner: JsonObject = Field(default_factory=dict)
    """Values of KubeSpawner's traits for this profile, as its ``kubespawner_override``."""


class LocalBlock(Model):
    """A process on the hub's own machine; nothing to set."""


class Overrides(Model):
    """What a choice changes; what it leaves out, or sets to nothing, stays as it is.

    Blocks merge field by field, mappings such as ``environment.variables`` by key; lists
    (``slurm.modules``, ``slurm.directives``) and texts are replaced.
    """

    cpu: Cpu | None = None
    """Cores."""
    memory: Memory | None = None
    """Memory."""
    gpu: Gpu | None = None
    """GPUs."""
    walltime: Duration | None = None
    """The longest the server may run."""
    nodes: Annotated[StrictInt, Field(ge=1, le=100_000)] | None = None
    """Whole number of nodes."""
    environment: Environment | None = None
    """Software."""
    slurm: SlurmBlock | None = None
    """Slurm's own settings."""
    local: LocalBlock | None = None
    """Settings of the local backend."""
    kubernetes: KubernetesBlock | None = None
    """Kubernetes' own settings."""


def merged(base: _M, over: BaseModel) -> _M:
    """Return ``base`` with those fields of ``over`` laid over it that were set, and not to nothing.

    Args:
        base: The model that stays of its own class.
        over: A model with some fields of the same names, e.g. :class:`Overrides`.
    """
    changes: dict[str, Any] = {}
    for name in type(over).model_fields:
        new = getattr(over, name)
        if name not in over.model_fields_set or new is None:
            continue
        old = getattr(base, name)
        if isinstance(old, BaseModel) and isinstance(new, BaseModel):
            changes[name] = merged(old, new)
        elif isinstance(old, dict) and isinstance(new, dict):
            # KubeSpawner takes a key away where its value is nothing
            changes[name] = _merged_mapping(old, new, keep_none=name == "kubespawner")
        else:
            changes[name] = new
    return base.model_copy(update=changes)


def _merged_mapping(
    base: Mapping[str, Any], over: Mapping[str, Any], *, keep_none: bool = False
) -> dict[str, Any]:
    result = dict(base)
    for key, new in over.items():
        old = result.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            result[key] = _merged_mapping(old, new, keep_none=keep_none)
        elif new is not None or keep_none:
            result[key] = new
    return result
