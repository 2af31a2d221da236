"""What the configured traits of batchspawner's SlurmSpawner mean to qhub."""

from __future__ import annotations

import shlex
from typing import Any

from qhub_spawner.errors import ConfigurationError
from qhub_spawner.slurm.possible import refused
from qhub_spawner.slurm.script import Defaults

# Traits of batchspawner that decide what qhub does by itself: setting them has no effect.
REPLACED_TRAITS = (
    "batch_script",
    "batch_submit_cmd",
    "batch_query_cmd",
    "batch_cancel_cmd",
    "batchspawner_singleuser_cmd",
    "exec_prefix",
    "startup_poll_interval",
    "req_srun",
    "req_host",
    "req_keepvars",
    "req_keepvars_extra",
    "state_pending_re",
    "state_running_re",
    "state_unknown_re",
    "state_exechost_re",
    "state_exechost_exp",
)
_SECTIONS = ("BatchSpawnerBase", "BatchSpawnerRegexStates", "SlurmSpawner", "QHubSpawner")


def warn_of_replaced(spawner: Any) -> None:
    """Say which configured traits of batchspawner have no effect any more."""
    for section in _SECTIONS:
        for name in REPLACED_TRAITS:
            if name in spawner.config.get(section, {}):
                spawner.log.warning(
                    "c.%s.%s has no effect with QHubSpawner; see the how-to on moving from "
                    "SlurmSpawner",
                    section,
                    name,
                )


def check(spawner: Any) -> None:
    """Refuse what of the configured traits could never be submitted.

    Raises:
        ConfigurationError: Names each option of ``req_options`` that is not taken.
    """
    problems = refused("c.SlurmSpawner.req_options", defaults(spawner).directives)
    if problems:
        raise ConfigurationError(problems)


def defaults(spawner: Any) -> Defaults:
    """Return what the traits say that go on to apply where a profile is silent."""
    named = {
        "partition": spawner.req_partition or spawner.req_queue,
        "account": spawner.req_account,
        "qos": spawner.req_qos,
        "reservation": spawner.req_reservation,
        "clusters": spawner.req_cluster,
        "gres": spawner.req_gres or (f"gpu:{spawner.req_ngpus}" if spawner.req_ngpus else ""),
        "time": spawner.req_runtime,
        "mem": spawner.req_memory,
        "cpus-per-task": spawner.req_nprocs,
    }
    return Defaults(
        options={key: value for key, value in named.items() if value},
        directives=tuple(shlex.split(spawner.req_options)),
        prologue=spawner.req_prologue,
        epilogue=spawner.req_epilogue,
    )
