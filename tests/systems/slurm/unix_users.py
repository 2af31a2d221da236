"""The Unix users of a test cluster: real people with homes, and the users that daemons run as."""

from __future__ import annotations

import pwd
import subprocess
from pathlib import Path

from ..processes import SystemUnavailableError, locked
from .packages import program

LOCK = Path("/run/lock/qhub-users")

HUB_USER = "qhub"
"""Runs the hub: unprivileged, with a home of its own and no login shell."""

REST_USER = "qhub-rest"
"""Runs slurmrestd, which refuses root and must not be slurm."""


def ensure_person(name: str) -> None:
    """Create a person with a home (0700) and a usable shell, when absent. They stay afterwards.

    Raises:
        SystemUnavailableError: useradd fails.
    """
    with locked(LOCK):
        if not _exists(name):
            _useradd("--create-home", "--shell", "/bin/bash", "--user-group", name)
        home = Path(pwd.getpwnam(name).pw_dir)
        if home.is_dir():
            home.chmod(0o700)


def ensure_service_user(name: str) -> None:
    """Create a system user without a login shell, when absent. It stays afterwards.

    Raises:
        SystemUnavailableError: useradd fails.
    """
    with locked(LOCK):
        if not _exists(name):
            home = f"/var/lib/{name}"
            _useradd("--system", "--user-group", "--create-home", "--home-dir", home,
                     "--shell", "/usr/sbin/nologin", name)  # fmt: skip
            Path(home).chmod(0o700)


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _useradd(*words: str) -> None:
    done = subprocess.run(
        [program("useradd"), *words], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        message = (
            f"useradd {' '.join(words)} failed ({done.returncode}): {done.stderr.strip()[:256]}"
        )
        raise SystemUnavailableError(message)
