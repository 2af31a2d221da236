"""The command that sudo runs: five verbs, closed options, and nothing else."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhub_spawner.slurm import door_command, script
from tests.unit import hostile, recorded

NAME = "qhub-a1-00112233445566ff"
SUBMIT = {
    "verb": "submit",
    "arguments": ["--partition=general", "--exclusive"],
    "script": "#!/bin/sh\n",
    "environment": {"TOKEN": "secret"},
}
CANCEL = {"verb": "cancel", "job_id": 17, "name": NAME, "signal": None}
SOURCE = Path(door_command.__file__)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stand in for Slurm's commands; keeps what they were given, and what they could read."""
    ran: list[dict[str, Any]] = []

    def run(argv: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        files = {fd: os.pread(fd, 65536, 0) for fd in options["pass_fds"]}
        ran.append({"argv": argv, "files": files, **options})
        return subprocess.CompletedProcess(argv, 0, b"17\n", b"")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(os, "getuid", lambda: 65534)
    return ran


Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Hand the door a request as the hub does."""

    def asking(request: object, *argv: str) -> dict[str, Any]:
        data = request if isinstance(request, bytes) else json.dumps(request).encode()

        class Stdin:
            buffer = io.BytesIO(data)

        monkeypatch.setattr(sys, "stdin", Stdin)
        assert door_command.main(list(argv)) == 0
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return asking


def test_submit(ask: Ask, commands: list[dict[str, Any]]) -> None:
    """sbatch gets a list of arguments, the script on stdin, the environment by a descriptor."""
    assert ask(SUBMIT, "--slurm-bin=/opt/bin", "--slurm-conf=/etc/s.conf") == {
        "exit_code": 0,
        "stdout": "17\n",
        "stderr": "",
    }
    (ran,) = commands
    descriptor = next(iter(ran["files"]))
    assert ran["argv"] == [
        "/opt/bin/sbatch",
        "--parsable",
        "--output=/dev/null",
        "--chdir=/nonexistent",
        f"--export-file={descriptor}",
        "--partition=general",
        "--exclusive",
    ]
    assert ran["input"] == b"#!/bin/sh\n"
    assert ran["env"] == {
        "PATH": "/usr/bin:/bin",
        "SLURM_TIME_FORMAT": "%s",
        "SLURM_CONF": "/etc/s.conf",
    }
    entries = ran["files"][descriptor].split(b"\0")
    assert b"TOKEN=secret" in entries
    assert b"USER=nobody" in entries
    assert b"secret" not in str(ran["argv"]).encode()


def test_the_environment_has_no_file_name(
    ask: Ask, commands: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptor is of memory: no path leads to it."""
    links = []
    real = subprocess.run

    def run(argv: list[str], **options: Any) -> Any:
        links.extend(str(Path(f"/proc/self/fd/{fd}").readlink()) for fd in options["pass_fds"])
        return real(argv, **options)

    monkeypatch.setattr(subprocess, "run", run)
    ask(SUBMIT)
    assert [link.startswith("/memfd:") for link in links] == [True]


def test_values_in_the_environment_may_hold_anything(
    ask: Ask, commands: list[dict[str, Any]]
) -> None:
    """Newlines and quotes belong to a value; the hub's word wins over the account's default."""
    values = {"A": "line\nline", "B": "'\"$(x)`", "LANG": "de_DE.UTF-8", "C": "ü"}
    ask({**SUBMIT, "environment": values})
    entries = next(iter(commands[0]["files"].values())).decode().split("\0")
    for name, value in values.items():
        assert entries.count(f"{name}={value}") == 1
    assert "LANG=C.UTF-8" not in entries


def test_estimate_takes_no_secret(ask: Ask, commands: list[dict[str, Any]]) -> None:
    """--test-only, and no environment at all."""
    ask({**SUBMIT, "verb": "estimate"})
    (ran,) = commands
    assert "--test-only" in ran["argv"]
    assert ran["files"] == {}


@pytest.mark.parametrize(
    ("more", "argv"),
    [
        ({}, ["/usr/bin/scancel", f"--name={NAME}", "17"]),
        (
            {"signal": "TERM"},
            ["/usr/bin/scancel", f"--name={NAME}", "--batch", "--signal=TERM", "17"],
        ),
        ({"cluster": "alpha"}, ["/usr/bin/scancel", f"--name={NAME}", "--clusters=alpha", "17"]),
    ],
)
def test_cancel(
    ask: Ask, commands: list[dict[str, Any]], more: dict[str, Any], argv: list[str]
) -> None:
    """By id and name at once, so that a job that now has the id of another is left alone."""
    ask({**CANCEL, **more})
    assert commands[0]["argv"] == argv


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"verb": "run"},
        {"verb": "submit"},
        {"verb": ["submit"]},
        {"verb": None},
        {**SUBMIT, "arguments": "--partition=x"},
        {**SUBMIT, "arguments": [1]},
        {**SUBMIT, "arguments": None},
        {**SUBMIT, "arguments": [["--partition=x"]]},
        {**SUBMIT, "script": "echo no interpreter"},
        {**SUBMIT, "script": None},
        {**SUBMIT, "script": ["#!/bin/sh"]},
        {**SUBMIT, "environment": []},
        {**SUBMIT, "environment": None},
        {**SUBMIT, "environment": {"A": 1}},
        {**SUBMIT, "environment": {"A": "b\0LD_PRELOAD=/x"}},
        {**SUBMIT, "environment": {"A=B": "c"}},
        {**SUBMIT, "environment": {"": "c"}},
        {**SUBMIT, "environment": {"A\nB": "c"}},
        {**SUBMIT, "environment": {"A\0B": "c"}},
        {**SUBMIT, "environment": {"BASH_FUNC_x%%": "() { id; }"}},
        {**CANCEL, "job_id": 0},
        {**CANCEL, "job_id": -1},
        {**CANCEL, "job_id": "17"},
        {**CANCEL, "job_id": True},
        {**CANCEL, "job_id": 17.5},
        {**CANCEL, "job_id": 2**32},
        {**CANCEL, "job_id": "17 18"},
        {**CANCEL, "job_id": None},
        {**CANCEL, "name": "sbatch"},
        {**CANCEL, "name": NAME + "\n"},
        {**CANCEL, "name": NAME + ",other"},
        {**CANCEL, "name": "--user=root"},
        {**CANCEL, "name": None},
        {**CANCEL, "signal": "KILL"},
        {**CANCEL, "signal": 15},
        {**CANCEL, "signal": ["TERM"]},
        {**CANCEL, "cluster": "a\nb"},
        [],
        None,
        "submit",
        17,
        b"",
        b"\xff",
        b"{",
        b"[" * 100_000,
        b'{"verb": "submit"} trailing',
        b'{"job_id": ' + b"9" * 10_000 + b"}",
        b'{"verb": "submit", "arguments": [], "script": "#!\\ud800", "environment": {}}',
        b'{"verb": "submit", "arguments": [], "script": "#!", "environment": {"A": "\\ud800"}}',
    ],
)
def test_refused(ask: Ask, commands: list[dict[str, Any]], request_: object) -> None:
    """What is not exactly one of the five is refused, and no command runs."""
    assert list(ask(request_)) == ["refused"]
    assert commands == []


