"""The round: log in, choose, wait, run code, stop; as a person would, through the real pages."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from tests.systems.both_hub import BothHub
from tests.systems.dask_service import PAGE
from tests.systems.hub import HubSystem
from tests.systems.kernel import run_in_kernel
from tests.systems.kubernetes_hub import KubernetesHub
from tests.systems.processes import NotReadyError, tail, wait_until
from tests.systems.slurm_hub import SlurmHub

from .stage import Stage, say
from .visitor import Page, VisitError, Visitor

READY_SECONDS = 180
STOP_SECONDS = 60
LOG_LINES = 30
KEYCLOAK_FORM = "kc-form-login"

CODE = """
import json, os, platform, pwd, socket
from pathlib import Path
names = ("JUPYTERHUB_USER", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "SLURM_JOB_PARTITION",
         "SLURMD_NODENAME")
note = Path.home() / ".qhub-demo-check"
left = note.read_text() if note.exists() else ""
note.write_text({leave!r}) if {leave!r} else note.unlink(missing_ok=True)
print(json.dumps({{"answer": 6 * 7, "account": pwd.getpwuid(os.getuid()).pw_name,
                  "uid": os.getuid(), "home": str(Path.home()), "machine": socket.gethostname(),
                  "left": left, "python": platform.python_version(),
                  **{{name: os.environ.get(name, "") for name in names}}}}))
"""

# What a person runs in a notebook, with qhub's own client where their software has it. The cluster
# outlives the kernel: the page is to show it, and to end it.
CLUSTER_CODE = """
import json, os
try:
    from qhub_gateway import Gateway
except ImportError:
    from dask_gateway import Gateway

def where():
    import os, platform
    return [os.getuid(), os.environ.get("SLURM_JOB_ID", ""), platform.node()]

cluster = Gateway().new_cluster(shutdown_on_close=False, **{options!r})
cluster.scale({workers})
client = cluster.get_client()
client.wait_for_workers({workers}, timeout={seconds})
total = client.submit(sum, client.map(lambda x: x * x, range(100))).result(timeout={seconds})
print(json.dumps({{"name": cluster.name, "total": total, "client": Gateway.__module__,
                  "workers": list(client.run(where).values())}}))
