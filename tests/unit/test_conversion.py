"""From KubeSpawner's profile lists to ours: what a server gets stays what it was.

The comparison is with the real KubeSpawner: its own ``load_user_options`` decides and applies, and
the pod that it describes then is held against the pod of what we select for the same request.
"""

from __future__ import annotations

import asyncio
import copy
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import kubespawner.spawner as kubespawner_module
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kubernetes_asyncio.client import ApiClient
from kubespawner import KubeSpawner
from ruamel.yaml import YAML
from slugify import slugify
from traitlets.config import Config

from qhub_spawner.access import Person, select
from qhub_spawner.catalogue import load
from qhub_spawner.commands import main
from qhub_spawner.conversion import Conversion, converted, overrides
from qhub_spawner.conversion.rules import fullmatch_pattern
from qhub_spawner.conversion.sources import find, known_traits
from qhub_spawner.kubernetes.amounts import parse_bytes, parse_millicores
from qhub_spawner.kubernetes.manifest import Settings, completed
from qhub_spawner.kubernetes.pod_spawner import PodSpawner
from qhub_spawner.profiles import Profile
from qhub_spawner.resources import KubernetesBlock
from qhub_spawner.slugs import distinct, slugged
from tests.examples import examples
from tests.unit import profile_lists as lists

HUB = {
    "mem_guarantee": "512M",
    "image": "example.org/default:1",
    "node_selector": {"pool": "users", "gone": "yes"},
    "environment": {"SITE": "here", "WHO": "{username}"},
    "volumes": {"home": {"name": "home", "persistentVolumeClaim": {"claimName": "c"}}},
    "extra_labels": {"site": "one"},
}
AMOUNT_VARIABLES = {"CPU_LIMIT", "CPU_GUARANTEE", "MEM_LIMIT", "MEM_GUARANTEE"}


def spawner(hub: Mapping[str, Any], **traits: Any) -> KubeSpawner:
    """A real KubeSpawner that has no cluster."""
    with (
        mock.patch.object(kubespawner_module, "load_config"),
        mock.patch.object(kubespawner_module, "shared_client"),
    ):
        made = KubeSpawner(config=Config({"KubeSpawner": copy.deepcopy(dict(hub))}), _mock=True)
    for name, value in traits.items():
        setattr(made, name, value)
    return made


class _Plain:
    PRIMITIVE_TYPES = ApiClient.PRIMITIVE_TYPES

    def sanitize_for_serialization(self, found: Any) -> Any:
        return ApiClient.sanitize_for_serialization(self, found)


async def manifest(kube: KubeSpawner) -> dict[str, Any]:
    """What KubeSpawner would send."""
    made: dict[str, Any] = _Plain().sanitize_for_serialization(await kube.get_pod_manifest())
    return made


async def pod(kube: KubeSpawner) -> dict[str, Any]:
    """What reaches the cluster, and what is in none of the manifest's own fields."""
    made = filled_in(await manifest(kube))
    made["traits"] = {name: getattr(kube, name) for name in ("default_url", "cmd", "notebook_dir")}
    return made


def filled_in(made: dict[str, Any]) -> dict[str, Any]:
    """A pod with what the API server would fill in or round."""
    (container,) = (each for each in made["spec"]["containers"] if each["name"] == "notebook")
    # JupyterHub says the amounts in variables too, before the API server has filled in the rest
    container["env"] = {
        each["name"]: each for each in container["env"] if each["name"] not in AMOUNT_VARIABLES
    }
    resources = container.pop("resources")
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    made["amounts"] = {
        kind: {
            name: amount
            for name, value in amounts.items()
            if (amount := _amount(name, value)) or name in ("cpu", "memory")
        }
        for kind, amounts in (("limits", limits), ("requests", limits | requests))
    }
    return made


def _amount(name: str, value: object) -> int:
    text = str(value) if isinstance(value, float) else value
    return parse_millicores(text) if name == "cpu" else parse_bytes(text)


async def by_kubespawner(
    profile_list: Any, user_options: Mapping[str, Any], hub: Mapping[str, Any] = HUB
) -> dict[str, Any]:
    """The pod that KubeSpawner makes for a request."""
    kube = spawner(hub, profile_list=profile_list, user_options=dict(user_options))
    await kube.load_user_options()
    return await pod(kube)