OTHER_OPTIONS = [
    *("--uid=root", "--gid=0", "--wrap=id", "--output=/etc/passwd", "--error=/x", "--input=/x"),
    *(
        "--open-mode=append",
        "--chdir=/",
        "--export=ALL",
        "--export-file=/etc/shadow",
        "--get-user-env",
    ),
    *("--propagate=ALL", "--batch=x", "--burst-buffer=x", "--bbf=/etc/shadow", "--container=/x"),
    *("--parsable", "--wait", "--array=0-9999", "--ignore-pbs", "--quiet", "--verbose", "--help"),
    *("--cluster-constraint=x", "--kill-on-invalid-dep=yes", "--reboot", "--version", "--usage"),
    *("--job=1", "--part=x", "--u=root", "-p", "-p=x", "-pgeneral", "--", "-", "", "general"),
    *("partition=x", "---partition=x", "--=x", "--PARTITION=x", "--partition =x", " --partition=x"),
    *("--partition=a\nb", "--partition=a\0b", "--partition=a\x7fb", "--partition=" + "a" * 3000),
    *("--par\u200btition=x", "--pаrtition=x"),
]


@pytest.mark.parametrize("option", OTHER_OPTIONS)
def test_options_outside_the_list(ask: Ask, commands: list[dict[str, Any]], option: str) -> None:
    """None that names a file, a program, another account, or is a prefix of one that is allowed."""
    assert "refused" in ask({**SUBMIT, "arguments": ["--nodes=1", option]})
    assert commands == []


