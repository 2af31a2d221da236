"""What the API server has been asked, by its own audit log.

One line for each request when it arrives, watches included (audit.k8s.io/v1, stage
RequestReceived): exact, and the same for every client.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tests.systems.kubernetes import KubernetesSystem

HUB_AGENT = "OpenAPI-Generator/"
"""How the client library of both hubs calls itself."""

# The cluster's own daemons ask all the time, and are not what is measured.
_POLICY: dict[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["ResponseStarted", "ResponseComplete", "Panic"],
    "rules": [
        {"level": "None", "userGroups": ["system:nodes", "system:serviceaccounts:kube-system"]},
        {"level": "None", "users": ["system:kube-scheduler", "system:kube-controller-manager"]},
        {"level": "Metadata"},
    ],
}


class AuditLog:
    """The audit log of a system, which begins when this is made."""

    def __init__(self, cluster: KubernetesSystem) -> None:
        """Start the API server again, with an audit log."""
        folder = cluster.run_folder / "audit"
        folder.mkdir()
        policy = folder / "policy.json"  # JSON is YAML
        policy.write_text(json.dumps(_POLICY))
        self._log = folder / "log"
        self._read = 0
        cluster.stop_daemon("kube-apiserver")
        daemon = cluster.daemon("kube-apiserver")
        daemon.argv = [
            *daemon.argv,
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self._log}",
            "--audit-log-mode=blocking",  # a request is in the log before it is answered
        ]
        cluster.start_daemon("kube-apiserver")

    def skip(self) -> None:
        """Pass over what has been asked up to now."""
        self._read = self._log.stat().st_size

    def news(self) -> Counter[str]:
        """Return what the hubs have asked since the last look, by verb and kind."""
        with self._log.open("rb") as file:
            file.seek(self._read)
            lines = file.read().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        self._read += sum(map(len, whole))
        return requests_of(whole)


def requests_of(lines: Iterable[bytes]) -> Counter[str]:
    """Count the hubs' requests in lines of an audit log, by verb and kind, as ``watch pods``."""
    found: Counter[str] = Counter()
    for line in lines:
        event = json.loads(line)
        if event["stage"] == "RequestReceived" and str(event.get("userAgent", "")).startswith(
            HUB_AGENT
        ):
            about = event.get("objectRef") or {}
            found[f"{event['verb']} {about.get('resource', event['requestURI'])}"] += 1
    return found
