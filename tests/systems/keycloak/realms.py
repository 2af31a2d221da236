"""A realm of a test's own: what it needs to know of it, and logging in to it."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx

from qhub_auth.realm import PersonModel, RealmModel

from . import pages
from .realm_admin import RealmAdmin

if TYPE_CHECKING:
    from .system import KeycloakSystem

TIMEOUT_SECONDS = 60


class Realm:
    """One realm.

    Attributes:
        name: Its name.
        model: What it was made of, if it was made of a model.
        representation: What was sent to Keycloak.
    """

    def __init__(
        self,
        system: KeycloakSystem,
        name: str,
        representation: Mapping[str, Any],
        model: RealmModel | None,
    ) -> None:
        self.name = name
        self.model = model
        self.representation = representation
        self._system = system

    # ---- what a hub is configured by

    @property
    def issuer(self) -> str:
        """Its address, as it stands in tokens."""
        return f"{self._system.url}/realms/{self.name}"

    @property
    def client_id(self) -> str:
        """The hub's client."""
        return self.model.hub.client_id if self.model else "jupyterhub"

    @property
    def client_secret(self) -> str:
        """The hub's secret."""
        return self.secret_of(self.client_id)

    @property
    def service_client_id(self) -> str:
        """The client with the service account."""
        service = self.model.service if self.model else None
        return service.client_id if service else self.client_id

    @property
    def service_secret(self) -> str:
        """The service account's secret."""
        return self.secret_of(self.service_client_id)

    @property
    def forward_auth_client_id(self) -> str:
        """Forward-auth's client."""
        client = self.model.forward_auth if self.model else None
        return client.client_id if client else "qhub-forward-auth"

    @property
    def forward_auth_secret(self) -> str:
        """Forward-auth's secret."""
        return self.secret_of(self.forward_auth_client_id)

    def secret_of(self, client_id: str) -> str:
        """A client's secret.

        Raises:
            KeyError: There is no such client with a secret.
        """
        for client in self.representation.get("clients", ()):
            if client["clientId"] == client_id and "secret" in client:
                return str(client["secret"])
        raise KeyError(client_id)

    @property
    def hub_url(self) -> str:
        """The hub's address, as Keycloak knows it."""
        return self.model.hub.base if self.model else ""

    @property
    def people(self) -> dict[str, PersonModel]:
        """The people it began with, by name."""
        return {person.name: person for person in self.model.people} if self.model else {}

    def password_of(self, name: str) -> str:
        """The password of one of them.

        Raises:
            KeyError: They have none, or there is no such person.
        """
        password = self.people[name].password
        if password is None:
            raise KeyError(name)
        return password

    @cached_property
    def admin(self) -> RealmAdmin:
        """What an administrator does to it."""
        return RealmAdmin(self._system.admin, self.name, self.client_id)

    def set_hub_url(self, url: str, *, back_channel_url: str | None = None) -> None:
        """Say where the hub is, once its port is known.

        Args:
            url: As people reach it, with its base URL if it has one.
            back_channel_url: Where Keycloak tells it of log-outs, if that is elsewhere.
        """
        if self.model is None:
            message = "this realm was not made of a model"
            raise RuntimeError(message)
        values = self.model.model_dump()
        values["hub"] |= {"url": url, "back_channel_logout_url": back_channel_url}
        self.model = RealmModel.model_validate(values)
        self.admin.update_hub(self.model)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        self._system.admin.delete(f"/admin/realms/{self.name}")

    # ---- logging in

    def log_in(
        self,
        client: httpx.Client,
        start_url: str,
        user: str,
        password: str | None = None,
        *,
        until: str | None = None,
    ) -> httpx.Response:
        """Log in through the real pages; see `pages.log_in`. The password may be left out."""
        password = password or self.password_of(user)
        return pages.log_in(client, start_url, user, password, until=until)

    async def log_in_async(
        self,
        client: httpx.AsyncClient,
        start_url: str,
        user: str,
        password: str | None = None,
        *,
        until: str | None = None,
    ) -> httpx.Response:
        """As `log_in`, for a client of asyncio's."""
        password = password or self.password_of(user)
        return await pages.log_in_async(client, start_url, user, password, until=until)

    def authorization_url(self, redirect_uri: str, **more: str) -> str:
        """Where a client sends people to log in."""
        query = {
            "client_id": self.client_id,
            "response_type": "code",
            "scope": "openid",
            "redirect_uri": redirect_uri,
            **more,
        }
        return f"{self.issuer}/protocol/openid-connect/auth?{urlencode(query)}"

    def tokens(
        self,
        user: str,
        password: str | None = None,
        *,
        nonce: str = "",
        client: httpx.Client | None = None,
    ) -> dict[str, Any]:
        """The answer of the token endpoint when somebody has logged in to the hub; no hub needed.

        Args:
            user: Who.
            password: Theirs; known for the people the realm began with.
            nonce: For the id token.
            client: Has the cookies; one of its own by default.

        Raises:
            PageError: They are not let in.
        """
        with httpx.Client(timeout=TIMEOUT_SECONDS) as own:
            used = client or own
            redirect_uri, verifier = self._redirect_uri, secrets.token_urlsafe(48)
            more = {"code_challenge": challenge(verifier), "code_challenge_method": "S256"}
            if nonce:
                more["nonce"] = nonce
            start = self.authorization_url(redirect_uri, **more)
            answer = self.log_in(used, start, user, password, until=redirect_uri)
            return self.redeem(answer, verifier, used)

    @property
    def _redirect_uri(self) -> str:
        for client in self.representation.get("clients", ()):
            if client["clientId"] == self.client_id and self.model is None:
                return str(client["redirectUris"][0])
        assert self.model is not None
        return (*self.model.hub.redirect_uris, f"{self.hub_url}/hub/oauth_callback")[0]

    def redeem(self, answer: httpx.Response, verifier: str, client: httpx.Client) -> dict[str, Any]:
        """Exchange the code in the redirect that ended a log-in for tokens."""
        if not answer.has_redirect_location:
            raise pages.PageError(f"not back at the hub: {pages.said(answer.text)}")
        query = parse_qs(urlsplit(answer.headers["Location"]).query)
        if "code" not in query:
            raise pages.PageError(f"Keycloak sends back without a code: {query}")
        form = {
            "grant_type": "authorization_code",
            "code": query["code"][0],
            "redirect_uri": self._redirect_uri,
            "code_verifier": verifier,
        }
        return self._token(client, form)

    def refreshed(self, refresh_token: str) -> dict[str, Any]:
        """New tokens for a refresh token.

        Raises:
            PageError: Keycloak refuses; with its words.
        """
        with httpx.Client(timeout=TIMEOUT_SECONDS) as client:
            form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
            return self._token(client, form)

    def service_token(self) -> str:
        """An access token of the service account."""
        with httpx.Client(timeout=TIMEOUT_SECONDS) as client:
            form = {"grant_type": "client_credentials"}
            credentials = (self.service_client_id, self.service_secret)
            return str(self._token(client, form, credentials)["access_token"])

    def _token(
        self,
        client: httpx.Client,
        form: dict[str, str],
        credentials: tuple[str, str] | None = None,
    ) -> dict[str, Any]:
        answer = client.post(
            f"{self.issuer}/protocol/openid-connect/token",
            data=form,
            auth=credentials or (self.client_id, self.client_secret),
        )
        if answer.status_code != 200:
            raise pages.PageError(f"no tokens: {answer.status_code} {answer.text[:500]}")
        tokens: dict[str, Any] = answer.json()
        return tokens


def challenge(verifier: str) -> str:
    """The challenge of a verifier (RFC 7636, S256)."""
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def claims(token: str) -> dict[str, Any]:
    """What stands in a token, unverified."""
    payload = token.split(".")[1]
    found: dict[str, Any] = json.loads(
        base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    )
    return found
