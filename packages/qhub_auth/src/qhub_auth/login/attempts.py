"""A log-in on its way: what is sent along to Keycloak's page and comes back. Pure.

All of it travels in OAuth's parameter ``state``, encrypted, so that several tabs do not get in each
other's way and a restart of the hub loses nothing. It opens only together with a cookie of the
browser that began (RFC 6749, 10.12; RFC 9700, 4.7): a link that somebody made in another browser
logs nobody in.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = ["Attempt", "AttemptError", "Attempts", "new_binding"]

_NONCE_BYTES = 12
_SECRET_BYTES = 32
# Keycloak takes 4,000 characters of one parameter (its option req-params-default-max-size).
LONGEST_NEXT = 2000
_LONGEST_STATE = 4000
# How many answers are remembered so that each counts once; a million would be 100 MB.
_MOST_USED = 100_000


class AttemptError(Exception):
    """It is not one of ours, not of this browser, too old, or was used already."""


def new_binding() -> str:
    """Return a new value for the cookie that binds log-ins to a browser."""
    return secrets.token_urlsafe(_SECRET_BYTES)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One log-in.

    Attributes:
        id: Told from others by this.
        begun: When, in seconds since 1970.
        secret: What the nonce comes from, never told to anybody.
        verifier: Of PKCE (RFC 7636), told to Keycloak alone and not through the browser.
        redirect_uri: Where Keycloak sends the browser back to.
        next_url: Where the person wanted to go.
    """

    id: str
    begun: float
    secret: str = field(repr=False)
    verifier: str = field(repr=False)
    redirect_uri: str
    next_url: str

    @classmethod
    def begin(cls, *, now: float, redirect_uri: str, next_url: str) -> Self:
        """Return a new log-in."""
        return cls(
            id=secrets.token_urlsafe(16),
            begun=now,
            secret=secrets.token_urlsafe(_SECRET_BYTES),
            verifier=secrets.token_urlsafe(_SECRET_BYTES),
            redirect_uri=redirect_uri,
            next_url=next_url if len(next_url) <= LONGEST_NEXT else "",
        )

    @property
    def nonce(self) -> str:
        """What the id token has to repeat. It is seen in an address, and says nothing there."""
        return _sha256(self.secret)

    @property
    def challenge(self) -> str:
        """Of PKCE, method S256."""
        return _sha256(self.verifier)


def _sha256(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class Attempts:
    """Writes log-ins into ``state`` and reads them back, each once.

    Args:
        secret: The hub's cookie secret; the key is made from it.
        seconds: For how long one is good.
        clock: Seconds since 1970.
    """

    def __init__(self, secret: bytes, *, seconds: float, clock: Callable[[], float]) -> None:
        key = HKDF(hashes.SHA256(), length=32, salt=None, info=b"qhub-auth: log-in state")
        self._cipher = AESGCM(key.derive(secret))
        self._seconds = seconds
        self._clock = clock
        self._used: dict[str, float] = {}

    def sealed(self, attempt: Attempt, binding: str) -> str:
        """Return what is sent as ``state``.

        Args:
            attempt: The log-in.
            binding: The browser's cookie.
        """
        values = {
            "i": attempt.id,
            "t": attempt.begun,
            "s": attempt.secret,
            "v": attempt.verifier,
            "r": attempt.redirect_uri,
            "x": attempt.next_url,
        }
        nonce = secrets.token_bytes(_NONCE_BYTES)
        data = json.dumps(values, separators=(",", ":")).encode()
        sealed = nonce + self._cipher.encrypt(nonce, data, binding.encode())
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def opened(self, state: str, binding: str | None) -> Attempt:
        """Return the log-in that ``state`` holds; the next time it is one that was used.

        Raises:
            AttemptError: It is none of this browser's that is still good.
        """
        if not binding or not state or len(state) > _LONGEST_STATE:
            raise AttemptError("the log-in was begun elsewhere, or too long ago")
        try:
            sealed = base64.urlsafe_b64decode(state.encode() + b"=" * (-len(state) % 4))
            nonce, data = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
            values = json.loads(self._cipher.decrypt(nonce, data, binding.encode()))
        except (ValueError, InvalidTag) as error:
            raise AttemptError("the log-in was begun in another browser") from error
        attempt = Attempt(
            id=values["i"],
            begun=values["t"],
            secret=values["s"],
            verifier=values["v"],
            redirect_uri=values["r"],
            next_url=values["x"],
        )
        now = self._clock()
        if not 0 <= now - attempt.begun <= self._seconds:
            raise AttemptError("the log-in took too long")
        self._use(attempt, now)
        return attempt

    def _use(self, attempt: Attempt, now: float) -> None:
        if attempt.id in self._used:
            raise AttemptError("the log-in was finished already")
        if len(self._used) >= _MOST_USED:
            self._used = {each: ends for each, ends in self._used.items() if ends > now}
        while len(self._used) >= _MOST_USED:
            with suppress(KeyError):
                self._used.pop(next(iter(self._used)))
        self._used[attempt.id] = attempt.begun + self._seconds
