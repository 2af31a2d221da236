"""What a browser keeps, sealed; and the sessions it stands for."""

from __future__ import annotations

import base64
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from qhub_auth.errors import ConfigurationError
from qhub_auth.forward_auth import keys as key_files
from qhub_auth.forward_auth.cookies import (
    LogIn,
    Sealer,
    challenge_of,
    cookie_name,
    form_token,
    set_cookie,
)
from qhub_auth.forward_auth.keys import KeyFile
from qhub_auth.forward_auth.policy import Person
from qhub_auth.forward_auth.sessions import Session, Sessions, new_id

OLD, NEW, FOREIGN = (Fernet.generate_key().decode() for _ in range(3))
NOW = 1_800_000_000.0
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
CONTENTS = st.dictionaries(st.text().filter(lambda name: name != "kind"), JSON, max_size=4)


@given(content=CONTENTS)
def test_what_is_sealed_comes_back(content: dict[str, Any]) -> None:
    """What was sealed is opened again, by the same kind of content only."""
    sealer = Sealer([NEW])
    sealed = sealer.seal("cookie", content, now=NOW)
    assert sealer.open("cookie", sealed, seconds=60, now=NOW + 1) == (content, True)
    assert sealer.open("log-in", sealed, seconds=60, now=NOW + 1) is None


@given(st.data())
def test_a_changed_seal_is_none(data: st.DataObject) -> None:
    """Whoever changes one character, or puts one in or takes one out, has nothing."""
    sealer = Sealer([NEW])
    sealed = sealer.seal("cookie", {"id": "x"}, now=NOW)
    at = data.draw(st.integers(0, len(sealed) - 1))
    letter = data.draw(st.sampled_from("ABCxyz019_-=") | st.characters())
    how = data.draw(st.sampled_from(["change", "insert", "cut"]))
    forged = {
        "change": sealed[:at] + letter + sealed[at + 1 :],
        "insert": sealed[:at] + letter + sealed[at:],
        "cut": sealed[:at],
    }[how]
    # Base64 has several ways to write its last bits: the same bytes are the same seal
    if _raw(forged) == _raw(sealed):
        return
    assert sealer.open("cookie", forged, seconds=60, now=NOW) is None


def _raw(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text)
    except ValueError:
        return text.encode("utf-8", "surrogatepass")


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
def test_anything_else_is_none(text: str) -> None:
    """Whatever a client sends in a cookie, it is no session and no error."""
    assert Sealer([NEW]).open("cookie", text, seconds=60, now=NOW) is None


def test_a_foreign_key_seals_nothing_for_us() -> None:
    """Only our keys count."""
    forged = Sealer([FOREIGN]).seal("cookie", {"id": "x"}, now=NOW)
    assert Sealer([NEW, OLD]).open("cookie", forged, seconds=60, now=NOW) is None


def test_time_passes() -> None:
    """A seal says when it is stale, and one from the future is none."""
    sealer = Sealer([NEW])
    sealed = sealer.seal("cookie", {}, now=NOW)
    assert sealer.open("cookie", sealed, seconds=60, now=NOW + 61) == ({}, False)
    assert sealer.open("cookie", sealed, seconds=60, now=NOW - 61) is None


def test_keys_are_rotated() -> None:
    """The first key seals, all of them open."""
    before = Sealer([OLD]).seal("cookie", {"id": "x"}, now=NOW)
    both = Sealer([NEW, OLD])
    assert both.open("cookie", before, seconds=60, now=NOW) is not None
    after = both.seal("cookie", {"id": "x"}, now=NOW)
    assert Sealer([NEW]).open("cookie", after, seconds=60, now=NOW) is not None
    assert Sealer([OLD]).open("cookie", after, seconds=60, now=NOW) is None


