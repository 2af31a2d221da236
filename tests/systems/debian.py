"""Install Debian's packages where they are absent: `python tests/systems/debian.py PACKAGE...`.

A test needs real systems. As root on Debian they are installed; elsewhere this says what to do, and
it is a failure only where `QHUB_SYSTEMS_REQUIRED=1` says that every system must be there.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

LOCK = Path("/run/lock/qhub-apt")


class MissingPackagesError(Exception):
    """Debian packages are absent and could not be installed; the message says what to do."""


def absent(packages: Sequence[str]) -> list[str]:
    """Return those of `packages` that are not installed, in the order given."""
    query = ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *packages]
    # It exits with 1 when it knows nothing of one of them, and still answers for the others.
    answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    # chromium installed
    installed = {line.split()[0] for line in answer.splitlines() if line.endswith(" installed")}
    return [name for name in packages if name not in installed]


def ensure(packages: Sequence[str]) -> None:
    """Install what is absent of `packages`, waiting for another apt that holds the lock.

    Raises:
        MissingPackagesError: Not Debian, not root, or apt failed.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-query") is None:
        raise MissingPackagesError(
            f"this is not Debian: install what its packages {', '.join(packages)} hold"
        )
    missing = absent(packages)
    if not missing:
        return
    if os.geteuid() != 0:
        raise MissingPackagesError(f"as root: apt-get install {' '.join(missing)}")
    with LOCK.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # apt's own timeout does not cover its lists
        _install(absent(packages))


def _install(missing: Sequence[str]) -> None:
    if not missing:
        return
    print(f"Installing Debian's {', '.join(missing)}.", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    options = ["--quiet", "--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=600"]
    for command in (["update", "-q"], ["install", *options, *missing]):
        done = subprocess.run(
            ["apt-get", *command],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise MissingPackagesError(
                f"`apt-get {' '.join(command)}` exited with {done.returncode}: "
                f"{done.stderr.strip()[-256:]}"
            )


def main(packages: Sequence[str]) -> None:
    """Ensure `packages`; end with 1 when that fails and every system is required."""
    try:
        ensure(packages)
    except MissingPackagesError as error:
        print(f"Missing systems: {error}", file=sys.stderr, flush=True)
        if os.environ.get("QHUB_SYSTEMS_REQUIRED") == "1":
            sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
