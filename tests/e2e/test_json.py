"""The JSON twin of the page: the same things, for scripts, to those who may have them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.e2e import browsing
from tests.systems.processes import wait_until
from tests.systems.slurm_hub import SlurmHub

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "api.md"
FACTS = ("cpu", "memory", "gpu", "walltime")
FIGURES = ("headline", "source", "gpus", "nodes", "jobs")


def _token(hub: SlurmHub, name: str, *scopes: str) -> str:
    answer = hub.api("POST", f"users/{name}/tokens", {"scopes": list(scopes)} if scopes else {})
    return str(answer.json["token"])


def _from_page(page: Page) -> list[dict[str, Any]]:
    """What the page shows of each profile, as a person reads it."""
    profiles = []
    for slug in page.locator(".qhub-card").evaluate_all("(all) => all.map((c) => c.dataset.slug)"):
        card = browsing.card(page, slug)
        words = {}
        for part in FIGURES:
            found = card.locator(f'[data-live="{part}"]')
            words[part] = found.inner_text() if found.is_visible() else ""
        reason = card.locator(".qhub-reason")
        profiles.append(
            {
                "slug": slug,
                "display_name": card.locator(".qhub-name").inner_text(),
                "about": card.locator(".qhub-about").inner_text(),
                "facts": [card.locator(f'li[data-fact="{fact}"]').inner_text() for fact in FACTS],
                "blocked": reason.inner_text() if reason.count() else None,
                "figures": words,
            }
        )
    return profiles


def _from_json(model: dict[str, Any]) -> list[dict[str, Any]]:
    """The same from the JSON; a card of a blocked profile does not say when it would start."""
    return [
        {
            "slug": one["slug"],
            "display_name": one["display_name"],
            "about": f"{one['description']} · {one['words']['where']}",
            "facts": [one["words"][fact] for fact in FACTS],
            "blocked": one["blocked"] and f"Not available to you: {one['blocked']}.",
            "figures": {
                part: ""
                if one["blocked"] and part in {"headline", "source"}
                else one["availability"]["words"][part]
                for part in FIGURES
            },
        }
        for one in model["profiles"]
    ]


@pytest.mark.parametrize("name", ["alice", "bob"])
def test_it_says_what_the_page_says(hub: SlurmHub, visit: browsing.Visit, name: str) -> None:
    """A person's own token gets exactly what they see on the page."""
    page = visit(name, "hub/spawn?profile=general&options.size=small&options.time=hour")
    token = hub.user_token(name)

    def same() -> bool:
        page.reload()
        answer = hub.api("GET", "qhub/profiles", token=token)
        assert answer.status == 200
        assert answer.json["user"] == name
        return _from_page(page) == _from_json(answer.json)

    # between two questions the cluster may change
    wait_until(same, browsing.DEADLINE_SECONDS, "the same on the page and in JSON")
    of_name = hub.api("GET", f"users/{name}/qhub/profiles", token=token).json
    own = hub.api("GET", "qhub/profiles", token=token).json
    assert [one["slug"] for one in of_name["profiles"]] == [one["slug"] for one in own["profiles"]]


def test_it_has_the_last_choice_and_the_last_end(hub: SlurmHub) -> None:
    """Scripts read what was started last, and why it ended."""
    wanted = {"profile": "general", "options": {"size": "small", "time": "30 min"}}
    hub.start_server("bob", wanted)
    hub.wait_ready("bob")
    token = hub.user_token("bob")
    model = hub.api("GET", "qhub/profiles", token=token).json
    assert (model["last"], model["last_ended"], model["last_failed"]) == (wanted, None, None)
    (job,) = hub.jobs("RUNNING")
    hub.slurm.run(["scancel", str(job)], "bob")
    hub.wait_stopped("bob")
    model = hub.api("GET", "qhub/profiles", token=token).json
    assert (model["last"], model["last_ended"]) == (wanted, "it was cancelled by bob")


@pytest.mark.parametrize("path", ["qhub/profiles", "users/alice/qhub/profiles"])
def test_a_token_needs_the_scope(hub: SlurmHub, path: str) -> None:
    """`read:servers` for the person is enough, and nothing less is."""
    enough = _token(hub, "alice", "read:servers!user")
    assert hub.api("GET", path, token=enough).status == 200
    less = _token(hub, "alice", "read:users:name!user")
    refused = hub.api("GET", path, token=less)
    assert refused.status == 403
    assert "profiles" not in refused.json
    assert hub.api("GET", path, token="0" * 32).status == 403


def test_others_get_nothing(hub: SlurmHub) -> None:
    """A person's token is answered nothing about another, nor whether they exist."""
    token = hub.user_token("bob")
    of_alice = hub.api("GET", "users/alice/qhub/profiles", token=token)
    of_nobody = hub.api("GET", "users/nobody/qhub/profiles", token=token)
    assert of_alice.status == of_nobody.status == 404
    assert of_alice.json == of_nobody.json


def test_an_administrator_sees_what_a_person_is_offered(hub: SlurmHub) -> None:
    """An administrator's token is answered about anybody, by that person's limits."""
    model = hub.api("GET", "users/bob/qhub/profiles", token=hub.user_token("admin")).json
    assert model["user"] == "bob"
    blocked = {one["slug"]: one["blocked"] for one in model["profiles"]}
    assert blocked["course"] == "asks for 4 h; your limit is 2 h"
    assert hub.api("GET", "users/nobody/qhub/profiles").status == 404


def _shape(value: object) -> object:
    """The keys of JSON, all the way down; of a list, those of its first element."""
    if isinstance(value, dict):
        return {key: _shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shape(inner) for inner in value[:1]]
    return None


def test_the_reference_shows_what_is_answered(hub: SlurmHub) -> None:
    """The example in the documentation has the keys of a real answer, no more and no fewer."""
    blocks = re.findall(r"```json\n(.*?)```", REFERENCE.read_text("utf-8"), flags=re.DOTALL)
    (example,) = (one for one in map(json.loads, blocks) if "profiles" in one)
    hub.start_server("alice", example["last"])
    hub.wait_ready("alice")
    answer = hub.api("GET", "qhub/profiles", token=hub.user_token("alice")).json
    slug = example["profiles"][0]["slug"]
    answer["profiles"] = [one for one in answer["profiles"] if one["slug"] == slug]
    assert _shape(answer) == _shape(example)