@pytest.mark.parametrize("keys", [[], ["short"], ["x" * 44], [NEW, "bad key"]])
def test_a_bad_key_stops_the_service(keys: list[str]) -> None:
    """What is no key is said to be none, without repeating it."""
    with pytest.raises(ConfigurationError) as caught:
        Sealer(keys)
    assert not [key for key in keys if len(key) > 5 and key in str(caught.value)]


def test_the_file_of_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is read anew when it changes, refused when others can read it, and kept when broken."""
    monkeypatch.setattr(key_files, "LOOK_SECONDS", 0.0)
    path = tmp_path / "keys"
    path.write_text(f"{OLD}\n")
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="make it 0600"):
        KeyFile(str(path))
    path.chmod(0o600)
    keys = KeyFile(str(path))
    sealed = keys.sealer.seal("cookie", {}, now=NOW)
    path.write_text(f"{NEW}\n{OLD}\n")
    os.utime(path, (1, 1))
    assert keys.sealer.open("cookie", sealed, seconds=60, now=NOW) is not None
    assert Sealer([NEW]).open(
        "cookie", keys.sealer.seal("cookie", {}, now=NOW), seconds=60, now=NOW
    )
    path.write_text("half a ke")
    os.utime(path, (2, 2))
    assert keys.sealer.open("cookie", sealed, seconds=60, now=NOW) is not None
    with pytest.raises(ConfigurationError, match="No such file"):
        KeyFile(str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("secure", "domain", "name"),
    [(True, "", "__Host-q"), (True, "example.org", "__Secure-q"), (False, "", "q")],
)
def test_cookies_are_guarded(secure: bool, domain: str, name: str) -> None:
    """No script reads them, no other site's form sends them, and on https no other host sets them."""
    assert cookie_name("q", secure=secure, domain=domain) == name
    header = set_cookie(name, "v", secure=secure, domain=domain, seconds=60)
    parts = header.split("; ")
    assert parts[0] == f"{name}=v"
    assert {"Path=/", "HttpOnly", "SameSite=Lax", "Max-Age=60"} <= set(parts)
    assert ("Secure" in parts) is secure
    assert (f"Domain={domain}" in parts) is bool(domain)


def test_cookies_are_small() -> None:
    """The session's cookie is far below what browsers keep, and one that is not is an error."""
    value = Sealer([NEW]).seal("cookie", {"id": new_id()}, now=NOW)
    assert len(set_cookie("__Host-qhub-forward-auth", value, secure=True, seconds=36_000)) < 400
    with pytest.raises(ValueError, match="more than browsers keep"):
        set_cookie("q", "x" * 4000, secure=True)


def test_a_log_in_belongs_to_one_browser() -> None:
    """The way back counts only in the browser that went; another one's is none."""
    sealer = Sealer([NEW])
    login = LogIn("https://a.test/x", "https://a.test/_qhub/callback", "n", "v" * 43, "browser-1")
    state = login.sealed(sealer, now=NOW)
    assert LogIn.opened(sealer, state, browser="browser-1", seconds=60, now=NOW) == (login, True)
    for other in ("browser-2", "", "browser-1x"):
        assert LogIn.opened(sealer, state, browser=other, seconds=60, now=NOW) is None
    stale = LogIn.opened(sealer, state, browser="browser-1", seconds=60, now=NOW + 90)
    assert stale == (login, False)
    foreign = login.sealed(Sealer([FOREIGN]), now=NOW)
    assert LogIn.opened(sealer, foreign, browser="browser-1", seconds=60, now=NOW) is None


def test_pkce() -> None:
    """The challenge is RFC 7636's, whose appendix B has this example."""
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    assert challenge_of(verifier) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def test_a_form_belongs_to_one_session() -> None:
    """Of two sessions, each has a token of its own, which does not show the session."""
    one, two = new_id(), new_id()
    assert form_token(one) != form_token(two)
    assert one not in form_token(one)


# ---- sessions ----

LOG = logging.getLogger("test")


