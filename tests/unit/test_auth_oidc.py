"""The door to Keycloak as a provider: what is kept, what is asked again, what is not believed."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import httpx
import pytest
from traitlets import TraitError

from qhub_auth.errors import (
    ConfigurationError,
    KeycloakError,
    KeycloakRefusedError,
    KeycloakUnavailableError,
    TokenError,
)
from qhub_auth.keycloak import oidc
from qhub_auth.keycloak.oidc import OpenIDProvider
from qhub_auth.keycloak.settings import Keycloak
from tests.unit.scripted_keycloak import (
    CLIENT,
    ISSUER,
    SECRET,
    ScriptedKeycloak,
    id_claims,
    signing_key,
    token,
)


@pytest.fixture
def keycloak() -> ScriptedKeycloak:
    return ScriptedKeycloak()


@pytest.fixture
def provider(keycloak: ScriptedKeycloak) -> OpenIDProvider:
    return OpenIDProvider(keycloak.settings(), logging.getLogger("test"))


class Later:
    """A clock that can be put on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        real = time.monotonic
        monkeypatch.setattr(oidc.time, "monotonic", lambda: real() + self.ahead)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    return Later(monkeypatch)


class TestCalls:
    """How often Keycloak is called."""

    async def test_a_log_in_is_one_call(
        self, provider: OpenIDProvider, keycloak: ScriptedKeycloak
    ) -> None:
        """Once discovery and keys are known."""
        tokens = await provider.exchange("code", redirect_uri="r", verifier="v")
        await provider.key_for(tokens["id_token"])
        before = len(keycloak.asked)
        for _ in range(5):
            await provider.look(1)
            tokens = await provider.exchange("code", redirect_uri="r", verifier="v")
            await provider.key_for(tokens["id_token"])
        assert len(keycloak.asked) - before == 5
        assert provider.calls == len(keycloak.asked)

    async def test_the_first_one_is_three(
        self, provider: OpenIDProvider, keycloak: ScriptedKeycloak
    ) -> None:
        """Discovery, keys, token; many at once share the first two."""

        async def log_in() -> None:
            await provider.look(1)
            tokens = await provider.exchange("code", redirect_uri="r", verifier="v")
            await provider.key_for(tokens["id_token"])

        await asyncio.gather(*(log_in() for _ in range(4)))
        assert keycloak.count("openid-configuration") == 1
        assert keycloak.count("/certs") == 1
        assert keycloak.count("/token") == 4

    async def test_whether_it_is_there_is_looked_at_once_in_a_while(
        self, provider: OpenIDProvider, keycloak: ScriptedKeycloak, later: Later
    ) -> None:
        """However many come."""
        for _ in range(10):
            await provider.look(1)
        assert len(keycloak.asked) == 1
        later.ahead += 6
        await asyncio.gather(*(provider.look(1) for _ in range(10)))
        assert len(keycloak.asked) == 2

    async def test_while_it_is_down_it_is_left_alone(
        self, provider: OpenIDProvider, keycloak: ScriptedKeycloak, later: Later
    ) -> None:
        """One look in some seconds; then everything works again by itself."""
        keycloak.answers["openid-configuration"] = httpx.ConnectError("refused")
        for _ in range(10):
            with pytest.raises(KeycloakUnavailableError):
                await provider.look(1)
        assert len(keycloak.asked) == 1
        keycloak.answers.clear()
        later.ahead += 6
        assert (await provider.look(1)).authorization

    async def test_what_is_known_outlives_an_outage(
        self, provider: OpenIDProvider, keycloak: ScriptedKeycloak, later: Later
    ) -> None:
        """Discovery that is a day old is better than none."""
        await provider.endpoints()
        later.ahead += 24 * 3600
        keycloak.answers["openid-configuration"] = httpx.ConnectError("refused")
        assert (await provider.endpoints()).token


class TestKeys:
    """New keys, and names of keys that nobody has."""

    async def test_a_new_key_is_read(
        self, provider: OpenIDProvider, keycloak: ScriptedKeycloak
    ) -> None:
        """Keycloak signs by it from one moment to the next."""
        await provider.key_for(token(id_claims()))
        new = signing_key("k2")
        keycloak.keys.insert(0, new)
        assert (await provider.key_for(token(id_claims(), new))).id == "k2"
        assert keycloak.count("/certs") == 2

    async def test_anybody_may_name_a_key_and_cannot_make_us_ask(
        self, provider: OpenIDProvider, keycloak: ScriptedKeycloak, later: Later
    ) -> None:
        """The log-out's address is open to everybody."""
        for n in range(20):
            with pytest.raises(TokenError, match="no key"):
                await provider.key_for(token(id_claims(), kid=f"made-up-{n}"), anybody=True)
        assert keycloak.count("/certs") == 1
        later.ahead += 6
        with pytest.raises(TokenError):
            await provider.key_for(token(id_claims(), kid="made-up"), anybody=True)
        assert keycloak.count("/certs") == 2

    async def test_a_key_that_was_withdrawn(
        self, provider: OpenIDProvider, keycloak: ScriptedKeycloak, later: Later
    ) -> None:
        """It is not trusted for ever; but an outage withdraws nothing."""
        old = token(id_claims())
        await provider.key_for(old)
        later.ahead += 3601
        keycloak.answers["/certs"] = httpx.ConnectError("refused")
        assert await provider.key_for(old)
        keycloak.answers.clear()
        keycloak.keys[:] = [signing_key("k2")]
        later.ahead += 10
        with pytest.raises(TokenError):
            await provider.key_for(old)

    @pytest.mark.parametrize("document", [[], {}, {"keys": 1}])
    async def test_what_is_no_key_set_withdraws_nothing(
        self, provider: OpenIDProvider, keycloak: ScriptedKeycloak, document: Any
    ) -> None:
        """Some proxy's page is not Keycloak's word."""
        keycloak.answers["/certs"] = httpx.Response(200, json=document)
        with pytest.raises(KeycloakUnavailableError):
            await provider.key_for(token(id_claims()))


