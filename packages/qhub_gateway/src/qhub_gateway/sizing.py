"""How large a cluster is, how long it lasts, its variables: what is asked, within bounds. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard, TypeVar

from pydantic import TypeAdapter, ValidationError

from qhub_gateway.errors import RequestRefusedError
from qhub_gateway.requests import ClusterRules, Size
from qhub_spawner.access import Offer, Selection
from qhub_spawner.errors import ValueRefusedError, named, shown
from qhub_spawner.fields import EnvironmentValue, VariableName
from qhub_spawner.limits import conflict
from qhub_spawner.profiles import Overrides
from qhub_spawner.quantities import Cpu, Duration, Memory, Quantity

__all__ = ["Bounds", "threads", "variables"]

LEAST_MEMORY = Memory(128 * 2**20)
"""Less than this no worker and no scheduler starts in."""

NEVER = "never"
"""An idle timeout of a cluster that is kept for ever."""

_GIB = 2**30
_MOST_VARIABLES = 64
_LONGEST_VARIABLES = 32 * 1024
_MOST_THREADS = 1024
# What the gateway, Dask's transport, the hub and Slurm say to their own processes.
_RESERVED = ("DASK_GATEWAY_", "DASK_DISTRIBUTED__COMM__", "JUPYTERHUB_", "QHUB_", "SLURM_")
_NAMES = TypeAdapter[str](VariableName)
_VALUES = TypeAdapter[str](EnvironmentValue)

_Q = TypeVar("_Q", bound=Quantity)


@dataclass(frozen=True)
class Bounds:
    """What bounds a cluster: a profile that was decided, limits, and the site's rules."""

    selection: Selection
    offer: Offer
    rules: ClusterRules

    def worker(self, said: Mapping[str, Any]) -> Size:
        """Return one worker, at most as large as the profile."""
        profile = self.selection.profile
        most = self._cores(profile.cpu)
        cpu = self._cores(_amount(Cpu, "worker_cores", said, most=most) or most)
        said_by_site = profile.memory or self.rules.worker_memory
        own = said_by_site or Memory(cpu.cores * 2 * _GIB)
        largest = said_by_site or Memory(most.cores * 2 * _GIB)
        memory = _memory("worker_memory", said, most=largest) or own
        have = profile.gpu.count if profile.gpu is not None else 0
        gpus = _count("worker_gpus", said.get("worker_gpus"), most=have)
        gpus = have if gpus is None else gpus
        return Size(cpu=cpu, memory=memory, gpus=gpus, nodes=profile.nodes)

    def scheduler(self, said: Mapping[str, Any]) -> Size:
        """Return the scheduler, at most as large as the site allows."""
        rules = self.rules
        most_cpu = self._cores(rules.scheduler_cores_max or rules.scheduler_cores)
        most_memory = rules.scheduler_memory_max or rules.scheduler_memory
        asked = _amount(Cpu, "scheduler_cores", said, most=most_cpu)
        cpu = self._cores(asked or rules.scheduler_cores)
        memory = _memory("scheduler_memory", said, most=most_memory) or rules.scheduler_memory
        return Size(cpu=cpu, memory=memory)

    def _cores(self, cpu: Cpu) -> Cpu:
        """Return what the target gives: Slurm knows whole cores only."""
        return Cpu(cpu.cores * 1000) if self.selection.backend == "slurm" else cpu

    def walltime(self, value: object) -> Duration | None:
        """Return how long the jobs may run, at most as long as profile and limits allow."""
        profile = self.selection.profile
        own = profile.walltime or self.rules.walltime
        most = own or self.offer.max_walltime
        asked = _amount(Duration, "walltime", {"walltime": value}, most=most)
        walltime = asked or own
        if asked is not None:
            words = conflict(Overrides(walltime=asked), self.offer.limits)
            if words is not None:
                raise RequestRefusedError(f"walltime: it {words}.")
        return walltime

    def lasting(self, walltime: Duration | None) -> dict[str, Any]:
        """Return what lets a cluster outlive its workers' walltime; nothing where there is none."""
        rules = self.rules
        found: dict[str, Any] = {}
        if rules.scheduler_slurm is not None:
            found["scheduler_slurm"] = rules.scheduler_slurm
        if walltime is None:
            return found
        if rules.replace_before is not None:
            found["replace_before"] = min(rules.replace_before, Duration(walltime.seconds // 2))
        if rules.scheduler_walltime is not None and rules.scheduler_walltime > walltime:
            found["scheduler_walltime"] = rules.scheduler_walltime
        return found

    def idle_timeout(self, value: object) -> Duration | None:
        """Return how long the cluster is kept without work."""
        most = self.rules.idle_timeout_max
        own = self.rules.idle_timeout
        if own is None or (most is not None and own > most):
            own = most
        if value is None:
            return own
        accepted = "a time with its unit, e.g. '30 min'"
        if most is None and value == NEVER:
            return None
        if not isinstance(value, str) or value.strip(" ").isdigit():
            message = f"idle_timeout: {shown(value)} has no unit."
            raise RequestRefusedError(message, accepted=(accepted,))
        return _amount(Duration, "idle_timeout", {"idle_timeout": value}, most=most)


def _amount(kind: type[_Q], name: str, said: Mapping[str, Any], *, most: _Q | None) -> _Q | None:
    """Read an amount; ``None`` if it is not said, or 0: as the profile says."""
    value = said.get(name)
    if value is None or (_is_number(value) and value == 0):
        return None
    try:
        amount = kind.parse(value)
    except ValueRefusedError as error:
        raise RequestRefusedError(
            f"{name}: {error.message}.", accepted=(error.accepted,)
        ) from error
    if most is not None and amount.amount > most.amount:
        raise RequestRefusedError(f"{name}: {amount} is more than you may have: at most {most}.")
    return amount


def _memory(name: str, said: Mapping[str, Any], *, most: Memory) -> Memory | None:
    """Read an amount of memory, of which a bare number is GiB as in other gateways."""
    value = said.get(name)
    # compared, and nothing else: a whole number may be too large to be made a float
    if _is_number(value) and 0 < value < 2**32:
        value = f"{int(value * _GIB)} B"
    amount = _amount(Memory, name, {name: value}, most=most)
    if amount is not None and amount < min(LEAST_MEMORY, most):
        message = f"{name}: {amount} is too little to start in: at least {LEAST_MEMORY}."
        raise RequestRefusedError(message)
    return amount


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(name: str, value: object, *, most: int) -> int | None:
    """Read a whole number from 0; ``None`` if it is not said, or -1: as the profile says."""
    if value is None or (value == -1 and _is_number(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        message = f"{name}: {shown(value)} is not a whole number of 0 or more."
        raise RequestRefusedError(message)
    if value > most:
        message = f"{name}: {shown(value)} is more than you may have: at most {most}."
        raise RequestRefusedError(message)
    return value


def threads(value: object, worker: Size) -> int:
    """Return how many threads a worker has; one for each core if it is not said."""
    return _count("worker_threads", value, most=_MOST_THREADS) or worker.cpu.cores


def variables(value: object) -> dict[str, str]:
    """Read environment variables; those by which parts of this system speak are refused."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        message = f"variables: {shown(value)} is not an object of names and values."
        raise RequestRefusedError(message)
    if len(value) > _MOST_VARIABLES:
        raise RequestRefusedError(f"variables: there are more than {_MOST_VARIABLES}.")
    found: dict[str, str] = {}
    for name, text in value.items():
        try:
            _NAMES.validate_python(name)
        except ValidationError as error:
            message = f"variables: {shown(name)} is not the name of a variable to set."
            raise RequestRefusedError(message) from error
        if name.startswith(_RESERVED):
            raise RequestRefusedError(f"variables: {named(name)} is set by the system itself.")
        try:
            found[name] = _VALUES.validate_python(text)
        except ValidationError as error:
            message = f"variables: {shown(text)} is not a text on one line, for {named(name)}."
            raise RequestRefusedError(message) from error
    if sum(len(name) + len(text) for name, text in found.items()) > _LONGEST_VARIABLES:
        raise RequestRefusedError("variables: they are longer than 32 KiB together.")
    return found
