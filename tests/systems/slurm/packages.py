"""Debian's packages of Slurm."""

from __future__ import annotations

from ..packages import LOCK, SEARCH_PATH, install_packages, program

__all__ = ["LOCK", "PACKAGES", "SEARCH_PATH", "install", "program"]

PACKAGES = (
    "slurmctld",
    "slurmd",
    "slurmdbd",
    "slurmrestd",
    "slurm-client",
    "slurm-wlm-basic-plugins",
    "slurm-wlm-jwt-plugin",
    "munge",
    "mariadb-server",
    "sudo",
)


def install() -> None:
    """Install what is absent.

    Raises:
        SystemUnavailableError: It cannot be done; names the packages and why.
    """
    install_packages(PACKAGES, "Slurm")
