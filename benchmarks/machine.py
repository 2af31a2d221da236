"""What the figures were taken on, without naming the host."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from tests.systems.keycloak.distribution import VERSION as KEYCLOAK
from tests.systems.kubernetes.binaries import KUBERNETES, REQUIRED

System = Literal["slurm", "kubernetes", "keycloak", "gateway"]

_PACKAGES = {
    "slurm": "batchspawner",
    "kubernetes": "jupyterhub-kubespawner",
    "keycloak": "oauthenticator",
    "gateway": "dask-gateway-server",
}


def described(*systems: System) -> str:
    """Return cores, memory, system, versions and the load, in two lines.

    Args:
        systems: What is measured on; Slurm when none is given.
    """
    systems = systems or ("slurm",)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = {"slurm": _slurm, "kubernetes": _kubernetes, "keycloak": _keycloak, "gateway": _dask}
    versions = ", ".join(found[each]() for each in systems)
    names = ("jupyterhub", *(_PACKAGES[each] for each in systems))
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    kernel = platform.release().partition("-")[0]
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, {_system()}, Linux {kernel}, "
        f"Python {platform.python_version()}\n"
        f"{versions}, {packages}; load average before the run {load}"
    )


def _slurm() -> str:
    return subprocess.run(
        ["dpkg-query", "--show", "--showformat=Slurm ${Version}", "slurmctld"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout


def _kubernetes() -> str:
    found = REQUIRED.search((KUBERNETES.source / "go.mod").read_text())
    return f"Kubernetes {found[1] if found else 'unknown'}"


def _keycloak() -> str:
    return f"Keycloak {KEYCLOAK}"


def _dask() -> str:
    # the one of schedulers and workers has the same version, by constraints.txt
    return f"distributed {version('distributed')}"


def _system() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.system()
