"""Whose a request is: tokens of the hub and of Keycloak, and how long they count."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from cryptography.hazmat.primitives.asymmetric import rsa

from qhub_gateway import auth
from qhub_gateway.auth import GatewayUser, HubAuthenticator
from qhub_gateway.bearer import BearerRules, BearerTokens
from qhub_gateway.errors import HubUnavailableError, TokenRefusedError
from qhub_gateway.hub import HubPerson, TokenModel
from qhub_gateway.requests import Here
from qhub_gateway.rights import Rights
from qhub_spawner.identity import Identity

# dask-gateway's own routes read who asks under a name
pytestmark = pytest.mark.filterwarnings("ignore::aiohttp.web_exceptions.NotAppKeyWarning")

FOR_US = frozenset({"access:services!service=dask"})
OF_SERVER = frozenset({"access:servers!server=alice/lab", "users:activity!user=alice"})


class Hub:
    """A hub that says what the test sets, and counts how often it is asked."""

    def __init__(self) -> None:
        self.tokens = {
            "people": TokenModel("alice", "user", frozenset(), FOR_US),
            "server": TokenModel("alice", "user", frozenset(), OF_SERVER),
            "elsewhere": TokenModel(
                "alice", "user", frozenset(), frozenset({"access:services!service=other"})
            ),
            "ghost": TokenModel("ghost", "user", frozenset(), FOR_US),
            "service": TokenModel("cull", "service", frozenset(), FOR_US),
            "root": TokenModel("root", "user", frozenset(), FOR_US),
        }
        identity = Identity(version=1, uid=5001, gid=5001, home="/home/alice", roles=("staff",))
        self.people = {
            "alice": HubPerson(
                "alice",
                frozenset({"physics"}),
                identity=identity,
                servers={"lab": Here("general", {"size": "big"})},
            ),
            "root": HubPerson("root", admin=True),
            "reports": HubPerson("reports"),
        }
        self.asked = 0
        self.down = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def token_model(self, token: str) -> TokenModel:
        self.asked += 1
        await self.gate.wait()
        if self.down:
            raise HubUnavailableError("the hub does not answer (ClientConnectorError)")
        if token not in self.tokens:
            raise TokenRefusedError("the hub does not know this token")
        return self.tokens[token]

    async def person(self, name: str) -> HubPerson | None:
        if self.down:
            raise HubUnavailableError("the hub does not answer (ClientConnectorError)")
        return self.people.get(name)


class Clock:
    """`time.monotonic` that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(auth, "time", made)
    return made


def made(**traits: Any) -> tuple[HubAuthenticator, Any]:
    authenticator = HubAuthenticator(
        jupyterhub_api_token="own",
        jupyterhub_api_url="http://hub.invalid/hub/api",
        jupyterhub_service_name="dask",
        **traits,
    )
    hub = Hub()
    authenticator.hub = hub  # type: ignore[assignment]
    return authenticator, hub


def request(header: str | None, method: str = "GET", **headers: str) -> web.Request:
    if header is not None:
        headers["Authorization"] = header
    return make_mocked_request(method, "/api/v1/clusters/", headers=headers)


async def user_of(authenticator: HubAuthenticator, header: str) -> GatewayUser:
    return await authenticator.authenticate(request(header))


async def test_a_persons_token() -> None:
    """A token for this service gives the person: groups, identity, rights; no server."""
    authenticator, _ = made()
    for kind in ("jupyterhub", "token", "Bearer"):
        alice = await user_of(authenticator, f"{kind} people")
        assert (alice.name, alice.groups, alice.here) == ("alice", {"physics"}, None)
        assert alice.rights == Rights(create=True)
        assert alice.owner.identity is not None
        assert alice.owner.identity.uid == 5001


