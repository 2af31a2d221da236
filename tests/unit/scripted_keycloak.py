"""A Keycloak that does as it is told, with real keys and no sockets."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from qhub_auth.keycloak.settings import Keycloak

ISSUER = "https://keycloak.example.org/realms/hub"
CLIENT = "jupyterhub"
SECRET = "the-clients-secret"


@dataclass(frozen=True)
class SigningKey:
    """A private key, and what Keycloak tells of it."""

    id: str
    algorithm: str
    private: Any = field(repr=False)
    use: str = "sig"

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key."""
        kind = jwt.get_algorithm_by_name(self.algorithm)
        made = json.loads(kind.to_jwk(self.private.public_key()))
        return {**made, "kid": self.id, "alg": self.algorithm, "use": self.use}


def signing_key(identifier: str = "k1", algorithm: str = "RS256", **more: Any) -> SigningKey:
    """Make a key for an algorithm."""
    private: Any
    if algorithm == "EdDSA":
        private = ed25519.Ed25519PrivateKey.generate()
    elif algorithm.startswith("ES"):
        curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
        private = ec.generate_private_key(curves[algorithm])
    else:
        private = rsa.generate_private_key(65537, more.pop("bits", 2048))
    return SigningKey(identifier, algorithm, private, **more)


KEY = signing_key()


def token(claims: dict[str, Any], key: SigningKey = KEY, **headers: Any) -> str:
    """Sign claims."""
    headers = {"kid": key.id, **headers}
    return jwt.encode(claims, key.private, algorithm=key.algorithm, headers=headers)


def at_hash(access_token: str) -> str:
    """What an id token signed by RS256 says of its access token."""
    digest = hashlib.sha256(access_token.encode()).digest()
    return base64.urlsafe_b64encode(digest[:16]).rstrip(b"=").decode()


def id_claims(**changes: Any) -> dict[str, Any]:
    """Claims of a good id token; `None` takes one away."""
    now = int(time.time())
    good = {
        "iss": ISSUER,
        "aud": CLIENT,
        "azp": CLIENT,
        "typ": "ID",
        "sub": "sub-alice",
        "sid": "session-1",
        "iat": now,
        "exp": now + 300,
        "preferred_username": "alice",
        "groups": ["/physics/team-a"],
        "roles": ["grafana_viewer"],
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def logout_claims(**changes: Any) -> dict[str, Any]:
    """Claims of a good log-out token; `None` takes one away."""
    now = int(time.time())
    good = {
        "iss": ISSUER,
        "aud": CLIENT,
        "typ": "Logout",
        "iat": now,
        "exp": now + 120,
        "jti": "jti-1",
        "sub": "sub-alice",
        "sid": "session-1",
        "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


Answer = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


@dataclass
class ScriptedKeycloak:
    """Answers what a hub asks; `answers` change what it says by the end of the path.

    Attributes:
        keys: What it signs by; the first one.
        answers: What it says instead, by the end of the path: an answer, or an error to raise.
        asked: Method and path of each request.
        forms: The forms that were sent for tokens.
    """

    keys: list[SigningKey] = field(default_factory=lambda: [KEY])
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    forms: list[dict[str, str]] = field(default_factory=list)
    claims: dict[str, Any] = field(default_factory=dict)
    refresh_token: str = "refresh-0"
    rotates: bool = True
    gate: Any = None

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.asked.append((request.method, path))
        if self.gate is not None:
            await self.gate.wait()
        for end, answer in self.answers.items():
            if path.endswith(end):
                if isinstance(answer, Exception):
                    raise answer
                return answer(request) if callable(answer) else answer
        if path.endswith("/.well-known/openid-configuration"):
            return httpx.Response(200, json=self.discovery())
        if path.endswith("/certs"):
            return httpx.Response(200, json={"keys": [key.jwk for key in self.keys]})
        if path.endswith("/token"):
            return self._token(request)
        return httpx.Response(404, json={"error": "not found"})

    def discovery(self, **changes: Any) -> dict[str, Any]:
        """The discovery document."""
        base = f"{ISSUER}/protocol/openid-connect"
        return {
            "issuer": ISSUER,
            "authorization_endpoint": f"{base}/auth",
            "token_endpoint": f"{base}/token",
            "jwks_uri": f"{base}/certs",
            "end_session_endpoint": f"{base}/logout",
            "authorization_response_iss_parameter_supported": True,
            **changes,
        }

    def _token(self, request: httpx.Request) -> httpx.Response:
        form = {name: values[0] for name, values in parse_qs(request.content.decode()).items()}
        self.forms.append(form)
        if form["grant_type"] == "refresh_token":
            if form["refresh_token"] != self.refresh_token:
                return httpx.Response(400, json={"error": "invalid_grant"})
            if self.rotates:
                self.refresh_token = f"refresh-{len(self.forms)}"
        return httpx.Response(200, json=self.tokens())

    def tokens(self, **changes: Any) -> dict[str, Any]:
        """The answer of the token endpoint."""
        access = token({"iss": ISSUER, "typ": "Bearer", "azp": CLIENT}, self.keys[0])
        return {
            "access_token": access,
            "id_token": token(id_claims(at_hash=at_hash(access), **self.claims), self.keys[0]),
            "refresh_token": self.refresh_token,
            "token_type": "Bearer",
            "scope": "openid",
            **changes,
        }

    def count(self, end: str) -> int:
        """How many requests ended so."""
        return sum(path.endswith(end) for _, path in self.asked)

    def settings(self, **settings: Any) -> Keycloak:
        """Settings of a hub that reaches it."""
        scripted = self

        class Scripted(Keycloak):
            def new_client(self) -> httpx.AsyncClient:
                return httpx.AsyncClient(transport=httpx.MockTransport(scripted))

        return Scripted(
            **{"issuer": ISSUER, "client_id": CLIENT, "client_secret": SECRET, **settings}
        )
