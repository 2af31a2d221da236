"""The round: log in, choose, wait, run code, stop; as a person would, through the real pages."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tests.systems.hub import HubSystem
from tests.systems.kernel import run_in_kernel
from tests.systems.processes import NotReadyError, tail, wait_until
from tests.systems.slurm_hub import SlurmHub

from .stage import Stage, say
from .visitor import Page, VisitError, Visitor

READY_SECONDS = 180
STOP_SECONDS = 60
LOG_LINES = 30

CODE = """
import json, os, platform, pwd
names = ("JUPYTERHUB_USER", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "SLURM_JOB_PARTITION",
         "SLURMD_NODENAME")
print(json.dumps({"answer": 6 * 7, "account": pwd.getpwuid(os.getuid()).pw_name,
                  "python": platform.python_version(),
                  **{name: os.environ.get(name, "") for name in names}}))
"""


class CheckFailedError(Exception):
    """The round did not go as it should; says where."""


@dataclass(frozen=True)
class _Round:
    """What was seen; the text is the one line that is left of it."""

    user: str
    profile: str
    where: str
    ready_seconds: float
    kernel: str
    stop_seconds: float

    def __str__(self) -> str:
        return (
            f"ok: {self.user} chose {self.profile}; {self.where} was ready after "
            f"{self.ready_seconds:.1f} s; its kernel said: {self.kernel}; "
            f"stopped in {self.stop_seconds:.1f} s"
        )


def check(stage: Stage) -> str:
    """Make the round as the first of the people; returns what was seen, in one line.

    Raises:
        CheckFailedError: It did not get through; with the end of the hub's log.
    """
    try:
        return str(_round(stage))
    except (CheckFailedError, VisitError, NotReadyError, LookupError, OSError) as error:
        message = f"{error}\nthe end of the hub's log {stage.hub.log}:\n"
        raise CheckFailedError(message + tail(stage.hub.log, LOG_LINES)) from error


def _round(stage: Stage) -> _Round:
    hub, user = stage.hub, stage.people[0]
    visitor = Visitor()
    page = log_in(visitor, hub.url, user, stage.password)
    say(f"{user} is logged in, at {page.url}")
    began = time.monotonic()
    page = choose(visitor, page, stage.check_profile)
    page = wait(visitor, page, began)
    ready_seconds = time.monotonic() - began
    base = f"{hub.url}user/{quote(user)}/"
    if not page.url.startswith(base):
        raise CheckFailedError(f"the ready server sent the person to {page.url}, not to {base}")
    said = _run(visitor, base)
    where = _where(hub, user, said)
    kernel = f"6 x 7 = {said['answer']}, as {said['account']}, Python {said['python']}"
    if said["CUDA_VISIBLE_DEVICES"]:
        kernel += f", GPU {said['CUDA_VISIBLE_DEVICES']}"
    say(f"the kernel said: {kernel}")
    began = time.monotonic()
    _stop(visitor, hub, user)
    stop_seconds = time.monotonic() - began
    return _Round(user, stage.check_profile, where, ready_seconds, kernel, stop_seconds)


def log_in(visitor: Visitor, url: str, user: str, password: str) -> Page:
    """Log in on the real page; returns the page to choose from.

    Raises:
        CheckFailedError: It is another page.
        VisitError: The hub refuses it.
    """
    page = visitor.open(url)
    page = visitor.submit(page.form("/hub/login"), username=user, password=password)
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


def _run(visitor: Visitor, base: str) -> dict[str, Any]:
    try:
        printed = asyncio.run(run_in_kernel(base, visitor.credentials(base), CODE))
        said: dict[str, Any] = json.loads(printed)
    except (RuntimeError, TimeoutError, ValueError) as error:
        raise CheckFailedError(f"running code in a kernel failed: {error!r}") from error
    return said


def _where(hub: HubSystem, user: str, said: dict[str, Any]) -> str:
    """Hold what the kernel said against what the systems say, and name the place."""
    if said["JUPYTERHUB_USER"] != user:
        raise CheckFailedError(f"this is the kernel of {said['JUPYTERHUB_USER']!r}, not {user!r}")
    if not isinstance(hub, SlurmHub):
        state = (hub.server(user) or {}).get("state") or {}
        return f"process {state.get('qhub', {}).get('pid')} on this machine"
    job, jobs, account = said["SLURM_JOB_ID"], hub.jobs(), said["account"]
    if account != user:
        raise CheckFailedError(f"the kernel runs as {account!r}, not as {user!r}")
    if not job.isdigit() or jobs.get(int(job)) != "RUNNING":
        raise CheckFailedError(f"the kernel says that it is in job {job!r}; Slurm's list: {jobs}")
    return f"job {job} on {said['SLURMD_NODENAME']} in partition {said['SLURM_JOB_PARTITION']}"


def _stop(visitor: Visitor, hub: HubSystem, user: str) -> None:
    """Stop the server as the button on the hub's home page does; Slurm has to agree."""
    visitor.open(f"{hub.url}hub/home")
    visitor.delete(f"{hub.url}hub/api/users/{quote(user)}/server")
    hub.wait_stopped(user, deadline_seconds=STOP_SECONDS)
    if isinstance(hub, SlurmHub):
        wait_until(lambda: not hub.jobs(), STOP_SECONDS, "the end of the job", poll_seconds=0.2)
