"""One hub on the real Slurm for the whole ring, and real browsers that people sit at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.conftest import missing
from tests.e2e import browsing, site
from tests.systems.processes import SystemUnavailableError, wait_until
from tests.systems.slurm_hub import SlurmHub

PEOPLE = ("alice", "bob")


@pytest.fixture(scope="session")
def the_hub(slurm: Any, user_bin: Any) -> Iterator[SlurmHub]:
    """The hub of the whole ring; use `hub`, which tidies up."""
    hub = SlurmHub(slurm, profiles=site.PROFILES, config=site.CONFIG)
    try:
        hub.start()
        for name in (*PEOPLE, "admin"):
            hub.add_user(name)
        yield hub
    finally:
        hub.stop()


@pytest.fixture
def hub(the_hub: SlurmHub) -> Iterator[SlurmHub]:
    """The hub, without servers and with an empty queue, before and after."""
    yield the_hub
    for name in PEOPLE:
        the_hub.slurm.run(["scancel", f"--user={name}"])
    for name in PEOPLE:
        wait_until(
            lambda name=name: the_hub.stop_server(name).status not in {202, 400},
            browsing.DEADLINE_SECONDS,
            f"the end of {name}'s server",
            poll_seconds=0.2,
        )
        the_hub.wait_stopped(name)
    wait_until(lambda: not the_hub.slurm.run(["squeue", "-h"]).stdout, 60, "an empty queue")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser.

    For one module, as Playwright's event loop goes on running in this thread until it is closed,
    and other modules have tests that run one of their own.
    """
    try:
        with browsing.chromium() as browser:
            yield browser
    except SystemUnavailableError as error:
        missing("Chromium", error)


@pytest.fixture(scope="session")
def cookies() -> dict[str, Any]:
    """Who has logged in: their cookies."""
    return {}


@pytest.fixture
def visit(hub: SlurmHub, browser: Browser, cookies: dict[str, Any]) -> Iterator[browsing.Visit]:
    """Open the hub as a person who has logged in; no script of a hub's page may fail."""
    contexts: list[BrowserContext] = []
    faults: list[str] = []

    def open_page(name: str, path: str = "hub/spawn", **options: Any) -> Page:
        def context(**more: Any) -> BrowserContext:
            made = browser.new_context(**{**browsing.DESK, **more})
            made.set_default_timeout(browsing.DEADLINE_SECONDS * 1000)
            contexts.append(made)
            return made

        if name not in cookies:
            first = context()
            browsing.sign_in(first.new_page(), hub.url, name)
            cookies[name] = first.storage_state()
        page = context(storage_state=cookies[name], **options).new_page()
        page.on(
            "pageerror",
            lambda error: faults.append(f"{page.url}: {error}") if "/hub/" in page.url else None,
        )
        page.goto(hub.url + path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults


@pytest.fixture
def sleepers(hub: SlurmHub) -> Callable[..., list[int]]:
    """Fill the partition general with jobs of bob that take a whole node for 25 minutes each.

    With `seen=False` the hub need not have noticed yet.
    """

    def submit(count: int, *, seen: bool = True) -> list[int]:
        wanted = ("--partition=general", "--exclusive", "--time=25", "--mem=100M")
        jobs = [hub.slurm.sbatch("bob", "sleep 1500", *wanted) for _ in range(count)]
        for job in jobs[:2]:  # there are two nodes
            wait_until(lambda job=job: hub.slurm.job_state(job) == "RUNNING", 60, f"job {job}")
        if seen:
            wait_until(
                lambda: site.availability(hub, "general")["start"]["kind"] == "at",
                browsing.DEADLINE_SECONDS,
                "the figures of a full partition",
                poll_seconds=0.2,
            )
        return jobs

    return submit
