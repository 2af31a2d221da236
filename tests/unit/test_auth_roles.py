"""Roles in Keycloak as roles of the hub: only what the hub knows, and said what else was meant."""

from __future__ import annotations

import pytest
from jupyterhub import orm
from jupyterhub.roles import create_role, get_default_roles
from jupyterhub.scopes import scope_definitions
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from qhub_auth.directory import ClientRole
from qhub_auth.roles import hub_roles, scope_problem

OWN = {role["name"] for role in get_default_roles()}


def made(name: str, *scopes: str) -> tuple[list[dict[str, object]], dict[str, str]]:
    role = ClientRole(name, scopes, description="what it is for")
    found = hub_roles([name], {name: role}, known_scopes=scope_definitions, reserved=OWN)
    return list(map(dict, found.roles)), dict(found.problems)


class TestScopes:
    """Which scopes there are."""

    @pytest.mark.parametrize(
        "scope", [s for s in scope_definitions if s not in {"inherit", "(no_scope)"}]
    )
    def test_all_of_the_hubs(self, scope: str) -> None:
        """Whatever the hub has."""
        assert scope_problem(scope, scope_definitions) is None

    @pytest.mark.parametrize(
        "scope",
        [
            "read:users!user=alice",
            "access:servers!server=alice/lab",
            "access:servers!group=/physics/team-a",
            "access:services!service=qhub",
            "servers!user",
            "servers!server",
            "access:services!service",
        ],
    )
    def test_narrowed(self, scope: str) -> None:
        """By a person, a group with its full path, a server, a service."""
        assert scope_problem(scope, scope_definitions) is None

    @pytest.mark.parametrize(
        ("scope", "words"),
        [
            ("read:user", "read:users"),
            ("admin-iu", "admin-ui"),
            ("acces:servers!user=a", "access:servers"),
            ("inherit", "for tokens"),
            ("", "no scope"),
            ("everything", "no scope"),
            ("read:users!", "narrowed"),
            ("read:users!user=", "narrowed"),
            ("read:users!role=x", "narrowed"),
            ("read:users!group", "narrowed"),
            ("read:users !user", "no scope"),
            ("read:users\n", "no scope"),
        ],
    )
    def test_what_is_none_and_what_was_meant(self, scope: str, words: str) -> None:
        """The message names near misses."""
        problem = scope_problem(scope, scope_definitions)
        assert problem
        assert words in problem
        assert "\n" not in problem

    def test_scopes_of_the_hubs_own(self) -> None:
        """A hub may define more (c.JupyterHub.custom_scopes)."""
        assert scope_problem("custom:a:b", {"custom:a:b"}) is None
        assert scope_problem("custom:a:b", scope_definitions)


class TestRoles:
    """Whole roles."""

    def test_given(self) -> None:
        """Name, description and scopes."""
        roles, problems = made("read-all", "read:users", "list:users,admin-ui")
        assert problems == {}
        assert roles == [
            {
                "name": "read-all",
                "description": "what it is for",
                "scopes": ["admin-ui", "list:users", "read:users"],
            }
        ]

    def test_one_wrong_scope_and_nothing_is_given(self) -> None:
        """Half of a role would be another role."""
        roles, problems = made("read-all", "read:users", "read:userz")
        assert roles == []
        assert "read:users" in problems["read-all"]

    @pytest.mark.parametrize("name", sorted(OWN))
    def test_the_hubs_own_names(self, name: str) -> None:
        """Nobody becomes an administrator, or changes what users may do, by a role's name."""
        roles, problems = made(name, "read:users")
        assert roles == []
        assert name in problems

    @pytest.mark.parametrize(
        "name", ["ab", "Admins", "a role", "1st", "x\ny", "a" * 256, "rôle-x", "end-"]
    )
    def test_names_that_the_hub_does_not_take(self, name: str) -> None:
        """The log-in goes on without it; the hub would refuse the whole log-in."""
        roles, problems = made(name, "read:users")
        assert roles == []
        assert problems

    def test_roles_without_scopes_are_none_of_the_hubs(self) -> None:
        """Grafana's and Dask's stand beside them."""
        assert made("dask_user") == ([], {})
        assert made("dask_user", " , ") == ([], {})

    def test_unknown_names_give_nothing(self) -> None:
        """What the directory does not have."""
        assert hub_roles(["x"], {}, known_scopes=scope_definitions, reserved=OWN).roles == ()

    @pytest.mark.parametrize("name", ["abc", "a.b-c_d~e", "x" * 255])
    def test_the_hub_takes_what_we_give(self, name: str) -> None:
        """Checked against the hub's own function."""
        roles, _ = made(name, "read:users!group=/physics", "servers!user")
        engine = create_engine("sqlite://")
        orm.Base.metadata.create_all(engine)
        with Session(engine) as db:
            assert create_role(db, roles[0]).name == name
