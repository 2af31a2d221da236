"""What a person may choose to run: one model for every backend.

The models are frozen; a choice does not change a profile but makes a new one
(:meth:`Profile.merged`). Their dictionaries are to be treated as read-only. To write one as data
again use ``model_dump(mode="json", exclude_unset=True)``: what a block leaves unset matters when it
is laid over another.

Everything written here comes from the hub's administrator, except that a :class:`FreeValue` lets a
person fill in one field, which is then held to that field's own rule as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    StrictBool,
    StrictInt,
    ValidatorFunctionWrapHandler,
    model_validator,
)

from qhub_spawner.errors import ValueRefusedError, shown
from qhub_spawner.fields import SafeText, Slug, TextOrNumber
from qhub_spawner.free_values import FreeTarget, FreeValue, overrides_of
from qhub_spawner.quantities import Cpu, Duration, Memory
from qhub_spawner.resources import (
    Access,
    Environment,
    Gpu,
    KubernetesBlock,
    LocalBlock,
    Model,
    Overrides,
    SlurmBlock,
    merged,
)

__all__ = [
    "BACKENDS",
    "BACKEND_OPTION",
    "Access",
    "BackendName",
    "Choice",
    "Environment",
    "FreeTarget",
    "FreeValue",
    "Gpu",
    "KubernetesBlock",
    "LocalBlock",
    "Option",
    "Overrides",
    "Profile",
    "SlurmBlock",
]

BackendName = Literal["slurm", "local", "kubernetes"]
BACKENDS: tuple[BackendName, ...] = ("slurm", "local", "kubernetes")

BACKEND_OPTION = "backend"
"""The option that a profile with ``policy: ask`` gets; see :mod:`qhub_spawner.access`."""


class Choice(Model):
    """One of the values an option offers."""

    display_name: SafeText
    """What people read."""
    description: SafeText = ""
    """One more sentence."""
    default: StrictBool = False
    """Chosen when the person says nothing."""
    access: Access = Access()
    """Who may choose it."""
    overrides: Overrides = Overrides()
    """What it changes."""


class Option(Model):
    """Something a person decides about a profile: by a choice, a free value, or either."""

    display_name: SafeText
    """What people read."""
    description: SafeText = ""
    """One more sentence."""
    choices: dict[Slug, Choice] = Field(default_factory=dict)
    """By name, in the order they are shown."""
    free: FreeValue | None = None
    """Lets the person write a value instead."""
    default: TextOrNumber | None = None
    """Name of a choice, or a free value, that is taken when the person says nothing."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.choices and self.free is None:
            msg = "an option needs something to choose"
            raise ValueRefusedError(msg, accepted="'choices', 'free', or both")
        marked = [slug for slug, choice in self.choices.items() if choice.default]
        if len(marked) > 1:
            raise _several_defaults(marked, ("choices", marked[1], "default"))
        if self.default is not None and self.default not in self.choices:
            self._check_free_default(self.default)
        elif self.default is not None and marked and marked != [self.default]:
            raise _several_defaults([self.default, *marked], ("default",))
        return self

    def narrowed(self, choices: Mapping[str, Choice], free: FreeValue | None) -> Option | None:
        """Return this option with only a part of what it offers; ``None`` if that is nothing.

        A default that names a choice which is left out is left out as well, so that it is never
        taken for a free value.
        """
        if not choices and free is None:
            return None
        lost = self.default in self.choices and self.default not in choices
        default = None if lost else self.default
        changes = {"choices": dict(choices), "free": free, "default": default}
        return self.model_copy(update=changes)

    def _check_free_default(self, default: str) -> None:
        accepted = f"one of {', '.join(self.choices)}" if self.choices else ""
        if self.free is None:
            msg = f"there is no choice {shown(default)}"
            raise ValueRefusedError(msg, accepted=accepted, at=("default",), value=default)
        try:
            overrides_of(self.free, default)
        except ValueRefusedError as error:
            accepted = f"{accepted}, or {error.accepted}" if accepted else error.accepted
            raise ValueRefusedError(
                error.message, accepted=accepted, at=("default",), value=default
            ) from error


def _several_defaults(names: list[str], at: tuple[str | int, ...]) -> ValueRefusedError:
    msg = f"there are several defaults: {', '.join(names)}"
    return ValueRefusedError(msg, accepted="one default at most", at=at, value=True)


