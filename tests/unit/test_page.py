"""The options page: the JSON model, the HTML made of it, and the way back from form and address."""

from __future__ import annotations

import copy
import json
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from bs4 import BeautifulSoup, Tag
from hypothesis import given
from hypothesis import strategies as st

from qhub_spawner.access import Limits, Person, offered, select
from qhub_spawner.availability import Availability, StartEstimate
from qhub_spawner.catalogue import Catalogue, load
from qhub_spawner.errors import SelectionError
from qhub_spawner.page import parse_form, parse_query, profiles_model, render_form
from qhub_spawner.page.render import SEARCH_FROM
from tests.unit import hostile

NOW = datetime(2026, 3, 9, 14, 7, 30, tzinfo=UTC)
API = "/hub/api/qhub/profiles"
MARKUP = f"\"><script>{hostile.MARK}</script>&amp;'{{{{7*7}}}}</fieldset></form>"

PROFILES: list[dict[str, Any]] = [
    {"slug": "local", "display_name": "Try-out", "memory": "2 GiB", "local": {}},
    {
        "slug": "general",
        "display_name": "General",
        "description": "Everyday analysis.",
        "default": True,
        "cpu": 4,
        "memory": "16 GiB",
        "walltime": "8h",
        "slurm": {"partition": "general"},
        "options": {
            "size": {
                "display_name": "Size",
                "choices": {
                    "medium": {"display_name": "Medium"},
                    "large": {
                        "display_name": "Large",
                        "overrides": {"cpu": 16, "memory": "64 GiB"},
                    },
                },
            },
            "account": {
                "display_name": "Account",
                "description": "Whose hours are charged.",
                "choices": {
                    name: {"display_name": name, "overrides": {"slurm": {"account": name}}}
                    for name in ("astro", "bio", "climate", "teaching")
                },
                "free": {
                    "sets": "slurm.account",
                    "pattern": "[a-z]{2,16}",
                    "message": "2 to 16 lower-case letters",
                    "example": "physics",
                },
            },
            "time": {
                "display_name": "Time limit",
                "free": {"sets": "walltime", "minimum": "10 min", "maximum": "1d"},
            },
        },
    },
    {
        "slug": "gpu",
        "display_name": "GPU",
        "cpu": 8,
        "gpu": {"count": 1, "type": "a100"},
        "walltime": "4h",
        "slurm": {"partition": "gpu", "cluster": "c1"},
        "options": {
            "gpus": {
                "display_name": "GPUs",
                "choices": {
                    "one": {"display_name": "One"},
                    "two": {"display_name": "Two", "overrides": {"gpu": 2}},
                },
                "free": {"sets": "gpu", "maximum": 8},
            }
        },
    },
    {
        "slug": "long",
        "display_name": "Long",
        "walltime": "7d",
        "slurm": {"partition": "general", "qos": "long"},
    },
]
LIMITS = Limits(qos=frozenset({"normal"}))
AVAILABLE = {
    "general": Availability(
        nodes_idle=3,
        nodes_total=12,
        cpus_free=214,
        jobs_waiting=14,
        start=StartEstimate("now", source="calculated"),
        as_of=NOW - timedelta(seconds=5),
    ),
    "gpu": Availability(
        nodes_idle=0,
        nodes_total=4,
        gpus_free=0,
        gpus_total=8,
        jobs_waiting=1,
        start=StartEstimate("at", NOW + timedelta(minutes=25), "slurm"),
        as_of=NOW - timedelta(minutes=12),
        stale=True,
        problem="Slurm does not answer",
    ),
}


def catalogue(profiles: Any = None) -> Catalogue:
    """The profiles above, or others; also none at all."""
    if profiles == []:
        return Catalogue(())
    return load(copy.deepcopy(PROFILES if profiles is None else profiles))


def model(profiles: Any = None, **changes: Any) -> dict[str, Any]:
    """What ada may choose from."""
    offers = offered(catalogue(profiles), Person("ada"), changes.pop("limits", LIMITS))
    available = changes.pop("availability", AVAILABLE)
    arguments = {"person_name": "ada", "last": None, "now": NOW, **changes}
    return profiles_model(offers, available, **arguments)


def profile_of(answer: dict[str, Any], slug: str) -> dict[str, Any]:
    """One profile of a model."""
    return next(profile for profile in answer["profiles"] if profile["slug"] == slug)


