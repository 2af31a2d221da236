"""The requests of a start: the pod is made once, however often replies are lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qhub_spawner.errors import KubernetesRefusedError, KubernetesUnavailableError
from qhub_spawner.kubernetes import claims, names, words
from qhub_spawner.kubernetes.api import KubernetesApi
from qhub_spawner.kubernetes.patience import Patience
from qhub_spawner.kubernetes.pods import Pod
from qhub_spawner.launch import NoCapacityError, StartFailedError

if TYPE_CHECKING:
    from qhub_spawner.kubernetes.server import KubernetesServer

_CREATE_SECONDS = 120.0
_REPLACE_SECONDS = 15.0


def take_name(server: KubernetesServer) -> None:
    """Keep the pod's name from the other servers of this hub.

    Raises:
        StartFailedError: One of them has it: ``pod_name_template`` gives two servers the same.
    """
    live = server.backend.live
    other = live.get(server.key)
    if other is not None and _whose(other) != _whose(server):
        server.log.error(
            "pod %s is the one of %s: c.KubeSpawner.pod_name_template gives it to %s, too",
            server.pod_name,
            *map(_whose, (other, server)),
        )
        msg = f"The pod {server.pod_name} of another server is in the way"
        server.pod_name = ""  # it is not ours to stop
        raise StartFailedError(f"{msg}; the administrator can help.", status_code=409)
    live[server.key] = server


def _whose(server: KubernetesServer) -> tuple[str, str]:
    return server.owner.user.name, server.owner.name


async def replace(
    api: KubernetesApi, namespace: str, kind: str, dependant: Mapping[str, Any]
) -> None:
    """Make what belongs to a pod, in the place of what belonged to an earlier one."""
    name, deadline = dependant["metadata"]["name"], time.monotonic() + _REPLACE_SECONDS
    while True:
        try:
            await api.create(kind, namespace, dependant)
        except KubernetesRefusedError as error:
            if error.reason != "AlreadyExists" or time.monotonic() > deadline:
                raise
        else:
            return
        await api.delete(kind, namespace, name, grace=None)
        await asyncio.sleep(0.25)


async def ask_for(server: KubernetesServer, pod: dict[str, Any]) -> dict[str, Any]:
    """Create the pod and what must be there before it; go on while Kubernetes is silent."""
    deadline, pause = time.monotonic() + _CREATE_SECONDS, 0.25
    patience = Patience()
    while True:
        try:
            if server.pods.enable_user_namespaces:
                await _ensure_namespace(server)
            if server.pods.storage_pvc_ensure:
                await _ensure_claim(server)
            return await _created(server, pod)
        except KubernetesRefusedError as error:
            if server.stopping or not patience.with_(error):
                raise _refused(server, error) from error
        except KubernetesUnavailableError as error:
            if time.monotonic() > deadline or server.stopping:
                msg = "Kubernetes does not answer now, so nothing was started."
                raise StartFailedError(msg, status_code=503) from error
        server.say("Kubernetes does not answer now; trying again.", 5)
        await asyncio.sleep(pause)
        pause = min(2 * pause, 5.0)


async def _ensure_namespace(server: KubernetesServer) -> None:
    with existing_is_fine():
        await server.backend.api.request(
            "POST", "/api/v1/namespaces", body=server.pods.own_namespace()
        )


async def _ensure_claim(server: KubernetesServer) -> None:
    claim = server.pods.claim()
    claim |= {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
    kind, name = "persistentvolumeclaims", claim["metadata"]["name"]
    try:
        await server.backend.api.create(kind, server.namespace, claim)
    except KubernetesRefusedError as error:
        if error.reason == "AlreadyExists":
            return
        # a quota is checked before the name is: what exists needs no room
        if await server.backend.api.get(kind, server.namespace, name) is None:
            raise
    else:
        claims.tell_of(server.owner, server.namespace, name)


async def _created(server: KubernetesServer, pod: dict[str, Any]) -> dict[str, Any]:
    """Create the pod, or find that an earlier request has; clear away one that is over."""
    api = server.backend.api
    deadline = time.monotonic() + server.backend.stop_timeout
    while True:
        try:
            return await api.create("pods", server.namespace, pod)
        except KubernetesRefusedError as error:
            if error.reason != "AlreadyExists":
                raise
        there = await api.get("pods", server.namespace, server.pod_name)
        if there is None:
            continue
        if names.spawn_of(there) == server.spawn_id:
            return there
        await _clear(server, there, deadline)


async def _clear(server: KubernetesServer, there: Mapping[str, Any], deadline: float) -> None:
    """End a pod of our name that no server owns: one of an earlier start of the same server."""
    pod = Pod.of(there)
    _refuse_others(server, pod, there)
    server.say("Waiting for the end of your last server.", 5)
    if not pod.deleting:
        server.log.warning("deleting pod %s, which no server owns", server.pod_name)
        await server.backend.api.delete(
            "pods", server.namespace, server.pod_name, uid=pod.uid, grace=int(server.grace_seconds)
        )
    if time.monotonic() > deadline:
        msg = (
            f"The pod of your last server is still being removed from node {pod.node}. "
            "Try again later, or ask the administrator."
        )
        raise StartFailedError(msg, status_code=503)
    await server.backend.watch_pods.changed(server.key, 1.0)


def _refuse_others(server: KubernetesServer, pod: Pod, there: Mapping[str, Any]) -> None:
    """Let alone what is not this server's: names may be made alike, by a template or on purpose.

    Raises:
        StartFailedError: It is of another hub, person or server.
    """
    if pod.hub_id == server.backend.hub_id:
        ours, whose = (pod.user, pod.server) == _whose(server), "another server"
    else:
        # without a hub's mark it may be of the same person's, from KubeSpawner itself
        person = (there["metadata"].get("annotations") or {}).get("hub.jupyter.org/username")
        ours = not pod.hub_id and person == server.owner.user.name
        whose = "another hub" if pod.hub_id else "somebody else"
    if not ours:
        msg = f"A pod {server.pod_name} of {whose} is in the way; the administrator can help."
        raise StartFailedError(msg, status_code=409)


def _refused(server: KubernetesServer, error: KubernetesRefusedError) -> StartFailedError:
    server.log.warning("pod %s is refused: %s", server.pod_name, error)
    quota = words.quota_words(error.document)
    if quota:
        return NoCapacityError(sentence(quota))
    return StartFailedError(sentence(words.refusal_words(error.document)))


@contextmanager
def existing_is_fine() -> Iterator[None]:
    """Pass over the answer that an object exists already."""
    try:
        yield
    except KubernetesRefusedError as error:
        if error.reason != "AlreadyExists":
            raise


def sentence(text: str) -> str:
    """Return a phrase as a sentence."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."
