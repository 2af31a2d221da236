"""Finds out whether jobs exist whose submission has no outcome on record, before they are ended.

While a target is silent, or when a gateway was killed, a job may have its name on record and no
number. Such a job can neither be ended nor be taken for ended: it is looked for by its name, as it
is before it is submitted again. One that turns up later all the same is nobody's, and is ended as
such.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import TypeAlias

from dask_gateway_server.backends.db_base import Cluster, Worker

from qhub_gateway.errors import TargetSilentError
from qhub_gateway.records import Records, ref_of
from qhub_gateway.targets.target import JobRef, Target

Thing: TypeAlias = Cluster | Worker


class Searching:
    """Looks for jobs without a number, each submission once at a time, in the background.

    Args:
        records: What there is.
    """

    def __init__(self, records: Records) -> None:
        """See the class."""
        self.records = records
        self.log = records.log
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """End background work; another gateway looks again."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def begin(self, target: Target, things: Iterable[Thing]) -> list[asyncio.Task[None]]:
        """Look for what has a name on record and no number; nothing of it may be on its way.

        Returns:
            What is being done about it; its outcome is on record when it is done, unless the
            target was silent.
        """
        groups: dict[str, list[Thing]] = defaultdict(list)
        for thing in things:
            ref = ref_of(thing)
            if ref is not None and unnumbered(target, ref):
                groups[ref.name].append(thing)
        for name, group in groups.items():
            if name not in self._tasks:
                self._tasks[name] = asyncio.ensure_future(self._look(target, name, group))
        return [self._tasks[name] for name in groups]

    async def _look(self, target: Target, name: str, things: Sequence[Thing]) -> None:
        try:
            await self._settle(target, name, things)
        except TargetSilentError as error:
            self.log.warning("whether there is a job %s is not known yet: %s", name, error)
        except Exception:
            self.log.exception("looking for job %s failed", name)
        finally:
            del self._tasks[name]

    async def _settle(self, target: Target, name: str, things: Sequence[Thing]) -> None:
        refs = [ref for ref in map(ref_of, things) if ref is not None]
        found = await target.find(refs)
        # whoever was ended meanwhile is not looked at again
        same = [thing for thing in things if (ref := ref_of(thing)) is not None and ref in refs]
        workers = [thing for thing in same if isinstance(thing, Worker)]
        clusters = [thing for thing in same if isinstance(thing, Cluster)]
        if found is None:
            self.log.info("there is no job %s, so there is nothing to end", name)
            self.records.unplan_workers(workers)
            for cluster in clusters:
                self.records.unplan_scheduler(cluster)
            return
        numbers = {ref: ref.to_json() for ref in found}
        db = self.records.db
        db.update_workers([(each, {"state": {"job": numbers[_ref(each)]}}) for each in workers])
        for cluster in clusters:
            db.update_cluster(cluster, state={**cluster.state, "job": numbers[_ref(cluster)]})


def unnumbered(target: Target, ref: JobRef) -> bool:
    """Whether it is not known that a job exists; where names are enough, nothing depends on it."""
    return not target.repeatable and ref.number is None


def numbered(target: Target, refs: Collection[JobRef]) -> list[JobRef]:
    """Return the jobs that are known to exist."""
    return [ref for ref in refs if not unnumbered(target, ref)]


def _ref(thing: Thing) -> JobRef:
    ref = ref_of(thing)
    if ref is None:
        msg = "a job that was looked for has no name"
        raise AssertionError(msg)
    return ref