def page(answer: dict[str, Any] | None = None, **changes: Any) -> BeautifulSoup:
    """The rendered page, parsed."""
    arguments = {"preselect": None, "api_url": API, "error": None, **changes}
    return BeautifulSoup(render_form(answer or model(), **arguments), "html.parser")


def card(soup: BeautifulSoup, slug: str) -> Tag:
    """One card of a page."""
    found = soup.select_one(f'[data-slug="{slug}"]')
    assert found is not None
    return found


def checked(soup: BeautifulSoup) -> list[str]:
    """The values of the profiles that are chosen."""
    return [str(radio["value"]) for radio in soup.select("input[name=profile][checked]")]


def submitted(soup: BeautifulSoup) -> dict[str, list[str]]:
    """What a browser without scripts sends for the page as it is: hidden fields, too."""
    sent: dict[str, list[str]] = {"_xsrf": ["token"]}
    for field in soup.select("input[name], select[name]"):
        name = str(field["name"])
        if field.name == "select":
            value = field.select_one("option[selected]") or field.select_one("option")
            assert value is not None
            sent[name] = [str(value["value"])]
        elif field["type"] == "text" or (field.has_attr("checked") and not field.get("disabled")):
            sent[name] = [str(field["value"])]
    return sent


# --- the model


def test_a_profile_in_json():
    """Quantities come as text and as numbers, options with what they change, times in UTC."""
    gpu = profile_of(model(), "gpu")
    assert gpu == {
        "slug": "gpu",
        "display_name": "GPU",
        "description": "",
        "default": False,
        "backends": ["slurm"],
        "cpu": "8",
        "cpu_millicores": 8000,
        "memory": None,
        "memory_bytes": None,
        "gpu": {"count": 1, "type": "a100"},
        "walltime": "4 h",
        "walltime_seconds": 14400,
        "nodes": 1,
        "words": {
            "cpu": "8 cores",
            "memory": "",
            "gpu": "1 GPU (a100)",
            "walltime": "up to 4 h",
            "nodes": "",
            "where": "Slurm, partition gpu, cluster c1",
        },
        "options": {
            "gpus": {
                "display_name": "GPUs",
                "description": "",
                "default": "one",
                "choices": [
                    {
                        "slug": "one",
                        "display_name": "One",
                        "description": "",
                        "sets": {},
                        "words": {"summary": "1 GPU (a100)", "facts": {}},
                    },
                    {
                        "slug": "two",
                        "display_name": "Two",
                        "description": "",
                        "sets": {"gpu": {"count": 2, "type": "a100"}},
                        "words": {"summary": "2 GPUs (a100)", "facts": {"gpu": "2 GPUs (a100)"}},
                    },
                ],
                "free": {
                    "pattern": ".+",
                    "message": "",
                    "example": None,
                    "sets": "gpu",
                    "minimum": None,
                    "maximum": "8",
                    "words": {
                        "accepted": "a whole number up to 8, e.g. 1",
                        "fact": "gpu",
                        "says": "GPUs: {}",
                    },
                },
            }
        },
        "blocked": None,
        "max_walltime": None,
        "max_walltime_seconds": None,
        "availability": {
            "nodes_idle": 0,
            "nodes_total": 4,
            "cpus_free": None,
            "gpus_free": 0,
            "gpus_total": 8,
            "jobs_waiting": 1,
            "start": {
                "kind": "at",
                "at": "2026-03-09T14:32:30Z",
                "source": "slurm",
                "clock": "14:32 UTC",
                "words": "about 14:32 UTC (in 25 min)",
            },
            "scale_up": False,
            "backend": None,
            "as_of": "2026-03-09T13:55:30Z",
            "stale": True,
            "problem": "Slurm does not answer",
            "words": {
                "headline": "Starts in 25 min",
                "source": "Slurm's estimate",
                "gpus": "0 of 8 GPUs free",
                "nodes": "0 of 4 nodes idle",
                "jobs": "1 job waiting",
                "stale": "Figures are 12 min old: Slurm does not answer",
            },
        },
    }