async def test_a_servers_token() -> None:
    """A server's own token is let in without any configuration, and says where it is asked from."""
    authenticator, _ = made()
    alice = await user_of(authenticator, "jupyterhub server")
    assert alice.here == Here("general", {"size": "big"})
    assert (await user_of(authenticator, "jupyterhub root")).rights.stop


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "jupyterhub",
        "jupyterhub ",
        "jupyterhub nobody",
        "jupyterhub elsewhere",
        "jupyterhub ghost",
        "jupyterhub service",
        "Basic YWxpY2U6",
        "Negotiate abc",
        "jupyterhub a b",
        "jupyterhub " + "a" * 20_000,
        "bearer a.b.c",
    ],
)
async def test_nobody_else(header: str | None) -> None:
    """Whatever is not a token for this service of somebody the hub knows is answered 401."""
    authenticator, _ = made()
    with pytest.raises(web.HTTPUnauthorized) as caught:
        await authenticator.authenticate(request(header))
    assert caught.value.headers["WWW-Authenticate"] == "jupyterhub"


async def test_no_cookie_stands_for_a_token() -> None:
    """The answer sets no cookie, and one that is sent is not looked at."""
    authenticator, _ = made()

    async def handler(_: web.Request) -> web.Response:
        return web.Response()

    response = await authenticator.authenticate_and_handle(request("token people"), handler)
    assert "Set-Cookie" not in response.headers
    assert not response.cookies
    with pytest.raises(web.HTTPUnauthorized):
        await authenticator.authenticate_and_handle(
            request(None, Cookie=f"{authenticator.cookie_name}=abc"), handler
        )


async def test_revoked(clock: Clock) -> None:
    """A revoked token goes on for the seconds it is remembered, and not longer."""
    authenticator, hub = made()
    await user_of(authenticator, "token people")
    await user_of(authenticator, "token people")
    assert hub.asked == 1
    del hub.tokens["people"]
    clock.now += authenticator.cache_seconds - 0.1
    await user_of(authenticator, "token people")
    clock.now += 0.2
    with pytest.raises(web.HTTPUnauthorized):
        await user_of(authenticator, "token people")


async def test_while_the_hub_is_down(clock: Clock) -> None:
    """Who was let in goes on for a while without the hub; nobody new is let in, or refused."""
    authenticator, hub = made()
    await user_of(authenticator, "token people")
    hub.down = True
    clock.now += authenticator.stale_seconds - 1
    assert (await user_of(authenticator, "token people")).name == "alice"
    with pytest.raises(web.HTTPServiceUnavailable):
        await user_of(authenticator, "token server")
    clock.now += 2
    with pytest.raises(web.HTTPServiceUnavailable):
        await user_of(authenticator, "token people")


async def test_a_refusal_is_not_forgotten_when_the_hub_goes_down(clock: Clock) -> None:
    """A token that the hub has refused does not come back while the hub does not answer."""
    authenticator, hub = made()
    await user_of(authenticator, "token people")
    del hub.tokens["people"]
    clock.now += authenticator.cache_seconds + 1
    with pytest.raises(web.HTTPUnauthorized):
        await user_of(authenticator, "token people")
    hub.down = True
    with pytest.raises(web.HTTPServiceUnavailable):
        await user_of(authenticator, "token people")


