"""Where a dashboard is that a scheduler names as its own: nobody is sent to another's.

A scheduler is its owner's program, and says itself where its dashboard is. The page of clusters
looks at that address for whom the owner lets look, so it has to be the scheduler's own: on a host
where its target says that its job runs, and no address that another cluster names as well.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from dask_gateway_server.backends.db_base import Cluster

from qhub_gateway.bodies import place_of
from qhub_gateway.errors import HostRefusedError, StartRefusedError
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

    async def dashboard(self, cluster: Cluster) -> str | None:
        """Return the address of a cluster's dashboard, if it is its own.

        Raises:
            TargetSilentError: Where the scheduler runs is not known now.
        """
        if not cluster.dashboard_address or not cluster.is_active():
            return None
        host, port = place = place_of(cluster.dashboard_address)
        others = [
            each.name
            for each in self._records.db.active_clusters()
            if each is not cluster and place_of(each.dashboard_address) == place
        ]
        if others:
            # which of them is right cannot be said, so neither is shown
            self._refused(cluster, f"{', '.join(others)} has the same")
            return None
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        if self._right.get(cluster.name) == address:
            return address
        ref = ref_of(cluster)
        try:
            if ref is not None:
                target = self._records.target_of(cluster)
                await target.check_host(ref, host)
        except (HostRefusedError, StartRefusedError) as error:
            self._refused(cluster, str(error))
            return None
        self._right = {**self._still(), cluster.name: address}
        return address

    def _refused(self, cluster: Cluster, why: str) -> None:
        self._log.warning(
            "the dashboard of cluster %s of %s is shown to nobody: it is said to be at %s, and %s",
            *(cluster.name, cluster.username, ascii(cluster.dashboard_address)[:128], why),
        )

    def _still(self) -> Mapping[str, Any]:
        active = {cluster.name for cluster in self._records.db.active_clusters()}
        return {name: address for name, address in self._right.items() if name in active}
