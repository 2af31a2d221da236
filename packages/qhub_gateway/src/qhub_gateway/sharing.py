"""With whom an owner shares the dashboard of a cluster. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError

from qhub_gateway.errors import RequestRefusedError
from qhub_spawner.errors import shown
from qhub_spawner.fields import Name
from qhub_spawner.resources import Model

__all__ = ["NOBODY", "Sharing"]

_ACCEPTED = ('{"users": ["bob"], "groups": ["/physics"]}, at most 100 of each',)


class Sharing(Model):
    """Who may look at a cluster's dashboard beside its owner: to look, and nothing else."""

    users: Annotated[tuple[Name, ...], Field(max_length=100)] = ()
    """Names of hub users."""
    groups: Annotated[tuple[Name, ...], Field(max_length=100)] = ()
    """Names of hub groups: every member."""

    def includes(self, name: str, groups: Collection[str]) -> bool:
        """Whether somebody is among them."""
        return name in self.users or not set(self.groups).isdisjoint(groups)

    @classmethod
    def asked(cls, data: object) -> Sharing:
        """Read what an owner asks for.

        Raises:
            RequestRefusedError: It makes no sense.
        """
        try:
            found = cls.model_validate(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "sharing"
            value = shown(first["input"])
            message = f"{where}: {value} is nobody to share with."
            raise RequestRefusedError(message, accepted=_ACCEPTED) from error
        return cls(
            users=tuple(dict.fromkeys(found.users)), groups=tuple(dict.fromkeys(found.groups))
        )

    @classmethod
    def of(cls, state: Mapping[str, Any] | None) -> Sharing:
        """Read what stands in a cluster's record."""
        data = (state or {}).get(KEY)
        return NOBODY if data is None else cls.model_validate(data)


KEY = "shared"
"""Where it stands in a cluster's record."""

NOBODY = Sharing()
