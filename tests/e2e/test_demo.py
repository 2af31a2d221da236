"""The demo as a person starts it: in a process of its own, known by what it prints."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.check import choose, log_in, wait
from demo.slurm import sweep_sudo_rules
from demo.visitor import Visitor
from tests.conftest import missing
from tests.systems.processes import Ports, SystemUnavailableError, wait_until

ROOT = Path(__file__).resolve().parents[2]
CHECK_SECONDS = 400
CLUSTER = (
    r"its Dask cluster of 2 workers in {place} computed 328350 after [\d.]+ s, and the page of "
    r"clusters showed and stopped it; "
)
IN_JOBS = CLUSTER.format(place=r"job \d+, job \d+")
IN_PODS = CLUSTER.format(place=r"qhub-[^ ,]+, qhub-[^ ,]+")
HERE = CLUSTER.format(place=r"[^ ,]+")


@pytest.fixture
def place() -> Iterator[Path]:
    """The demo's TMPDIR: what it starts carries this path in its command or environment."""
    folder = Path(tempfile.mkdtemp(prefix="qd-"))
    folder.chmod(0o755)  # other people's jobs run below it
    yield folder
    shutil.rmtree(folder)


def started(place: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the demo."""
    return subprocess.Popen(
        [sys.executable, "-m", "demo", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(place), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def left(place: Path) -> list[str]:
    """Commands of processes that this demo started, and folders that it made."""
    found = [path.name for path in place.iterdir() if not path.name.startswith("qhub-ports-")]
    mark = str(place).encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            if mark in command or mark in (entry / "environ").read_bytes():
                found.append(command.replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def last_line_of_check(place: Path, *arguments: str) -> str:
    """Run the check to its end; returns the last line it printed."""
    process = started(place, "--check", *arguments)
    try:
        printed, said = process.communicate(timeout=CHECK_SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()
        printed, said = process.communicate(timeout=120)
    assert process.returncode == 0, f"{printed}\n{said}"
    return printed.splitlines()[-1]


def test_the_check_on_this_machine(place: Path) -> None:
    """It goes the whole way through the real pages, says what it saw, and leaves nothing."""
    line = last_line_of_check(place)
    assert re.fullmatch(
        r"ok: demo chose adjustable; process \d+ on this machine was ready after [\d.]+ s; "
        rf"its kernel said: 6 x 7 = 42, as \S+, Python [\d.]+; {HERE}stopped in [\d.]+ s",
        line,
    )
    assert left(place) == []


def test_the_check_on_slurm(place: Path) -> None:
    """On a real Slurm the kernel runs as the person, in the job, partition and node it names."""
    if os.geteuid() != 0:
        missing("Slurm", SystemUnavailableError("it needs root"))
    line = last_line_of_check(place, "slurm")
    assert re.fullmatch(
        r"ok: alice chose gpu; job \d+ on gpu01 in partition gpu was ready after [\d.]+ s; "
        r"its kernel said: 6 x 7 = 42, as alice, Python [\d.]+, GPU 0; "
        rf"{IN_JOBS}stopped in [\d.]+ s",
        line,
    )
    assert left(place) == []


def test_the_check_on_kubernetes(place: Path) -> None:
    """On a real Kubernetes the kernel runs as the person, in the pod and on the node it names."""
    if os.geteuid() != 0:
        missing("Kubernetes", SystemUnavailableError("it needs root"))
    line = last_line_of_check(place, "kubernetes")
    assert re.fullmatch(
        r"ok: alice chose gpu; pod jupyter-alice on node1 in namespace people with 1 GPU was "
        r"ready after [\d.]+ s; its kernel said: 6 x 7 = 42, as alice, Python [\d.]+; "
        rf"{IN_PODS}stopped in [\d.]+ s",
        line,
    )
    assert left(place) == []


@pytest.mark.kubernetes
def test_the_check_on_both(place: Path) -> None:
    """A job and a pod of one person have one uid and one home: the pod reads what the job wrote."""
    if os.geteuid() != 0:
        missing("Slurm and Kubernetes", SystemUnavailableError("they need root"))
    line = last_line_of_check(place, "both")
    said = r"its kernel said: 6 x 7 = 42, as alice, Python [\d.]+; "
    ended = r"stopped in [\d.]+ s"
    assert re.fullmatch(
        r"ok: alice chose general; job \d+ on cn01 in partition general was ready after [\d.]+ s; "
        rf"{said}{IN_JOBS}{ended}, then chose container; pod jupyter-alice on node1 in namespace "
        rf"people was ready after [\d.]+ s; {said}{IN_PODS}{ended}; both ran with uid \d+, and it "
        r"read what general had written",
        line,
    )
    assert left(place) == []


def test_the_check_with_keycloak(place: Path) -> None:
    """People log in by Keycloak's own pages, and go on as with any other log-in."""
    line = last_line_of_check(place, "keycloak")
    assert re.fullmatch(
        r"ok: alice chose adjustable; process \d+ on this machine was ready after [\d.]+ s; "
        rf"its kernel said: 6 x 7 = 42, as \S+, Python [\d.]+; {HERE}stopped in [\d.]+ s",
        line,
    )
    assert left(place) == []


def test_only_keycloak_goes_with_another_system(place: Path) -> None:
    """Two clusters at once are asked for by the name for both."""
    process = started(place, "slurm", "kubernetes")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said == "demo: slurm kubernetes: only keycloak goes with another system\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_that_runs(place: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end hub, proxy, and a person's server, and remove the folder."""
    ports = Ports()
    (port,) = ports.reserve()
    process = started(place, "--port", str(port))
    try:
        assert process.stdout is not None
        welcome = ""
        for line in process.stdout:
            welcome += line
            if line.startswith("Ctrl-C ends"):
                break
        facts = dict(re.findall(r"^  (Address|User|Password) +(\S+)$", welcome, re.MULTILINE))
        assert facts["Address"] == f"http://127.0.0.1:{port}/"
        visitor = Visitor()
        page = log_in(visitor, facts["Address"], facts["User"], facts["Password"])
        page = wait(visitor, choose(visitor, page, "small"))
        assert page.url.startswith(f"{facts['Address']}user/demo/")
        assert any("jupyterhub-singleuser" in command for command in left(place))
    finally:
        process.send_signal(number)
        printed, said = process.communicate(timeout=60)
        ports.release()
    assert process.returncode == 0, said
    assert printed.splitlines()[-1] == "Everything has ended."
    assert left(place) == []


def test_what_a_killed_demo_left_is_ended_by_the_next(place: Path) -> None:
    """After SIGKILL hub and proxy live on; the next demo ends them before it begins."""
    ports = Ports()
    first, second = ports.reserve(2)
    process = started(place, "--port", str(first))
    assert process.stdout is not None
    try:
        wait_until(lambda: "Ctrl-C ends" in process.stdout.readline(), 60)
    finally:
        process.kill()
        process.communicate(timeout=10)
    assert left(place)
    process = started(place, "--port", str(second))
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith("Ending what an earlier demo left behind in")
        wait_until(lambda: "Ctrl-C ends" in process.stdout.readline(), 60)
    finally:
        process.terminate()
        process.communicate(timeout=60)
        ports.release()
    assert left(place) == []


def test_a_taken_port_is_said_at_once(place: Path) -> None:
    """It names the port and says how to choose another, and starts nothing."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = started(place, "--port", str(port))
        printed, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert printed == ""
    assert said == (
        f"demo: port {port} of 127.0.0.1 is taken by another program; "
        "choose another with --port N\n"
    )


def test_a_start_that_fails_says_why_and_leaves_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be fetched is named with its cause, in one message without a traceback."""
    monkeypatch.setenv("QHUB_CACHE", "/proc/qhub")
    process = started(place, "--check")
    printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed) == (1, "")
    assert said.startswith("demo: ")
    assert "/proc/qhub" in said
    assert "Traceback" not in said
    assert left(place) == []


def test_only_sudo_rules_whose_door_is_gone_are_swept(tmp_path: Path) -> None:
    """A rule of a live hub, or of an administrator, is never touched."""
    door = tmp_path / "qslurm-live" / "door"
    door.parent.mkdir()
    door.touch()
    rules = {
        "qhub-live": f"# qhub\nDefaults!{door} env_reset\nqhub ALL=(alice) NOPASSWD: {door}\n",
        "qhub-gone": "# qhub\nDefaults!/nowhere/qslurm-gone/door env_reset\n",
        "qhub-site": "# qhub\nDefaults!/usr/local/libexec/qhub-slurm-door env_reset\n",
        "qhub-other": "alice ALL=(root) /usr/bin/true\n",
    }
    for name, text in rules.items():
        (tmp_path / name).write_text(text)
    sweep_sudo_rules(tmp_path)
    assert not (tmp_path / "qhub-gone").exists()
    assert [name for name in rules if (tmp_path / name).exists()] == [
        "qhub-live",
        "qhub-site",
        "qhub-other",
    ]
