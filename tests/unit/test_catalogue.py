"""The catalogue: what is wrong is said, all of it, with its place."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qhub_spawner.catalogue import load
from qhub_spawner.errors import ConfigurationError, Problem
from qhub_spawner.profiles import Profile, SlurmBlock
from tests.examples import examples
from tests.unit import hostile

GOOD: dict[str, Any] = {"slug": "general", "display_name": "General", "local": {}}


def problems(source: object) -> tuple[Problem, ...]:
    """Load what is wrong, and return the problems."""
    with pytest.raises(ConfigurationError) as caught:
        load(source)
    found = caught.value.problems
    assert found
    assert len(str(caught.value).splitlines()) == len(found)
    for problem in found:
        line = str(problem)
        assert line.isprintable()
        assert "pydantic" not in line.lower()
        assert not re.search(r"type=|input_value|\bctx\b|Traceback|value_error", line)
    return found


def yaml_file(folder: Path, text: str | bytes) -> Path:
    """Write a profiles file."""
    path = folder / "profiles.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("name", ["local", "slurm"])
def test_the_examples_load(name: str) -> None:
    """What ships as an example is right; three profiles each."""
    with resources.as_file(resources.files("qhub_spawner") / f"examples/{name}.yaml") as path:
        catalogue = load(path)
        assert load(str(path)) == catalogue
    assert len(catalogue.profiles) == 3
    assert {profile.backends for profile in catalogue.profiles} == {(name,)}


def test_a_list_a_mapping_and_models_are_the_same() -> None:
    """``[...]``, ``{"profiles": [...]}`` and a list of models load alike."""
    profile = Profile.model_validate(GOOD)
    first, second, third = load([GOOD]), load({"profiles": [GOOD]}), load((profile,))
    assert first == second == third
    assert first.get("general") == profile
    assert first.get("nothing") is None


def test_an_empty_list_from_python_is_an_empty_catalogue() -> None:
    """A callable may have nothing for a person; a file without profiles is a mistake."""
    assert load([]).profiles == ()


def test_every_problem_has_path_line_value_and_what_is_accepted(tmp_path: Path) -> None:
    """All at once, in the order of the file, in words."""
    path = yaml_file(
        tmp_path,
        """\
profiles:
  - slug: general
    display_name: General
    local: {}
  - slug: Large
    display_name: Large
    memroy: 4 GiB
    nodes: "2"
    local: {}
  - slug: general
    display_name: Again
    memory: 4
    access: {groups: physics}
    slurm:
      partition: "a b"
