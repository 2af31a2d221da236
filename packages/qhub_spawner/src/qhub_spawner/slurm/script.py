"""From a launch to what is submitted: sbatch options and the batch script. Pure.

A person's value never stands in the script: it reaches Slurm as one option (an element of an
argument list, or a field of a JSON document) and the server as its environment. What the script
does hold is the administrator's: prologue, epilogue, modules, the environment's prefix, and the
server's command, each quoted.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from qhub_spawner.errors import SelectionError
from qhub_spawner.profiles import Profile

BOOTSTRAP_END = "QHUB_SINGLEUSER_END"
WORK_END = "QHUB_WORK_END"
_ACCOUNT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,31}")
LOG_FOLDER = ".local/state/qhub"


@dataclass(frozen=True)
class Submission:
    """One job to submit.

    Attributes:
        name: The job's name, by which it is found again.
        comment: What it belongs to, as JSON; no secrets.
        options: sbatch's long options without dashes; ``None`` for a flag.
        script: The batch script; no secrets.
        environment: The job's whole environment; secret, never in ``repr``.
        array_size: How many tasks, 0 to one less, if it is a job array.
    """

    name: str
    comment: str
    options: Mapping[str, str | None]
    script: str
    environment: Mapping[str, str] = field(repr=False)
    array_size: int | None = None

    @property
    def arguments(self) -> list[str]:
        """The options as arguments of sbatch, name and comment included."""
        every = {"job-name": self.name, "comment": self.comment, **self.options}
        return [f"--{key}" if value is None else f"--{key}={value}" for key, value in every.items()]


@dataclass(frozen=True)
class Defaults:
    """What applies where a profile is silent: a hub's ``c.SlurmSpawner.req_*`` of before."""

    options: Mapping[str, str] = field(default_factory=dict)
    directives: tuple[str, ...] = ()
    prologue: str = ""
    epilogue: str = ""


def account_name(user: str) -> str:
    """Return `user` if it can be an account of a cluster.

    Raises:
        SelectionError: It cannot (a leading dash, a space, more than 32 characters, …).
    """
    if _ACCOUNT_NAME.fullmatch(user) is None:
        msg = (
            f"user name {ascii(user)[:64]} cannot be an account of the cluster: expected at most "
            "32 letters, digits, dots, dashes and underscores, beginning with a letter"
        )
        raise SelectionError(msg, status_code=400, name="user", accepted=())
    return user


def comment(hub_id: str, user: str, server_name: str, spawn_id: str) -> str:
    """Return the job's comment: whose it is, for people and for `sacct`.

    A server's name may be of any length, a comment not: the rest of it is left out. It is one line
    that can be printed: DEL is the one control character that JSON does not escape.
    """
    owner = {"qhub": hub_id, "user": user, "server": server_name[:100], "spawn": spawn_id}
    text = json.dumps(owner, ensure_ascii=True, separators=(",", ":"))
    return text.replace("\x7f", "\\u007f")


def options_of(profile: Profile, defaults: Defaults) -> dict[str, str | None]:
    """Return the sbatch options that `profile` asks for (man sbatch 22.05).

    Memory is per node in whole MiB, rounded up; walltime in Slurm's ``D-HH:MM:SS``.
    """
    block = profile.slurm
    options: dict[str, str | None] = dict(defaults.options)
    options["nodes"] = str(profile.nodes)
    options["ntasks-per-node"] = "1"
    if "cpu" in profile.model_fields_set or "cpus-per-task" not in options:
        options["cpus-per-task"] = str(max(1, math.ceil(profile.cpu.millicores / 1000)))
    if profile.memory is not None:
        options["mem"] = f"{math.ceil(profile.memory.bytes / 2**20)}M"
    if profile.walltime is not None:
        options["time"] = profile.walltime.slurm
    if profile.gpu is not None and profile.gpu.count:
        kind = f":{profile.gpu.type}" if profile.gpu.type else ""
        options["gres"] = f"gpu{kind}:{profile.gpu.count}"
    if block is None:
        return options
    for key in ("partition", "account", "qos", "reservation", "constraint"):
        value = getattr(block, key)
        if value is not None:
            options[key] = value
    if block.gres is not None:
        asked = options.get("gres") if profile.gpu is not None else None
        options["gres"] = f"{asked},{block.gres}" if asked else block.gres
    if block.cluster is not None:
        options["clusters"] = block.cluster
    if block.exclusive:
        options["exclusive"] = None
    for directive in (*defaults.directives, *block.directives):
        key, separator, value = directive.removeprefix("--").partition("=")
        options[key] = value if separator else None
    return options


