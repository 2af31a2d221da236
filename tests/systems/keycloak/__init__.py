"""A real Keycloak for tests, benchmarks and the demo. See README.md for using it by hand."""

from ..processes import NotReadyError, SystemUnavailableError
from .admin import Admin, AdminError
from .demo import demo_model
from .pages import PageError, log_in, log_in_async, sign_in, sign_in_async
from .realm_admin import RealmAdmin
from .realms import Realm, claims
from .system import SHARED, KeycloakSystem, sweep

__all__ = [
    "SHARED",
    "Admin",
    "AdminError",
    "KeycloakSystem",
    "NotReadyError",
    "PageError",
    "Realm",
    "RealmAdmin",
    "SystemUnavailableError",
    "claims",
    "demo_model",
    "log_in",
    "log_in_async",
    "sign_in",
    "sign_in_async",
    "sweep",
]
