"""Profiles: what may stand in one, and how a choice is laid over it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError

from qhub_spawner.errors import ValueRefusedError
from qhub_spawner.profiles import (
    Access,
    Choice,
    Environment,
    FreeValue,
    Gpu,
    Option,
    Overrides,
    Profile,
    SlurmBlock,
)
from qhub_spawner.quantities import Cpu, Duration, Memory
from tests.unit import hostile

LEAST: dict[str, Any] = {"slug": "general", "display_name": "General", "local": {}}


_NAME = "[A-Za-z0-9_][A-Za-z0-9_.:/]{0,127}"
PLAIN = {
    "slug": "[a-z0-9]{1,63}",
    "account": _NAME,
    "qos": _NAME,
    "type": _NAME,
    "prefix": "/etc/passwd",
}
"""What is fine for each field, of the texts on the hostile list."""


def profile(**changes: Any) -> Profile:
    """Make a profile of the least that one needs, and more."""
    return Profile.model_validate({**LEAST, **changes})


def refusal(model: Any, data: object) -> ValueRefusedError:
    """Return why the model refuses the data, when it is by one of our own rules."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate(data)
    cause = caught.value.errors()[0].get("ctx", {}).get("error")
    assert isinstance(cause, ValueRefusedError), caught.value
    return cause


def test_the_least_profile() -> None:
    """A slug, words and a backend are enough; a core and a node are what one gets."""
    least = profile()
    assert (least.cpu, least.nodes, least.memory, least.policy) == (Cpu(1000), 1, None, "first")
    assert least.backends == ("local",)


def test_short_forms() -> None:
    """A number of GPUs and a path of an environment may stand for the whole block."""
    short = profile(gpu=2, environment="/opt/jupyter", memory="4G", walltime=30)
    assert short.gpu == Gpu(count=2)
    assert short.environment.prefix == "/opt/jupyter"
    assert (short.memory, short.walltime) == (Memory(2**32), Duration(1800))


def test_frozen() -> None:
    """Nobody changes a profile that others share."""
    with pytest.raises(ValidationError):
        profile().nodes = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    "changes",
    [
        {"nodes": "2"},
        {"nodes": 2.0},
        {"nodes": True},
        {"nodes": 0},
        {"default": "yes"},
        {"default": 1},
        {"display_name": 3},
        {"slug": True},
        {"gpu": True},
        {"gpu": 65},
        {"gpu": -1},
        {"gpu": "a100"},
        {"memory": 4},
        {"access": None},
        {"access": {"groups": "physics"}},
        {"access": {"groups": [1]}},
        {"policy": "last"},
        {"slurm": {"exclusive": "yes"}},
        {"environment": {"variables": {"A": True}}},
        {"environment": {"variables": {"A": 1.5}}},
        {"kubernetes": {"a": 1}},
        {"kubernetes": {"pod": {"a": object()}}},
        {"kubernetes": {"spot": "yes"}},
        {"kubernetes": {"image": "a b"}},
        {"kubernetes": {"node_selector": {"pool": "-a"}}},
        {"kubernetes": {"gpu_resource": "gpu"}},
        {"memroy": "4G"},
    ],
)
def test_nothing_is_guessed(changes: dict[str, Any]) -> None:
    """A text is not a number, 'yes' is not true, an unknown key is an error."""
    with pytest.raises(ValidationError):
        profile(**changes)


@pytest.mark.parametrize("slug", ["a", "large-memory", "4", "0a", "a" * 63, "a--b"])
def test_slugs(slug: str) -> None:
    """Lower-case letters, digits and dashes."""
    assert profile(slug=slug).slug == slug


@pytest.mark.parametrize("name", hostile.TEXTS)
@pytest.mark.parametrize(
    "where",
    [
        ("slug",),
        ("slurm", "account"),
        ("slurm", "qos"),
        ("gpu", "type"),
        ("environment", "prefix"),
    ],
)
def test_hostile_names_are_refused(where: tuple[str, ...], name: str) -> None:
    """No text of the hostile list is a name, but those that happen to be plain ones."""
    text = hostile.TEXTS[name]
    data: Any = text
    for key in reversed(where):
        data = {key: data}
    if re.fullmatch(PLAIN[where[-1]], text):
        assert Profile.model_validate({**LEAST, **data})
    else:
        with pytest.raises(ValidationError):
            Profile.model_validate({**LEAST, **data})


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("partition", "general,highmem", "general, highmem"),
        ("partition", "a.b-c", "-a"),
        ("account", "physics/theory", "physics,theory"),
        ("qos", "high", "high low"),
        ("reservation", "course_1", "course;1"),
        ("constraint", "[rack1|rack2]&ib*2", "intel;id"),
        ("constraint", "intel&ib", "$(id)"),
        ("gres", "scratch:20G,shard:2", "scratch:20G 2"),
        ("cluster", "one,two", "one two"),
    ],
)
def test_names_of_slurm(field: str, good: str, bad: str) -> None:
    """Each field takes what Slurm takes, on one line and without what a shell reads."""
    assert getattr(SlurmBlock.model_validate({field: good}), field) == good
    assert refusal(SlurmBlock, {field: bad}).accepted


