"""`KeycloakAuthenticator` without a hub: traits, moving over, the directory, ending sessions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jupyterhub import orm
from oauthenticator.generic import GenericOAuthenticator
from traitlets import TraitError
from traitlets.config import Config

from qhub_auth.authenticator import KeycloakAuthenticator
from qhub_auth.directory import Directory, Group, PersonFacts
from qhub_auth.errors import (
    ConfigurationError,
    KeycloakRefusedError,
    KeycloakUnavailableError,
    RefusedError,
)
from qhub_auth.identity import Folder, Identity
from qhub_auth.keycloak.keeping import DirectoryKeeper
from qhub_auth.keycloak.settings import Keycloak
from qhub_auth.login.admission import kept_folders
from qhub_auth.login.sessions import end_sessions
from tests.unit.scripted_keycloak import ScriptedKeycloak, id_claims, token
from tests.unit.small_hub import SmallHub, with_crypt_key


@pytest.fixture
def hub(tmp_path: Any, monkeypatch: Any) -> Iterator[SmallHub]:
    with_crypt_key(monkeypatch)
    hub = SmallHub(ScriptedKeycloak(), tmp_path)

    async def refuse(*_: Any) -> Any:
        raise KeycloakRefusedError("no rights", status=403)

    hub.authenticator.admin_api.groups = refuse
    hub.authenticator.admin_api.client_roles = refuse
    yield hub
    hub.close()


def configured(**sections: dict[str, Any]) -> KeycloakAuthenticator:
    return KeycloakAuthenticator(config=Config(sections))


@pytest.mark.parametrize("kind", [Keycloak, KeycloakAuthenticator])
def test_every_own_trait_is_explained(kind: Any) -> None:
    """Each configurable trait says what it means; numbers say their unit."""
    own = [t for t in kind.class_own_traits(config=True).values() if t.this_class is kind]
    assert own
    for trait in own:
        words = (trait.help or "").strip()
        assert len(words) > 60, trait.name
        assert words.endswith((".", "`")), trait.name
        assert "Default" in words or "default" in words, trait.name


class TestMovingOver:
    """A hub that has GenericOAuthenticator today."""

    def test_its_sections_are_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Client, rules and hooks stay where they are."""
        hook = lambda *_: None  # noqa: E731 - as in a configuration file
        it = configured(
            GenericOAuthenticator={
                "client_id": "old",
                "client_secret": "old-secret",
                "allowed_groups": {"/physics"},
                "modify_auth_state_hook": hook,
                "extra_authorize_params": {"kc_idp_hint": "github"},
                "username_claim": "email",
                "scope": ["profile"],
            },
            OAuthenticator={"admin_groups": {"/admins"}},
            Keycloak={"issuer": "https://k/realms/hub"},
        )
        assert it.keycloak.client_id == "old"
        assert it.keycloak.secret() == "old-secret"
        assert it.allowed_groups == {"/physics"}
        assert it.admin_groups == {"/admins"}
        assert it.modify_auth_state_hook is hook
        assert it.scope == ["openid", "profile"]

    def test_what_has_no_effect_is_said(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: Any
    ) -> None:
        """Once, with the name; a log-out address of Keycloak's is not followed twice."""
        with_crypt_key(monkeypatch)
        it = configured(
            GenericOAuthenticator={
                "authorize_url": "https://k/auth",
                "token_url": "https://k/token",
                "userdata_url": "https://k/userinfo",
                "logout_redirect_url": "https://k/realms/hub/protocol/openid-connect/logout",
            },
            Keycloak={"issuer": "https://k/realms/hub", "client_id": "c", "client_secret": "s"},
        )
        it.log = logging.getLogger("moving")
        it.check_settings()
        for name in ("authorize_url", "token_url", "userdata_url", "logout_redirect_url"):
            assert f"{name} has no effect" in caplog.text
        assert it.logout_redirect_url == ""

    @pytest.mark.parametrize(
        ("name", "value"), [("validate_server_cert", False), ("enable_pkce", False)]
    )
    def test_what_would_turn_a_check_off(self, name: str, value: bool, monkeypatch: Any) -> None:
        """The hub does not start with it."""
        with_crypt_key(monkeypatch)
        it = configured(
            GenericOAuthenticator={name: value},
            Keycloak={"issuer": "https://k/realms/hub", "client_id": "c", "client_secret": "s"},
        )
        with pytest.raises(ConfigurationError, match=name):
            it.check_settings()

    def test_a_key_to_encrypt_by(self, monkeypatch: Any) -> None:
        """Without one the message says how to make it."""
        with_crypt_key(monkeypatch)
        from jupyterhub import crypto

        crypto.CryptKeeper.instance().keys = []
        it = configured(
            Keycloak={"issuer": "https://k/realms/hub", "client_id": "c", "client_secret": "s"}
        )
        with pytest.raises(ConfigurationError, match=r"JUPYTERHUB_CRYPT_KEY.*openssl rand"):
            it.check_settings()

    @pytest.mark.parametrize("folder", ["settings", "work"])
    async def test_a_database_where_the_hub_runs(
        self, tmp_path: Path, monkeypatch: Any, caplog: pytest.LogCaptureFixture, folder: str
    ) -> None:
        """One in the working directory, and none beside the settings: the hub stops at once, rather than give the same numbers again."""
        with_crypt_key(monkeypatch)
        for each in ("settings", "work"):
            (tmp_path / each).mkdir()
        (tmp_path / folder / "qhub_identity.sqlite").touch()
        monkeypatch.chdir(tmp_path / "work")
        it = configured(
            Keycloak={"issuer": "https://k/realms/hub", "client_id": "c", "client_secret": "s"}
        )
        it.log = logging.getLogger("starting")
        it.identities.settings_file = tmp_path / "settings" / "jupyterhub_config.py"
        if folder == "settings":
            it.check_allow_config()
            return
        for start in (it.load_managed_roles, lambda: asyncio.to_thread(it.check_allow_config)):
            with pytest.raises(SystemExit):
                await start()
        assert f"there is {tmp_path}/work/qhub_identity.sqlite" in caplog.text

    @pytest.mark.parametrize(
        "url", ["postgresql://hub@127.0.0.1:1/hub", "sqlite:////nowhere/at/all.sqlite"]
    )
    def test_a_database_that_is_down(self, monkeypatch: Any, url: str) -> None:
        """The hub starts: it is not asked anything before somebody logs in."""
        with_crypt_key(monkeypatch)
        it = configured(
            Keycloak={"issuer": "https://k/realms/hub", "client_id": "c", "client_secret": "s"},
            Identities={"database_url": url},
        )
        it.check_settings()

    def test_numbers_that_cannot_be_given(self, monkeypatch: Any) -> None:
        """A wrong setting of numbers is told when the hub starts, and not to the first who logs in."""
        with_crypt_key(monkeypatch)
        it = configured(
            Keycloak={"issuer": "https://k/realms/hub", "client_id": "c", "client_secret": "s"},
            Identities={"uid_range": "many"},
        )
        with pytest.raises(ConfigurationError, match=r"c\.Identities\.uid_range"):
            it.check_settings()

    @pytest.mark.parametrize("name", ["allowed_groups", "admin_groups", "blocked_groups"])
    @pytest.mark.parametrize("path", ["physics", "/physics/", "", "/", "//x"])
    def test_groups_are_full_paths(self, name: str, path: str) -> None:
        """A rule for a group that cannot exist would hold for nobody, or block nobody."""
        with pytest.raises(TraitError, match=name):
            KeycloakAuthenticator(**{name: {path}})

    def test_defaults(self) -> None:
        """What a log-in by Keycloak needs is on."""
        it = KeycloakAuthenticator()
        assert it.enable_auth_state
        assert it.manage_groups
        assert it.manage_roles
        assert it.auth_refresh_strict
        assert it.refresh_pre_spawn
        assert it.login_service == "Keycloak"
        assert isinstance(it, GenericOAuthenticator)


