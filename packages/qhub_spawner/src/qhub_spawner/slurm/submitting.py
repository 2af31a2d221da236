"""Handing a job to Slurm, and finding it again when the reply was lost."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable

from qhub_spawner.errors import SlurmRejectedError, SlurmUnavailableError, SubmitUnknownError
from qhub_spawner.launch import NoCapacityError, StartFailedError
from qhub_spawner.slurm.door import Door
from qhub_spawner.slurm.poller import Poller, Watch
from qhub_spawner.slurm.script import Submission

# A job that is not in so many whole answers, over so long, was not taken.
_CONFIRMING_ANSWERS = 3
_CONFIRMING_SECONDS = 10.0
# How long a silent Slurm is waited for, and how long once the person has given up.
_SILENCE_SECONDS = 180.0
_GIVEN_UP_SECONDS = 10.0
_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0
# sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit …
# sbatch: error: QOSMaxSubmitJobPerUserLimit
# sbatch: error: Batch job submission failed: Requested node configuration is not available
# sbatch: error: Batch job submission failed: Required partition not available (inactive or drain)
_NO_ROOM = re.compile(
    r"SubmitJobs?|job submit limit|node configuration is not available|"
    r"(partition|node) not available|QOS(Max|Grp)|Assoc(Max|Grp)"
)


async def submit(
    door: Door,
    poller: Poller,
    watch: Watch,
    submission: Submission,
    log: logging.Logger,
    given_up: Callable[[], bool],
) -> None:
    """Submit the job that `watch` waits for; its id then stands there.

    After a lost reply the job is looked for by its name, and nothing is submitted again.

    Raises:
        StartFailedError: Slurm has no such job; says why.
    """
    try:
        watch.exists(await door.submit(watch.user, submission))
    except SlurmRejectedError as refusal:
        no_room = _NO_ROOM.search(f"{refusal.words}\n{refusal.stderr}")
        kind = NoCapacityError if no_room else StartFailedError
        raise kind(f"{refusal.words}.", status_code=400) from refusal
    except SubmitUnknownError as lost:
        log.warning("%s; looking for the job by its name", lost)
        if not await found(poller, watch, given_up):
            msg = (
                "Slurm did not confirm the job, and no such job has appeared. Try again; should "
                "the first one appear after all, it is cancelled."
            )
            raise StartFailedError(msg, status_code=503) from lost
    except SlurmUnavailableError as error:
        log.warning("cannot submit for %s: %s", watch.user, error)
        msg = "Slurm does not answer now, so nothing was started. Try again in a minute."
        raise StartFailedError(msg, status_code=503) from error
    log.info("job %s (%s) submitted for %s", watch.job_id, watch.name, watch.user)


async def found(poller: Poller, watch: Watch, given_up: Callable[[], bool]) -> bool:
    """Find out whether the job `watch` waits for exists, by whole answers only.

    To give up is safe: should the job turn up later, nobody owns it and the reaper ends it.
    """
    clock = asyncio.get_running_loop().time
    began, answers, pause = clock(), 0, _PAUSE_SECONDS
    first: float | None = None
    while not _known(watch):
        if await poller.fresh():
            first = clock() if first is None else first
            answers, pause = answers + 1, _PAUSE_SECONDS
        else:
            pause = min(_LONGEST_PAUSE_SECONDS, pause * 1.5)
        if _known(watch):
            break
        patience = 0.0 if given_up() else _CONFIRMING_SECONDS
        if first is not None and answers >= _CONFIRMING_ANSWERS and clock() - first >= patience:
            return False
        if clock() - began > (_GIVEN_UP_SECONDS if given_up() else _SILENCE_SECONDS):
            return False
        await asyncio.sleep(pause)
    return True


def _known(watch: Watch) -> bool:
    return watch.job_id is not None
