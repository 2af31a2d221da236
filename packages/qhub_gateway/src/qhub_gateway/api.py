"""What qhub adds to dask-gateway's own REST routes, which stay as they are.

``GET /api/qhub/clusters`` lists one's clusters, the last that failed among them, and those whose
dashboard is shared with one, with what a page shows of them, and with ``?all`` everyone's for those
who may see them; of one cluster there are ``/api/qhub/clusters/NAME``, its ``…/logs``, its
``…/dashboard`` and its ``…/sharing``; ``GET /api/qhub/limits`` says what is in use of one's limits;
``GET /api/metrics`` is for Prometheus. A request to scale that a limit cuts short is answered as
dask-gateway answers one that its own bounds do: done as far as can be, and said in words.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from aiohttp import web
from dask_gateway_server.routes import api_handler
from traitlets import Float, Unicode
from traitlets.config import LoggingConfigurable
from yarl import URL

from qhub_gateway.auth import HubAuthenticator
from qhub_gateway.bodies import BodyTooLargeError, whole
from qhub_gateway.busy import BusyWatch
from qhub_gateway.errors import LogElsewhereError, RequestRefusedError, TargetSilentError
from qhub_gateway.every_route import EveryRoute
from qhub_gateway.lifetime import end_with_hub
from qhub_gateway.limiting import DatabaseLimiter
from qhub_gateway.limits import Holder, Use
from qhub_gateway.metrics import ClusterFigures, GatewayMetrics
from qhub_gateway.owners import OwnerWatch
from qhub_gateway.page import individual_plots
from qhub_gateway.records import is_over, patiently
from qhub_gateway.rights import Action, Rights, may
from qhub_gateway.sharing import KEY, Sharing
from qhub_gateway.views import ClusterView, WorkerFacts, figures_of, listed, view_of
from qhub_gateway.whereabouts import Whereabouts

if TYPE_CHECKING:
    from qhub_gateway.backend import QHubGatewayBackend

__all__ = ["Api"]

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_MILLISECONDS = 1000
_MOST_LOG_BYTES = 2**20
_LOG_BYTES = 2**16
_LARGEST_BODY_BYTES = 64 * 2**10
_NO_CLUSTER = "There is no such cluster."


class Api(LoggingConfigurable):
    """Our routes, and what is looked at with every route."""

    metrics_token = Unicode(
        config=True,
        help="""
        The token with which Prometheus reads ``/api/metrics`` (``authorization`` in its scrape
        configuration). Default: empty, only people who may see everyone's clusters read it.
        """,
    )

    clusters_url = Unicode(
        "/services/qhub/clusters",
        config=True,
        help="""
        Where the page of clusters is, and behind it their dashboards, for a browser. Default:
        ``/services/qhub/clusters``, beside the hub.
        """,
    )

    owner_period = Float(
        60.0,
        min=1.0,
        config=True,
        help="""
        Seconds between two looks at whether the hub still knows the owners of clusters: those of
        somebody who was removed or disabled end within them. Default: 60.
        """,
    )

    backend: QHubGatewayBackend

    def __init__(self, backend: QHubGatewayBackend) -> None:
        """Take the backend; nothing is asked of it before a request."""
        super().__init__(parent=backend)
        self.backend = backend
        self.metrics = GatewayMetrics(self._figures, self._uses, groups=backend.people.most.groups)

    def add_to(self, app: web.Application) -> None:
        """Add everything to the gateway's application, before it is started."""
        EveryRoute(self.backend, self.metrics).add_to(app)
        user = api_handler(user_authenticated=True)
        app.router.add_get("/api/qhub/clusters", user(self._list))
        app.router.add_get("/api/qhub/clusters/{name}", user(self._one))
        app.router.add_get("/api/qhub/clusters/{name}/dashboard", user(self._dashboard))
        app.router.add_get("/api/qhub/clusters/{name}/logs", user(self._logs))
        app.router.add_get("/api/qhub/clusters/{name}/sharing", user(self._sharing))
        app.router.add_put("/api/qhub/clusters/{name}/sharing", user(self._share))
        app.router.add_get("/api/qhub/limits", user(self._limits))
        app.router.add_get("/api/metrics", self._scraped)
        app.router.add_get("/clusters/{name:[0-9a-f]{32}}", self._to_dashboard)
        app.router.add_get("/clusters/{name:[0-9a-f]{32}}/{path:.*}", self._to_dashboard)
        app.cleanup_ctx.append(self._watching)

    async def _watching(self, app: web.Application) -> AsyncIterator[None]:
        """Look after the hub, and after whose clusters there are, as long as the gateway runs."""
        tasks = [asyncio.create_task(end_with_hub(os.environ))]
        authenticator = app["authenticator"]
        if isinstance(authenticator, HubAuthenticator):  # else there is nobody who could be asked
            tasks.append(asyncio.create_task(self._owner_watch(authenticator).run()))
            tasks.append(asyncio.create_task(self._busy_watch(authenticator).run()))
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _owner_watch(self, authenticator: HubAuthenticator) -> OwnerWatch:
        backend = self.backend
        return OwnerWatch(
            lambda: [
                (each, backend.request_of(each).owner) for each in backend.db.active_clusters()
            ],
            authenticator.hub.person,
            backend.judging.fail,
            period=self.owner_period,
            log=self.log,
        )

    def _busy_watch(self, authenticator: HubAuthenticator) -> BusyWatch:
        async def tell(name: str, server: str | None, what: str) -> None:
            await authenticator.hub.busy(name, server, what)

        clusters = self.backend.db.active_clusters
        where = self.whereabouts.dashboard
        return BusyWatch(clusters, self.backend.request_of, where, tell, parent=self)

    # ---- what is there ----

    @cached_property
    def whereabouts(self) -> Whereabouts:
        """Who says where dashboards are."""
        return Whereabouts(self.backend.records, self.log)

    def _view(self, cluster: Any) -> ClusterView:  # noqa: ANN401 - dask-gateway's
        backend, limiter = self.backend, self.backend.limiter
        short = limiter.short if isinstance(limiter, DatabaseLimiter) else {}
        workers = [
            WorkerFacts(
                joined=worker.status.name == "RUNNING",
                leaving=not worker.is_active(),
                state=backend.state_of(worker),
            )
            for worker in cluster.workers.values()
            if worker.status.name not in {"STOPPED", "FAILED"}
        ]
        return view_of(
            name=cluster.name,
            request=backend.request_of(cluster),
            status=cluster.model_status.name,
            scheduler=backend.state_of(cluster),
            workers=workers,
            wanted=cluster.count,
            started=cluster.start_time / _MILLISECONDS,
            now=time.time(),
            words=str(
                (cluster.state or {}).get("words")
                or short.get(cluster.name)
                or backend.records.words.get(cluster.name, "")
            ),
            dashboard=f"/clusters/{cluster.name}/status" if cluster.dashboard_address else None,
        )

    def _figures(self) -> list[ClusterFigures]:
        return [
            figures_of(self._view(cluster), self.backend.request_of(cluster).owner.groups)
            for cluster in self.backend.db.name_to_cluster.values()
            if not is_over(cluster)  # what is being ended takes its place until it is gone
        ]

    def _uses(self, asker: Holder | None = None) -> list[Use]:
        limiter = self.backend.limiter
        return limiter.uses(asker) if isinstance(limiter, DatabaseLimiter) else []

    # ---- routes ----

    async def _list(self, request: web.Request) -> web.Response:
        user = request["user"]
        rights = getattr(user, "rights", Rights())
        everyone = "all" in request.query
        if everyone and not rights.see:
            raise web.HTTPForbidden(reason="You may see only your own clusters.")
        found = [
            self._told_of(cluster, user)
            for cluster in listed(self.backend.db.name_to_cluster.values(), time.time())
            if everyone
            or cluster.username == user.name
            or (not is_over(cluster) and _may_look(user, cluster))
        ]
        return _answer({"clusters": found, "may_see_all": rights.see})

    async def _one(self, request: web.Request) -> web.Response:
        """Describe one cluster, also one that has ended, as long as there is a record of it."""
        user = request["user"]
        cluster = self._cluster(request)
        if not (_may(Action.SEE, user, cluster) or _may_look(user, cluster)):
            raise web.HTTPNotFound(reason=_NO_CLUSTER)
        return _answer(self._told_of(cluster, user))

    def _told_of(self, cluster: Any, user: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return what somebody is told of a cluster that they may see."""
        sharing = Sharing.of(cluster.state)
        mine = cluster.username == user.name
        return {
            **self._view(cluster).to_json(),
            "may_stop": _may(Action.STOP, user, cluster),
            "may_read_logs": _may(Action.SEE, user, cluster),
            "may_look": _may_look(user, cluster),
            # with whom else it is shared is its owner's business
            "shared": sharing.model_dump(mode="json") if mine else None,
        }

    def _cluster(self, request: web.Request, *, own: bool = False) -> Any:  # noqa: ANN401
        """Return the cluster that a request names.

        Raises:
            web.HTTPNotFound: There is none, or with `own` it is somebody else's.
        """
        cluster = self.backend.db.get_cluster(request.match_info["name"])
        if cluster is None or (own and cluster.username != request["user"].name):
            raise web.HTTPNotFound(reason=_NO_CLUSTER)
        return cluster

    async def _dashboard(self, request: web.Request) -> web.Response:
        """Say where a dashboard is, to its owner and whom they share it with."""
        cluster = self.backend.db.get_cluster(request.match_info["name"])
        allowed = cluster is not None and _may_look(request["user"], cluster)
        try:
            address = await self.whereabouts.dashboard(cluster) if allowed else None
        except TargetSilentError as error:
            raise web.HTTPServiceUnavailable(
                reason="Where the dashboard is cannot be said now; try again in a moment."
            ) from error
        if address is None:
            raise web.HTTPNotFound(reason="There is no such dashboard.")
        return _answer({"address": address})

    async def _logs(self, request: web.Request) -> web.Response:
        """Return the end of what a scheduler, or with ``?worker=NAME`` a worker, has written."""
        cluster = self._cluster(request)
        if not _may(Action.SEE, request["user"], cluster):
            raise web.HTTPNotFound(reason=_NO_CLUSTER)
        worker = request.query.get("worker") or None
        size = request.query.get("bytes", str(_LOG_BYTES))
        if not (size.isascii() and size.isdigit()) or not 0 < int(size) <= _MOST_LOG_BYTES:
            raise web.HTTPUnprocessableEntity(
                reason=f"bytes: a whole number from 1 to {_MOST_LOG_BYTES} is accepted."
            )
        names = [each.name for each in cluster.workers.values()]
        if worker is not None and worker not in names:
            raise web.HTTPNotFound(reason="The cluster has no such worker.")
        log = elsewhere = ""
        try:
            log = await self.backend.log_of(cluster, worker, int(size))
        except LogElsewhereError as error:
            elsewhere = str(error)
        except TargetSilentError as error:
            raise web.HTTPServiceUnavailable(
                reason="The log cannot be had now; try again in a moment."
            ) from error
        found = {"log": log, "elsewhere": elsewhere, "worker": worker, "workers": names}
        return _answer(found)

    async def _sharing(self, request: web.Request) -> web.Response:
        """Say with whom one shares a dashboard."""
        cluster = self._cluster(request, own=True)
        return _answer(Sharing.of(cluster.state).model_dump(mode="json"))

    async def _share(self, request: web.Request) -> web.Response:
        """Share a dashboard with these people and groups, and with nobody else any more."""
        cluster = self._cluster(request, own=True)
        if not getattr(request["user"], "rights", Rights(create=True)).create:
            raise web.HTTPForbidden(reason="You may not use clusters here.")
        try:
            body = await whole(request.content.iter_any(), _LARGEST_BODY_BYTES)
            sharing = Sharing.asked(json.loads(body))
        except (ValueError, RecursionError) as error:
            raise web.HTTPUnprocessableEntity(reason="This is not JSON.") from error
        except (BodyTooLargeError, RequestRefusedError) as error:
            raise web.HTTPUnprocessableEntity(reason=str(error)) from error
        data = sharing.model_dump(mode="json")

        async def written() -> None:
            state = {**(cluster.state or {}), KEY: data}
            self.backend.db.update_cluster(cluster, state=state)

        await patiently(written)
        self.log.info("the dashboard of cluster %s is shared by %s", cluster.name, cluster.username)
        return _answer(data)

    async def _limits(self, request: web.Request) -> web.Response:
        user = request["user"]
        found = [
            {
                "scope": use.scope.kind,
                "name": use.scope.name,
                "resource": use.resource,
                "used": use.used,
                "limit": use.limit,
            }
            for use in self._uses(Holder(user.name, frozenset(user.groups)))
            if use.limit is not None
            and (
                use.scope.kind == "everyone"
                or (use.scope.kind == "user" and use.scope.name == user.name)
                or (use.scope.kind == "group" and use.scope.name in user.groups)
            )
        ]
        return _answer({"limits": found})

    async def _to_dashboard(self, request: web.Request) -> web.Response:
        """Send a browser to where people log in; whether there is such a cluster is not told."""
        name, path = request.match_info["name"], request.match_info.get("path", "")
        if path == "individual-plots.json":
            # Dask's panel in JupyterLab asks for it as nobody; it is the same for all
            return _answer(individual_plots())
        url = URL(f"{self.clusters_url}/{name}/dashboard/").join(URL.build(path=path))
        if not url.raw_path.startswith(URL(f"{self.clusters_url}/{name}/").raw_path):
            raise web.HTTPNotFound
        return web.Response(status=302, headers={"Location": str(url.with_query(request.query))})

    async def _scraped(self, request: web.Request) -> web.StreamResponse:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        given, own = token.strip().encode(), self.metrics_token.encode()
        if own and kind.lower() == "bearer" and hmac.compare_digest(given, own):
            return self._told()
        handler: _Handler = api_handler(user_authenticated=True)(self._scraped_by_person)
        return await handler(request)

    async def _scraped_by_person(self, request: web.Request) -> web.Response:
        if not getattr(request["user"], "rights", Rights()).see:
            raise web.HTTPForbidden(reason="You may not see everyone's clusters.")
        return self._told()

    def _told(self) -> web.Response:
        return web.Response(body=self.metrics.text(), content_type="text/plain", charset="utf-8")


def _may(action: Action, user: Any, cluster: Any) -> bool:  # noqa: ANN401 - of any authenticator
    rights = getattr(user, "rights", Rights())
    return may(action, asker=user.name, owner=cluster.username, rights=rights)


def _may_look(user: Any, cluster: Any) -> bool:  # noqa: ANN401 - of any authenticator
    """Whether somebody may look at a cluster's dashboard."""
    return cluster.username == user.name or Sharing.of(cluster.state).includes(
        user.name, user.groups
    )


def _answer(data: object) -> web.Response:
    headers = {"Cache-Control": "no-store"}
    return web.Response(text=json.dumps(data), content_type="application/json", headers=headers)
