#!/usr/bin/python3 -IS
# ruff: noqa: EXE001 - the installed copy is executable
"""Submit or cancel one person's server as that person: all that sudo lets the hub run.

One sudo rule (`qhub-spawner sudoers` prints it) lets the hub's account run this file, with
exactly the arguments in the rule, as the people of the hub; never as root. What to do arrives as
one JSON document on standard input, so that nothing of it is in a process list. It knows five
verbs, and nothing that a request holds becomes a program, a path or a word of a shell:

- ``submit``: ``arguments`` (long options of sbatch, each of the closed list below), ``script``,
  ``environment``, and ``array_size`` for a job array of so many tasks. The environment goes to
  sbatch by a file descriptor without a name;
- ``estimate``: as submit, but only asks when the job would start (``sbatch --test-only``);
- ``cancel``: ``job_id``, ``name`` and ``signal`` (``TERM`` or none). Only a job of that id *and*
  that name is cancelled, and only if the name is one of qhub's;
- ``cancel_many``: ``jobs``, each with ``job_id``, ``name`` and ``tasks`` (of a job array, as
  ``0-3,7``, or none for all of it), under the same condition;
- ``read_log``: ``cluster``, ``name`` and ``most_bytes``. The end of what a part of a Dask cluster
  has written, from the one folder where it writes, as the person may read it.

It answers with one JSON document: ``{"exit_code": …, "stdout": …, "stderr": …}`` of the Slurm
command, ``{"log": …}`` (null if there is none), or ``{"refused": …}``. Standard library only:
install a copy owned by root.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import stat
import subprocess
import sys
from typing import Any, NoReturn

LONGEST_REQUEST = 4 * 1024 * 1024
SECONDS = 60
MOST_JOBS = 1000
MOST_LINES = 16 * 1024 * 1024
MOST_LOG = 1024 * 1024
LOGS = ".local/state/qhub/dask"
_VALUE = re.compile(r"[^\x00-\x1f\x7f]{0,2048}")
_JOB_NAME = re.compile(r"qhub-[a-z0-9]{1,16}-[0-9a-f]{16}")
_TASKS = re.compile(r"[0-9]+(?:-[0-9]+)?(?:,[0-9]+(?:-[0-9]+)?)*")
_CLUSTER = re.compile(r"[0-9a-f]{32}")
_PART = re.compile(r"scheduler|[0-9a-f]{32}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Options that ask for resources, and none that name a file, a program or another user.
OPTIONS = frozenset(
    """account acctg-freq begin bb clusters comment constraint contiguous core-spec
    cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot dependency
    distribution exclude exclusive extra-node-info gpu-bind gpu-freq gpus gpus-per-node
    gpus-per-socket gpus-per-task gres gres-flags hint job-name licenses mail-type mail-user mem
    mem-bind mem-per-cpu mem-per-gpu mincpus network nice no-kill no-requeue nodelist nodes
    ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket overcommit
    oversubscribe partition prefer priority profile qos requeue reservation signal
    sockets-per-node spread-job switches thread-spec threads-per-core time time-min tmp
    use-min-nodes wait-all-nodes wckey""".split()  # noqa: SIM905 - one word a line would be long
)


class Refused(Exception):  # noqa: N818 - it is an answer, not a failure
    """The request is not one of the five."""


def checked_arguments(value: object) -> list[str]:
    """Return sbatch options, each ``--name`` or ``--name=value`` with a known name."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Refused("arguments: expected a list of texts")
    for item in value:
        name, _, text = item.partition("=")
        if not name.startswith("--") or name[2:] not in OPTIONS or not _VALUE.fullmatch(text):
            raise Refused(f"arguments: {item[:64]!a} is not allowed")
    return value


def checked_name(value: object) -> str:
    """Return a job name of qhub's."""
    if not isinstance(value, str) or _JOB_NAME.fullmatch(value) is None:
        raise Refused("name: expected qhub-HUB-SPAWN")
    return value


def checked_size(value: object) -> int:
    """Return the number of tasks of a job array."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MOST_JOBS:
        raise Refused(f"array_size: expected 1 to {MOST_JOBS}")
    return value


def checked_id(value: object) -> int:
    """Return a job id."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**32:
        raise Refused("job_id: expected a positive number")
    return value


