"""Tokens of OpenID Connect: whether one is Keycloak's, meant for us, and still good. Pure.

Every rule is from OpenID Connect Core 1.0 (3.1.3.7), Back-Channel Logout 1.0 (2.6), and RFC 8725.
A message says which rule a token broke and never what is in it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import jwt
from jwt.api_jws import PyJWS

from qhub_auth.errors import TokenError, shown

__all__ = ["Claims", "Expected", "Key", "access_claims", "id_claims", "key_id", "keys_of"]
__all__ += ["bearer_claims", "logout_claims"]

Claims: TypeAlias = Mapping[str, Any]

LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"

# What signs by a private key and nothing else: "none" and the HS family can be made by anybody who
# knows the public key. A key is used for its own algorithm only.
_BY_KIND: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("RSA", ""): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("OKP", "Ed448"): ("EdDSA",),
}
_ALGORITHMS = frozenset(name for names in _BY_KIND.values() for name in names)
_SMALLEST_RSA_BITS = 2048
# Hundreds of groups fit; nobody makes us chew on more.
_LONGEST_TOKEN = 256 * 1024
_LONGEST_SUB = 255
_HASHES: Mapping[str, Callable[[bytes], Any]] = {
    "256": hashlib.sha256,
    "384": hashlib.sha384,
    "512": hashlib.sha512,
}


@dataclass(frozen=True, slots=True)
class Key:
    """A public key of Keycloak's.

    Attributes:
        id: Its identifier (``kid``).
        algorithms: What it may be used for.
        public: The key itself.
    """

    id: str
    algorithms: tuple[str, ...]
    public: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a token has to be.

    Attributes:
        issuer: The realm's address.
        client_id: The hub's client, for whom it is meant.
        now: The time, in seconds since 1970.
        skew: By how much Keycloak's clock may differ, in seconds.
    """

    issuer: str
    client_id: str
    now: float
    skew: float


def keys_of(document: object) -> dict[str, Key]:
    """Return the keys of a JSON Web Key Set that sign tokens, by identifier.

    Keys for encryption, symmetric ones, weak ones and those of unknown kinds are left out.

    Raises:
        TokenError: It is not a key set.
    """
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise TokenError("what Keycloak gives as its keys is not a JSON Web Key Set")
    keys: dict[str, Key] = {}
    for each in listed:
        key = _key(each)
        if key is not None:
            keys[key.id] = key
    return keys


def _key(jwk: object) -> Key | None:
    if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig":
        return None
    identifier, kind = jwk.get("kid"), jwk.get("kty")
    if not isinstance(identifier, str) or not isinstance(kind, str):
        return None
    curve = "" if kind == "RSA" else str(jwk.get("crv"))
    algorithms = _BY_KIND.get((kind, curve), ())
    if jwk.get("alg") is not None:  # Keycloak says for each key what it is for
        algorithms = tuple(name for name in algorithms if name == jwk["alg"])
    if not algorithms:
        return None
    try:
        public = jwt.PyJWK(jwk, algorithm=algorithms[0]).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if kind == "RSA" and public.key_size < _SMALLEST_RSA_BITS:
        return None
    return Key(identifier, algorithms, public)


def key_id(token: object) -> str:
    """Return the identifier of the key that is said to have signed `token`.

    Raises:
        TokenError: It is not a signed token, or signed by what is never accepted.
    """
    header = _header(token)
    algorithm = header.get("alg")
    if algorithm not in _ALGORITHMS:
        raise TokenError(
            f"the token is signed by {shown(algorithm)}; accepted: {', '.join(sorted(_ALGORITHMS))}"
        )
    if "crit" in header:
        raise TokenError("the token asks for extensions (crit), and there are none here")
    identifier = header.get("kid")
    if not isinstance(identifier, str):
        raise TokenError("the token does not say which key signed it")
    return identifier


def _header(token: object) -> Mapping[str, Any]:
    """Return what stands before the first dot; jwt would read all of the token for it."""
    if not isinstance(token, str) or len(token) > _LONGEST_TOKEN or not token.isascii():
        raise TokenError("what came is not a token")
    head = token.partition(".")[0]
    with suppress(ValueError, RecursionError):
        header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
        if isinstance(header, dict):
            return header
    raise TokenError("what came is not a token")


def _signed(token: object, key: Key) -> Claims:
    """Return what a token says, if `key` signed it."""
    if key_id(token) != key.id or not isinstance(token, str):
        raise TokenError("the token was signed by another key")
    try:
        payload = PyJWS().decode(token, key.public, algorithms=list(key.algorithms))
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise TokenError("the token's signature is wrong") from error
    with suppress(ValueError, RecursionError):
        claims = json.loads(payload)
        if isinstance(claims, dict):
            return claims
    raise TokenError("the token holds no claims")