async def by_profile(profile: Profile, hub: Mapping[str, Any] = HUB) -> dict[str, Any]:
    """The pod of a finished profile: `kubespawner` as traits, then our fields over them."""
    block = profile.kubernetes or KubernetesBlock()
    kube = spawner(hub)
    kube._apply_overrides(copy.deepcopy(block.kubespawner))
    if "cpu" in profile.model_fields_set:
        kube.cpu_limit = profile.cpu.millicores / 1000
        kube.cpu_guarantee = (block.cpu_request or profile.cpu).millicores / 1000
    elif block.cpu_request is not None:
        kube.cpu_guarantee = block.cpu_request.millicores / 1000
    memory = block.memory_request or profile.memory
    if profile.memory is not None:
        kube.mem_limit = profile.memory.bytes
    if memory is not None:
        kube.mem_guarantee = memory.bytes
    if profile.gpu is not None:
        count = {block.gpu_resource: str(profile.gpu.count)}
        kube.extra_resource_limits = kube.extra_resource_limits | count
        kube.extra_resource_guarantees = kube.extra_resource_guarantees | count
    for trait, value in {
        "image": block.image,
        "image_pull_policy": block.image_pull_policy,
        "image_pull_secrets": list(block.image_pull_secrets),
        "tolerations": list(block.tolerations),
        "priority_class_name": block.priority_class,
        "scheduler_name": block.scheduler,
    }.items():
        if value:
            setattr(kube, trait, value)
    kube.node_selector = {**kube.node_selector, **block.node_selector}
    kube.environment = {**kube.environment, **profile.environment.variables}
    kube.extra_labels = {**kube.extra_labels, **block.labels}
    kube.extra_annotations = {**kube.extra_annotations, **block.annotations}
    if block.runtime_class:
        runtime = {"runtimeClassName": block.runtime_class}
        kube.extra_pod_config = {**kube.extra_pod_config, **runtime}
    return await pod(kube)


def moved(profile_list: Any, hub: Mapping[str, Any] = HUB) -> Conversion:
    """Convert, and check what always holds: it loads, and is plain data."""
    made = converted(profile_list, traits=hub)
    load(made.profiles)
    assert json.loads(json.dumps(made.profiles, allow_nan=False)) == made.profiles
    assert all(note.isprintable() for note in made.notes)
    return made


def one(made: Conversion) -> dict[str, Any]:
    """The only profile."""
    (profile,) = made.profiles
    return profile


def lost(made: Conversion) -> list[str]:
    """The notes on what did not come along."""
    return [note for note in made.notes if re.search("[Ll]eft out|not it|not as it was", note)]


# --- the same server for the same request


@pytest.mark.parametrize(
    ("profile_list", "groups", "user_options"),
    [
        pytest.param(profile_list, groups, asked, id=f"{name} {asked}")
        for name, (profile_list, groups, requests) in lists.CASES.items()
        for asked in requests
    ],
)
async def test_the_same_request_gets_the_same_server(
    profile_list: Any, groups: frozenset[str], user_options: dict[str, Any]
) -> None:
    """Whatever a hub's users send, KubeSpawner's pod and that of the converted profile are equal."""
    made = moved(profile_list)
    assert not any("left out" in note and "'slug'" not in note for note in made.notes)
    selection = select(load(made.profiles), Person("mira", groups), user_options)
    expected = await by_kubespawner(profile_list, user_options)
    assert await by_profile(selection.profile) == expected
    again = select(load(made.profiles), Person("mira", groups), selection.user_options)
    assert again == selection
    assert set(selection.user_options) == {"profile", "options"}


@pytest.mark.parametrize(
    ("profile_list", "groups", "user_options"),
    [
        pytest.param(profile_list, groups, asked, id=f"{name} {asked}")
        for name, (profile_list, groups, requests) in lists.CASES.items()
        for asked in requests
    ],
)
async def test_the_backend_makes_that_pod(
    profile_list: Any, groups: frozenset[str], user_options: dict[str, Any]
) -> None:
    """What the Kubernetes backend lays over KubeSpawner's manifest comes to the same pod."""
    catalogue = load(moved(profile_list).profiles)
    profile = select(catalogue, Person("mira", groups), user_options).profile
    assert profile.kubernetes is not None
    kube = spawner(HUB)
    kube._apply_overrides(copy.deepcopy(profile.kubernetes.kubespawner))
    PodSpawner.fit(kube, profile)
    made = completed(
        await manifest(kube), profile, user="mira", settings=Settings(restricted=False)
    )
    theirs = spawner(HUB, profile_list=profile_list, user_options=dict(user_options))
    await theirs.load_user_options()
    expected = filled_in(await manifest(theirs))
    found = filled_in(made)
    assert found == expected


@pytest.mark.parametrize("groups", [(), ("staff",)])
async def test_a_callable_list_goes_on_to_be_one(groups: tuple[str, ...]) -> None:
    """What a function returns is converted each time it is called, as the how-to says."""
    given = await lists.by_person(lists.person("mira", *groups))
    made = converted(given, traits=HUB)
    catalogue = load(made.profiles)
    for profile in catalogue.profiles:
        expected = await by_kubespawner(
            await lists.by_person(lists.person("mira", *groups)), {"profile": profile.slug}
        )
        selection = select(catalogue, Person("mira"), {"profile": profile.slug})
        assert await by_profile(selection.profile) == expected
    assert len(catalogue.profiles) == 1 + len(groups)


