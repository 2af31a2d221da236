"""The clients of a realm: the hub, forward-auth, and the account that reads groups. Pure."""

from __future__ import annotations

from qhub_auth.realm.fields import Json, Model, Name, Secret, Url
from qhub_auth.realm.profile import NUMBERS

__all__ = [
    "READING",
    "WRITING",
    "ForwardAuthClient",
    "HubClient",
    "ServiceAccount",
    "account_of",
    "client_of",
]

REALM_MANAGEMENT = "realm-management"
READING = (
    "query-groups",
    "query-users",
    "view-clients",
    "view-events",
    "view-realm",
    "view-users",
)
WRITING = "manage-users"
CALLBACK = "/hub/oauth_callback"
BACK_CHANNEL = "/hub/qhub/backchannel-logout"


class HubClient(Model):
    """JupyterHub, as Keycloak knows it."""

    client_id: Name = "jupyterhub"
    secret: Secret
    """Its secret; a reference such as ``${HUB_CLIENT_SECRET}`` keeps it out of files."""
    url: Url
    """Where people reach the hub, e.g. ``https://hub.example.org``, with its base URL if it has
    one. The addresses below follow from it unless they are given."""
    redirect_uris: tuple[str, ...] = ()
    """Where log-in may send people back to; by default the hub's callback and nothing else."""
    post_logout_redirect_uris: tuple[str, ...] = ()
    """Where log-out may send people; by default the hub and the pages below it."""
    back_channel_logout_url: Url | None = None
    """Where Keycloak tells the hub of a log-out. Keycloak itself has to reach it: give another
    address where it cannot use the public one."""
    web_origins: tuple[str, ...] = ()
    """Web pages whose scripts may call Keycloak's token endpoint; the hub needs none."""
    groups_claim: Name = "groups"
    """The claim with the full paths of a person's groups."""
    roles_claim: Name = "roles"
    """The claim with the names of a person's roles of this client."""

    @property
    def base(self) -> str:
        """The hub's address, without a slash at its end."""
        return self.url.rstrip("/")


class ForwardAuthClient(Model):
    """`qhub-forward-auth`, as Keycloak knows it: log-in for what stands beside the hub."""

    client_id: Name = "qhub-forward-auth"
    secret: Secret
    """Its secret, or a reference to it."""
    redirect_uris: tuple[str, ...]
    """Where log-in may send people back to: the service's callback on every host it guards."""
    post_logout_redirect_uris: tuple[str, ...] = ()
    """Where log-out may send people; where log-in may, by default."""
    back_channel_logout_url: Url | None = None
    """Where Keycloak tells it of a log-out."""


class ServiceAccount(Model):
    """The account by which groups, roles and changes are read."""

    client_id: Name = "qhub-service"
    """A client of its own: then the hub's client cannot read anything about anybody."""
    secret: Secret
    """Its secret, or a reference to it."""
    write_back: bool = False
    """Whether it may also change people (`manage-users`), to write their numbers into Keycloak.
    That includes resetting anybody's password: leave it off unless numbers are written back."""

    @property
    def roles(self) -> list[str]:
        """Its roles of the client realm-management."""
        return sorted([*READING, WRITING] if self.write_back else READING)


