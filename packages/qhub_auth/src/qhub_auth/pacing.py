"""When the sync service does what, and how long it waits after a failure. Pure."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

__all__ = ["Backoff", "Rhythm"]

_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS = 1.0, 15.0


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When things are done, in seconds.

    Attributes:
        poll: Between two looks at the events.
        overlap: How late an event may appear in Keycloak's list.
        full: Between two comparisons of everything.
        outage: After how long without Keycloak everything is compared.
        grace: How long servers go on of somebody who may not.
    """

    poll: float = 2.0
    overlap: float = 60.0
    full: float = 900.0
    outage: float = 300.0
    grace: float = 0.0


class Backoff:
    """Waits longer after each failure, and never for just as long as somebody else does."""

    def __init__(self) -> None:
        self.failures = 0
        self.until = 0.0
        self.why = ""

    def failed(self, why: str) -> None:
        """Note a failure."""
        delay = min(_FIRST_DELAY_SECONDS * 2**self.failures, _LONGEST_DELAY_SECONDS)
        self.failures += 1
        self.why = why
        self.until = time.monotonic() + delay * random.uniform(0.75, 1.25)  # noqa: S311 - no secret

    def succeeded(self) -> bool:
        """Note a success; say whether there were failures before."""
        recovered = self.failures > 0
        self.failures, self.until, self.why = 0, 0.0, ""
        return recovered

    @property
    def ready(self) -> bool:
        """Whether it is time for the next try."""
        return time.monotonic() >= self.until
