"""What is done with every route: it is measured, bodies are looked at, and limits told in words."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web
from dask_gateway_server.routes import api_handler

from qhub_gateway.bodies import LOOKED_AT, problem_with
from qhub_gateway.limiting import DatabaseLimiter
from qhub_gateway.metrics import GatewayMetrics, route_of

if TYPE_CHECKING:
    from qhub_gateway.backend import QHubGatewayBackend

__all__ = ["EveryRoute"]

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_OK = 200
_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE"}


class EveryRoute:
    """aiohttp's middlewares of the gateway.

    Args:
        backend: What there is.
        metrics: Where answers are counted.
    """

    def __init__(self, backend: QHubGatewayBackend, metrics: GatewayMetrics) -> None:
        """See the class."""
        self._backend = backend
        self._metrics = metrics

    def add_to(self, app: web.Application) -> None:
        """Add them to the gateway's application, before it is started."""
        app.middlewares.extend([self.measured, self.bodies_looked_at, self.scale_in_words])

    @property
    def measured(self) -> Any:  # noqa: ANN401 - aiohttp's decorator
        """Count each answer, and how long it took."""

        @web.middleware
        async def measured(request: web.Request, handler: _Handler) -> web.StreamResponse:
            began, status = time.monotonic(), 500
            try:
                response = await handler(request)
                status = response.status
            except web.HTTPException as error:
                status = error.status
                raise
            finally:
                seconds = time.monotonic() - began
                method = request.method if request.method in _METHODS else "other"
                self._metrics.answered(method, route_of(request.path), status, seconds)
            return response

        return measured

    @property
    def bodies_looked_at(self) -> Any:  # noqa: ANN401 - aiohttp's decorator
        """Refuse bodies that dask-gateway's routes would break down over."""

        @web.middleware
        async def looked_at(request: web.Request, handler: _Handler) -> web.StreamResponse:
            route = route_of(request.path)
            if request.method != "POST" or route not in LOOKED_AT:
                return await handler(request)
            # aiohttp keeps what was read for the route itself, and bounds it to 1 MiB
            problem = problem_with(route, await request.read())
            if problem is None:
                return await handler(request)

            of_cluster = route == "clusters/:name/heartbeat"

            async def refused(_: web.Request) -> web.Response:
                if of_cluster:  # it has a cluster's own token, and whoever runs it reads no log
                    name = request.match_info["cluster_name"]
                    self._backend.log.warning(
                        "a report of cluster %s is refused: %s", name, problem
                    )
                return web.json_response({"error": problem}, status=422)

            # who is nobody hears that first, as of any other request
            answer: _Handler = api_handler(
                refused, user_authenticated=not of_cluster, token_authenticated=of_cluster
            )
            return await answer(request)

        return looked_at

    @property
    def scale_in_words(self) -> Any:  # noqa: ANN401 - aiohttp's decorator
        """Say why workers that were asked for cannot all be had."""

        @web.middleware
        async def in_words(request: web.Request, handler: _Handler) -> web.StreamResponse:
            response = await handler(request)
            if request.method != "POST" or route_of(request.path) != "clusters/:name/scale":
                return response
            words = await self._words_of_scale(request) if response.status == _OK else None
            return response if words is None else web.json_response({"ok": False, "msg": words})

        return in_words

    async def _words_of_scale(self, request: web.Request) -> str | None:
        """Say why the workers that were just asked for cannot all be had now."""
        limiter = self._backend.limiter
        cluster = self._backend.db.get_cluster(request.match_info["cluster_name"])
        if cluster is None or not isinstance(limiter, DatabaseLimiter):
            return None
        count = (await request.json())["count"]
        most = cluster.config.get("cluster_max_workers")
        return limiter.words(cluster, count if most is None else min(count, most))
