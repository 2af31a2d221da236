"""One JupyterHub spawner for Slurm, Kubernetes and local processes.

Importing this package imports nothing else: the pure modules (profiles, access rules, quantities)
are usable where there is no hub. `QHubSpawner` is loaded when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qhub_spawner.spawner import QHubSpawner

__version__ = "0.1.0"
__all__ = ["QHubSpawner", "__version__"]


def __getattr__(name: str) -> object:
    """Load `QHubSpawner` on first use (PEP 562), so that pure modules never pull in the hub."""
    if name == "QHubSpawner":
        from qhub_spawner.spawner import QHubSpawner  # noqa: PLC0415 - the point of this function

        return QHubSpawner
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
