"""The instances on this machine: listing them, and ending those whose owner is gone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from .. import run_folders
from ..processes import end_processes
from ..run_folders import RunFolder
from .cgroups import InstanceCgroups, stray_job_processes

PREFIX = "qslurm-"


class Instance(RunFolder):
    """One instance as its run folder tells."""

    def end(self) -> None:
        """End all its processes by their recorded pids and its cgroups; remove the run folder.

        Raises:
            NotReadyError: Something survives.
        """
        end_processes(list(self.daemons.values()))
        InstanceCgroups(self.folder.name).remove()
        end_processes(stray_job_processes(self.folder / "slurm.conf"), grace_seconds=0)
        shutil.rmtree(self.folder, ignore_errors=True)


def instances() -> Iterator[Instance]:
    """All instances on this machine; folders that are not root's are passed over."""
    return run_folders.run_folders(PREFIX, Instance)


def sweep() -> list[Path]:
    """End every instance whose owner is gone, as after a killed test run; returns their folders.

    Raises:
        NotReadyError: Something survives.
    """
    return run_folders.sweep(PREFIX, Instance)
