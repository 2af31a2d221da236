"""Slurm's commands with faults that a test switches on: a folder for `SlurmBackend.slurm_bin`.

Each command is a script that becomes the real one unless its control file names a fault.
"""

from __future__ import annotations

from pathlib import Path

REAL = Path("/usr/bin")
COMMANDS = ("squeue", "sinfo", "sacct", "sacctmgr", "scontrol", "sbatch", "scancel")
# what Slurm prints when slurmctld took the message and its answer was not heard
LOST = "Batch job submission failed: Socket timed out on send/recv operation"

_SCRIPT = """\
#!/bin/sh
printf x >>{control}/{name}.calls
fault=$(cat {control}/{name} 2>/dev/null)
case "$fault" in
  "") exec {real} "$@" ;;
  fails) echo "{name}: error: drill" >&2; exit 1 ;;
  nothing) exit 0 ;;
  garbage) head -c 400 /dev/urandom | od -c; exit 0 ;;
  # what a command writes that is killed in the middle of a line
  half) text=$({real} "$@"); printf '%s' "$text" | head -c $(( ${{#text}} - 20 )); exit 0 ;;
  # whole lines, but not all of them
  few) {real} "$@" | head -n 1; exit 0 ;;
  hangs) exec sleep 30 ;;
  late) sleep 4; exec {real} "$@" ;;
  reply-lost) {real} "$@" >/dev/null; echo "{name}: error: {lost}" >&2; exit 1 ;;
  killed-after) {real} "$@" >/dev/null; kill -9 $$ ;;
  never-sent) echo "{name}: error: {lost}" >&2; exit 1 ;;
esac
echo "unknown fault $fault" >&2; exit 99
"""


class FaultyCommands:
    """Slurm's commands in a folder; every fault is off.

    Attributes:
        folder: For `SlurmBackend.slurm_bin`.
    """

    def __init__(self, folder: Path) -> None:
        """Fill `folder`, which is made; everybody can run what is in it."""
        self.folder = folder
        self._control = folder / "control"
        self._control.mkdir(parents=True)
        folder.chmod(0o755)
        for name in COMMANDS:
            calls = self._control / f"{name}.calls"
            calls.touch()
            calls.chmod(0o666)
            path = folder / name
            path.write_text(
                _SCRIPT.format(control=self._control, name=name, real=REAL / name, lost=LOST)
            )
            path.chmod(0o755)
        self._control.chmod(0o755)

    def set(self, command: str, fault: str) -> None:
        """Switch a fault on: from the next call of `command` on."""
        part = self._control / f"{command}.part"
        part.write_text(fault)
        part.replace(self._control / command)

    def clear(self) -> None:
        """Switch all faults off."""
        for command in COMMANDS:
            (self._control / command).unlink(missing_ok=True)

    def calls(self, command: str) -> int:
        """How often a command has been run."""
        return (self._control / f"{command}.calls").stat().st_size