class TestNames:
    """Which account somebody gets."""

    @pytest.mark.parametrize("name", ["Alice", "ALICE", "alice"])
    async def test_lower_case(self, hub: SmallHub, name: str) -> None:
        """As JupyterHub does."""
        facts = PersonFacts(sub="s", name=name)
        assert await hub.authenticator.name_of(facts, by_token=True) == "alice"

    @pytest.mark.parametrize(
        "name",
        ["", "-rf", "1abc", "a b", "a/b", "../x", "a\nb", "alice\n", "ünal", "аlice", "a" * 33, "a\0",
         "a:b", "$(id)", "ａlice", "ﬁ"],
    )  # fmt: skip
    async def test_what_no_account_can_be_called(self, hub: SmallHub, name: str) -> None:
        """Refused with words that a page and a log can bear."""
        with pytest.raises(RefusedError) as caught:
            await hub.authenticator.name_of(PersonFacts(sub="s", name=name), by_token=True)
        for text in (str(caught.value), caught.value.reason):
            assert text.isprintable()

    async def test_names_that_become_the_same(self, hub: SmallHub) -> None:
        """The second person is told whom to ask, and is not let in as the first."""
        first = PersonFacts(sub="s1", name="alice", groups=frozenset({"/physics"}))
        second = PersonFacts(sub="s2", name="ALICE", groups=frozenset({"/physics"}))
        await hub.authenticator.auth_model_of(first, tokens={})
        with pytest.raises(RefusedError, match="qhub-identity release alice"):
            await hub.authenticator.auth_model_of(second, tokens={})

    async def test_a_map_that_leads_on(self, hub: SmallHub) -> None:
        """JupyterHub applies username_map twice: the second name would be nobody's we know."""
        hub.authenticator.username_map = {"alice": "bob", "bob": "carol"}
        with pytest.raises(RefusedError):
            await hub.authenticator.name_of(PersonFacts(sub="s", name="alice"), by_token=True)
        hub.authenticator.username_map = {"alice": "bob"}
        facts = PersonFacts(sub="s", name="alice")
        assert await hub.authenticator.name_of(facts, by_token=True) == "bob"


