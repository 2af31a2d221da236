"""The pure parts of the benchmarks: what is counted, summed up and printed is right."""

from __future__ import annotations

import asyncio
import json
import struct
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import report
from benchmarks.activity import Forks
from benchmarks.cluster import Sleeper
from benchmarks.figures import Calls, Spread, per_minute, percentile, ratio
from benchmarks.filled import qhub_kept, stock_kept
from benchmarks.visitors import look

# sdiag of Slurm 22.05.8, shortened
SDIAG = """\
Jobs submitted: 100

Remote Procedure Call statistics by message type
	REQUEST_SUBMIT_BATCH_JOB                ( 4003) count:50     ave_time:691    total_time:34565
	REQUEST_JOB_INFO                        ( 2003) count:4      ave_time:563    total_time:2252

Remote Procedure Call statistics by user
	alice           (    1001) count:150    ave_time:528    total_time:79270
	root            (       0) count:24     ave_time:392    total_time:9426

Pending RPC statistics
	No pending RPCs
"""


@given(st.lists(st.floats(0, 1000), min_size=1), st.floats(0.1, 100))
def test_percentile_is_a_value_that_so_many_do_not_exceed(
    values: list[float], percent: float
) -> None:
    """It is one of the values, at least that share is not above it, and no smaller one will do."""
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100 - 1e-9
    assert sum(value < found for value in values) < len(values) * percent / 100


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], 0), ([1.0], 101)])
def test_percentile_of_nothing_is_refused(values: list[float], percent: float) -> None:
    """There is no such value."""
    with pytest.raises(ValueError, match="percentile"):
        percentile(values, percent)


def test_spread_and_rates() -> None:
    """Median, least and most; rates are by the minute; nothing over nothing is no difference."""
    assert Spread.of([3.0, 1.0, 2.0, 10.0]) == Spread(2.5, 1.0, 10.0)
    assert per_minute(5, 30) == 10
    assert ratio(1, 4) == 0.25
    assert ratio(0, 0) == 0
    assert ratio(1, 0) == float("inf")


def test_calls_are_counted_by_account() -> None:
    """Both tables of sdiag are read; what others ask does not count; an account may be new."""
    earlier = Calls.parse(SDIAG)
    assert earlier.by_user == {"alice": 150, "root": 24}
    assert earlier.by_kind["REQUEST_JOB_INFO"] == 4
    later = SDIAG.replace("count:150 ", "count:157 ").replace("count:24 ", "count:99 ")
    later = later.replace("\n\nPending", "\n\tqhub            (     998) count:3      x\n\nPending")
    assert Calls.parse(later).since(earlier, ("alice", "bob", "qhub")) == 10


def test_sdiag_that_is_cut_is_refused() -> None:
    """Half an answer would count too little."""
    with pytest.raises(ValueError, match="by user"):
        Calls.parse(SDIAG.partition("Remote Procedure Call statistics by user")[0])


def test_table_is_aligned() -> None:
    """First column to the left, figures to the right, nothing after the last."""
    text = report.table(("", "ours"), [("seconds", "1"), ("s", "1,000")])
    assert text.splitlines() == [
        "          ours",
        "-------  -----",
        "seconds      1",
        "s        1,000",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (5.9991, "5.999"),
        (1377.4, "1,377"),
        (123456.0, "123,500"),
        (0.00001234, "0.000012"),
    ],
)
def test_amounts_are_for_people(value: float, text: str) -> None:
    """Four digits count, thousands are set apart, never a power of ten."""
    assert report.amount(value) == text


def test_last_line_is_one_line_of_json() -> None:
    """The names that other programs read, numbers rounded, and no number that JSON lacks."""
    line = report.last_line(
        "spawn", ours=1.23456789, other=2.0, ratio=float("inf"), floor=1.0, runs=10,
        more={"by": {"50": 5.99876}, "met": True},
    )  # fmt: skip
    assert "\n" not in line
    assert json.loads(line) == {
        "bench": "spawn",
        "ours": 1.235,
        "other": 2.0,
        "ratio": None,
        "floor": 1.0,
        "runs": 10,
        "by": {"50": 5.999},
        "met": True,
    }
    assert "floor" not in json.loads(report.last_line("x", ours=1, other=1, ratio=1, runs=1))


def test_filled_state_is_what_a_server_keeps() -> None:
    """The database is filled with what the spawners themselves would have written."""
    from qhub_spawner.slurm.poller import Watch
    from qhub_spawner.slurm.server import SlurmServer

    sleeper = Sleeper("alice", "s1", "qhub-bench-00000000000000ff", 4711)
    state = qhub_kept(sleeper, 8888).state
    backend: Any = SimpleNamespace(poller=SimpleNamespace(watch=Watch))
    server = SlurmServer(backend, owner=SimpleNamespace(log=None))
    server.restore(state["qhub"])
    assert server.state() == state["qhub"]
    assert stock_kept(sleeper, 8888).state["job_id"] == "4711"


def event(what: int, *ids: int) -> bytes:
    """A message of the kernel's process events connector (linux/cn_proc.h)."""
    return bytes(36) + struct.pack("=IIQIIII", what, 0, 0, *ids) + bytes(8)


def test_forks_counts_processes_of_the_whole_tree_and_no_threads() -> None:
    """Children and their children count for the process they come from; strangers do not."""
    fork, leave = 1, 0x80000000
    forks = Forks()
    forks._counts, forks._roots = {10: 0}, {10: 10}
    forks._note(event(fork, 10, 10, 11, 11))  # a child
    forks._note(event(fork, 11, 11, 12, 12))  # its child
    forks._note(event(fork, 10, 10, 13, 10))  # a thread
    forks._note(event(fork, 99, 99, 14, 14))  # a stranger
    forks._note(event(leave, 11, 11, 0, 17))
    forks._note(event(fork, 11, 11, 15, 15))  # that pid is somebody else's now
    forks._note(b"short")
    assert forks.count(10) == 2


async def test_visitors_look_again_and_again() -> None:
    """Everybody looks first within an interval, then once an interval, however slow an answer."""
    seen: list[str] = []

    async def deed(name: str) -> None:
        seen.append(name)
        await asyncio.sleep(0.06)

    visitors: Any = [1, 2, 3]
    await look(visitors, 0.4, 0.1, lambda _: deed("first"), lambda _: deed("again"))
    assert seen.count("first") == 3
    assert 3 * 2 <= seen.count("again") <= 3 * 3
