"""Which tokens are trusted: real keys, and every forgery that the standards name."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from qhub_auth.errors import TokenError
from qhub_auth.tokens import (
    Expected,
    access_claims,
    id_claims,
    key_id,
    keys_of,
    logout_claims,
)
from tests.unit import scripted_keycloak as keycloak
from tests.unit.scripted_keycloak import CLIENT, ISSUER, KEY, signing_key, token

KEYS = keys_of({"keys": [KEY.jwk]})


class Later(int):
    """So many seconds from when the test runs: the list of tests is made minutes before."""


def at_once(changes: dict[str, Any]) -> dict[str, Any]:
    """Make times of what is told in seconds from now."""
    now = int(time.time())
    return {name: now + one if isinstance(one, Later) else one for name, one in changes.items()}


def expected(**changes: Any) -> Expected:
    return Expected(**{"issuer": ISSUER, "client_id": CLIENT, "now": time.time(), "skew": 30.0}
                    | changes)  # fmt: skip


def check(value: object, *, nonce: str | None = None, **more: Any) -> Any:
    """Check an id token as the provider does: its key by name, then the token."""
    key = KEYS.get(key_id(value))
    if key is None:
        raise TokenError("no such key")
    return id_claims(value, key, expected(), nonce=nonce, **more)


class TestSignature:
    """Who signed it."""

    @pytest.mark.parametrize(
        "algorithm", ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA"]
    )
    def test_every_algorithm_that_signs_by_a_private_key_is_accepted(self, algorithm: str) -> None:
        """Keycloak may be set to any of these."""
        key = signing_key("k", algorithm)
        public = keys_of({"keys": [key.jwk]})["k"]
        claims = id_claims(token(keycloak.id_claims(), key), public, expected(), nonce=None)
        assert claims["sub"] == "sub-alice"

    def test_a_good_token_is_trusted(self) -> None:
        """The signature is right, and it is for us."""
        assert check(token(keycloak.id_claims()))["preferred_username"] == "alice"

    @pytest.mark.parametrize("algorithm", ["none", "None", "nOnE", "", None])
    def test_none_is_no_signature(self, algorithm: object) -> None:
        """RFC 8725, 3.2: whatever the letters' case."""
        parts = [{"alg": algorithm, "kid": KEY.id}, keycloak.id_claims()]
        made = [base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=").decode()
                for each in parts]  # fmt: skip
        for signature in ("", "AAAA"):
            with pytest.raises(TokenError):
                check(".".join([*made, signature]))

    @pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
    def test_the_public_key_is_no_shared_secret(self, algorithm: str) -> None:
        """RFC 8725, 2.1: everybody has the public key, and could sign by it."""
        public = KEY.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        header = {"alg": algorithm, "kid": KEY.id, "typ": "JWT"}
        signing = jwt.get_algorithm_by_name(algorithm)
        data = ".".join(base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=").decode()
                        for each in (header, keycloak.id_claims()))  # fmt: skip
        import hmac

        digest = hmac.new(public, data.encode(), signing.hash_alg).digest()
        forged = f"{data}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"
        with pytest.raises(TokenError, match="HS"):
            check(forged)

    def test_another_key_of_the_same_name_is_not_ours(self) -> None:
        """Its name says nothing."""
        with pytest.raises(TokenError, match="signature"):
            check(token(keycloak.id_claims(), signing_key(KEY.id)))

    def test_another_algorithm_than_the_keys_own(self) -> None:
        """A key is for what Keycloak says, and nothing else."""
        other = keycloak.SigningKey(KEY.id, "PS256", KEY.private)
        with pytest.raises(TokenError, match="signature"):
            check(token(keycloak.id_claims(), other))

    def test_a_changed_payload(self) -> None:
        """One letter is enough."""
        head, payload, signature = token(keycloak.id_claims()).split(".")
        claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
        claims["preferred_username"] = "admin"
        changed = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
        with pytest.raises(TokenError, match="signature"):
            check(f"{head}.{changed}.{signature}")

    def test_a_key_in_the_header_is_not_used(self) -> None:
        """RFC 8725, 3.5: jwk, jku and x5u of the token are the attacker's."""
        mine = signing_key("mine")
        for headers in ({"jwk": mine.jwk}, {"jku": "https://evil.example.org/jwks"}):
            forged = token(keycloak.id_claims(), mine, **{**headers, "kid": KEY.id})
            with pytest.raises(TokenError, match="signature"):
                check(forged)

    def test_unknown_critical_headers_are_refused(self) -> None:
        """RFC 7515, 4.1.11."""
        for headers in ({"crit": ["exp"], "exp": 1}, {"crit": ["b64"], "b64": True}, {"crit": []}):
            with pytest.raises(TokenError):
                check(token(keycloak.id_claims(), **headers))

    @pytest.mark.parametrize(
        "value", ["", "a", "a.b", "a.b.c", "....", None, 3, b"x", [], "é.b.c", "x" * 300_000]
    )
    def test_what_is_no_token(self, value: object) -> None:
        """Anything may come."""
        with pytest.raises(TokenError):
            check(value)


