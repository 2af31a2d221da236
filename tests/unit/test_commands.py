"""`qhub-spawner`, as an administrator uses it."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhub_spawner.commands import main, sudoers
from qhub_spawner.slurm import door_command
from qhub_spawner.slurm.script import BOOTSTRAP_END
from tests.unit import hostile

PROFILES = """\
- slug: general
  display_name: General
  default: true
  memory: 600 MiB
  walltime: 1h
  environment:
    variables: {SECRET_NAME: secret-value}
  slurm: {partition: general}
  options:
    size:
      display_name: Size
      choices:
        small: {display_name: Small}
        large: {display_name: Large, access: {groups: [staff]}, overrides: {memory: 2 GiB}}
- slug: here
  display_name: Here
  local: {}
"""
RULE = {
    "hub_user": "qhub",
    "runas": "%users",
    "door": "/usr/local/libexec/door",
    "slurm_bin": "/usr/bin",
    "slurm_conf": "/etc/slurm/slurm.conf",
}


@pytest.fixture
def profiles(tmp_path: Path) -> str:
    """A valid profiles file."""
    path = tmp_path / "profiles.yaml"
    path.write_text(PROFILES)
    return str(path)


def test_check(profiles: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It lists what it found, as the hub would take it."""
    assert main(["check", profiles]) == 0
    assert capsys.readouterr().out == (
        "general: General (slurm)\nhere: Here (local)\n2 profiles, all usable\n"
    )