async def test_many_at_once_ask_once() -> None:
    """A hundred requests at once with one token are one question; one given up harms no other."""
    authenticator, hub = made()
    hub.gate.clear()
    asking = [asyncio.ensure_future(user_of(authenticator, "token people")) for _ in range(100)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asking[0].cancel()
    hub.gate.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert {each.name for each in answers[1:] if isinstance(each, GatewayUser)} == {"alice"}
    assert hub.asked == 1


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tokens come, a bounded number is remembered, and none of them as it is."""
    monkeypatch.setattr(auth, "_MOST_REMEMBERED", 3)
    authenticator, hub = made()
    for number in range(10):
        hub.tokens[f"token-{number}"] = hub.tokens["people"]
        await user_of(authenticator, f"token token-{number}")
    assert len(authenticator._known) == 3
    assert "token-9" not in repr(authenticator._known)


async def test_only_to_stop_is_for_others() -> None:
    """Who may stop everyone's clusters may not get their keys: that is another request."""
    authenticator, _ = made()
    seen: list[Any] = []

    async def handler(sent: web.Request) -> web.Response:
        seen.append(sent["user"])
        return web.Response()

    of_alice = SimpleNamespace(username="alice")
    for method in ("GET", "POST", "DELETE"):
        await authenticator.authenticate_and_handle(request("token root", method), handler)
    assert [user.has_permissions(of_alice) for user in seen] == [False, False, True]


# ---- Keycloak's tokens ----

ISSUER = "https://auth.example.org/realms/lab"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Keys(jwt.PyJWKClient):
    """The issuer's keys without a network."""

    fetched = 0
    broken = False

    def fetch_data(self) -> Any:
        self.fetched += 1
        if self.broken:
            raise jwt.PyJWKClientConnectionError("no")
        key = jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
        data = {"keys": [{**key, "kid": "one", "use": "sig", "alg": "RS256"}]}
        if self.jwk_set_cache is not None:
            self.jwk_set_cache.put(data)
        return data


def tokens() -> BearerTokens:
    rules = BearerRules(ISSUER, "qhub-gateway", {"nightly": "reports"})
    return BearerTokens(rules, Keys(f"{ISSUER}/certs"))


def token(key: Any = KEY, *, kid: str = "one", algorithm: str = "RS256", **claims: Any) -> str:
    now = int(time.time())
    body = {
        "iss": ISSUER,
        "aud": ["qhub-gateway", "account"],
        "azp": "nightly",
        "sub": "1234",
        "typ": "Bearer",
        "preferred_username": "service-account-nightly",
        "iat": now,
        "exp": now + 60,
    } | claims
    body = {name: value for name, value in body.items() if value is not None}
    return jwt.encode(body, key, algorithm=algorithm, headers={"kid": kid})


async def test_a_service() -> None:
    """The token of a listed service gives the hub user it acts as."""
    assert await tokens().user_of(token()) == "reports"
    authenticator, _ = made()
    authenticator.bearer = tokens()
    user = await user_of(authenticator, f"Bearer {token()}")
    assert (user.name, user.here, user.rights) == ("reports", None, Rights(create=True))


@pytest.mark.parametrize(
    ("forge", "why"),
    [
        (lambda: token(OTHER_KEY), "not valid"),
        (lambda: token(kid="two"), "key that is not known"),
        (lambda: token(iss="https://evil.example"), "another issuer"),
        (lambda: token(aud="account"), "another audience"),
        (lambda: token(aud=None), "not valid"),
        (lambda: token(azp="other"), "not listed"),
        (lambda: token(azp=["nightly"]), "not listed"),
        (lambda: token(exp=int(time.time()) - 60), "expired"),
        (lambda: token(exp=None), "not valid"),
        (lambda: token(nbf=int(time.time()) + 600), "not valid"),
        (lambda: token(typ="ID"), "not an access token"),
        (lambda: token(typ="Refresh"), "not an access token"),
        (lambda: token(typ=None), "not an access token"),
        (lambda: token(preferred_username="alice"), "a person's"),
        (lambda: token(preferred_username=None), "a person's"),
        (lambda: token("k" * 32, algorithm="HS256"), "way that is not accepted"),
        (lambda: token(None, algorithm="none"), "not a signed token"),
        (lambda: "abc", "not a signed token"),
        (lambda: "a.b.c", "not a signed token"),
        (lambda: "a" * 20_000, "not a signed token"),
    ],
)
async def test_forgeries(forge: Callable[[], str], why: str) -> None:
    """Every token but a fresh one of a listed service, for us, signed by the issuer, is refused."""
    sent = forge()
    with pytest.raises(TokenRefusedError, match=why) as caught:
        await tokens().user_of(sent)
    assert sent not in str(caught.value)


async def test_no_keys_is_not_a_refusal() -> None:
    """Where the keys cannot be had nothing is known, and nobody is let in."""
    bearer = tokens()
    bearer._keys.broken = True  # type: ignore[attr-defined]
    with pytest.raises(HubUnavailableError):
        await bearer.user_of(token())


async def test_strangers_fetch_no_keys() -> None:
    """A token that could not be accepted anyway makes no request to the issuer."""
    bearer = tokens()
    for sent in (token(iss="x"), token(azp="x"), "a.b.c", token("k" * 32, algorithm="HS256")):
        with pytest.raises(TokenRefusedError):
            await bearer.user_of(sent)
    assert bearer._keys.fetched == 0  # type: ignore[attr-defined]


def test_a_mistake_in_the_roles_stops_the_gateway() -> None:
    """A misspelt role is found when the gateway starts."""
    with pytest.raises(ValueError, match="group"):
        made(roles={"create": {"group": ["physics"]}})
