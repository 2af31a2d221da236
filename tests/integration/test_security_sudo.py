"""The sudo rule allows the door with its arguments as the hub's people; the door, its three verbs.

Everything runs as the hub's account, with the real sudo and the rule that `qhub-spawner sudoers`
printed, on a real Slurm.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.systems.processes import identity
from tests.unit.hostile import TEXTS

FOUR_MIB = 4 * 2**20


class Rule:
    """An installed door and its sudo rule, used as the hub's account uses them."""

    def __init__(self, slurm: Any, hub: Any) -> None:
        """Take a hub that was set up, and need not run."""
        self.slurm = slurm
        self.file: Path = hub.sudo_rule
        self.door = str(hub.door)
        self.arguments = ["--slurm-bin=/usr/bin", f"--slurm-conf={slurm.slurm_conf}"]

    def sudo(
        self, *words: str, request: object = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``sudo -n WORDS`` as the hub's account, the request on standard input."""
        return subprocess.run(
            ["sudo", "-n", *words],
            input=request if isinstance(request, str) else json.dumps(request),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **(environment or {})},
            **identity("qhub"),  # type: ignore[call-overload]
        )

    def ask(
        self, user: str, request: object, environment: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Hand the door a request as the hub does; returns its answer."""
        words = ["-u", user, "--", self.door, *self.arguments]
        done = self.sudo(*words, request=request, environment=environment)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def submit(self, user: str, name: str, **environment: str) -> int:
        """Submit a sleeping job through the door; returns its id."""
        answer = self.ask(user, request(name), environment)
        assert answer["exit_code"] == 0, answer
        return int(answer["stdout"].partition(";")[0])

    def job(self, job_id: int) -> dict[str, str]:
        """What Slurm shows of a job."""
        text = self.slurm.run(["scontrol", "show", "job", "-o", str(job_id)]).stdout
        return dict(word.partition("=")[::2] for word in text.split() if "=" in word)


def new_name() -> str:
    """A job name of qhub's."""
    return f"qhub-sudo-{secrets.token_hex(8)}"


def request(name: str, *arguments: str, **changes: object) -> dict[str, object]:
    """A request to submit a sleeping job."""
    return {
        "verb": "submit",
        "arguments": [f"--job-name={name}", "--partition=general", "--mem=50M", *arguments],
        "script": "#!/bin/sh\nsleep 60\n",
        "environment": {},
        **changes,
    }


@pytest.fixture(scope="module")
def rule(slurm: Any, user_bin: Any) -> Iterator[Rule]:
    """The door and its rule, installed as for a hub; no hub runs."""
    from tests.systems.slurm_hub import SlurmHub

    hub = SlurmHub(slurm)
    try:
        yield Rule(slurm, hub)
    finally:
        hub.stop()
        slurm.run(["scancel", "--user=alice,bob"], check=False)


# ---- sudo ---------------------------------------------------------------------------------------


def test_the_rule_is_valid(rule: Rule) -> None:
    """`visudo` accepts the rule, and nobody but root can change the door or the rule."""
    done = subprocess.run(
        ["/usr/sbin/visudo", "-cf", str(rule.file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    path = Path(rule.door)
    for part in (path, *path.parents):
        assert part.stat().st_uid == 0
        assert not part.stat().st_mode & 0o022 or part == Path("/tmp")
    assert rule.file.stat().st_mode & 0o777 == 0o440


@pytest.mark.parametrize("user", ["alice", "bob"])
def test_the_door_acts_as_the_person(rule: Rule, user: str) -> None:
    """With exactly its arguments the door runs as each of the people: their job, their cancel."""
    name = new_name()
    job_id = rule.submit(user, name)
    assert rule.job(job_id)["UserId"].startswith(f"{user}(")
    estimate = rule.ask(user, request(name, verb="estimate"))
    assert estimate["exit_code"] == 0
    done = rule.ask(user, {"verb": "cancel", "job_id": job_id, "name": name})
    assert done["exit_code"] == 0
    rule.slurm.wait_until(
        lambda: rule.slurm.job_state(job_id) in {"CANCELLED", "COMPLETING"}, 20, "the cancel"
    )


def refusals(door: str, arguments: list[str], copy: str) -> dict[str, list[str]]:
    """What sudo must not run, by what it is."""
    binary, conf = arguments
    own = [door, *arguments]
    return {
        "no arguments": ["-u", "alice", "--", door],
        "an argument missing": ["-u", "alice", "--", door, binary],
        "the other missing": ["-u", "alice", "--", door, conf],
        "an argument more": ["-u", "alice", "--", *own, "--uid=0"],
        "an empty argument more": ["-u", "alice", "--", *own, ""],
        "arguments in another order": ["-u", "alice", "--", door, conf, binary],
        "other commands of Slurm": ["-u", "alice", "--", door, "--slurm-bin=/tmp/evil", conf],
        "another configuration": ["-u", "alice", "--", door, binary, "--slurm-conf=/tmp/evil"],
        "a longer path": ["-u", "alice", "--", door, binary, f"{conf}.evil"],
        "a copy of the door": ["-u", "alice", "--", copy, *arguments],
        "the door through Python": ["-u", "alice", "--", "/usr/bin/python3", *own],
        "root": ["-u", "root", "--", *own],
        "root by default": ["--", *own],
        "root by number": ["-u", "#0", "--", *own],
        "root by wrapped number": ["-u", "#4294967295", "--", *own],
        "root's group": ["-u", "alice", "-g", "root", "--", *own],
        "a group alone": ["-g", "root", "--", *own],
        "another account": ["-u", "nobody", "--", *own],
        "Slurm's account": ["-u", "slurm", "--", *own],
        "sbatch": ["-u", "alice", "--", "/usr/bin/sbatch", "--wrap=id"],
        "sbatch by name": ["-u", "alice", "sbatch"],
        "scancel": ["-u", "alice", "--", "/usr/bin/scancel", "--user=alice"],
        "a shell": ["-u", "alice", "-s"],
        "a login shell": ["-u", "alice", "-i"],
        "a shell that runs the door": ["-u", "alice", "-s", "--", *own],
        "sh": ["-u", "alice", "--", "/bin/sh", "-c", "id"],
        "edit the door": ["-e", door],
        "edit as a person": ["-u", "alice", "-e", "/home/alice/.bashrc"],
        "another folder": ["-u", "alice", "-D", "/tmp", "--", *own],
        "another root": ["-u", "alice", "-R", "/tmp", "--", *own],
        "keep the environment": ["-E", "-u", "alice", "--", *own],
        "keep a variable": ["--preserve-env=SLURM_CONF", "-u", "alice", "--", *own],
        "set SLURM_CONF": ["-u", "alice", "SLURM_CONF=/tmp/evil", *own],
        "set LD_PRELOAD": ["-u", "alice", "LD_PRELOAD=/tmp/evil.so", *own],
        "set PYTHONPATH": ["-u", "alice", "PYTHONPATH=/tmp/evil", *own],
        "set PATH": ["-u", "alice", "PATH=/tmp/evil", *own],
    }


def test_sudo_refuses_everything_else(rule: Rule, tmp_path: Path) -> None:
    """Other commands, arguments, accounts, groups, folders and variables: nothing is run."""
    tmp_path.chmod(0o755)
    copy = tmp_path / Path(rule.door).name
    shutil.copy(rule.door, copy)
    ran = {}
    for what, words in refusals(rule.door, rule.arguments, str(copy)).items():
        done = rule.sudo(*words, request={"verb": "nonsense"}, environment={"SLURM_CONF": "/x"})
        if done.returncode == 0 or done.stdout or not done.stderr:
            ran[what] = (done.returncode, done.stdout, done.stderr)
    assert ran == {}
    # sudo compares the arguments joined by spaces: here it is the door that tells them apart
    done = rule.sudo("-u", "alice", "--", rule.door, " ".join(rule.arguments), request={})
    assert (done.returncode, done.stdout) == (1, "")
    assert "usage" in done.stderr
    # the same with nothing wrong is run: it is the rule that refuses, not the way of asking
    assert "refused" in rule.ask("alice", {"verb": "nonsense"})


def test_the_hub_s_environment_does_not_reach_the_door(rule: Rule, tmp_path: Path) -> None:
    """SLURM_CONF, SBATCH_*, LD_PRELOAD, PYTHON* and PATH of the caller change nothing in a submit.

    The same environment makes sbatch itself fail, or submit something else.
    """
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    evil, ran = tmp_path / "evil", tmp_path / "ran"
    evil.mkdir()
    ran.mkdir()
    ran.chmod(0o777)
    (evil / "json.py").write_text(f"open('{ran}/json', 'w')\n")
    (evil / "sitecustomize.py").write_text(f"open('{ran}/sitecustomize', 'w')\n")
    (evil / "slurm.conf").write_text("Nonsense=evil\n")
    for name in ("sbatch", "python3", "id"):
        (evil / name).write_text(f"#!/bin/sh\ntouch {ran}/{name}\n")
        (evil / name).chmod(0o755)
    harmless = {"SBATCH_COMMENT": "evil", "SBATCH_PARTITION": "nowhere", "SBATCH_TIMELIMIT": "7"}
    tricks = {
        **harmless,
        "SLURM_CONF": str(evil / "slurm.conf"),
        "LD_PRELOAD": str(evil / "missing.so"),
        "LD_LIBRARY_PATH": str(evil),
        "PYTHONPATH": str(evil),
        "PYTHONHOME": str(evil),
        "PYTHONSTARTUP": str(evil / "json.py"),
        "PYTHONINSPECT": "1",
        "PATH": f"{evil}:/usr/bin:/bin",
        "BASH_ENV": str(evil / "sbatch"),
        "HOME": str(evil),
    }
    words = ["-u", "alice", "--", rule.door, *rule.arguments]
    done = subprocess.run(
        ["/usr/bin/sudo", "-n", *words],
        input=json.dumps(request(new_name(), "--time=5")),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=evil,
        env=tricks,
        **identity("qhub"),  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["exit_code"], answer["stderr"]) == (0, "")
    shown = rule.job(int(answer["stdout"].partition(";")[0]))
    assert shown["Partition"] == "general"
    assert shown["TimeLimit"] == "00:05:00"
    assert shown.get("Comment", "") in {"", "(null)"}
    assert shown["WorkDir"] == "/home/alice"
    assert list(ran.iterdir()) == []
    # what would have changed, had it got through
    plain = ["sbatch", "--parsable", "--output=/dev/null", "--wrap=true"]
    assert "invalid partition" in sbatch_says(rule, plain, harmless)
    assert "Nonsense" in sbatch_says(rule, plain, {"SLURM_CONF": tricks["SLURM_CONF"]})
    assert "missing.so" in sbatch_says(rule, plain, {"LD_PRELOAD": tricks["LD_PRELOAD"]})


def sbatch_says(rule: Rule, argv: list[str], environment: dict[str, str]) -> str:
    """What sbatch itself says, as alice, with a variable that the door never sees."""
    done = rule.slurm.run(argv, "alice", check=False, environment=environment)
    return str(done.stderr)


# ---- the door -----------------------------------------------------------------------------------

OPTIONS = """--wrap=id --uid=root --uid=0 --gid=root --output=/home/bob/x --error=/tmp/x --input=/etc/passwd
--export=ALL --export-file=/etc/passwd --chdir=/ -D --get-user-env --get-user-env=1 --array=1-1000
--batch --bcast=/tmp/x --open-mode=append --propagate=ALL --parsable --test-only --wait --kill-on-x
--clusters-file=x --burst-buffer-file=/etc/passwd --bbf=/etc/passwd --container=/x --container-id=x
--prolog=/x --task-prolog=/x --mpi=x --job=1 --jobid=1 --usage --help --version -p -pgeneral -- - x
general /etc/passwd --PARTITION=general --part=general --Wrap=id --=x --=""".split()


def test_the_door_takes_only_options_of_its_list(rule: Rule) -> None:
    """Options that name files, programs or users are refused, and so is what is no option."""
    for option in [*OPTIONS, "", "--partition general", "--comment=a\nb", "--comment=a\0b"]:
        answer = rule.ask("alice", request(new_name(), option))
        assert list(answer) == ["refused"], (option, answer)
    for option in ("--comment=\r", "--comment=\x1b", "--comment=\x7f", "--comment=" + "a" * 2049):
        answer = rule.ask("alice", request(new_name(), option))
        assert list(answer) == ["refused"], (option, answer)


def test_an_option_s_value_is_never_more_than_that(rule: Rule) -> None:
    """Hostile values of an option are refused, or are a partition that Slurm does not have."""
    for what, text in TEXTS.items():
        if what in {"surrogate", "10 kB"}:
            continue
        submit = request(new_name(), f"--partition={text}")
        answer = rule.ask("alice", {**submit, "verb": "estimate"})
        assert "refused" in answer or answer["exit_code"], (what, answer)
    assert not list(Path("/tmp").glob("qhub-hostile-mark*"))


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "[]", '"submit"', "{", "{}", "7", "\0", "[" * 100_000),
        *('{"verb": null}', '{"verb": ["submit"]}', '{"verb": "exec"}', '{"verb": "Submit"}'),
        '{"verb": "submit"}',
        '{"verb": "cancel"}',
    ],
)
def test_the_door_takes_only_its_three_verbs(rule: Rule, text: str) -> None:
    """What is not one of the three requests is refused in a word, with no traceback."""
    assert list(rule.ask("alice", text)) == ["refused"]


def test_the_door_checks_scripts_and_environments(rule: Rule) -> None:
    """A script is a text that names its interpreter; an environment is names and texts."""
    wrong: list[dict[str, object]] = [
        {"script": None}, {"script": ["#!/bin/sh"]}, {"script": "id"}, {"script": ""},
        {"environment": None}, {"environment": ["A=b"]}, {"environment": {"A": 1}},
        {"environment": {"A": None}}, {"environment": {"A=B": "c"}}, {"environment": {"": "x"}},
        {"environment": {"A B": "c"}}, {"environment": {"A\0": "c"}}, {"environment": {"A": "b\0c"}},
        {"environment": {"BASH_FUNC_id%%": "() { :; }"}}, {"environment": {"A\n": "c"}},
        {"arguments": "--partition=general"}, {"arguments": None}, {"arguments": [1]},
        {"arguments": [["--partition=general"]]}, {"arguments": {"--partition": "general"}},
    ]  # fmt: skip
    for change in wrong:
        answer = rule.ask("alice", request(new_name(), **change))
        assert list(answer) == ["refused"], (change, answer)


def test_the_door_refuses_more_than_4_mib(rule: Rule) -> None:
    """One byte more than 4 MiB is not read as a request; 4 MiB are."""
    text = json.dumps({"verb": "nonsense", "filler": ""})
    fits = rule.ask("alice", text + " " * (FOUR_MIB - len(text)))
    assert "verb" in fits["refused"]
    more = rule.ask("alice", text + " " * (FOUR_MIB - len(text) + 1))
    assert "4 MiB" in more["refused"]


def test_the_door_does_not_run_as_root(rule: Rule) -> None:
    """Even for root itself, without sudo: it says so, and does nothing."""
    done = subprocess.run(
        [rule.door, *rule.arguments],
        input=json.dumps(request(new_name())),
        capture_output=True,
        text=True,
        check=True,
        env={},
    )
    assert json.loads(done.stdout) == {"refused": "this command does not run as root"}


def test_the_door_cancels_only_what_is_qhub_s_and_meant(rule: Rule) -> None:
    """A job is cancelled by its id *and* its name, a name of qhub's, as its owner; no other is."""
    mine, other = new_name(), new_name()
    job_id, second = rule.submit("alice", mine), rule.submit("alice", other)
    plain = rule.slurm.sbatch("alice", "sleep 60", "--job-name=plain", "--mem=50M")
    bobs_name = new_name()
    bobs = rule.submit("bob", bobs_name)
    refused: list[dict[str, object]] = [
        {"job_id": plain, "name": "plain"}, {"job_id": plain, "name": ""}, {"job_id": plain},
        {"job_id": job_id, "name": f"{mine}\n"}, {"job_id": job_id, "name": f"{mine},plain"},
        {"job_id": job_id, "name": "qhub-%"}, {"job_id": job_id, "name": [mine]},
        {"job_id": str(job_id), "name": mine}, {"job_id": True, "name": mine},
        {"job_id": 0, "name": mine}, {"job_id": -1, "name": mine}, {"job_id": 2**32, "name": mine},
        {"job_id": None, "name": mine}, {"job_id": [job_id], "name": mine},
        {"job_id": f"{job_id} {plain}", "name": mine}, {"job_id": float(job_id), "name": mine},
        {"job_id": job_id, "name": mine, "signal": "KILL"},
        {"job_id": job_id, "name": mine, "signal": "TERM --user=alice"},
        {"job_id": job_id, "name": mine, "signal": 9},
        {"job_id": job_id, "name": mine, "cluster": "a\nb"},
    ]  # fmt: skip
    for words in refused:
        answer = rule.ask("alice", {"verb": "cancel", **words})
        assert list(answer) == ["refused"], (words, answer)
    for number, name in ((plain, mine), (second, mine), (bobs, bobs_name), (bobs, mine)):
        rule.ask("alice", {"verb": "cancel", "job_id": number, "name": name})
    alive = {"PENDING", "RUNNING", "CONFIGURING"}
    states = {number: rule.slurm.job_state(number) for number in (job_id, second, plain, bobs)}
    assert set(states.values()) <= alive, states
    assert rule.ask("alice", {"verb": "cancel", "job_id": job_id, "name": mine})["exit_code"] == 0
    rule.slurm.wait_until(lambda: rule.slurm.job_state(job_id) not in alive, 20, "the cancel")
    assert rule.slurm.job_state(second) in alive
    rule.slurm.run(["scancel", "--user=alice,bob"], check=False)


def test_the_door_s_usage_is_fixed(rule: Rule) -> None:
    """Run by a person themselves, with arguments that no rule has, it ends with its usage."""
    for words in (["--slurm-bin=relative"], ["--help"], ["submit"], ["--slurm-conf"]):
        done = subprocess.run(
            [rule.door, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": os.defpath},
            **identity("alice"),  # type: ignore[call-overload]
        )
        assert done.returncode == 1
        assert "usage" in done.stderr