def test_no_allowed_option_is_short_for_another() -> None:
    """getopt_long completes a name it does not know: none of ours may so become a forbidden one."""
    known = set(re.findall(r"--([a-z-]+)", recorded.text("sbatch-help.txt")))
    forbidden = known - door_command.OPTIONS
    assert {"wrap", "uid", "output", "export-file", "chdir", "get-user-env"} <= forbidden
    unknown = door_command.OPTIONS - known
    # these stand in the manual only
    assert unknown == {
        *("acctg-freq", "hint", "mem-bind", "network", "ntasks-per-gpu", "prefer"),
        "wait-all-nodes",
    }
    assert not [(a, b) for a in unknown for b in known if b.startswith(a)]


@given(st.sampled_from(sorted(hostile.TEXTS.values())) | st.text(max_size=100))
def test_a_hostile_text_is_no_argument_by_itself(text: str) -> None:
    """What gets through begins with the dashes and the name of an allowed option."""
    try:
        checked = door_command.checked_arguments([text])
    except door_command.Refused:
        return
    name = checked[0].partition("=")[0]
    assert name.startswith("--")
    assert name[2:].replace("-", "a").isalpha()


@given(st.sampled_from(sorted(hostile.TEXTS.values())) | st.text(max_size=100))
def test_a_hostile_value_stays_a_value(text: str) -> None:
    """A value is one argument, without control characters, behind its option."""
    argument = f"--account={text}"
    try:
        checked = door_command.checked_arguments([argument])
    except door_command.Refused:
        return
    assert checked == [argument]
    assert not [char for char in argument if ord(char) < 32 or ord(char) == 127]


@pytest.mark.parametrize(
    "argv",
    [
        ["--slurm-bin=bin"],
        ["--slurm-bin"],
        ["--slurm-bin="],
        ["--slurm-conf=x"],
        ["--verb=submit"],
        ["submit"],
        ["-h"],
        ["--slurm-bin=/usr/bin", "x"],
    ],
)
def test_arguments_refused(argv: list[str], commands: list[dict[str, Any]]) -> None:
    """Only absolute places can be given."""
    with pytest.raises(SystemExit, match="usage: door"):
        door_command.main(argv)
    assert commands == []


def test_never_as_root(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sudo rule that went wrong still does nothing as root."""
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setattr(subprocess, "run", lambda *_a, **_k: pytest.fail("ran"))
    assert ask(SUBMIT) == {"refused": "this command does not run as root"}


def test_a_long_request_is_not_read(ask: Ask, commands: list[dict[str, Any]]) -> None:
    """More than 4 MiB is refused without being understood."""
    assert "longer" in ask(b" " * (door_command.LONGEST_REQUEST + 1))["refused"]
    assert commands == []


def test_refusals_show_nothing_of_size(ask: Ask, commands: list[dict[str, Any]]) -> None:
    """A refusal is short and printable."""
    for request in ({**SUBMIT, "arguments": ["\x1b[2J" + "x" * 100_000]}, {"verb": "x" * 100_000}):
        said = ask(request)["refused"]
        assert len(said) <= 200
        assert said.isprintable()
        assert said.isascii()


def test_a_command_that_hangs(
    ask: Ask, commands: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told apart from a command that failed: the job may exist."""

    def hang(argv: list[str], **_: Any) -> None:
        raise subprocess.TimeoutExpired(argv, door_command.SECONDS)

    monkeypatch.setattr(subprocess, "run", hang)
    assert ask(SUBMIT) == {"timeout": door_command.SECONDS}


def test_only_the_standard_library() -> None:
    """It is installed as one file, and run isolated by the system's Python."""
    tree = ast.parse(SOURCE.read_text())
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
        )
    }
    assert imported <= set(sys.stdlib_module_names)
    assert SOURCE.read_text().startswith("#!/usr/bin/python3 -IS\n")


