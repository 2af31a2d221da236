"""The options page in a real browser, in front of a real cluster: everybody can use it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e import browsing
from tests.systems.processes import wait_until
from tests.systems.slurm_hub import SlurmHub

SMALLEST_TARGET = 24  # CSS pixels; WCAG 2.2, 2.5.8


def _asked_for(hub: SlurmHub, name: str, server: str = "") -> dict[str, Any]:
    """What the hub was asked to start for a person."""
    return wait_until(
        lambda: (hub.server(name, server) or {}).get("user_options"),
        browsing.DEADLINE_SECONDS,
        f"a server of {name}",
        poll_seconds=0.2,
    )


def _tab_to(page: Page, selector: str) -> None:
    """Press Tab until the focus is on an element of this kind."""
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"Tab does not come to {selector}")


# ---- everybody can use it


def test_the_keyboard_is_enough(hub: SlurmHub, visit: browsing.Visit) -> None:
    """Tab, arrows, Space and Enter choose a profile and an option, and start it."""
    page = visit("alice", "hub/spawn?profile=general")
    _tab_to(page, ".qhub-pick")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert browsing.chosen(page)["profile"] == "gpu"
    # the focus can be seen: the card is outlined
    outline = browsing.card(page, "gpu").evaluate("(card) => getComputedStyle(card).outlineStyle")
    assert outline == "solid"
    _tab_to(page, '[name="options.gpu.gpus"]')
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    _tab_to(page, "button[type=submit]")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert _asked_for(hub, "alice") == {"profile": "gpu", "options": {"gpus": "two"}}


def test_a_blocked_profile_cannot_be_chosen_by_keyboard(visit: browsing.Visit) -> None:
    """The arrows pass over what a person may not start."""
    page = visit("alice", "hub/spawn?profile=gpu")
    _tab_to(page, ".qhub-pick")
    page.keyboard.press("ArrowDown")
    assert browsing.chosen(page)["profile"] == "general"


def test_scripts_are_not_needed(hub: SlurmHub, visit: browsing.Visit) -> None:
    """Without JavaScript the page shows figures, takes a choice and a free value, and starts it."""
    page = visit("alice", "hub/spawn?profile=highmem", java_script_enabled=False)
    expect(browsing.live(page, "general")).to_contain_text("Starts now")
    expect(page.get_by_text("Figures of")).to_be_visible()
    browsing.choose(page, "general")
    browsing.option(page, "general", "size", "large").check()
    browsing.option(page, "general", "time", "_other").check()
    browsing.free(page, "general", "time").fill("45 min")
    browsing.start(page)
    expected = {"profile": "general", "options": {"size": "large", "time": "45 min"}}
    assert _asked_for(hub, "alice") == expected
    hub.wait_ready("alice")
    page.goto(f"{hub.url}hub/spawn")
    page.wait_for_url("**/user/alice/lab**")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(visit: browsing.Visit, scheme: str) -> None:
    """On a phone nothing runs off the side, and a finger hits what it aims at."""
    page = visit("alice", "hub/spawn?profile=general", color_scheme=scheme, **browsing.PHONE)
    browsing.option(page, "general", "time", "_other").check()
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 375
    targets = ".qhub-head, .qhub-choice, .qhub .form-control, .qhub button, button[type=submit]"
    for target in page.locator(targets).all():
        if target.is_visible():
            box = target.bounding_box()
            assert box is not None
            assert min(box["width"], box["height"]) >= SMALLEST_TARGET, target.inner_text()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 375
    # the whole head of a card can be tapped, not its small circle only
    browsing.live(page, "highmem").tap(force=True)
    assert browsing.chosen(page)["profile"] == "highmem"
    # and what starts it is in sight without scrolling
    assert page.get_by_role("button", name="Start", exact=True).evaluate(
        "(button) => button.getBoundingClientRect().bottom <= window.innerHeight"
    )


def test_it_follows_light_and_dark(visit: browsing.Visit) -> None:
    """The page is dark where a person's system is, and light where it is light."""
    shades = {}
    for scheme in ("light", "dark"):
        page = visit("alice", "hub/spawn", color_scheme=scheme)
        colour = browsing.card(page, "general").evaluate(
            "(card) => getComputedStyle(card).backgroundColor"
        )
        shades[scheme] = sum(map(int, colour.strip("rgba()").replace(" ", "").split(",")[:3]))
    assert shades["dark"] < 200
    assert shades["light"] > 600


# ---- it is live


