"""From a launch to what is submitted: what a person says never stands in the script."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qhub_spawner.errors import SelectionError
from qhub_spawner.profiles import Profile
from qhub_spawner.slurm import script as script_module
from qhub_spawner.slurm.script import (
    BOOTSTRAP_END,
    Defaults,
    Submission,
    account_name,
    batch_script,
    bootstrap,
    comment,
    options_of,
)
from tests.unit import hostile

ARGV = ("jupyterhub-singleuser",)


def profile(**fields: Any) -> Profile:
    """Return a profile for Slurm."""
    slurm = fields.pop("slurm", {"partition": "general"})
    return Profile.model_validate({"slug": "x", "display_name": "X", "slurm": slurm, **fields})


def submission(options: dict[str, str | None], **fields: Any) -> Submission:
    """Return a submission with a secret."""
    whole = {"name": "qhub-a1-0000000000000001", "comment": "", "script": "#!/bin/sh\n"}
    return Submission(**{**whole, **fields}, options=options, environment={"TOKEN": "secret"})


def bash_reads(script: str) -> subprocess.CompletedProcess[str]:
    """Have bash read the script without running it."""
    return subprocess.run(
        ["bash", "-n"], input=script, capture_output=True, text=True, check=False, env={}
    )


class TestOptions:
    """From a profile to sbatch's options."""

    def test_neutral_fields(self) -> None:
        """Cores and memory round up to what Slurm can count; walltime is in Slurm's form."""
        found = options_of(
            profile(
                cpu="1500m",
                memory="1000.5 MiB",
                walltime="1d 12h",
                gpu={"count": 2, "type": "a100"},
            ),
            Defaults(),
        )
        assert found == {
            "nodes": "1",
            "ntasks-per-node": "1",
            "cpus-per-task": "2",
            "mem": "1001M",
            "time": "1-12:00:00",
            "gres": "gpu:a100:2",
            "partition": "general",
        }

    def test_block(self) -> None:
        """Every field of the block has its option; a second GRES joins the GPUs."""
        block = {
            "partition": "gpu",
            "account": "research",
            "qos": "high",
            "reservation": "course",
            "constraint": "a&b",
            "gres": "shard:1",
            "cluster": "alpha",
            "exclusive": True,
            "directives": ["--nice=10", "--requeue"],
        }
        found = options_of(profile(slurm=block, gpu=1), Defaults())
        assert found["gres"] == "gpu:1,shard:1"
        assert found["clusters"] == "alpha"
        assert found["exclusive"] is None
        assert found["nice"] == "10"
        assert found["requeue"] is None
        for key in ("partition", "account", "qos", "reservation", "constraint"):
            assert found[key] == block[key]

    def test_defaults_give_way(self) -> None:
        """The traits of before apply where the profile is silent, and nowhere else."""
        before = {
            "partition": "old",
            "account": "old",
            "mem": "1G",
            "cpus-per-task": "4",
            "gres": "gpu:4",
        }
        silent = options_of(profile(slurm={}), Defaults(before, ("--nice=5",)))
        assert silent | before == silent
        assert silent["nice"] == "5"
        spoken = options_of(
            profile(
                cpu=1, memory="2G", gpu=1, slurm={"partition": "new", "directives": ["--nice=9"]}
            ),
            Defaults(before, ("--nice=5",)),
        )
        assert spoken["partition"] == "new"
        assert spoken["account"] == "old"
        assert (spoken["mem"], spoken["cpus-per-task"], spoken["gres"]) == ("2048M", "1", "gpu:1")
        assert spoken["nice"] == "9"

    @given(value=st.text(max_size=300) | st.sampled_from(sorted(hostile.TEXTS.values())))
    def test_every_option_is_one_argument(self, value: str) -> None:
        """Whatever a value holds, it is the end of one argument that begins with its option."""
        arguments = submission({"account": value, "exclusive": None}).arguments
        assert arguments[2:] == [f"--account={value}", "--exclusive"]
        assert len(arguments) == 4

    def test_name_and_comment_are_arguments(self) -> None:
        """They come with the options."""
        made = submission({}, comment='{"a":"b c"}')
        assert made.arguments == [
            "--job-name=qhub-a1-0000000000000001",
            '--comment={"a":"b c"}',
        ]

    def test_secrets_are_not_shown(self) -> None:
        """The environment is in no representation."""
        assert "secret" not in repr(submission({}))


