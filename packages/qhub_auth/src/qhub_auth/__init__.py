"""Who people are, from Keycloak to the file system, for JupyterHub.

Importing this package imports nothing else: the pure modules are usable where there is no hub.
`KeycloakAuthenticator` is loaded when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qhub_auth.authenticator import KeycloakAuthenticator

__version__ = "0.1.0"
__all__ = ["KeycloakAuthenticator", "__version__"]


def __getattr__(name: str) -> object:
    """Load `KeycloakAuthenticator` on first use (PEP 562): pure modules never pull in the hub."""
    if name == "KeycloakAuthenticator":
        from qhub_auth.authenticator import (  # noqa: PLC0415 - the point of this function
            KeycloakAuthenticator,
        )

        return KeycloakAuthenticator
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