@pytest.mark.parametrize(("name", "text"), [("chart", lists.CHART), ("nebari", lists.NEBARI)])
async def test_lists_of_charts(name: str, text: str, tmp_path: Path) -> None:
    """Lists in a chart's values, with what the chart says for everybody."""
    path = tmp_path / f"{name}.yaml"
    path.write_text(text)
    found = find(path)
    made = moved(found.profile_list, found.traits)
    groups = {
        group for profile in made.profiles for group in profile.get("access", {}).get("groups", ())
    }
    hub = {**HUB, **found.traits} if found.traits else {}
    for profile in made.profiles:
        request = {"profile": profile["slug"]}
        selection = select(load(made.profiles), Person("x", frozenset(groups)), request)
        expected = await by_kubespawner(found.profile_list, request, hub)
        assert await by_profile(selection.profile, hub) == expected


AMOUNT = st.sampled_from([None, 0, 1, 2, 0.5, 3.7505])
MEMORY = st.sampled_from([None, 0, "1G", "2.5G", 10**9, "700M"])
TEXT = st.sampled_from(["a", "{username}", "{{x}}", "b c", ""])
LABEL = st.sampled_from(["a", "b.c", "x y", "", None])
OVERRIDE = st.fixed_dictionaries(
    {},
    optional={
        "cpu_limit": AMOUNT,
        "cpu_guarantee": AMOUNT,
        "mem_limit": MEMORY,
        "mem_guarantee": MEMORY,
        "image": st.sampled_from(["a/b:1", "c", "bad image", "{username}"]),
        "image_pull_policy": st.sampled_from(["Always", "Never"]),
        "image_pull_secrets": st.sampled_from([["s"], [], [{"name": "t"}]]),
        "node_selector": st.dictionaries(st.sampled_from(["pool", "gone", "k"]), LABEL, max_size=2),
        "tolerations": st.sampled_from(
            [[], [{"key": "a"}], {"x": {"key": "b"}}, {"y": {"key": "c"}}]
        ),
        "environment": st.dictionaries(
            st.sampled_from(["SITE", "A", "1 odd"]), st.one_of(TEXT, st.none()), max_size=2
        ),
        "extra_resource_limits": st.dictionaries(
            st.sampled_from(["nvidia.com/gpu", "amd.com/gpu", "example.org/fpga"]),
            st.sampled_from(["0", "1", 2, 65]),
            max_size=2,
        ),
        "extra_pod_config": st.dictionaries(
            st.sampled_from(["runtimeClassName", "hostIPC"]), st.sampled_from(["nvidia", "kata"])
        ),
        "extra_labels": st.dictionaries(
            st.sampled_from(["site", "l"]), st.sampled_from(["x", "y"])
        ),
        "default_url": st.sampled_from(["/lab", "/rstudio"]),
        "service_account": st.sampled_from(["robot", "{username}"]),
        "volumes": st.sampled_from([[], [{"name": "v", "emptyDir": {}}], {"z": {"name": "z"}}]),
    },
)
CHOICES = st.dictionaries(
    st.sampled_from(["a", "b_1", "c"]),
    st.fixed_dictionaries({"kubespawner_override": OVERRIDE}, optional={"default": st.booleans()}),
    min_size=1,
    max_size=3,
)
PROFILE = st.fixed_dictionaries(
    {"display_name": st.just("One"), "kubespawner_override": OVERRIDE},
    optional={
        "profile_options": st.dictionaries(
            st.sampled_from(["size", "other_thing"]),
            st.fixed_dictionaries({"choices": CHOICES}),
            max_size=2,
        )
    },
)


@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PROFILE, st.data())
def test_any_list_is_converted_or_says_what_is_lost(profile: dict[str, Any], data: Any) -> None:
    """Where no note says that something was left out, every request gets the server it got."""
    made = moved([profile])
    if lost(made):
        return
    options = profile.get("profile_options", {})
    asked: dict[str, Any] = {"profile": "one"}
    for name, option in options.items():
        value = data.draw(st.sampled_from([None, *option["choices"]]))
        if value is not None:
            asked[name] = value
    selection = select(load(made.profiles), Person("x"), asked)

    async def compare() -> None:
        expected = await by_kubespawner([profile], asked)
        assert await by_profile(selection.profile) == expected

    asyncio.run(compare())


# --- names and defaults


@given(st.text(st.characters(codec="ascii"), max_size=60))
@example("8 cores, 1,000 GB & 'more'")
@example("a&amp;b &#65; &nbsp;c")
def test_slugs_are_those_of_kubespawner(text: str) -> None:
    """Of ASCII titles; a script that names the profile goes on to work."""
    assert slugged(text) == slugify(text)


