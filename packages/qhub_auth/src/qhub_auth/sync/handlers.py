"""What the sync service talks to: ``/hub/api/qhub/sync``, for its scope and nobody else."""

from __future__ import annotations

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.scopes import Scope
from pydantic import ValidationError
from tornado import web

from qhub_auth.errors import IdentityUnavailableError, KeycloakUnavailableError
from qhub_auth.sync.applying import Applier
from qhub_auth.sync.bodies import (
    LARGEST_BODY_BYTES,
    LARGEST_PAGE,
    PATH,
    SCOPE,
    Batch,
    Page,
    Results,
)

__all__ = ["ROUTES", "SyncHandler"]

_SETTING = "qhub_auth_applier"


class SyncHandler(APIHandler):  # type: ignore[misc]  # jupyterhub has no types
    """``GET`` lists users with what was last applied to them, ``POST`` applies what is new.

    Tokens only, no cookies: no page of a browser can be made to send anything here.
    """

    _accept_cookie_auth = False

    async def prepare(self) -> None:
        """Let in only who has the scope.

        The scope exists only where the service is configured (`configure.group_sync`), so it is
        looked at by hand: the decorator would refuse to be imported elsewhere.
        """
        await super().prepare()
        if not self.current_user:
            raise web.HTTPError(403, "Missing or invalid credentials.")
        if getattr(self, "parsed_scopes", {}).get(SCOPE) is not Scope.ALL:
            raise web.HTTPError(403, f"this needs a token with the scope {SCOPE}")

    @property
    def _applier(self) -> Applier:
        applier = self.settings.get(_SETTING)
        if applier is None:
            applier = self.settings[_SETTING] = Applier(self.authenticator)
        kept: Applier = applier
        return kept

    async def get(self) -> None:
        """Answer a part of the list of users: ``?after=NAME&limit=500``."""
        try:
            limit = int(self.get_argument("limit", "500"))
        except ValueError:
            limit = 0
        if not 1 <= limit <= LARGEST_PAGE:
            raise web.HTTPError(400, f"limit: expected 1 to {LARGEST_PAGE}")
        after = self.get_argument("after", "", strip=False)
        try:
            page = await self._applier.listed(self.db, after, limit)
        except IdentityUnavailableError as error:
            raise web.HTTPError(503, str(error)) from error
        self._answer(page)

    async def post(self) -> None:
        """Apply what Keycloak says of some people."""
        if len(self.request.body) > LARGEST_BODY_BYTES:
            raise web.HTTPError(413, f"more than {LARGEST_BODY_BYTES} bytes")
        try:
            batch = Batch.model_validate_json(self.request.body)
        except ValidationError as error:
            problems = [
                f"{'.'.join(map(str, each['loc']))}: {each['msg']}"
                for each in error.errors(include_url=False, include_input=False)[:5]
            ]
            raise web.HTTPError(400, "; ".join(problems)) from error
        try:
            results = await self._applier.apply(self, batch)
        except (IdentityUnavailableError, KeycloakUnavailableError) as error:
            raise web.HTTPError(503, str(error)) from error
        self._answer(results)

    def _answer(self, model: Page | Results) -> None:
        self.set_header("Cache-Control", "no-store")
        self.finish(model.model_dump_json())


ROUTES = [(f"/api/{PATH}", SyncHandler)]