def test_the_model_around_the_profiles():
    """The answer names the person and the time, keeps the order, and is JSON."""
    answer = model()
    assert {key: answer[key] for key in ("user", "as_of", "last")} == {
        "user": "ada",
        "as_of": "2026-03-09T14:07:30Z",
        "last": None,
    }
    assert [profile["slug"] for profile in answer["profiles"]] == [
        "local",
        "general",
        "gpu",
        "long",
    ]
    assert json.loads(json.dumps(answer)) == answer


def test_a_choice_says_all_that_its_option_changes():
    """Choices of one option are compared by the same facts, changed or not."""
    choices = profile_of(model(), "general")["options"]["size"]["choices"]
    assert [choice["words"]["summary"] for choice in choices] == [
        "4 cores, 16 GiB memory",
        "16 cores, 64 GiB memory",
    ]
    assert choices[1]["sets"] == {
        "cpu": "16",
        "cpu_millicores": 16000,
        "memory": "64 GiB",
        "memory_bytes": 64 * 2**30,
    }


def test_limits_block_with_a_reason():
    """What the recorded limits forbid stays in the list, and says why."""
    assert "QOS long" in profile_of(model(), "long")["blocked"]
    limited = model(limits=Limits(max_walltime=load([PROFILES[2]]).profiles[0].walltime))
    assert profile_of(limited, "gpu")["max_walltime_seconds"] == 14400


@pytest.mark.parametrize(
    ("start", "words", "headline", "source"),
    [
        (StartEstimate("now", source="slurm"), "now", "Starts now", "Slurm's estimate"),
        (
            StartEstimate("now", source="calculated"),
            "now",
            "Starts now",
            "calculated from what is idle",
        ),
        (StartEstimate(), "unknown", "Start time unknown", ""),
    ],
)
def test_who_says_when_it_starts(start, words, headline, source):
    """Slurm's estimate and ours are told apart, and unknown is said."""
    known = {"general": Availability(jobs_waiting=0, start=start)}
    answer = profile_of(model(availability=known), "general")["availability"]
    assert answer["start"]["words"] == words
    assert (answer["words"]["headline"], answer["words"]["source"]) == (headline, source)
    assert answer["words"]["jobs"] == "no jobs waiting"


def test_a_node_that_has_to_be_added_first():
    """A pool that grows takes minutes: that is said where it would be "unknown"."""
    known = {"general": Availability(nodes_idle=0, nodes_total=0, cpus_free=0, scale_up=True)}
    answer = profile_of(model(availability=known), "general")["availability"]
    assert answer["scale_up"] is True
    assert answer["words"]["headline"] == "Starts in some minutes"
    assert answer["words"]["source"] == "a node has to be added first"
    assert answer["words"]["nodes"] == ""
    card_of_it = card(page(model(availability=known)), "general")
    assert "Starts in some minutes" in card_of_it.select(".qhub-start")[0].text
    assert card_of_it.select(".qhub-live")[0]["data-start"] == "at"
    now = {"general": Availability(start=StartEstimate("now", source="quota"), scale_up=True)}
    words = profile_of(model(availability=now), "general")["availability"]["words"]
    assert (words["headline"], words["source"]) == ("Starts now", "as far as the quota goes")


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (timedelta(seconds=-5), "about 14:07 UTC (any moment)"),
        (timedelta(seconds=20), "about 14:07 UTC (in less than a minute)"),
        (timedelta(minutes=59, seconds=40), "about 15:07 UTC (in 1 h)"),
        (timedelta(hours=5, minutes=40), "about 19:47 UTC (in 5 h 40 min)"),
        (timedelta(days=1, hours=2), "about Tue 16:07 UTC (in 1 day 2 h)"),
        (timedelta(days=12), "about 21 Mar 14:07 UTC (in 12 days)"),
    ],
)
def test_times_as_people_say_them(left, words):
    """A time is said as a clock and as a distance, as short as can be understood."""
    known = {"gpu": Availability(start=StartEstimate("at", NOW + left, "slurm"))}
    answer = profile_of(model(availability=known), "gpu")["availability"]
    assert answer["start"]["words"] == words


def test_clocks_are_in_the_zone_of_now():
    """Words speak the hub's zone, the data stays in UTC."""
    here = NOW.astimezone(timezone(timedelta(hours=1), "CET"))
    start = profile_of(model(now=here), "gpu")["availability"]["start"]
    assert (start["clock"], start["at"]) == ("15:32 CET", "2026-03-09T14:32:30Z")
    with pytest.raises(ValueError, match="time zone"):
        model(now=datetime(2026, 3, 9))  # noqa: DTZ001 - the point


