"""The JSON Schema of a profiles file is that of the models."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from qhub_spawner.catalogue import load
from qhub_spawner.errors import ConfigurationError
from qhub_spawner.schema import json_schema, json_text
from qhub_spawner.sources import read_yaml

PACKAGE = resources.files("qhub_spawner")
GOOD: dict[str, Any] = {"slug": "a", "display_name": "A", "slurm": {"partition": "x"}}


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    """A validator of the schema that ships."""
    schema = json.loads((PACKAGE / "profiles.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_the_file_in_the_package_is_up_to_date() -> None:
    """Run ``python -m qhub_spawner.schema`` and keep its output when this fails."""
    assert (PACKAGE / "profiles.schema.json").read_text() == json_text()
    assert json.loads(json_text()) == json_schema()


def test_the_module_prints_it() -> None:
    """The command that the file is made with."""
    command = [sys.executable, "-m", "qhub_spawner.schema"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == json_text()


@pytest.mark.parametrize("name", ["local", "slurm"])
def test_the_examples_are_valid(validator: Draft202012Validator, name: str) -> None:
    """By the schema as by the models."""
    with resources.as_file(PACKAGE / f"examples/{name}.yaml") as path:
        validator.validate(read_yaml(path).data)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gpu": 2},
        {"gpu": {"count": 2, "type": "a100"}},
        {"environment": "/opt/x"},
        {"environment": {"variables": {"A": 1, "B": "x"}}},
        {"cpu": 1.5, "memory": "4000M", "walltime": 30},
        {"cpu": "500m", "walltime": "1-12:00:00"},
        {
            "options": {
                "o": {"display_name": "O", "free": {"sets": "gpu", "maximum": 4}, "default": 2}
            }
        },
        {"kubernetes": {"image": "a/b:c", "pod": {"anything": [1, {"x": None}]}}},
        {"access": {"groups": ["a"]}, "local": {}},
    ],
)
def test_what_the_models_take_the_schema_takes(
    validator: Draft202012Validator, changes: dict[str, Any]
) -> None:
    """An editor does not underline what is right, in either form of the file."""
    data = [{**GOOD, **changes}]
    load(data)
    validator.validate(data)
    validator.validate({"profiles": data})


@pytest.mark.parametrize(
    "changes",
    [
        {"slug": "A"},
        {"memroy": "4G"},
        {"memory": 4},
        {"memory": "4"},
        {"nodes": "2"},
        {"gpu": 65},
        {"slurm": {"partition": "a b"}},
        {"slurm": {"directives": ["-x"]}},
        {"environment": {"variables": {"A B": "1"}}},
        {"options": {"Bad Name": {"display_name": "O", "free": {"sets": "gpu"}}}},
        {"options": {"o": {"display_name": "O", "free": {"sets": "slurm.prologue"}}}},
        {"access": {"groups": "a"}},
        {"policy": "last"},
    ],
)
def test_what_the_schema_refuses_the_models_refuse(
    validator: Draft202012Validator, changes: dict[str, Any]
) -> None:
    """An editor shows the common mistakes."""
    assert not validator.is_valid([{"slug": "a", "display_name": "no backend"}])
    data = [{**GOOD, **changes}]
    assert not validator.is_valid(data)
    with pytest.raises(ConfigurationError):
        load(data)