@pytest.mark.parametrize(
    ("entry", "slug"),
    [
        ({"display_name": "GPU – klein & günstig"}, "gpu-klein-gunstig"),
        ({"display_name": "数据科学"}, slugify("数据科学")),
        ({"display_name": "X", "slug": "My_Slug"}, "my-slug"),
        ({"display_name": "!!!"}, "profile-1"),
        ({"display_name": "a" * 80}, "a" * 63),
        ({"slug": "only-slug"}, "only-slug"),
        ({}, "profile-1"),
    ],
)
def test_slugs(entry: dict[str, Any], slug: str) -> None:
    """The same where it is one of ours, else made into one, with a note."""
    made = moved([entry])
    assert one(made)["slug"] == slug
    theirs = entry.get("slug") or slugify(entry.get("display_name", "profile 1"))
    assert bool([note for note in made.notes if "the slug was" in note]) is (slug != theirs)


def test_slugs_where_kubespawner_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A title beyond ASCII is spelled as well as can be."""
    monkeypatch.setitem(sys.modules, "slugify", None)
    assert [p["slug"] for p in moved([{"display_name": "Größe ß"}]).profiles] == ["gro-e"]


def test_names_are_unique() -> None:
    """Profiles, options and choices whose names become the same are told apart, and said."""
    options = {
        "a_b": {"choices": {"x.y": {}, "x_y": {}, "": {}}},
        "a-b": {"choices": {"z": {}}},
        "é": {"choices": {"z": {}}},
    }
    made = moved([{"display_name": "A", "profile_options": options}, {"display_name": "a"}])
    assert [profile["slug"] for profile in made.profiles] == ["a", "a-2"]
    assert list(made.profiles[0]["options"]) == ["a-b", "a-b-2", "e"]
    assert list(made.profiles[0]["options"]["a-b"]["choices"]) == ["x-y", "x-y-2", "choice"]
    notes = " ".join(made.notes)
    assert "the old are understood too: 'a_b' is 'a-b', 'x.y' is 'x-y', 'é' is 'e'" in notes
    assert "options.a-b-2: the option was called 'a-b'" in notes
    assert "options.a-b.choices.x-y-2: the choice was called 'x_y'" in notes
    assert "options.a-b.choices.choice: the choice was called ''" in notes
    assert distinct("a" * 63, {"a" * 63}) == "a" * 61 + "-2"


def test_defaults() -> None:
    """The first that is marked, else the first; one at most is written."""
    plain = [{"display_name": name} for name in "abc"]
    assert [p.get("default") for p in moved(plain).profiles] == [True, None, None]
    marked = [plain[0], {**plain[1], "default": True}, {**plain[2], "default": True}]
    made = moved(marked)
    assert [p.get("default") for p in made.profiles] == [None, True, None]
    assert "c: is marked default beside 'b': not it" in made.notes
    choices = {"x": {}, "y": {"default": True}, "z": {"default": True}}
    made = moved([{"display_name": "A", "profile_options": {"o": {"choices": choices}}}])
    read = one(made)["options"]["o"]["choices"]
    assert [choice.get("default") for choice in read.values()] == [None, True, None]


def test_texts_are_plain() -> None:
    """HTML and line breaks go, with a note where something is lost; nothing invisible is left."""
    made = moved(
        [
            {
                "display_name": "A<br>B &amp; <em>C</em>",
                "description": "one\n  two\u202e\x1b &lt; 3 <a href='x'>link</a>" + "y" * 3000,
            }
        ]
    )
    profile = one(made)
    assert profile["display_name"] == "A B & C"
    assert profile["description"].startswith("one two < 3 linky")
    assert len(profile["description"]) == 2000
    assert sum("HTML" in note for note in made.notes) == 2


# --- who may have it


def test_access() -> None:
    """Groups or users, on profiles, choices and values of one's own."""
    unlisted = {
        "enabled": True,
        "allowed_groups": ["dev"],
        "kubespawner_override": {"image": "{value}"},
    }
    choices = {"a": {}, "b": {"allowed_users": ["eva"]}}
    made = moved(
        [
            {
                "display_name": "A",
                "allowed_groups": ["Staff", "x"],
                "allowed_users": ["ann"],
                "profile_options": {"o": {"choices": choices, "unlisted_choice": unlisted}},
            }
        ]
    )
    profile = one(made)
    assert profile["access"] == {"groups": ["Staff", "x"], "users": ["ann"]}
    option = profile["options"]["o"]
    assert "access" not in option["choices"]["a"]
    assert option["choices"]["b"]["access"] == {"users": ["eva"]}
    assert option["free"]["access"] == {"groups": ["dev"]}
    assert any("letter by letter" in note for note in made.notes)


