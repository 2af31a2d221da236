"""Ends the clusters of people who are no more: gone from the hub, or disabled.

Whoever is asked for is looked up at the hub. Only a plain answer counts: that there is nobody of
that name, or that somebody who had an identity when the cluster was made has none any more, as
`qhub_auth` leaves those who may not go on. Silence, or an answer that makes no sense, ends nothing;
an answer about one person that makes no sense keeps nobody else from being looked at.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from qhub_gateway.errors import HubUnavailableError, PersonUnclearError
from qhub_gateway.hub import HubPerson
from qhub_gateway.requests import Owner

__all__ = ["OwnedCluster", "OwnerWatch", "why_not"]


class OwnedCluster(Protocol):
    """A cluster, as far as it is looked at here."""

    name: str


def why_not(owner: Owner, person: HubPerson | None) -> str | None:
    """Say why the clusters of somebody may not go on; ``None`` if they may.

    Args:
        owner: Whose it is, as they were when it was made.
        person: What the hub says now; ``None`` if it knows nobody of that name.
    """
    if person is None:
        return f"the hub does not know {owner.name} any more"
    if owner.identity is not None and person.identity is None:
        return f"{owner.name} may not use the hub any more"
    return None


class OwnerWatch:
    """Asks the hub about the owners of clusters, all of them every `period`.

    Args:
        clusters: Says which clusters there are, each with its owner.
        person: Asks the hub who somebody is; raises HubUnavailableError where it says nothing,
            PersonUnclearError where what it says of this person is of no use.
        end: Ends a cluster, with why in words.
        period: Seconds between two rounds.
        log: For administrators.
    """

    def __init__(
        self,
        clusters: Callable[[], Iterable[tuple[Any, Owner]]],
        person: Callable[[str], Awaitable[HubPerson | None]],
        end: Callable[[Any, str], None],
        *,
        period: float,
        log: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        """See the class."""
        self._clusters = clusters
        self._person = person
        self._end = end
        self._period = period
        self._log = log

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            await asyncio.sleep(self._period)
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - the next round may find what this one did not
                self._log.exception("looking for the owners of clusters failed")

    async def look(self) -> None:
        """Make one round; it is broken off where the hub does not answer."""
        for name in sorted({owner.name for _, owner in self._clusters()}):
            try:
                person = await self._person(name)
            except PersonUnclearError as error:
                self._log.warning("%s; the clusters of %s go on", error, name)
                continue
            except HubUnavailableError as error:
                self._log.warning("%s; the clusters of everybody go on", error)
                return
            for cluster, owner in list(self._clusters()):
                words = why_not(owner, person) if owner.name == name else None
                if words is not None:
                    self._log.warning("ending cluster %s: %s", cluster.name, words)
                    self._end(cluster, words)