""",
    )
    found = problems(path)
    assert [problem.where for problem in found] == [
        f"{path}:5 profiles[1].slug",
        f"{path}:7 profiles[1].memroy",
        f"{path}:8 profiles[1].nodes",
        f"{path}:10 profiles[2].slug",
        f"{path}:12 profiles[2].memory",
        f"{path}:13 profiles[2].access.groups",
        f"{path}:15 profiles[2].slurm.partition",
    ]
    by_key = {problem.where.rpartition(".")[2]: problem for problem in found}
    assert by_key["memroy"].message == "unknown key (did you mean 'memory'?)"
    assert by_key["memroy"].accepted.startswith("slug, display_name, description, default, access")
    assert by_key["nodes"].message == "this must be a whole number"
    assert by_key["memory"].value == "4"
    assert "'4 GiB'" in by_key["memory"].accepted
    assert by_key["groups"].accepted == "a list, e.g. [first, second]"
    assert by_key["partition"].value == "'a b'"
    assert f"{path}:2 profiles[0]" in found[3].message


def test_a_list_at_the_top_is_called_profiles_too(tmp_path: Path) -> None:
    """The dotted path is the same for both forms of a file."""
    (problem,) = problems(yaml_file(tmp_path, "- slug: a\n  display_name: A\n  local: 3\n"))
    assert problem.where == f"{tmp_path}/profiles.yaml:3 profiles[0].local"


def test_data_from_python_is_called_by_its_setting() -> None:
    """Without a file the name of the setting stands in its place."""
    (problem,) = problems([GOOD, {**GOOD, "slug": "b", "gpu": {"count": "2"}}])
    assert problem.where == "c.QHubSpawner.profiles[1].gpu.count"
    (problem,) = problems({"profiles": [{**GOOD, "memory": 1}]})
    assert problem.where == "c.QHubSpawner.profiles.profiles[0].memory"


@pytest.mark.parametrize(
    ("key", "accepted"),
    [
        ("options.o.choices.c.overrides.slurm.partion", "partition, account"),
        ("options.o.free.set", "pattern, message, example, sets"),
        ("environment.path", "prefix, variables"),
        ("access.group", "groups, users"),
        ("gpu.number", "count, type"),
        ("local.x", "no key at all"),
    ],
)
def test_unknown_keys_are_told_the_known_ones_at_any_depth(key: str, accepted: str) -> None:
    """The valid keys of that very place are listed."""
    data: Any = "x"
    for part in reversed(key.split(".")):
        data = {part: data}
    found = problems([{**GOOD, **data}])
    wrong = next(problem for problem in found if problem.where.endswith(f"[0].{key}"))
    assert wrong.message.startswith("unknown key")
    assert wrong.accepted.startswith(accepted)


def test_doubled_keys_are_a_problem(tmp_path: Path) -> None:
    """YAML's last one wins would hide a mistake."""
    text = "- slug: a\n  display_name: A\n  local: {}\n  slug: b\n"
    (problem,) = problems(yaml_file(tmp_path, text))
    assert problem.where.endswith(":4 profiles[0].slug")
    assert problem.message == "the key stands twice, first in line 1"


def test_doubled_keys_that_differ_only_in_quotes(tmp_path: Path) -> None:
    """A choice named 4 and one named '4' are the same."""
    choices = "{4: {display_name: a}, '4': {display_name: b}}"
    text = "- slug: a\n  display_name: A\n  local: {}\n"
    text += f"  options: {{o: {{display_name: O, choices: {choices}}}}}\n"
    (problem,) = problems(yaml_file(tmp_path, text))
    assert problem.message.startswith("the key stands twice")


def test_several_defaults_are_a_problem() -> None:
    """One at most, also where something else is wrong."""
    found = problems([{**GOOD, "default": True}, {"slug": "b", "default": True}])
    assert any(problem.where.endswith("[1].default") for problem in found)


def test_slugs_are_compared_with_those_of_models_too() -> None:
    """Models in the list are looked at as well."""
    model = Profile(slug="general", display_name="G", slurm=SlurmBlock())
    (problem,) = problems([GOOD, model])
    assert problem.where.endswith("[1].slug")


def test_anchors_and_merges(tmp_path: Path) -> None:
    """Parts of a file may be shared; a key of one's own wins over a merged one."""
    catalogue = load(
        yaml_file(
            tmp_path,
            """\
- &common
  slug: a
  display_name: A
  memory: 1G
  local: {}
- <<: *common
  slug: b
  display_name: B
""",
        )
    )
    second = catalogue.get("b")
    assert second is not None
    assert (second.display_name, str(second.memory)) == ("B", "1 GiB")