class TestDiscovery:
    """What is believed of it."""

    @pytest.mark.parametrize("issuer", [f"{ISSUER}/", "https://evil.example.org/realms/hub", None])
    async def test_another_issuer(
        self, provider: OpenIDProvider, keycloak: ScriptedKeycloak, issuer: object
    ) -> None:
        """OpenID Connect Discovery 1.0, 4.3; the message names both."""
        keycloak.answers["openid-configuration"] = httpx.Response(
            200, json=keycloak.discovery(issuer=issuer)
        )
        with pytest.raises(ConfigurationError, match="calls itself"):
            await provider.endpoints()

    @pytest.mark.parametrize(
        "changes",
        [{"token_endpoint": None}, {"jwks_uri": 3}, {"authorization_endpoint": "javascript:x"}],
    )
    async def test_addresses_that_are_none(
        self, provider: OpenIDProvider, keycloak: ScriptedKeycloak, changes: dict[str, Any]
    ) -> None:
        """It is not all there, so it is not used."""
        keycloak.answers["openid-configuration"] = httpx.Response(
            200, json=keycloak.discovery(**changes)
        )
        with pytest.raises(KeycloakUnavailableError):
            await provider.endpoints()

    async def test_another_address_for_the_hub(self, keycloak: ScriptedKeycloak) -> None:
        """Browsers go where the issuer is, the hub where it is told."""
        inside = "http://keycloak.svc:8080/realms/hub"
        provider = OpenIDProvider(keycloak.settings(internal_url=inside), logging.getLogger("t"))
        endpoints = await provider.endpoints()
        assert endpoints.authorization.startswith(f"{ISSUER}/")
        assert endpoints.end_session.startswith(f"{ISSUER}/")
        assert endpoints.token == f"{inside}/protocol/openid-connect/token"
        assert endpoints.keys.startswith(f"{inside}/")


class TestTokens:
    """What is sent, and what the answers mean."""

    async def test_what_is_sent(self, provider: OpenIDProvider, keycloak: ScriptedKeycloak) -> None:
        """The code, its verifier, who we are; and what is configured beside it."""
        provider.extra = {"audience": "x", "client_secret": "not this one"}
        await provider.exchange("the-code", redirect_uri="https://h/cb", verifier="v")
        assert keycloak.forms[-1] == {
            "grant_type": "authorization_code",
            "code": "the-code",
            "redirect_uri": "https://h/cb",
            "code_verifier": "v",
            "client_id": CLIENT,
            "client_secret": SECRET,
            "audience": "x",
        }

    async def test_by_header(self, keycloak: ScriptedKeycloak) -> None:
        """As basic_auth of OAuthenticator; both parts are encoded (RFC 6749, 2.3.1)."""
        import base64

        settings = keycloak.settings(client_id="a:b", client_secret="c d%")
        provider = OpenIDProvider(settings, logging.getLogger("test"))
        provider.basic_auth = True
        seen: list[httpx.Request] = []

        def answer(request: httpx.Request) -> httpx.Response:
            seen.append(request)
            return httpx.Response(200, json=keycloak.tokens())

        keycloak.answers["/token"] = answer
        await provider.renewed("r", seconds=1)
        sent = base64.b64decode(seen[0].headers["Authorization"].removeprefix("Basic "))
        assert sent == b"a%3Ab:c%20d%25"
        assert b"client_secret" not in seen[0].content

    async def test_who_waits_longer_is_not_sent_away(
        self, provider: OpenIDProvider, keycloak: ScriptedKeycloak
    ) -> None:
        """That no answer came in a short time holds for whoever waits no longer, until one comes."""
        keycloak.rotates = False
        await provider.renewed("refresh-0", seconds=30)
        keycloak.gate = asyncio.Event()
        with pytest.raises(KeycloakUnavailableError, match=r"no answer within 0[.]05 s"):
            await provider.renewed("refresh-0", seconds=0.05)
        with pytest.raises(KeycloakUnavailableError, match="some seconds ago"):
            await provider.renewed("refresh-0", seconds=0.05)
        keycloak.gate.set()
        with pytest.raises(KeycloakUnavailableError, match="some seconds ago"):
            await provider.renewed("refresh-0", seconds=0.05)
        await provider.renewed("refresh-0", seconds=30)
        await provider.renewed("refresh-0", seconds=0.5)

    @pytest.mark.parametrize("status", [400, 401, 403])
    async def test_a_no(
        self, provider: OpenIDProvider, keycloak: ScriptedKeycloak, status: int
    ) -> None:
        """With OAuth's code; the secret is not in the message."""
        keycloak.answers["/token"] = httpx.Response(status, json={"error": "invalid_client"})
        with pytest.raises(KeycloakRefusedError) as caught:
            await provider.renewed("r", seconds=1)
        assert (caught.value.status, caught.value.code) == (status, "invalid_client")
        assert "client_id" in str(caught.value)
        assert SECRET not in str(caught.value)
        assert not provider.known_down

    @pytest.mark.parametrize("document", [{}, {"access_token": None}, {"id_token": "x"}])
    async def test_an_answer_without_tokens(
        self, provider: OpenIDProvider, keycloak: ScriptedKeycloak, document: Any
    ) -> None:
        """It is an error of Keycloak's, and no refusal."""
        keycloak.answers["/token"] = httpx.Response(200, json=document)
        with pytest.raises(KeycloakError) as caught:
            await provider.renewed("r", seconds=1)
        assert not isinstance(caught.value, KeycloakRefusedError)

    async def test_redirects_are_not_followed(
        self, provider: OpenIDProvider, keycloak: ScriptedKeycloak
    ) -> None:
        """Code and secret would go where somebody points."""
        keycloak.answers["/token"] = httpx.Response(
            307, headers={"Location": "https://evil.example.org/token"}
        )
        with pytest.raises(KeycloakUnavailableError):
            await provider.exchange("c", redirect_uri="r", verifier="v")
        assert not any("evil" in path for _, path in keycloak.asked)