client.close()
"""
WORKERS = 2


class CheckFailedError(Exception):
    """The round did not go as it should; says where."""


@dataclass(frozen=True)
class _Round:
    """What was seen with one profile; the text is what the one line says of it."""

    profile: str
    where: str
    ready_seconds: float
    kernel: str
    stop_seconds: float
    said: Mapping[str, Any]
    cluster: str

    def __str__(self) -> str:
        return (
            f"chose {self.profile}; {self.where} was ready after {self.ready_seconds:.1f} s; "
            f"its kernel said: {self.kernel}; {f'{self.cluster}; ' if self.cluster else ''}"
            f"stopped in {self.stop_seconds:.1f} s"
        )


def check(stage: Stage) -> str:
    """Make the round as the first of the people; returns what was seen, in one line.

    Raises:
        CheckFailedError: It did not get through; with the end of the hub's log.
    """
    try:
        return _rounds(stage)
    except (CheckFailedError, VisitError, NotReadyError, LookupError, OSError) as error:
        message = f"{error}\nthe end of the hub's log {stage.hub.log}:\n"
        raise CheckFailedError(message + tail(stage.hub.log, LOG_LINES)) from error


def _rounds(stage: Stage) -> str:
    """Go through every profile of the check, and hold each against the one before."""
    hub, user = stage.hub, stage.people[0]
    visitor = Visitor()
    page = log_in(visitor, hub.url, user, stage.password)
    say(f"{user} is logged in, at {page.url}")
    texts, before, leave = [], None, ""
    for profile, later in zip(stage.check_profiles, (*stage.check_profiles[1:], ""), strict=True):
        wanted, leave = leave, f"{secrets.token_hex(8)} for {later}" if later else ""
        seen = _round(stage, visitor, page, profile, leave)
        texts.append(str(seen))
        if before is not None:
            texts[-1] += f"; {_same(before, seen, wanted)}"
        before = seen
        page = visitor.open(f"{hub.url}hub/spawn") if later else page
    return f"ok: {user} {', then '.join(texts)}"


def _round(stage: Stage, visitor: Visitor, page: Page, profile: str, leave: str) -> _Round:
    hub, user = stage.hub, stage.people[0]
    began = time.monotonic()
    page = choose(visitor, page, profile)
    page = wait(visitor, page, began)
    ready_seconds = time.monotonic() - began
    base = f"{hub.url}user/{quote(user)}/"
    if not page.url.startswith(base):
        raise CheckFailedError(f"the ready server sent the person to {page.url}, not to {base}")
    said = _run(visitor, base, leave)
    where = _where(hub, user, said)
    kernel = f"6 x 7 = {said['answer']}, as {said['account']}, Python {said['python']}"
    if said["CUDA_VISIBLE_DEVICES"]:
        kernel += f", GPU {said['CUDA_VISIBLE_DEVICES']}"
    say(f"the kernel said: {kernel}")
    cluster = ""
    if profile in stage.cluster_profiles:
        cluster = _cluster(stage, visitor, base, stage.cluster_profiles[profile], said)
        say(cluster)
    began = time.monotonic()
    _stop(visitor, hub, user)
    stop_seconds = time.monotonic() - began
    return _Round(profile, where, ready_seconds, kernel, stop_seconds, said, cluster)


def _same(before: _Round, after: _Round, left: str) -> str:
    """Hold one server against another: the same person, with the same files."""
    for fact in ("account", "uid", "home"):
        if before.said[fact] != after.said[fact]:
            raise CheckFailedError(
                f"with {before.profile} the {fact} is {before.said[fact]!r}, "
                f"with {after.profile} {after.said[fact]!r}"
            )
    if after.said["left"] != left:
        raise CheckFailedError(
            f"{after.profile} reads {after.said['left']!r} in the home, where {before.profile} "
            f"wrote {left!r}"
        )
    return f"both ran with uid {after.said['uid']}, and it read what {before.profile} had written"


def log_in(visitor: Visitor, url: str, user: str, password: str) -> Page:
    """Log in on the real page; returns the page to choose from.

    Raises:
        CheckFailedError: It is another page.
        VisitError: The hub refuses it.
    """
    page = visitor.open(url)
    if urlsplit(page.url).path == "/hub/login" and not page.has("/hub/login"):
        page = visitor.open(f"{url}hub/oauth_login")
    form = page.form(KEYCLOAK_FORM if page.has(KEYCLOAK_FORM) else "/hub/login")
    page = visitor.submit(form, username=user, password=password)
    if not any(form.name == "spawn_form" for form in page.forms):
        raise CheckFailedError(f"after log-in there is no page to choose from, but {page.url}")
    return page


def choose(visitor: Visitor, page: Page, profile: str) -> Page:
    """Choose a profile as the page offers it, and press Start; returns the page that follows.

    Raises:
        CheckFailedError: The page does not offer it.
        VisitError: The hub refuses it.
    """
    form = page.form("spawn_form")
    offered = form.offered.get("profile", [])
    say(f"the page offers {', '.join(offered)}; choosing {profile}")
    if profile not in offered:
        raise CheckFailedError(f"the page does not offer {profile!r}, only {', '.join(offered)}")
    return visitor.submit(form, profile=profile)


def wait(visitor: Visitor, page: Page, began: float | None = None) -> Page:
    """Follow the events of the waiting page until the server is ready, then go on as it would.

    Raises:
        CheckFailedError: The server did not start, or not in time.
    """
    began = time.monotonic() if began is None else began
    found = re.search(r'new EventSource\("([^"]+)"\)', page.text)
    if found is None:  # it was quicker than the hub shows a waiting page
        return page
    path = json.loads(f'"{found[1]}"').replace("&amp;", "&")
    origin = "/".join(page.url.split("/")[:3])
    for event in visitor.events(origin + path, READY_SECONDS):
        seconds = time.monotonic() - began
        say(f"  {seconds:5.1f} s  {event.get('message', '')}")
        if event.get("failed"):
            raise CheckFailedError(f"the server did not start: {event.get('message')}")
        if event.get("ready"):
            return visitor.open(page.url)
    raise CheckFailedError(f"the server was not ready within {READY_SECONDS} s")


def _run(visitor: Visitor, base: str, leave: str) -> dict[str, Any]:
    """Run the code in a kernel; it leaves the text `leave` in the person's home."""
    try:
        code = CODE.format(leave=leave)
        printed = asyncio.run(run_in_kernel(base, visitor.credentials(base), code))
        said: dict[str, Any] = json.loads(printed)
    except (RuntimeError, TimeoutError, ValueError) as error:
        raise CheckFailedError(f"running code in a kernel failed: {error!r}") from error
    return said


