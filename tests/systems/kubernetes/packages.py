"""Debian's packages for running pods."""

from __future__ import annotations

from pathlib import Path

from ..packages import LOCK, SEARCH_PATH, install_packages, program

__all__ = ["CNI_PLUGINS", "LOCK", "PACKAGES", "SEARCH_PATH", "install", "program"]

CNI_PLUGINS = Path("/usr/lib/cni")
PACKAGES = (
    "containerd",
    "runc",
    "containernetworking-plugins",
    "conntrack",
    "iptables",
    "iproute2",
    "mount",
    "util-linux",
    "openssl",
    "debootstrap",
)


def install() -> None:
    """Install what is absent.

    Raises:
        SystemUnavailableError: It cannot be done; names the packages and why.
    """
    install_packages(PACKAGES, "Kubernetes")
