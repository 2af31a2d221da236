"""Slurm's commands, each noted in a file when it is run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

COMMANDS = ("sacct", "sacctmgr", "sbatch", "scancel", "scontrol", "sdiag", "sinfo", "squeue")
_SCRIPT = '#!/bin/sh\necho {name} >>"{notes}"\nexec /usr/bin/{name} "$@"\n'


class CountedCommands:
    """A folder with a stand-in for each command: it notes its name, and becomes the real one.

    Attributes:
        folder: What a hub is told to be the folder of Slurm's commands.
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder."""
        self.folder = folder
        folder.mkdir()
        folder.chmod(0o755)
        self._notes = folder / "notes"
        self._notes.touch()
        self._notes.chmod(0o666)  # some run as the hub's account, some as people
        for name in COMMANDS:
            (folder / name).write_text(_SCRIPT.format(name=name, notes=self._notes))
            (folder / name).chmod(0o755)

    def so_far(self) -> Counter[str]:
        """Return how often each command was run."""
        return Counter(self._notes.read_text().split())