def test_as_a_program(tmp_path: Path) -> None:
    """The file alone, run as sudo runs it, with stand-ins for Slurm's commands."""
    nobody = {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}
    folder = tmp_path / "bin"
    folder.mkdir()
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_mode & 0o005 != 0o005:
            path.chmod(0o755)  # pytest's own folders are for its user alone
    sbatch = folder / "sbatch"
    sbatch.write_text(
        '#!/bin/sh\nfor a; do echo "$a"; done; cat; tr "\\0" "\\n" <"/dev/fd/${4#*=}"; env\n'
    )
    sbatch.chmod(0o755)
    door = tmp_path / "door"
    door.write_text(SOURCE.read_text())
    door.chmod(0o755)
    done = subprocess.run(
        [str(door), f"--slurm-bin={folder}"],
        input=json.dumps(SUBMIT).encode(),
        capture_output=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "LEAKED": "x", "PYTHONPATH": "/nonexistent"},
        cwd="/",
        **nobody,  # type: ignore[call-overload]
    )
    answer = json.loads(done.stdout)
    assert answer["exit_code"] == 0, answer
    lines = answer["stdout"].splitlines()
    assert lines[0] == "--parsable"
    assert "--exclusive" in lines
    assert "TOKEN=secret" in lines
    assert not [line for line in lines if "LEAKED" in line or "PYTHONPATH" in line]


