"""Run folders of test systems: what says whose an instance is, and ends what a killed run left.

An instance has a folder below the temporary folder, with `owner.json` (the process that started
it) and `pids/NAME.json` (its daemons).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from .processes import ProcessId, end_processes, wait_until

OWNER = "owner.json"
F = TypeVar("F", bound="RunFolder")


@dataclass(frozen=True)
class RunFolder:
    """One instance as its run folder tells.

    Attributes:
        folder: The run folder.
        owner: The process that started it; None when it is not recorded.
        by_hand: Whether it was started by hand.
        kept: Whether the run folder was to be kept; its processes have ended.
    """

    folder: Path
    owner: ProcessId | None
    by_hand: bool = False
    kept: bool = False

    @classmethod
    def make(cls, prefix: str, *, by_hand: bool = False) -> RunFolder:
        """Make a folder of an instance that this process owns, with `log` and `pids` in it."""
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        for name in ("log", "pids"):
            (folder / name).mkdir(mode=0o700)
        owner = ProcessId.of(os.getpid())
        if owner is not None:
            owner.write(folder / OWNER, by_hand=by_hand)
        return cls(folder, owner, by_hand=by_hand)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a run folder."""
        owner = ProcessId.read(folder / OWNER)
        by_hand, kept = bool(_recorded(folder).get("by_hand")), (folder / "kept").exists()
        return cls(folder, owner, by_hand=by_hand, kept=kept)

    @property
    def recorded(self) -> Mapping[str, object]:
        """What stands beside its owner's process; nothing where that cannot be read."""
        return _recorded(self.folder)

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
                found[record.stem.replace("@", ":")] = process
        return found

    def describe(self) -> str:
        """One line about it."""
        owner = f"owner {self.owner.pid}" if self.owner else "owner unknown"
        state = "running" if self.owned else "left behind"
        if self.kept:
            state = "ended, logs kept"
        kind = "by hand" if self.by_hand else "by a program"
        daemons = " ".join(self.daemons) or "no daemons"
        return f"{self.folder}  {state}, started {kind}, {owner}: {daemons}"

    def end(self) -> None:
        """End its daemons by their recorded pids; remove the run folder.

        Raises:
            NotReadyError: One survives.
        """
        end_processes(list(self.daemons.values()))
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask_owner_to_end(self, deadline_seconds: float = 30) -> None:
        """Interrupt the process that started it by hand, and wait until it has gone.

        Raises:
            NotReadyError: It does not go.
        """
        owner = self.owner
        if owner is not None and owner.signal(signal.SIGINT):
            wait_until(lambda: not owner.alive, deadline_seconds, f"the end of process {owner.pid}")


def _recorded(folder: Path) -> Mapping[str, object]:
    with contextlib.suppress(OSError, ValueError):
        data: dict[str, object] = json.loads((folder / OWNER).read_text())
        return data
    return {}


def run_folders(prefix: str, kind: type[F] = RunFolder) -> Iterator[F]:  # type: ignore[assignment]
    """All instances of a kind on this machine; folders of other users are passed over."""
    for folder in sorted(Path(tempfile.gettempdir()).glob(f"{prefix}*")):
        with contextlib.suppress(OSError):
            status = folder.lstat()
            if folder.is_dir() and not folder.is_symlink() and status.st_uid == os.getuid():
                yield kind.read(folder)


def sweep(prefix: str, kind: type[RunFolder] = RunFolder) -> list[Path]:
    """End every instance whose owner is gone, as after a killed test run; returns their folders.

    Raises:
        NotReadyError: Something survives.
    """
    swept = []
    for each in run_folders(prefix, kind):
        if each.owner is not None and not each.owned and not each.kept:
            each.end()
            swept.append(each.folder)
    return swept
