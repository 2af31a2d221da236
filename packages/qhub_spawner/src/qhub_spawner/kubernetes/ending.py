"""The end of a server: its pod's deletion, and Kubernetes' word that it is gone."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from qhub_spawner.errors import KubernetesRefusedError, KubernetesUnavailableError
from qhub_spawner.kubernetes import names
from qhub_spawner.kubernetes.patience import Patience
from qhub_spawner.kubernetes.pods import Pod
from qhub_spawner.launch import StopFailedError

if TYPE_CHECKING:
    from qhub_spawner.kubernetes.server import KubernetesServer


async def delete(server: KubernetesServer, grace: int) -> None:
    """Delete the pod, and return when Kubernetes says that its processes are gone.

    Args:
        server: Whose.
        grace: Seconds that they get after SIGTERM.

    Raises:
        StopFailedError: Kubernetes does not confirm it in time, or does not let the hub.
    """
    deadline = time.monotonic() + grace + server.backend.stop_timeout
    asked, problem = False, ""
    patience = Patience()
    while True:
        try:
            if not asked:
                if server.uid is None and not await _made(server):
                    return
                asked = True
                if not await server.backend.api.delete(
                    "pods", server.namespace, server.pod_name, uid=server.uid, grace=grace
                ):
                    return
            there = server.backend.watch_pods.objects.get(server.key)
            if there is None or names.spawn_of(there) != server.spawn_id:
                there = await server.backend.api.get("pods", server.namespace, server.pod_name)
            if there is None or names.spawn_of(there) != server.spawn_id:
                return
            pod = Pod.of(there)
            if pod.over and pod.deleting:
                return  # its processes are gone; only the object waits to be tidied up
            problem = f"its pod is still being removed from node {pod.node}"
        except KubernetesRefusedError as error:
            if not patience.with_(error):
                msg = f"Kubernetes does not let the hub stop the server: {error}"
                raise StopFailedError(msg) from error
            asked, problem = False, str(error)
            await asyncio.sleep(0.5)
        except KubernetesUnavailableError as error:
            asked, problem = False, str(error)
            await asyncio.sleep(0.5)
        if time.monotonic() > deadline:
            msg = f"Kubernetes did not confirm that the server has ended: {problem}"
            raise StopFailedError(msg)
        await server.backend.watch_pods.changed(server.key, 1.0)


async def _made(server: KubernetesServer) -> bool:
    """Find out whether our pod was made after all; another's of its name is let alone."""
    there = await server.backend.api.get("pods", server.namespace, server.pod_name)
    if there is None or names.spawn_of(there) != server.spawn_id:
        return False
    server.uid = there["metadata"]["uid"]
    return True
