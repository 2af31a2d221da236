"""Who a person is on every target."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhub_spawner.identity import Identity, IdentityError, group_file, identity_of, passwd_file
from tests.unit import hostile

ALICE: dict[str, Any] = {
    "version": 1,
    "uid": 20001,
    "gid": 20001,
    "gids": [20001, 30001, 30002],
    "home": "/home/alice",
    "groups": [
        {"path": "/physics", "name": "physics", "gid": 30001, "access": "rw"},
        {"path": "/physics/data", "name": "data", "gid": 30002, "access": "ro"},
    ],
    "roles": ["user"],
}


def test_what_the_authenticator_hands_over() -> None:
    """Numbers, home and groups come out as they were put in."""
    identity = identity_of({"qhub": ALICE, "access_token": "secret"})
    assert identity is not None
    assert identity.model_dump(mode="json") == ALICE
    assert identity.supplementary == (30001, 30002)


def test_a_writable_folder_brings_its_group() -> None:
    """Even if `gids` does not name it; the group of a read-only folder only if it does."""
    identity = Identity.model_validate({**ALICE, "gids": []})
    assert identity.supplementary == (30001,)


@pytest.mark.parametrize("auth_state", [None, {}, [], "x", {"access_token": "t"}])
def test_an_authenticator_that_knows_nothing_of_it(auth_state: object) -> None:
    """There is no identity, and no error."""
    assert identity_of(auth_state) is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"version": 2}, "qhub.version"),
        ({"uid": 0}, "qhub.uid"),
        ({"uid": "20001"}, "qhub.uid"),
        ({"uid": 2**31}, "qhub.uid"),
        ({"gid": 0}, "qhub.gid"),
        ({"gids": [0]}, "qhub.gids.0"),
        ({"home": "home"}, "qhub.home"),
        ({"home": "/home/../etc"}, "qhub.home"),
        ({"groups": [{"path": "/a", "name": "a", "gid": 5, "access": "write"}]}, "access"),
        ({"groups": [{"path": "/a\nb", "name": "a", "gid": 5, "access": "rw"}]}, "path"),
        ({"password": "secret-word"}, "qhub.password"),
    ],
)
def test_nothing_is_guessed(change: dict[str, Any], field: str) -> None:
    """Root, a text for a number, a relative home: an error that names the field, not its value."""
    with pytest.raises(IdentityError) as caught:
        identity_of({"qhub": {**ALICE, **change}})
    assert field in str(caught.value)
    assert "secret-word" not in str(caught.value)


@pytest.mark.parametrize("value", [None, [], "x", 1])
def test_an_identity_of_another_shape(value: object) -> None:
    """It is an error, never no identity."""
    with pytest.raises(IdentityError):
        identity_of({"qhub": value})


def test_the_files_of_names() -> None:
    """As passwd(5) and group(5) have them; no number and no name twice."""
    identity = Identity.model_validate(
        {
            **ALICE,
            "gids": [20001, 30001, 30002, 30003, 30004],
            "groups": [
                *ALICE["groups"],
                {"path": "/b/data", "name": "data", "gid": 30003, "access": "rw"},
            ],
        }
    )
    assert passwd_file("alice", identity).splitlines()[1] == (
        "alice:x:20001:20001::/home/alice:/bin/bash"
    )
    assert group_file("alice", identity).splitlines() == [
        "root:x:0:",
        "alice:x:20001:alice",
        "physics:x:30001:alice",
        "data:x:30002:alice",
        "data_30003:x:30003:alice",
        "group30004:x:30004:alice",
        "nogroup:x:65534:",
    ]


@given(st.sampled_from(sorted(hostile.TEXTS.values())) | st.text(max_size=100))
def test_hostile_names_in_the_files(name: str) -> None:
    """A line stays a line with its number of fields, whatever the name holds."""
    identity = Identity.model_validate(ALICE)
    lines = passwd_file(name, identity).splitlines()
    assert len(lines) == 3
    assert all(line.count(":") == 6 for line in lines)
    assert lines[1].split(":")[2:4] == ["20001", "20001"]
    groups = group_file(name, identity).splitlines()
    assert all(line.count(":") == 3 for line in groups)
    assert len({line.split(":")[0] for line in groups}) == len(groups)
