"""What is read from the proxy's question, and what is answered in headers."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhub_auth.forward_auth import headers as reading
from qhub_auth.forward_auth.policy import Person
from qhub_auth.forward_auth.readings import AmbiguousError

ASKED = {
    "x-forwarded-method": ["GET"],
    "x-forwarded-proto": ["https"],
    "x-forwarded-host": ["Apps.Example.ORG.:8443"],
    "x-forwarded-uri": ["/a/b?c=d"],
}


def test_the_original_request() -> None:
    """Host and scheme come out as they are compared, the address as it was."""
    original = reading.original_of(ASKED)
    assert (original.method, original.scheme, original.host) == ("GET", "https", "apps.example.org")
    assert (original.port, original.path, original.query) == (8443, "/a/b", "c=d")
    assert original.url == "https://apps.example.org:8443/a/b?c=d"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *((name, []) for name in ASKED),
        *((name, [values[0], values[0]]) for name, values in ASKED.items()),
        ("x-forwarded-method", ["get"]),
        ("x-forwarded-method", ["CONNECT"]),
        ("x-forwarded-method", ["TRACE"]),
        ("x-forwarded-proto", ["ftp"]),
        ("x-forwarded-proto", ["https,http"]),
        ("x-forwarded-host", [""]),
        ("x-forwarded-host", ["a.test, b.test"]),
        ("x-forwarded-host", ["a.test@b.test"]),
        ("x-forwarded-host", ["a.test/b"]),
        ("x-forwarded-host", ["a..test"]),
        ("x-forwarded-host", ["a.test.."]),
        ("x-forwarded-host", ["."]),
        ("x-forwarded-host", ["a.test:"]),
        ("x-forwarded-host", ["a.test:99999"]),
        ("x-forwarded-host", ["a.test:80:80"]),
        ("x-forwarded-host", ["a.test\\b"]),
        ("x-forwarded-host", ["ä.test"]),
        ("x-forwarded-host", ["a.test%2f"]),
        ("x-forwarded-host", ["a test"]),
        ("x-forwarded-host", ["[::1"]),
    ],
)
def test_a_question_that_is_not_plain_is_refused(name: str, values: list[str]) -> None:
    """Each of the four headers has to be there once, and be what a browser sends."""
    with pytest.raises(AmbiguousError):
        reading.original_of({**ASKED, name: values})


@pytest.mark.parametrize(
    ("sent", "host"),
    [
        ("a.test", "a.test"),
        ("A.TEST:443", "a.test"),
        ("a.test.", "a.test"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]:80", "[::1]"),
        ("a_b.test", "a_b.test"),
    ],
)
def test_hosts_are_compared_in_one_form(sent: str, host: str) -> None:
    """Size of letters, a dot at the end and the port make no other host."""
    assert reading.original_of({**ASKED, "x-forwarded-host": [sent]}).host == host


def test_a_websocket_is_asked_for_as_ws() -> None:
    """Traefik says ws and wss where it trusts what it was told; they are http and https."""
    for said, scheme in (("ws", "http"), ("wss", "https"), ("HTTPS", "https")):
        assert reading.original_of({**ASKED, "x-forwarded-proto": [said]}).scheme == scheme


def test_a_query_cannot_break_an_address() -> None:
    """What has no place in an address comes out escaped."""
    original = reading.original_of({**ASKED, "x-forwarded-uri": ['/?a="<\xc3\xa9> \\']})
    assert original.query == "a=%22%3C%C3%A9%3E%20\\"


@pytest.mark.parametrize(
    "name",
    [
        "x_forwarded_user",
        "x-forwarded_user",
        "x.forwarded.user",
        "x_forwarded-groups",
        "x~forwarded~roles",
        "x-forwarded.email",
        "x!forwarded!user",
    ],
)
def test_a_header_that_looks_like_ours_is_refused(name: str) -> None:
    """What CGI, WSGI or PHP would take for one of ours must not come along."""
    with pytest.raises(AmbiguousError, match="can be taken for"):
        reading.refuse_aliases({**ASKED, name: ["admin"]})


def test_other_headers_may_come_along() -> None:
    """Our own names are replaced by the proxy, and others are nobody's business."""
    reading.refuse_aliases({**ASKED, "x-forwarded-user": ["x"], "x_other": ["y"], "x-user": ["z"]})


