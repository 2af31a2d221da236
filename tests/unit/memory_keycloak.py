"""What of Keycloak the forward-auth service asks, in memory: real signatures, no sockets.

The integration tests ask the real one; this one is for tokens that the real one never makes.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import Any
from urllib.parse import parse_qs

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from qhub_auth.forward_auth.cookies import challenge_of

ISSUER = "https://keycloak.test/realms/hub"
CLIENT = "forward-auth"
SECRET = "canary-client-secret"
# Keys take a moment to make: one for all, and one for those who forge.
KEY, FORGED = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))


class MemoryKeycloak:
    """A realm with one client.

    Attributes:
        people: What tokens say of each person, by name.
        calls: Paths that were asked for.
        down: Whether nobody answers.
        over: Whether every session has ended.
        change: Changes to the claims of the next id token, for forgeries.
    """

    def __init__(self, people: dict[str, dict[str, Any]]) -> None:
        self.people = people
        self.calls: list[str] = []
        self.down = False
        self.over = False
        self.change: dict[str, Any] = {}
        self.key = KEY
        self._codes: dict[str, dict[str, str]] = {}
        self._refresh: dict[str, tuple[str, str]] = {}

    # ---- tokens ----

    def signed(self, claims: dict[str, Any], *, key: Any = None, kid: str = "k1") -> str:
        made = {"iss": ISSUER, "iat": int(time.time()), "exp": int(time.time()) + 300, **claims}
        made = {name: value for name, value in made.items() if value is not None}
        return jwt.encode(made, key or self.key, algorithm="RS256", headers={"kid": kid})

    def claims_of(self, name: str) -> dict[str, Any]:
        return {"sub": f"sub-{name}", "preferred_username": name, **self.people[name]}

    def access_token(self, name: str, **changes: Any) -> str:
        claims = {"typ": "Bearer", "aud": ["api"], "azp": "script", **self.claims_of(name)}
        return self.signed({**claims, "sid": f"sid-{name}", **changes})

    def logout_token(self, **changes: Any) -> str:
        events = {"http://schemas.openid.net/event/backchannel-logout": {}}
        claims = {"typ": "Logout", "aud": CLIENT, "jti": secrets.token_hex(8), "events": events}
        return self.signed({**claims, **changes})

    def _tokens(self, name: str, nonce: str | None) -> dict[str, Any]:
        refresh = f"canary-refresh-{secrets.token_hex(8)}"
        self._refresh[refresh] = (name, nonce or "")
        claims = {"typ": "ID", "aud": CLIENT, "azp": CLIENT, "sid": f"sid-{name}"}
        claims |= self.claims_of(name)
        if nonce:
            claims["nonce"] = nonce
        claims |= self.change
        return {
            "access_token": self.signed({**claims, "typ": "Bearer"}),
            "id_token": self.signed(claims),
            "refresh_token": refresh,
            "token_type": "Bearer",
        }

    # ---- what a browser does on its page ----

    def log_in(self, url: str, name: str) -> dict[str, str]:
        """Log in at the address that the service sent somebody to; return the way back."""
        query = {key: values[0] for key, values in parse_qs(httpx.URL(url).query.decode()).items()}
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        code = f"canary-code-{secrets.token_hex(8)}"
        self._codes[code] = {**query, "name": name}
        return {"code": code, "state": query["state"], "iss": ISSUER}

    # ---- answers ----

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.calls.append(path)
        if self.down:
            raise httpx.ConnectError("down", request=request)
        if path.endswith("/openid-configuration"):
            base = f"{ISSUER}/protocol/openid-connect"
            return httpx.Response(
                200,
                json={
                    "issuer": ISSUER,
                    "authorization_endpoint": f"{base}/auth",
                    "token_endpoint": f"{base}/token",
                    "jwks_uri": f"{base}/certs",
                    "end_session_endpoint": f"{base}/logout",
                    "authorization_response_iss_parameter_supported": True,
                },
            )
        if path.endswith("/certs"):
            key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
            return httpx.Response(200, json={"keys": [{**key, "kid": "k1", "use": "sig"}]})
        form = {key: values[0] for key, values in parse_qs(request.content.decode()).items()}
        assert form["client_secret"] == SECRET
        if form["grant_type"] == "authorization_code":
            begun = self._codes.pop(form["code"], None)
            good = begun is not None and (
                challenge_of(form.get("code_verifier", "")) == begun["code_challenge"]
                and form["redirect_uri"] == begun["redirect_uri"]
            )
            if not good or begun is None:
                return httpx.Response(400, json={"error": "invalid_grant"})
            return httpx.Response(200, json=self._tokens(begun["name"], begun["nonce"]))
        found = self._refresh.pop(form["refresh_token"], None)  # each is good for once
        if found is None or self.over:
            return httpx.Response(400, json={"error": "invalid_grant"})
        return httpx.Response(200, json=self._tokens(found[0], None))

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self.answer))