class TestSettings:
    """What c.Keycloak takes."""

    @pytest.mark.parametrize(
        "issuer",
        [
            "keycloak.example.org/realms/hub",
            "ftp://k/realms/hub",
            "https://",
            "https://user:pw@k/realms/hub",
            "https://k/realms/hub?x=1",
            "https://k/realms/hub#x",
            "https://k/realms/h b",
            "https://k:port/realms/hub",
            "https://[::1/realms/hub",
        ],
    )
    def test_addresses_that_are_none(self, issuer: str) -> None:
        """The message names the setting and an example; a password in it is not said in full."""
        with pytest.raises(TraitError, match="c.Keycloak.issuer"):
            Keycloak(issuer=issuer)

    def test_parts_of_the_address(self) -> None:
        """The admin API is beside the realm."""
        settings = Keycloak(issuer="https://k/auth/realms/my%20hub/")
        assert settings.issuer == "https://k/auth/realms/my%20hub"
        assert settings.realm == "my hub"
        assert settings.admin_url == "https://k/auth/admin/realms/my%20hub"
        with pytest.raises(ConfigurationError, match="realms/NAME"):
            _ = Keycloak(issuer="https://accounts.example.org").admin_url

    def test_secrets_from_files(self, tmp_path: Any) -> None:
        """Read each time, without the line's end; it goes before the one in the configuration."""
        path = tmp_path / "secret"
        path.write_text("one\n")
        settings = Keycloak(client_secret="two", client_secret_file=str(path), client_id="hub")
        assert settings.secret() == "one"
        path.write_text("three")
        assert settings.secret() == "three"
        assert settings.service_credentials() == ("hub", "three")

    @pytest.mark.parametrize("content", [None, "", "\n", b"\xff\xfe"])
    def test_files_that_hold_none(self, tmp_path: Any, content: Any) -> None:
        """The message names setting and file."""
        path = tmp_path / "secret"
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ConfigurationError, match="client_secret_file"):
            Keycloak(client_secret_file=str(path)).secret()

    def test_what_has_to_be_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One after the other is named."""
        monkeypatch.delenv("OAUTH_CLIENT_ID", raising=False)
        monkeypatch.delenv("OAUTH_CLIENT_SECRET", raising=False)
        settings = Keycloak()
        for name, value in [("issuer", ISSUER), ("client_id", "hub"), ("client_secret", "s")]:
            with pytest.raises(ConfigurationError, match=name):
                settings.check()
            setattr(settings, name, value)
        settings.check()
        settings.ca_file = "/nonexistent/ca.pem"
        with pytest.raises(ConfigurationError, match="ca_file"):
            settings.check()

    def test_another_service_account(self) -> None:
        """Its own client and secret."""
        settings = Keycloak(client_id="hub", client_secret="s", service_client_id="sync",
                            service_client_secret="t")  # fmt: skip
        assert settings.service_credentials() == ("sync", "t")

    def test_as_for_genericoauthenticator(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its environment variables."""
        monkeypatch.setenv("OAUTH_CLIENT_ID", "of-env")
        monkeypatch.setenv("OAUTH_CLIENT_SECRET", "secret-of-env")
        assert Keycloak().client_id == "of-env"
        assert Keycloak().secret() == "secret-of-env"