class TestComment:
    """Whose a job is, for people."""

    @given(st.text())
    @example("\x7f")
    def test_is_one_line_of_ascii(self, server: str) -> None:
        """A server's name is JSON in plain ASCII, without control characters."""
        text = comment("a1", "alice", server, "0" * 16)
        assert json.loads(text)["server"] == server[:100]
        assert text.isascii()
        assert text.isprintable()
        assert len(text) < 1500

    def test_says_whose_it_is(self) -> None:
        """For sacct and for people."""
        text = comment("a1", "alice", "lab", "00ff")
        assert text == '{"qhub":"a1","user":"alice","server":"lab","spawn":"00ff"}'


class TestAccountName:
    """Names of the hub's users that can be accounts."""

    @pytest.mark.parametrize("name", ["alice", "a", "_svc", "a.b-c_d", "A1"])
    def test_accepted(self, name: str) -> None:
        """Names that accounts have."""
        assert account_name(name) == name

    @pytest.mark.parametrize("name", sorted(hostile.TEXTS))
    def test_hostile_names(self, name: str) -> None:
        """Nothing of the hostile list that is not a plain name gets near a command."""
        value = hostile.TEXTS[name]
        plain = value.isascii() and value.replace("_", "a").isalnum() and len(value) <= 32
        if plain and not value[0].isdigit():
            assert account_name(value) == value
        else:
            with pytest.raises(SelectionError) as refused:
                account_name(value)
            assert refused.value.status_code == 400
            assert len(str(refused.value)) < 300

    @given(st.text())
    def test_any_name(self, value: str) -> None:
        """What is accepted is ASCII, short, and begins with a letter or an underscore."""
        try:
            account_name(value)
        except SelectionError:
            return
        assert value.isascii()
        assert len(value) <= 32
        assert value[0].isalpha() or value[0] == "_"
        assert not set(value) & set(" \n\t'\"$`\\/;&|<>(){}[]*?!~#%=,:")


class TestScript:
    """The batch script."""

    def test_bash_understands_it(self) -> None:
        """The whole script with every part is valid bash."""
        whole = profile(
            slurm={
                "modules": ["gcc/12", "python"],
                "prologue": "export A=1",
                "epilogue": "rm -f x",
            },
            environment={"prefix": "/opt/env"},
        )
        script = batch_script(whole, ("/opt/bin/jupyterhub-singleuser", "--x=y z"), Defaults())
        assert bash_reads(script).stderr == ""
        assert "module load gcc/12 python" in script
        assert "export A=1" in script

    def test_holds_no_directives(self) -> None:
        """sbatch reads #SBATCH lines in a script: there are none, options come beside it."""
        assert "#SBATCH" not in batch_script(profile(), ARGV, Defaults())

    def test_the_bootstrap_cannot_end_its_own_quoting(self) -> None:
        """The program inside the script does not hold the line that ends it."""
        assert BOOTSTRAP_END not in bootstrap().splitlines()

    def test_prologue_before_and_epilogue_after(self) -> None:
        """The hub's own prologue comes first, its epilogue last."""
        asked = profile(slurm={"prologue": "echo mine", "epilogue": "echo my-end"})
        script = batch_script(asked, ARGV, Defaults(prologue="echo ours", epilogue="echo our-end"))
        places = [
            script.index(text)
            for text in ("echo ours", "echo mine", "/dev/fd/3", "echo my-end", "echo our-end")
        ]
        assert places == sorted(places)

    @given(
        st.lists(st.text(min_size=1).filter(lambda text: "\0" not in text), min_size=1, max_size=4)
    )
    def test_the_command_is_quoted(self, words: list[str]) -> None:
        """Whatever the server's arguments hold, the shell sees exactly those words."""
        argv = ("jupyterhub-singleuser", *words)
        script = batch_script(profile(), argv, Defaults())
        start = script.index("/dev/fd/3 ") + len("/dev/fd/3 ")
        end = script.index(" 3<<'", start)
        assert tuple(shlex.split(script[start:end])) == argv

    @given(user=st.text(), server=st.text(), token=st.text(min_size=8), account=st.text(min_size=8))
    def test_nothing_of_a_person_is_in_it(
        self, user: str, server: str, token: str, account: str
    ) -> None:
        """The script is a function of the profile and the command alone."""
        plain = batch_script(profile(), ARGV, Defaults())
        del user, server, token  # there is no way to hand them over
        chosen = profile(slurm={"partition": "general"}).model_copy()
        object.__setattr__(chosen.slurm, "account", account)
        assert batch_script(chosen, ARGV, Defaults()) == plain