@pytest.mark.parametrize("bad", ["-p x", "partition=x", "--", "--a\n--b", "--a\0", "--A=b", "--=x"])
def test_directives_are_one_option_each(bad: str) -> None:
    """Each begins with two dashes and stands on one line."""
    good = SlurmBlock(directives=("--mail-type=END", "--requeue"))
    assert good.directives == ("--mail-type=END", "--requeue")
    assert "--mail-type" in refusal(SlurmBlock, {"directives": [bad]}).accepted


@pytest.mark.parametrize("bad", ["a b", "-x", "a;b", "a\n", "$x", ""])
def test_modules_are_names(bad: str) -> None:
    """A module's name holds nothing a shell reads."""
    assert SlurmBlock(modules=("python/3.11",)).modules == ("python/3.11",)
    assert refusal(SlurmBlock, {"modules": [bad]}).accepted


def test_shell_text_has_lines_and_no_nul() -> None:
    """The administrator's shell text may have lines and tabs, not other control characters."""
    text = "set -e\nif true; then\n\techo yes\nfi\n"
    assert SlurmBlock(prologue=text).prologue == text
    assert "U+0000" in refusal(SlurmBlock, {"epilogue": "a\0b"}).message


@pytest.mark.parametrize(
    "bad", ["opt/x", "~/x", "/a/../b", "/..", "/a/..", "/a b", "/a\nb", "/a$b", "/é", ""]
)
def test_prefix_is_a_plain_absolute_path(bad: str) -> None:
    """Absolute, without '..' and without what a shell reads."""
    assert Environment(prefix="/opt/..a/b..").prefix == "/opt/..a/b.."
    assert refusal(Environment, {"prefix": bad}).accepted


@pytest.mark.parametrize(
    "bad", ["A B", "1A", "A=B", "", "JUPYTERHUB_API_TOKEN", "JPY_API_TOKEN", "É"]
)
def test_variables_have_names(bad: str) -> None:
    """A variable has a plain name, and is not the token; a whole number may be its value."""
    assert Environment.model_validate({"variables": {"N": 4}}).variables == {"N": "4"}
    assert refusal(Environment, {"variables": {bad: "x"}}).accepted


@pytest.mark.parametrize("text", ["می\u200cروم", "👩\u200d🔬 Research", "研究", "Größe"])
def test_words_may_be_of_any_language(text: str) -> None:
    """What people read may hold joiners, which are letters' business."""
    assert profile(display_name=text).display_name == text


@pytest.mark.parametrize("text", ["a\nb", "a\u202eb", "a\0", "a\u2028b"])
def test_words_stand_on_one_line(text: str) -> None:
    """What people read holds nothing that turns or breaks the line."""
    assert "U+" in refusal(Profile, {**LEAST, "display_name": text}).message


def test_a_lonely_empty_list_opens_no_door() -> None:
    """``groups: []`` may be a template gone wrong: it does not mean everyone."""
    assert refusal(Access, {"groups": []}).at == ("groups",)
    assert Access.model_validate({"groups": [], "users": ["ada"]}).users == ("ada",)
    assert Access.model_validate(Access().model_dump()) == Access()


def test_a_profile_needs_a_backend() -> None:
    """Where it runs is not guessed."""
    without = {"slug": "a", "display_name": "A"}
    assert "local: {}" in refusal(Profile, without).accepted
    assert "local: {}" in refusal(Profile, {**without, "slurm": None}).accepted


def test_backends_come_in_the_order_written() -> None:
    """The order of the blocks is the order of preference, and outlives a merge."""
    data = {"slug": "a", "display_name": "A", "local": {}, "kubernetes": {}, "slurm": {}}
    several = Profile.model_validate(data)
    assert several.backends == ("local", "kubernetes", "slurm")
    assert several.merged(Overrides(nodes=2)).backends == several.backends
    assert Profile(slug="a", display_name="A", slurm=SlurmBlock()).backends == ("slurm",)


def test_merge_is_recursive_and_none_means_not_set() -> None:
    """A choice changes what it names: blocks by field, mappings by key, lists as a whole."""
    base = Profile.model_validate(
        {
            "slug": "a",
            "display_name": "A",
            "gpu": {"count": 1, "type": "a100"},
            "memory": "1G",
            "environment": {"prefix": "/opt/a", "variables": {"A": "1", "B": "1"}},
            "slurm": {"partition": "gpu", "exclusive": True, "modules": ["a"]},
            "kubernetes": {"image": "a", "spot": True, "pod": {"a": 1, "b": {"c": 2}, "list": [1]}},
        }
    )
    overrides = Overrides.model_validate(
        {
            "gpu": 2,
            "memory": None,
            "environment": {"variables": {"B": "2", "C": "3"}},
            "slurm": {"account": "x", "exclusive": False, "modules": ["b"], "partition": None},
            "kubernetes": {"image": "b", "pod": {"b": {"d": 3}, "a": None, "list": [2]}},
        }
    )
    result = base.merged(overrides)
    assert result.gpu == Gpu(count=2, type="a100")
    assert result.memory == Memory(2**30)
    assert result.environment.prefix == "/opt/a"
    assert result.environment.variables == {"A": "1", "B": "2", "C": "3"}
    assert result.slurm is not None
    assert result.slurm.partition == "gpu"
    assert result.slurm.account == "x"
    assert result.slurm.exclusive is False
    assert result.slurm.modules == ("b",)
    assert result.kubernetes is not None
    assert (result.kubernetes.image, result.kubernetes.spot) == ("b", True)
    assert result.kubernetes.pod == {"a": 1, "b": {"c": 2, "d": 3}, "list": [2]}
    assert base.gpu == Gpu(count=1, type="a100"), "the profile itself is as it was"
    assert base.environment.variables == {"A": "1", "B": "1"}


