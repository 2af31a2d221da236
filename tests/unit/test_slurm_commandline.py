"""The command-line door without any command: what would be run, and what each answer means."""

from __future__ import annotations

import json
import os
import pwd
import sys
from typing import Any

import pytest

from qhub_spawner.errors import SlurmRejectedError, SlurmUnavailableError, SubmitUnknownError
from qhub_spawner.slurm.commandline import Answer, CommandLine, CommandLineDoor
from qhub_spawner.slurm.door import AccountingSilentError
from qhub_spawner.slurm.jobs import GarbledAnswerError, Job, JobState
from qhub_spawner.slurm.script import Submission
from tests.unit import recorded

SECRET = "canary-of-the-environment"
NAME = "qhub-a1-0000000000000001"
SUBMISSION = Submission(NAME, "{}", {"partition": "general"}, "#!/bin/sh\n", {"TOKEN": SECRET})
HOW = CommandLine(slurm_conf="/etc/slurm.conf", door="/opt/door")


class Canned(CommandLineDoor):
    """A door whose commands answer what the test says."""

    def __init__(self, *answers: Answer | Exception, **options: Any) -> None:
        super().__init__(HOW, **options)
        self.answers = list(answers)
        self.ran: list[tuple[list[str], dict[str, str], bytes]] = []

    async def _run(self, argv: list[str], *, extra: Any = None, stdin: bytes = b"") -> Answer:
        self.ran.append((argv, dict(extra or {}), stdin))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def by_door(exit_code: int = 0, stdout: str = "", stderr: str = "") -> Answer:
    """Return what the door prints when the Slurm command said that."""
    said = {"exit_code": exit_code, "stdout": stdout, "stderr": stderr}
    return Answer(0, json.dumps(said), "")


class TestCommandLine:
    """How the door is called."""

    def test_as_somebody_else(self) -> None:
        """Through sudo, as that account, with exactly the arguments of the rule."""
        assert HOW.door_argv("alice") == [
            *("sudo", "-n", "-u", "alice", "--"),
            *("/opt/door", "--slurm-bin=/usr/bin", "--slurm-conf=/etc/slurm.conf"),
        ]

    def test_as_oneself(self) -> None:
        """Without sudo."""
        me = pwd.getpwuid(os.geteuid()).pw_name
        assert HOW.door_argv(me)[0] == "/opt/door"
        own = CommandLine().door_argv(me)
        assert own[:2] == [sys.executable, "-IS"]
        assert own[2].endswith("door_command.py")

    def test_a_site_may_have_something_else(self) -> None:
        """Each word of `sudo` is one argument; {user} may stand inside one."""
        how = CommandLine(door="/opt/door", sudo=("doas", "-u{user}", "a b"))
        assert how.door_argv("alice")[:3] == ["doas", "-ualice", "a b"]


