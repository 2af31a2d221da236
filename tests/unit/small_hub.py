"""As much of a hub as it takes to have people in it: its database, its `User`, a request."""

from __future__ import annotations

import logging
from typing import Any

from jupyterhub import crypto, orm
from jupyterhub.roles import assign_default_roles, create_role, get_default_roles
from jupyterhub.user import User
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool
from traitlets.config import Config, Configurable

from qhub_auth.authenticator import KeycloakAuthenticator
from qhub_auth.identities import Identities
from tests.unit.scripted_keycloak import ScriptedKeycloak

LOG = logging.getLogger("small-hub")


class Parent(Configurable):
    """What the authenticator sees of the hub."""

    load_roles: tuple[Any, ...] = ()
    db: Any = None


class Request:
    """A request's handler, as far as the authenticator looks at it."""

    def __init__(self, hub: SmallHub, user: Any, *, token: bool = False) -> None:
        self.hub = hub
        self.db, self.authenticator, self.log = hub.db, hub.authenticator, LOG
        self.settings: dict[str, Any] = {}
        self._jupyterhub_user = user
        self._token_authenticated = token
        self.stopped: list[str] = []

    def find_user(self, name: str) -> Any:
        return next((user for user in self.hub.people if user.name == name), None)

    async def stop_single_user(self, user: Any, name: str = "") -> None:
        self.stopped.append(name)


class SmallHub:
    """People and an authenticator, with a scripted Keycloak behind it."""

    def __init__(self, keycloak: ScriptedKeycloak, folder: Any, **settings: Any) -> None:
        engine = create_engine("sqlite://", poolclass=StaticPool)
        orm.Base.metadata.create_all(engine)
        self.db = Session(engine)
        for role in get_default_roles():
            create_role(self.db, role)
        orm_client = orm.OAuthClient(identifier="jupyterhub", secret="")
        self.db.add(orm_client)
        self.db.commit()
        self.keycloak = keycloak
        self.people: list[Any] = []
        config = Config(
            {
                "KeycloakAuthenticator": {"allowed_groups": {"/physics"}, **settings},
                "Identities": {
                    "database_url": f"sqlite:///{folder}/identity.sqlite",
                    "host_accounts": "ignore",
                },
            }
        )
        self.authenticator = KeycloakAuthenticator(
            config=config,
            keycloak=keycloak.settings(),
            identities=Identities(config=config),
        )
        self.authenticator.parent = Parent()
        self.authenticator.parent.db = self.db
        self.settings = {
            "authenticator": self.authenticator,
            "config_role_names": [],
            "base_url": "/",
        }

    def add(self, name: str) -> Any:
        user = orm.User(name=name)
        self.db.add(user)
        self.db.commit()
        assign_default_roles(self.db, entity=user)
        self.people.append(User(user, self.settings))
        return self.people[-1]

    async def logged_in(self, name: str = "alice", **tokens: Any) -> Any:
        """Somebody who has logged in."""
        user = self.add(name)
        facts, kept = await self.authenticator.facts_of_tokens(
            {**self.keycloak.tokens(), **tokens}, nonce=None
        )
        model = await self.authenticator.auth_model_of(facts, tokens=kept)
        await user.save_auth_state(model["auth_state"])
        user.sync_groups(model["groups"])
        user.admin = model["admin"]
        assign_default_roles(self.db, entity=user)
        self.keycloak.asked.clear()
        return user

    def request(self, user: Any, *, token: bool = False, by: Any = None) -> Request:
        return Request(self, by or user, token=token)

    def close(self) -> None:
        self.authenticator.identities.store.close()
        self.db.close()
        self.db.get_bind().dispose()


def with_crypt_key(monkeypatch: Any) -> None:
    """Let the hub encrypt."""
    keeper = crypto.CryptKeeper.instance()
    monkeypatch.setattr(keeper, "n_threads", 1)
    keeper.keys = [b"k" * 32]
