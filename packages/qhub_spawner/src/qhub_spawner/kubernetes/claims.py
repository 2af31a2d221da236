"""A person's storage: its end, when the hub forgets the person, and what has none."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

from qhub_spawner.errors import KubernetesError, KubernetesUnavailableError
from qhub_spawner.kubernetes.api import KubernetesApi
from qhub_spawner.kubernetes.pod_spawner import PodSpawner

_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 1.0
# as {servername} and {escaped_user_server} do
_OF_A_SERVER = re.compile(r"\{\w*server\w*\}")


async def delete_claim(api: KubernetesApi, owner: Any) -> None:  # noqa: ANN401 - the hub's spawner
    """Delete the storage claim of a person, or of a named server, that no longer exists.

    Only what the hub has made: where ``c.KubeSpawner.storage_pvc_ensure`` is off, claims are the
    administrator's. With ``c.KubeSpawner.delete_pvc = False`` they stay. A claim that all of a
    person's servers share goes with the person. A silent API server is asked for a minute; what
    could not be deleted is an error in the log, since the hub forgets the person anyway.

    Args:
        api: Of the cluster.
        owner: The spawner of what is forgotten.
    """
    pods = PodSpawner.beside(owner)
    if not pods.storage_pvc_ensure or not pods.delete_pvc:
        return
    if owner.name and not _OF_A_SERVER.search(pods.pvc_name_template):
        return
    claim = f"the storage claim {pods.pvc_name} in the namespace {pods.namespace}"
    try:
        if await _deleted(api, pods.namespace, pods.pvc_name):
            owner.log.info("deleting %s: %s is gone", claim, owner._log_name)  # noqa: SLF001
    except KubernetesError as error:
        owner.log.error(  # noqa: TRY400 - the error says all
            "%s is not deleted, and a later person of the name %s would get its data; delete it "
            "by hand: %s",
            *(claim, owner.user.name, error),
        )


def tell_of(owner: Any, namespace: str, name: str) -> None:  # noqa: ANN401 - the hub's spawner
    """Write down that a claim was made, and whether `delete_claim` will not find it."""
    log_name = owner._log_name  # noqa: SLF001
    owner.log.info(
        "made the storage claim %s in the namespace %s for %s", name, namespace, log_name
    )
    said = PodSpawner.configured_for(owner, cluster=False)
    found = said.storage_pvc_ensure and (said.namespace, said.pvc_name) == (namespace, name)
    if said.delete_pvc and not found:
        owner.log.warning(
            "the storage claim %s in the namespace %s stays when %s is deleted, and a later person "
            "of the name %s would get its data: a profile, a hook or group_overrides has made it, "
            "and the hub deletes only what c.KubeSpawner describes; delete it by hand then",
            *(name, namespace, log_name, owner.user.name),
        )


async def _deleted(api: KubernetesApi, namespace: str, name: str) -> bool:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return await api.delete("persistentvolumeclaims", namespace, name, grace=None)
        except KubernetesUnavailableError:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(_PAUSE_SECONDS)