@pytest.mark.parametrize(
    ("sent", "method", "page"),
    [
        ({"accept": ["text/html,*/*"], "sec-fetch-mode": ["navigate"]}, "GET", True),
        ({"accept": ["*/*"], "sec-fetch-mode": ["navigate"]}, "GET", True),
        ({"accept": ["text/html,*/*"]}, "GET", True),
        ({"accept": ["text/html"]}, "HEAD", True),
        ({"accept": ["text/html"]}, "POST", False),
        ({"accept": ["text/html"], "sec-fetch-mode": ["cors"]}, "GET", False),
        ({"accept": ["text/html"], "sec-fetch-mode": ["no-cors"]}, "GET", False),
        ({"accept": ["text/html"], "sec-fetch-mode": ["websocket"]}, "GET", False),
        ({"accept": ["text/html"], "sec-websocket-key": ["x"]}, "GET", False),
        ({"accept": ["text/html"], "x-forwarded-proto": ["wss"]}, "GET", False),
        ({"accept": ["text/html"], "x-requested-with": ["XMLHttpRequest"]}, "GET", False),
        ({"accept": ["text/html"], "authorization": ["Bearer x"]}, "GET", False),
        ({"accept": ["application/json"]}, "GET", False),
        ({"accept": ["*/*"]}, "GET", False),
        ({}, "GET", False),
    ],
)
def test_who_is_sent_to_a_log_in_page(sent: dict[str, list[str]], method: str, page: bool) -> None:
    """Only where a person is about to see the answer; programs, scripts and sockets get a 401."""
    assert reading.wants_page(sent, method) is page


@pytest.mark.parametrize(
    ("value", "token"),
    [
        (["Bearer abc"], "abc"),
        (["bearer  abc "], "abc"),
        (["Basic abc"], None),
        (["Bearer"], None),
        (["Bearer "], None),
        ([], None),
        (["Bearer a", "Bearer b"], None),
    ],
)
def test_bearer_tokens(value: list[str], token: str | None) -> None:
    """One token in one header counts, and nothing else does."""
    assert reading.bearer_token({"authorization": value} if value else {}) == token


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("alice", "alice"),
        ("alice@example.org", "alice@example.org"),
        ("/physics/team a", "/physics/team a"),
        ("a,b", "a%2Cb"),
        ("50%", "50%25"),
        ("a\r\nX-Forwarded-User: admin", "a%0D%0AX-Forwarded-User: admin"),
        ("Zoë", "Zo%C3%AB"),
        ('"x"', "%22x%22"),
        (" x ", "%20x%20"),
        ("  ", "%20%20"),
        ("\x00", "%00"),
        ("", ""),
    ],
)
def test_values_are_written_safely(text: str, header: str) -> None:
    """A comma, newline or letter beyond ASCII can neither split a list nor a header."""
    assert reading.encoded(text) == header


@given(st.lists(st.text(min_size=1).filter(lambda text: text.isprintable() or True), max_size=6))
def test_a_list_of_groups_can_be_read_back(names: list[str]) -> None:
    """Whatever groups are called, each comes out of the header as it went in."""
    names = [name.encode("utf-8", "ignore").decode() or "x" for name in names]
    person = Person("1", "x", groups=frozenset(names))
    header = reading.identity_headers(person).get("X-Forwarded-Groups", "")
    assert header.isascii()
    assert header.isprintable()
    assert header.strip(" ") == header
    back = [_decoded(each) for each in header.split(",")] if header else []
    assert len(header) > 3000 or back == sorted(set(names))


def _decoded(text: str) -> str:
    raw = re.sub(rb"%([0-9A-F]{2})", lambda m: bytes([int(m[1], 16)]), text.encode("ascii"))
    return raw.decode()


def test_who_it_is_stands_in_four_headers() -> None:
    """Name, email, groups and roles, those that patterns choose; nothing for nobody."""
    person = Person(
        "1", "alice", "a@example.org", frozenset({"r1", "g_view"}), frozenset({"/p", "/p/x", "/q"})
    )
    assert reading.identity_headers(person) == {
        "X-Forwarded-User": "alice",
        "X-Forwarded-Email": "a@example.org",
        "X-Forwarded-Groups": "/p,/p/x,/q",
        "X-Forwarded-Roles": "g_view,r1",
    }
    chosen = reading.identity_headers(person, groups=["/p/*"], roles=["g_*"])
    assert chosen["X-Forwarded-Groups"] == "/p/x"
    assert chosen["X-Forwarded-Roles"] == "g_view"
    assert reading.identity_headers(None) == {}


def test_many_groups_do_not_break_the_program_behind() -> None:
    """A list ends at 4 KB, after a whole name."""
    groups = frozenset(f"/group-{number:04d}" for number in range(2000))
    header = reading.identity_headers(Person("1", "x", groups=groups))["X-Forwarded-Groups"]
    assert len(header) <= reading.LONGEST_LIST
    assert set(header.split(",")) <= groups


def test_cookies_are_found_and_hidden() -> None:
    """All values of a cookie are found, and ours go no further."""
    sent = {"cookie": ["a=1; __Host-q=x; b=2", "__Host-q=y;c"]}
    assert reading.cookies_of(sent, "__Host-q") == ["x", "y"]
    assert reading.without_cookies(sent, ["__Host-q"]) == "a=1; b=2; c"
    assert reading.without_cookies({"cookie": ["__Host-q=x"]}, ["__Host-q"]) == ""