@pytest.mark.parametrize("groups", [[], None, 3, [""], [1], {"a": 1}])
def test_nothing_is_opened(groups: object) -> None:
    """A rule that lets nobody in, or cannot be read, is no rule for everybody: it is left out."""
    unlisted = {
        "enabled": True,
        "allowed_groups": groups,
        "kubespawner_override": {"image": "{value}"},
    }
    closed = {"display_name": "Closed", "allowed_groups": groups}
    options = {"o": {"choices": {"a": {}, "b": closed}, "unlisted_choice": unlisted}}
    made = moved([{"display_name": "Open", "profile_options": options}, closed])
    profile = one(made)
    assert list(profile["options"]["o"]["choices"]) == ["a"]
    assert "free" not in profile["options"]["o"]
    assert sum("allowed_groups" in note and "left out" in note for note in made.notes) == 3


def test_names_that_are_no_names() -> None:
    """What our own rules refuse is left out, with what they say."""
    groups = ["x" * 300]
    unlisted = {
        "enabled": True,
        "allowed_groups": groups,
        "kubespawner_override": {"image": "{value}"},
    }
    options = {"o": {"choices": {"a": {}}, "unlisted_choice": unlisted}}
    made = moved(
        [
            {"display_name": "A", "profile_options": options},
            {"display_name": "B", "allowed_groups": groups},
        ]
    )
    assert "free" not in one(made)["options"]["o"]
    assert any("as it would not load" in note for note in lost(made))


def test_access_of_nebari() -> None:
    """All, by the file, or by Keycloak, which a file cannot ask: that stays shut, and is said."""
    made = moved(YAML(typ="safe").load(lists.NEBARI)["profiles"]["jupyterlab"])
    small, medium, gpu = made.profiles
    assert "access" not in small
    assert medium["access"] == {"groups": ["developer"], "users": ["nora"]}
    assert gpu["access"] == {"groups": ["jupyterlab_profiles:GPU Instance"]}
    assert any("Keycloak" in note for note in made.notes)
    for entry in (
        {"access": "yaml"},
        {"access": "yaml", "groups": None, "users": []},
        {"access": "x"},
    ):
        assert not moved([{"display_name": "A", **entry}]).profiles


# --- values of one's own


@pytest.mark.parametrize(
    ("override", "sets"),
    [
        ({"image": "{value}"}, "kubernetes.image"),
        ({"image_spec": "{value}"}, "kubernetes.image"),
        ({"mem_limit": "{value}"}, "memory"),
        ({"mem_limit": "{value}", "mem_guarantee": "{value}"}, "memory"),
        ({"cpu_limit": "{value}", "cpu_guarantee": "{value}"}, "cpu"),
        ({"image": "quay.io/lab/image:{value}"}, None),
        ({"image": "{value}", "default_url": "/lab"}, None),
        ({"mem_guarantee": "{value}"}, None),
        ({"node_selector": {"pool": "{value}"}}, None),
        ({"image": lambda _spawner: "x"}, None),
        ({}, None),
        (None, None),
    ],
)
def test_unlisted_choices(override: Any, sets: str | None) -> None:
    """One that fills one field with the value moves; of others a note says what they did."""
    unlisted = {"enabled": True, "display_name": "Yours", "kubespawner_override": override}
    option = {"choices": {"a": {}}, "unlisted_choice": unlisted}
    made = moved([{"display_name": "A", "profile_options": {"o": option}}], {})
    read = one(made)["options"]["o"]
    assert read.get("free", {}).get("sets") == sets
    assert bool(lost(made)) is (sets is None)


def test_an_unlisted_choice_must_not_keep_an_old_guarantee() -> None:
    """Where the profile keeps less free than its limit, a value that sets both has no field."""
    both = {"mem_limit": "{value}", "mem_guarantee": "{value}"}
    option = {
        "choices": {"a": {}},
        "unlisted_choice": {"enabled": True, "kubespawner_override": both},
    }
    profile = {"display_name": "A", "profile_options": {"o": option}}
    assert "free" not in one(moved([profile], HUB))["options"]["o"]
    override = {"mem_limit": "2G", "mem_guarantee": "1G"}
    assert (
        "free"
        not in one(moved([{**profile, "kubespawner_override": override}], {}))["options"]["o"]
    )


def test_an_option_of_which_nothing_is_left() -> None:
    """It is left out, and said."""
    option = {"unlisted_choice": {"enabled": True, "kubespawner_override": {"x": "{value}"}}}
    made = moved([{"display_name": "A", "profile_options": {"o": option}}])
    assert "options" not in one(made)
    assert any("nothing is left to choose" in note for note in made.notes)