class TestSubmit:
    """What came of a submission."""

    async def test_accepted(self) -> None:
        """The id; nothing secret is in an argument."""
        door = Canned(by_door(stdout="17\n"))
        assert await door.submit("alice", SUBMISSION) == 17
        ((argv, extra, stdin),) = door.ran
        assert SECRET not in " ".join(argv) + str(extra)
        assert json.loads(stdin) == {
            "verb": "submit",
            "arguments": [f"--job-name={NAME}", "--comment={}", "--partition=general"],
            "script": "#!/bin/sh\n",
            "environment": {"TOKEN": SECRET},
        }

    @pytest.mark.parametrize(
        ("kind", "words"),
        [
            ("account", "Invalid account or account/partition combination specified"),
            ("partition", "Invalid partition name specified"),
            ("qos", "Invalid qos specification"),
            ("walltime", "Requested time limit is invalid (missing or exceeds some limit)"),
            ("constraint", "Invalid feature specification"),
            ("memory", "Requested node configuration is not available"),
            ("gpus", "Requested node configuration is not available"),
            ("reservation", "Requested reservation is invalid"),
            ("nodes", "More processors requested than permitted"),
        ],
    )
    async def test_recorded_refusals(self, kind: str, words: str) -> None:
        """Slurm's own no, in Slurm's own words: the job does not exist."""
        door = Canned(by_door(1, stderr=recorded.text(f"refused-{kind}.txt")))
        with pytest.raises(SlurmRejectedError) as refused:
            await door.submit("alice", SUBMISSION)
        assert refused.value.words == f"Slurm refused it: {words}"

    @pytest.mark.parametrize("kind", ["controller", "munge"])
    async def test_recorded_silence(self, kind: str) -> None:
        """sbatch did not hear the controller: the job may exist."""
        door = Canned(by_door(1, stderr=recorded.text(f"silent-{kind}-sbatch.txt")))
        with pytest.raises(SubmitUnknownError):
            await door.submit("alice", SUBMISSION)

    @pytest.mark.parametrize(
        "answer",
        [
            by_door(stdout="not a number"),
            by_door(stdout=""),
            Answer(1, "", ""),
            Answer(-9, "", ""),
            Answer(0, "", ""),
            Answer(1, "", "Traceback (most recent call last):\nMemoryError"),
            Answer(1, "", "sudo: unable to resolve host x\nTraceback"),
            Answer(0, '{"timeout": 60}', ""),
        ],
    )
    async def test_lost_replies(self, answer: Answer) -> None:
        """Whatever is not a clear word leaves it open whether there is a job."""
        with pytest.raises(SubmitUnknownError):
            await Canned(answer).submit("alice", SUBMISSION)

    @pytest.mark.parametrize(
        "stderr",
        [
            "sudo: account validation failure, is your account locked?\n",
            "sudo: /opt/door: command not found\n",
            "usage: door --slurm-bin=FOLDER [--slurm-conf=FILE] < request; not []\n",
        ],
    )
    async def test_sudo_refused(self, stderr: str) -> None:
        """The door never ran: nothing was submitted."""
        with pytest.raises(SlurmUnavailableError, match="cannot act as alice"):
            await Canned(Answer(1, "", stderr)).submit("alice", SUBMISSION)

    @pytest.mark.parametrize(
        ("stderr", "words"),
        [
            ("sudo: a password is required\n", "may not start jobs as 'alice'"),
            ("sudo: unknown user: alice\n", "no account 'alice'"),
            ("sudo: unknown user alice\n", "no account 'alice'"),
            (
                "Sorry, user qhub is not allowed to execute '/opt/door' as alice on h.\n",
                "may not start jobs as 'alice'",
            ),
            (
                "qhub is not in the sudoers file.  This incident will be reported.\n",
                "may not start jobs as 'alice'",
            ),
        ],
    )
    async def test_nobody_the_hub_may_act_as(self, stderr: str, words: str) -> None:
        """Asking again would not help: it is a no, in words for the person."""
        with pytest.raises(SlurmRejectedError, match=words):
            await Canned(Answer(1, "", stderr)).submit("alice", SUBMISSION)

    async def test_refused_by_the_door(self) -> None:
        """The door's own no."""
        with pytest.raises(SlurmRejectedError, match="arguments: x is not allowed"):
            await Canned(Answer(0, '{"refused": "arguments: x is not allowed"}', "")).submit(
                "alice", SUBMISSION
            )

    async def test_errors_show_no_secret(self) -> None:
        """Whatever goes wrong."""
        for answer in (Answer(1, "", "x"), by_door(1, stderr="y: failed: z"), by_door(stdout="?")):
            with pytest.raises((SlurmRejectedError, SubmitUnknownError)) as failed:
                await Canned(answer).submit("alice", SUBMISSION)
            assert SECRET not in repr(failed.value) + str(failed.value)


class TestCancel:
    """By id and name; what is over already is no failure."""

    async def test_request(self) -> None:
        """With the signal, and the cluster where there are several."""
        door = Canned(by_door(), clusters=("alpha", "beta"))
        await door.cancel("alice", 17, NAME, signal="TERM")
        assert json.loads(door.ran[0][2]) == {
            "verb": "cancel",
            "job_id": 17,
            "name": NAME,
            "signal": "TERM",
            "cluster": "alpha",
        }

    async def test_over_already(self) -> None:
        """Slurm's own words."""
        said = "scancel: error: Kill job error on job id 17: Invalid job id specified\n"
        await Canned(by_door(1, stderr=said)).cancel("alice", 17, NAME)

    @pytest.mark.parametrize("kind", ["controller", "munge"])
    async def test_recorded_silence(self, kind: str) -> None:
        """A cancel that was not heard did not happen."""
        said = recorded.text(f"silent-{kind}-scancel.txt")
        with pytest.raises(SlurmUnavailableError):
            await Canned(by_door(1, stderr=said)).cancel("alice", 17, NAME)


