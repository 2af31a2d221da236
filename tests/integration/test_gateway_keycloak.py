"""A real Keycloak: services with its tokens, and what becomes of the clusters of who is disabled."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

import qhub_gateway
from qhub_gateway.auth import GatewayUser, HubAuthenticator
from qhub_gateway.client import KeycloakAuth
from qhub_gateway.hub import HubPerson
from tests.integration.test_auth_group_sync import PROFILES
from tests.integration.test_gateway_accounts import GATEWAY, OWN_TOKEN
from tests.systems import stand_in
from tests.systems.gateway import GatewaySystem
from tests.systems.processes import wait_until
from tests.systems.synced_hub import SyncedHub

AUDIENCE = {
    "name": "gateway",
    "protocol": "openid-connect",
    "protocolMapper": "oidc-audience-mapper",
    "config": {"included.custom.audience": "qhub-gateway", "access.token.claim": "true"},
}


SITE = """
import sys
from pathlib import Path
sys.path.append("{sources}")
from qhub_gateway import configure
configure.gateway(c, api_token="{token}", address=Path("{folder}/gateway-address").read_text())
"""


class Hub:
    """A hub that knows two users."""

    async def person(self, name: str) -> HubPerson | None:
        return HubPerson(name) if name in {"reports", "alice"} else None

    async def close(self) -> None:
        pass


@pytest.fixture
async def authenticator(realm: Any) -> AsyncIterator[HubAuthenticator]:
    """The gateway's own, with the services that are listed."""
    made = HubAuthenticator(
        jupyterhub_api_token="own",
        jupyterhub_api_url="http://hub.invalid/hub/api",
        jupyterhub_service_name="dask-gateway",
        keycloak_issuer=realm.issuer,
        keycloak_services={"nightly": "reports", "homeless": "nobody", "deaf": "reports"},
        cache_seconds=0,
        stale_seconds=0,
    )
    await made.setup(SimpleNamespace())  # type: ignore[arg-type]
    made.hub = Hub()  # type: ignore[assignment]
    yield made
    await made.cleanup()


@pytest.fixture(scope="module")
def service_token(realm: Any) -> Callable[..., str]:
    """Make a client with a service account, and get a token of it."""

    def make(name: str, *, audience: bool = True, **more: object) -> str:
        secret = secrets.token_hex(16)
        path = f"{realm.admin.path}/clients"
        for known in realm.admin.api.get(path, clientId=name):
            realm.admin.api.delete(f"{path}/{known['id']}")
        realm.admin.api.post(
            path,
            {
                "clientId": name,
                "secret": secret,
                "publicClient": False,
                "serviceAccountsEnabled": True,
                "standardFlowEnabled": False,
                "protocolMappers": [AUDIENCE] if audience else [],
                **more,
            },
        )
        answer = httpx.post(
            f"{realm.issuer}/protocol/openid-connect/token",
            data={"grant_type": "client_credentials", "client_id": name, "client_secret": secret},
            timeout=60,
        )
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    return make


async def let_in(authenticator: HubAuthenticator, token: str) -> GatewayUser:
    """Ask as our client asks."""
    headers, _ = KeycloakAuth(lambda: token).pre_request(None)
    return await authenticator.authenticate(make_mocked_request("GET", "/", headers=headers))


async def test_a_service_that_is_listed(
    authenticator: HubAuthenticator, service_token: Callable[..., str], realm: Any
) -> None:
    """It acts as the hub user that is configured, also with keys that Keycloak has changed since."""
    user = await let_in(authenticator, service_token("nightly"))
    assert (user.name, user.rights.create, user.rights.stop) == ("reports", True, False)
    realm.admin.rotate_keys()
    token = service_token("nightly")
    async with asyncio.timeout(60):
        while True:
            # keys are not asked for at every token that is signed by another
            with suppress(web.HTTPUnauthorized):
                assert (await let_in(authenticator, token)).name == "reports"
                break
            await asyncio.sleep(0.5)