@pytest.mark.parametrize(
    ("regex", "pattern"),
    [
        ("^pangeo/.*$", "pangeo/.*"),
        ("^.+:.+$", ".+:.+"),
        ("pangeo/", "(?:pangeo/).*"),
        ("^pangeo/.*", "pangeo/.*"),
        ("a|b$", "(?:a|b$).*"),
        (r"^a\$", r"(?:^a\$).*"),
        (r"a\.*", r"(?:a\.*).*"),
        ("(?i)^x$", "(?i)x"),
        ("(?x) a # as it is.*", "(?x)(?: a # as it is.*\n).*"),
        ("^*a$", None),
        ("(", None),
        (")|(", None),
        ("a" * 1001, None),
    ],
)
def test_patterns(regex: str, pattern: str | None) -> None:
    """KubeSpawner tries a regular expression at the beginning only, we on the whole value."""
    assert fullmatch_pattern(regex) == pattern


@given(
    st.text(st.sampled_from("^$.*+ab|\\()[]?"), min_size=1, max_size=8),
    st.lists(st.text(st.sampled_from("ab$.|^*"), min_size=1, max_size=6), min_size=1),
)
def test_a_pattern_lets_the_same_values_through(regex: str, values: list[str]) -> None:
    """Whatever the expression, whatever the value."""
    pattern = fullmatch_pattern(regex)
    if pattern is None:
        return
    for value in values:
        assert bool(re.match(regex, value)) is bool(re.fullmatch(pattern, value)), value


def test_a_faulty_pattern_opens_nothing() -> None:
    """The value of one's own is left out rather than free of any rule."""
    unlisted = {
        "enabled": True,
        "validation_regex": "(",
        "kubespawner_override": {"image": "{value}"},
    }
    option = {"choices": {"a": {}}, "unlisted_choice": unlisted}
    made = moved([{"display_name": "A", "profile_options": {"o": option}}])
    assert "free" not in one(made)["options"]["o"]
    assert lost(made)


# --- what cannot be moved


def test_functions_are_named() -> None:
    """Each with its place; what stands beside them stays."""
    override = {
        "cpu_limit": lambda _spawner: 2,
        "environment": {"A": "a", "B": lambda _spawner: "b"},
        "volumes": [{"name": "v"}, {"name": lambda _spawner: "b"}],
        "mem_limit": float("inf"),
        "uid": object(),
    }
    made = moved([{"display_name": "A", "kubespawner_override": override}])
    assert one(made)["environment"] == {"variables": {"A": "a"}}
    assert one(made)["kubernetes"] == {}
    for place in ("cpu_limit", "environment.B", "volumes[1].name", "mem_limit", "uid"):
        assert any(f"override: {place} is" in note for note in made.notes), place


def test_settings_that_kubespawner_does_not_have() -> None:
    """KubeSpawner would set them without effect; a server of ours would not start."""
    entry = {"display_name": "A", "kubespawner_override": {"cpu_limt": 1, "image_spec": "a"}}
    made = converted([entry], known=known_traits())
    assert one(made)["kubernetes"] == {"image": "a"}
    assert made.notes == ["a: override: KubeSpawner has no setting 'cpu_limt': left out"]
    assert one(moved([entry]))["kubernetes"]["kubespawner"] == {"cpu_limt": 1}


def test_a_choice_cannot_take_away() -> None:
    """KubeSpawner's ``None`` takes away what came before; where we cannot, it is said."""
    profile = {
        "display_name": "A",
        "kubespawner_override": {"node_selector": {"pool": "x", "k": "v"}, "default_url": "/lab"},
        "profile_options": {
            "o": {
                "choices": {
                    "a": {"kubespawner_override": {"node_selector": {"pool": None}}},
                    "b": {
                        "kubespawner_override": {"default_url": None, "extra_labels": {"q": None}}
                    },
                }
            }
        },
    }
    made = moved([profile])
    choices = one(made)["options"]["o"]["choices"]
    assert "overrides" not in choices["a"]
    assert choices["b"]["overrides"] == {
        "kubernetes": {"kubespawner": {"extra_labels": {"q": None}}}
    }
    notes = " ".join(lost(made))
    assert "node_selector.pool is set to nothing" in notes
    assert "default_url is set to nothing" in notes


@pytest.mark.parametrize(
    "faulty",
    [
        [],
        {},
        [3],
        ["x"],
        "x",
        None,
        [None],
        [{"display_name": None}],
        [{"display_name": "A", "kubespawner_override": "x"}],
        [{"display_name": "A", "profile_options": []}],
        [{"display_name": "A", "profile_options": {"o": None}}],
        [{"display_name": "A", "profile_options": {"o": {"choices": None}}}],
        [{"display_name": "A", "profile_options": {"o": {"choices": {"x": None, 2: {}}}}}],
        [{"display_name": "A", "profile_options": {"o": {"unlisted_choice": "x"}}}],
        [{"display_name": "A", "custom_key": 1, "description": 3}],
    ],
)
def test_faulty_lists(faulty: Any) -> None:
    """Never an error; what came out loads, and the rest has a note."""
    made = moved(faulty)
    assert made.notes or made.profiles or not faulty


