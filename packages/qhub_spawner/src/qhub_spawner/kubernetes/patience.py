"""How long a refusal counts as silence."""

from __future__ import annotations

import time

from qhub_spawner.errors import KubernetesRefusedError

_RIGHTS_SECONDS = 15.0
# pods is forbidden: User "system:serviceaccount:people:hub" cannot create resource "pods" in …
# pods "jupyter-ada" is forbidden: not yet ready to handle request
# pods "jupyter-ada" is forbidden: status unknown for quota: people, resources: pods
_NOT_YET = ('" cannot ', "not yet ready to handle request", "status unknown for quota")


class Patience:
    """Takes for silence what an API server says that has just started.

    Until it has read who may do what, it refuses everybody. Where that stays so, rights are missing
    indeed.
    """

    def __init__(self) -> None:
        self._ends: float | None = None

    def with_(self, error: KubernetesRefusedError) -> bool:
        """Whether to try again."""
        said = str(error.document.get("message") or "")
        not_yet = error.status == 401 or (  # noqa: PLR2004 - HTTP
            error.status == 403 and any(text in said for text in _NOT_YET)  # noqa: PLR2004
        )
        now = time.monotonic()
        if self._ends is None:
            self._ends = now + _RIGHTS_SECONDS
        return not_yet and now < self._ends
