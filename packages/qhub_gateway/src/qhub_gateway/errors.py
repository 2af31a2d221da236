"""Every error this package raises on purpose.

One base class, so that a caller can catch all of them. The text of :class:`RequestRefusedError` and
of :class:`LimitReachedError` is for the person who asked: it names what is wrong and what they may
have, and nothing of others. What was sent is only ever repeated through
:func:`qhub_spawner.errors.shown`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = [
    "HostRefusedError",
    "HubUnavailableError",
    "LimitReachedError",
    "LogElsewhereError",
    "PersonUnclearError",
    "QHubGatewayError",
    "RequestRefusedError",
    "StartRefusedError",
    "StopUnconfirmedError",
    "TargetFullError",
    "TargetSilentError",
    "TokenRefusedError",
]


class QHubGatewayError(Exception):
    """The base of every error of this package."""


class RequestRefusedError(QHubGatewayError):
    """What a person asks for a cluster cannot be had.

    Attributes:
        message: What is wrong, safe to be shown.
        accepted: What this person may ask for instead.
    """

    def __init__(self, message: str, *, accepted: Sequence[str] = ()) -> None:
        """See the class."""
        self.message = message
        self.accepted = tuple(accepted)
        super().__init__(message)

    def __str__(self) -> str:
        """The message, then what may be asked for."""
        if not self.accepted:
            return self.message
        return f"{self.message} You may ask for: {', '.join(self.accepted)}."


class LimitReachedError(QHubGatewayError):
    """A limit does not allow what is asked; the text names it, and what is in use."""


class HubUnavailableError(QHubGatewayError):
    """The hub gave no usable answer: nothing may be concluded about anybody."""


class PersonUnclearError(HubUnavailableError):
    """The hub answers, and its answer about one person is of no use: of others it may be."""


class TokenRefusedError(QHubGatewayError):
    """A token is not accepted; the text says why, without the token."""


class StartRefusedError(QHubGatewayError):
    """A target does not start what it was asked to, and says why, in words for the person."""


class TargetFullError(QHubGatewayError):
    """A target takes no more now, or no more than it has: nothing was started.

    Attributes:
        certain: Whether it said so; else it may be that it would never take this.
    """

    def __init__(self, words: str, *, certain: bool) -> None:
        """See the class."""
        self.certain = certain
        super().__init__(words)


class TargetSilentError(QHubGatewayError):
    """A target gave no usable answer: nothing may be concluded.

    Attributes:
        started: Names of the jobs that were started all the same; of the others none was.
    """

    def __init__(self, words: str, *, started: Collection[str] = ()) -> None:
        """See the class."""
        self.started = frozenset(started)
        super().__init__(words)


class HostRefusedError(QHubGatewayError):
    """A scheduler says that it is where its job is not; says what would be taken."""


class LogElsewhereError(QHubGatewayError):
    """A log cannot be read from here; says where its owner finds it."""


class StopUnconfirmedError(QHubGatewayError):
    """A target has not agreed yet that everything has ended; it is asked again."""
