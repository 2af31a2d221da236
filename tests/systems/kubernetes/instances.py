"""The instances on this machine: listing them, and ending those whose owner is gone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from .. import run_folders
from ..processes import end_processes, wait_until
from ..run_folders import RunFolder
from .cgroups import InstanceCgroups
from .room import disconnect

PREFIX = "qkube-"


class Instance(RunFolder):
    """One instance as its run folder tells."""

    @property
    def link(self) -> str:
        """The name of this machine's end of its cable; empty when it is not recorded."""
        return str(self.recorded.get("link", ""))

    def end(self) -> None:
        """End all its processes, by their recorded pids and its cgroups; remove the run folder.

        Raises:
            NotReadyError: Something survives.
        """
        link = self.link
        end_processes(list(self.daemons.values()), grace_seconds=0)
        InstanceCgroups(self.folder.name).remove()
        if link:
            disconnect(link)
        remove_folder(self.folder)

    def ask_owner_to_end(self, deadline_seconds: float = 60) -> None:
        """Interrupt the process that started it by hand, and wait until it has gone.

        Raises:
            NotReadyError: It does not go.
        """
        super().ask_owner_to_end(deadline_seconds)


def remove_folder(folder: Path) -> None:
    """Remove a run folder; what is busy while the kernel takes a namespace down, again."""

    def removed() -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    wait_until(removed, 20, f"removing {folder}", poll_seconds=0.2)


def instances() -> Iterator[Instance]:
    """All instances on this machine; folders that are not root's are passed over."""
    return run_folders.run_folders(PREFIX, Instance)


def sweep() -> list[Path]:
    """End every instance whose owner is gone, as after a killed test run; returns their folders.

    Raises:
        NotReadyError: Something survives.
    """
    return run_folders.sweep(PREFIX, Instance)
