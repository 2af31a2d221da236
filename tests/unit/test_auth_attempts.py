"""A log-in's state: unreadable on its way, bound to one browser, good once and not for long."""

from __future__ import annotations

import base64
import hashlib
import secrets

import pytest

from qhub_auth.attempts import LONGEST_NEXT, Attempt, AttemptError, Attempts, new_binding

SECRET = secrets.token_bytes(32)


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def attempts(clock: Clock) -> Attempts:
    return Attempts(SECRET, seconds=600, clock=clock)


def begun(clock: Clock, next_url: str = "/hub/home") -> Attempt:
    return Attempt.begin(
        now=clock(), redirect_uri="https://h/hub/oauth_callback", next_url=next_url
    )


def test_it_comes_back_as_it_was(attempts: Attempts, clock: Clock) -> None:
    """Everything that finishing the log-in needs."""
    attempt, binding = begun(clock), new_binding()
    assert attempts.opened(attempts.sealed(attempt, binding), binding) == attempt


def test_nothing_can_be_read(attempts: Attempts, clock: Clock) -> None:
    """Neither in the state nor in what is sent beside it."""
    attempt, binding = begun(clock), new_binding()
    state = attempts.sealed(attempt, binding)
    plain = base64.urlsafe_b64decode(state + "=" * (-len(state) % 4))
    for hidden in (attempt.verifier, attempt.secret, attempt.next_url, binding):
        assert hidden.encode() not in plain
        assert hidden not in (state, attempt.nonce, attempt.challenge)
        assert hidden not in repr(attempt) or hidden == attempt.next_url
    expected = hashlib.sha256(attempt.verifier.encode()).digest()
    assert attempt.challenge == base64.urlsafe_b64encode(expected).rstrip(b"=").decode()


def test_another_browser_cannot_finish_it(attempts: Attempts, clock: Clock) -> None:
    """Log-in CSRF: a link made with one's own log-in logs nobody else in."""
    state = attempts.sealed(begun(clock), new_binding())
    for binding in (new_binding(), "", None):
        with pytest.raises(AttemptError):
            attempts.opened(state, binding)


def test_once(attempts: Attempts, clock: Clock) -> None:
    """The same answer does not count twice."""
    binding = new_binding()
    state = attempts.sealed(begun(clock), binding)
    attempts.opened(state, binding)
    with pytest.raises(AttemptError, match="finished"):
        attempts.opened(state, binding)


def test_not_for_long(attempts: Attempts, clock: Clock) -> None:
    """Nor from the future, when a clock was put back."""
    binding = new_binding()
    late, early = (attempts.sealed(begun(clock), binding) for _ in range(2))
    clock.now += 601
    with pytest.raises(AttemptError, match="long"):
        attempts.opened(late, binding)
    clock.now -= 700
    with pytest.raises(AttemptError, match="long"):
        attempts.opened(early, binding)


def test_many_tabs(attempts: Attempts, clock: Clock) -> None:
    """They share the browser's cookie and nothing else; any order will do."""
    binding = new_binding()
    tabs = [begun(clock, f"/hub/spawn?{n}") for n in range(30)]
    states = [attempts.sealed(tab, binding) for tab in tabs]
    for tab, state in sorted(zip(tabs, states, strict=True), key=lambda each: each[0].id):
        assert attempts.opened(state, binding).next_url == tab.next_url
    assert len({tab.nonce for tab in tabs}) == len({tab.verifier for tab in tabs}) == 30


def test_a_restart_of_the_hub_loses_none(attempts: Attempts, clock: Clock) -> None:
    """Whoever is at Keycloak's page meanwhile comes back as if nothing had been."""
    attempt, binding = begun(clock), new_binding()
    restarted = Attempts(SECRET, seconds=600, clock=clock)
    assert restarted.opened(attempts.sealed(attempt, binding), binding) == attempt


def test_another_hub_has_another_key(attempts: Attempts, clock: Clock) -> None:
    """The key comes from the cookie secret."""
    binding = new_binding()
    other = Attempts(secrets.token_bytes(32), seconds=600, clock=clock)
    with pytest.raises(AttemptError):
        other.opened(attempts.sealed(begun(clock), binding), binding)


@pytest.mark.parametrize(
    "state", ["", "x", "A" * 40, "é", "A" * 5000, "....", "AAAA AAAA", "-_" * 40]
)
def test_what_is_no_state(attempts: Attempts, state: str) -> None:
    """Anything may come."""
    with pytest.raises(AttemptError):
        attempts.opened(state, new_binding())


def test_one_flipped_bit(attempts: Attempts, clock: Clock) -> None:
    """It is sealed, not only hidden."""
    binding = new_binding()
    state = attempts.sealed(begun(clock), binding)
    for at in (0, 20, len(state) // 2, len(state) - 2):
        changed = state[:at] + ("A" if state[at] != "A" else "B") + state[at + 1 :]
        with pytest.raises(AttemptError):
            attempts.opened(changed, binding)


def test_the_longest_stays_within_what_keycloak_takes(attempts: Attempts, clock: Clock) -> None:
    """A page's address that is longer is forgotten; the log-in is not."""
    longest = begun(clock, "/" + "x" * (LONGEST_NEXT - 1))
    state = attempts.sealed(longest, new_binding())
    assert longest.next_url
    assert len(state) < 4000
    assert begun(clock, "/" + "x" * LONGEST_NEXT).next_url == ""


def test_what_was_used_is_forgotten_in_time(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow with the number of log-ins."""
    monkeypatch.setattr("qhub_auth.attempts._MOST_USED", 10)
    attempts, binding = Attempts(SECRET, seconds=600, clock=clock), new_binding()
    for _ in range(50):
        attempts.opened(attempts.sealed(begun(clock), binding), binding)
        clock.now += 1
    assert len(attempts._used) <= 10