KEYS = st.sampled_from(
    "slug display_name description default access groups users allowed_groups allowed_users "
    "kubespawner_override profile_options choices unlisted_choice enabled validation_regex "
    "validation_message o image mem_limit environment node_selector tolerations".split()
)
ODD = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(["{value}", "<b>", "1G", "("]),
        st.binary(max_size=2),
        st.just(len),
        st.just({1}),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(KEYS, st.integers()), inner, max_size=5),
    ),
    max_leaves=25,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(ODD, st.lists(st.dictionaries(KEYS, ODD, max_size=6), max_size=3)))
def test_whatever_is_in_a_list(anything: Any) -> None:
    """No error but notes, whatever a configuration holds."""
    moved(anything)


def test_a_list_that_contains_itself() -> None:
    """It has no end, so it is left out."""
    override: dict[str, Any] = {"image": "a"}
    override["extra_pod_config"] = override
    made = moved([{"display_name": "A", "kubespawner_override": override}, {"display_name": "B"}])
    assert [profile["slug"] for profile in made.profiles] == ["b"]
    assert lost(made)


def test_keys_of_custom_templates_are_named() -> None:
    """A key that only a template of the hub's own knew."""
    made = moved([{"display_name": "A", "image_building": {"on": True}}])
    assert any("'image_building'" in note for note in made.notes)


# --- the how-to

HOW_TO = Path(__file__).resolve().parents[2] / "docs/how-to/move-from-kubespawner.md"


def test_the_example_of_the_how_to() -> None:
    """Its list becomes its profile, and its requests select it."""
    page = HOW_TO.read_text("utf-8")
    (code,) = re.findall("```text\n(.*?)```", page, re.DOTALL)
    (text,) = re.findall("```yaml\n(.*?)```", page, re.DOTALL)
    config = Config()
    exec(code, {"c": config})  # noqa: S102 - it is what the test is about
    made = converted(config.KubeSpawner.profile_list)
    assert made.profiles == YAML(typ="safe").load(text)
    for request in re.findall("```json\n(.*?)```", page, re.DOTALL):
        asked = json.loads(request)
        person = Person("x", frozenset({"research"}))
        assert select(load(made.profiles), person, asked).slug == "shared-cpu"


def test_every_trait_with_a_field_is_in_the_how_to() -> None:
    """Nobody is left to guess where a line has gone."""
    page = HOW_TO.read_text("utf-8")
    for trait in (*overrides._FIELDS, *overrides._MAPPINGS):
        assert f"`{trait}`" in page or trait == "extra_resource_guarantees", trait


# --- the command


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Write a file of a hub and return its path."""

    def file(name: str, text: str) -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return file


CONFIGURATION = """\
print("Loading what hubs load")
c = get_config()
c.JupyterHub.spawner_class = "kubespawner.KubeSpawner"
c.KubeSpawner.mem_guarantee = "1G"
c.KubeSpawner.profile_list = [
    {"display_name": "A b", "kubespawner_override": {"mem_limit": "2G", "uid": lambda s: 1}},
    {"display_name": "Yes", "description": "no", "slug": "null", "kubespawner_override":
        {"cmd": ["sh", "-c", "a: b\\n# c\\n\\n  d"], "default_url": "/lab"}},
]
"""


def test_convert_prints_a_profiles_file(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """YAML with the notes as comments, which `check` takes; the notes on standard error."""
    path = write("jupyterhub_config.py", CONFIGURATION)
    assert main(["convert", path]) == 0
    out, err = capsys.readouterr()
    assert "# - a-b: override: uid is a function" in out
    assert "Loading" not in out
    assert "note: a-b: override: uid is a function" in err
    file = tmp_path / "profiles.yaml"
    file.write_text(out)
    first, second = load(file).profiles
    assert (str(first.memory), first.slug, second.slug) == ("2 GiB", "a-b", "null")
    assert first.kubernetes is not None
    assert str(first.kubernetes.memory_request) == "1 GiB"
    assert second.display_name == "Yes"
    assert second.kubernetes is not None
    assert second.kubernetes.kubespawner["cmd"] == ["sh", "-c", "a: b\n# c\n\n  d"]


def test_convert_writes_a_file_once(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is there stays, unless it is said otherwise."""
    path = write("values.yaml", lists.CHART)
    output = tmp_path / "profiles.yaml"
    assert main(["convert", path, "--output", str(output)]) == 0
    assert "profiles: 4, notes: 0" in capsys.readouterr().out
    output.write_text("mine")
    assert main(["convert", path, "--output", str(output)]) == 1
    assert "--force" in capsys.readouterr().err
    assert output.read_text() == "mine"
    assert main(["convert", path, "--output", str(output), "--force"]) == 0
    assert main(["check", str(output)]) == 0