def checked_environment(value: object) -> dict[str, str]:
    """Return names and values that an environment can hold."""
    if not isinstance(value, dict):
        raise Refused("environment: expected an object")
    for name, text in value.items():
        if not _VARIABLE.fullmatch(name) or not isinstance(text, str) or "\0" in text:
            raise Refused(f"environment: {name[:64]!a} is not allowed")
    return value


def job_environment(given: dict[str, str]) -> dict[str, str]:
    """Return the job's environment: the account's own, then what the hub gives."""
    account = pwd.getpwuid(os.getuid())
    own = {
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "HOME": account.pw_dir,
        "SHELL": account.pw_shell or "/bin/sh",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
    }
    return {**own, **given}


def environment_descriptor(environment: dict[str, str]) -> int:
    """Return a descriptor, which no file name leads to, that holds NUL-ended ``NAME=value``."""
    descriptor = os.memfd_create("environment", 0)
    data = b"".join(f"{name}={text}\0".encode() for name, text in environment.items())
    while data:
        data = data[os.write(descriptor, data) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def read_request() -> dict[str, Any]:
    """Return the JSON object on standard input."""
    text = sys.stdin.buffer.read(LONGEST_REQUEST + 1)
    if len(text) > LONGEST_REQUEST:
        raise Refused("the request is longer than 4 MiB")
    request = json.loads(text)
    if not isinstance(request, dict):
        raise Refused("expected a JSON object")
    return request


def run(request: dict[str, Any], slurm_bin: str, own: dict[str, str]) -> dict[str, Any]:
    """Carry out one request."""
    verb = request.get("verb")
    if verb in ("submit", "estimate"):  # a list is no member of a set, but an error
        arguments = checked_arguments(request.get("arguments"))
        script = request.get("script")
        if not isinstance(script, str) or not script.startswith("#!"):
            raise Refused("script: expected a batch script")
        given = checked_environment(request.get("environment"))
        home = pwd.getpwuid(os.getuid()).pw_dir
        argv = [f"{slurm_bin}/sbatch", "--parsable", "--output=/dev/null", f"--chdir={home}"]
        if verb == "estimate":
            return ended([*argv, "--test-only", *arguments], script, own, ())
        descriptor = environment_descriptor(job_environment(given))
        argv.append(f"--export-file={descriptor}")
        if request.get("array_size") is not None:
            argv.append(f"--array=0-{checked_size(request['array_size']) - 1}")
        return ended([*argv, *arguments], script, own, (descriptor,))
    if verb == "cancel":
        job_id, signal = checked_id(request.get("job_id")), request.get("signal")
        if signal not in (None, "TERM"):
            raise Refused("signal: expected TERM or nothing")
        argv = [f"{slurm_bin}/scancel", f"--name={checked_name(request.get('name'))}"]
        if request.get("cluster") is not None:
            argv.append(checked_arguments([f"--clusters={request['cluster']}"])[0])
        if signal:
            argv += ["--batch", f"--signal={signal}"]
        return ended([*argv, str(job_id)], "", own, ())
    if verb == "cancel_many":
        return cancel_many(request, slurm_bin, own)
    if verb == "read_log":
        return {"log": read_log(request)}
    raise Refused("verb: expected submit, estimate, cancel, cancel_many or read_log")


def read_log(request: dict[str, Any]) -> str | None:
    """Return the end of one log of a Dask cluster of this account, or nothing if there is none."""
    cluster, name = request.get("cluster"), request.get("name")
    if not isinstance(cluster, str) or _CLUSTER.fullmatch(cluster) is None:
        raise Refused("cluster: expected 32 hexadecimal digits")
    if not isinstance(name, str) or _PART.fullmatch(name) is None:
        raise Refused("name: expected scheduler or 32 hexadecimal digits")
    most = request.get("most_bytes")
    if not isinstance(most, int) or isinstance(most, bool) or not 0 < most <= MOST_LOG:
        raise Refused(f"most_bytes: expected 1 to {MOST_LOG}")
    path = f"{pwd.getpwuid(os.getuid()).pw_dir}/{LOGS}/{cluster}/{name}.log"
    try:
        # neither another file by a link, nor a pipe that never ends
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            return None
        data = os.pread(descriptor, most, max(0, about.st_size - most))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return data.decode(errors="replace")


def cancel_many(request: dict[str, Any], slurm_bin: str, own: dict[str, str]) -> dict[str, Any]:
    """Cancel those jobs, and tasks of job arrays, whose names are as they were asked for.

    scancel itself cannot be asked: with ``--name`` it cancels every waiting task of an array in
    place of the one (seen in 22.05.8). So the names are read first; ids are not used again soon.
    """
    jobs = request.get("jobs")
    if not isinstance(jobs, list) or not 0 < len(jobs) <= MOST_JOBS:
        raise Refused(f"jobs: expected a list of 1 to {MOST_JOBS}")
    wanted: dict[tuple[str, str], list[str]] = {}
    for job in jobs:
        job = job if isinstance(job, dict) else {}  # noqa: PLW2901 - anything may have been sent
        job_id, tasks = checked_id(job.get("job_id")), job.get("tasks")
        if tasks is not None and (not isinstance(tasks, str) or not _TASKS.fullmatch(tasks)):
            raise Refused("tasks: expected tasks of a job array, as 0-3,7")
        words = wanted.setdefault((str(job_id), checked_name(job.get("name"))), [])
        words.append(str(job_id) if tasks is None else f"{job_id}_[{tasks}]")
    of = [] if request.get("cluster") is None else [f"--clusters={request['cluster']}"]
    checked_arguments(of)
    names = ",".join(sorted({name for _, name in wanted}))
    argv = [f"{slurm_bin}/squeue", "--noheader", "--all", "--states=all", "--me", *of]
    said = ended([*argv, f"--name={names}", "--format=%F|%j"], "", own, (), MOST_LINES)
    if said["exit_code"]:
        return {**said, "stdout": ""}
    mine = {tuple(line.split("|", 1)) for line in said["stdout"].splitlines()}
    ids = [word for key, words in wanted.items() if key in mine for word in words]
    if not ids:
        return {"exit_code": 0, "stdout": "", "stderr": ""}
    return ended([f"{slurm_bin}/scancel", *of, *ids], "", own, ())


def ended(
    argv: list[str], text: str, own: dict[str, str], keep: tuple[int, ...], most: int = 4096
) -> dict[str, Any]:
    """Run one Slurm command to its end; `most` is how much of what it says is kept."""
    done = subprocess.run(
        argv,
        input=text.encode(),
        capture_output=True,
        env=own,
        pass_fds=keep,
        timeout=SECONDS,
        check=False,
    )
    return {
        "exit_code": done.returncode,
        "stdout": done.stdout.decode(errors="replace")[:most],
        "stderr": done.stderr.decode(errors="replace")[:4096],
    }


def refuse_arguments(argv: list[str]) -> NoReturn:
    """End with the usage."""
    raise SystemExit(
        f"usage: door --slurm-bin=FOLDER [--slurm-conf=FILE] < request; not {ascii(argv)[:200]}"
    )


def main(argv: list[str]) -> int:
    """Read a request, answer it. The arguments stand in the sudo rule, and so are fixed."""
    slurm_bin, own = "/usr/bin", {"PATH": "/usr/bin:/bin", "SLURM_TIME_FORMAT": "%s"}
    for item in argv:
        name, _, value = item.partition("=")
        # sudo compares arguments joined by spaces, so that a rule for two also lets one of both in
        absolute = value.startswith("/") and not any(map(str.isspace, value))
        if name == "--slurm-bin" and absolute:
            slurm_bin = value
        elif name == "--slurm-conf" and absolute:
            own["SLURM_CONF"] = value
        else:
            refuse_arguments(argv)
    if os.getuid() == 0:
        answer: dict[str, Any] = {"refused": "this command does not run as root"}
    else:
        try:
            answer = run(read_request(), slurm_bin, own)
        except (Refused, ValueError, RecursionError) as refusal:
            answer = {"refused": str(refusal)[:200]}
        except subprocess.TimeoutExpired as late:
            answer = {"timeout": late.timeout}
    sys.stdout.write(json.dumps(answer))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