class TestManyAtOnce:
    """Job arrays, and cancelling in bulk."""

    OTHER = "qhub-a1-ffeeddccbbaa0099"

    def said(self, monkeypatch: pytest.MonkeyPatch, lines: str) -> list[list[str]]:
        """Let squeue say those lines; returns what was run."""
        ran: list[list[str]] = []

        def run(argv: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
            ran.append(argv)
            out = lines.encode() if argv[0].endswith("squeue") else b""
            return subprocess.CompletedProcess(argv, 0, out, b"")

        monkeypatch.setattr(subprocess, "run", run)
        monkeypatch.setattr(os, "getuid", lambda: 65534)
        return ran

    def test_only_those_of_that_name(self, monkeypatch: pytest.MonkeyPatch, ask: Ask) -> None:
        """One squeue for the names, one scancel for what has them."""
        ran = self.said(monkeypatch, f"17|{NAME}\n17|{NAME}\n18|{self.OTHER}\n19|{NAME}\n")
        jobs = [
            {"job_id": 17, "name": NAME, "tasks": "0-3,7"},
            {"job_id": 18, "name": self.OTHER, "tasks": None},
            {"job_id": 19, "name": self.OTHER, "tasks": None},
            {"job_id": 20, "name": NAME, "tasks": "1"},
        ]
        assert ask({"verb": "cancel_many", "jobs": jobs})["exit_code"] == 0
        assert ran[0][0] == "/usr/bin/squeue"
        assert "--me" in ran[0]
        assert f"--name={NAME},{self.OTHER}" in ran[0]
        assert ran[1:] == [["/usr/bin/scancel", "17_[0-3,7]", "18"]]

    def test_nothing_to_cancel(self, monkeypatch: pytest.MonkeyPatch, ask: Ask) -> None:
        """scancel is not run without an id: it would cancel what its other options say."""
        ran = self.said(monkeypatch, "")
        job = {"job_id": 17, "name": NAME, "tasks": None}
        assert ask({"verb": "cancel_many", "jobs": [job]})["exit_code"] == 0
        assert len(ran) == 1

    @pytest.mark.parametrize(
        "jobs",
        [
            None,
            [],
            {},
            [None],
            [{"job_id": "17", "name": NAME}],
            [{"job_id": 17, "name": "other"}],
            [{"job_id": 17, "name": f"{NAME},other"}],
            [{"job_id": 17, "name": NAME, "tasks": "0-3; id"}],
            [{"job_id": 17, "name": NAME, "tasks": "--user=bob"}],
            [{"job_id": 17, "name": NAME, "tasks": ""}],
            [{"job_id": 17, "name": NAME, "tasks": [1]}],
            [{"job_id": 17, "name": NAME}] * 1001,
        ],
    )
    def test_refused(self, commands: list[dict[str, Any]], ask: Ask, jobs: object) -> None:
        """Anything but ids, names of qhub's, and tasks."""
        assert "refused" in ask({"verb": "cancel_many", "jobs": jobs})
        assert not commands

    def test_array(self, commands: list[dict[str, Any]], ask: Ask) -> None:
        """So many tasks, from 0."""
        ask({**SUBMIT, "array_size": 50})
        assert "--array=0-49" in commands[0]["argv"]

    @pytest.mark.parametrize("size", [0, -1, 1001, True, "5", "0-3", 1.5, [1]])
    def test_no_array(self, commands: list[dict[str, Any]], ask: Ask, size: object) -> None:
        """A number from 1 to 1000, and nothing that could be more."""
        assert "refused" in ask({**SUBMIT, "array_size": size})
        assert not commands


class TestLogs:
    """What parts of a Dask cluster have written."""

    CLUSTER, WORKER = "0123456789abcdef" * 2, "fedcba9876543210" * 2

    @pytest.fixture
    def log(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        """The file of the scheduler, in the home of the account."""
        account = SimpleNamespace(pw_dir=str(tmp_path))
        monkeypatch.setattr(door_command.pwd, "getpwuid", lambda uid: account)
        monkeypatch.setattr(os, "getuid", lambda: 65534)
        file = tmp_path / door_command.LOGS / self.CLUSTER / "scheduler.log"
        file.parent.mkdir(parents=True)
        file.write_text("one\ntwo\n")
        return file

    def read(self, ask: Ask, name: str = "scheduler", most: int = 100) -> object:
        """Ask for a log."""
        asked = {"verb": "read_log", "cluster": self.CLUSTER, "name": name, "most_bytes": most}
        answer = ask(asked)
        assert list(answer) == ["log"], answer
        return answer["log"]

    def test_the_end_of_it(self, ask: Ask, log: Path) -> None:
        """As much as was asked for; nothing where nothing is."""
        assert self.read(ask) == "one\ntwo\n"
        assert self.read(ask, most=4) == "two\n"
        assert self.read(ask, self.WORKER) is None
        log.write_bytes(b"\xff\n")
        assert self.read(ask) == "\ufffd\n"

    def test_no_other_file(self, ask: Ask, log: Path, tmp_path: Path) -> None:
        """Neither through a link, nor a pipe that nobody writes to, nor a folder."""
        secret = tmp_path / "secret"
        secret.write_text("secret")
        log.unlink()
        log.symlink_to(secret)
        assert self.read(ask) is None
        log.unlink()
        os.mkfifo(log)
        assert self.read(ask) is None
        log.unlink()
        log.mkdir()
        assert self.read(ask) is None

    @pytest.mark.parametrize(
        "asked",
        [
            {"cluster": "../../x"},
            {"cluster": CLUSTER + "\n"},
            {"cluster": CLUSTER.upper()},
            {"cluster": None},
            {"name": "../scheduler"},
            {"name": "scheduler\0"},
            {"name": ["scheduler"]},
            {"most_bytes": 0},
            {"most_bytes": -1},
            {"most_bytes": 2**20 + 1},
            {"most_bytes": True},
            {"most_bytes": "9"},
        ],
    )
    def test_refused(self, ask: Ask, log: Path, asked: dict[str, object]) -> None:
        """Anything but names of the gateway's, and up to 1 MiB."""
        whole = {"verb": "read_log", "cluster": self.CLUSTER, "name": "scheduler", "most_bytes": 9}
        assert list(ask({**whole, **asked})) == ["refused"]

    def test_where_scripts_write(self) -> None:
        """The door reads where the batch scripts of clusters write."""
        assert f"{script.LOG_FOLDER}/dask" == door_command.LOGS