def _cluster(
    stage: Stage, visitor: Visitor, base: str, profile: str, said: Mapping[str, Any]
) -> str:
    """Have a Dask cluster from the notebook compute, and end it on the page of clusters."""
    options = {"profile": profile} if profile else {}
    code = CLUSTER_CODE.format(options=options, workers=WORKERS, seconds=READY_SECONDS)
    began = time.monotonic()
    try:
        printed = asyncio.run(
            run_in_kernel(base, visitor.credentials(base), code, deadline_seconds=2 * READY_SECONDS)
        )
        found: dict[str, Any] = json.loads(printed)
    except (RuntimeError, TimeoutError, ValueError) as error:
        raise CheckFailedError(f"a Dask cluster from the notebook failed: {error!r}") from error
    seconds = time.monotonic() - began
    numbers = {number for number, _, _ in found["workers"]}
    if numbers != {said["uid"]}:
        raise CheckFailedError(f"workers run with uids {numbers}, the notebook with {said['uid']}")
    if bool(said["SLURM_JOB_ID"]) != all(job for _, job, _ in found["workers"]):
        raise CheckFailedError(f"the workers are elsewhere than the notebook: {found['workers']}")
    _end_cluster(stage, visitor, found["name"])
    places = sorted({f"job {job}" if job else machine for _, job, machine in found["workers"]})
    return (
        f"its Dask cluster of {len(found['workers'])} workers in {', '.join(places)} computed "
        f"{found['total']} after {seconds:.1f} s, and the page of clusters showed and stopped it"
    )


def _end_cluster(stage: Stage, visitor: Visitor, name: str) -> None:
    """Press Stop on the page of clusters, as the person would, and see that it goes."""
    address = f"{stage.hub.url}{PAGE}"
    page = visitor.open(address)
    if f'data-cluster="{name}"' not in page.text:
        raise CheckFailedError(f"{page.url} does not show the cluster {name}")
    visitor.submit(page.form(f"/{name}/stop"))
    wait_until(
        lambda: name not in visitor.open(address).text,
        STOP_SECONDS,
        f"the end of the cluster {name}",
        poll_seconds=0.2,
    )


def _where(hub: HubSystem, user: str, said: Mapping[str, Any]) -> str:
    """Hold what the kernel said against what the systems say, and name the place."""
    if said["JUPYTERHUB_USER"] != user:
        raise CheckFailedError(f"this is the kernel of {said['JUPYTERHUB_USER']!r}, not {user!r}")
    if not isinstance(hub, (SlurmHub, KubernetesHub)):
        state = (hub.server(user) or {}).get("state") or {}
        return f"process {state.get('qhub', {}).get('pid')} on this machine"
    if said["account"] != user:
        raise CheckFailedError(f"the kernel runs as {said['account']!r}, not as {user!r}")
    if isinstance(hub, SlurmHub) and said["SLURM_JOB_ID"]:
        return _job(hub, said)
    if isinstance(hub, (KubernetesHub, BothHub)):
        return _pod(hub, said)
    raise CheckFailedError("the kernel is in no job")


def _job(hub: SlurmHub, said: Mapping[str, Any]) -> str:
    job, jobs = said["SLURM_JOB_ID"], hub.jobs()
    if not job.isdigit() or jobs.get(int(job)) != "RUNNING":
        raise CheckFailedError(f"the kernel says that it is in job {job!r}; Slurm's list: {jobs}")
    return f"job {job} on {said['SLURMD_NODENAME']} in partition {said['SLURM_JOB_PARTITION']}"


def _pod(hub: KubernetesHub | BothHub, said: Mapping[str, Any]) -> str:
    name, pods = said["machine"], hub.pods()
    if name not in pods or pods[name]["status"]["phase"] != "Running":
        raise CheckFailedError(f"the kernel says that it is in pod {name!r}; there are {[*pods]}")
    spec = pods[name]["spec"]
    gpus = spec["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
    has = f" with {gpus} GPU" if gpus else ""
    return f"pod {name} on {spec['nodeName']} in namespace {hub.namespace}{has}"


def _stop(visitor: Visitor, hub: HubSystem, user: str) -> None:
    """Stop the server as the button on the hub's home page does; its system has to agree."""
    visitor.open(f"{hub.url}hub/home")
    visitor.delete(f"{hub.url}hub/api/users/{quote(user)}/server")
    hub.wait_stopped(user, deadline_seconds=STOP_SECONDS)
    if isinstance(hub, SlurmHub):
        wait_until(lambda: not hub.jobs(), STOP_SECONDS, "the end of the job", poll_seconds=0.2)
    if isinstance(hub, (KubernetesHub, BothHub)):
        wait_until(lambda: not hub.pods(), STOP_SECONDS, "the end of the pod", poll_seconds=0.2)