class TestFacts:
    """What is taken from tokens."""

    async def test_one_call(self, hub: SmallHub) -> None:
        """userinfo is not asked."""
        await hub.logged_in()
        await hub.authenticator.provider.exchange("c", redirect_uri="r", verifier="v")
        assert hub.keycloak.asked == [("POST", "/realms/hub/protocol/openid-connect/token")]

    async def test_no_list_of_groups_with_groups_to_block(self, hub: SmallHub) -> None:
        """Who is blocked cannot be known, so nobody comes in."""
        tokens = hub.keycloak.tokens(id_token=token(id_claims(groups=None)))
        facts, _ = await hub.authenticator.facts_of_tokens(dict(tokens), nonce=None)
        assert facts.groups == frozenset()
        hub.authenticator.blocked_groups = {"/suspended"}
        with pytest.raises(RefusedError) as caught:
            await hub.authenticator.facts_of_tokens(dict(tokens), nonce=None)
        assert "Group Membership" in caught.value.reason

    async def test_groups_by_ones_own_function(self, hub: SmallHub) -> None:
        """auth_state_groups_key may be callable, and a hook may change what is kept."""
        hub.authenticator.modify_auth_state_hook = lambda _, state: {**state, "mine": ["/a/b"]}
        hub.authenticator.auth_state_groups_key = lambda state: state["mine"]
        facts, kept = await hub.authenticator.facts_of_tokens(hub.keycloak.tokens(), nonce=None)
        assert facts.groups == {"/a/b"}
        assert kept["mine"] == ["/a/b"]
        assert kept["oauth_user"]["sub"] == "sub-alice"

    async def test_roles_in_the_access_token(self, hub: SmallHub) -> None:
        """Where Keycloak puts them as it comes; verified as strictly."""
        access = token(
            {**id_claims(typ="Bearer"), "resource_access": {"jupyterhub": {"roles": ["r"]}}}
        )
        tokens = hub.keycloak.tokens(access_token=access, id_token=token(id_claims(roles=None)))
        facts, _ = await hub.authenticator.facts_of_tokens(tokens, nonce=None)
        assert facts.roles == {"grafana_viewer"}, "its own claim, in the access token, goes first"
        forged = access[:-6] + "AAAAAA"
        tokens = hub.keycloak.tokens(access_token=forged, id_token=token(id_claims(roles=None)))
        facts, _ = await hub.authenticator.facts_of_tokens(tokens, nonce=None)
        assert facts.roles == frozenset()

    async def test_disabled_is_refused_and_scopes_may_allow(self, hub: SmallHub) -> None:
        """allowed_scopes of OAuthenticator; whoever is in by them stays in at a sync."""
        it = hub.authenticator
        nobody = PersonFacts(sub="s", name="bob")
        with pytest.raises(RefusedError):
            await it.auth_model_of(nobody, tokens={"scope": ["openid"]})
        it.scope = ["openid", "hub"]
        it.allowed_scopes = ["hub"]
        with pytest.raises(RefusedError):
            await it.auth_model_of(nobody, tokens={"scope": ["openid"]})
        assert await it.auth_model_of(nobody, tokens={"scope": ["openid", "hub"]})
        assert await it.auth_model_of(nobody, tokens=None)
        for name in ("bob", "Bob"):  # as the hub's names are written, or not
            it.blocked_users = {name}
            with pytest.raises(RefusedError):
                await it.auth_model_of(nobody, tokens={"scope": ["openid", "hub"]})