class TestQuestions:
    """As the hub's account."""

    async def test_the_queue_is_one_query(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One squeue, its format in the environment with a fresh mark."""
        monkeypatch.setattr("secrets.token_hex", lambda _bytes: recorded.MARK)
        door = Canned(Answer(0, recorded.text("queue.txt"), ""))
        queue = await door.queue()
        assert set(queue.by_name) == {f"qhub-a1-000000000000000{number}" for number in (1, 2, 3)}
        ((argv, extra, _),) = door.ran
        assert argv == ["/usr/bin/squeue", "--all", "--states=all"]
        assert extra["SQUEUE_FORMAT"].startswith(recorded.MARK)

    @pytest.mark.parametrize("stdout", ["", "garbage\n", recorded.text("queue.txt")[:700]])
    async def test_a_garbled_queue(self, stdout: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Printed nothing, garbage, half a line: nothing is known, whatever the exit code."""
        monkeypatch.setattr("secrets.token_hex", lambda _bytes: recorded.MARK)
        with pytest.raises(GarbledAnswerError):
            await Canned(Answer(0, stdout, "")).queue()

    async def test_a_failed_queue(self) -> None:
        """An exit code wins over whatever was printed."""
        said = recorded.text("silent-controller-squeue.txt")
        with pytest.raises(SlurmUnavailableError, match="exit code 1"):
            await Canned(Answer(1, recorded.text("queue.txt"), said)).queue()

    async def test_several_clusters(self) -> None:
        """One query each."""
        silence = Answer(1, "", "x")
        door = Canned(silence, clusters=("alpha", "beta"))
        with pytest.raises(SlurmUnavailableError):
            await door.queue()
        assert "--clusters=alpha" in door.ran[0][0]

    async def test_no_ids_no_question(self) -> None:
        """Nobody's ending is nobody's business."""
        door = Canned()
        assert await door.endings([]) == {}

    async def test_endings_are_one_query(self) -> None:
        """One sacct for all ids."""
        door = Canned(Answer(0, recorded.text("endings.txt"), ""))
        endings = await door.endings({5, 3})
        assert "--jobs=3,5" in door.ran[0][0]
        assert endings[recorded.jobs()["failed"]].exit_status == 3

    async def test_recorded_no_accounting(self) -> None:
        """A cluster without accounting has no limits, and says so of endings."""
        with pytest.raises(AccountingSilentError):
            await Canned(Answer(1, "", recorded.text("none-sacct.txt"))).endings([1])
        assert await Canned(Answer(1, "", recorded.text("none-sacctmgr.txt"))).limits() == {}

    @pytest.mark.parametrize("exit_code", [0, 1])
    async def test_recorded_slurmdbd_down(self, exit_code: int) -> None:
        """Accounting that is down is not accounting that knows nothing."""
        said = recorded.text("silent-slurmdbd-sacct.txt")
        with pytest.raises(SlurmUnavailableError):
            await Canned(Answer(exit_code, "", said)).endings([1])
        with pytest.raises(SlurmUnavailableError):
            await Canned(Answer(1, "", recorded.text("silent-slurmdbd-sacctmgr.txt"))).limits()

    async def test_gone(self) -> None:
        """Only the controller's own sentence says that there is no such job."""
        job = Job(17, JobState.UNKNOWN, NAME, "alice")
        answers = {
            Answer(1, "", recorded.text("unknown-scontrol.txt")): True,
            Answer(1, "", recorded.text("silent-controller-squeue.txt")): False,
            Answer(1, "", ""): False,
            Answer(0, f"JobId=17 JobName={NAME}\n", ""): False,
            Answer(0, "JobId=17 JobName=other\n", ""): True,
        }
        for answer, gone in answers.items():
            assert await Canned(answer).gone(job) is gone, answer


class TestProcesses:
    """Real processes, harmless ones."""

    def door(self, tmp_path: Any, script: str, **options: Any) -> CommandLineDoor:
        """Return a door whose every command is this script."""
        for command in ("squeue", "door"):
            path = tmp_path / command
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)
        how = CommandLine(
            slurm_bin=str(tmp_path), door=str(tmp_path / "door"), sudo=("env",), **options
        )
        return CommandLineDoor(how)

    async def test_a_command_that_hangs(self, tmp_path: Any) -> None:
        """It is ended, and was no answer; a submission may have arrived."""
        door = self.door(tmp_path, "exec sleep 60", timeout_seconds=0.2)
        with pytest.raises(SlurmUnavailableError, match=r"no answer within 0\.2 s"):
            await door.queue()
        with pytest.raises(SubmitUnknownError, match="no answer"):
            await door.submit("alice", SUBMISSION)

    async def test_a_command_that_is_not_there(self) -> None:
        """No answer, and it names the command."""
        with pytest.raises(SlurmUnavailableError, match="/nonexistent/squeue"):
            await CommandLineDoor(CommandLine(slurm_bin="/nonexistent")).queue()

    async def test_nothing_of_the_hubs_environment_is_handed_on(
        self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The hub's own secrets stay with the hub; times are asked for as numbers."""
        monkeypatch.setenv("CONFIGPROXY_AUTH_TOKEN", SECRET)
        monkeypatch.setenv("SQUEUE_STATES", "PD")
        door = self.door(tmp_path, f"env >{tmp_path}/environment; exit 1")
        with pytest.raises(SlurmUnavailableError):
            await door.queue()
        names = {line.partition("=")[0] for line in (tmp_path / "environment").read_text().split()}
        assert names <= {
            "PATH",
            "SLURM_TIME_FORMAT",
            "LC_ALL",
            "SQUEUE_FORMAT",
            "SLURM_BITSTR_LEN",
            "PWD",
            "_",
            "SHLVL",
        }

    async def test_output_that_is_no_text(self, tmp_path: Any) -> None:
        """Bytes of any kind are read, and then found garbled."""
        with pytest.raises(GarbledAnswerError):
            await self.door(tmp_path, r"printf '\377\376\000'").queue()