class TestKeys:
    """What of a key set is used."""

    def test_only_keys_that_sign(self) -> None:
        """Symmetric keys, keys to encrypt by, weak and unknown ones are left out."""
        weak = signing_key("weak", bits=1024)
        encrypting = signing_key("enc", use="enc")
        others = [
            {"kty": "oct", "kid": "shared", "k": "c2VjcmV0", "alg": "HS256", "use": "sig"},
            {"kty": "RSA", "kid": "broken", "n": "!!", "e": "AQAB"},
            {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
            "text",
            None,
        ]
        listed = [KEY.jwk, weak.jwk, encrypting.jwk, *others]
        assert set(keys_of({"keys": listed})) == {KEY.id}

    @pytest.mark.parametrize("document", [None, [], {}, {"keys": None}, {"keys": {}}])
    def test_what_is_no_key_set(self, document: object) -> None:
        """It must not be taken for one without keys."""
        with pytest.raises(TokenError):
            keys_of(document)


class TestClaims:
    """For whom, from whom, when."""

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"iss": f"{ISSUER}/"}, "issuer"),
            ({"iss": "https://evil.example.org/realms/hub"}, "issuer"),
            ({"iss": None}, "issuer"),
            ({"aud": "another"}, "not for the client"),
            ({"aud": ["another"]}, "not for the client"),
            ({"aud": None}, "not for the client"),
            ({"aud": f"{CLIENT} other"}, "not for the client"),
            ({"aud": [CLIENT, "other"], "azp": None}, "several"),
            ({"aud": [CLIENT, "other"], "azp": "other"}, "several"),
            ({"azp": "other"}, "not made for"),
            ({"exp": Later(-31)}, "ended"),
            ({"exp": None}, "when"),
            ({"exp": "tomorrow"}, "not a time"),
            ({"exp": True}, "not a time"),
            ({"iat": None}, "when"),
            ({"iat": Later(120)}, "ahead"),
            ({"nbf": Later(120)}, "ahead"),
            ({"sub": None}, "whose"),
            ({"sub": ""}, "whose"),
            ({"sub": 7}, "whose"),
            ({"sub": "x" * 256}, "whose"),
            ({"typ": "Bearer"}, "another kind"),
            ({"typ": "Logout"}, "another kind"),
            ({"nonce": "another"}, "nonce"),
            ({"nonce": None}, "nonce"),
            ({"nonce": 5}, "nonce"),
        ],
    )
    def test_what_is_refused(self, changes: dict[str, Any], words: str) -> None:
        """Each rule alone is enough to refuse, and the message names it."""
        made = token(keycloak.id_claims(**{"nonce": "mine", **at_once(changes)}))
        with pytest.raises(TokenError, match=words):
            check(made, nonce="mine")

    @pytest.mark.parametrize(
        "changes",
        [
            {"aud": [CLIENT]},
            {"aud": [CLIENT, "other"]},
            {"azp": None},
            {"exp": Later(-20)},
            {"iat": Later(20)},
            {"typ": None},
        ],
    )
    def test_what_is_accepted(self, changes: dict[str, Any]) -> None:
        """Several audiences if it was made for us, and clocks that differ a little."""
        assert check(token(keycloak.id_claims(**at_once(changes))))

    @pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
    def test_times_that_are_no_numbers(self, value: str) -> None:
        """JSON as Python reads it knows these; nothing is later than NaN."""
        claims = json.dumps(keycloak.id_claims()).replace('"exp": ', f'"exp": {value}, "was": ')
        header = base64.urlsafe_b64encode(json.dumps({"alg": "RS256", "kid": KEY.id}).encode())
        body = base64.urlsafe_b64encode(claims.encode())
        data = header.rstrip(b"=") + b"." + body.rstrip(b"=")
        algorithm = jwt.get_algorithm_by_name("RS256")
        signature = base64.urlsafe_b64encode(algorithm.sign(data, KEY.private)).rstrip(b"=")
        with pytest.raises(TokenError, match="not a time"):
            check((data + b"." + signature).decode())

    def test_a_token_of_another_log_in(self) -> None:
        """It is signed, fresh and ours, and belongs to somebody else's log-in."""
        stolen = token(keycloak.id_claims(nonce="theirs", preferred_username="mallory"))
        with pytest.raises(TokenError, match="another log-in"):
            check(stolen, nonce="mine")

    def test_a_refresh_keeps_to_the_person(self) -> None:
        """OpenID Connect Core 1.0, 12.2."""
        made = token(keycloak.id_claims(sub="sub-bob"))
        with pytest.raises(TokenError, match="another person"):
            check(made, sub="sub-alice")

    def test_the_access_token_belongs_to_it(self) -> None:
        """OpenID Connect Core 1.0, 3.1.3.8: at_hash, when it is there."""
        good = token(keycloak.id_claims(at_hash=keycloak.at_hash("the-access-token")))
        assert check(good, access_token="the-access-token")
        with pytest.raises(TokenError, match="at_hash"):
            check(good, access_token="another")

    def test_messages_hold_nothing_of_the_token(self) -> None:
        """A log may be read by many."""
        made = token(keycloak.id_claims(nonce="mine", aud="x", secret="canary-1"))
        with pytest.raises(TokenError) as caught:
            check(made, nonce="mine")
        assert "canary" not in str(caught.value)
        assert made not in str(caught.value)


