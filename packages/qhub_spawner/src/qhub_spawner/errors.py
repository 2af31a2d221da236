"""Every error this package raises on purpose.

One base class, so that a caller can catch all of them; third-party errors are chained as causes and
never leak through a public function. Hostile input is only ever repeated through :func:`shown`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "ConfigurationError",
    "KubernetesError",
    "KubernetesRefusedError",
    "KubernetesUnavailableError",
    "Problem",
    "QHubSpawnerError",
    "SelectionError",
    "SlurmError",
    "SlurmRejectedError",
    "SlurmUnavailableError",
    "SubmitUnknownError",
    "ValueRefusedError",
    "named",
    "shown",
]

SHOWN_CHARACTERS = 64
PROBLEM_VALUE_CHARACTERS = 100
STDERR_CHARACTERS = 256


def shown(value: object, limit: int = SHOWN_CHARACTERS) -> str:
    """Say a value that somebody sent, safely: at most ``limit`` characters of printable ASCII.

    Control characters, quotes of other scripts and direction marks come out escaped, so the result
    may stand in a log line or in a terminal. It is not HTML: a page escapes it like any other text.

    Args:
        value: Anything, of any size and depth; only its beginning is looked at.
        limit: Most characters of the result.
    """
    if isinstance(value, str):
        text = ascii(str(value[:limit]))
        cut = len(value) > limit or len(text) > limit
    elif not isinstance(value, _SHOWN_TYPES):
        return f"<{type(value).__name__[:32]}>".encode("ascii", "replace").decode("ascii")
    else:
        try:
            text = _SHORT.repr(value).encode("ascii", "backslashreplace").decode("ascii")
        except Exception:  # noqa: BLE001 - a __repr__ of somebody else's class may raise anything
            text = f"<{type(value).__name__}>"
        cut = len(text) > limit
    return text[: max(0, limit - 3)] + "..." if cut else text


def named(value: object) -> str:
    """Say a name that somebody sent, safely, as :func:`shown` does but without quotes around it."""
    text = shown(value)
    return text[1:].removesuffix(text[0]) if text[:1] in ("'", '"') else text


_SHOWN_TYPES = (type(None), int, float, complex, bytes, list, tuple, dict, set, frozenset)
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = PROBLEM_VALUE_CHARACTERS


class QHubSpawnerError(Exception):
    """The base of every error of this package."""


class ValueRefusedError(ValueError):
    """A single value that is not acceptable; a ``ValueError`` so that pydantic collects it.

    Attributes:
        message: What is wrong, with the value in it.
        accepted: What would be accepted, as a noun phrase with examples.
        at: Where, relative to the thing being validated, e.g. ``("choices", "long", "overrides")``.
        value: The value itself, when ``at`` is not empty.
    """

    def __init__(
        self,
        message: str,
        *,
        accepted: str = "",
        at: tuple[str | int, ...] = (),
        value: object = None,
    ) -> None:
        """See the class."""
        super().__init__(f"{message}; accepted: {accepted}" if accepted else message)
        self.message = message
        self.accepted = accepted
        self.at = at
        self.value = value


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the configuration.

    Attributes:
        where: Its place, e.g. ``/etc/qhub/profiles.yaml:41 profiles[2].memory``.
        value: The value found there, as text.
        message: What is wrong with it.
        accepted: What would be accepted there; empty when the message says it all.
    """

    where: str
    value: str
    message: str
    accepted: str

    def __str__(self) -> str:
        """One line; the value is cut at 100 characters."""
        line = f"{self.where}: {self.message}"
        if self.value and self.value not in self.message:
            value = self.value
            if len(value) > PROBLEM_VALUE_CHARACTERS:
                value = value[: PROBLEM_VALUE_CHARACTERS - 3] + "..."
            line += f" (found: {value})"
        if self.accepted:
            line += f"; accepted: {self.accepted}"
        return line.translate(_ONE_LINE)


_ONE_LINE = {code: f"\\x{code:02x}" for code in (*range(32), 0x7F, 0x85)} | {
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


class ConfigurationError(QHubSpawnerError):
    """The hub's configuration is not usable; it stops the hub at start.

    Attributes:
        problems: Everything that is wrong, in the order of the file.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Make one of all problems found.

        Args:
            problems: At least one.
        """
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        """All problems, one a line."""
        return "\n".join(str(problem) for problem in self.problems)


class SelectionError(QHubSpawnerError):
    """A person asked for something they may not have, or that does not exist.

    Attributes:
        message: What is wrong, without the list of what would be right.
        status_code: The HTTP status that answers it.
        name: The profile, option or choice it is about, fit to be shown.
        accepted: What this person may choose instead, and nothing of others.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: Literal[400, 403, 404] = 400,
        name: str = "",
        accepted: Sequence[str] = (),
    ) -> None:
        """See the class."""
        self.message = message
        self.status_code: Literal[400, 403, 404] = status_code
        self.name = name
        self.accepted = tuple(accepted)
        super().__init__(message)

    def __str__(self) -> str:
        """The message, then what may be chosen."""
        if not self.accepted:
            return self.message
        return f"{self.message} You may choose: {', '.join(self.accepted)}."


class SlurmError(QHubSpawnerError):
    """Something about Slurm failed.

    Attributes:
        message: What failed, in words, with no secret in it.
        exit_code: Of the command, when there was one.
        stderr: The first 256 characters the command wrote there.
    """

    def __init__(self, message: str, *, exit_code: int | None = None, stderr: str = "") -> None:
        """See the class."""
        self.message = message
        self.exit_code = exit_code
        self.stderr = stderr[:STDERR_CHARACTERS]
        super().__init__(message)

    def __str__(self) -> str:
        """The message with exit code and stderr, on one line."""
        text = self.message
        if self.exit_code is not None:
            text += f" (exit code {self.exit_code})"
        if self.stderr:
            text += f": {self.stderr.strip()}"
        return text.translate(_ONE_LINE)


class SlurmUnavailableError(SlurmError):
    """Slurm gave no usable answer: the state is UNKNOWN, and nothing may be concluded."""


class SlurmRejectedError(SlurmError):
    """Slurm answered, and the answer is no.

    Attributes:
        words: Why, as one sentence that a person understands.
    """

    def __init__(self, words: str, *, exit_code: int | None = None, stderr: str = "") -> None:
        """See the class."""
        super().__init__(words, exit_code=exit_code, stderr=stderr)
        self.words = words


class SubmitUnknownError(SlurmError):
    """The reply to a submission was lost: look for the job before trying again, it may exist."""


class KubernetesError(QHubSpawnerError):
    """Something about Kubernetes failed; the text holds no secret."""


class KubernetesUnavailableError(KubernetesError):
    """Kubernetes gave no usable answer: the state is UNKNOWN, and nothing may be concluded.

    A request that changes something may have been carried out all the same.
    """


class KubernetesRefusedError(KubernetesError):
    """Kubernetes answered, and the answer is no.

    Attributes:
        status: The HTTP status.
        reason: Kubernetes' own name of it, e.g. ``AlreadyExists`` (Status v1, ``reason``).
        message: Its words, cut to 256 characters.
        document: The whole answer (Status v1).
    """

    def __init__(self, status: int, document: Mapping[str, Any]) -> None:
        """See the class."""
        self.status = status
        self.reason = str(document.get("reason") or "")
        self.message = str(document.get("message") or "")[:STDERR_CHARACTERS]
        self.document = document
        super().__init__(status, self.reason, self.message)

    def __str__(self) -> str:
        """All three, on one line."""
        text = f"Kubernetes answered {self.status} {self.reason}: {self.message}"
        return text.translate(_ONE_LINE)
