"""Which route a request takes, and who may take it: tables, and every way to write a path."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhub_auth.errors import ConfigurationError
from qhub_auth.forward_auth.policy import Original, Person, Policy, Verdict
from qhub_auth.forward_auth.readings import LONGEST_PATH, AmbiguousError, readings

HOST = "apps.example.org"
ROUTES: list[dict[str, Any]] = [
    {"hosts": [HOST], "path": "/public", "public": True},
    {"hosts": [HOST], "path": "/admin", "any_role": ["admin"]},
    {"hosts": [HOST], "path": "/report", "methods": ["GET"], "signed_in": True},
    {"hosts": [HOST], "path": "/report", "all_roles": ["editor", "reporter"]},
    {"hosts": [HOST], "path": "/physics", "any_group": ["/physics", "/chemistry"]},
    {
        "hosts": [HOST],
        "path": "/both",
        "any_role": ["admin", "editor"],
        "all_groups": ["/physics/lab"],
    },
    {"hosts": [HOST], "path": "/api", "api": True, "signed_in": True},
    {"hosts": ["*.users.example.org"], "signed_in": True},
    {"hosts": ["open.example.org"], "public": True},
]
POLICY = Policy.read(ROUTES)
NOBODY = None
ALICE = Person("1", "alice", roles=frozenset({"admin", "editor"}), groups=frozenset({"/physics"}))
BOB = Person(
    "2",
    "bob",
    roles=frozenset({"editor", "reporter"}),
    groups=frozenset({"/physics", "/physics/lab"}),
)
CAROL = Person("3", "carol")


def asked(path: str, *, method: str = "GET", host: str = HOST, **more: Any) -> Original:
    return Original(method, "https", host, None, path, **more)


def verdict(path: str, person: Person | None, **more: Any) -> str:
    return POLICY.decide(asked(path, **more), person).verdict.value


@pytest.mark.parametrize(
    ("path", "method", "nobody", "alice", "bob", "carol"),
    [
        ("/public/x", "GET", "allowed", "allowed", "allowed", "allowed"),
        ("/admin", "GET", "not signed in", "allowed", "lacking", "lacking"),
        ("/admin/", "POST", "not signed in", "allowed", "lacking", "lacking"),
        ("/administration", "GET", "no route", "no route", "no route", "no route"),
        ("/report/1", "GET", "not signed in", "allowed", "allowed", "allowed"),
        ("/report/1", "HEAD", "not signed in", "allowed", "allowed", "allowed"),
        ("/report/1", "POST", "not signed in", "lacking", "allowed", "lacking"),
        ("/physics", "GET", "not signed in", "allowed", "allowed", "lacking"),
        ("/both", "GET", "not signed in", "lacking", "allowed", "lacking"),
        ("/api/v1", "DELETE", "not signed in", "allowed", "allowed", "allowed"),
        ("/", "GET", "no route", "no route", "no route", "no route"),
        ("/else", "GET", "no route", "no route", "no route", "no route"),
    ],
)
def test_every_route_and_person(
    path: str, method: str, nobody: str, alice: str, bob: str, carol: str
) -> None:
    """The first route that fits decides, by each of its conditions; what none fits is refused."""
    got = [verdict(path, person, method=method) for person in (NOBODY, ALICE, BOB, CAROL)]
    assert got == [nobody, alice, bob, carol]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("anna.users.example.org", "allowed"),
        ("users.example.org", "no route"),
        ("a.b.users.example.org", "no route"),
        ("users.example.org.evil.test", "no route"),
        ("xusers.example.org", "no route"),
        ("elsewhere.test", "no route"),
    ],
)
def test_a_wildcard_is_one_part(host: str, expected: str) -> None:
    """``*.users.example.org`` is every name with one part more, and none other."""
    assert verdict("/", CAROL, host=host) == expected


def test_what_is_missing_is_named() -> None:
    """A refusal names each condition that is not fulfilled, for people to read."""
    assert POLICY.decide(asked("/admin"), CAROL).missing == ("the role admin",)
    assert POLICY.decide(asked("/physics"), CAROL).missing == (
        "one of the groups /physics, /chemistry",
    )
    assert POLICY.decide(asked("/both"), CAROL).missing == (
        "one of the roles admin, editor",
        "the group /physics/lab",
    )
    assert POLICY.decide(asked("/report", method="PUT"), ALICE).missing == ("the role reporter",)


def test_nothing_is_open_without_routes() -> None:
    """Without a rule nobody comes in, signed in or not."""
    empty = Policy.read([])
    for person in (NOBODY, ALICE):
        assert empty.decide(asked("/"), person).verdict is Verdict.NO_ROUTE


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"hosts": ["a.test"]}, "say who may come in"),
        ({"hosts": ["a.test"], "public": True, "signed_in": True}, "say who may come in"),
        ({"hosts": ["a.test"], "public": True, "any_role": ["x"]}, "say who may come in"),
        ({"hosts": [], "public": True}, "at least 1 item"),
        ({"public": True}, "Field required"),
        ({"hosts": ["https://a.test"], "public": True}, "without scheme and port"),
        ({"hosts": ["a.test:443"], "public": True}, "without scheme and port"),
        ({"hosts": ["*"], "public": True}, "is no host"),
        ({"hosts": ["a..test"], "public": True}, "is no host"),
        ({"hosts": ["a.test"], "path": "x", "public": True}, "is no plain path"),
        ({"hosts": ["a.test"], "path": "/a/../b", "public": True}, "is no plain path"),
        ({"hosts": ["a.test"], "path": "/a%2fb", "public": True}, "is no plain path"),
        ({"hosts": ["a.test"], "path": "/a//b", "public": True}, "is no plain path"),
        ({"hosts": ["a.test"], "methods": ["FETCH"], "public": True}, "is no method"),
        ({"hosts": ["a.test"], "any_group": ["physics"]}, "no full path of a group"),
        ({"hosts": ["a.test"], "any_roles": ["x"]}, "Extra inputs are not permitted"),
    ],
)
def test_a_wrong_route_stops_the_service(entry: dict[str, Any], words: str) -> None:
    """A route that is not plain is refused at start, with its place and what would be accepted."""
    with pytest.raises(ConfigurationError, match=re.escape(words)) as caught:
        Policy.read([{"hosts": ["ok.test"], "public": True}, entry])
    assert "c.ForwardAuth.routes[1]" in str(caught.value)


def test_paths_that_differ_in_case_alone_are_refused() -> None:
    """Two paths of a host that some programs take for the same need one rule."""
    routes = [
        {"hosts": ["a.test"], "path": "/Admin", "any_role": ["x"]},
        {"hosts": ["a.test"], "path": "/admin", "public": True},
    ]
    with pytest.raises(ConfigurationError, match="small and capital letters"):
        Policy.read(routes)


# ---- the ways to write a path ----

WAYS_AROUND = [
    "/public/../admin",
    "/public/..%2fadmin",
    "/public/%2e%2e/admin",
    "/public/%2e%2e%2fadmin",
    "/public/..%252fadmin",
    "/public/%252e%252e%252fadmin",
    "/public/..%5cadmin",
    "/public/..\\admin",
    "/public/..;/admin",
    "/public/..;x=1/admin",
    "/public/.;/../admin",
    "/public//../admin",
    "/public/./../admin",
    "/public/x/..%2f..%2fadmin",
    "//admin",
    "/%2fadmin",
    "/%2e/admin",
    "/./admin",
    "/;/admin",
    "/;x/admin",
    "/admin;x",
    "/admin;x/y",
    "/admin%3bx",
    "/%25/..%252fadmin",
    "/%25/%252e%252e/admin",
    "/ADMIN",
    "/aDmin/users",
    "/%61dmin",
    "/%2561dmin",
    "/admi%6e/",
    "/%41dmin",
    "/\\admin",
    "/%5cadmin",
    "/%EF%BC%8Fadmin",  # a wide slash
    "/%EF%BD%81dmin",  # a wide a
    "/public/%E2%80%A5/admin",  # one character for two dots
]


@pytest.mark.parametrize("path", WAYS_AROUND)
def test_no_way_of_writing_a_path_slips_by(path: str) -> None:
    """An address that some program reads as another route's is refused, or is that route's."""
    policy = Policy.read([*ROUTES, {"hosts": [HOST], "public": True}])
    try:
        route = policy.route_of(asked(path))
    except AmbiguousError:
        return
    assert route is not None
    assert route.path == "/admin"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "admin",
        "*",
        "https://x/",
        "/a\nb",
        "/a\x00b",
        "/a%00b",
        "/a%0ab",
        "/a%7f",
        "/a%",
        "/a%2",
        "/a%zz",
        "/a b",
        "/a#b",
        "/é",
        "/a%ff",
        "/a%c0%af",
        "/%ed%a0%80",
        "/" + "a" * LONGEST_PATH,
    ],
)
def test_what_is_no_proper_path_is_refused(path: str) -> None:
    """A path with control characters, broken escapes, or beyond all size is read by nobody."""
    with pytest.raises(AmbiguousError):
        readings(path)
    with pytest.raises(AmbiguousError):
        POLICY.route_of(asked(path))


def test_a_path_that_unfolds_without_end_is_refused() -> None:
    """Reading an address costs little, whatever somebody sends."""
    with pytest.raises(AmbiguousError, match="too many ways"):
        readings("/%" + "25" * 200 + "2f")


@pytest.mark.parametrize("path", ["/user/a%2Fb", "/x;v=1/y", "/A/b", "/%C3%A9t%C3%A9", "/a//b"])
def test_an_unusual_path_passes_where_one_rule_is_for_all(path: str) -> None:
    """Nothing is refused for its looks alone: where every reading has the same rule, it counts."""
    policy = Policy.read([{"hosts": [HOST], "signed_in": True}])
    assert policy.decide(asked(path), CAROL).verdict is Verdict.ALLOWED


def test_another_method_by_a_header_counts_too() -> None:
    """Where a header asks to be taken for another method, both have to have the same route."""
    with pytest.raises(AmbiguousError):
        POLICY.route_of(asked("/report", overrides=("DELETE",)))
    assert POLICY.route_of(asked("/admin", overrides=("DELETE",))) is POLICY.routes[1]


# Ways in which somebody may write one character, or put in what some programs take out.
SPELLINGS = st.sampled_from(["plain", "escaped", "twice", "upper"])
NOISE = st.sampled_from(
    ["", "/", "/.", "/;x", "/x/..", "/%2e", "/x/%2e%2e", "/;", "\\", "%5c", "%2f"]
)


@st.composite
def written(draw: st.DrawFn, path: str) -> str:
    """The path in one of the ways in which a program behind the proxy might be told it."""
    out = draw(
        st.sampled_from(["", "/public/..", "/public/..;", "/public/%2e%2e", "/public/..%2f"])
    )
    for character in path:
        if character == "/":
            out += draw(NOISE)
        how = draw(SPELLINGS)
        out += {
            "plain": character,
            "escaped": f"%{ord(character):02x}",
            "twice": f"%25{ord(character):02X}",
            "upper": character.upper(),
        }[how]
    return out if out.startswith("/") else "/" + out


@given(path=written("/admin/users"), method=st.sampled_from(["GET", "POST", "HEAD"]))
def test_a_guarded_path_is_guarded_however_it_is_written(path: str, method: str) -> None:
    """However a guarded path is written, nobody without its role comes through by another rule."""
    policy = Policy.read([*ROUTES, {"hosts": [HOST], "public": True}])
    try:
        decision = policy.decide(asked(path, method=method), CAROL)
    except AmbiguousError:
        return
    assert decision.route is not None
    assert decision.route.path == "/admin"
    assert decision.verdict is Verdict.LACKING


@given(path=st.text(max_size=60).map(lambda text: "/" + text))
def test_readings_hold_the_path_and_end(path: str) -> None:
    """Whatever comes: either it is refused, or the path itself is among its readings."""
    try:
        found = readings(path)
    except AmbiguousError:
        return
    assert path in found
    assert all(each.startswith("/") for each in found)