def client_of(client: HubClient | ForwardAuthClient | ServiceAccount, hub: HubClient) -> Json:
    """Return a client's representation.

    Args:
        client: Which.
        hub: The hub's, whose roles all of them speak of.
    """
    if isinstance(client, ServiceAccount):
        return _service(client)
    if isinstance(client, HubClient):
        rendered = _confidential(client.client_id, client.secret, "JupyterHub")
        rendered["redirectUris"] = list(client.redirect_uris or (client.base + CALLBACK,))
        rendered["webOrigins"] = list(client.web_origins)
        rendered["baseUrl"] = f"{client.base}/hub/"
        rendered["protocolMappers"] = _mappers(hub)
        logout = client.post_logout_redirect_uris or (client.base, f"{client.base}/*")
        back_channel = client.back_channel_logout_url or client.base + BACK_CHANNEL
    else:
        rendered = _confidential(client.client_id, client.secret, "Forward-auth")
        rendered["redirectUris"] = list(client.redirect_uris)
        rendered["webOrigins"] = []
        rendered["protocolMappers"] = _mappers(hub)
        logout, back_channel = (
            client.post_logout_redirect_uris,
            client.back_channel_logout_url or "",
        )
    attributes: dict[str, str] = {
        "backchannel.logout.revoke.offline.tokens": "false",
        "backchannel.logout.session.required": "true",
        "pkce.code.challenge.method": "S256",
        "post.logout.redirect.uris": "##".join(logout) or "+",
    }
    if back_channel:
        attributes["backchannel.logout.url"] = back_channel
    rendered["attributes"] = attributes
    return rendered


def _confidential(client_id: str, secret: str, name: str) -> Json:
    """A client with a secret that may do nothing but the standard flow."""
    return {
        "clientId": client_id,
        "name": name,
        "enabled": True,
        "protocol": "openid-connect",
        "clientAuthenticatorType": "client-secret",
        "secret": secret,
        "publicClient": False,
        "bearerOnly": False,
        "standardFlowEnabled": True,
        "implicitFlowEnabled": False,
        "directAccessGrantsEnabled": False,
        "serviceAccountsEnabled": False,
        "frontchannelLogout": False,
        "consentRequired": False,
        # its tokens carry its own roles, not all that a person has
        "fullScopeAllowed": False,
        "defaultClientScopes": ["acr", "basic", "email", "profile"],
        "optionalClientScopes": ["offline_access"],
    }


def _service(client: ServiceAccount) -> Json:
    rendered = _confidential(client.client_id, client.secret, "qhub's service account")
    rendered |= {
        "standardFlowEnabled": False,
        "serviceAccountsEnabled": True,
        "redirectUris": [],
        "webOrigins": [],
        "attributes": {},
        "defaultClientScopes": ["basic", "roles", "service_account"],
        "optionalClientScopes": [],
    }
    return rendered


def _mappers(hub: HubClient) -> list[Json]:
    tokens = {
        "id.token.claim": "true",
        "access.token.claim": "true",
        "userinfo.token.claim": "true",
        "introspection.token.claim": "true",
    }
    mappers: list[Json] = [
        _mapper(
            "groups",
            "oidc-group-membership-mapper",
            {"claim.name": _escaped(hub.groups_claim), "full.path": "true", **tokens},
        ),
        _mapper(
            "roles",
            "oidc-usermodel-client-role-mapper",
            {
                "claim.name": _escaped(hub.roles_claim),
                "usermodel.clientRoleMapping.clientId": hub.client_id,
                "jsonType.label": "String",
                "multivalued": "true",
                **tokens,
            },
        ),
    ]
    # As text, as the admin API has them: of type "long", a value that is no number would break
    # log-in inside Keycloak, without a word to the person.
    return mappers + [
        _mapper(
            name,
            "oidc-usermodel-attribute-mapper",
            {"claim.name": name, "user.attribute": name, "jsonType.label": "String", **tokens},
        )
        for name in NUMBERS
    ]


def _mapper(name: str, kind: str, config: dict[str, str]) -> Json:
    return {
        "name": name,
        "protocol": "openid-connect",
        "protocolMapper": kind,
        "consentRequired": False,
        "config": dict(sorted(config.items())),
    }


def _escaped(claim: str) -> str:
    """A claim's name; Keycloak would read a dot in it as a level of nesting."""
    return claim.replace(".", "\\.")


def account_of(service: ServiceAccount) -> Json:
    """Return the user that stands for the service account, with its roles."""
    return {
        "username": f"service-account-{service.client_id}".lower(),
        "enabled": True,
        "serviceAccountClientId": service.client_id,
        "clientRoles": {REALM_MANAGEMENT: service.roles},
    }
