"""Memory and core limits for the jobs of one instance, apart from those of any other.

Slurm 22.05 names its cgroups after the node and the job only (`/slurm_cn01/uid_1000/job_7`), so
two clusters with a node `cn01` would share them. On cgroup v1 each instance therefore has a group
of its own in every controller, a folder of links to them as Slurm's CgroupMountpoint, and its
slurmd run in a cgroup namespace rooted there (cgroup_namespaces(7)): the paths that Slurm reads in
/proc then agree with those it makes. All that slurmd ever starts can be found in these groups.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from ..cgroups import ROOT, Cgroups
from ..processes import ProcessId, SystemUnavailableError

V1_CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer")
V1_NEEDED = ("cpuacct", "cpuset", "memory", "freezer")
V2_NEEDED = ("cpuset", "cpu", "memory")

# Enters the given groups, then becomes the daemon inside a cgroup namespace rooted in them.
ENTER = (
    'while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit 1; shift; done; shift; '
    'exec unshare --cgroup "$@"'
)


def plugin(root: Path = ROOT) -> str:
    """Which of Slurm's cgroup plugins works here: "cgroup/v1" or "cgroup/v2".

    Raises:
        SystemUnavailableError: Neither does; says what was looked for.
    """
    if all((root / name / "cgroup.procs").exists() for name in V1_NEEDED):
        return "cgroup/v1"
    with contextlib.suppress(OSError):
        controllers = (root / "cgroup.controllers").read_text().split()
        if set(V2_NEEDED) <= set(controllers):
            return "cgroup/v2"
    message = (
        f"no usable cgroups under {root}: Slurm's job limits need either the cgroup v1 controllers "
        f"{', '.join(V1_NEEDED)} mounted there, or cgroup v2 with {', '.join(V2_NEEDED)}"
    )
    raise SystemUnavailableError(message)


class InstanceCgroups(Cgroups):
    """The cgroups of one instance; on cgroup v2 it has none of its own, and Slurm's are used.

    Args:
        name: The instance's name; its group is `/NAME` in each v1 controller.
        root: Where the cgroup file systems are mounted.
    """

    def __init__(self, name: str, root: Path = ROOT) -> None:
        self.plugin = plugin(root)
        self._root = root
        present = [each for each in V1_CONTROLLERS if (root / each / "cgroup.procs").exists()]
        own = present if self.plugin == "cgroup/v1" else []
        super().__init__(tuple(root / controller / name for controller in own))

    def mountpoint(self, links: Path) -> Path:
        """What Slurm takes for the mount point, given the folder for `create`."""
        return links if self._groups else self._root

    def create(self, links: Path) -> None:
        """Make the groups, and `links` with a link to each.

        Raises:
            SystemUnavailableError: The kernel does not let us.
        """
        if not self._groups:
            return
        links.mkdir()
        for group in self._groups:
            try:
                group.mkdir()
                if group.parent.name == "cpuset":  # a new cpuset is empty, and nothing can enter it
                    for file in ("cpuset.cpus", "cpuset.mems"):
                        (group / file).write_text((group.parent / file).read_text())
            except OSError as error:
                message = (
                    f"cannot make the cgroup {group} ({error}): root is needed, outside a container"
                )
                raise SystemUnavailableError(message) from error
            # Slurm asks for every controller by its own name
            (links / group.parent.name).symlink_to(group)

    def enter(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` inside the groups, keeping its pid."""
        if not self._groups:
            return list(argv)
        return ["/bin/sh", "-c", ENTER, "sh", *map(str, self._groups), "--", *argv]


def stray_job_processes(slurm_conf: Path) -> set[ProcessId]:
    """slurmstepd and job processes of the cluster with this slurm.conf, found by their environment.

    For cgroup v2, where the instance has no group of its own.
    """
    found = set()
    setting = f"SLURM_CONF={slurm_conf}".encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            variables = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "comm").read_text().strip()
            in_job = any(variable.startswith(b"SLURM_JOB_ID=") for variable in variables)
            if setting in variables and (in_job or command == "slurmstepd"):
                process = ProcessId.of(int(folder.name))
                if process is not None and process.pid != os.getpid():
                    found.add(process)
    return found
