"""What the configured traits of batchspawner's SlurmSpawner and of KubeSpawner mean to qhub."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Sequence
from typing import Any

from qhub_spawner.access import Selection
from qhub_spawner.errors import ConfigurationError
from qhub_spawner.kubespawner_traits import OF_A_POD, OF_THE_HUB
from qhub_spawner.kubespawner_traits import REPLACED as REPLACED_BY_POD
from qhub_spawner.runtime import SETTING
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
    """Say which configured traits of batchspawner and KubeSpawner have no effect any more."""
    for section in _SECTIONS:
        for name in REPLACED_TRAITS:
            if name in spawner.config.get(section, {}):
                spawner.log.warning(
                    "c.%s.%s has no effect with QHubSpawner; see the how-to on moving from "
                    "SlurmSpawner",
                    section,
                    name,
                )
    said = spawner.config.get("KubeSpawner", {})
    for name in sorted(said.keys() & REPLACED_BY_POD.keys()):
        spawner.log.warning(
            "c.KubeSpawner.%s has no effect with QHubSpawner: %s", name, REPLACED_BY_POD[name]
        )


def with_kubespawner(own: Any, config: Any, sections: Sequence[str]) -> Any:
    """Add what ``c.KubeSpawner`` says of the hub's side of a server.

    It beats ``c.Spawner``, as it does for KubeSpawner itself, and nothing more special.

    Args:
        own: The configuration of `QHubSpawner`, of all its sections; it is changed.
        config: The whole configuration.
        sections: The names of its sections, the most special last.
    """
    for name, value in config.get("KubeSpawner", {}).items():
        if name not in OF_THE_HUB or name == "start_timeout":
            continue
        if not _is_special(name, config, sections):
            own[name] = copy.deepcopy(value)
    return own


def configured(spawner: Any) -> dict[str, Any]:
    """Return what a new spawner says of pods, to tell what a hook changes for one server."""
    return {name: copy.deepcopy(getattr(spawner, name)) for name in OF_A_POD}


def note_set(spawner: Any, name: str) -> None:
    """Remember that a hook or ``group_overrides`` has set a trait, be it to what it was before."""
    if name in OF_A_POD and "configured" in vars(spawner):
        vars(spawner).setdefault("set_for_server", set()).add(name)


def trait_of_a_pod(spawner: Any, name: str) -> Any:
    """Return KubeSpawner's trait `name` as configured, for hooks and ``group_overrides`` to change.

    It becomes the spawner's own, where `PodSpawner.beside` finds it: for this server and no other.

    Raises:
        AttributeError: KubeSpawner has no such trait, or the hub has nothing to do with Kubernetes.
    """
    if not name.startswith("_") and not hasattr(type(spawner), name) and _on_kubernetes(spawner):
        try:
            # its client is heavy, and an extra
            from qhub_spawner.kubernetes.pod_spawner import PodSpawner  # noqa: PLC0415
        except ImportError:
            pass
        else:
            if name in PodSpawner.class_trait_names(config=True):
                # made for this question alone: what is changed in its values changes no others
                value = getattr(PodSpawner.beside(spawner, cluster=False), name)
                return vars(spawner).setdefault(name, value)
    # as any object says it, and with the words of a property that has failed
    return object.__getattribute__(spawner, name)


def _on_kubernetes(spawner: Any) -> bool:
    """Whether the hub may start servers on Kubernetes."""
    if spawner.config.get("KubeSpawner") or callable(spawner.profiles):
        return True
    runtime = getattr(spawner.user, "settings", {}).get(SETTING)
    return runtime is not None and runtime.has_backend("kubernetes")


def fit_start_timeout(spawner: Any, selection: Selection) -> None:
    """Heed ``c.KubeSpawner.start_timeout`` where only Kubernetes may start the server.

    It counts minutes, and waiting in Slurm's queue is no failure. What the configuration of qhub,
    or a hook, says beats it.
    """
    said = spawner.config.get("KubeSpawner", {}).get("start_timeout")
    if said is None or _is_special("start_timeout", spawner.config, spawner.section_names()):
        return
    usual = spawner._find_my_config(spawner.config).get(  # noqa: SLF001 - traitlets' own way
        "start_timeout", type(spawner).start_timeout.default_value
    )
    if spawner.start_timeout in {said, usual}:
        spawner.start_timeout = said if set(selection.backends) == {"kubernetes"} else usual


def _is_special(name: str, config: Any, sections: Sequence[str]) -> bool:
    """Whether a section says something that is more special than every spawner's."""
    special = sections[sections.index("Spawner") + 1 :]
    return any(name in config.get(section, {}) for section in special)


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