def test_check_of_a_faulty_file(profiles: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Path, line, value and what would be accepted, and an exit code."""
    path = Path(profiles)
    path.write_text(path.read_text().replace("600 MiB", "much"))
    assert main(["check", profiles]) == 1
    err = capsys.readouterr().err
    assert f"{profiles}:4" in err
    assert "much" in err


def test_check_of_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    """Said in a line, without a traceback."""
    assert main(["check", "/nonexistent/profiles.yaml"]) == 1
    assert "/nonexistent/profiles.yaml" in capsys.readouterr().err


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    """The JSON Schema of a profiles file."""
    assert main(["schema"]) == 0
    assert "$schema" in json.loads(capsys.readouterr().out)


def test_show(profiles: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Options and script, but no value of the environment, and not the whole bootstrap."""
    assert main(["show", profiles, "general", "--user=alice"]) == 0
    out = capsys.readouterr().out
    assert "#   --mem=600M\n" in out
    assert "#   --partition=general\n" in out
    assert "run as alice" in out
    assert "SECRET_NAME" in out
    assert "secret-value" not in out
    assert BOOTSTRAP_END in out
    assert len(out.splitlines()) < 60


def test_show_a_choice(profiles: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Access is decided as it is for the hub."""
    choice = ["show", profiles, "general", "--option", "size=large"]
    assert main(choice) == 1
    assert "large" in capsys.readouterr().err
    assert main([*choice, "--group", "staff"]) == 0
    assert "--mem=2048M" in capsys.readouterr().out


def test_show_local(profiles: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A profile that is no job is said to be none."""
    assert main(["show", profiles, "here"]) == 0
    assert "#SBATCH" not in capsys.readouterr().out


def test_install_door(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A copy that only its owner may write, in place at once."""
    target = tmp_path / "libexec" / "door"
    assert main(["install-door", "--to", str(target)]) == 0
    assert main(["install-door", "--to", str(target)]) == 0
    assert target.read_text() == Path(door_command.__file__).read_text()
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    assert list(target.parent.iterdir()) == [target]
    assert f"installed {target}" in capsys.readouterr().out


def test_install_door_where_it_cannot(capsys: pytest.CaptureFixture[str]) -> None:
    """Said in a line."""
    assert main(["install-door", "--to", "/dev/null/door"]) == 1
    assert "/dev/null" in capsys.readouterr().err


def test_sudoers(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole rule, as it is installed."""
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in RULE.items()]
    assert main(["sudoers", *arguments]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    assert lines == [
        "Defaults!/usr/local/libexec/door env_reset, !requiretty, !use_pty, umask=0022",
        (
            "qhub ALL=(%users) NOPASSWD:NOSETENV: /usr/local/libexec/door"
            " --slurm-bin\\=/usr/bin --slurm-conf\\=/etc/slurm/slurm.conf"
        ),
    ]


def test_sudoers_of_several_people() -> None:
    """Accounts and groups, comma-separated."""
    rule = sudoers(**{**RULE, "runas": "alice,%staff,bob", "slurm_conf": None})
    assert "qhub ALL=(alice, %staff, bob) NOPASSWD:NOSETENV: " in rule
    assert "--slurm-conf" not in rule


def test_sudoers_of_hidden_folders() -> None:
    """A checkout keeps its environments in `.nox`: a leading dot is plain, `.` and `..` are not."""
    assert "NOPASSWD:NOSETENV: /srv/.nox/..a/door " in sudoers(
        **{**RULE, "door": "/srv/.nox/..a/door"}
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("door", value) for value in ("/a/..", "/..", "/./a", "/a/.", "/a/.\n")),
        *(("runas", value) for value in ("root", "%root", "alice,root", "ALL", "PEOPLE", "")),
        *(("runas", value) for value in ("alice,", "!alice", "+net", "#0", "%#0", "-alice", "%")),
        *(("runas", value) for value in ("a b", "alice)", "alice:root", "alice, bob", "%:group")),
        *(
            ("hub_user", value)
            for value in ("ALL", "%users", "qhub,eve", "HUB", "", "#1000", "qhub ")
        ),
        *(("door", value) for value in ("door", "", "/", "/usr/bin/", "/usr/*", "/a b", "/a,b")),
        *(("door", value) for value in ("/a/../b", "/a//b", "/a\\", "/a!", "/a=b", "/a:b", '/"a"')),
        *(
            ("slurm_bin", value)
            for value in ("bin", "/usr/bin ALL", "/usr/bin\nqhub ALL=(ALL) ALL")
        ),
        *(("slurm_conf", value) for value in ("x", "/etc/*", "/etc/[a]", "/etc/?", "/etc/$X")),
    ],
)
def test_sudoers_refused(field: str, value: str) -> None:
    """Root, everybody, aliases, negations, folders, wildcards and whatever else sudo reads."""
    with pytest.raises(ValueError, match=r"expected|includes root"):
        sudoers(**{**RULE, field: value})


@given(
    field=st.sampled_from(["hub_user", "runas", "door", "slurm_bin", "slurm_conf"]),
    value=st.sampled_from(sorted(hostile.TEXTS.values())) | st.text(max_size=60),
)
def test_sudoers_of_hostile_values(field: str, value: str) -> None:
    """Whatever is given, the rule is refused, or has its two lines of one form."""
    if field == "slurm_conf" and not value:
        return  # means the built-in place
    try:
        rule = sudoers(**{**RULE, field: value})
    except ValueError:
        return
    defaults, allowed = [line for line in rule.splitlines() if not line.startswith("#")]
    assert defaults.endswith(" env_reset, !requiretty, !use_pty, umask=0022")
    assert re.fullmatch(
        r"\w[\w.-]* ALL=\(%?\w[\w.-]*(, %?\w[\w.-]*)*\) NOPASSWD:NOSETENV: (/[\w.+-]+)+"
        r" --slurm-bin\\=(/[\w.+-]+)+( --slurm-conf\\=(/[\w.+-]+)+)?",
        allowed,
        re.ASCII,
    )


def test_the_entry_point() -> None:
    """The command is installed under its name."""
    import importlib.metadata

    scripts = importlib.metadata.entry_points(group="console_scripts", name="qhub-spawner")
    assert {script.value for script in scripts} <= {"qhub_spawner.commands:main"}
