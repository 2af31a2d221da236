"""Where a dashboard is that a scheduler names as its own: nobody is sent to another's.

A scheduler is its owner's program, and says itself where its dashboard is. The page of clusters
looks at that address for whom the owner lets look, so it has to be the scheduler's own: on a host
where its target says that its job runs, and no address that another cluster names as well.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from dask_gateway_server.backends.db_base import Cluster

from qhub_gateway.bodies import place_of
from qhub_gateway.errors import HostRefusedError, StartRefusedError, TargetSilentError
from qhub_gateway.records import Records, ref_of

__all__ = ["Whereabouts"]


class Whereabouts:
    """Looks at where dashboards are said to be; what was found right is asked of nobody again.

    Args:
        records: What there is.
        log: Where what is refused is told.
    """

    def __init__(self, records: Records, log: logging.Logger) -> None:
        """See the class."""
        self._records = records
        self._log = log
        self._right: dict[str, str] = {}
        self._told: dict[str, str] = {}

    async def dashboard(self, cluster: Cluster) -> str | None:
        """Return the address of a cluster's dashboard, if it is its own.

        Raises:
            TargetSilentError: Where the scheduler runs is not known now.
        """
        if not cluster.dashboard_address or not cluster.is_active():
            return None
        place = place_of(cluster.dashboard_address)
        why = await self._why_not(cluster, place)
        if why is None:
            others = [each.name for each in await self._others(cluster, place)]
            # which of them is right cannot be said, so neither is shown
            why = f"{', '.join(others)} has the same" if others else None
        if why is None:
            return _address(place)
        if self._told.get(cluster.name) != why:
            self._told = {**self._still(self._told), cluster.name: why}
            self._log.warning(
                "the dashboard of cluster %s of %s is shown to nobody: it is said to be at %s, "
                "and %s",
                *(cluster.name, cluster.username, ascii(cluster.dashboard_address)[:128], why),
            )
        return None

    async def _why_not(self, cluster: Cluster, place: tuple[str, int]) -> str | None:
        """Say why a cluster's scheduler is not on that host; ``None`` if it is."""
        address = _address(place)
        if self._right.get(cluster.name) == address:
            return None
        ref = ref_of(cluster)
        try:
            if ref is not None:
                await self._records.target_of(cluster).check_host(ref, place[0])
        except (HostRefusedError, StartRefusedError) as error:
            return str(error)
        self._right = {**self._still(self._right), cluster.name: address}
        return None

    async def _others(self, cluster: Cluster, place: tuple[str, int]) -> list[Cluster]:
        """Return what else is at that place; who is not on that host only says so."""
        found = []
        for each in list(self._records.db.active_clusters()):
            if each is cluster or place_of(each.dashboard_address or "") != place:
                continue
            try:
                why = await self._why_not(each, place)
            except TargetSilentError:
                why = None
            if why is None:
                found.append(each)
        return found

    def _still(self, known: Mapping[str, str]) -> dict[str, str]:
        active = {cluster.name for cluster in self._records.db.active_clusters()}
        return {name: value for name, value in known.items() if name in active}


def _address(place: tuple[str, int]) -> str:
    host, port = place
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
