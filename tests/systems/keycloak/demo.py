"""The realm of the demo and of the tests: demo/realm.yaml."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ruamel.yaml import YAML

from qhub_auth.realm import RealmModel

REALM = Path(__file__).resolve().parents[3] / "demo" / "realm.yaml"


@cache
def demo_model() -> RealmModel:
    """Its model."""
    return RealmModel.model_validate(YAML(typ="safe").load(REALM))
