"""Clusters as HTML. Everything in it that came from outside is escaped. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from qhub_spawner.quantities import Duration, Memory

__all__ = ["render_logs", "render_page", "render_rows", "render_sharing"]

INTERVAL_SECONDS = 5
"""How often an open page asks for new figures."""

_STATES = {
    "queued": "waits in the queue",
    "starting": "is starting",
    "running": "runs",
    "stopping": "is being ended",
    "stopped": "has ended",
    "failed": "has failed",
}
_OVER = {"stopped", "failed"}
_PLACES = {"slurm": "Slurm", "kubernetes": "Kubernetes", "local": "the hub's own machine"}
_WORKER_STATES = ("queued", "starting", "running", "stopping")
_MINUTE = 60


def render_page(  # noqa: PLR0913 - what stands on the page, by name
    clusters: Sequence[Mapping[str, Any]],
    *,
    user: str,
    base: str,
    hub: str,
    now: float,
    xsrf: str,
    everyone: bool = False,
    may_see_all: bool = False,
    notice: str | None = None,
    problem: str | None = None,
) -> str:
    """Render the whole page.

    Args:
        clusters: As the gateway's ``/api/qhub/clusters`` lists them.
        user: Who looks.
        base: The path of the page.
        hub: The path of the hub.
        now: The time, in seconds since 1970.
        xsrf: What a form has to send with it.
        everyone: Whether these are everyone's.
        may_see_all: Whether this person may see everyone's.
        notice: Something that was done, in words.
        problem: Something that went wrong, in words.
    """
    html: str = _template("clusters.html.j2").render(
        rows=Markup(render_rows(clusters, base=base, now=now, xsrf=xsrf, everyone=everyone)),  # nosec B704 # noqa: S704 - rendered with escaping
        user=user,
        base=base,
        hub=hub,
        everyone=everyone,
        may_see_all=may_see_all,
        notice=notice,
        problem=problem,
        clock=_clock(now),
        interval=INTERVAL_SECONDS,
        xsrf=xsrf,
    )
    return html


def render_rows(
    clusters: Sequence[Mapping[str, Any]],
    *,
    base: str,
    now: float,
    xsrf: str,
    everyone: bool = False,
) -> str:
    """Render what of the page changes: a section for each cluster, newest first.

    What has failed stands below what is there.
    """
    ordered = sorted(clusters, key=lambda one: (one["state"] in _OVER, -one["started"]))
    shown = [_in_words(each, now) for each in ordered]
    html: str = _template("rows.html.j2").render(
        clusters=shown, base=base, xsrf=xsrf, everyone=everyone, clock=_clock(now)
    )
    return html


def render_logs(  # noqa: PLR0913 - what stands on the page, by name
    name: str,
    *,
    log: str,
    elsewhere: str = "",
    worker: str | None,
    workers: Sequence[str],
    user: str,
    base: str,
    hub: str,
    now: float,
    problem: str | None = None,
) -> str:
    """Render the page of a cluster's logs.

    Args:
        name: The cluster's name.
        log: The end of what was written.
        elsewhere: Where it is, if it cannot be read from here.
        worker: Whose log it is; ``None`` for the scheduler's.
        workers: The names of all its workers.
        user: Who looks.
        base: The path of the page of clusters.
        hub: The path of the hub.
        now: The time, in seconds since 1970.
        problem: Something that went wrong, in words.
    """
    html: str = _template("logs.html.j2").render(
        name=name,
        log=log,
        elsewhere=elsewhere,
        worker=worker,
        workers=workers,
        user=user,
        base=base,
        hub=hub,
        clock=_clock(now),
        problem=problem,
        notice=None,
    )
    return html


def render_sharing(  # noqa: PLR0913 - what stands on the page, by name
    name: str,
    *,
    users: Sequence[str],
    groups: Sequence[str],
    user: str,
    base: str,
    hub: str,
    xsrf: str,
    problem: str | None = None,
    notice: str | None = None,
) -> str:
    """Render the page on which a dashboard is shared.

    Args:
        name: The cluster's name.
        users: With whom it is shared.
        groups: Likewise.
        user: Who looks.
        base: The path of the page of clusters.
        hub: The path of the hub.
        xsrf: What a form has to send with it.
        problem: Something that went wrong, in words.
        notice: Something that was done, in words.
    """
    html: str = _template("sharing.html.j2").render(
        name=name,
        users=users,
        groups=groups,
        user=user,
        base=base,
        hub=hub,
        xsrf=xsrf,
        problem=problem,
        notice=notice,
    )
    return html


def _in_words(cluster: Mapping[str, Any], now: float) -> dict[str, Any]:
    workers = cluster["workers"]
    counts = [f"{workers[state]} {_counted(state)}" for state in _WORKER_STATES if workers[state]]
    memory = cluster["memory_bytes"]
    left = cluster["seconds_left"]
    return {
        **cluster,
        "short": cluster["name"][:8],
        "words": cluster["words"][:1].upper() + cluster["words"][1:],
        "over": cluster["state"] in _OVER,
        "is": _STATES.get(cluster["state"], cluster["state"]),
        "where": _PLACES.get(cluster["backend"], cluster["backend"]),
        "have": ", ".join(counts) or "none",
        "memory": str(Memory(memory)) if memory else "none",
        "cores": f"{cluster['cores']:g}",
        "age": _span(now - cluster["started"]),
        "left": None if left is None else _span(left),
        "environment": "" if cluster["environment"] == "default" else cluster["environment"],
        "sharing": _sharing(cluster.get("shared") or {}),
    }


def _sharing(shared: Mapping[str, Sequence[str]]) -> str:
    """Say in a link whether a dashboard is shared."""
    number = len(shared.get("users", ())) + len(shared.get("groups", ()))
    return f"Share (now with {number})" if number else "Share"


def _counted(state: str) -> str:
    return {"running": "running", "queued": "queued", "starting": "starting"}.get(state, "ending")


def _span(seconds: float) -> str:
    """Say a length of time as people do: to the minute, and below one in seconds."""
    whole = max(0, int(seconds))
    whole -= whole % _MINUTE if whole >= _MINUTE else 0
    return str(Duration(whole)) if whole else "0 s"


def _clock(now: float) -> dict[str, str]:
    moment = datetime.fromtimestamp(now, UTC)
    return {"iso": moment.isoformat(timespec="seconds"), "words": moment.strftime("%H:%M:%S UTC")}


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("qhub_gateway.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _template(name: str) -> Any:  # noqa: ANN401 - a template of jinja2
    return _environment().get_template(name)