def directory(groups: int) -> Directory:
    paths = [f"/g{n}" for n in range(groups)]
    return Directory(groups={path: Group(id=path, path=path) for path in paths})


class TestDirectory:
    """Groups and roles, kept."""

    def keeper(self, answers: list[Any], **more: Any) -> DirectoryKeeper:
        async def read() -> Directory:
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, float):
                await asyncio.sleep(answer)
                return directory(1)
            return answer  # type: ignore[no-any-return]

        options = {"fresh_seconds": 60, "wait_seconds": 0.2, **more}
        return DirectoryKeeper(read, log=logging.getLogger("keeper"), **options)

    async def test_read_once(self) -> None:
        """Many who ask at once share it."""
        answers: list[Any] = [directory(3), RuntimeError("twice")]
        keeper = self.keeper(answers)
        found = await asyncio.gather(*(keeper.directory() for _ in range(5)))
        assert {id(each) for each in found} == {id(keeper.known)}

    @pytest.mark.parametrize("error", [KeycloakUnavailableError("x"), RuntimeError("ours")])
    async def test_what_is_there_stays(self, error: Exception) -> None:
        """An outage, or a mistake of ours, takes nothing away."""
        keeper = self.keeper([directory(3), error])
        first = await keeper.directory()
        assert await keeper.renew() is first

    @pytest.mark.parametrize(
        "error", [KeycloakUnavailableError("x"), KeycloakRefusedError("no", status=403)]
    )
    async def test_unknown_is_not_empty(self, error: Exception) -> None:
        """Nobody may take "no answer" for "no groups"."""
        assert await self.keeper([error]).directory() is None

    async def test_nobody_waits_for_long(self) -> None:
        """Nor is the reading given up for it."""
        keeper = self.keeper([0.5])
        assert await keeper.directory() is None
        async with asyncio.timeout(5):
            while keeper.known is None:
                await asyncio.sleep(0.02)

    async def test_most_groups_gone_at_once_is_not_believed_at_once(self, monkeypatch: Any) -> None:
        """A realm half imported looks so; ten minutes later it is true."""
        keeper = self.keeper([directory(20), directory(2)])
        await keeper.directory()
        assert len((await keeper.renew()).groups) == 20  # type: ignore[union-attr]
        monkeypatch.setattr("qhub_auth.keycloak.keeping._SHRUNK_SECONDS", 0.0)
        assert len((await keeper.renew()).groups) == 2  # type: ignore[union-attr]