EXEC = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"


class TestRun:
    """The script, run by bash as Slurm runs it, with a bootstrap that only starts the command."""

    @pytest.fixture(autouse=True)
    def plain_bootstrap(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Start the command, and tell no hub."""
        monkeypatch.setattr(script_module, "bootstrap", lambda: EXEC)

    def start(self, home: Path, code: str, **slurm: Any) -> tuple[subprocess.Popen[str], str]:
        """Return a bash and the script for it, with a Python program in place of the server."""
        asked = profile(slurm={"partition": "general", "epilogue": "echo after >>after", **slurm})
        argv = (sys.executable, "-c", code)
        process = subprocess.Popen(
            ["bash", "-s"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            env={"HOME": str(home), "PATH": os.defpath, "SLURM_JOB_ID": "17"},
            start_new_session=True,
        )
        return process, batch_script(asked, argv, Defaults())

    def run(self, home: Path, code: str, **slurm: Any) -> int:
        """Run it to its end; returns its exit status."""
        process, script = self.start(home, code, **slurm)
        process.communicate(script, timeout=30)
        return process.returncode

    @pytest.mark.parametrize("status", [0, 1, 3, 127])
    def test_its_status_is_the_servers(self, tmp_path: Path, status: int) -> None:
        """And the epilogue runs, whatever it was."""
        assert self.run(tmp_path, f"raise SystemExit({status})") == status
        assert (tmp_path / "after").read_text() == "after\n"

    def test_a_server_that_is_killed(self, tmp_path: Path) -> None:
        """As a shell has it."""
        assert self.run(tmp_path, "import os; os.kill(os.getpid(), 9)") == 137
        assert (tmp_path / "after").exists()

    def test_its_log(self, tmp_path: Path) -> None:
        """What server, prologue and epilogue say, for its person alone."""
        self.run(tmp_path, "print('of the server')", prologue="echo of the prologue")
        log = tmp_path / ".local/state/qhub/server-17.log"
        assert log.read_text() == "of the prologue\nof the server\n"
        assert log.stat().st_mode & 0o077 == 0
        assert log.parent.stat().st_mode & 0o077 == 0

    @pytest.mark.parametrize("group", [False, True])
    @pytest.mark.parametrize("repeat", range(5))
    def test_term(self, tmp_path: Path, group: bool, repeat: int) -> None:
        """It is handed on, to a server that may have had it already, and the status is kept: the server's, or that of the signal where bash loses the server's, as it does where both come at once."""
        code = (
            "import pathlib, signal, sys, time;"
            "ignore = lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN);"
            # where everybody gets it (slurmrestd) it comes twice, maybe while Python ends
            "signal.signal(signal.SIGTERM, lambda *_: ignore() and sys.exit(7));"
            "pathlib.Path('ready').touch(); time.sleep(30)"
        )
        process, script = self.start(tmp_path, code)
        assert process.stdin is not None
        process.stdin.write(script)
        process.stdin.close()
        deadline = time.monotonic() + 20
        while not (tmp_path / "ready").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        send = os.killpg if group else os.kill
        send(process.pid, signal.SIGTERM)
        assert process.wait(20) in ({7, 143} if group else {7})
        assert process.stdout is not None
        process.stdout.close()
        assert (tmp_path / "after").exists()

    def test_a_home_that_is_not_there(self, tmp_path: Path) -> None:
        """It runs all the same, and says nothing where nobody could read it."""
        assert self.run(tmp_path / "gone" / "away", "raise SystemExit(3)", epilogue="true") == 3
