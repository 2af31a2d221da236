"""A realm of Keycloak's, described in a few lines and rendered as the JSON that Keycloak imports.

Pure but for `commands`. `RealmModel` is what an administrator writes; `render` is what Keycloak
reads; `filled` puts the secrets in their places.
"""

from qhub_auth.realm.brokers import Auth0Broker, Broker, GitHubBroker, OidcBroker
from qhub_auth.realm.clients import ForwardAuthClient, HubClient, ServiceAccount
from qhub_auth.realm.federation import Kerberos, LdapFederation, LdapGroups
from qhub_auth.realm.model import GroupModel, Lifetimes, PersonModel, RealmModel, RoleModel
from qhub_auth.realm.rendering import render
from qhub_auth.realm.secrets import filled, references

__all__ = [
    "Auth0Broker",
    "Broker",
    "ForwardAuthClient",
    "GitHubBroker",
    "GroupModel",
    "HubClient",
    "Kerberos",
    "LdapFederation",
    "LdapGroups",
    "Lifetimes",
    "OidcBroker",
    "PersonModel",
    "RealmModel",
    "RoleModel",
    "ServiceAccount",
    "filled",
    "references",
    "render",
]
