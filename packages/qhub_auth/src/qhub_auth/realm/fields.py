"""Kinds of values that several of the realm's models have. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt

from qhub_auth.paths import split

__all__ = ["GroupPath", "Json", "Model", "Name", "Number", "Seconds", "Secret", "Url"]

Json = dict[str, object]
_SECRETS = frozenset({"bind_password", "client_secret", "password", "secret"})


class Model(BaseModel):
    """What every model of a realm has in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Leave secrets out of what is shown."""
        for name, value in super().__repr_args__():
            yield name, "…" if name in _SECRETS and value is not None else value


def _group_path(value: str) -> str:
    split(value)
    return value


Name = Annotated[str, Field(pattern=r"^[^\x00-\x1f]+$", max_length=255)]
GroupPath = Annotated[str, AfterValidator(_group_path)]
"""The full path of a group, e.g. ``/physics/team-a``; a slash inside a name is written ``~/``."""
Number = Annotated[StrictInt, Field(ge=1, lt=2**31)]
"""A uid or gid."""
Seconds = Annotated[StrictInt, Field(ge=1, lt=2**31)]
Url = Annotated[str, Field(pattern=r"^https?://[^\s/]+[^\s]*$", max_length=1024)]
Secret = Annotated[str, Field(min_length=1, max_length=4096)]
"""A secret, or better a reference to one, ``${NAME}``, which is filled in when it is imported."""
