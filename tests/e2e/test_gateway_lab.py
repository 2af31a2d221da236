"""Dask in JupyterLab, in a real browser: its panel, its widget, and dashboards with all they show."""

from __future__ import annotations

import json
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from qhub_gateway.page import individual_plots
from tests.conftest import missing
from tests.e2e import browsing
from tests.systems.dask_service import PAGE, DaskService
from tests.systems.hub import HubSystem
from tests.systems.processes import SystemUnavailableError, wait_until
from tests.systems.userenv import lab_packages, product_site

pytestmark = pytest.mark.timeout(400)

PROFILES = """
- slug: general
  display_name: General
  default: true
  cpu: 1
  memory: 300 MiB
  local: {}
"""
HUB = """
c.QHubSpawner.profiles = "{profiles}"
c.Spawner.environment = {{
    "PYTHONPATH": "{site}:{lab}",
    "JUPYTER_PATH": "{lab}/share/jupyter",
    "JUPYTER_CONFIG_PATH": "{lab}/etc/jupyter",
}}
c.Spawner.cmd = ["{bin}/jupyterhub-singleuser"]
"""
GATEWAY = """
c.QHubGatewayBackend.worker_variables = {{"PYTHONPATH": "{lab}"}}
"""
CELL = """
from qhub_gateway import Gateway
cluster = Gateway().new_cluster()
cluster
"""

Visit = Callable[[str, str], Page]


@pytest.fixture(scope="module")
def site(user_bin: Path) -> Iterator[tuple[HubSystem, DaskService]]:
    """A hub with the gateway and its page; alice has a JupyterLab with Dask's panel in it."""
    from tests.systems.slurm.unix_users import HUB_USER, ensure_service_user

    try:
        lab = lab_packages()
    except SystemUnavailableError as error:
        missing("Dask's panel in JupyterLab", error)
    folder = Path(tempfile.mkdtemp(prefix="qhub-gateway-lab-"))
    folder.chmod(0o755)
    ensure_service_user(HUB_USER)
    profiles = folder / "profiles.yaml"
    profiles.write_text(PROFILES)
    profiles.chmod(0o644)
    packages = product_site(folder)
    hub = HubSystem(
        folder / "hub",
        HUB.format(profiles=profiles, site=packages, lab=lab, bin=user_bin),
        environment_bin=user_bin,
        python_path=packages,
        user=HUB_USER,
    )
    dask = DaskService(
        folder / "dask",
        backends=("local",),
        profiles=profiles,
        python=user_bin / "python",
        account=HUB_USER,
        config=GATEWAY.format(lab=lab),
    )
    dask.join(hub)
    try:
        hub.start()
        dask.wait_ready(hub)
        for name in ("alice", "bob"):
            hub.add_user(name)
        hub.start_server("alice", {"profile": "general"})
        hub.wait_ready("alice")
        yield hub, dask
        hub.stop_server("alice")
        hub.wait_stopped("alice")
    finally:
        hub.stop()
        dask.release()


@pytest.fixture
def visit(site: Any, browser: Browser) -> Iterator[Visit]:
    """Open something of the hub as somebody who has logged in."""
    hub, _ = site
    contexts: list[BrowserContext] = []

    def open_page(name: str, path: str) -> Page:
        context = browser.new_context(**browsing.DESK)
        context.set_default_timeout(browsing.DEADLINE_SECONDS * 1000)
        contexts.append(context)
        page = context.new_page()
        browsing.sign_in(page, hub.url, name)
        page.goto(f"{hub.url}{path}")
        return page

    yield open_page
    for context in contexts:
        context.close()


Ask = Callable[..., Any]


