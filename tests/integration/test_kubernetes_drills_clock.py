"""Drills on Kubernetes: the wall clock of the hub's machine steps. Nothing is judged by it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing
from tests.integration.drilling import Server
from tests.integration.kubernetes_drills import KubernetesDrill, assert_settled, end, make_drill
from tests.systems import debian

HOUR = 3600
Stepping = tuple[KubernetesDrill, Callable[[int], None]]


@pytest.fixture
def stepping(kubernetes: Any, user_bin: Path) -> Iterator[Stepping]:
    """A hub whose wall clock (not its monotonic one) is as many seconds off as was said last."""
    try:
        debian.ensure(["libfaketime"])
    except debian.MissingPackagesError as error:
        missing("libfaketime", error)
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    folder = Path(tempfile.mkdtemp(prefix="qhub-clock-"))
    folder.chmod(0o755)
    offset = folder / "offset"

    def step(seconds: int) -> None:
        part = folder / "part"
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
    drill = make_drill(kubernetes, "clock", environment=environment)
    yield drill, step
    end(drill)
    shutil.rmtree(folder)


def test_clock_steps(stepping: Stepping) -> None:
    """An hour forward and two back: servers live, start and stop; ends are noticed at once."""
    drill, step = stepping
    (lives,) = drill.start("lives")
    waiting = Server("bob", "waiting")
    drill.request(waiting, "nowhere")
    life = drill.ask(lives)["life"]
    for seconds in (HOUR, -HOUR):
        step(seconds)
        (ending, stopping) = drill.start(f"ending{seconds % 7}", f"stopping{seconds % 7}")
        assert_off(drill, seconds)
        profiles = drill.hub.api("GET", "users/alice/qhub/profiles").json["profiles"]
        assert not any(profile["availability"]["stale"] for profile in profiles)
        drill.stop(stopping)
        drill.cluster.request("DELETE", f"{drill.pod_path(ending)}?gracePeriodSeconds=0")
        assert "deleted" in drill.wait_ended(ending, 20)
        drill.progress_says(waiting, "o node")
        assert drill.ask(lives)["life"] == life
    step(0)
    with drill.opened():
        assert_settled(drill, [lives, waiting])


def assert_off(drill: KubernetesDrill, seconds: int) -> None:
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
