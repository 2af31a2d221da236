"""What pods of a real Kubernetes say of schedulers and workers."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from qhub_gateway import kubernetes_states as states
from qhub_gateway.targets.target import Phase
from qhub_spawner.kubernetes.pods import Pod
from qhub_spawner.kubernetes.words import refusal_words
from tests.unit.recorded import kubernetes as recorded

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "phase", "words"),
    [
        ("cores", Phase.QUEUED, "No node has 100 cores and 4000 GiB of memory free"),
        ("no-image", Phase.QUEUED, "The image qhub.test/none:1 cannot be fetched"),
        ("no-folder", Phase.QUEUED, "The volume home cannot be mounted"),
        ("running", Phase.RUNNING, ""),
        # on its way out it runs until Kubernetes says that it has ended
        ("deleted", Phase.RUNNING, "The pod is being ended"),
        ("drained", Phase.RUNNING, "The pod is being ended: its node node1 was drained"),
        # its node is silent: nothing is known, and nothing has ended
        ("lost", Phase.UNKNOWN, "Node node1 does not answer Kubernetes; it may still run there."),
        ("oom", Phase.ENDED, "its memory limit was reached"),
        ("deadline", Phase.ENDED, "its walltime ended"),
        ("failed", Phase.ENDED, "it failed with exit code 3 on node1"),
        ("succeeded", Phase.ENDED, "it ended by itself"),
    ],
)
def test_states(name: str, phase: Phase, words: str) -> None:
    """Queued until its container runs, ended when Kubernetes says so, unknown in between."""
    pod = Pod.of(recorded.pod(name))
    found = states.state_of(pod, recorded.events(name), now=NOW)
    assert found.phase is phase
    assert found.words.startswith(words)
    started = pod.started.timestamp() if pod.started is not None else None
    assert found.since == (started if phase is Phase.RUNNING else None)
    assert (found.since is not None) is (phase is Phase.RUNNING)


@pytest.mark.parametrize("name", sorted(recorded.document("pods")))
def test_nobody_reads_of_a_server(name: str) -> None:
    """The words are those of servers, said of schedulers and workers."""
    pod, events = Pod.of(recorded.pod(name)), recorded.events(name)
    said = [
        states.state_of(pod, events, now=NOW).words,
        states.ended(pod, events).words,
        states.stuck(pod, events) or "",
    ]
    for words in said:
        assert "server" not in words.replace("jupyterhub-singleuser", "").lower()
        assert "hub" not in words.replace("qhub", "").replace("jupyterhub", "").lower()


@pytest.mark.parametrize("name", sorted(recorded.document("refusals")))
def test_refusals(name: str) -> None:
    """Likewise of what Kubernetes does not take."""
    words = states.plain(refusal_words(recorded.refusal(name)))
    assert "the hub" not in words


def test_what_does_not_mend_itself() -> None:
    """An image that is not there, and no volume or node that may come."""
    found = {
        name
        for name in recorded.document("pods")
        if states.stuck(Pod.of(recorded.pod(name)), recorded.events(name))
    }
    assert {"no-image", "never-image", "image-name", "no-secret"} <= found
    assert not {"cores", "selector", "no-folder", "unbound-claim", "running", "oom"} & found