def test_plain_values_stay_what_they_look_like(tmp_path: Path) -> None:
    """A time with colons is a text, not base 60; so are 'yes' and dates; numbers name choices."""
    catalogue = load(
        yaml_file(
            tmp_path,
            """\
- slug: a
  display_name: 2026-01-01
  description: yes
  walltime: 8:00:00
  local: {}
  options: {cores: {display_name: Cores, choices: {4: {display_name: Four}}}}
""",
        )
    )
    profile = catalogue.profiles[0]
    assert (profile.display_name, profile.description) == ("2026-01-01", "yes")
    assert str(profile.walltime) == "8 h"
    assert list(profile.options["cores"].choices) == ["4"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "there are no profiles"),
        ("[]", "the list of profiles is empty"),
        ("profiles:", "there are no profiles"),
        ("just words", "there are no profiles"),
        ("- a\n- b", "this must be a mapping"),
        ("a: 1\nb: 2", "unknown key 'a'"),
        ("- slug: [", "this is not YAML"),
        ("- a: 1\n b: 2", "this is not YAML"),
        ("\t- a", "this is not YAML"),
        ("--- 1\n--- 2\n", "this is not YAML"),
        ("- !!python/object/apply:os.system [id]", "tags are not understood"),
        ("- !x {}", "tags are not understood"),
        ("- {? [a] : b}", "a key must be a text"),
        ("- {null: b}", "the key 'null' is no text"),
        ("- &a [*a]", "this must be a mapping"),
        ("- {slug: *nothing}", "this is not YAML"),
        ("- <<: 3", "'<<' takes an alias of a mapping"),
        ("[" * 1500, "this is not YAML"),
        (b"\xff\xfe\x00", "the file cannot be read"),
        (b"- \x00", "this is not YAML"),
        (b"a" * (4 * 2**20 + 1), "the file is too large"),
    ],
)
def test_files_that_are_no_profiles(tmp_path: Path, text: str | bytes, words: str) -> None:
    """Each gives a problem in words, never another error."""
    found = problems(yaml_file(tmp_path, text))
    assert any(words in problem.message for problem in found), found


def test_aliases_do_not_explode(tmp_path: Path) -> None:
    """A small file of aliases of aliases ends with one problem, quickly."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    found = problems(yaml_file(tmp_path, "\n".join(lines)))
    assert sum("holds too much" in problem.message for problem in found) == 1


@pytest.mark.parametrize(
    "path", ["/nowhere/profiles.yaml", "/", "", "a\0b", "- slug: a\n", "a" * 5000]
)
def test_paths_that_cannot_be_read(path: str) -> None:
    """The problem names the path."""
    (problem,) = problems(path)
    assert problem.accepted


@pytest.mark.parametrize("name", hostile.wrong_types())
def test_other_types_are_refused_anywhere(name: str) -> None:
    """Python data of the wrong type, huge or deep, is a problem and nothing else."""
    value = hostile.wrong_types()[name]
    for key in ("slug", "memory", "cpu", "walltime", "options", "access", "slurm", "environment"):
        if key == "cpu" and name in ("number", "float"):
            continue
        if key in ("options", "access") and value == {}:
            continue
        if key == "walltime" and name == "number":
            continue
        assert problems([{**GOOD, key: value}])
    assert problems([{**GOOD, "kubernetes": {"pod": {"a": object()}}}])
    assert problems([value])
    if value != []:
        assert problems({"profiles": value})


def test_a_hundred_thousand_mistakes_are_counted() -> None:
    """The first two hundred are said, the others counted."""
    found = problems([{**GOOD, **hostile.wide(1000)}])
    assert len(found) == 201
    assert found[-1].message == "and 800 more problems"


def test_deep_data_in_the_free_form_fields() -> None:
    """The fields of free form are bounded as well."""
    assert problems([{**GOOD, "kubernetes": {"pod": hostile.deep_mapping()}}])
    loop: dict[str, Any] = {}
    loop["x"] = loop
    assert problems([{**GOOD, "kubernetes": {"pod": loop}}])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
KEYS = st.sampled_from(sorted(Profile.model_fields))


@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(JSON, st.lists(st.dictionaries(KEYS, JSON, max_size=6), max_size=3)))
def test_any_data_loads_or_is_a_configuration_error(data: object) -> None:
    """Nothing else ever comes out; and what is said stands on one line each."""
    if isinstance(data, str):
        return  # a path
    try:
        load(data)
    except ConfigurationError as caught:
        assert len(str(caught).splitlines()) == len(caught.problems) > 0  # noqa: PT017 - may load


@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(max_size=60), st.text("-:[]{}&*!|>'\"#%@,? \nab<~0.", max_size=40)))
def test_any_text_loads_or_is_a_configuration_error(tmp_path: Path, text: str) -> None:
    """Whatever the bytes of a file are."""
    path = yaml_file(tmp_path, text.encode("utf-8", "surrogatepass"))
    try:
        load(path)
    except ConfigurationError as caught:
        assert caught.problems  # noqa: PT017 - may load
