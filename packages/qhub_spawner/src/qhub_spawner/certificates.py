"""JupyterHub's internal SSL for servers that run on other machines than the hub's files are on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from qhub_spawner.slurm.capacity import Node

# What the bootstrap in the job reads, and JupyterHub's name for the file of the same content.
_CARRIED = (("KEY", "keyfile"), ("CERT", "certfile"), ("CA", "cafile"))
_FILES = ("KEYFILE", "CERTFILE", "CLIENT_CA")


def alternative_names(nodes: Iterable[Node], configured: Iterable[str]) -> list[str]:
    """Return the names that a server's certificate needs, as it may run on any of `nodes`."""
    names = {f"DNS:{node.name}" for node in nodes}
    names |= {f"{_kind_of(node.address)}:{node.address}" for node in nodes}
    kept = list(configured)
    return [*kept, *sorted(names - set(kept))]


def carry(environment: dict[str, str], files: Mapping[str, str]) -> None:
    """Put the contents of the hub's certificate files into a server's environment.

    The files are the hub's own: their contents travel, and are written where the job runs.
    """
    for name, key in _CARRIED:
        environment[f"QHUB_SSL_{name}"] = Path(files[key]).read_text("ascii")
    for name in _FILES:
        environment.pop(f"JUPYTERHUB_SSL_{name}", None)


def _kind_of(address: str) -> str:
    return "IP" if address.replace(".", "").isdigit() or ":" in address else "DNS"