@pytest.mark.parametrize(
    ("known", "words"),
    [
        (Availability(), ""),
        (Availability(stale=True, as_of=NOW - timedelta(seconds=40)), "Figures are 40 s old"),
        (Availability(stale=True, as_of=NOW - timedelta(hours=3)), "Figures are 3 h old"),
        (Availability(problem="no such partition"), "No live figures: no such partition"),
        (Availability(stale=True), "No live figures"),
        (Availability(nodes_total=2, problem="no node is up"), "No node is up"),
        (Availability(cpus_free=2, problem="the quota is full"), "The quota is full"),
        (Availability(nodes_total=2, problem="x", stale=True), "No live figures: x"),
    ],
)
def test_old_figures_say_their_age(known, words):
    """Nobody takes an old figure for a new one."""
    answer = profile_of(model(availability={"general": known}), "general")["availability"]
    assert answer["words"]["stale"] == words


@pytest.mark.parametrize(
    ("known", "headline"),
    [
        (
            Availability(start=StartEstimate("now"), backend="kubernetes"),
            "Starts now on Kubernetes",
        ),
        (Availability(start=StartEstimate("now"), backend="slurm"), "Starts now on Slurm"),
        (Availability(start=StartEstimate("now")), "Starts now"),
        (Availability(as_of=NOW, backend="kubernetes"), ""),
        (
            Availability(cpus_free=0, problem="the quota is full", backend="kubernetes"),
            "Does not start now on Kubernetes",
        ),
    ],
)
def test_of_several_backends_the_headline_names_the_one_it_is_about(known, headline):
    """Where it starts soonest is said, and what has no figures says nothing."""
    profiles = [{"slug": "any", "display_name": "Any", "slurm": {}, "kubernetes": {}}]
    answer = profile_of(model(profiles, availability={"any": known}), "any")["availability"]
    assert answer["words"]["headline"] == headline
    assert answer["backend"] == (known.backend or None)


def test_what_waits_on_kubernetes_are_pods():
    """A cluster without jobs does not speak of them."""
    known = {"general": Availability(jobs_waiting=2, backend="kubernetes")}
    answer = profile_of(model(availability=known), "general")["availability"]
    assert answer["words"]["jobs"] == "2 pods waiting"
    assert answer["words"]["headline"] == "Start time unknown"


def test_a_total_of_none_is_said_without_nonsense():
    """A partition without GPUs or nodes is not "0 of no GPUs"."""
    known = {"general": Availability(nodes_idle=0, nodes_total=0, gpus_free=2)}
    words = profile_of(model(availability=known), "general")["availability"]["words"]
    assert (words["nodes"], words["gpus"]) == ("no nodes idle", "2 GPUs free")


def test_a_last_choice_of_another_shape_is_none():
    """What an older version or another spawner stored never breaks the page."""
    for data in [*hostile.DATA.values(), *hostile.wrong_types().values()]:
        answer = model(last=data)
        assert answer["last"] is None or answer["last"]["profile"] == "general"
        assert checked(page(answer)) == ["general"]


def test_a_last_choice_keeps_what_still_means_something():
    """A profile that is gone is no last choice; values of a wrong type are dropped."""
    assert model(last={"profile": "gone", "options": {}})["last"] is None
    last = {"profile": "gpu", "options": {"gpus": "two", "old": 3, 4: "x"}}
    assert model(last=last)["last"] == {"profile": "gpu", "options": {"gpus": "two"}}


def test_profiles_are_described_by_what_they_are():
    """Equal profiles share a description; one of the same name but another content does not."""
    one, other = model(), model()
    assert profile_of(one, "gpu")["options"] is profile_of(other, "gpu")["options"]
    changed = copy.deepcopy(PROFILES)
    changed[2]["cpu"] = 9
    assert profile_of(model(changed), "gpu")["cpu"] == "9"
    assert profile_of(model(), "gpu")["cpu"] == "8"


