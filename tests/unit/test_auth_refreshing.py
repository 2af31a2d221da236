"""Keeping true what is known of people: one call at a time, and nothing lost by an answer missing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from qhub_auth.directory import PersonFacts
from qhub_auth.errors import KeycloakRefusedError, KeycloakUnavailableError
from tests.unit.scripted_keycloak import ScriptedKeycloak, id_claims, signing_key, token
from tests.unit.small_hub import SmallHub, with_crypt_key


@pytest.fixture
def keycloak() -> ScriptedKeycloak:
    return ScriptedKeycloak()


@pytest.fixture
def hub(keycloak: ScriptedKeycloak, tmp_path: Any, monkeypatch: Any) -> Iterator[SmallHub]:
    with_crypt_key(monkeypatch)
    hub = SmallHub(keycloak, tmp_path)
    no_rights(hub)
    yield hub
    hub.close()


def no_rights(hub: SmallHub) -> None:
    """The service account may do nothing."""

    async def refuse(*_: Any) -> Any:
        raise KeycloakRefusedError("no rights", status=403)

    hub.authenticator.admin_api.groups = refuse
    hub.authenticator.admin_api.client_roles = refuse
    hub.authenticator.admin_api.person = refuse


def knows(hub: SmallHub, facts: PersonFacts | Exception | None) -> list[str]:
    """The service account says this of everybody; returns whom it was asked about."""
    asked: list[str] = []

    async def person(sub: str) -> PersonFacts | None:
        asked.append(sub)
        if isinstance(facts, Exception):
            raise facts
        return facts

    hub.authenticator.admin_api.person = person
    return asked


ALICE = PersonFacts(sub="sub-alice", name="alice", groups=frozenset({"/physics/team-a"}))
OVER = httpx.Response(400, json={"error": "invalid_grant", "error_description": "not active"})


class TestOneAtATime:
    """Refresh tokens that are good once."""

    async def test_six_requests_at_once_are_one_call(
        self, hub: SmallHub, keycloak: ScriptedKeycloak
    ) -> None:
        """The others wait for it, and go on with what it saved."""
        user = await hub.logged_in()
        keycloak.gate = asyncio.Event()
        asked = [
            asyncio.create_task(hub.authenticator.refresh_user(user, hub.request(user)))
            for _ in range(6)
        ]
        await asyncio.sleep(0.05)
        keycloak.gate.set()
        assert await asyncio.gather(*asked) == [True] * 6
        assert keycloak.count("/token") == 1
        assert (await user.get_auth_state())["refresh_token"] == keycloak.refresh_token

    async def test_one_after_the_other_uses_the_newest(
        self, hub: SmallHub, keycloak: ScriptedKeycloak
    ) -> None:
        """What a refresh gave is what the next one uses."""
        user = await hub.logged_in()
        for _ in range(3):
            assert await hub.authenticator.refresh_user(user, hub.request(user)) is True
        used = [form["refresh_token"] for form in keycloak.forms]
        assert len(set(used)) == 3

    async def test_a_browser_that_goes_away_takes_nothing_with_it(
        self, hub: SmallHub, keycloak: ScriptedKeycloak
    ) -> None:
        """Keycloak has given new tokens by then; they are saved."""
        user = await hub.logged_in()
        keycloak.gate = asyncio.Event()
        gone = asyncio.create_task(hub.authenticator.refresh_user(user, hub.request(user)))
        stays = asyncio.create_task(hub.authenticator.refresh_user(user, hub.request(user)))
        await asyncio.sleep(0.05)
        gone.cancel()
        keycloak.gate.set()
        assert await stays is True
        assert (await user.get_auth_state())["refresh_token"] == keycloak.refresh_token

    async def test_a_log_in_meanwhile_is_not_overwritten(
        self, hub: SmallHub, keycloak: ScriptedKeycloak
    ) -> None:
        """Whoever waits for their turn looks again at what there is."""
        user = await hub.logged_in()
        async with hub.authenticator.saving("alice"):
            refresh = asyncio.create_task(hub.authenticator.refresh_user(user, hub.request(user)))
            await asyncio.sleep(0.05)
            state = await user.get_auth_state()
            await user.save_auth_state({**state, "refresh_token": "of the log-in"})
        assert await refresh is True
        assert keycloak.count("/token") == 0
        assert (await user.get_auth_state())["refresh_token"] == "of the log-in"

    async def test_without_rotation_the_old_one_stays(
        self, hub: SmallHub, keycloak: ScriptedKeycloak
    ) -> None:
        """An answer without a refresh token leaves the one there is."""
        user = await hub.logged_in()
        keycloak.answers["/token"] = lambda _: httpx.Response(
            200, json={k: v for k, v in keycloak.tokens().items() if k != "refresh_token"}
        )
        assert await hub.authenticator.refresh_user(user, hub.request(user)) is True
        assert (await user.get_auth_state())["refresh_token"] == "refresh-0"


class TestWhatIsSaved:
    """Facts, rights and numbers follow Keycloak."""

    async def test_groups_and_administrators_follow(
        self, hub: SmallHub, keycloak: ScriptedKeycloak
    ) -> None:
        """Both ways, at each refresh."""
        hub.authenticator.admin_groups = {"/admins"}
        user = await hub.logged_in()
        keycloak.claims = {"groups": ["/physics", "/admins"]}
        assert await hub.authenticator.refresh_user(user, hub.request(user)) is True
        assert {group.name for group in user.groups} == {"/physics", "/admins"}
        assert user.admin
        keycloak.claims = {"groups": ["/physics"]}
        assert await hub.authenticator.refresh_user(user, hub.request(user)) is True
        assert {group.name for group in user.groups} == {"/physics"}
        assert not user.admin
        assert "admin" not in {role.name for role in user.roles}

    async def test_who_is_not_allowed_any_more(
        self, hub: SmallHub, keycloak: ScriptedKeycloak
    ) -> None:
        """Rules are checked again; the new tokens are kept, for the old are good no more."""
        hub.authenticator.admin_groups = {"/admins"}
        keycloak.claims = {"groups": ["/admins"]}
        user = await hub.logged_in()
        assert user.admin
        keycloak.claims = {"groups": ["/biology"]}
        for token_request in (False, True):
            request = hub.request(user, token=token_request)
            assert await hub.authenticator.refresh_user(user, request) is False
        assert not user.admin
        assert keycloak.count("/token") == 1, "it is remembered for a while"
        assert (await user.get_auth_state())["refresh_token"] == keycloak.refresh_token

    async def test_a_person_who_is_called_otherwise_now(
        self, hub: SmallHub, keycloak: ScriptedKeycloak
    ) -> None:
        """They log in again, and are somebody else to the hub."""
        user = await hub.logged_in()
        keycloak.claims = {"preferred_username": "alicia"}
        assert await hub.authenticator.refresh_user(user, hub.request(user)) is False

    async def test_tokens_of_another_person_are_refused(
        self, hub: SmallHub, keycloak: ScriptedKeycloak
    ) -> None:
        """However they came here: nobody becomes somebody else by a refresh."""
        user = await hub.logged_in()
        keycloak.claims = {"sub": "sub-bob", "preferred_username": "bob"}
        assert await hub.authenticator.refresh_user(user, hub.request(user)) is False
        assert user.name == "alice"

    async def test_forged_tokens_are_refused(
        self, hub: SmallHub, keycloak: ScriptedKeycloak
    ) -> None:
        """They are verified as strictly as at log-in."""
        user = await hub.logged_in()
        forged = token(id_claims(groups=["/admins"]), signing_key("k1"))
        keycloak.answers["/token"] = httpx.Response(200, json=keycloak.tokens(id_token=forged))
        assert await hub.authenticator.refresh_user(user, hub.request(user)) is False


UNAVAILABLE: list[Any] = [
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("slow"),
    httpx.RemoteProtocolError("cut"),
    httpx.Response(500, json={"error": "unknown_error"}),
    httpx.Response(502, text="<html>Bad gateway</html>"),
    httpx.Response(503),
    httpx.Response(429, json={"error": "too many"}),
    httpx.Response(404, text="<html>no such page</html>"),
    httpx.Response(302, headers={"Location": "https://elsewhere.example.org"}),
    httpx.Response(400, text="<html>a proxy's words</html>"),
    httpx.Response(401, text=""),
    httpx.Response(400, json=["invalid_grant"]),
    httpx.Response(400, json={"error": 400}),
    httpx.Response(200, text="not JSON"),
    httpx.Response(200, json=[]),
    httpx.Response(200, json={"error": "invalid_grant"}),
    httpx.Response(200, text='{"access_token": "cut off'),
]


class TestUnavailable:
    """No answer is not a no."""

    @pytest.mark.parametrize("answer", UNAVAILABLE, ids=repr)
    @pytest.mark.parametrize("by_token", [False, True])
    async def test_nobody_is_sent_away(
        self, hub: SmallHub, keycloak: ScriptedKeycloak, answer: Any, by_token: bool
    ) -> None:
        """Whoever is in stays in, and nothing of them changes."""
        user = await hub.logged_in()
        before, groups = await user.get_auth_state(), {group.name for group in user.groups}
        keycloak.answers["/token"] = answer
        request = hub.request(user, token=by_token)
        assert await hub.authenticator.refresh_user(user, request) is True
        assert await user.get_auth_state() == before
        assert {group.name for group in user.groups} == groups

    async def test_after_a_failure_nobody_waits_for_a_while(
        self, hub: SmallHub, keycloak: ScriptedKeycloak
    ) -> None:
        """One finds out for all."""
        people = [await hub.logged_in(), hub.add("bob")]
        await people[1].save_auth_state(await people[0].get_auth_state())
        keycloak.answers["/token"] = httpx.ConnectError("refused")
        for _ in range(3):
            for user in people:
                assert await hub.authenticator.refresh_user(user, hub.request(user)) is True
        assert keycloak.count("/token") == 1

    async def test_a_frozen_keycloak_holds_nobody_up(
        self, hub: SmallHub, keycloak: ScriptedKeycloak
    ) -> None:
        """The time for it is short, and its own setting."""
        user = await hub.logged_in()
        hub.authenticator.refresh_timeout_seconds = 0.2
        keycloak.gate = asyncio.Event()
        async with asyncio.timeout(2):
            assert await hub.authenticator.refresh_user(user, hub.request(user)) is True

    async def test_keys_that_cannot_be_had_lose_no_tokens(
        self, hub: SmallHub, keycloak: ScriptedKeycloak
    ) -> None:
        """The old refresh token is good no more, so the new one is saved, though not yet believed."""
        user = await hub.logged_in()
        keycloak.keys = [signing_key("k2")]
        keycloak.answers["/certs"] = httpx.ConnectError("refused")
        assert await hub.authenticator.refresh_user(user, hub.request(user)) is True
        assert (await user.get_auth_state())["refresh_token"] == keycloak.refresh_token

    async def test_a_client_that_keycloak_does_not_know(
        self, hub: SmallHub, keycloak: ScriptedKeycloak
    ) -> None:
        """It says something of us, and nothing of the person."""
        user = await hub.logged_in()
        keycloak.answers["/token"] = httpx.Response(401, json={"error": "invalid_client"})
        assert await hub.authenticator.refresh_user(user, hub.request(user)) is True


class TestSessionOver:
    """Keycloak says that the session has ended."""

    async def test_browsers_log_in_again(self, hub: SmallHub, keycloak: ScriptedKeycloak) -> None:
        """All of them: their cookies are good no more."""
        user = await hub.logged_in()
        cookie = user.cookie_id
        keycloak.answers["/token"] = OVER
        assert await hub.authenticator.refresh_user(user, hub.request(user)) is False
        assert user.cookie_id != cookie
        state = await user.get_auth_state()
        assert state["refresh_token"] is None
        assert state["qhub"]["uid"]

    async def test_it_is_asked_once(self, hub: SmallHub, keycloak: ScriptedKeycloak) -> None:
        """What is saved says that it is over."""
        user = await hub.logged_in()
        keycloak.answers["/token"] = OVER
        for _ in range(3):
            assert await hub.authenticator.refresh_user(user, hub.request(user)) is False
        assert keycloak.count("/token") == 1

    @pytest.mark.parametrize("cross", [False, True])
    async def test_api_tokens_go_on_if_the_person_may(
        self, hub: SmallHub, keycloak: ScriptedKeycloak, cross: bool
    ) -> None:
        """The service account is asked; what it says is fresh."""
        user = await hub.logged_in()
        keycloak.answers["/token"] = OVER
        more = PersonFacts(sub="sub-alice", name="alice", groups=frozenset({"/physics", "/new"}))
        asked = knows(hub, more)
        request = hub.request(user, token=not cross, by=hub.add("erin") if cross else None)
        assert await hub.authenticator.refresh_user(user, request) is True
        assert asked == ["sub-alice"]
        assert {group.name for group in user.groups} == {"/physics", "/new"}

    @pytest.mark.parametrize(
        "facts",
        [
            None,
            PersonFacts(sub="sub-alice", name="alice", enabled=False, groups=ALICE.groups),
            PersonFacts(sub="sub-alice", name="alice", groups=frozenset({"/biology"})),
            PersonFacts(sub="sub-alice", name="alicia", groups=ALICE.groups),
        ],
        ids=["deleted", "disabled", "not allowed", "renamed"],
    )
    async def test_api_tokens_end_with_the_person(
        self, hub: SmallHub, keycloak: ScriptedKeycloak, facts: PersonFacts | None
    ) -> None:
        """And it is remembered, so that a program that goes on asking costs nothing."""
        hub.authenticator.admin_users = {"alice"} if facts is None else set()
        user = await hub.logged_in()
        keycloak.answers["/token"] = OVER
        asked = knows(hub, facts)
        for _ in range(3):
            request = hub.request(user, token=True)
            assert await hub.authenticator.refresh_user(user, request) is False
        assert asked == ["sub-alice"]
        assert not user.admin

    async def test_six_requests_ask_once(self, hub: SmallHub, keycloak: ScriptedKeycloak) -> None:
        """As with tokens."""
        user = await hub.logged_in()
        keycloak.answers["/token"] = OVER
        asked = knows(hub, ALICE)
        requests = [hub.request(user, token=True) for _ in range(6)]
        answers = await asyncio.gather(
            *(hub.authenticator.refresh_user(user, each) for each in requests)
        )
        assert answers == [True] * 6
        assert asked == ["sub-alice"]

    async def test_no_answer_is_not_a_no_here_either(
        self, hub: SmallHub, keycloak: ScriptedKeycloak
    ) -> None:
        """The service account may be held up as well."""
        user = await hub.logged_in()
        keycloak.answers["/token"] = OVER
        knows(hub, KeycloakUnavailableError("down"))
        request = hub.request(user, token=True)
        assert await hub.authenticator.refresh_user(user, request) is True

    @pytest.mark.parametrize("strict", [False, True])
    async def test_without_a_service_account_strictness_decides(
        self, hub: SmallHub, keycloak: ScriptedKeycloak, strict: bool
    ) -> None:
        """Nobody can say whether they may: that is what auth_refresh_strict is about."""
        hub.authenticator.auth_refresh_strict = strict
        user = await hub.logged_in()
        keycloak.answers["/token"] = OVER
        request = hub.request(user, token=True)
        assert await hub.authenticator.refresh_user(user, request) is not strict

    async def test_somebody_who_never_logged_in_is_asked_about_by_their_number(
        self, hub: SmallHub, keycloak: ScriptedKeycloak
    ) -> None:
        """The store knows whose name it is."""
        user = hub.add("bob")
        hub.authenticator.identities.store.person("sub-bob", "bob")
        asked = knows(hub, PersonFacts(sub="sub-bob", name="bob", groups=frozenset({"/physics"})))
        assert await hub.authenticator.refresh_user(user, hub.request(user, token=True)) is True
        assert asked == ["sub-bob"]
        assert (await user.get_auth_state())["qhub"]["uid"]

    async def test_users_of_the_hubs_own_are_not_keycloaks(self, hub: SmallHub) -> None:
        """Nobody knows them, so their tokens open nothing."""
        user = hub.add("stranger")
        assert await hub.authenticator.refresh_user(user, hub.request(user, token=True)) is False


class TestByHook:
    """GenericOAuthenticator's own refresh_user_hook."""

    @pytest.mark.parametrize("says", [True, False, None])
    async def test_it_goes_first(
        self, hub: SmallHub, keycloak: ScriptedKeycloak, says: bool | None
    ) -> None:
        """None means that it has no opinion."""
        user = await hub.logged_in()
        hub.authenticator.refresh_user_hook = lambda *_: says
        answer = await hub.authenticator.refresh_user(user, hub.request(user))
        assert answer is (True if says is None else says)
        assert keycloak.count("/token") == (1 if says is None else 0)

    async def test_without_auth_state_there_is_nothing_to_ask_by(self, hub: SmallHub) -> None:
        """As GenericOAuthenticator does."""
        hub.authenticator.enable_auth_state = False
        user = hub.add("x")
        assert await hub.authenticator.refresh_user(user, hub.request(user)) is True


class TestNumbers:
    """What an administrator does to somebody's number."""

    async def test_one_that_is_taken_sends_nobody_away(
        self, hub: SmallHub, keycloak: ScriptedKeycloak
    ) -> None:
        """They keep the one they have; the log says why."""
        user = await hub.logged_in()
        hub.authenticator.identities.store.person("sub-bob", "bob", uid=20777)
        keycloak.claims = {"uidNumber": "20777"}
        before = (await user.get_auth_state())["qhub"]
        assert await hub.authenticator.refresh_user(user, hub.request(user)) is True
        state = await user.get_auth_state()
        assert state["qhub"] == before
        assert state["refresh_token"] == keycloak.refresh_token