def test_a_profile_comes_back_from_its_own_data() -> None:
    """Written with what was set, and read again, it merges as before."""
    data = {
        **LEAST,
        "slurm": {"partition": "x", "exclusive": True},
        "options": {
            "o": {
                "display_name": "O",
                "choices": {"c": {"display_name": "C", "overrides": {"slurm": {"account": "y"}}}},
            }
        },
    }
    first = Profile.model_validate(data)
    again = Profile.model_validate(first.model_dump(mode="json", exclude_unset=True))
    merged = again.merged(again.options["o"].choices["c"].overrides)
    assert merged.slurm is not None
    assert (merged.slurm.exclusive, merged.slurm.account) == (True, "y")


def test_a_choice_adds_no_backend() -> None:
    """A choice changes a block the profile has."""
    option = {
        "display_name": "O",
        "choices": {"c": {"display_name": "C", "overrides": {"slurm": {"account": "y"}}}},
    }
    error = refusal(Profile, {**LEAST, "options": {"o": option}})
    assert error.at == ("options", "o", "choices", "c", "overrides", "slurm")
    free = {"display_name": "O", "free": {"sets": "slurm.account"}}
    assert refusal(Profile, {**LEAST, "options": {"o": free}}).at == (
        "options",
        "o",
        "free",
        "sets",
    )


def test_the_name_of_the_made_option_is_taken() -> None:
    """``policy: ask`` makes an option of that name."""
    option = {"backend": {"display_name": "B", "choices": {"c": {"display_name": "C"}}}}
    assert profile(options=option)
    assert refusal(Profile, {**LEAST, "options": option, "policy": "ask"}).at[0] == "options"


def test_options_offer_something_and_have_one_default() -> None:
    """An option without anything to choose, or with several defaults, is a mistake."""
    one = {"display_name": "1", "default": True}
    assert refusal(Option, {"display_name": "O"}).accepted
    assert refusal(Option, {"display_name": "O", "choices": {"a": one, "b": one}}).at[1] == "b"
    both = {"display_name": "O", "choices": {"a": one, "b": {"display_name": "2"}}, "default": "b"}
    assert refusal(Option, both).at == ("default",)
    unknown = {"display_name": "O", "choices": {"a": one}, "default": "c"}
    assert refusal(Option, unknown).accepted == "one of a"
    free = {"display_name": "O", "free": {"sets": "gpu", "maximum": 4}, "default": 5}
    assert refusal(Option, free).message == "'5' is more than 4"
    assert Option.model_validate({**free, "default": 4}).default == "4"


@pytest.mark.parametrize(
    ("rule", "at"),
    [
        ({"sets": "slurm.account", "pattern": "("}, "pattern"),
        ({"sets": "slurm.account", "pattern": "[[a]"}, "pattern"),
        ({"sets": "slurm.account", "pattern": "a{99999999999}"}, "pattern"),
        ({"sets": "slurm.account", "minimum": "1"}, "minimum"),
        ({"sets": "memory", "minimum": "4"}, "minimum"),
        ({"sets": "memory", "minimum": "4G", "maximum": "2G"}, "maximum"),
        ({"sets": "nodes", "maximum": "1.5"}, "maximum"),
        ({"sets": "memory", "maximum": "4G", "example": "5G"}, "example"),
        ({"sets": "slurm.account", "pattern": "[a-z]+", "example": "A"}, "example"),
    ],
)
def test_a_rule_for_free_values_is_checked_when_it_is_loaded(rule: dict[str, Any], at: str) -> None:
    """A pattern compiles, bounds are amounts and in order, the example keeps the rule."""
    assert refusal(FreeValue, rule).at == (at,)


def test_unknown_targets_are_refused() -> None:
    """A free value sets one of a short list of fields; shell text is none of them."""
    for sets in ("slurm.prologue", "slurm.directives", "environment.variables", "slurm.partition"):
        with pytest.raises(ValidationError):
            FreeValue.model_validate({"sets": sets})


def test_choice_defaults_to_no_change() -> None:
    """A choice that overrides nothing leaves the profile as it is."""
    assert profile().merged(Choice(display_name="C").overrides) == profile()
