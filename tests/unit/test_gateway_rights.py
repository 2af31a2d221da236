"""Who may make, see and stop clusters: a table of decisions."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from qhub_gateway.rights import (
    CREATE_SCOPE,
    SEE_SCOPE,
    STOP_SCOPE,
    Action,
    Asker,
    Rights,
    Roles,
    admitted,
    may,
    rights_of,
    server_of,
)

SCOPES = frozenset({"access:services!service=dask"})


@pytest.mark.parametrize(
    ("scopes", "server"),
    [
        (["access:servers!server=alice/", "users:activity!user=alice"], ""),
        (["access:servers!server=alice/lab"], "lab"),
        (["access:servers!server=alice/a/b"], "a/b"),
        (["access:servers!server=bob/"], None),
        (["access:servers!server=alice2/"], None),
        (["access:servers!user=alice"], None),
        (["access:servers"], None),
        (["access:servers!server=alice/", "access:servers!server=alice/lab"], None),
        (["access:services"], None),
        ([], None),
    ],
)
def test_a_server_is_known_by_its_token(scopes: list[str], server: str | None) -> None:
    """A token that reaches one server of its person, and no other, is that server's own."""
    assert server_of("alice", scopes) == server


@pytest.mark.parametrize(
    ("scopes", "let_in"),
    [
        ({"access:services"}, True),
        ({"access:services!service=dask"}, True),
        ({"access:services!service=other"}, False),
        ({"read:users!user=alice"}, False),
        (set(), False),
    ],
)
def test_who_is_let_in(scopes: set[str], let_in: bool) -> None:
    """A token has to be for this service; a server's own token always is."""
    assert admitted(scopes, "dask", server=False) is let_in
    assert admitted(scopes, "dask", server=True)


def test_by_default() -> None:
    """Everyone makes clusters, administrators see and stop all."""
    assert rights_of(Asker("alice"), Roles()) == Rights(create=True)
    assert rights_of(Asker("root", admin=True), Roles()) == Rights(True, True, True)


def test_a_notebook_of_an_administrator_has_no_power_over_others() -> None:
    """The token of a server reaches no cluster of others, whatever its owner may do."""
    scopes = frozenset({SEE_SCOPE, STOP_SCOPE})
    asker = Asker("root", admin=True, scopes=scopes, server=True)
    assert rights_of(asker, Roles()) == Rights(create=True)


@pytest.mark.parametrize(
    ("asker", "rights"),
    [
        (Asker("alice"), Rights()),
        (Asker("alice", frozenset({"physics"})), Rights(create=True)),
        (Asker("carol"), Rights(create=True)),
        (Asker("alice", scopes=frozenset({CREATE_SCOPE})), Rights(create=True)),
        (Asker("alice", roles=frozenset({"operator"})), Rights(see=True, stop=True)),
        (Asker("alice", frozenset({"support"})), Rights(see=True)),
        (Asker("alice", scopes=frozenset({SEE_SCOPE})), Rights(see=True)),
        (Asker("alice", scopes=frozenset({STOP_SCOPE})), Rights(see=True, stop=True)),
        (Asker("root", admin=True), Rights()),
    ],
)
def test_roles(asker: Asker, rights: Rights) -> None:
    """A role comes by group, name, role of the identity or scope; to stop is to see as well."""
    roles = Roles.model_validate(
        {
            "create": {"groups": ["physics"], "users": ["carol"]},
            "see": {"groups": ["support"]},
            "stop": {"roles": ["operator"]},
        }
    )
    assert rights_of(asker, roles) == rights


@pytest.mark.parametrize("action", Action)
def test_ones_own(action: Action) -> None:
    """One's own clusters are one's own, even without the role to make more."""
    assert may(action, asker="alice", owner="alice", rights=Rights())


@pytest.mark.parametrize(
    ("rights", "allowed"),
    [
        (Rights(create=True), set()),
        (Rights(see=True), {Action.SEE}),
        (Rights(see=True, stop=True), {Action.SEE, Action.STOP}),
    ],
)
def test_those_of_others(rights: Rights, allowed: set[Action]) -> None:
    """Nobody uses a cluster of somebody else, whose keys are a way to be them."""
    for action in Action:
        let = may(action, asker="root", owner="alice", rights=rights)
        assert let is (action in allowed)


@pytest.mark.parametrize("roles", [{"create": {"group": ["a"]}}, {"destroy": {}}, {"see": ["a"]}])
def test_misspelt(roles: Any) -> None:
    """A misspelt role is an error, not one that nobody has."""
    with pytest.raises(ValidationError):
        Roles.model_validate(roles)
