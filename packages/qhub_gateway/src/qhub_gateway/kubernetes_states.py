"""What a pod says of a scheduler or worker. Pure.

The words are the spawner's, who tells people of servers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from qhub_gateway.targets.target import Phase, State
from qhub_spawner.kubernetes.events import Told
from qhub_spawner.kubernetes.pods import Pod, PodState
from qhub_spawner.kubernetes.words import Granted, ending_words, stuck_words, waiting_words

__all__ = ["addresses_of", "ended", "plain_address", "state_of", "stuck"]

_NO_SERVER = (
    ("the server ended", "it ended"),
    ("The server ended", "It ended"),
    ("The server has ended", "It has ended"),
    ("The server was given", "It was given"),
    ("The server runs on", "It runs on"),
    ("; it is starting to listen", ""),
    ("the server may still run there", "it may still run there"),
    ("image of the server", "image"),
    (", not by the hub", ", not by the gateway"),
    ("the hub may not", "the gateway may not"),
    ("the hub's credentials", "the gateway's credentials"),
)


def state_of(pod: Pod, events: Sequence[Told], *, now: datetime) -> State:
    """Return the state of a pod that is there.

    Until its container runs it counts as queued: waiting for a node, for volumes or for the image
    is nobody's failure.

    Args:
        pod: The pod.
        events: About it.
        now: The present.
    """
    if pod.over:
        return ended(pod, events)
    if pod.state is PodState.UNKNOWN:
        return State(Phase.UNKNOWN, plain(waiting_words(pod, events, now=now)[0]))
    since = None if pod.started is None else pod.started.timestamp()
    if pod.state is PodState.RUNNING:
        return State(Phase.RUNNING, since=since)
    phase = Phase.QUEUED if since is None else Phase.RUNNING
    return State(phase, plain(waiting_words(pod, events, now=now)[0]), since)


def addresses_of(pod: Mapping[str, Any]) -> frozenset[str]:
    """Return the addresses of a pod as the API has it, v4 and v6; none until there is one."""
    status = pod.get("status") or {}
    texts = [status.get("podIP"), *(each.get("ip") for each in status.get("podIPs") or ())]
    return frozenset(filter(None, map(plain_address, texts)))


def plain_address(text: str | None) -> str:
    """Return an address as it is written shortest; nothing where it is none."""
    try:
        return str(ipaddress.ip_address(text or ""))
    except ValueError:
        return ""


def ended(pod: Pod | None, events: Sequence[Told]) -> State:
    """Return the state of a pod that is over, or that Kubernetes does not have any more."""
    return State(Phase.ENDED, plain(ending_words(pod, events, Granted())[1]))


def stuck(pod: Pod, events: Sequence[Told]) -> str | None:
    """Return why a pod cannot start as things are; ``None`` where it may."""
    if not pod.waiting:
        return None
    found = stuck_words(pod, events)
    return None if found is None else plain(found)


def plain(words: str) -> str:
    """Return words about a server as words about a scheduler or a worker."""
    for theirs, ours in _NO_SERVER:
        words = words.replace(theirs, ours)
    return words
