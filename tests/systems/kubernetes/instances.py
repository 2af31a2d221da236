"""The instances on this machine: listing them, and ending those whose owner is gone."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..processes import ProcessId, end_processes, wait_until
from .cgroups import InstanceCgroups
from .room import disconnect

PREFIX = "qkube-"


@dataclass(frozen=True)
class Instance:
    """One instance as its run folder tells.

    Attributes:
        folder: The run folder.
        owner: The process that started it; None when it is not recorded.
        link: The name of this machine's end of its cable; "" when it is not recorded.
        by_hand: Whether `python -m tests.systems.kubernetes up` started it.
        kept: Whether the run folder was to be kept; its processes have ended.
    """

    folder: Path
    owner: ProcessId | None
    link: str = ""
    by_hand: bool = False
    kept: bool = False

    @classmethod
    def read(cls, folder: Path) -> Instance:
        """Read a run folder."""
        data: dict[str, object] = {}
        with contextlib.suppress(OSError, ValueError):
            data = json.loads((folder / "owner.json").read_text())
        return cls(
            folder=folder,
            owner=ProcessId.read(folder / "owner.json"),
            link=str(data.get("link", "")),
            by_hand=bool(data.get("by_hand")),
            kept=(folder / "kept").exists(),
        )

    @property
    def owned(self) -> bool:
        """Whether the process that started it lives."""
        return self.owner is not None and self.owner.alive

    @property
    def daemons(self) -> dict[str, ProcessId]:
        """Its living daemons by name."""
        found = {}
        for record in sorted((self.folder / "pids").glob("*.json")):
            process = ProcessId.read(record)
            if process is not None and process.alive:
                found[record.stem] = process
        return found

    def end(self) -> None:
        """End all its processes, by their recorded pids and its cgroups; remove the run folder.

        Raises:
            NotReadyError: Something survives.
        """
        end_processes(list(self.daemons.values()), grace_seconds=0)
        InstanceCgroups(self.folder.name).remove()
        if self.link:
            disconnect(self.link)
        remove_folder(self.folder)

    def ask_owner_to_end(self, deadline_seconds: float = 60) -> None:
        """Interrupt the `up` that started it, and wait until it has gone (it ends the instance).

        Raises:
            NotReadyError: It does not go.
        """
        owner = self.owner
        if owner is not None and owner.signal(signal.SIGINT):
            wait_until(lambda: not owner.alive, deadline_seconds, f"the end of process {owner.pid}")


def remove_folder(folder: Path) -> None:
    """Remove a run folder; what is busy while the kernel takes a namespace down, again."""

    def removed() -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    wait_until(removed, 20, f"removing {folder}", poll_seconds=0.2)


def instances() -> Iterator[Instance]:
    """All instances on this machine; folders that are not root's are passed over."""
    for folder in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")):
        with contextlib.suppress(OSError):
            status = folder.lstat()
            if folder.is_dir() and not folder.is_symlink() and status.st_uid == 0:
                yield Instance.read(folder)


def sweep() -> list[Path]:
    """End every instance whose owner is gone, as after a killed test run; returns their folders.

    Raises:
        NotReadyError: Something survives.
    """
    swept = []
    for instance in instances():
        if instance.owner is not None and not instance.owned and not instance.kept:
            instance.end()
            swept.append(instance.folder)
    return swept
