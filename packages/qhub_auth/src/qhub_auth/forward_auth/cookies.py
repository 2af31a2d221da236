"""What a browser keeps for us, sealed: which session it has, and the log-ins it has begun. Pure.

A seal is Fernet's (AES-128 in CBC mode and HMAC-SHA256, with the time it was made): nobody without
a key reads it, makes one or changes one. Each kind of content has a name in the seal, so that
none can be passed off as another.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from qhub_auth.errors import ConfigurationError

__all__ = [
    "LONGEST_COOKIE",
    "LogIn",
    "Sealer",
    "challenge_of",
    "cookie_name",
    "form_token",
    "set_cookie",
]

LONGEST_COOKIE = 4000
"""Most characters of a cookie that every browser keeps, its name and attributes included."""
_SEALED = re.compile(r"[A-Za-z0-9_=-]{1,6000}")


class Sealer:
    """Seals with the first key, opens with all of them."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Take keys as `Fernet.generate_key` makes them.

        Raises:
            ConfigurationError: There is none, or one is no key.
        """
        if not keys:
            raise ConfigurationError("there is no key to seal with")
        try:
            fernets = [Fernet(key) for key in keys]
        except ValueError as error:
            raise ConfigurationError(
                "a key to seal with has to be 32 bytes in URL-safe Base64, as "
                "`qhub-forward-auth --new-key` prints one"
            ) from error
        self._fernet = MultiFernet(fernets)

    def seal(self, kind: str, content: Mapping[str, Any], *, now: float) -> str:
        """Return `content` sealed.

        Args:
            kind: What it is; only who asks for the same kind can open it.
            content: What can stand in JSON.
            now: The time it counts from, in seconds since 1970.
        """
        data = json.dumps({"kind": kind, **content}, separators=(",", ":")).encode()
        return self._fernet.encrypt_at_time(data, int(now)).decode("ascii")

    def open(
        self, kind: str, sealed: str, *, seconds: float, now: float
    ) -> tuple[dict[str, Any], bool] | None:
        """Return what is in a seal, and whether it is still fresh; `None` when it is none of ours.

        Args:
            kind: What it has to be.
            sealed: What somebody sent.
            seconds: How long it stays fresh. One that was made over a minute ahead of `now` is none
                of ours.
            now: In seconds since 1970.
        """
        if not _SEALED.fullmatch(sealed):
            return None
        try:
            made = self._fernet.extract_timestamp(sealed)
            data = self._fernet.decrypt(sealed)
            content = json.loads(data)
        except (InvalidToken, ValueError):
            return None
        if not isinstance(content, dict) or content.pop("kind", None) != kind or made > now + 60:
            return None
        return content, now - made < seconds


def cookie_name(base: str, *, secure: bool, domain: str) -> str:
    """Return the name of a cookie, with the prefix that makes browsers guard it.

    See RFC 6265bis, 4.1.3.

    ``__Host-`` is kept only when it was set by this very host over https, ``__Secure-`` only when
    it was set over https. Without https there is no prefix.
    """
    if not secure:
        return base
    return f"__Secure-{base}" if domain else f"__Host-{base}"


def set_cookie(
    name: str, value: str, *, secure: bool, domain: str = "", seconds: int | None = None
) -> str:
    """Return the header ``Set-Cookie``; an empty value with 0 seconds takes the cookie away.

    Raises:
        ValueError: It is longer than browsers keep.
    """
    parts = [f"{name}={value}", "Path=/", "HttpOnly", "SameSite=Lax"]
    if secure:
        parts.append("Secure")
    if domain:
        parts.append(f"Domain={domain}")
    if seconds is not None:
        parts.append(f"Max-Age={seconds}")
    text = "; ".join(parts)
    if len(text) > LONGEST_COOKIE:
        msg = f"the cookie {name} has {len(text)} characters, more than browsers keep"
        raise ValueError(msg)
    return text


@dataclass(frozen=True, slots=True)
class LogIn:
    """A log-in that has begun; it travels through Keycloak as the parameter `state`, sealed.

    Attributes:
        return_to: Where the person wanted to go; a whole URL of a host with a route.
        redirect_uri: Where Keycloak sends them back to; it has to be said again for the code.
        nonce: Has to come back in the id token.
        verifier: The secret of PKCE (RFC 7636).
        browser: What the cookie of the browser that began it holds.
    """

    return_to: str
    redirect_uri: str
    nonce: str
    verifier: str
    browser: str

    def sealed(self, sealer: Sealer, *, now: float) -> str:
        """Return it for the address."""
        return sealer.seal("log-in", asdict(self), now=now)

    @classmethod
    def opened(
        cls, sealer: Sealer, state: str, *, browser: str, seconds: float, now: float
    ) -> tuple[LogIn, bool] | None:
        """Return the log-in and whether it is still fresh; `None` unless `browser` began it."""
        found = sealer.open("log-in", state, seconds=seconds, now=now)
        if found is None:
            return None
        login = cls(**found[0])
        if not browser or not hmac.compare_digest(login.browser.encode(), browser.encode()):
            return None
        return login, found[1]


def challenge_of(verifier: str) -> str:
    """Return what the authorization request says of the verifier (RFC 7636, 4.2, S256)."""
    digest = hashlib.sha256(verifier.encode("ascii")).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def form_token(session_id: str) -> str:
    """Return what a form has to bring along so that no other site can have made it.

    The session's identifier is known to nobody but us: it stands sealed in the cookie.
    """
    return hmac.new(session_id.encode(), b"qhub-forward-auth form", hashlib.sha256).hexdigest()
