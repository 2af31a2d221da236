"""Unix accounts for as long as a benchmark needs them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.systems.processes import locked
from tests.systems.slurm.packages import program
from tests.systems.slurm.unix_users import LOCK, ensure_person

PREFIX = "qbench"
"""How the names of such accounts begin; no other account has such a name."""


@contextmanager
def accounts(count: int) -> Iterator[list[str]]:
    """Make so many people with homes, and remove them and their homes at the end.

    Raises:
        SystemUnavailableError: useradd fails.
    """
    names = [f"{PREFIX}{number:03d}" for number in range(count)]
    try:
        for name in names:
            ensure_person(name)
        yield names
    finally:
        for name in names:
            with locked(LOCK):
                subprocess.run(
                    [program("userdel"), "--remove", name], capture_output=True, check=False
                )