@pytest.mark.parametrize("name", sorted(lists.CASES))
def test_a_written_file_is_what_was_converted(
    name: str, write: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Through YAML and back nothing changes."""
    profile_list = lists.CASES[name][0]
    path = write("list.json", json.dumps(profile_list))
    assert main(["convert", path]) == 0
    file = tmp_path / "p.yaml"
    file.write_text(capsys.readouterr().out)
    assert load(file) == load(converted(profile_list).profiles)


def test_guarantees_of_the_hub(write: Any) -> None:
    """What a hub keeps free for everybody is found where charts and configurations have it."""
    chart = find(Path(write("v.yaml", lists.CHART)))
    assert chart.traits == {"mem_guarantee": "512M", "cpu_guarantee": 0.1}
    bare = find(Path(write("w.yaml", "singleuser: {profileList: [{display_name: A}]}")))
    assert bare.traits == {"mem_guarantee": "1G"}
    config = find(Path(write("c.py", CONFIGURATION)))
    assert config.traits == {"mem_guarantee": "1G"}
    own = {
        "hub": {"config": {"KubeSpawner": {"cpu_guarantee": 1, "profile_list": [{"slug": "a"}]}}}
    }
    assert find(Path(write("h.json", json.dumps(own)))).traits == {"cpu_guarantee": 1}


ASYNC = """\
async def listed(spawner):
    state = await spawner.user.get_auth_state()
    return [{"display_name": str(state)}, {"display_name": "b"}][len(spawner.user.groups) :]
c.KubeSpawner.profile_list = listed
"""
FILTER = """\
from functools import partial
def only(given, spawner): raise RuntimeError
c.KubeSpawner.profile_list = partial(only, [{"slug": "a", "allowed_groups": ["g"]}])
"""


@pytest.mark.parametrize(
    ("code", "slugs"),
    [
        (
            "c.KubeSpawner.profile_list = lambda spawner: [{'slug': spawner.user.name}]",
            ["user"],
        ),
        (ASYNC, ["profile-1", "b"]),
        ("c.KubeSpawner.profile_list = {'2': {'slug': 'b'}, '1': {'slug': 'a'}}", ["a", "b"]),
        ("c.KubeSpawner.profile_list.append({'slug': 'a'})", ["a"]),
        ("c.OurSpawner.profile_list = [{'slug': 'a'}]", ["a"]),
        (FILTER, ["a"]),
    ],
)
def test_configurations(code: str, slugs: list[str], write: Any) -> None:
    """A list, a mapping, a function; plain, async, or a filter of a list."""
    found = find(Path(write("hub_config.py", f"c = get_config()\n{code}\n")))
    made = moved(found.profile_list, found.traits)
    assert [profile["slug"] for profile in made.profiles] == slugs
    assert bool(found.notes) is ("spawner" in code)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.py", "c = get_config()\nraise RuntimeError('no cluster')", "a.py:2"),
        ("a.py", "c = get_config()\nimport sys; sys.exit('gone')", "SystemExit: gone"),
        ("a.py", "c.", "SyntaxError"),
        ("a.py", "c = get_config()\nc.JupyterHub.port = 1", "profile_list is not set"),
        ("a.py", "c = get_config()\nc.KubeSpawner.profile_list = 3", "no list of profiles"),
        ("a.py", "c = get_config()\nc.KubeSpawner.profile_list = []", "no profile came out"),
        (
            "a.py",
            "c = get_config()\nc.KubeSpawner.profile_list = lambda spawner: spawner.user.orm.name",
            "cannot be called outside the hub",
        ),
        ("a.yaml", "singleuser: {profileList: []}", "no list of profiles"),
        ("a.yaml", "a: {singleuser: {profileList: [{}]}}\nprofile_list: [{}]", "several lists"),
        ("a.yaml", "profile_list: 3", "no list"),
        ("a.yaml", "a: [", "not YAML"),
        ("a.yaml", "", "no list of profiles"),
        ("a.json", "{", "not JSON"),
    ],
)
def test_sources_without_a_list(
    name: str, text: str, said: str, write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said in words, with the place; never a traceback."""
    assert main(["convert", write(name, text)]) == 1
    out, err = capsys.readouterr()
    assert said in err
    assert "Traceback" not in err
    assert not out


@pytest.mark.parametrize("name", ["x.py", "x.yaml", "x.json"])
def test_no_file(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Said with its path."""
    assert main(["convert", f"/nonexistent/{name}"]) == 1
    assert f"/nonexistent/{name}" in capsys.readouterr().err
