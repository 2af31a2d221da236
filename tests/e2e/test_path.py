"""A person's whole path: log in, choose, wait, work, stop; on the real Slurm, in a real browser."""

from __future__ import annotations

import re

from playwright.sync_api import Browser, Page, expect

from tests.e2e import browsing
from tests.systems.processes import wait_until
from tests.systems.slurm_hub import SlurmHub

CODE = "import os, pwd; print(pwd.getpwuid(os.getuid()).pw_name, os.environ['SLURM_JOB_ID'], 6 * 7)"


def _run_code(page: Page, code: str) -> str:
    """Run code in a console of JupyterLab, as a person does, in a workspace without old windows."""
    page.goto(f"{page.url.partition('?')[0]}?reset")
    page.locator('.jp-LauncherCard[data-category="Console"]').first.click()
    expect(page.locator("#jp-main-statusbar")).to_contain_text("Python 3 (ipykernel) | Idle")
    prompt = page.locator(".jp-CodeConsole-input .cm-content")
    prompt.click()
    prompt.press_sequentially(code)
    page.keyboard.press("Shift+Enter")
    output = page.locator(".jp-CodeConsole-content .jp-OutputArea-output")
    expect(output).to_have_count(1)
    return output.inner_text().strip()


def test_a_person_logs_in_chooses_works_and_stops(
    hub: SlurmHub, browser: Browser, visit: browsing.Visit
) -> None:
    """A person logs in, chooses, is told what happens, works as themselves in a job, and stops."""
    page = browser.new_context(**browsing.DESK).new_page()
    page.set_default_timeout(browsing.DEADLINE_SECONDS * 1000)
    browsing.sign_in(page, hub.url, "alice")

    # the page comes by itself after the login, with figures of the real cluster
    expect(page.get_by_role("radio", name="General", exact=True)).to_be_visible()
    expect(browsing.live(page, "general")).to_contain_text("Starts now")
    expect(browsing.live(page, "general")).to_contain_text("2 of 2 nodes idle, 4 cores free")
    expect(browsing.live(page, "gpu")).to_contain_text("2 of 2 GPUs free")

    # a choice and a free value; the card says what they cost
    browsing.choose(page, "general")
    browsing.option(page, "general", "size", "large").check()
    browsing.option(page, "general", "time", "_other").check()
    browsing.free(page, "general", "time").fill("3 h")
    facts = browsing.card(page, "general").locator(".qhub-facts")
    for words in ("2 cores", "2 GiB memory", "up to 3 h"):
        expect(facts).to_contain_text(words)

    browsing.listen(page)
    assert browsing.start(page) == 200
    page.wait_for_url("**/user/alice/lab**")
    server = hub.server("alice") or {}
    assert server["user_options"] == {
        "profile": "general",
        "options": {"size": "large", "time": "3 h"},
    }

    # each event says something, and the job and its node are named
    (job,) = hub.jobs("RUNNING")
    events = browsing.heard(page)
    said = [event["message"] for event in events]
    assert all(said)
    assert any(
        re.search(rf"Job {job} runs on cn0[12]; the server is starting", one) for one in said
    )
    percents = [event["progress"] for event in events]
    assert percents == sorted(percents)

    # Slurm has what was chosen
    shown = hub.slurm.run(["scontrol", "show", "job", str(job)]).stdout
    for words in ("UserId=alice(", "Partition=general", "TimeLimit=03:00:00", "cpu=2,mem=2G"):
        assert words in shown

    assert _run_code(page, CODE) == f"alice {job} 42"

    admin = visit("admin", "hub/admin")
    row = admin.get_by_test_id("user-row-alice")
    expect(row).to_contain_text("general")
    row.get_by_test_id("alice-collapse-button").click()
    details = admin.locator("#alice-collapse, .admin-table-head, tr").filter(
        has_text="user_options"
    )
    expect(details.filter(has_text="size").filter(has_text="large").first).to_be_visible()

    page.goto(f"{hub.url}hub/home")
    browsing.settled(page)
    page.get_by_role("button", name="Stop My Server").click()
    expect(page.get_by_role("button", name="Start My Server")).to_be_visible()
    wait_until(lambda: not hub.jobs(), 30, "the end of the job")
    # who stops their server need not be told that it ended
    page.goto(f"{hub.url}hub/spawn")
    assert browsing.alerts(page) == []
    page.context.close()