def session(name: str = "alice", *, sid: str = "s1", started: float = NOW) -> Session:
    person = Person(f"sub-{name}", name, roles=frozenset({"r"}), groups=frozenset({"/g"}))
    return Session(new_id(), person, sid, started, started, "canary-refresh", "canary-id")


def table(path: str = "", keys: list[str] | None = None) -> Sessions:
    sealer = Sealer(keys or [NEW])
    return Sessions(path, lambda: sealer, seconds=3600, log=LOG)


def test_a_session_ends_with_its_time() -> None:
    """After its longest time a session is gone, whatever was done with it."""
    sessions, mine = table(), session()
    sessions.add(mine, now=NOW)
    assert sessions.get(mine.id, now=NOW + 3599) == mine
    assert sessions.get(mine.id, now=NOW + 3600) is None
    assert len(sessions) == 0


def test_sessions_outlive_a_restart_sealed(tmp_path: Path) -> None:
    """The file holds no token, name or identifier in the clear, and is readable by us alone."""
    path = tmp_path / "sessions.sqlite"
    sessions, mine = table(str(path)), session()
    sessions.add(mine, now=NOW)
    renewed = sessions.renew(mine, now=NOW, refresh_token="canary-second")
    sessions.close()
    raw = b"".join(each.read_bytes() for each in tmp_path.iterdir())
    for secret in (b"canary", b"alice", mine.id.encode()):
        assert secret not in raw
    assert path.stat().st_mode & 0o777 == 0o600
    again = table(str(path))
    assert again.get(mine.id, now=NOW) == renewed
    again.remove(mine.id)
    again.close()
    assert len(table(str(path))) == 0


def test_sessions_of_other_keys_are_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be opened any more is thrown away, and the log says how many."""
    path = str(tmp_path / "sessions.sqlite")
    first = table(path)
    first.add(session(), now=NOW)
    first.close()
    assert len(table(path, [FOREIGN])) == 0
    assert "1 sessions" in caplog.text
    assert len(table(path)) == 0


def test_an_ended_session_is_not_renewed() -> None:
    """Who signs out while Keycloak is being asked stays signed out."""
    sessions, mine = table(), session()
    sessions.add(mine, now=NOW)
    sessions.remove(mine.id)
    assert sessions.renew(mine, now=NOW, refresh_token="late") is None
    assert sessions.get(mine.id, now=NOW) is None


def test_a_log_out_ends_all_of_keycloaks_session() -> None:
    """By ``sid`` one session of Keycloak's ends on all hosts, by ``sub`` all of a person."""
    sessions = table()
    here, there, other = session(sid="s1"), session(sid="s1"), session("alice", sid="s2")
    bob = session("bob", sid="s3")
    for each in (here, there, other, bob):
        sessions.add(each, now=NOW)
    assert sessions.end(now=NOW, sid="s1") == 2
    assert sessions.end(now=NOW, sub="sub-alice") == 1
    assert sessions.get(bob.id, now=NOW) == bob
    assert sessions.ended(sid="s1", sub="x", issued=NOW - 1)
    assert sessions.ended(sid="s9", sub="sub-alice", issued=NOW - 1)
    assert not sessions.ended(sid="s9", sub="sub-alice", issued=NOW + 1)
    assert sessions.end(now=NOW) == 0
    assert not sessions.ended(sid="", sub="sub-bob", issued=NOW - 1)


def test_secrets_do_not_show() -> None:
    """A session that comes into a log by accident shows neither its identifier nor its tokens."""
    mine = session()
    assert "canary" not in repr(mine)
    assert mine.id not in repr(mine)


def test_many_sessions_are_cheap() -> None:
    """Ten thousand people are found in no time."""
    sessions = table()
    people = [session(f"p{number}") for number in range(10_000)]
    for each in people:
        sessions.add(each, now=NOW)
    began = time.perf_counter()
    for each in people:
        assert sessions.get(each.id, now=NOW) is each
    assert time.perf_counter() - began < 2