class TestAccessToken:
    """Roles may stand in it; it is looked at as strictly."""

    def good(self, **changes: Any) -> str:
        return token(keycloak.id_claims(**{"typ": "Bearer", "aud": None, **changes}))

    def test_ours(self) -> None:
        """It was made for our client, and for that person."""
        assert access_claims(self.good(), KEYS[KEY.id], expected(), sub="sub-alice")

    @pytest.mark.parametrize("changes", [{"azp": "other"}, {"sub": "sub-bob"}, {"typ": "ID"}])
    def test_others(self, changes: dict[str, Any]) -> None:
        """Another client's, another person's, another kind."""
        with pytest.raises(TokenError):
            access_claims(self.good(**changes), KEYS[KEY.id], expected(), sub="sub-alice")


class TestLogoutToken:
    """OpenID Connect Back-Channel Logout 1.0, 2.6."""

    def check(self, **changes: Any) -> Any:
        return logout_claims(token(keycloak.logout_claims(**changes)), KEYS[KEY.id], expected())

    @pytest.mark.parametrize("changes", [{}, {"sid": None}, {"sub": None}, {"typ": None}])
    def test_good(self, changes: dict[str, Any]) -> None:
        """A person, a session, or both."""
        assert self.check(**changes)["jti"] == "jti-1"

    @pytest.mark.parametrize(
        "changes",
        [
            {"sub": None, "sid": None},
            {"sub": 3},
            {"sid": ["session-1"]},
            {"events": None},
            {"events": {}},
            {"events": {"http://schemas.openid.net/event/backchannel-logout": None}},
            {"events": ["http://schemas.openid.net/event/backchannel-logout"]},
            {"nonce": "n"},
            {"jti": None},
            {"jti": ""},
            {"aud": "other"},
            {"iss": "https://evil.example.org"},
            {"exp": None},
            {"exp": Later(-100)},
            {"iat": Later(100)},
            {"typ": "ID"},
        ],
    )
    def test_bad(self, changes: dict[str, Any]) -> None:
        """Each rule alone."""
        with pytest.raises(TokenError):
            self.check(**at_once(changes))

    def test_an_id_token_logs_nobody_out(self) -> None:
        """It has been in browsers' addresses."""
        with pytest.raises(TokenError):
            logout_claims(token(keycloak.id_claims()), KEYS[KEY.id], expected())
