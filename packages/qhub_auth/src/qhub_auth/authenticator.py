"""`KeycloakAuthenticator`: the plugin that JupyterHub loads. Traits, validation, delegation."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode
from weakref import WeakValueDictionary

from jupyterhub import crypto
from jupyterhub.utils import maybe_future, url_path_join
from oauthenticator.generic import GenericOAuthenticator
from oauthenticator.oauth2 import OAuthenticator
from tornado.web import HTTPError
from traitlets import Any as AnyTrait
from traitlets import (
    Bool,
    Callable,
    Float,
    Instance,
    Integer,
    List,
    Set,
    TraitError,
    Unicode,
    Union,
    default,
    validate,
)

from qhub_auth.directory import Directory, Group, PersonFacts
from qhub_auth.errors import (
    ConfigurationError,
    FoldersError,
    IdentityError,
    IdentityUnavailableError,
    TokenError,
    shown,
)
from qhub_auth.homes.ensuring import Folders
from qhub_auth.homes.preparing import make_folders
from qhub_auth.identity import KEY, Identity
from qhub_auth.keycloak.admin import KeycloakAdmin
from qhub_auth.keycloak.keeping import DirectoryKeeper
from qhub_auth.keycloak.oidc import OpenIDProvider
from qhub_auth.keycloak.settings import Keycloak
from qhub_auth.keycloak.snapshot import UNUSABLE_GROUP
from qhub_auth.keycloak.token_reading import TokenReader
from qhub_auth.login.admission import Admission, kept_folders, same_roles
from qhub_auth.login.handlers import CallbackHandler, LoginStartHandler
from qhub_auth.login.logout import BackChannelLogoutHandler, SingleLogoutHandler
from qhub_auth.login.refreshing import Refresher
from qhub_auth.numbers.identities import Identities
from qhub_auth.paths import split, usable
from qhub_auth.sync.handlers import ROUTES as SYNC_ROUTES

__all__ = ["KeycloakAuthenticator"]

# Settings of OAuthenticator that say what discovery says, or would turn a check off.
_WITHOUT_EFFECT = (
    "authorize_url",
    "token_url",
    "userdata_url",
    "userdata_from_id_token",
    "userdata_params",
    "http_request_kwargs",
)


class KeycloakAuthenticator(GenericOAuthenticator):  # type: ignore[misc]  # oauthenticator has no types
    """Log-in by Keycloak, with groups, roles, numbers and folders from there.

    Where Keycloak is stands in ``c.Keycloak``. What OAuthenticator's ``GenericOAuthenticator`` has
    works as well, except for addresses, which Keycloak names itself.
    """

    login_handler = LoginStartHandler
    callback_handler = CallbackHandler
    logout_handler = SingleLogoutHandler

    keycloak = Instance(Keycloak, help="Where Keycloak is, and the hub's client there.")
    identities = Instance(Identities, help="Numbers and homes of people.")

    login_service = Unicode(
        "Keycloak",
        config=True,
        help="""
        What the button on the log-in page names: "Sign in with …". Default: Keycloak.
        """,
    )
    username_claim = Union(
        [Unicode(), Callable()],
        default_value="preferred_username",
        config=True,
        help="""
        The claim of the id token that people are called by, or a callable that gets all claims and
        returns it. It is written in lower case, `username_map` is applied, and the result has to
        match `username_pattern`. Default: ``preferred_username``, Keycloak's user name.
        """,
    )
    username_pattern = Unicode(
        r"^[a-z_][a-z0-9_.@-]{0,31}\Z",
        config=True,
        help=r"""
        What a name has to look like, as a regular expression; who is called otherwise is not let
        in. Default: what an account of Linux may be called, ``^[a-z_][a-z0-9_.@-]{0,31}\Z``.
        """,
    )
    scope = List(
        Unicode(),
        default_value=["openid"],
        config=True,
        help="""
        The scopes asked for at log-in; ``openid`` is always one. Default: ``["openid"]``, since the
        client's own scopes in Keycloak come with it.
        """,
    )
    enable_auth_state = Bool(
        True,
        config=True,
        help="""
        Whether what was learnt at log-in is kept, encrypted, in the hub's database: tokens, numbers
        and folders. Refreshing and one log-out need it. Default: yes; it takes the environment
        variable ``JUPYTERHUB_CRYPT_KEY``.
        """,
    )
    manage_groups = Bool(
        True,
        config=True,
        help="""
        Whether the groups in Keycloak are the groups in the hub, by full path and with the groups
        above them. Default: yes.
        """,
    )
    manage_roles = Bool(
        True,
        config=True,
        help="""
        Whether roles of the client in Keycloak that have an attribute ``scopes`` become roles of
        the hub. Default: yes. JupyterHub then takes no users or groups in ``load_roles``.
        """,
    )
    auth_refresh_strict = Bool(
        True,
        config=True,
        help="""
        Whether requests by API token, and those of others for a person, fail once that person may
        not come in any more. Whose session in Keycloak is merely over keeps tokens and servers, so
        unlike JupyterHub, where it is off, the default is yes.
        """,
    )
    roles_claim = Unicode(
        "roles",
        config=True,
        help="""
        The claim of the id token that lists a person's roles of the hub's client, with dots for
        what is deeper. Where it is missing ``resource_access.<client>.roles`` counts, in the id
        token or in the access token, where Keycloak puts it as it comes. Default: ``roles``.
        """,
    )
    allowed_roles = Set(
        Unicode(),
        config=True,
        help="""
        Roles of the hub's client in Keycloak whose people may come in. Default: none.

        Example: ``c.KeycloakAuthenticator.allowed_roles = {"jupyterhub_user"}``
        """,
    )
    admin_roles = Set(
        Unicode(),
        config=True,
        help="""
        Roles of the hub's client in Keycloak whose people administer the hub. Default: none.
        """,
    )
    blocked_groups = Set(
        Unicode(),
        config=True,
        help="""
        Groups, by full path, whose members may not come in, whatever else allows them; those of
        groups below them neither. Default: none.

        Example: ``c.KeycloakAuthenticator.blocked_groups = {"/suspended"}``
        """,
    )
    blocked_roles = Set(
        Unicode(),
        config=True,
        help="""
        Roles of the hub's client in Keycloak whose people may not come in, whatever else allows
        them. Default: none.
        """,
    )
    login_seconds = Integer(
        900,
        min=30,
        max=24 * 3600,
        config=True,
        help="""
        How long somebody may take at Keycloak's page until they are back, in seconds. Default: 15
        minutes, for a second factor, a new password and a coffee; Keycloak's own limit is 30.
        """,
    )
    refresh_timeout_seconds = Float(
        3.0,
        min=0.1,
        max=60.0,
        config=True,
        help="""
        How long Keycloak may take, in seconds, while somebody waits for a page and is merely asked
        about again. If it takes longer, what is known stays. Default: 3.
        """,
    )
    directory_seconds = Float(
        60.0,
        min=1.0,
        max=24 * 3600.0,
        config=True,
        help="""
        After how long groups and roles are read from Keycloak again, in seconds, if somebody logs
        in; ``qhub-group-sync`` tells the hub of changes at once. Default: 60.
        """,
    )
    stop_servers_on_lost_share = Bool(
        False,
        config=True,
        help="""
        Whether ``qhub-group-sync`` stops somebody's servers when a shared folder is theirs no more,
        or theirs to read only. A running server keeps the groups it was started with, so without
        this they can go on using the folder until it ends. Default: no, so that no work is lost.
        """,
    )
    post_logout_redirect_url = Unicode(
        config=True,
        help="""
        Where Keycloak sends people once they are logged out, an address that its client must list
        under "Valid post logout redirect URIs". Default: the hub's own page ``/hub/logout``.
        """,
    )

    folders = Instance(Folders, help="Homes and shared folders.")
    refresher = AnyTrait(help="Asks Keycloak again about people.")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._told: set[str] = set()
        self._remembering: set[asyncio.Task[None]] = set()
        self.disguised: frozenset[str] = frozenset()
        self.provider = OpenIDProvider(self.keycloak, self.log)
        self.provider.basic_auth = self.basic_auth
        self.provider.extra = {str(k): str(v) for k, v in self.token_params.items()}
        self._reader = TokenReader(self)
        self._admission = Admission(self)
        self.admin_api = KeycloakAdmin(self.keycloak)
        self.directory_keeper = DirectoryKeeper(
            self._read_directory,
            fresh_seconds=self.directory_seconds,
            wait_seconds=self.keycloak.timeout_seconds,
            log=self.log,
        )

    # ---- settings ----

    @default("keycloak")
    def _keycloak_default(self) -> Keycloak:
        keycloak = Keycloak(parent=self)
        # where GenericOAuthenticator has them; what c.Keycloak says goes first
        keycloak.client_id = keycloak.client_id or self.client_id
        keycloak.client_secret = keycloak.client_secret or self.client_secret
        return keycloak

    @default("identities")
    def _identities_default(self) -> Identities:
        return Identities(parent=self)

    @default("username_regex")
    def _username_regex_default(self) -> re.Pattern[str]:
        # the hub compiles a pattern that is set, and would not look at this class's own
        return re.compile(self.username_pattern)

    @default("folders")
    def _folders_default(self) -> Folders:
        return Folders(parent=self)

    @default("refresher")
    def _refresher_default(self) -> Refresher:
        return Refresher(self)

    @validate("allowed_groups", "admin_groups", "blocked_groups")
    def _full_paths(self, proposal: Any) -> Any:
        for path in proposal["value"]:
            setting = f"c.{type(self).__name__}.{proposal['trait'].name}"
            try:
                split(path)
            except ValueError as error:
                raise TraitError(f"{setting}: {shown(path)}: {error}") from error
            if not usable(path):
                raise TraitError(
                    f"{setting}: {shown(path)}: {UNUSABLE_GROUP}; such a group counts for nothing: "
                    "rename it in Keycloak"
                )
        return proposal["value"]

    @validate("scope")
    def _with_openid(self, proposal: Any) -> Any:
        scope: list[str] = proposal["value"]
        return scope if "openid" in scope else ["openid", *scope]

    @validate("username_pattern")
    def _usable_pattern(self, proposal: Any) -> Any:
        try:
            re.compile(proposal["value"])
        except re.error as error:
            raise TraitError(
                f"c.{type(self).__name__}.username_pattern: it is not a regular expression: {error}"
            ) from error
        return proposal["value"]

    def check_settings(self) -> None:
        """See that what is configured can work; called when the hub starts.

        Raises:
            ConfigurationError: It cannot; the message names the setting.
        """
        name = type(self).__name__
        self.keycloak.check()
        # its address and the other settings of numbers; nothing is opened, for it may be down
        _ = self.identities.store
        if not self.validate_server_cert:
            raise ConfigurationError(
                f"c.{name}.validate_server_cert: the check cannot be turned off; name the "
                "certificates to trust in c.Keycloak.ca_file"
            )
        if not self.enable_pkce:
            raise ConfigurationError(f"c.{name}.enable_pkce: it cannot be turned off")
        if self.enable_auth_state:
            try:
                crypto.CryptKeeper.instance().check_available()
            except crypto.EncryptionUnavailable as error:
                raise ConfigurationError(
                    f"c.{name}.enable_auth_state needs a key to encrypt by: set the environment "
                    "variable JUPYTERHUB_CRYPT_KEY of the hub to what `openssl rand -hex 32` "
                    "prints, and keep it"
                ) from error
        if self.logout_redirect_url.startswith(self.keycloak.issuer):
            self.log.warning(
                "c.%s.logout_redirect_url has no effect: logging out of Keycloak is part of "
                "logging out; it may say where people end up afterwards",
                name,
            )
            self.set_trait("logout_redirect_url", "")
        for setting in _WITHOUT_EFFECT:
            if getattr(self, setting):
                self.log.warning(
                    "c.%s.%s has no effect: Keycloak says itself where things are, and how it is "
                    "called is set in c.Keycloak",
                    name,
                    setting,
                )

    def get_handlers(self, app: Any) -> list[tuple[str, type]]:  # noqa: ARG002 - as the hub calls it
        """Return the pages of log-in and log-out, and what the sync service talks to."""
        return [
            (r"/oauth_login", self.login_handler),
            (r"/oauth_callback", self.callback_handler),
            (r"/logout", self.logout_handler),
            (r"/qhub/backchannel-logout", BackChannelLogoutHandler),
            *SYNC_ROUTES,
        ]

    async def load_managed_roles(self) -> list[dict[str, Any]]:
        """Check the settings as well: nothing else is called as early when the hub starts."""
        self._check_or_exit()
        roles: list[dict[str, Any]] = await super().load_managed_roles()
        return roles

    def check_allow_config(self) -> None:
        """Check the settings; JupyterHub calls this when it starts."""
        self._check_or_exit()
        super().check_allow_config()

    def _check_or_exit(self) -> None:
        try:
            self.check_settings()
        except ConfigurationError as error:
            self.log.critical("The hub cannot start: %s", error)
            raise SystemExit(1) from error

    # ---- log-in ----

    async def authenticate(
        self,
        handler: Any,
        data: Any = None,  # noqa: ARG002 - as the hub calls it
        **_: Any,
    ) -> dict[str, Any]:
        """Return the hub's model of whoever comes back from Keycloak.

        Args:
            handler: Of the callback, which has looked at the log-in's state already.
            data: Not used.

        Raises:
            RefusedError: They may not come in.
            TokenError: What Keycloak sent cannot be trusted.
            KeycloakError: Keycloak refused, or did not answer.
        """
        attempt = handler.attempt
        tokens = await self.provider.exchange(
            handler.get_argument("code"),
            redirect_uri=attempt.redirect_uri,
            verifier=attempt.verifier,
        )
        handler.facts, kept = await self.facts_of_tokens(tokens, nonce=attempt.nonce)
        return await self.auth_model_of(handler.facts, tokens=kept)

    async def facts_of_tokens(
        self, tokens: dict[str, Any], *, nonce: str | None, sub: str | None = None
    ) -> tuple[PersonFacts, dict[str, Any]]:
        """Return what tokens say of a person, and what is kept of them; see `TokenReader.read`."""
        return await self._reader.read(tokens, nonce=nonce, sub=sub)

    def user_info_to_username(self, user_info: Mapping[str, Any]) -> str:
        """Return what somebody is called by, as the token has it.

        Raises:
            TokenError: The token does not say.
        """
        claim = self.username_claim
        name = claim(user_info) if callable(claim) else user_info.get(claim)
        if not isinstance(name, str) or not name:
            what = (
                "what c.KeycloakAuthenticator.username_claim returns" if callable(claim) else claim
            )
            raise TokenError(f"the token does not say what the person is called: no {what}")
        return name

    # ---- who somebody is, from log-in and sync alike ----

    async def auth_model_of(
        self,
        facts: PersonFacts,
        *,
        tokens: Mapping[str, Any] | None,
        identity: Identity | IdentityError | None = None,
    ) -> dict[str, Any]:
        """Return the hub's model of a person: name, admin, groups, roles and what is kept of them.

        Args:
            facts: What Keycloak says.
            tokens: What is kept of a log-in or refresh; `None` for what the service account said,
                and then ``auth_state`` holds only what is new.
            identity: Their numbers, or why there are none, if many people's were asked for at once
                (`Identities.resolve_all`, with the names by :meth:`name_of`).

        Raises:
            RefusedError: They may not come in.
            IdentityError: No numbers can be had, which is nobody's fault who logs in.
        """
        return await self._admission.model_of(facts, tokens, identity)

    async def name_of(self, facts: PersonFacts, *, by_token: bool) -> str:
        """Return what a person is called at the hub.

        Args:
            facts: What Keycloak says.
            by_token: Whether that is what a token said, and not the service account.

        Raises:
            RefusedError: They cannot be called so.
        """
        return await self._admission.name_of(facts, by_token=by_token)

    async def settle(self, model: dict[str, Any], facts: PersonFacts, handler: Any) -> None:
        """Compare somebody's model with what is known of them, before it is saved.

        They keep the folders they had if nobody can say which there are; and roles that are as
        they were are not written again, which is half of the hub's work at a log-in.

        Args:
            model: As :meth:`auth_model_of` made it; changed in place.
            facts: What Keycloak says of them.
            handler: Of the request.
        """
        if self.directory_keeper.known is None:
            known = handler.find_user(model["name"])
            state = (await known.get_auth_state() if known is not None else None) or {}
            new = model["auth_state"][KEY]
            model["auth_state"][KEY] = kept_folders(new, state.get(KEY), facts.all_groups)
        if model.get("roles") is not None and same_roles(handler.db, model):
            model["roles"] = None

    def tell_once(self, message: str) -> None:
        """Warn of what would otherwise be warned of at each log-in."""
        if message not in self._told:
            self._told.add(message)
            self.log.warning("%s", message)

    async def check_allowed(self, username: str, auth_model: Any) -> bool:  # noqa: ARG002 - as the hub calls it
        """Let in whoever has a model: `auth_model_of` makes none for others."""
        return True

    async def _read_directory(self) -> Directory:
        """Read groups and the client's roles: two calls and one, however many there are.

        Which roles a person has by way of others, their tokens say.
        """
        groups, roles = await asyncio.gather(self.admin_api.groups(), self.admin_api.client_roles())
        self.disguised = frozenset(each.path for each in groups.values() if each.disguised)
        for path in sorted(self.disguised):
            self.tell_once(
                f"A group is called {shown(path)} that has a slash in its name, and looks like one "
                "further down: nobody is in either, as far as the hub goes. Rename it, or start "
                "Keycloak with --spi-group--jpa--escape-slashes-in-group-path=true"
            )
        for each in groups.values():
            if not usable(each.path):
                self.tell_once(
                    f"The group {shown(each.path)} counts for nothing: {UNUSABLE_GROUP}. Rename it"
                )
        return Directory(
            groups={
                each.path: Group(id=each.id, path=each.path, attributes=each.attributes)
                for each in groups.values()
                if each.path not in self.disguised and usable(each.path)
            },
            roles=roles,
        )

    # ---- afterwards ----

    @asynccontextmanager
    async def saving(self, name: str) -> AsyncIterator[None]:
        """Take one's turn in changing what is kept of a person, so that nothing newer is lost."""
        turn = self._turns.get(name)
        if turn is None:
            turn = self._turns[name] = asyncio.Lock()
        async with turn:
            yield

    def remember_session(self, model: Mapping[str, Any]) -> None:
        """Keep whose session in Keycloak it is, so that Keycloak may end it by its number alone.

        Nobody waits for it: as a rule Keycloak names the person as well.
        """
        claims = (model.get("auth_state") or {}).get(self.user_auth_state_key) or {}
        sid, sub = claims.get("sid"), claims.get("sub")
        if isinstance(sid, str) and isinstance(sub, str):
            task = asyncio.create_task(self._remember(sid, sub, model["name"]))
            self._remembering.add(task)
            task.add_done_callback(self._remembering.discard)

    async def _remember(self, sid: str, sub: str, name: str) -> None:
        try:
            await asyncio.to_thread(self.identities.store.remember_session, sid, sub, name)
        except IdentityError as error:
            self.log.warning("The session of %s is not remembered: %s", name, error)

    async def refresh_user(self, user: Any, handler: Any = None, **_: Any) -> Any:
        """Return whether somebody may go on, after asking Keycloak; see :mod:`refreshing`."""
        if not self.enable_auth_state:
            return True
        if self.refresh_user_hook is not None:
            refreshed = await self._call_refresh_user_hook(user, await user.get_auth_state())
            if refreshed is not None:
                return refreshed
        return await self.refresher.refresh(user, handler)

    def get_callback_url(self, handler: Any = None) -> str:
        """Return where Keycloak sends people back to."""
        public = handler.settings.get("public_url") if handler is not None else None
        if not self.oauth_callback_url and public:
            base = handler.hub.base_url
            return str(url_path_join(f"{public.scheme}://{public.netloc}", base, "oauth_callback"))
        return str(OAuthenticator.get_callback_url(self, handler))

    async def keycloak_logout_url(self, handler: Any, *, hint: str = "") -> str:
        """Return the address of Keycloak's log-out page; empty if there is none.

        Args:
            handler: Of the request.
            hint: The id token of whoever logs out; without it Keycloak asks them first.

        Raises:
            KeycloakUnavailableError: Keycloak never said where it is.
        """
        page = (await self.provider.endpoints()).end_session
        if not page:
            return ""
        after = self.post_logout_redirect_url
        if not after:
            origin = "/".join(self.get_callback_url(handler).split("/")[:3])
            after = f"{origin}{url_path_join(handler.hub.base_url, 'logout')}"
        parameters = {"client_id": self.keycloak.client_id, "post_logout_redirect_uri": after}
        if hint:
            parameters["id_token_hint"] = hint
        return f"{page}{'&' if '?' in page else '?'}{urlencode(parameters)}"

    async def pre_spawn_start(self, user: Any, spawner: Any) -> None:
        """Make the home and the shared folders of whoever starts a server.

        Raises:
            HTTPError: There is no home for them.
        """
        try:
            await make_folders(self, user.name, await user.get_auth_state())
        except (FoldersError, IdentityUnavailableError) as error:
            raise HTTPError(
                503,
                f"No home for {user.name}: {error}",
                reason="Your home folder could not be made. Please tell the administrators.",
            ) from error
        await maybe_future(super().pre_spawn_start(user, spawner))
