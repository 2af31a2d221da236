"""Errors say what failed, and repeat hostile input only safely."""

from __future__ import annotations

import datetime as dt
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhub_spawner.availability import Availability, StartEstimate
from qhub_spawner.errors import (
    ConfigurationError,
    Problem,
    QHubSpawnerError,
    SelectionError,
    SlurmError,
    SlurmRejectedError,
    named,
    shown,
)
from tests.unit import hostile


class Rude:
    """An object that cannot be shown."""

    def __repr__(self) -> str:
        """Refuse."""
        message = "no"
        raise RuntimeError(message)


@given(st.text() | st.integers() | st.floats() | st.binary() | st.none())
def test_shown_is_short_printable_ascii(value: object) -> None:
    """At most 64 characters, whatever comes in."""
    for text in (shown(value), named(value)):
        assert len(text) <= 64
        assert text.isascii()
        assert text.isprintable()


@pytest.mark.parametrize("name", hostile.wrong_types())
def test_shown_survives_everything(name: str) -> None:
    """Deep, huge and rude objects cost nothing."""
    assert len(shown(hostile.wrong_types()[name])) <= 64
    assert shown(Rude()) == "<Rude>"
    assert shown([Rude()]).startswith("[<Rude instance at")


def test_named_has_no_quotes() -> None:
    """A name is a name."""
    assert [named("a"), named("a'b"), named("a\n"), named(3)] == ["a", "a'b", "a\\n", "3"]
    assert shown("a" * 100) == "'" + "a" * 60 + "..."


def test_configuration_error_is_one_line_for_each_problem() -> None:
    """Values are cut at 100 characters, newlines come out escaped."""
    problem = Problem("f:1 a", "v" * 200, "bad\nnews", "good")
    error = ConfigurationError([problem, problem])
    first, second = str(error).splitlines()
    assert first == second
    assert first == f"f:1 a: bad\\x0anews (found: {'v' * 97}...); accepted: good"


def test_selection_error_says_what_may_be_chosen() -> None:
    """The message, then the list."""
    error = SelectionError("No.", status_code=403, name="x", accepted=["a", "b"])
    assert str(error) == "No. You may choose: a, b."
    assert str(SelectionError("No.")) == "No."


def test_slurm_errors_cut_stderr() -> None:
    """The first 256 characters, on one line, with the exit code."""
    error = SlurmRejectedError("Slurm refused the job", exit_code=1, stderr="x\n" * 500)
    assert len(error.stderr) == 256
    assert str(error).startswith("Slurm refused the job (exit code 1): x\\x0ax")
    assert error.words == "Slurm refused the job"
    assert isinstance(error, SlurmError)
    assert isinstance(error, QHubSpawnerError)


def test_errors_can_be_pickled() -> None:
    """Tests in several processes hand them over."""
    error = ConfigurationError([Problem("a", "b", "c", "d")])
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 - our own bytes


def test_start_estimates_are_consistent() -> None:
    """A time goes with ``at`` alone, and is UTC; nothing known is the default."""
    zone = dt.timezone(dt.timedelta(hours=2))
    estimate = StartEstimate("at", dt.datetime(2026, 1, 1, 12, tzinfo=zone), "slurm")
    assert estimate.at == dt.datetime(2026, 1, 1, 10, tzinfo=dt.UTC)
    assert estimate.at.tzinfo is dt.UTC
    assert Availability().start == StartEstimate("unknown")
    for bad in (
        lambda: StartEstimate("at"),
        lambda: StartEstimate("now", estimate.at),
        lambda: StartEstimate("at", dt.datetime(2026, 1, 1)),  # noqa: DTZ001 - the point
    ):
        with pytest.raises(ValueError, match="StartEstimate"):
            bad()
