"""Drills: the wall clock of the hub's machine steps. Nothing is judged by it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing
from tests.integration.drills import Drill, assert_settled
from tests.systems import debian

HOUR = 3600


@pytest.fixture
def stepping(cluster: Any, drill_on: Any, transport: str) -> tuple[Drill, Callable[[int], None]]:
    """A hub whose wall clock (not its monotonic one) is as many seconds off as was said last."""
    try:
        debian.ensure(["libfaketime"])
    except debian.MissingPackagesError as error:
        missing("libfaketime", error)
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    offset = Path(cluster.run_folder) / f"clock-{transport}"

    def step(seconds: int) -> None:
        part = offset.with_suffix(".part")
        part.write_text(f"{seconds:+d}\n")
        part.chmod(0o644)
        part.replace(offset)

    step(0)
    environment = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    return drill_on(transport, environment=environment), step


def test_clock_steps(stepping: tuple[Drill, Callable[[int], None]]) -> None:
    """An hour forward and two back: servers live, starts come up, ends are noticed at once."""
    drill, step = stepping
    by_command = drill.hub.transport == "command-line"
    server, ending = drill.start("running", "ending")
    drill.hub.api("GET", "users/alice/qhub/profiles")
    for seconds in (HOUR, -HOUR):
        step(seconds)
        profiles = drill.hub.api("GET", "users/alice/qhub/profiles").json["profiles"]
        assert_off(drill, seconds)
        assert not any(profile["availability"]["stale"] for profile in profiles)
        drill.wait_polls()
        assert drill.model(server)["ready"]
        if by_command:
            (started,) = drill.start("started")
            drill.stop(started)
    # by slurmrestd nothing is known at all here: its tokens are an hour old. Nothing more happens.
    if by_command:
        # an end of which only a line tells that is missing from the queue
        drill.faults.set("squeue", "few")
        drill.slurm.run(["scancel", str(drill.job_id(ending))])
        assert "cancelled by root" in drill.wait_ended(ending, 20)
        drill.faults.clear()
    step(0)
    if not by_command:
        drill.stop(ending)
    assert_settled(drill, [server])


def assert_off(drill: Drill, seconds: int) -> None:
    """The hub's own clock, by which it stamps its log, is off by so many seconds."""

    def off() -> bool:
        lines = [
            line for line in drill.hub.log.read_text().splitlines() if line.startswith("[I 20")
        ]
        # [I 2026-11-21 06:57:13.323 JupyterHub app:3946] …   (local time, without a zone)
        stamp = datetime.strptime(lines[-1][3:22], "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007
        difference = (stamp - datetime.now()).total_seconds()  # noqa: DTZ005
        return abs(difference - seconds) < HOUR / 2

    drill.wait(off, 10, f"a log that is {seconds} s off")
