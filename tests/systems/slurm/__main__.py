"""`python -m tests.systems.slurm`: the real Slurm test system by hand."""

from __future__ import annotations

import sys

from ..by_hand import ByHand, main
from .instances import instances, sweep
from .system import SlurmSystem


def _usage(system: SlurmSystem) -> str:
    people = ", ".join(system.users)
    first = system.users[0] if system.users else "USER"
    return f"""\
Slurm is ready after {system.seconds_to_ready:.1f} s. Ctrl-C ends it with all its jobs.

  export SLURM_CONF={system.slurm_conf}
  sinfo; sacctmgr show associations
  runuser -u {first} -- env SLURM_CONF=$SLURM_CONF sbatch --chdir=/tmp --wrap 'sleep 60'

  people       {people}
  partitions   {", ".join(partition.name for partition in system.definition.partitions)}
  slurmrestd   {system.rest_url}/slurm/v0.0.38/ping
               headers X-SLURM-USER-NAME: {first}, X-SLURM-USER-TOKEN: from
               scontrol token username={first} lifespan=600
  logs         {system.run_folder}/log
"""


BY_HAND = ByHand(
    "Slurm",
    "tests.systems.slurm",
    lambda keep: SlurmSystem(keep=keep, by_hand=True),
    _usage,
    instances,
    sweep,
)

if __name__ == "__main__":
    sys.exit(main(BY_HAND))
