"""A full cluster: what the page promises, what a person is told who waits, and how it ends."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

from playwright.sync_api import expect

from tests.e2e import browsing, site
from tests.systems.processes import wait_until
from tests.systems.slurm_hub import SlurmHub


def test_a_person_waits_for_a_full_partition(
    hub: SlurmHub, visit: browsing.Visit, sleepers: Any
) -> None:
    """Slurm's estimate before, place and estimate while waiting; then it starts by itself."""
    *running, waiting = sleepers(3)
    wait_until(
        lambda: site.availability(hub, "general")["start"]["source"] == "slurm",
        browsing.DEADLINE_SECONDS,
        "Slurm's own estimate",
        poll_seconds=0.5,
    )
    page = visit("alice", "hub/spawn?profile=general")
    live = browsing.live(page, "general")
    expect(live).to_contain_text(re.compile(r"Starts in \d+ min"))
    expect(live).to_contain_text("Slurm's estimate")
    expect(live).to_contain_text("0 of 2 nodes idle, no cores free")
    expect(live).to_contain_text("1 job waiting")
    expect(browsing.live(page, "highmem")).to_contain_text("Starts now")
    # it is what Slurm tells alice herself
    request = ["sbatch", "--test-only", "--partition=general", "--mem=600M", "--time=1:00:00"]
    told = hub.slurm.run(request, "alice", "#!/bin/sh\n").stderr
    found = re.search(r"to start at (\S+)", told)
    assert found is not None, told
    promised = datetime.fromisoformat(site.availability(hub, "general")["start"]["at"])
    assert abs(datetime.fromisoformat(found[1]).astimezone() - promised) < timedelta(minutes=2)

    browsing.listen(page)
    browsing.start(page)
    message = page.locator("#progress-message")
    (job,) = wait_until(lambda: list(hub.jobs("PENDING")), 30, "the job")
    expect(message).to_have_text(
        re.compile(
            rf"Job {job} waits in partition general: 1 waiting job is ahead of it\. "
            r"Slurm expects it to start in about \d+ min\."
        )
    )
    hub.slurm.run(["scancel", str(waiting)])
    expect(message).to_have_text(
        re.compile(
            rf"Job {job} waits in partition general: it is next, and starts as soon as enough is "
            r"free\. Slurm expects it to start in about \d+ min\."
        )
    )
    bar = page.get_by_role("progressbar")
    expect(bar).to_have_attribute("aria-valuenow", "20")

    hub.slurm.run(["scancel", *map(str, running)])
    page.wait_for_url("**/user/alice/lab**")
    said = [event["message"] for event in browsing.heard(page)]
    assert re.fullmatch(r"The server is up on cn0[12]; connecting to it\.", said[-2])
    # Slurm does not answer a submission with a place; from then on every line says something new
    assert len(said) == len(set(said))


def test_a_person_gives_up_waiting(hub: SlurmHub, visit: browsing.Visit, sleepers: Any) -> None:
    """The waiting page's own button takes the job out of the queue."""
    sleepers(2)
    page = visit("alice", "hub/spawn?profile=general")
    browsing.start(page)
    wait_until(lambda: hub.jobs("PENDING"), 30, "the job")
    browsing.settled(page)
    page.get_by_role("button", name="Stop Server").click()
    wait_until(lambda: not hub.jobs(), browsing.DEADLINE_SECONDS, "the end of the job")
    hub.wait_stopped("alice")
    page.goto(f"{hub.url}hub/spawn")
    assert browsing.alerts(page) == []
