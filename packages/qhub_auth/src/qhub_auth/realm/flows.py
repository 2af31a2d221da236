"""How people log in, where Keycloak's own way does not do: with a ticket first. Pure.

Keycloak's flow "browser" has the step for Kerberos turned off, and an import does not turn it on.
"""

from __future__ import annotations

from qhub_auth.realm.fields import Json

__all__ = ["TICKETS", "ticket_flows"]

TICKETS = "browser with tickets"
_FORMS = f"{TICKETS}: forms"
_SECOND = f"{TICKETS}: second factor"


def ticket_flows() -> list[Json]:
    """Return the flow "browser" with tickets: session, ticket, a broker that was asked for, forms.

    A browser without a ticket shows the forms: Keycloak sends them along with its question for one.
    A second factor is asked for after a password, of those who have set one up.
    """
    return [
        _flow(
            TICKETS,
            _step("auth-cookie"),
            _step("auth-spnego"),
            _step("identity-provider-redirector"),
            _step(_FORMS, flow=True),
            top=True,
        ),
        _flow(
            _FORMS,
            _step("auth-username-password-form", "REQUIRED"),
            _step(_SECOND, "CONDITIONAL", flow=True),
        ),
        _flow(
            _SECOND,
            _step("conditional-user-configured", "REQUIRED"),
            _step("auth-otp-form", "REQUIRED"),
        ),
    ]


def _flow(alias: str, *steps: Json, top: bool = False) -> Json:
    return {
        "alias": alias,
        "providerId": "basic-flow",
        "topLevel": top,
        "builtIn": False,
        "authenticationExecutions": [
            {**step, "priority": 10 * at} for at, step in enumerate(steps, start=1)
        ],
    }


def _step(name: str, requirement: str = "ALTERNATIVE", *, flow: bool = False) -> Json:
    return {
        "flowAlias" if flow else "authenticator": name,
        "authenticatorFlow": flow,
        "requirement": requirement,
        "userSetupAllowed": False,
    }
