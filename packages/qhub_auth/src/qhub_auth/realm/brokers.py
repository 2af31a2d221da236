"""Other identity providers that Keycloak hands log-in on to. Pure.

The hub always speaks to Keycloak alone. What a provider says of a person reaches the hub only
through the mappers here: by default a name, an address for mail and nothing else, no group.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Field

from qhub_auth.realm.fields import GroupPath, Json, Model, Name, Secret, Url

__all__ = [
    "Auth0Broker",
    "Broker",
    "ClaimGroup",
    "GitHubBroker",
    "KeycloakBroker",
    "OidcBroker",
    "mappers_of",
    "provider_of",
]

Alias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64)]
Domain = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+$", max_length=253)]


class ClaimGroup(Model):
    """A group that people are in for as long as the provider says so in a claim."""

    claim: Name
    """The claim's name at the provider, e.g. ``groups``."""
    value: Name
    """What has to stand in it (among others, when it is a list)."""
    group: GroupPath
    """The group here."""


class _Broker(Model):
    alias: Alias
    """Its name in addresses: the provider is told the redirect URI
    ``KEYCLOAK/realms/REALM/broker/ALIAS/endpoint``."""
    display_name: Name | None = None
    """What its button says."""
    client_id: Name
    """Keycloak's identifier at the provider."""
    client_secret: Secret
    """Keycloak's secret at the provider, or a reference to it."""
    trust_email: bool = False
    """Whether an address that the provider names counts as verified."""
    store_token: bool = False
    """Whether Keycloak keeps the provider's tokens."""
    groups: tuple[GroupPath, ...] = ()
    """Groups that everybody who comes this way is put in."""

    def settings(self) -> dict[str, str]:
        """What is particular to the provider."""
        raise NotImplementedError

    @property
    def provider(self) -> str:
        """Keycloak's name for the kind of provider."""
        return "oidc"


class _ClaimsBroker(_Broker):
    scopes: tuple[Name, ...] = ("openid", "profile", "email")
    """What is asked of the provider."""
    claim_groups: tuple[ClaimGroup, ...] = ()
    """Groups that follow from claims, at each log-in anew."""
    attributes: Annotated[dict[Name, Name], Field(default_factory=dict)]
    """Attributes here by the claim they are filled from, at each log-in anew. A provider that may
    fill ``uidNumber`` decides whose files a person can read."""


class OidcBroker(_ClaimsBroker):
    """Any provider of OpenID Connect; the addresses stand in its discovery document."""

    kind: Literal["oidc"] = "oidc"
    issuer: Url
    authorization_url: Url
    token_url: Url
    jwks_url: Url
    userinfo_url: Url | None = None
    logout_url: Url | None = None

    def settings(self) -> dict[str, str]:
        """Its addresses; signatures are always checked."""
        addresses = (self.authorization_url, self.token_url, self.jwks_url)
        return _oidc(self, self.issuer, *addresses, self.userinfo_url, self.logout_url)


class KeycloakBroker(_ClaimsBroker):
    """A realm of this or another Keycloak."""

    kind: Literal["keycloak"] = "keycloak"
    issuer: Url
    """The realm's address, e.g. ``https://login.example.org/realms/people``."""

    @property
    def provider(self) -> str:
        """Keycloak's name for the kind of provider."""
        return "keycloak-oidc"

    def settings(self) -> dict[str, str]:
        """Its addresses, which follow from the issuer."""
        base = f"{self.issuer}/protocol/openid-connect"
        addresses = (f"{base}/{each}" for each in ("auth", "token", "certs", "userinfo", "logout"))
        return _oidc(self, self.issuer, *addresses)


class Auth0Broker(_ClaimsBroker):
    """A tenant of Auth0."""

    kind: Literal["auth0"] = "auth0"
    domain: Domain
    """The tenant's, e.g. ``example.eu.auth0.com``, or its custom domain."""

    def settings(self) -> dict[str, str]:
        """Its addresses, which follow from the domain."""
        base = f"https://{self.domain}"
        return _oidc(
            self, f"{base}/", f"{base}/authorize", f"{base}/oauth/token",
            f"{base}/.well-known/jwks.json", f"{base}/userinfo", f"{base}/oidc/logout",
        )  # fmt: skip


