"""What the how-to tells people to write is what works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from traitlets.config import Config

from qhub_auth.forward_auth.deciding import SECRET_HEADER
from qhub_auth.forward_auth.headers import IDENTITY_HEADERS
from qhub_auth.forward_auth.policy import Policy
from qhub_auth.forward_auth.service import ForwardAuth

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "forward-auth.md"
TEXT = PAGE.read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def test_settings_are_ones_that_there_are() -> None:
    """Each setting that the page shows exists, and its routes are good ones."""
    known = set(ForwardAuth.class_trait_names(config=True))
    for code in blocks("python"):
        if "c.JupyterHub" in code:
            continue
        config = Config()
        exec(code, {"c": config, "get_config": lambda config=config: config})  # noqa: S102 - our own page
        own = config.ForwardAuth
        assert {name for name in own if name != "Keycloak"} <= known
        Policy.read(own.get("routes", []))
    named = set(re.findall(r"c\.ForwardAuth\.([a-z_]+)", TEXT))
    assert named <= known


@pytest.mark.parametrize("at", range(2))
def test_traefik_replaces_every_header_of_ours(at: int) -> None:
    """Both configurations of Traefik name every header that a client could forge."""
    expected = {*IDENTITY_HEADERS, SECRET_HEADER, "Cookie", "Authorization"}
    found: list[Any] = []
    for text in blocks("yaml"):
        for document in YAML(typ="safe").load_all(text):
            middlewares = (document.get("http") or {}).get("middlewares") or {}
            found += [each["forwardAuth"] for each in middlewares.values()]
            if document.get("kind") == "Middleware":
                found.append(document["spec"]["forwardAuth"])
    assert len(found) == 2
    assert set(found[at]["authResponseHeaders"]) == expected
    assert found[at]["trustForwardHeader"] is False
    pattern = re.search(r"authResponseHeadersRegex: (\S+)`", TEXT)
    assert pattern
    assert all(re.fullmatch(pattern[1].strip("^$"), name) for name in expected)
