"""Which profiles can become jobs at all, as far as that is known before anybody asks for one."""

from __future__ import annotations

from collections.abc import Iterable

from qhub_spawner.errors import Problem
from qhub_spawner.profiles import Profile
from qhub_spawner.slurm import script
from qhub_spawner.slurm.door_command import OPTIONS
from qhub_spawner.slurm.restd import unsupported_options

# The hub finds its jobs by these; a profile must not set them.
_OWNED_OPTIONS = frozenset({"job-name", "comment"})


def problems_of(profiles: Iterable[Profile], *, cluster: str, by_rest: bool) -> list[Problem]:
    """Return what is wrong with each profile that may become a job.

    Args:
        profiles: All of them, in the order written.
        cluster: The one that the hub asks; empty if that is the only one.
        by_rest: Whether slurmrestd is asked, which takes fewer options.
    """
    problems: list[Problem] = []
    for index, profile in enumerate(profiles):
        block = profile.slurm
        where = f"profiles[{index}] ({profile.slug})"
        if block is not None and block.cluster is not None and block.cluster != cluster:
            accepted = cluster or "none: set c.SlurmBackend.cluster"
            problems.append(
                Problem(
                    f"{where}.slurm.cluster", block.cluster, "the hub does not ask it", accepted
                )
            )
        problems += refused(f"{where}.slurm.directives", block.directives if block else ())
        if by_rest:
            problems += [
                Problem(
                    f"{where}.slurm.directives",
                    f"--{option}",
                    "slurmrestd cannot be given this option",
                    "an option of the neutral fields, or transport = 'command-line'",
                )
                for option in unsupported_options(script.options_of(profile, script.Defaults()))
            ]
    return problems


def refused(where: str, directives: Iterable[str]) -> list[Problem]:
    """Return a problem for each sbatch option that a configuration cannot set."""
    allowed = OPTIONS - _OWNED_OPTIONS
    return [
        Problem(
            where,
            directive,
            "this option is qhub's own, or names a file, a program or an account",
            f"one of: {', '.join(f'--{name}' for name in sorted(allowed))}",
        )
        for directive in directives
        if not directive.startswith("--")
        or directive.removeprefix("--").partition("=")[0] not in allowed
    ]
