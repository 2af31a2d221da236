"""The cgroups of one instance: everything it ever starts is found, and ended, through them.

The daemons run in `/NAME/daemons` and pods in `/NAME/kubepods`, in every hierarchy of cgroup v1 or
in the one of cgroup v2, where NAME is the name of the run folder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from ..cgroups import ROOT, Cgroups
from ..processes import SystemUnavailableError

NEEDED = ("cpu", "cpuset", "memory", "pids")
DAEMONS = "daemons"

# Enters the given groups and the namespaces, then becomes the daemon, keeping its pid.
ENTER = (
    'while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit 1; shift; done; shift; exec "$@"'
)


def hierarchies(root: Path = ROOT) -> tuple[Path, ...]:
    """Where cgroups can be made: the mounted v1 hierarchies, or the one of v2.

    Raises:
        SystemUnavailableError: What kubelet needs is not there; says what was looked for.
    """
    with contextlib.suppress(OSError):
        if set(NEEDED) <= set((root / "cgroup.controllers").read_text().split()):
            return (root,)
    if all((root / name / "cgroup.procs").exists() for name in NEEDED):
        # with `unified`, v2 without controllers beside v1, where runc makes groups too
        return tuple(sorted(path.parent for path in root.glob("*/cgroup.procs")))
    message = (
        f"no usable cgroups under {root}: pods need cgroup v2 with {', '.join(NEEDED)}, "
        "or these controllers of cgroup v1 mounted there"
    )
    raise SystemUnavailableError(message)


class InstanceCgroups(Cgroups):
    """The cgroups of one instance.

    Args:
        name: The instance's name.
        root: Where the cgroup file systems are mounted.
    """

    def __init__(self, name: str, root: Path = ROOT) -> None:
        self.name = name
        self._root = root
        self.v2 = (root / "cgroup.controllers").exists()
        super().__init__(tuple(hierarchy / name for hierarchy in hierarchies(root)))

    def create(self) -> None:
        """Make the groups.

        Raises:
            SystemUnavailableError: The kernel does not let us.
        """
        for group in self._groups:
            try:
                if self.v2:
                    _pass_controllers_on(group.parent)
                for folder in (group, group / DAEMONS):
                    folder.mkdir()
                    _fill_cpuset(folder)
                if self.v2:
                    _pass_controllers_on(group)
            except OSError as error:
                message = (
                    f"cannot make the cgroup {group} ({error}): root is needed, outside a container"
                )
                raise SystemUnavailableError(message) from error

    def enter(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` in the daemons' groups, keeping its pid."""
        groups = [str(group / DAEMONS) for group in self._groups]
        return ["/bin/sh", "-c", ENTER, "sh", *groups, "--", *argv]

    def of_container(self, container_id: str) -> Path:
        """The cgroup of a container, in the hierarchy that limits memory.

        Raises:
            FileNotFoundError: It has none (any more).
        """
        top = self._groups[0] if self.v2 else self._root / "memory" / self.name
        for folder in top.glob(f"kubepods/**/{container_id}"):
            return folder
        message = f"no cgroup of container {container_id} below {top}/kubepods"
        raise FileNotFoundError(message)


def _pass_controllers_on(group: Path) -> None:
    """Let the children of a v2 group have its controllers; kubelet asks for all that there are."""
    for name in (group / "cgroup.controllers").read_text().split():
        try:
            (group / "cgroup.subtree_control").write_text(f"+{name}")
        except OSError:
            if name in NEEDED:
                raise


def _fill_cpuset(folder: Path) -> None:
    """A new v1 cpuset is empty, and nothing can enter it."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        path = folder / file
        if path.exists() and not (folder / "cgroup.controllers").exists():
            path.write_text((folder.parent / file).read_text())