class Profile(Model):
    """One entry of the list a person chooses from."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": [name]} for name in BACKENDS]}
    )

    slug: Slug
    """Its name in addresses, the API and ``user_options``; keep it when the words change."""
    display_name: SafeText
    """What people read."""
    description: SafeText = ""
    """One more sentence."""
    default: StrictBool = False
    """Taken when a person names no profile; one at most."""
    access: Access = Access()
    """Who may use it."""
    cpu: Cpu = Cpu(1000)
    """Cores of a server (on each node)."""
    memory: Memory | None = None
    """Memory of a server (on each node); the backend's default if left out."""
    gpu: Gpu | None = None
    """GPUs of a server (on each node)."""
    walltime: Duration | None = None
    """The longest a server may run; the backend's default if left out."""
    nodes: Annotated[StrictInt, Field(ge=1, le=100_000)] = 1
    """Number of nodes; the server runs on the first."""
    environment: Environment = Environment()
    """Software."""
    options: dict[Slug, Option] = Field(default_factory=dict)
    """What the person may decide, in the order it is shown and applied."""
    slurm: SlurmBlock | None = None
    """Run it as a Slurm job, with these settings."""
    local: LocalBlock | None = None
    """Run it as a process on the hub's machine."""
    kubernetes: KubernetesBlock | None = None
    """Run it as a Kubernetes pod, with these settings."""
    policy: Literal["first", "ask", "soonest"] = "first"
    """Where to run it when there are several backend blocks: the first written, ask the person, or
    where it would start soonest."""

    _backends: tuple[BackendName, ...] = PrivateAttr(default=())

    @model_validator(mode="wrap")
    @classmethod
    def _keep_order_of_backends(cls, value: object, handler: ValidatorFunctionWrapHandler) -> Self:
        profile: Self = handler(value)
        if isinstance(value, Mapping):
            profile._backends = tuple(
                name for key in value for name in BACKENDS if name == key and value[key] is not None
            )
        return profile

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if all(getattr(self, name) is None for name in BACKENDS):
            msg = "a profile needs a backend block"
            accepted = "'local: {}', 'slurm: {partition: NAME}' or 'kubernetes: {}'"
            raise ValueRefusedError(msg, accepted=accepted)
        if BACKEND_OPTION in self.options and self.policy == "ask":
            msg = f"the option {BACKEND_OPTION!r} is made by 'policy: ask'"
            raise ValueRefusedError(
                msg, accepted="another name", at=("options", BACKEND_OPTION), value=BACKEND_OPTION
            )
        for slug, option in self.options.items():
            self._check_blocks(slug, option)
        return self

    def _check_blocks(self, slug: str, option: Option) -> None:
        for name, choice in option.choices.items():
            for backend in BACKENDS:
                block = getattr(choice.overrides, backend)
                if block is not None and getattr(self, backend) is None:
                    self._refuse_block(
                        backend, ("options", slug, "choices", name, "overrides", backend)
                    )
        block = option.free.sets.partition(".")[0] if option.free is not None else ""
        if block in BACKENDS and getattr(self, block) is None:
            self._refuse_block(block, ("options", slug, "free", "sets"))

    def _refuse_block(self, backend: str, at: tuple[str | int, ...]) -> None:
        msg = f"the profile itself has no block {backend!r}, a choice cannot add one"
        raise ValueRefusedError(
            msg, accepted=f"settings of {', '.join(self.backends)}", at=at, value=backend
        )

    @property
    def backends(self) -> tuple[BackendName, ...]:
        """The backends it can run on, in the order they were written."""
        return self._backends or tuple(name for name in BACKENDS if getattr(self, name) is not None)

    def on(self, backends: Sequence[str]) -> Profile | None:
        """Return this profile on those of its backends only, in that order; ``None`` on none."""
        usable = tuple(name for name in backends if name in self.backends)
        if not usable:
            return None
        others: dict[str, None] = {name: None for name in BACKENDS if name not in usable}
        profile = self.model_copy(update=others)
        profile._backends = usable  # noqa: SLF001 - our own kind
        return profile

    def merged(self, overrides: Overrides) -> Profile:
        """Return this profile with ``overrides`` laid over it; see :class:`Overrides` for how."""
        return merged(self, overrides)
