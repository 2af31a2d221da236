"""The cgroups of one instance of a test system: everything in them is found, and ended."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from .processes import ProcessId, end_processes, wait_until

ROOT = Path("/sys/fs/cgroup")
REMOVING_SECONDS = 20.0
_THAWS = (("freezer.state", "THAWED"), ("cgroup.freeze", "0"))


class Cgroups:
    """Groups of an instance's own.

    Args:
        groups: One in each hierarchy; none of them needs to be there yet.
    """

    def __init__(self, groups: tuple[Path, ...]) -> None:
        self._groups = groups

    def processes(self) -> set[ProcessId]:
        """All processes in the groups and below, but this one."""
        found = set()
        for group in self._groups:
            for folder in _bottom_up(group):
                with contextlib.suppress(OSError):
                    for line in (folder / "cgroup.procs").read_text().split():
                        process = ProcessId.of(int(line))
                        if process is not None and process.pid != os.getpid():
                            found.add(process)
        return found

    def remove(self) -> None:
        """Kill what is left in the groups (thawing what is frozen), and remove them.

        Raises:
            NotReadyError: A group stays busy.
        """
        if not any(group.exists() for group in self._groups):
            return

        def emptied() -> bool:
            self._thaw()
            end_processes(self.processes(), grace_seconds=0)
            return self._removed()

        names = ", ".join(map(str, self._groups))
        wait_until(emptied, REMOVING_SECONDS, f"removing the cgroups {names}")

    def _thaw(self) -> None:
        for group in self._groups:
            for folder in _bottom_up(group):
                for name, value in _THAWS:
                    if (folder / name).exists():
                        with contextlib.suppress(OSError):
                            (folder / name).write_text(value)

    def _removed(self) -> bool:
        busy = False
        for group in self._groups:
            for folder in _bottom_up(group):
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    continue
                except OSError:
                    busy = True
        return not busy


def _bottom_up(group: Path) -> Iterator[Path]:
    for folder, _, _ in os.walk(group, topdown=False):
        yield Path(folder)