@pytest.mark.parametrize(
    ("policy", "where"),
    [
        ("first", "Slurm (partition general), else Kubernetes"),
        ("ask", "Slurm (partition general) or Kubernetes"),
        ("soonest", "Slurm (partition general) or Kubernetes, where it starts soonest"),
    ],
)
def test_where_it_runs(policy, where):
    """The place follows the policy of a profile with several backends."""
    both = {
        "slug": "both",
        "display_name": "Both",
        "slurm": {"partition": "general"},
        "kubernetes": {},
        "policy": policy,
    }
    assert profile_of(model([both]), "both")["words"]["where"] == where


def test_where_it_runs_may_end() -> None:
    """Whoever chooses nodes that may be taken away is told."""
    spot = {"slug": "spot", "display_name": "Spot", "kubernetes": {"spot": True}}
    where = profile_of(model([spot]), "spot")["words"]["where"]
    assert where == "Kubernetes, on nodes that may be taken away"


# --- the page


def test_hostile_texts_stay_texts():
    """No text of a profile, a person, a backend or an address becomes markup."""
    profiles = copy.deepcopy(PROFILES)
    profile = profiles[1]
    profile["display_name"] = profile["description"] = MARKUP
    for option in profile["options"].values():
        option["display_name"] = option["description"] = MARKUP
    for choice in profile["options"]["size"]["choices"].values():
        choice["display_name"] = choice["description"] = MARKUP
    profile["options"]["account"]["choices"]["bio"]["display_name"] = MARKUP
    free = profile["options"]["account"]["free"]
    free["message"], free["pattern"] = MARKUP, '[a-z"<>]+'
    known = {"general": Availability(problem=MARKUP, stale=True)}
    answer = model(profiles, availability=known, person_name=MARKUP)
    options = {"size": MARKUP, "account": MARKUP, MARKUP: MARKUP}
    soup = page(
        answer,
        preselect={"profile": "general", "options": options},
        api_url=f"/hub/{MARKUP}",
        error=MARKUP,
        notice=MARKUP,
    )
    assert len(soup.select("script")) == 2
    assert hostile.MARK not in "".join(script.text for script in soup.select("script:not([type])"))
    assert len(soup.select("form")) == 0
    assert json.loads(soup.select("#qhub-setup")[0].text)["api_url"] == f"/hub/{MARKUP}"
    assert card(soup, "general").select(".qhub-name")[0].text == MARKUP
    assert soup.select('[name="options.general.account.free"]')[0]["value"] == MARKUP
    empty = page(model([], person_name=MARKUP))
    assert [strong.text for strong in empty.select("strong")] == [MARKUP]
    assert not empty.select("script")


@pytest.mark.parametrize("name", hostile.TEXTS)
def test_a_hostile_preselection_changes_no_structure(name):
    """Whatever an address asks for, the page has the same elements, and sends no more fields."""
    text = hostile.TEXTS[name]
    preselect = {"profile": text, "options": {text: text, "size": text, "account": text}}
    named = {**preselect, "profile": "general"}
    answer = model([PROFILES[1]])
    plain = [tag.name for tag in page(answer).find_all()]
    for asked in (preselect, named):
        soup = page(answer, preselect=asked)
        for alert in soup.select(".alert"):
            alert.decompose()
        assert [tag.name for tag in soup.find_all()] == plain


def test_the_static_parts_are_whole():
    """Style and script go into the page as they are: nothing in them may end their element."""
    html = render_form(model(), preselect=None, api_url=API)
    assert html.count("</script>") == 2
    assert html.count("</style>") == 1
    for address in re.findall(r"(?:https?:)?//[a-z][^\s\"')]*", html):
        assert address == "http://www.w3.org/2000/svg"  # a name, never fetched


def test_the_form_is_whole_without_scripts():
    """Native radios in a group with a legend, one chosen; all options are there, grouped."""
    soup = page()
    radios = soup.select("fieldset input[type=radio][name=profile]")
    assert [radio["value"] for radio in radios] == ["local", "general", "gpu", "long"]
    assert soup.select("fieldset > legend")[0].text == "Choose a profile"
    assert checked(soup) == ["general"]
    assert [radio["value"] for radio in radios if radio.has_attr("disabled")] == ["long"]
    for radio in radios:
        assert soup.select(f'label[for="{radio["id"]}"]')
        for described_by in str(radio["aria-describedby"]).split():
            assert soup.find(id=described_by)
    assert not soup.select("fieldset[disabled]")
    assert {group["aria-label"] for group in soup.select(".qhub-options")} == {
        "Options of General",
        "Options of GPU",
    }
    assert all(field["name"].startswith("options.") for field in soup.select(".qhub-option [name]"))
    assert not soup.select("[required]")


