"""The accounting database: made once for each definition, then copied.

sacctmgr takes half a second for each of its calls (slurmdbd answers every request 40 ms late, the
kernel's delayed acknowledgement), five seconds in all. So the database is kept, as it is before
slurmctld first speaks to it, in a folder for root only, and later instances start from a copy.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from ..processes import SystemUnavailableError, identity, locked
from ..userenv import cache_folder
from . import configuration
from .definition import Definition
from .packages import SEARCH_PATH, program

# at its start slurmdbd sums up every hour since the database was made: longer each day
TEMPLATE_SECONDS = 24 * 3600
INSTALL_SECONDS = 60


class Template:
    """The kept database for one definition and these versions of MariaDB and Slurm."""

    def __init__(self, definition: Definition) -> None:
        versions = [
            subprocess.run(
                [program(name), "-V"], capture_output=True, text=True, check=False
            ).stdout
            for name in ("mariadbd", "slurmdbd")
        ]
        key = json.dumps([versions, configuration.accounting_commands(definition)])
        name = f"slurm-accounting-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        self._folder = cache_folder() / name
        self._lock = cache_folder() / f"{name}.lock"

    def copy_to(self, data: Path) -> bool:
        """Fill a new data folder from it; False when there is none, or it is too old."""
        with locked(self._lock):
            try:
                if time.time() - self._folder.stat().st_mtime > TEMPLATE_SECONDS:
                    shutil.rmtree(self._folder)
                    return False
            except FileNotFoundError:
                return False
            # cp keeps owners; and shares blocks where the file system can
            subprocess.run(
                [program("cp"), "-a", "--reflink=auto", f"{self._folder}/data", str(data)],
                check=True, timeout=60,
            )  # fmt: skip
        return True

    def keep(self, data: Path) -> None:
        """Keep the data folder of a database that is shut down, unless another did meanwhile."""
        with locked(self._lock):
            if self._folder.exists():
                return
            for other in self._folder.parent.glob("slurm-accounting-*/"):
                if time.time() - other.stat().st_mtime > TEMPLATE_SECONDS:
                    shutil.rmtree(other, ignore_errors=True)
            part = self._folder.with_suffix(f".{os.getpid()}")
            part.mkdir(mode=0o700)
            subprocess.run([program("cp"), "-a", str(data), f"{part}/data"], check=True, timeout=60)
            part.rename(self._folder)


def install_database(data: Path, log: Path) -> None:
    """Make an empty database as the user mysql.

    Raises:
        SystemUnavailableError: mariadb-install-db fails; with the end of its output.
    """
    command = [
        program("mariadb-install-db"),
        "--no-defaults",
        "--cross-bootstrap",
        "--skip-test-db",
        "--auth-root-authentication-method=socket",
        "--innodb-log-file-size=8M",
        f"--datadir={data}",
        # mariadbd deletes the temporary tables of others in a shared folder
        f"--tmpdir={data.parent}",
    ]
    with log.open("wb") as output:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/",
            env={"PATH": SEARCH_PATH}, timeout=INSTALL_SECONDS, check=False,
            **identity("mysql"),  # type: ignore[call-overload]
        )  # fmt: skip
    if done.returncode != 0:
        text = log.read_text(errors="replace")[:1000]
        message = f"mariadb-install-db failed ({done.returncode}): {text}"
        raise SystemUnavailableError(message)
