"""A real Slurm cluster for tests, benchmarks and the demo. See README.md for using it by hand."""

from ..processes import NotReadyError, SystemUnavailableError
from .definition import (
    ACCOUNTS,
    ASSOCIATIONS,
    NODES,
    PARTITIONS,
    QOS,
    Association,
    Definition,
    Node,
    Partition,
    Qos,
)
from .instances import sweep
from .system import CommandFailedError, SlurmSystem
from .unix_users import HUB_USER, REST_USER

__all__ = [
    "ACCOUNTS",
    "ASSOCIATIONS",
    "HUB_USER",
    "NODES",
    "PARTITIONS",
    "QOS",
    "REST_USER",
    "Association",
    "CommandFailedError",
    "Definition",
    "Node",
    "NotReadyError",
    "Partition",
    "Qos",
    "SlurmSystem",
    "SystemUnavailableError",
    "sweep",
]
