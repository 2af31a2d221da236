"""What claims say of a person: hostile names, numbers that are none, roles where Keycloak puts them."""

from __future__ import annotations

from typing import Any

import pytest

from qhub_auth.errors import TokenError
from qhub_auth.keycloak import claims as read
from qhub_auth.keycloak.representations import account


def facts(**claims: Any) -> Any:
    return read.person_facts(
        {"sub": "s", **claims}, name="alice", groups=frozenset(), roles=frozenset()
    )


class TestGroups:
    """Full paths, and what only looks like one."""

    @pytest.mark.parametrize(
        "path",
        ["/physics", "/physics/team-a", "/a~/b/c", "/Gruppe Ä/β", "/..", "/physics/..", "/日本"],
    )
    def test_full_paths(self, path: str) -> None:
        """Whatever Keycloak takes as a name; dots are a name like any other here."""
        assert read.full_paths([path]) == ({path}, ())

    @pytest.mark.parametrize(
        "name",
        [
            *("physics", "", "/", "//", "/physics/", "/physics//team", "physics/team-a"),
            *("/phy\nsics", "/phy\0sics", "/phy\tsics", "/ph\u202eysics", "/ph\u200bysics"),
            *("/" + "x" * 255, None, 3, ["/physics"], {"path": "/physics"}),
        ],
    )
    def test_what_is_none(self, name: object) -> None:
        """It gives nothing, and is said in a way that a log can bear."""
        good, bad = read.full_paths([name])
        assert not good
        assert len(bad) == 1
        assert bad[0].isascii()
        assert bad[0].isprintable()

    def test_names_that_look_alike_stay_two(self) -> None:
        """No Unicode is folded: a group that looks like /admins is not /admins."""
        names = ["/admins", "/аdmins", "/Admins", "/admins "]
        assert read.full_paths(names)[0] == set(names)


class TestNumbers:
    """Numbers that administrators gave."""

    @pytest.mark.parametrize(
        ("value", "number"),
        [
            (20001, 20001),
            ("20001", 20001),
            (["20001"], 20001),
            ([], None),
            ("", None),
            (None, None),
        ],
    )
    def test_as_keycloak_sends_them(self, value: object, number: int | None) -> None:
        """A number, text, or a list of one, by the mapper's settings."""
        assert facts(uidNumber=value).uid == number

    @pytest.mark.parametrize(
        "value", ["0x10", "-1", -1, "1e3", "٢٣", "12 ", True, 1.5, "9" * 30, {"a": 1}, [[1]]]
    )
    def test_a_wrong_one_is_not_replaced(self, value: object) -> None:
        """Somebody meant a certain number; another one would be worse than none."""
        with pytest.raises(TokenError, match="uidNumber"):
            facts(uidNumber=value)

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ({"uidNumber": "20001", "gidNumber": "7001"}, (20001, 7001)),
            ({"gidNumber": "7001"}, (None, None)),
            ({"uidNumber": "20001"}, (20001, None)),
            ({"uidNumber": str(2**32 - 1)}, (2**32 - 1, None)),
            ({}, (None, None)),
        ],
    )
    def test_log_in_and_group_sync_agree(
        self, values: dict[str, str], expected: tuple[int | None, int | None]
    ) -> None:
        """What a token says and what Keycloak's list says of the same person are the same numbers."""
        by_token = facts(**values)
        data = {"id": "s", "username": "alice", "enabled": True}
        by_list = account({**data, "attributes": {name: [text] for name, text in values.items()}})
        assert (by_token.uid, by_token.gid) == (by_list.uid, by_list.gid) == expected

    @pytest.mark.parametrize("text", ["5000020001", str(2**32), "10_0", "x"])
    def test_an_odd_one_is_said(self, text: str) -> None:
        """A number that is none gives nobody one: log-in refuses it, and group sync says it."""
        with pytest.raises(TokenError, match="uidNumber"):
            facts(uidNumber=text)
        data = {"id": "s", "username": "alice", "enabled": True}
        found = account({**data, "attributes": {"uidNumber": [text]}})
        assert found.uid is None
        assert text in found.odd[0]

    def test_a_gid_that_comes_alone_may_be_a_groups(self) -> None:
        """Keycloak's attribute mapper falls back to the attributes of a person's groups."""
        assert facts(gidNumber="7001").gid is None
        assert facts(uidNumber="20001", gidNumber="7001").gid == 7001

    def test_homes_and_names_are_text(self) -> None:
        """Anything else counts as absent."""
        assert facts(homeDirectory=7, email=["a@example.org"], name=None).home is None
        assert facts(email=["a@example.org"]).email == "a@example.org"
        assert facts(homeDirectory="/home/a").home == "/home/a"

    @pytest.mark.parametrize("sub", [None, "", 5])
    def test_nobody(self, sub: object) -> None:
        """Without sub there is no person."""
        with pytest.raises(TokenError, match="sub"):
            facts(sub=sub)


class TestRoles:
    """Where roles may stand."""

    @pytest.mark.parametrize(
        ("claims", "roles"),
        [
            ({"roles": ["a", "b"]}, {"a", "b"}),
            ({"roles": []}, set()),
            ({"resource_access": {"hub.one": {"roles": ["a"]}}}, {"a"}),
            ({"roles": "a", "resource_access": {"hub.one": {"roles": ["b"]}}}, {"b"}),
            ({"resource_access": {"other": {"roles": ["a"]}}}, None),
            ({"roles": [1, None, "", "a", ["b"]]}, {"a"}),
            ({"resource_access": []}, None),
            ({}, None),
        ],
    )
    def test_by_claim_and_as_keycloak_comes(self, claims: dict[str, Any], roles: Any) -> None:
        """No list is not the same as an empty one."""
        assert read.client_roles(claims, "hub.one") == roles

    def test_a_claim_with_dots(self) -> None:
        """As GenericOAuthenticator writes what is deeper; one that is called so itself, as a mapper with escaped dots makes it, goes first."""
        assert read.client_roles({"a": {"b": ["r"]}}, "hub", "a.b") == {"r"}
        assert read.client_roles({"a.b": ["s"]}, "hub", "a.b") == {"s"}
        assert read.client_roles({"a": {"b": ["r"]}, "a.b": ["s"]}, "hub", "a.b") == {"s"}
