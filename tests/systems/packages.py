"""Debian's packages of a system, installed when absent, with none of their services started."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from .debian import MissingPackagesError, absent, ensure
from .processes import SystemUnavailableError, locked

LOCK = Path("/run/lock/qhub-packages")
POLICY = Path("/usr/sbin/policy-rc.d")
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def program(name: str) -> str:
    """The path of a program of the system.

    Raises:
        SystemUnavailableError: It is not installed.
    """
    path = shutil.which(name, path=SEARCH_PATH)
    if path is None:
        message = f"{name} is not installed (looked in {SEARCH_PATH})"
        raise SystemUnavailableError(message)
    return path


def install_packages(packages: Sequence[str], what: str) -> None:
    """Install what is absent; does nothing when all is there.

    Args:
        packages: Their names.
        what: What they are for, in the error.

    Raises:
        SystemUnavailableError: It cannot be done; names the packages and why.
    """
    try:
        if shutil.which("dpkg-query") and not absent(packages):
            return
        with locked(LOCK), _no_services_started():
            ensure(packages)
    except (MissingPackagesError, OSError) as error:
        message = f"the packages of {what} cannot be installed: {error}"
        raise SystemUnavailableError(message) from error


@contextlib.contextmanager
def _no_services_started() -> Iterator[None]:
    """Let packages install without starting their services (policy-rc.d answers 101: forbidden)."""
    kept = POLICY.with_name("policy-rc.d.qhub-kept")
    if POLICY.exists():
        POLICY.rename(kept)
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)
        if kept.exists():
            kept.rename(POLICY)