def test_folders_stay_while_nobody_can_say_which_there_are() -> None:
    """But for those whose group somebody has left, which their token says."""
    lab = Folder(path="/a/lab", name="lab", gid=50001, access="rw")
    old = Folder(path="/b", name="b", gid=50002, access="ro")
    had = Identity(uid=1, gid=1, gids=(1, 50001, 50002), home="/h", groups=(lab, old))
    new = Identity(uid=1, gid=1, gids=(1,), home="/h").model_dump(mode="json")
    kept = kept_folders(new, had.model_dump(mode="json"), frozenset({"/a", "/a/lab"}))
    assert Identity.model_validate(kept).groups == (lab,)
    assert kept["gids"] == [1, 50001]
    assert kept_folders(new, None, frozenset()) == new


class TestEndingSessions:
    """What ends, and what stays."""

    def tokens(self, hub: SmallHub, user: Any) -> dict[str, orm.APIToken]:
        hub.db.add(orm.OAuthClient(identifier="service-x", secret=""))
        hub.db.commit()
        made = {
            "own": {"note": "my script"},
            "server": {"note": "Server at /user/alice/"},
            "browser": {"session_id": "s", "client_id": "service-x"},
            "service": {"client_id": "service-x"},
        }
        for name, values in made.items():
            orm.APIToken.new(user=user.orm_user, token=f"{name}-{'x' * 32}", **values)
        code = orm.OAuthCode(client_id="service-x", code="c", user=user.orm_user,
                             expires_at=int(datetime.now(UTC).timestamp()) + 60)  # fmt: skip
        hub.db.add(code)
        hub.db.commit()
        return {name: name for name in made}  # type: ignore[misc]

    def left(self, hub: SmallHub) -> set[str]:
        return {
            name
            for name in ("own", "server", "browser", "service")
            if orm.APIToken.find(hub.db, f"{name}-{'x' * 32}") is not None
        }

    @pytest.mark.parametrize(
        ("revoke", "running", "left"),
        [
            (False, False, {"own", "server"}),
            (False, True, {"own", "server"}),
            (True, False, set()),
            (True, True, {"server"}),
        ],
    )
    async def test_tokens(
        self, hub: SmallHub, revoke: bool, running: bool, left: set[str], monkeypatch: Any
    ) -> None:
        """Those of browsers always; all others if asked; a running server's goes with the server."""
        user = hub.add("alice")
        self.tokens(hub, user)
        monkeypatch.setattr(
            type(user), "spawners", {"": type("S", (), {"active": running})()}, raising=False
        )
        user.__dict__.pop("spawners", None)
        cookie = user.cookie_id
        await end_sessions(
            hub.request(user), user, revoke_tokens=revoke, stop_servers=False, why="test"
        )
        assert self.left(hub) == left
        assert user.cookie_id != cookie
        assert hub.db.query(orm.OAuthCode).count() == 0

    async def test_all_servers(self, hub: SmallHub, monkeypatch: Any) -> None:
        """Named ones and one that is starting as well; one that will not end keeps no other."""
        user = hub.add("alice")

        class Server:
            def __init__(self, pending: str | None = None, future: Any = None) -> None:
                self.active, self.pending, self._spawn_future = True, pending, future
                self._log_name = "alice:x"

        async def for_ever() -> None:
            await asyncio.Event().wait()

        starting = asyncio.ensure_future(for_ever())
        servers = {"": Server(), "lab": Server(), "starting": Server("spawn", starting),
                   "stopping": Server("stop")}  # fmt: skip
        user.__dict__["spawners"] = servers
        request = hub.request(user)

        async def stop(_: Any, name: str) -> None:
            request.stopped.append(name)
            if name == "lab":
                raise RuntimeError("will not")

        request.stop_single_user = stop  # type: ignore[method-assign]
        await end_sessions(request, user, revoke_tokens=True, stop_servers=True, why="test")
        assert set(request.stopped) == {"", "lab", "starting"}
        assert starting.cancelled()