def test_every_field_has_a_name_for_a_screen_reader():
    """A field has a label around it, for it, or in it; ids are unique."""
    soup = page()
    for field in soup.select("input, select"):
        named = (
            field.find_parent("label")
            or field.get("aria-label")
            or soup.select(f'label[for="{field.get("id")}"]')
        )
        assert named, field
    ids = [tag["id"] for tag in soup.select("[id]")]
    assert len(ids) == len(set(ids))


def test_a_card_says_what_it_costs_and_what_is_free():
    """At a glance: cores, memory, GPU, walltime, place; live: nodes, GPUs, jobs, start."""
    general = card(page(), "general")
    facts = [fact.text for fact in general.select(".qhub-facts li:not([hidden])")]
    assert facts == ["4 cores", "16 GiB memory", "no GPU", "up to 8 h"]
    assert "Slurm, partition general" in general.text
    live = [line.text for line in general.select(".qhub-counts li:not([hidden])")]
    assert live == ["3 of 12 nodes idle, 214 cores free", "14 jobs waiting"]
    assert general.select("[data-live=headline]")[0].text == "Starts now"
    gpu = card(page(), "gpu")
    assert gpu.select("time")[0]["datetime"] == "2026-03-09T14:32:30Z"
    assert gpu.select(".qhub-stale")[0].text == "Figures are 12 min old: Slurm does not answer"
    assert "qhub-old" in gpu.select(".qhub-live")[0]["class"]


def test_a_backend_with_nothing_to_say_says_nothing():
    """A local profile shows no empty figures; a page of such profiles asks for none."""
    local = card(page(), "local")
    assert local.select(".qhub-live")[0]["data-start"] == "none"
    assert not local.select(".qhub-live > :not([hidden]):not(ul)")
    setup = page(model([PROFILES[0]])).select("#qhub-setup")[0].text
    assert json.loads(setup)["live"] is False
    silent = {"general": Availability(problem="Slurm does not answer")}
    setup = page(model(availability=silent)).select("#qhub-setup")[0].text
    assert json.loads(setup)["live"] is True


def test_a_blocked_profile_is_disabled_with_its_reason():
    """It cannot be chosen, not by default and not by preselection, and has no options."""
    profiles = copy.deepcopy(PROFILES)
    profiles[1]["slurm"]["qos"] = "long"
    soup = page(model(profiles), preselect={"profile": "general", "options": {"size": "large"}})
    general = card(soup, "general")
    assert "Not available to you: asks for the QOS long" in general.text
    assert not general.select(".qhub-options")
    assert checked(soup) == ["local"]
    assert "not available to you" in soup.select("[role=alert]")[0].text


def test_nothing_to_choose_says_what_to_do():
    """No profile: whom to ask, as whom. All blocked: the reasons, and nothing is chosen."""
    empty = page(model([]))
    assert "logged in as ada" in " ".join(empty.text.split())
    assert not empty.select("input")
    blocked = page(model([PROFILES[3]]))
    assert checked(blocked) == []
    assert "can be started by you now" in blocked.select(".alert")[0].text
    for soup in (empty, blocked):
        assert "qhub-nothing" in soup.select("#qhub")[0]["class"]


def test_the_last_choice_is_shown_again():
    """Choices and free values come back; what is gone is silently left out."""
    options = {"size": "large", "account": "physics", "time": "12 h", "gone": "x"}
    soup = page(model(last={"profile": "general", "options": options}))
    assert checked(soup) == ["general"]
    assert parse_form(submitted(soup)) == {
        "profile": "general",
        "options": {"size": "large", "account": "physics", "time": "12 h"},
    }
    facts = [fact.text for fact in card(soup, "general").select(".qhub-facts li:not([hidden])")]
    assert facts == ["16 cores", "64 GiB memory", "no GPU", "up to 12 h"]
    assert not soup.select("[role=alert]")