def _time(claims: Claims, name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TokenError(f"the token's {name} is not a time")
    return float(value)


def _check_common(claims: Claims, expected: Expected) -> None:
    if claims.get("iss") != expected.issuer:
        raise TokenError(
            f"the token is of another issuer, {shown(claims.get('iss'), 128)}; "
            f"c.Keycloak.issuer is {expected.issuer}"
        )
    ends, made = _time(claims, "exp"), _time(claims, "iat")
    if ends is None or made is None:
        raise TokenError("the token does not say when it was made (iat) and when it ends (exp)")
    if expected.now >= ends + expected.skew:
        raise TokenError(
            f"the token ended {expected.now - ends:.0f} s ago by the clock here; "
            f"c.Keycloak.clock_skew_seconds is {expected.skew:g}"
        )
    for name, begins in (("iat", made), ("nbf", _time(claims, "nbf"))):
        if begins is not None and begins > expected.now + expected.skew:
            raise TokenError(
                f"the token's {name} is {begins - expected.now:.0f} s ahead of the clock here; "
                f"c.Keycloak.clock_skew_seconds is {expected.skew:g}"
            )


def _check_audience(claims: Claims, client_id: str) -> None:
    said = claims.get("aud")
    audience = [said] if isinstance(said, str) else said
    if not isinstance(audience, list) or client_id not in audience:
        raise TokenError(f"the token is not for the client {client_id}")
    party = claims.get("azp")
    if party != client_id and (party is not None or len(audience) > 1):
        raise TokenError(f"the token is for several clients and was not made for {client_id}")


def _check_kind(claims: Claims, kind: str) -> None:
    # Keycloak says of each of its tokens what it is; another provider says nothing.
    if claims.get("typ", kind) != kind:
        raise TokenError(f"the token is of another kind: not {kind} but {shown(claims['typ'])}")


def _subject(claims: Claims) -> str:
    sub = claims.get("sub")
    if not isinstance(sub, str) or not sub or len(sub) > _LONGEST_SUB:
        raise TokenError("the token does not say whose it is (sub)")
    return sub


def _check_hash(claims: Claims, algorithm: str, access_token: str) -> None:
    said, function = claims.get("at_hash"), _HASHES.get(algorithm[-3:])
    if said is None or function is None:  # it is optional, and for EdDSA no rule says how
        return
    digest = function(access_token.encode()).digest()
    right = base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=")
    if not isinstance(said, str) or not hmac.compare_digest(said.encode(), right):
        raise TokenError("the token came with an access token that is not its own (at_hash)")


def id_claims(
    token: object,
    key: Key,
    expected: Expected,
    *,
    nonce: str | None,
    sub: str | None = None,
    access_token: str = "",
) -> Claims:
    """Return what an id token says, if it is to be trusted.

    Args:
        token: As it came.
        key: The one that :func:`key_id` named.
        expected: What it has to be.
        nonce: What it must repeat, since we sent it along; `None` for a refresh, which has none.
        sub: The person whose it must be, for a refresh.
        access_token: What came with it, against which its ``at_hash`` is checked.

    Raises:
        TokenError: It is not; the message says which rule it broke.
    """
    claims = _signed(token, key)
    _check_common(claims, expected)
    _check_audience(claims, expected.client_id)
    _check_kind(claims, "ID")
    if sub is not None and _subject(claims) != sub:
        raise TokenError("the token is another person's")
    _subject(claims)
    if nonce is not None:
        said = claims.get("nonce")
        if not isinstance(said, str) or not hmac.compare_digest(said.encode(), nonce.encode()):
            raise TokenError("the token belongs to another log-in (nonce)")
    if access_token:
        _check_hash(claims, str(_header(token).get("alg")), access_token)
    return claims


def access_claims(token: object, key: Key, expected: Expected, *, sub: str) -> Claims:
    """Return what an access token of Keycloak's says, if it was made for us and for that person.

    Raises:
        TokenError: It is not; the message says which rule it broke.
    """
    claims = _signed(token, key)
    _check_common(claims, expected)
    _check_kind(claims, "Bearer")
    if claims.get("azp") != expected.client_id or _subject(claims) != sub:
        raise TokenError("the access token was made for another client or another person")
    return claims


def bearer_claims(
    token: object, key: Key, expected: Expected, *, audiences: Collection[str]
) -> Claims:
    """Return what an access token says that a program came with, whichever client it was made for.

    Args:
        token: As it came.
        key: The one that :func:`key_id` named.
        expected: What it has to be; its client does not matter here.
        audiences: One of these has to stand in its ``aud`` (RFC 9068, 4).

    Raises:
        TokenError: It is not to be trusted; the message says which rule it broke.
    """
    claims = _signed(token, key)
    _check_common(claims, expected)
    if claims.get("typ") != "Bearer":  # an id or log-out token must not open anything
        raise TokenError(f"the token is not an access token but {shown(claims.get('typ'))}")
    said = claims.get("aud")
    named = [said] if isinstance(said, str) else said
    if not isinstance(named, list) or not any(
        isinstance(each, str) and each in audiences for each in named
    ):
        raise TokenError(f"the token is not for {' or '.join(sorted(audiences))} (aud)")
    _subject(claims)
    return claims


def logout_claims(token: object, key: Key, expected: Expected) -> Claims:
    """Return what a log-out token says, if it is to be trusted: at least ``sub`` or ``sid``.

    Whether its ``jti`` came before is for the caller to see.

    Raises:
        TokenError: It is not; the message says which rule it broke.
    """
    claims = _signed(token, key)
    _check_common(claims, expected)
    _check_audience(claims, expected.client_id)
    _check_kind(claims, "Logout")
    events = claims.get("events")
    if not isinstance(events, dict) or not isinstance(events.get(LOGOUT_EVENT), dict):
        raise TokenError("the token is not one for log-out (events)")
    if "nonce" in claims:
        raise TokenError("the token is one of a log-in (nonce)")
    if not isinstance(claims.get("jti"), str) or not claims["jti"]:
        raise TokenError("the token has no identifier (jti)")
    sub, sid = claims.get("sub"), claims.get("sid")
    if sub is None and sid is None:
        raise TokenError("the token names neither a person (sub) nor a session (sid)")
    if not all(value is None or (isinstance(value, str) and value) for value in (sub, sid)):
        raise TokenError("the token's sub or sid is not text")
    return claims
