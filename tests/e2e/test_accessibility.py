"""axe-core finds nothing in what we show: the options page in all its states, the waiting page."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.e2e import browsing
from tests.systems.processes import wait_until
from tests.systems.slurm_hub import SlurmHub

# Of the hub's own templates, which we do not replace: a page without <main>, so that nothing is in
# a landmark; the Start button, white on JupyterHub's orange.
HUBS_RULES = {"landmark-one-main", "region"}
HUBS_ELEMENTS = ("btn-jupyter",)
# Its waiting page has no heading, and a progress bar without a name.
HUBS_RULES_OF_WAITING = {"page-has-heading-one", "aria-progressbar-name"}

# axe cannot see through what lies over a text: the label that covers a card's head, the sticky bar
UNCOVERED = """
.qhub-name::after { content: none !important }
.feedback-container { position: static !important }
"""


def _violations(page: Page, hubs_rules: Collection[str] = ()) -> list[str]:
    """What axe finds on the whole page, without what is the hub's own."""
    page.add_style_tag(content=UNCOVERED)
    found = Axe().run(page).response["violations"]
    return [
        f"{violation['id']}: {node['html'][:200]}"
        for violation in found
        if violation["id"] not in {*HUBS_RULES, *hubs_rules}
        for node in violation["nodes"]
        if not any(name in node["html"] for name in HUBS_ELEMENTS)
    ]


@pytest.mark.parametrize(
    ("options", "query"),
    [
        pytest.param({}, "profile=general&options.time=3h", id="light"),
        pytest.param({"color_scheme": "dark"}, "profile=general&options.time=3h", id="dark"),
        pytest.param(browsing.PHONE, "profile=gpu", id="phone"),
        pytest.param({**browsing.PHONE, "color_scheme": "dark"}, "profile=gpu", id="phone-dark"),
        pytest.param({}, "profile=gpux", id="error"),
        pytest.param({"color_scheme": "dark"}, "profile=long", id="error-dark"),
    ],
)
def test_the_options_page(visit: browsing.Visit, options: Any, query: str) -> None:
    """The options page has no violation, in light and dark, on a phone, with an error."""
    page = visit("alice", f"hub/spawn?{query}", **options)
    expect(page.locator(".qhub-card").first).to_be_visible()
    assert _violations(page) == []


def test_the_options_page_of_a_full_cluster(visit: browsing.Visit, sleepers: Any) -> None:
    """Nor has it where profiles start later, in light and dark."""
    sleepers(2)
    for scheme in ("light", "dark"):
        page = visit("alice", "hub/spawn", color_scheme=scheme)
        expect(browsing.live(page, "general")).to_contain_text("Starts in")
        assert _violations(page) == []


def test_the_waiting_page(hub: SlurmHub, visit: browsing.Visit, sleepers: Any) -> None:
    """The hub's waiting page, with our messages, has no violation."""
    sleepers(2)
    page = visit("alice", "hub/spawn?profile=general")
    browsing.start(page)
    wait_until(lambda: hub.jobs("PENDING"), 30, "the job")
    expect(page.locator("#progress-message")).to_contain_text("waits in partition general")
    page.locator("#progress-details summary").click()
    assert _violations(page, HUBS_RULES_OF_WAITING) == []