async def test_who_is_not_let_in(
    authenticator: HubAuthenticator, service_token: Callable[..., str], realm: Any
) -> None:
    """No other service, audience, or signature, no person's token, and nobody whom the hub lacks."""
    good = service_token("nightly")
    head, claims, signature = good.split(".")
    other = service_token("deaf", audience=False)
    refused = {
        "not listed": service_token("stranger"),
        "another audience": other,
        "no user of the hub": service_token("homeless"),
        "a person's": realm.tokens("alice")["access_token"],
        "a person's identity": realm.tokens("alice")["id_token"],
        "another's signature": f"{head}.{claims}.{other.split('.')[2]}",
        "another's claims": f"{head}.{other.split('.')[1]}.{signature}",
        "no signature": f"{head}.{claims}.",
    }
    for what, token in refused.items():
        with pytest.raises(web.HTTPUnauthorized):
            pytest.fail(f"{what}: {(await let_in(authenticator, token)).name}")


async def test_a_token_that_is_over(
    authenticator: HubAuthenticator, service_token: Callable[..., str]
) -> None:
    """A token counts as long as it says, and the seconds by which clocks may differ."""
    short = {"attributes": {"access.token.lifespan": "1"}}
    token = service_token("nightly", **short)
    assert authenticator.bearer is not None
    authenticator.bearer._rules = type(authenticator.bearer._rules)(
        authenticator.keycloak_issuer, "qhub-gateway", {"nightly": "reports"}, leeway_seconds=-5.0
    )
    with pytest.raises(web.HTTPUnauthorized):
        await let_in(authenticator, token)


@pytest.fixture(scope="module")
def site(realm: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """A hub that the realm's people log in to, kept true by the sync, and a gateway beside it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "gateway").mkdir()
    sources = Path(qhub_gateway.__file__).resolve().parents[1]
    config = SITE.format(folder=folder, sources=sources, token=OWN_TOKEN)
    hub = SyncedHub(
        folder / "hub", realm, PROFILES.replace("{stand_in}", stand_in.__file__) + config
    )
    gateway = GatewaySystem(
        folder / "gateway", config=GATEWAY.format(hub=hub.hub_url, token=OWN_TOKEN)
    )
    (folder / "gateway-address").write_text(gateway.url)
    gateway.start()
    try:
        with hub:
            yield hub, gateway
    finally:
        gateway.stop()


def test_somebody_who_is_disabled(site: tuple[Any, Any], realm: Any) -> None:
    """Disabled in Keycloak, somebody has no cluster any more a little later; others go on."""
    hub, gateway = site

    def ask(method: str, path: str, token: str) -> Any:
        headers = {"Authorization": f"token {token}"}
        body = {} if method == "POST" else None
        answer = httpx.request(
            method, f"{gateway.url}/api/{path}", headers=headers, json=body, timeout=60
        )
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    tokens, names = {}, {}
    for person in ("alice", "carol"):
        with hub.browser() as browser:
            browser.log_in(person)
        tokens[person] = hub.user_token(person)
        names[person] = ask("POST", "v1/clusters/", tokens[person])["name"]

    def state(person: str) -> str:
        return str(ask("GET", f"qhub/clusters/{names[person]}", tokens[person])["state"])

    for person in names:
        wait_until(lambda person=person: state(person) == "running", 120, f"{person}'s cluster")
    realm.admin.disable("carol")
    ending = f"ending cluster {names['carol']}: carol may not use the hub any more"
    wait_until(lambda: ending in gateway.log(), 120, "the end of carol's cluster")
    gone = f"Cluster {names['carol']} stopped"
    wait_until(lambda: gone in gateway.log(), 120, "that it is over")
    assert f"ending cluster {names['alice']}" not in gateway.log()
    assert state("alice") == "running"
    ask("DELETE", f"v1/clusters/{names['alice']}", tokens["alice"])
