"""What each browser keeps of its own log-in, so that logging out ends just its session. Pure.

Keycloak ends a session without asking only if the id token that comes along is of that very session
(OpenID Connect RP-Initiated Logout 1.0, 2). The hub keeps the one of a person's last log-in; a
person with two browsers has two sessions. So each browser keeps its own, sealed, in a cookie that
is sent to the page of log-out alone.
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from contextlib import suppress

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = ["COOKIE", "Hints", "session_of", "whole"]

COOKIE = "qhub-logout"
_NONCE_BYTES = 12
# What browsers keep of one cookie is 4,096 bytes, its name and attributes included.
_LONGEST_COOKIE = 3800
_LONGEST_PLAIN = 16 * 1024


class Hints:
    """Seals a person's name and id token, and opens them.

    Args:
        secret: The hub's cookie secret; the key is made from it.
    """

    def __init__(self, secret: bytes) -> None:
        key = HKDF(hashes.SHA256(), length=32, salt=None, info=b"qhub-auth: log-out hint")
        self._cipher = AESGCM(key.derive(secret))

    def sealed(self, name: str, id_token: str) -> str:
        """Return what the browser keeps.

        Of a token that is longer than browsers keep, or than we open, it is just which session it
        is of, for :func:`session_of`; nothing if it names none.
        """
        sealed = self._sealed(name, id_token)
        if not sealed and (session := session_of(id_token)):
            claims = base64.urlsafe_b64encode(json.dumps({"sid": session}).encode()).decode()
            sealed = self._sealed(name, f".{claims.rstrip('=')}.")
        return sealed

    def _sealed(self, name: str, id_token: str) -> str:
        # one full of names that are alike is much shorter sealed than it is
        plain = json.dumps([name, id_token]).encode()
        if len(plain) > _LONGEST_PLAIN:
            return ""
        data = zlib.compress(plain, 9)
        nonce = os.urandom(_NONCE_BYTES)
        text = base64.urlsafe_b64encode(nonce + self._cipher.encrypt(nonce, data, None)).decode()
        return text if len(text) <= _LONGEST_COOKIE else ""

    def opened(self, sealed: str) -> tuple[str, str] | None:
        """Return name and id token, or `None` if it is none of ours."""
        if len(sealed) > _LONGEST_COOKIE:
            return None
        with suppress(InvalidTag, ValueError, TypeError, zlib.error):
            data = base64.urlsafe_b64decode(sealed)
            plain = self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], None)
            text = zlib.decompressobj().decompress(plain, _LONGEST_PLAIN)
            name, id_token = json.loads(text)
            return str(name), str(id_token)
        return None


def whole(kept: str) -> str:
    """Return the id token that was kept; empty if just its session was."""
    return "" if kept.startswith(".") else kept


def session_of(id_token: str) -> str:
    """Return the session that a token of ours names, without looking at its signature again."""
    with suppress(ValueError, AttributeError, IndexError):
        part = id_token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        sid = claims.get("sid")
        return sid if isinstance(sid, str) else ""
    return ""