def test_a_preselection_goes_before_the_last_choice():
    """An address is newer than the last choice, and the options of the two do not mix."""
    last = {"profile": "general", "options": {"size": "large"}}
    soup = page(model(last=last), preselect={"profile": "gpu", "options": {"gpus": "5"}})
    assert parse_form(submitted(soup)) == {"profile": "gpu", "options": {"gpus": "5"}}
    assert not soup.select("[role=alert]")


@pytest.mark.parametrize(
    ("preselect", "words"),
    [
        ({"profile": "huge", "options": {}}, "no profile 'huge' for you. You may choose: local, "),
        ({"profile": "general", "options": {"sise": "x"}}, "no option 'sise' for you. Its options"),
        (
            {"profile": "general", "options": {"size": "x"}},
            "no choice 'x' for you. Its choices: me",
        ),
    ],
)
def test_a_preselection_that_does_not_fit_is_said(preselect, words):
    """A wrong link shows the page, says what is wrong, and names what there is."""
    soup = page(preselect=preselect)
    assert words in soup.select("[role=alert]")[0].text
    assert checked(soup) == ["general"]


def test_the_page_sends_what_select_takes():
    """Page, form and access agree: what is sent untouched is what the defaults give."""
    for slug in ("local", "general", "gpu"):
        soup = page(preselect={"profile": slug, "options": {}})
        asked = parse_form(submitted(soup))
        selection = select(catalogue(), Person("ada"), asked, LIMITS)
        default = select(catalogue(), Person("ada"), {"profile": slug}, LIMITS)
        assert selection == default
        assert selection.slug == slug


def test_a_search_field_when_there_are_many():
    """Few profiles are read; many are searched, by a field that is no part of the form."""
    assert not page().select("[type=search]")
    many = [{**PROFILES[0], "slug": f"p{number}"} for number in range(SEARCH_FROM)]
    bar = page(model(many)).select(".qhub-filter")[0]
    assert bar.has_attr("hidden")
    assert not bar.select("[name]")


def test_no_gpu_is_not_found_as_gpu():
    """A search for "gpu" finds what has one."""
    soup = page()
    assert "gpu" not in str(card(soup, "general").select("[data-search]")[0]["data-search"])
    assert "gpu" in str(card(soup, "gpu").select("[data-search]")[0]["data-search"])


def test_a_pattern_helps_but_does_not_stand_for_the_rule():
    """The browser checks the administrator's pattern; a field without one has none."""
    soup = page()
    account = soup.select('[name="options.general.account.free"]')[0]
    assert (account["pattern"], account["placeholder"]) == ("[a-z]{2,16}", "physics")
    assert account["title"] == "2 to 16 lower-case letters"
    assert not soup.select('[name="options.general.time.free"]')[0].has_attr("pattern")


def test_cards_are_rendered_for_what_they_say():
    """What is cached for one person is never shown to another whose card differs."""
    first = page(model(last={"profile": "general", "options": {"account": "secret"}}))
    assert "secret" in str(first)
    assert "secret" not in str(page(model(person_name="bob")))
    later = {"general": Availability(jobs_waiting=99)}
    assert "99 jobs waiting" in page(model(availability=later)).text
    assert "99 jobs waiting" not in page().text


# --- the form


def test_only_the_options_of_the_chosen_profile_count():
    """Without scripts a browser sends the options of all profiles."""
    form = {
        "_xsrf": ["x"],
        "profile": ["gpu"],
        "options.gpu.gpus": ["two"],
        "options.gpu.gpus.free": ["7"],
        "options.general.size": ["large"],
        "options.general.time.free": ["x", "y"][:1],
    }
    assert parse_form(form) == {"profile": "gpu", "options": {"gpus": "two"}}


