"""Every error this package raises on purpose.

One base class, so that a caller can catch all of them; third-party errors are chained as causes and
never leak through a public function. What somebody else sent is only ever repeated through
:func:`shown`; tokens, secrets and headers are not repeated at all.
"""

from __future__ import annotations

__all__ = [
    "ConfigurationError",
    "FoldersError",
    "IdentityError",
    "IdentityUnavailableError",
    "KeycloakError",
    "KeycloakRefusedError",
    "KeycloakUnavailableError",
    "NameTakenError",
    "NumberTakenError",
    "QHubAuthError",
    "RangeExhaustedError",
    "RefusedError",
    "TokenError",
    "shown",
]

SHOWN_CHARACTERS = 64


def shown(value: object, limit: int = SHOWN_CHARACTERS) -> str:
    """Say a value that somebody sent, safely: at most `limit` characters of printable ASCII.

    Control characters, quotes and direction marks come out escaped, so that the result may stand in
    a log line or in a terminal. It is not HTML: a page escapes it like any other text.

    Args:
        value: Anything; of what is neither text nor a number only the type is said.
        limit: Most characters of the result.
    """
    if isinstance(value, str):
        text = ascii(str(value[:limit]))
        cut = len(value) > limit or len(text) > limit
    elif isinstance(value, bool | int | float | None):
        text = repr(value)
        cut = len(text) > limit
    else:
        return f"<{type(value).__name__[:32]}>".encode("ascii", "replace").decode("ascii")
    return text[: max(0, limit - 3)] + "..." if cut else text


class QHubAuthError(Exception):
    """The base of all errors of this package."""


class ConfigurationError(QHubAuthError):
    """A setting is missing or wrong; the message names it and what would be accepted."""


class KeycloakError(QHubAuthError):
    """Keycloak did not do what it was asked."""


class KeycloakUnavailableError(KeycloakError):
    """No usable answer came: nothing is known of what was asked, so nothing follows from it."""


class KeycloakRefusedError(KeycloakError):
    """Keycloak answered, and said no.

    Attributes:
        status: The HTTP status of the answer.
        code: OAuth's error code (RFC 6749, 5.2) if the answer had one, e.g. ``invalid_grant``.
    """

    def __init__(self, message: str, *, status: int, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class TokenError(QHubAuthError):
    """A token is not one to trust; the message says why, and never what is in it."""


class RefusedError(QHubAuthError):
    """A person may not come in; the message is for that person, the reason for the log.

    Attributes:
        reason: For the administrators.
    """

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


class IdentityError(QHubAuthError):
    """A person or group cannot be given numbers."""


class IdentityUnavailableError(IdentityError):
    """The database of numbers does not answer: whoever comes has to come again."""


class NameTakenError(IdentityError):
    """The name belongs to somebody else already."""


class NumberTakenError(IdentityError):
    """The uid or gid belongs to somebody else already, or is reserved."""


class RangeExhaustedError(IdentityError):
    """No number of the range is free any more."""


class FoldersError(QHubAuthError):
    """A home or a shared folder is not as it should be and could not be made so."""
