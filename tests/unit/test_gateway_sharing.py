"""With whom a dashboard is shared, as plain data."""

from __future__ import annotations

from typing import Any

import pytest

from qhub_gateway.errors import RequestRefusedError
from qhub_gateway.sharing import KEY, NOBODY, Sharing
from tests.unit.hostile import DATA, TEXTS


def test_who_is_included() -> None:
    """A person by name, and each member of a group; nobody else."""
    sharing = Sharing.asked({"users": ["bob", "bob"], "groups": ["/physics"]})
    assert sharing.users == ("bob",)
    assert sharing.includes("bob", set())
    assert sharing.includes("carol", {"/physics", "/other"})
    assert not sharing.includes("carol", {"/phys", "bob"})
    assert not NOBODY.includes("bob", {"/physics"})


def test_on_record() -> None:
    """What was written is read again; a cluster that was never shared is shared with nobody."""
    sharing = Sharing(users=("bob",))
    assert Sharing.of({KEY: sharing.model_dump(mode="json"), "job": {}}) == sharing
    assert Sharing.of({}) == Sharing.of(None) == NOBODY


@pytest.mark.parametrize(
    "asked",
    [
        None,
        [],
        "bob",
        {"users": "bob"},
        {"users": [1]},
        {"users": [["bob"]]},
        {"people": ["bob"]},
        {"users": ["bob"] * 101},
        *({"users": [each]} for each in DATA.values() if not isinstance(each, str)),
    ],
)
def test_what_makes_no_sense(asked: Any) -> None:
    """Anything but two short lists of names is refused, with what would be accepted."""
    with pytest.raises(RequestRefusedError, match="You may ask for"):
        Sharing.asked(asked)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_hostile_names(text: str) -> None:
    """A hostile name is refused in a short message of one line, or is a name and nothing more."""
    words, found = "", None
    try:
        found = Sharing.asked({"users": [text], "groups": [text]})
    except RequestRefusedError as error:
        words = str(error)
    assert len(words) < 600
    assert not words or words.isprintable()
    assert found is None or found.users == (text,)
