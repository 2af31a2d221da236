"""The page of clusters in a real browser: live, by keyboard, on a phone, and for everybody."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.e2e import browsing
from tests.systems.dask_service import PAGE, DaskService
from tests.systems.hub import HubSystem
from tests.systems.processes import wait_until
from tests.systems.userenv import product_site

PROFILES = """
- slug: general
  display_name: General
  default: true
  cpu: 1
  memory: 200 MiB
  walltime: 2h
  local: {}
"""
CONFIG = """
c.People.limits = {"user": {"workers": 1}}
c.HubAuthenticator.cache_seconds = 1
"""
PHONE = {"viewport": {"width": 390, "height": 800}, "has_touch": True, "is_mobile": True}
LOOKS = {
    "wide": {},
    "wide-dark": {"color_scheme": "dark"},
    "phone": PHONE,
    "phone-dark": {**PHONE, "color_scheme": "dark"},
}

Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def site(user_bin: Path) -> Iterator[tuple[HubSystem, DaskService]]:
    """A hub that runs the gateway and the page; clusters are processes beside them."""
    from tests.systems.slurm.unix_users import HUB_USER, ensure_service_user

    folder = Path(tempfile.mkdtemp(prefix="qhub-gateway-page-"))
    folder.chmod(0o755)
    ensure_service_user(HUB_USER)
    (folder / "profiles.yaml").write_text(PROFILES)
    (folder / "profiles.yaml").chmod(0o644)
    hub = HubSystem(
        folder / "hub",
        "",
        environment_bin=user_bin,
        python_path=product_site(folder),
        user=HUB_USER,
    )
    dask = DaskService(
        folder / "dask",
        backends=("local",),
        profiles=folder / "profiles.yaml",
        python=user_bin / "python",
        account=HUB_USER,
        config=CONFIG,
    )
    dask.join(hub)
    try:
        hub.start()
        dask.wait_ready(hub)
        for name in ("alice", "bob", "admin"):
            hub.add_user(name)
        yield hub, dask
    finally:
        hub.stop()
        dask.release()


@pytest.fixture
def ask(site: Any) -> Callable[..., Any]:
    """Ask the gateway's API as somebody, as a script would."""
    hub, dask = site
    tokens = {name: hub.user_token(name) for name in ("alice", "bob")}

    def asked(method: str, path: str, body: Any = None, name: str = "alice") -> Any:
        request = urllib.request.Request(
            f"{dask.url}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {tokens[name]}"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
            return json.loads(text) if text else None

    return asked


@pytest.fixture
def clusters(ask: Callable[..., Any]) -> Iterator[Callable[..., str]]:
    """Make clusters of alice's; afterwards none is left."""

    def listed() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = ask("GET", "qhub/clusters")["clusters"]
        return [each for each in found if each["state"] != "failed"]

    def make(workers: int = 0) -> str:
        name: str = ask("POST", "v1/clusters/", {"cluster_options": {}})["name"]
        if workers:
            running = {"state": "running", "name": name}
            wait_until(
                lambda: any(running.items() <= each.items() for each in listed()),
                browsing.DEADLINE_SECONDS,
                "the cluster",
                poll_seconds=0.2,
            )
            ask("POST", f"v1/clusters/{name}/scale", {"count": workers})
        return name

    yield make
    for each in listed():
        ask("DELETE", f"v1/clusters/{each['name']}")
    wait_until(lambda: not listed(), 60, "the end of all clusters", poll_seconds=0.2)


@pytest.fixture
def visit(site: Any, browser: Browser) -> Iterator[Visit]:
    """Open the page as somebody who has logged in; none of its scripts may fail."""
    hub, _ = site
    contexts: list[BrowserContext] = []
    faults: list[str] = []

    def open_page(name: str, path: str = "", **options: Any) -> Page:
        context = browser.new_context(**{**browsing.DESK, **options})
        context.set_default_timeout(browsing.DEADLINE_SECONDS * 1000)
        contexts.append(context)
        page = context.new_page()
        browsing.sign_in(page, hub.url, name)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "console",
            lambda said: faults.append(said.text) if "Content Security" in said.text else None,
        )
        page.goto(f"{hub.url}{PAGE}{path}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults


def section(page: Page, name: str) -> Any:
    return page.locator(f'[data-cluster="{name}"]')


def test_from_the_first_cluster_to_the_last(
    visit: Visit, clusters: Callable[..., str], ask: Callable[..., Any]
) -> None:
    """The open page shows a cluster as it comes, grows and goes, without a reload; it is whose it is."""
    page = visit("alice")
    expect(page.get_by_text("There is no cluster now.")).to_be_visible()
    page.evaluate("window.opened = 1")
    name = clusters(workers=2)
    mine = section(page, name)
    expect(mine).to_contain_text("It runs on the hub's own machine.")
    expect(mine).to_contain_text("1 running of 2 wanted")
    expect(mine).to_contain_text("The limit for alice is 1 worker")
    expect(mine).to_contain_text("Walltime left")
    mine.get_by_role("button", name="Stop").focus()
    as_of = page.locator("time").inner_text()
    expect(page.locator("time")).not_to_have_text(as_of)
    # what is fetched anew takes the place of the old, and the keyboard stays where it was
    expect(mine.get_by_role("button", name="Stop")).to_be_focused()
    page.get_by_role("button", name="Pause updates").click()
    expect(page.get_by_role("button", name="Pause updates")).to_have_attribute(
        "aria-pressed", "true"
    )
    page.get_by_role("button", name="Pause updates").click()
    mine.get_by_role("button", name="Stop").press("Enter")
    expect(section(page, name)).to_have_count(0)


def test_logs_and_sharing(visit: Visit, clusters: Callable[..., str]) -> None:
    """An owner reads logs, of the scheduler and of a worker, and shares a dashboard with a person."""
    name = clusters(workers=1)
    bob = visit("bob")
    expect(bob.get_by_text("There is no cluster now.")).to_be_visible()
    page = visit("alice")
    expect(section(page, name)).to_contain_text("1 running of 1 wanted")
    section(page, name).get_by_role("link", name="Logs").click()
    expect(page.get_by_role("region", name="Log")).to_contain_text("Scheduler at")
    page.get_by_label("Log of").select_option(index=1)
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Log of worker")
    expect(page.get_by_role("region", name="Log")).to_contain_text("worker", ignore_case=True)
    page.get_by_role("link", name="Back to the clusters").click()
    section(page, name).get_by_role("link", name="Share").click()
    page.get_by_label("People, by their names on the hub").fill("bob\n")
    page.get_by_role("button", name="Share").click()
    expect(page.get_by_role("status")).to_have_text("It is shared as it stands here.")
    theirs = section(bob, name)
    expect(theirs).to_contain_text("of alice")
    expect(theirs.get_by_role("button")).to_have_count(0)
    with bob.expect_navigation() as navigation:
        theirs.get_by_role("link", name="Dashboard").click()
    assert navigation.value is not None
    assert navigation.value.status == 200
    page.get_by_label("People, by their names on the hub").fill("")
    page.get_by_role("button", name="Share").click()
    answer = bob.reload()
    assert answer is not None
    assert answer.status == 404


def test_an_administrator_sees_everyones(visit: Visit, clusters: Callable[..., str]) -> None:
    """An administrator sees everyone's, with a stop, and without their dashboards."""
    name = clusters(workers=1)
    page = visit("admin")
    expect(section(page, name)).to_have_count(0)
    page.get_by_role("link", name="Everyone's").click()
    expect(section(page, name)).to_contain_text("of alice")
    expect(section(page, name).get_by_role("link", name="Dashboard")).to_have_count(0)
    expect(section(page, name).get_by_role("link", name="Logs")).to_have_count(1)
    section(page, name).get_by_role("button", name="Stop").click()
    expect(section(page, name)).to_have_count(0)


def test_a_cluster_that_failed(visit: Visit, clusters: Callable[..., str]) -> None:
    """A cluster whose scheduler died stays on the open page, says why, and shows its log."""
    page = visit("alice")
    name = clusters(workers=1)
    mine = section(page, name)
    expect(mine).to_contain_text("1 running of 1 wanted")
    for pid in scheduler_of(name):
        os.kill(pid, signal.SIGKILL)
    expect(mine).to_contain_text("It has failed on the hub's own machine.")
    expect(mine).to_contain_text("Its scheduler ended: its process has ended")
    expect(mine.get_by_role("button")).to_have_count(0)
    expect(page.get_by_text("There is no cluster now.")).to_be_visible()
    assert not Axe().run(page).response["violations"]
    mine.get_by_role("link", name="Logs").click()
    expect(page.get_by_role("region", name="Log")).to_contain_text("Scheduler at")


def scheduler_of(name: str) -> list[int]:
    """Return the processes of a cluster's scheduler."""
    mark = f"DASK_GATEWAY_CLUSTER_NAME={name}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            mine = mark in (path / "environ").read_bytes()
            if mine and b"dask_scheduler" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    assert found
    return found


def test_without_scripts(visit: Visit, clusters: Callable[..., str]) -> None:
    """Without JavaScript the page is whole: it shows, it is looked at again, and it stops."""
    name = clusters(workers=1)
    page = visit("alice", java_script_enabled=False)
    expect(section(page, name)).to_have_count(1)
    page.get_by_role("link", name="Refresh").click()
    expect(page.get_by_role("button", name="Pause updates")).to_be_hidden()
    section(page, name).get_by_role("button", name="Stop").click()
    expect(section(page, name).get_by_role("button")).to_have_count(0)


def test_everybody_can_use_it(visit: Visit, clusters: Callable[..., str]) -> None:
    """axe finds nothing on any of the pages, wide and narrow, light and dark; nothing is cut off."""
    name = clusters(workers=2)
    for look, options in LOOKS.items():
        page = visit("alice", **options)
        expect(section(page, name)).to_contain_text("1 running of 2 wanted")
        # the other two have nothing of their own that is wide, and the same colours
        others = (f"/{name}/logs", f"/{name}/sharing") if look in {"wide", "phone-dark"} else ()
        for path in ("", *others):
            if path:
                page.goto(f"{page.url.partition('/clusters')[0]}/clusters{path}")
            found = Axe().run(page).response["violations"]
            assert not found, (look, path, found)
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), look
            _keep(page, f"{look}{path.rpartition('/')[2]}")


def _keep(page: Page, name: str) -> None:
    """Keep a picture of the page for whoever wants to look at it: build/tests/gateway-page."""
    folder = Path(__file__).parents[2] / "build/tests/gateway-page"
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png", full_page=True)
