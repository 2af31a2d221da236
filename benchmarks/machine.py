"""What the figures were taken on, without naming the host."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path


def described() -> str:
    """Return cores, memory, system, versions and the load, in two lines."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    slurm = subprocess.run(
        ["dpkg-query", "--show", "--showformat=Slurm ${Version}", "slurmctld"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    names = ("jupyterhub", "batchspawner")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    kernel = platform.release().partition("-")[0]
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, {_system()}, Linux {kernel}, "
        f"Python {platform.python_version()}\n"
        f"{slurm}, {packages}; load average before the run {load}"
    )


def _system() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.system()
