"""The batch scripts of schedulers and workers. Pure.

As in `qhub_spawner.slurm.script`, a person's value never stands in a script. The cluster's key
and certificate arrive in the job's environment, which only its account can read; the script hands
them on in files that have no name, only a descriptor of the script's shell, and drops them from the
environment. However the job ends, nothing is left; nothing secret is ever on a shared file system,
in an argument, or in accounting.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace

from qhub_gateway.requests import ClusterRequest, Size
from qhub_gateway.targets.target import WORKER_NAME
from qhub_spawner.profiles import Profile
from qhub_spawner.resources import SlurmBlock, merged
from qhub_spawner.slurm.script import LOG_FOLDER, Defaults, ending, options_of, prepared

TLS_CERT = "QHUB_GATEWAY_TLS_CERT"
TLS_KEY = "QHUB_GATEWAY_TLS_KEY"
# of sbatch(1) 22.05: what makes a job larger than its scheduler needs to be
_OF_SIZE = frozenset(
    """contiguous core-spec cores-per-socket cpus-per-gpu cpus-per-task distribution exclusive
    extra-node-info gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres
    gres-flags hint mem mem-per-cpu mem-per-gpu mincpus nodes ntasks ntasks-per-core ntasks-per-gpu
    ntasks-per-node ntasks-per-socket overcommit sockets-per-node spread-job switches thread-spec
    threads-per-core time time-min tmp use-min-nodes wait-all-nodes""".split()  # noqa: SIM905 - as in the door
)
_COMM = "DASK_DISTRIBUTED__COMM__TLS"


def comment(gateway_id: str, user: str, cluster: str, role: str) -> str:
    """Return a job's comment: whose it is, for people and for `sacct`."""
    owner = {"qhub-gateway": gateway_id, "user": user, "cluster": cluster, "role": role}
    return json.dumps(owner, ensure_ascii=True, separators=(",", ":"))


def options(
    request: ClusterRequest, size: Size, defaults: Defaults, *, scheduler: bool
) -> dict[str, str | None]:
    """Return sbatch's options of a scheduler or a worker.

    A job that Slurm starts again by itself would be a stranger to its cluster: none is, the gateway
    replaces workers.
    """
    profile = request.profile
    changes = {"cpu": size.cpu, "memory": size.memory, "nodes": size.nodes}
    changes["walltime"] = request.walltime
    if scheduler:
        changes["gpu"] = None
        changes["walltime"] = request.cluster_walltime
        changes["slurm"] = _scheduler_block(request)
    elif profile.gpu is not None and size.gpus:
        changes["gpu"] = profile.gpu.model_copy(update={"count": size.gpus})
    elif not size.gpus:
        changes["gpu"] = None
    found = options_of(_changed(profile, changes), replace(defaults))
    found.setdefault("no-requeue", None)
    return found


def _scheduler_block(request: ClusterRequest) -> SlurmBlock | None:
    """Return what Slurm is told of a scheduler: where its workers go, but nothing of their size."""
    own, block = request.scheduler_slurm, request.profile.slurm
    if block is None:
        return own
    directives = tuple(each for each in block.directives if _name_of(each) not in _OF_SIZE)
    changes = {"gres": None, "exclusive": False, "directives": directives}
    block = block.model_copy(update=changes)
    return block if own is None else merged(block, own)


def _name_of(directive: str) -> str:
    return directive.removeprefix("--").partition("=")[0]


def _changed(profile: Profile, changes: dict[str, object]) -> Profile:
    return profile.model_copy(update=changes)


def scheduler_script(
    profile: Profile, cluster: str, argv: Sequence[str], defaults: Defaults
) -> str:
    """Return the batch script of a scheduler."""
    return _script(profile, cluster, "scheduler", "SCHEDULER", shlex.join(argv), defaults, ())


def worker_script(
    profile: Profile, cluster: str, argv: Sequence[str], names: Sequence[str], defaults: Defaults
) -> str:
    """Return the batch script of a job array: task N is the worker that `names` has at N."""
    words = ['"$qhub_worker"' if word == WORKER_NAME else shlex.quote(word) for word in argv]
    choose = (
        f"qhub_workers=({shlex.join(names)})",
        'qhub_worker="${qhub_workers[$SLURM_ARRAY_TASK_ID]}"',
    )
    return _script(profile, cluster, "worker", "WORKER", " ".join(words), defaults, choose)


def _script(
    profile: Profile,
    cluster: str,
    kind: str,
    role: str,
    command: str,
    defaults: Defaults,
    choose: Sequence[str],
) -> str:
    block = profile.slurm
    epilogue = "\n".join(filter(None, (block.epilogue if block else "", defaults.epilogue)))
    log = '"$qhub_log/scheduler.log"' if kind == "scheduler" else '"$qhub_log/$qhub_worker.log"'
    lines = [
        "#!/bin/bash",
        f"# The {kind} of a Dask cluster; sbatch's options were given beside this script.",
        'export HOME="${HOME:-$(cd ~ && pwd)}"',
        'export USER="${USER:-$(id -un)}"',
        'export LOGNAME="${LOGNAME:-$USER}" SHELL="${SHELL:-/bin/bash}"',
        'cd "$HOME" || cd /',
        *choose,
        f'qhub_log="$HOME/{LOG_FOLDER}/dask/"{shlex.quote(cluster)}',
        f'if (umask 077; mkdir -p "$qhub_log" && : >>{log}); then',
        f"  exec >>{log} 2>&1",
        "fi",
        "trap 'rm -f -- \"$qhub_file\"' EXIT",
        "# what Dask tasks start by srun has the worker's cores; since 22.05 srun asks for this",
        '[ -z "$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"',
        "# the cluster's certificate and key: in files without a name, which end with this shell",
        *_nameless("8", TLS_CERT),
        *_nameless("9", TLS_KEY),
        f"unset {TLS_CERT} {TLS_KEY}",
        f'export {_COMM}__CA_FILE="/proc/$$/fd/8"',
        f'export {_COMM}__{role}__CERT="/proc/$$/fd/8"',
        f'export {_COMM}__{role}__KEY="/proc/$$/fd/9"',
        *prepared(profile, defaults),
        f"{command} &",
        "qhub_main=$!",
        *ending(),
    ]
    if epilogue:
        lines += ["# epilogue", epilogue]
    lines.append('exit "$qhub_status"')
    return "\n".join(lines) + "\n"


def _nameless(descriptor: str, variable: str) -> tuple[str, ...]:
    """Return the lines that put a variable into a file without a name (printf is the shell's).

    The file is new (``set -C`` is O_EXCL), of mode 0600, and empty as long as it has a name.
    """
    return (
        'qhub_file="${TMPDIR:-/tmp}/qhub-dask-$$-$RANDOM$RANDOM$RANDOM"',
        "qhub_umask=$(umask); umask 077; set -C",
        f'exec {descriptor}>"$qhub_file" || exit 1',
        'set +C; umask "$qhub_umask"; rm -f -- "$qhub_file"',
        f'printf %s "${variable}" >&{descriptor}',
    )
