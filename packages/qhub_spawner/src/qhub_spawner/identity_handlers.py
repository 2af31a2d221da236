"""Who a person is, for services of the same platform: groups, identity, and what their servers are.

For tokens with one custom scope, and nobody else: uids and homes are nobody's business but that of
what starts jobs in a person's name.
"""

from __future__ import annotations

import json
from typing import Any

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.scopes import Scope
from tornado import web

from qhub_spawner.identity import NOBODY, SCOPE, IdentityError, identity_of

__all__ = ["ROUTES", "IdentityHandler"]


class IdentityHandler(APIHandler):  # type: ignore[misc]  # jupyterhub has no types
    """``GET /api/users/:name/qhub/identity``.

    Tokens only, no cookies: no page of a browser can be made to read it.
    """

    _accept_cookie_auth = False

    async def prepare(self) -> None:
        """Let in only who has the scope.

        It exists only where a service is configured, so it is looked at by hand: the hub's
        decorator would refuse to be imported elsewhere.
        """
        await super().prepare()
        if not self.current_user:
            raise web.HTTPError(403, "Missing or invalid credentials.")
        if getattr(self, "parsed_scopes", {}).get(SCOPE) is not Scope.ALL:
            raise web.HTTPError(403, f"this needs a token with the scope {SCOPE}")

    async def get(self, user_name: str) -> None:
        """Answer who somebody is; 404 if there is nobody, 500 if their identity is not valid."""
        user = self.find_user(user_name)
        if user is None:
            raise web.HTTPError(404, NOBODY)
        state = await user.get_auth_state()
        if state is None and user.encrypted_auth_state is not None:
            # the hub itself cannot read it: that is not to look as if there were none
            self.log.error("%s: auth_state cannot be decrypted", user.name)
            raise web.HTTPError(500, "this account's identity cannot be read")
        try:
            identity = identity_of(state)
        except IdentityError as error:
            self.log.error("%s: %s", user.name, error)  # noqa: TRY400 - it says all
            raise web.HTTPError(500, "this account's identity is not usable") from error
        self.set_header("Cache-Control", "no-store")
        self.finish(
            json.dumps(
                {
                    "name": user.name,
                    "admin": bool(user.admin),
                    "groups": sorted(group.name for group in user.groups),
                    "identity": identity.model_dump(mode="json") if identity else None,
                    "servers": _servers(user),
                }
            )
        )


def _servers(user: Any) -> dict[str, Any]:
    """Return what was chosen for each server that is there, by its name."""
    found = {}
    for name, record in user.orm_user.orm_spawners.items():
        chosen = record.user_options
        if record.server is None or not isinstance(chosen, dict):
            continue
        options = chosen.get("options")
        found[name] = {
            "profile": chosen.get("profile"),
            "options": options if isinstance(options, dict) else {},
            # of a profile with several it may be any of them, and may have become another
            "backend": (record.state or {}).get("backend"),
        }
    return found


ROUTES = [(r"/api/users/([^/]+)/qhub/identity", IdentityHandler)]
