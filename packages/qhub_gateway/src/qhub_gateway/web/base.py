"""What every page of the service has in common: who looks, and the gateway asked in their name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jupyterhub.services.auth import HubOAuthenticated
from tornado import web

from qhub_gateway.web.gateway_door import GatewayAnswer, GatewaySilentError

if TYPE_CHECKING:
    from qhub_gateway.web.service import WebService

__all__ = ["FORBIDDEN", "Base"]

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
FORBIDDEN = 403
_UNAUTHORIZED = 401


class Base(HubOAuthenticated, web.RequestHandler):  # type: ignore[misc]  # jupyterhub has no types
    """What every page has in common."""

    def initialize(self, service: WebService) -> None:
        """Take the service."""
        self.service = service

    def set_default_headers(self) -> None:
        """Let nothing of the page come from elsewhere, and nobody keep it."""
        self.set_header("Content-Security-Policy", _POLICY)
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")

    @property
    def token(self) -> str:
        """The token of whoever looks."""
        return str(self.hub_auth.get_token(self))

    @property
    def everyone(self) -> bool:
        """Whether everyone's clusters are asked for."""
        return "all" in self.request.query_arguments

    async def ask(self, method: str, path: str, body: object = None) -> GatewayAnswer:
        """Ask the gateway as whoever looks.

        Raises:
            web.HTTPError: It does not answer, or says no.
        """
        try:
            answer = await self.service.door.ask(method, path, self.token, body)
        except GatewaySilentError as error:
            raise web.HTTPError(503, str(error)) from error
        if answer.status in {_UNAUTHORIZED, FORBIDDEN}:
            raise web.HTTPError(FORBIDDEN)
        return answer

    async def clusters(self) -> dict[str, Any]:
        """Return what the gateway says of clusters, and which of them are one's own."""
        answer = await self.ask("GET", f"/api/qhub/clusters{'?all' if self.everyone else ''}")
        if not isinstance(answer.data, dict) or "clusters" not in answer.data:
            raise web.HTTPError(502)
        name = self.current_user["name"]
        mine = [{**each, "mine": each["user"] == name} for each in answer.data["clusters"]]
        return {**answer.data, "clusters": mine}