@cache
def bootstrap() -> str:
    """Return the source of the program that starts the server inside the job."""
    return (files("qhub_spawner") / "singleuser.py").read_text(encoding="utf-8")


@cache
def work() -> str:
    """Return the source of the program that tells the hub what the server works at."""
    return (files("qhub_spawner") / "work.py").read_text(encoding="utf-8")


def prepared(profile: Profile, defaults: Defaults) -> list[str]:
    """Return the lines by which a job has what its profile names: modules, prologue, software."""
    block, prefix = profile.slurm, profile.environment.prefix
    modules = block.modules if block else ()
    prologue = "\n".join(filter(None, (defaults.prologue, block.prologue if block else "")))
    lines = []
    if modules:
        lines += [
            "# modules are a shell function that a login shell would have",
            "type module >/dev/null 2>&1 || . /etc/profile",
            f"module load {shlex.join(modules)}",
        ]
    if prologue:
        lines += ["# prologue", prologue]
    if prefix is not None:
        lines.append(f'export PATH={shlex.quote(f"{prefix}/bin")}:"$PATH"')
    return lines


def ending() -> tuple[str, ...]:
    """Return the lines that wait for the process `$qhub_main`, and hand signals on to it.

    `$qhub_status` is its status then, or the signal's where bash 5.2 has lost that of a process
    which ended just as the signal came.
    """
    return (
        "trap 'qhub_signal=1; kill -TERM \"$qhub_main\" 2>/dev/null' TERM INT",
        "# a signal ends a wait (143), not the process; of one that was waited for, wait says 127,",
        "# and -1 where bash has lost its status",
        "qhub_signal=1 qhub_status=127",
        'while [ -n "$qhub_signal" ]; do',
        '  qhub_signal=; wait "$qhub_main"; qhub_waited=$?',
        "  case $qhub_waited in 127 | -1) ;; *) qhub_status=$qhub_waited ;; esac",
        "done",
    )


def batch_script(profile: Profile, argv: tuple[str, ...], defaults: Defaults) -> str:
    """Return the batch script that runs `argv` as the server.

    The bootstrap travels in the script itself, so that the person's environment needs
    nothing of qhub: only the command that `argv` names. The script notes its process's end as
    its own exit status, runs the epilogue, and hands a SIGTERM on to the server.
    """
    block = profile.slurm
    epilogue = "\n".join(filter(None, (block.epilogue if block else "", defaults.epilogue)))
    lines = [
        "#!/bin/bash",
        "# A server of a qhub hub; sbatch's options were given beside this script.",
        'export HOME="${HOME:-$(cd ~ && pwd)}"',
        'export USER="${USER:-$(id -un)}"',
        'export LOGNAME="${LOGNAME:-$USER}" SHELL="${SHELL:-/bin/bash}"',
        'cd "$HOME" || cd /',
        f'qhub_log="$HOME/{LOG_FOLDER}"',
        'if (umask 077; mkdir -p "$qhub_log" && : >"$qhub_log/server-$SLURM_JOB_ID.log"); then',
        '  exec >"$qhub_log/server-$SLURM_JOB_ID.log" 2>&1',
        "fi",
        *prepared(profile, defaults),
        "qhub_python=python3",
    ]
    if argv[0].startswith("/"):
        # the server's own interpreter stands beside its command; the node's may be too old
        folder = argv[0].rpartition("/")[0]
        lines.append(f'export PATH="$PATH":{shlex.quote(folder or "/")}')
        beside = shlex.quote(f"{folder}/python3")
        lines.append(f"[ -x {beside} ] && qhub_python={beside}")
    lines += [
        f"\"$qhub_python\" -I /dev/fd/3 {shlex.join(argv)} 3<<'{BOOTSTRAP_END}' &",
        bootstrap().rstrip("\n"),
        BOOTSTRAP_END,
        "qhub_main=$!",
        f'"$qhub_python" -IS /dev/fd/3 "$qhub_main" 3<<\'{WORK_END}\' >/dev/null 2>&1 &',
        work().rstrip("\n"),
        WORK_END,
        *ending(),
    ]
    if epilogue:
        lines += ["# epilogue", epilogue]
    lines.append('exit "$qhub_status"')
    return "\n".join(lines) + "\n"
