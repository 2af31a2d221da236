"""What tokens say of a person, once they are trusted."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qhub_auth.directory import PersonFacts
from qhub_auth.errors import KeycloakUnavailableError, RefusedError, TokenError
from qhub_auth.keycloak import claims as read
from qhub_auth.keycloak.tokens import Claims, access_claims, id_claims

if TYPE_CHECKING:
    from qhub_auth.authenticator import KeycloakAuthenticator

__all__ = ["TokenReader"]


class TokenReader:
    """Reads the tokens of log-ins and refreshes."""

    def __init__(self, authenticator: KeycloakAuthenticator) -> None:
        self._authenticator = authenticator

    async def read(
        self, tokens: dict[str, Any], *, nonce: str | None, sub: str | None = None
    ) -> tuple[PersonFacts, dict[str, Any]]:
        """Return what tokens say of a person, and what is kept of them.

        Args:
            tokens: As Keycloak gave them.
            nonce: What the id token must repeat; `None` for a refresh.
            sub: Whose the id token must be, for a refresh.

        Raises:
            TokenError: They are not to be trusted.
            RefusedError: They do not say what a rule needs.
            KeycloakUnavailableError: Keycloak's keys are needed and cannot be had.
        """
        it = self._authenticator
        id_token = tokens.get("id_token")
        if id_token is None:
            raise TokenError("Keycloak sent no id token: the scope openid is missing")
        claims = id_claims(
            id_token,
            await it.provider.key_for(id_token),
            it.provider.expected(),
            nonce=nonce,
            sub=sub,
            access_token=tokens["access_token"],
        )
        state = it.build_auth_state_dict(tokens, dict(claims))
        if inspect.isawaitable(state):
            state = await state
        if it.modify_auth_state_hook is not None:
            state = await it._call_modify_auth_state_hook(state)  # noqa: SLF001 - as its own base does
        groups, problems = read.full_paths(await self._groups(state))
        if problems:
            it.tell_once(
                "Of the groups in tokens these are no full paths of at most 255 visible "
                f"characters, and count for nothing: {', '.join(problems[:8])}. Keycloak's mapper "
                "needs 'Full group path' on"
            )
        facts = read.person_facts(
            claims,
            name=it.user_info_to_username(claims),
            groups=groups,
            roles=await self._roles(claims, tokens),
        )
        return facts, state

    async def _groups(self, state: dict[str, Any]) -> frozenset[Any]:
        """Return what the token lists as groups. None listed is not the same as no list."""
        it = self._authenticator
        key = it.auth_state_groups_key
        if callable(key):
            return frozenset(await it.get_user_groups(state))
        value = read.value_at(state, *key.split("."))
        if isinstance(value, list):
            return frozenset(each for each in value if isinstance(each, str))
        if it.blocked_groups:
            raise RefusedError(
                it.custom_403_message,
                reason=f"the token has no list of groups at {key}, so blocked_groups cannot be "
                "checked; Keycloak's client needs a mapper 'Group Membership'",
            )
        it.tell_once(
            f"Tokens have no list of groups at {key}: nobody has groups by log-in. Keycloak's "
            "client needs a mapper 'Group Membership' with 'Add to ID token' on"
        )
        return frozenset()

    async def _roles(self, claims: Claims, tokens: Mapping[str, Any]) -> frozenset[str]:
        """Return the client's roles; as Keycloak comes they stand in the access token alone."""
        it = self._authenticator
        client_id = it.keycloak.client_id
        roles = read.client_roles(claims, client_id, it.roles_claim)
        if roles is not None:
            return roles
        token = tokens["access_token"]
        try:
            further = access_claims(
                token,
                await it.provider.key_for(token),
                it.provider.expected(),
                sub=claims["sub"],
            )
        except (TokenError, KeycloakUnavailableError) as error:
            it.log.debug("The access token says nothing of roles: %s", error)
            return frozenset()
        return read.client_roles(further, client_id, it.roles_claim) or frozenset()
