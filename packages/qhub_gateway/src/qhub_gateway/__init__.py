"""Dask clusters on Slurm, Kubernetes and the local machine, with the profiles people have already.

Importing this package imports nothing else. `Gateway`, the client, is loaded when it is first asked
for.
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__"]