class GitHubBroker(_Broker):
    """GitHub, or a GitHub Enterprise Server.

    Everybody with an account there can log in to the realm: rules of the hub (groups that
    administrators fill) decide who gets further.
    """

    kind: Literal["github"] = "github"
    server: Url | None = None
    """Address of a GitHub Enterprise Server; GitHub itself by default."""

    @property
    def provider(self) -> str:
        """Keycloak's name for the kind of provider."""
        return "github"

    def settings(self) -> dict[str, str]:
        """What it is asked for; GitHub's groups are not among it."""
        settings = {"defaultScope": "user:email"}
        if self.server:
            base = self.server.rstrip("/")
            settings |= {"baseUrl": base, "apiUrl": f"{base}/api/v3"}
        return settings


Broker = Annotated[
    OidcBroker | KeycloakBroker | Auth0Broker | GitHubBroker, Field(discriminator="kind")
]


def _oidc(
    broker: _ClaimsBroker,
    issuer: str,
    authorization: str,
    token: str,
    keys: str,
    userinfo: str | None = None,
    logout: str | None = None,
) -> dict[str, str]:
    settings = {
        "issuer": issuer,
        "authorizationUrl": authorization,
        "tokenUrl": token,
        "jwksUrl": keys,
        "useJwksUrl": "true",
        "validateSignature": "true",
        "clientAuthMethod": "client_secret_post",
        "pkceEnabled": "true",
        "pkceMethod": "S256",
        "backchannelSupported": "true",
        "defaultScope": " ".join(broker.scopes),
    }
    if userinfo:
        settings["userInfoUrl"] = userinfo
    if logout:
        settings["logoutUrl"] = logout
    return settings


def provider_of(broker: Broker) -> Json:
    """Return the representation of an identity provider."""
    config = {
        "clientId": broker.client_id,
        "clientSecret": broker.client_secret,
        "syncMode": "FORCE",
        **broker.settings(),
    }
    return {
        "alias": broker.alias,
        "displayName": broker.display_name or broker.alias,
        "providerId": broker.provider,
        "enabled": True,
        "trustEmail": broker.trust_email,
        "storeToken": broker.store_token,
        "addReadTokenRoleOnCreate": False,
        "linkOnly": False,
        "firstBrokerLoginFlowAlias": "first broker login",
        "config": dict(sorted(config.items())),
    }


def mappers_of(broker: Broker) -> list[Json]:
    """Return what of the provider's word becomes something here."""
    mappers = [
        _mapper(broker, f"group {path}", "oidc-hardcoded-group-idp-mapper", {"group": path})
        for path in broker.groups
    ]
    if isinstance(broker, GitHubBroker):
        return mappers
    for each in broker.claim_groups:
        claims = f'[{{"key":{_quoted(each.claim)},"value":{_quoted(each.value)}}}]'
        config = {
            "claims": claims,
            "are.claim.values.regex": "false",
            "group": each.group,
        }
        name = f"{each.claim}={each.value}"
        mappers.append(_mapper(broker, name, "oidc-advanced-group-idp-mapper", config))
    for attribute, claim in broker.attributes.items():
        config = {"claim": claim, "user.attribute": attribute}
        mappers.append(
            _mapper(broker, f"attribute {attribute}", "oidc-user-attribute-idp-mapper", config)
        )
    return mappers


def _quoted(text: str) -> str:
    return json.dumps(text)


def _mapper(broker: Broker, name: str, kind: str, config: dict[str, str]) -> Json:
    return {
        "name": name,
        "identityProviderAlias": broker.alias,
        "identityProviderMapper": kind,
        "config": {"syncMode": "FORCE", **config},
    }