def test_other_takes_the_free_value():
    """The choice "Other" means the text beside it; a text alone needs none; blanks are none."""
    form = {
        "profile": ["general"],
        "options.general.account": ["_other"],
        "options.general.account.free": [" physics "],
        "options.general.time.free": [" "],
        "options.general.size": [""],
    }
    assert parse_form(form) == {"profile": "general", "options": {"account": "physics"}}
    with pytest.raises(SelectionError, match="'account' of the profile 'general' is 'Other'"):
        parse_form({"profile": ["general"], "options.general.account": ["_other"]})


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"profile": [""]},
        {"profile": []},
        {"profile": ["a", "b"]},
        {"profile": "general"},
        {"profile": [b"general"]},
        {"options.general.size": ["large"]},
        {"profile": ["general"], "options.general.size": ["large", "medium"]},
        {"profile": ["general"], "options.general.size": [{"body": b"", "filename": "x"}]},
        {"profile": ["general"], "profile_file": [{"filename": "x", "body": b"x"}]},
        {"profile": ["general"], "options.general.size_file": [{"filename": "x"}]},
        {"profile": ["general"], "options.general.size.free.more": ["x"]},
        {"profile": ["general"], "options.General.size": ["x"]},
        {"profile": ["general"], "options": ["x"]},
        {"profile": ["general"], "cmd": ["/bin/sh"]},
    ],
)
def test_a_form_that_is_not_ours_is_refused(form):
    """Unknown fields, files, doubled and missing values are a 400, never ignored."""
    with pytest.raises(SelectionError) as refused:
        parse_form(form)
    assert refused.value.status_code == 400


def test_a_hostile_field_name_is_refused_in_short():
    """The refusal shows it safely and briefly."""
    for name in [*hostile.TEXTS.values(), hostile.ten_megabytes()]:
        with pytest.raises(SelectionError) as refused:
            parse_form({"profile": ["general"], name: ["x"]})
        words = str(refused.value)
        assert len(words) < 300
        assert words.isprintable()
        assert words.isascii()


def test_a_hostile_value_is_passed_on_for_select_to_refuse():
    """The form decides nothing: what is no choice is refused by the one rule for all ways in."""
    for value in [*hostile.TEXTS.values(), hostile.ten_megabytes()]:
        asked = parse_form({"profile": ["general"], "options.general.size": [value]})
        assert asked["options"] == ({"size": value} if value else {})
        if value:
            with pytest.raises(SelectionError):
                select(catalogue(), Person("ada"), asked)


@given(st.dictionaries(st.text(), st.lists(st.text() | st.binary(), max_size=3), max_size=5))
def test_any_form_is_understood_or_refused(form):
    """No form raises anything but a SelectionError, and what comes out is user_options."""
    try:
        asked = parse_form(form)
    except SelectionError:
        return
    assert set(asked) == {"profile", "options"}


# --- the address


@pytest.mark.parametrize(
    ("arguments", "preselect"),
    [
        ({}, None),
        ({"next": ["/x"], "_xsrf": ["x"], "display_name": ["y"]}, None),
        ({"profile": ["gpu"]}, {"profile": "gpu", "options": {}}),
        (
            {"profile": [b"gpu"], "options.gpus": [b"two"]},
            {"profile": "gpu", "options": {"gpus": "two"}},
        ),
        (
            {"opt-profile": ["gpu"], "opt-options.gpus": ["two"]},
            {"profile": "gpu", "options": {"gpus": "two"}},
        ),
    ],
)
def test_an_address_preselects(arguments, preselect):
    """``?profile=…&options.OPTION=…``, with the hub's prefix or without; its own are left alone."""
    assert parse_query(arguments) == (preselect, None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"options.size": ["large"]}, "no profile"),
        ({"profil": ["gpu"]}, "'profil' that is not known"),
        ({"profile": ["gpu"], "options.Size": ["x"]}, "not known"),
        ({"profile": ["gpu", "general"]}, "one value"),
        ({"profile": [""]}, "one value"),
        ({"profile": []}, "one value"),
        ({"profile": [b"\xff"]}, "one value"),
        ({"profile": ["a\nb"]}, "one value"),
        ({"profile": ["a" * 257]}, "one value"),
        ({"profile": ["gpu"], "options.size": ["a" * 10_000]}, "one value"),
        ({"profile": ["x"], **{f"options.o{n}": ["x"] for n in range(65)}}, "more than 64"),
    ],
)
def test_an_address_that_is_not_understood_says_why(arguments, words):
    """The page is shown all the same: the answer is words, not an error."""
    preselect, problem = parse_query(arguments)
    assert preselect is None
    assert problem is not None
    assert words in problem
    assert len(problem) < 300


@given(st.dictionaries(st.text(), st.lists(st.text() | st.binary(), max_size=3), max_size=5))
def test_any_address_is_understood_or_explained(arguments):
    """No address raises, and what is explained is fit to be shown."""
    preselect, problem = parse_query(arguments)
    assert preselect is None or problem is None
    assert problem is None or problem.isprintable()
