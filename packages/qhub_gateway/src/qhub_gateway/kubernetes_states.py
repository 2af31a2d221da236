"""What a pod says of a scheduler or worker. Pure.

The words are the spawner's, who tells people of servers.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from qhub_gateway.targets.target import Phase, State
from qhub_spawner.kubernetes.events import Told
from qhub_spawner.kubernetes.pods import Pod, PodState
from qhub_spawner.kubernetes.words import Granted, ending_words, stuck_words, waiting_words

__all__ = ["ended", "state_of", "stuck"]

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