def test_figures_change_without_a_reload(
    hub: SlurmHub, visit: browsing.Visit, sleepers: Any
) -> None:
    """An open page follows the cluster by itself, and says to a screen reader what changed."""
    page = visit("alice", "hub/login", locale="en-GB")
    page.clock.install()
    page.goto(f"{hub.url}hub/spawn?profile=general")
    expect(browsing.live(page, "general")).to_contain_text("2 of 2 nodes idle")
    page.evaluate("window.theSamePage = true")

    def turn(where: Locator, words: str) -> None:
        """Let the page's clock run until these words are there; the cluster's runs as ever."""

        def shown() -> bool:
            with page.expect_response("**/qhub/profiles"):
                page.clock.fast_forward(20_000)
            return words in where.inner_text()

        wait_until(shown, browsing.DEADLINE_SECONDS, words, poll_seconds=0.5)

    live, spoken = browsing.live(page, "general"), page.locator("#qhub-spoken")
    sleepers(2)
    turn(live, "0 of 2 nodes idle, no cores free")
    turn(live, "Starts in 2")
    turn(spoken, "General: Starts in 2")
    expect(page.locator("[data-bar=status]")).to_contain_text("Live, updated")
    hub.slurm.run(["scancel", "--user=bob"])
    turn(live, "2 of 2 nodes idle, 4 cores free")
    turn(spoken, "General: Starts now")
    expect(live.locator(".qhub-start")).to_have_text("Starts now")
    assert page.evaluate("window.theSamePage") is True


def test_the_first_look_after_a_while_shows_the_cluster_as_it_is(
    hub: SlurmHub, visit: browsing.Visit, sleepers: Any
) -> None:
    """Figures from before nobody looked are not shown to the next person as if they were new."""
    page = visit("alice")
    expect(browsing.live(page, "general")).to_contain_text("2 of 2 nodes idle")
    page.goto("about:blank")
    looked = time.monotonic()
    sleepers(2, seen=False)
    # nobody looks for so long that the hub asks no more (six times site.CONFIG's view_interval)
    wait_until(lambda: time.monotonic() > looked + 7, 10, "a while", poll_seconds=0.5)
    page.goto(f"{hub.url}hub/spawn")
    assert "0 of 2 nodes idle" in browsing.live(page, "general").inner_text()


# ---- what is chosen when it opens


def test_the_last_choice_is_remembered(hub: SlurmHub, visit: browsing.Visit) -> None:
    """The page opens with what was started last, free values as well."""
    wanted = {"profile": "general", "options": {"size": "large", "time": "2 h"}}
    hub.start_server("alice", wanted)
    hub.wait_ready("alice")
    hub.stop_server("alice")
    hub.wait_stopped("alice")
    page = visit("alice")
    assert browsing.chosen(page) == wanted
    expect(browsing.card(page, "general").locator(".qhub-facts")).to_contain_text("2 cores")


def test_an_address_preselects_and_starts_nothing(hub: SlurmHub, visit: browsing.Visit) -> None:
    """`?profile=…&options.X=…` shows a choice; only its person starts it."""
    page = visit("alice", "hub/spawn?profile=gpu&options.gpus=two")
    assert browsing.chosen(page) == {"profile": "gpu", "options": {"gpus": "two"}}
    assert page.locator(".alert-danger:visible").count() == 0
    page.goto(f"{hub.url}hub/spawn?profile=general&options.size=large&options.time=3h")
    expected = {"profile": "general", "options": {"size": "large", "time": "3h"}}
    assert browsing.chosen(page) == expected
    model = hub.server("alice")
    assert model is None or (model["stopped"] and not model["pending"])
    assert hub.jobs() == {}


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (
            "profile=gpux",
            "There is no profile 'gpux' for you. You may choose: general, highmem, gpu.",
        ),
        (
            "profile=general&options.size=huge",
            "The option size has no choice 'huge' for you. Its choices: small, large.",
        ),
        (
            "profile=gpu&options.colour=red",
            "The profile gpu has no option 'colour' for you. Its options: gpus.",
        ),
        (
            "profile=long",
            "The profile 'long' is not available to you: asks for the QOS long; yours: gpu, normal",
        ),
        (
            "profil=gpu",
            "The address has a parameter 'profil' that is not known. Known are: profile, ",
        ),
        ("profile=<script>", "There is no profile '<script>' for you. "),
    ],
)
def test_what_an_address_cannot_have_is_said(visit: browsing.Visit, query: str, words: str) -> None:
    """Unknown and forbidden names of an address are named on the page, with what there is."""
    page = visit("alice", f"hub/spawn?{query}")
    assert browsing.alerts(page)[0].startswith(words)
    assert browsing.chosen(page)["profile"] in {"general", "gpu"}


# ---- what a person may not have