@pytest.fixture
def ask(site: Any) -> Iterator[Ask]:
    """Ask the gateway as alice; afterwards she has no cluster."""
    hub, dask = site
    token = hub.user_token("alice")

    def asked(method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"{dask.url}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {token}"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
            return json.loads(text) if text else None

    yield asked
    for each in asked("GET", "qhub/clusters")["clusters"]:
        asked("DELETE", f"v1/clusters/{each['name']}")
    gone(asked)


def running(ask: Ask, workers: int) -> dict[str, Any]:
    """Wait for the one cluster with so many workers; those that failed stay listed."""

    def there() -> list[dict[str, Any]]:
        every = ask("GET", "qhub/clusters")["clusters"]
        found = [each for each in every if each["state"] != "failed"]
        states = [(each["state"], each["workers"]["running"]) for each in found]
        return found if states == [("running", workers)] else []

    return wait_until(there, 90, f"a cluster with {workers} workers", poll_seconds=0.2)[0]


def gone(ask: Ask) -> None:
    """Wait until there is no cluster."""
    left = lambda: ask("GET", "v1/clusters/")  # noqa: E731
    wait_until(lambda: not left(), 90, "the end of the cluster", poll_seconds=0.2)


def test_dasks_panel(site: Any, visit: Visit, ask: Ask) -> None:
    """The panel makes a cluster, scales and ends it; given its link, it shows charts of it."""
    _, dask = site
    page = visit("alice", "user/alice/lab")
    page.get_by_role("tab", name="Dask").click()
    panel = page.locator(".dask-DaskSidebar")
    panel.get_by_text("NEW", exact=True).click()
    item = panel.locator(".dask-ClusterListingItem")
    expect(item).to_contain_text("GatewayCluster 1")
    running(ask, 0)
    item.get_by_text("SCALE", exact=True).click()
    page.locator(".dask-ScalingInput").first.fill("1")
    page.locator(".jp-Dialog").get_by_text("SCALE", exact=True).click()
    made = running(ask, 1)
    # charts: behind the person's own session, as the page's are
    link = item.get_by_role("link").get_attribute("href")
    assert link is not None
    assert link.endswith(f"/services/dask-gateway{made['dashboard']}"), dask.url
    panel.locator(".dask-URLInput input").fill(link)
    panel.locator(".dask-URLInput input").press("Enter")
    panel.get_by_role("button", name="Task Stream", exact=True).click()
    chart = page.frame_locator(
        ".dask-DaskDashboard-widget iframe, iframe.dask-DaskDashboard-widget"
    )
    expect(chart.locator(".bk-Figure").first).to_be_visible()
    item.get_by_text("SHUTDOWN", exact=True).click()
    expect(item).to_have_count(0)
    gone(ask)


def test_the_widget(visit: Visit, ask: Ask) -> None:
    """A cluster that is the last line of a notebook's cell shows itself, and scales."""
    page = visit("alice", "user/alice/lab?reset")
    page.locator(".jp-LauncherCard", has_text="Python 3").first.click()
    # what is sent to a kernel that is not there yet is lost
    expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible()
    page.locator(".jp-Notebook .cm-content").first.click()
    page.keyboard.insert_text(CELL)
    page.keyboard.press("Shift+Enter")
    shown = page.locator(".jp-OutputArea-output", has_text="GatewayCluster")
    expect(shown).to_contain_text(running(ask, 0)["name"])
    shown.get_by_text("Manual Scaling").click()
    shown.get_by_label("Workers").first.fill("1")
    shown.get_by_role("button", name="Scale", exact=True).click()
    running(ask, 1)


def test_a_real_dashboard(visit: Visit, ask: Ask) -> None:
    """Its owner sees the status page drawn, by its websocket, behind their session; others nothing."""
    name = ask("POST", "v1/clusters/", {"cluster_options": {}})["name"]
    running(ask, 0)
    page = visit("alice", f"{PAGE}/{name}/dashboard/status")
    expect(page.locator(".bk-Figure").first).to_be_visible()
    assert page.evaluate("Bokeh.documents.length") == 1
    url = page.url
    # what Dask's panel is told of any dashboard is what this one has
    page.goto(url.removesuffix("status") + "individual-plots.json")
    plots = json.loads(page.evaluate("document.body.innerText"))
    drawn = {name: path for name, path in plots.items() if path.startswith("/individual-")}
    assert drawn == individual_plots()
    other = visit("bob", PAGE)
    answer = other.goto(url)
    assert answer is not None
    assert answer.status == 404
    socket = url.replace("http", "ws", 1) + "/ws"
    opened = """url => new Promise(told => {
        const socket = new WebSocket(url, ["bokeh"]);
        socket.onopen = () => told("open"); socket.onerror = () => told("refused"); })"""
    assert other.evaluate(opened, socket) == "refused"
