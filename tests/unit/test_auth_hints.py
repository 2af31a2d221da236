"""What a browser keeps of its own log-in: sealed, of one hub, and short enough."""

from __future__ import annotations

import base64
import hashlib
import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhub_auth.login.hints import Hints, session_of, whole
from qhub_auth.login.logout import SingleLogoutHandler

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"


def token_of(length: int, **claims: object) -> str:
    made = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    noise = base64.urlsafe_b64encode(hashlib.shake_256(b"noise").digest(length)).decode()
    return f"e30.{made}.{noise[:length]}"


def test_it_comes_back() -> None:
    """Name and token, and nobody sees them in it; the same is sealed otherwise each time."""
    hints = Hints(b"x" * 32)
    token = token_of(342, sid="one", name="Ä" * 200)
    sealed = hints.sealed("alice", token)
    assert hints.opened(sealed) == ("alice", token)
    assert hints.sealed("alice", token) != sealed
    assert session_of(token) == "one"
    # as a cookie's value is written (RFC 6265, 4.1.1)
    assert set(sealed) <= {*LETTERS, "="}


def test_of_another_hub_or_changed() -> None:
    """A seal by another secret, or with one character changed, is none."""
    sealed = Hints(b"x" * 32).sealed("alice", token_of(300))
    assert Hints(b"y" * 32).opened(sealed) is None
    other = ("A" if sealed[40] != "A" else "B").join((sealed[:40], sealed[41:]))
    assert Hints(b"x" * 32).opened(other) is None


@given(st.text(max_size=5000))
def test_what_anybody_may_send(text: str) -> None:
    """Whatever a browser sends is opened or is nothing; a token of any form has a session or none."""
    assert Hints(b"x" * 32).opened(text) is None
    session_of(text)


@pytest.mark.parametrize(
    ("token", "fits"),
    [
        (token_of(3000, sid="one"), True),
        (token_of(3900, sid="one"), False),
        (token_of(50_000, sid="one"), False),
        (token_of(1, sid="one", names="a" * 12_000), True),
        (token_of(1, sid="one", names="a" * 12_400), False),
        (token_of(1, sid="one", names="a" * 200_000), False),
    ],
    ids=["short", "no cookie", "much too long", "packs well", "not to be opened", "packed only"],
)
def test_what_is_too_long(token: str, fits: bool) -> None:
    """Of a token that no browser keeps, or that would not be opened again, it keeps which session it is of."""
    hints = Hints(b"x" * 32)
    name, kept = hints.opened(hints.sealed("alice", token)) or ("", "")
    assert name == "alice"
    assert whole(kept) == (token if fits else "")
    assert session_of(kept) == session_of(token) == "one"


def test_too_long_and_of_no_session() -> None:
    """Then nothing is kept."""
    assert Hints(b"x" * 32).sealed("alice", token_of(50_000)) == ""


class Leaving:
    """A browser that logs out at the hub."""

    def __init__(self, own: str) -> None:
        self._own = own
        self.ended: list[str] = []
        self.hints: list[str] = []
        self.authenticator = SimpleNamespace(provider=self, keycloak_logout_url=self.url)

    async def look(self, _: float) -> Any:
        return SimpleNamespace(end_session="https://k/logout")

    async def end_session(self, refresh_token: str, *, seconds: float) -> None:
        self.ended.append(refresh_token)

    async def url(self, _: Any, *, hint: str) -> str:
        self.hints.append(hint)
        return "https://k/logout"

    async def log_out(self, **state: Any) -> None:
        leave: Any = SingleLogoutHandler._keycloak_logout
        await leave(self, state)


@pytest.mark.parametrize("stored", [{"sid": "two"}, {}, None])
@pytest.mark.parametrize("length", [300, 4000])
async def test_no_other_browsers_session(length: int, stored: dict[str, str] | None) -> None:
    """The refresh token is that of the last log-in. A browser with another session, whose token is too long for an address, goes without it: Keycloak asks, and nobody else's session ends."""
    own = token_of(length, sid="one")
    browser = Leaving(own)
    id_token = None if stored is None else token_of(4000, **stored)
    await browser.log_out(id_token=id_token, refresh_token="another browser's")
    assert browser.ended == []
    assert browser.hints == [own if length < 4000 else ""]


@pytest.mark.parametrize("own", [token_of(4000, sid="one"), token_of(300, sid="one"), ""])
async def test_its_own_session(own: str) -> None:
    """Where the last log-in is this browser's, or it has nothing of its own, the refresh token ends the session with no question."""
    browser = Leaving(own)
    await browser.log_out(id_token=token_of(4000, sid="one"), refresh_token="mine")
    assert (browser.ended, browser.hints) == (["mine"], [])


async def test_tokens_without_a_session() -> None:
    """Of two tokens that name none nobody knows whether they are of one."""
    own = token_of(300)
    browser = Leaving(own)
    await browser.log_out(id_token=token_of(400), refresh_token="whose")
    assert (browser.ended, browser.hints) == ([], [own])


@pytest.mark.parametrize(("stored", "ended"), [("one", ["last"]), ("two", [])])
async def test_a_token_that_no_browser_keeps(stored: str, ended: list[str]) -> None:
    """Its session is kept for all that, so that only the browser of the last log-in uses what the hub has of that."""
    hints = Hints(b"x" * 32)
    _, own = hints.opened(hints.sealed("alice", token_of(50_000, sid="one"))) or ("", "")
    browser = Leaving(own)
    await browser.log_out(id_token=token_of(50_000, sid=stored), refresh_token="last")
    assert browser.ended == ended
    assert browser.hints == ([] if ended else [""])