def test_limits_that_slurm_records_are_shown_as_reasons(visit: browsing.Visit) -> None:
    """Profiles beyond a person's account, QOS or walltime are there, cannot be chosen, say why."""
    page = visit("bob", "hub/spawn?profile=general")
    for slug, reason in {
        "highmem": "Not available to you: asks for the account research; yours: teaching.",
        "gpu": "Not available to you: asks for the account research; yours: teaching.",
        "long": "Not available to you: asks for the QOS long; yours: normal, short.",
        "course": "Not available to you: asks for 4 h; your limit is 2 h.",
    }.items():
        expect(browsing.card(page, slug).locator(".qhub-reason")).to_have_text(reason)
        expect(browsing.card(page, slug).locator(".qhub-pick")).to_be_disabled()
    # of an option, what is within the limit is left
    assert browsing.option(page, "general", "time", "day").count() == 0
    browsing.option(page, "general", "time", "_other").check()
    expect(browsing.card(page, "general")).to_contain_text("a time from 10 min to 2 h")


def test_profiles_of_others_are_not_shown(visit: browsing.Visit) -> None:
    """What access rules keep from a person is not on the page at all."""
    page = visit("alice")
    slugs = page.locator(".qhub-card").evaluate_all("(cards) => cards.map((c) => c.dataset.slug)")
    assert slugs == ["general", "highmem", "gpu", "long"]


@pytest.mark.parametrize("server", ["", "/alice/second"])
def test_a_refused_choice_is_answered_on_the_page(
    hub: SlurmHub, visit: browsing.Visit, server: str
) -> None:
    """A choice that the server refuses is a 4xx in words, and the form keeps what was typed."""
    page = visit("alice", f"hub/spawn{server}?profile=general&options.size=large&options.time=99h")
    assert browsing.start(page) == 400
    (said,) = browsing.alerts(page)
    assert said.startswith("Error: For the option 'time' of the profile 'general', '99h' is more")
    expected = {"profile": "general", "options": {"size": "large", "time": "99h"}}
    assert browsing.chosen(page) == expected
    # once corrected, it is started
    browsing.free(page, "general", "time").fill("2 h")
    assert browsing.start(page) == 200
    asked = _asked_for(hub, "alice", server.rpartition("/")[2])
    assert asked == {"profile": "general", "options": {"size": "large", "time": "2 h"}}
    if server:
        hub.slurm.run(["scancel", "--user=alice"])
        hub.wait_stopped("alice", "second")
        hub.api("DELETE", "users/alice/servers/second", {"remove": True})


def test_other_without_a_value_is_answered_on_the_page(visit: browsing.Visit) -> None:
    """The choice "Other…" needs a value, and what else was chosen stays."""
    page = visit("alice", "hub/spawn?profile=general&options.size=large")
    browsing.option(page, "general", "time", "_other").check()
    assert browsing.start(page) == 400
    (said,) = browsing.alerts(page)
    assert said == "Error: The option 'time' of the profile 'general' is 'Other', but has no value."
    assert browsing.chosen(page) == {"profile": "general", "options": {"size": "large", "time": ""}}


def test_a_forbidden_profile_is_refused_by_the_server(visit: browsing.Visit) -> None:
    """A page that was tampered with gets no further: 403, in words."""
    page = visit("bob", "hub/spawn?profile=general")
    page.locator('.qhub-pick[value="gpu"]').evaluate("(radio) => { radio.disabled = false }")
    browsing.choose(page, "gpu")
    assert browsing.start(page) == 403
    (said,) = browsing.alerts(page)
    assert said == (
        "Error: The profile 'gpu' is not available to you: it asks for the account research; "
        "yours: teaching. You may choose: general, module, giant."
    )


# ---- what became of a server


def test_a_server_that_was_ended_from_outside_is_told(hub: SlurmHub, visit: browsing.Visit) -> None:
    """Who finds their server gone is told why, on the page where they start the next one."""
    hub.start_server("alice", {"profile": "general"})
    hub.wait_ready("alice")
    (job,) = hub.jobs("RUNNING")
    hub.slurm.run(["scancel", str(job)])
    hub.wait_stopped("alice")
    page = visit("alice")
    assert browsing.alerts(page) == ["Your last server ended: it was cancelled by root."]


def test_a_job_that_fails_is_told(hub: SlurmHub, visit: browsing.Visit) -> None:
    """A start that fails says why at once, and again to who comes back later."""
    page = visit("bob", "hub/spawn?profile=module")
    browsing.start(page)
    why = "The server did not start: it failed with exit code 3 on cn0"
    expect(page.get_by_text(why).first).to_be_visible()
    assert page.get_by_text("SpawnException").count() == 0
    hub.wait_stopped("bob")
    page.goto(f"{hub.url}hub/spawn")
    (notice,) = browsing.alerts(page)
    assert notice.startswith(f"Your last start failed. {why}")
    assert "Its log is ~/.local/state/qhub/server-" in notice


def test_what_slurm_refuses_is_told_in_its_words(visit: browsing.Visit) -> None:
    """A request that Slurm refuses at once is answered on the page with what Slurm says."""
    page = visit("bob", "hub/spawn?profile=giant")
    assert browsing.start(page) == 400
    assert browsing.alerts(page) == [
        "Error: Slurm refused it: More processors requested than permitted."
    ]
