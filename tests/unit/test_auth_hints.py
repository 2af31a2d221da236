"""What a browser keeps of its own log-in: sealed, of one hub, and short enough."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhub_auth.login.hints import Hints, session_of

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


@pytest.mark.parametrize(("length", "fits"), [(3000, True), (3900, False), (50_000, False)])
def test_what_no_browser_would_keep(length: int, fits: bool) -> None:
    """What is too long for a cookie is not sealed."""
    assert bool(Hints(b"x" * 32).sealed("alice", token_of(length))) == fits
