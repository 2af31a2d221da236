"""Asking `qhub-ensure-dirs` for homes and shared folders, at most once for what is known to be so.

The command runs as root, by sudo or because the caller is root; requests go to its standard input,
no shell and no argument is involved.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from traitlets import Bool, Float, List, Unicode
from traitlets.config import LoggingConfigurable

from qhub_auth.errors import FoldersError, IdentityError, shown
from qhub_auth.folders.verbs import Home, Share, Tree, Verb, line_of
from qhub_auth.homes.plan import NumberedPerson, SharePlan, elsewhere_words, home_verb

__all__ = ["COMMAND", "Folders", "Result", "ensure", "follow_ups"]

COMMAND = "/usr/local/libexec/qhub-ensure-dirs"
TREE_TIMEOUT_SECONDS = 5 * 3600.0
_RESULTS = ("done", "unchanged", "would", "refused", "failed")
_LONGEST_ANSWER = 256 * 2**20
_MOST_TOGETHER = 10_000


@dataclass(frozen=True)
class Result:
    """What became of one request.

    Attributes:
        verb: The request.
        result: ``done``; ``unchanged``, it was so already; ``would``, one only asked; ``refused``,
            something is not as it must be, and nothing was changed; ``failed``, the system said no.
        words: For administrators.
        more: Further fields of the answer, e.g. ``archived``: where the folder is now.
    """

    verb: Verb
    result: Literal["done", "unchanged", "would", "refused", "failed"]
    words: str
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether it is now as it should be."""
        return self.result in ("done", "unchanged")


# Commands that ran into their time limit, and that only root could end: kept until they end.
_LATE: set[asyncio.Task[int]] = set()


async def ensure(
    command: Sequence[str], verbs: Iterable[Verb], *, timeout_seconds: float = 60.0
) -> tuple[Result, ...]:
    """Ask for all of `verbs`, in this order, and return what became of each.

    A request that is refused or fails does not stop those after it. Cancelled, or out of time, the
    command is ended if that is possible; whatever it was at stays whole.

    Args:
        command: The command and its arguments, e.g. ``["sudo", "-n", "--", "/usr/…/command"]``.
        verbs: The requests.
        timeout_seconds: For all of them together.

    Raises:
        FoldersError: The command could not be run, did not end in time, ended with an error, or
            answered something else.
    """
    asked = tuple(verbs)
    if not asked:
        return ()
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            limit=_LONGEST_ANSWER,
        )
    except OSError as error:
        raise FoldersError(f"{command[0]}: {error.strerror}; homes cannot be made") from error
    lines = "".join(map(line_of, asked)).encode()
    try:
        async with asyncio.timeout(timeout_seconds):
            out, err = await process.communicate(lines)
    except TimeoutError as error:
        raise FoldersError(
            f"{' '.join(command)[:256]} did not end within {timeout_seconds:g} s"
        ) from error
    finally:
        if process.returncode is None:
            _give_up(process)
    if process.returncode:
        said = shown(err.decode("utf-8", "replace").strip(), 256)
        raise FoldersError(f"{' '.join(command)[:256]} ended with {process.returncode}: {said}")
    return _results(asked, out)


def _give_up(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        process.kill()
    task = asyncio.ensure_future(process.wait())
    _LATE.add(task)
    task.add_done_callback(_LATE.discard)


def _results(asked: Sequence[Verb], out: bytes) -> tuple[Result, ...]:
    answers = out.splitlines()
    if len(answers) != len(asked):
        raise FoldersError(f"{len(answers)} answers came to {len(asked)} requests for folders")
    results = []
    for verb, line in zip(asked, answers, strict=True):
        try:
            answer = json.loads(line)
            result, words = answer.pop("result"), answer.pop("words")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FoldersError("what came is no answer of qhub-ensure-dirs") from error
        if result not in _RESULTS or not isinstance(words, str) or answer.get("verb") != verb.verb:
            raise FoldersError("what came is no answer of qhub-ensure-dirs to what was asked")
        results.append(Result(verb, cast("Any", result), words, answer))
    return tuple(results)


def follow_ups(results: Iterable[Result]) -> tuple[Tree, ...]:
    """Return what should be asked next: to go through folders whose readers have changed.

    That may take long where there are many files: not while somebody waits for a server. Give
    `ensure` :data:`TREE_TIMEOUT_SECONDS` for it.
    """
    return tuple(
        Tree(path=each.verb.path, gid=each.verb.gid, readers=each.verb.readers)
        for each in results
        if isinstance(each.verb, Share) and each.ok and each.more.get("tree") is True
    )


class Folders(LoggingConfigurable):
    """Homes and shared folders, made before somebody's server starts.

    What is asked for while the command runs goes together into its next run, and what was found
    as it should be is not asked for again for a while: a person's next start costs nothing.
    """

    command = List(
        Unicode(),
        help="""The command that makes homes and shared folders, with its arguments, e.g.
        ``["sudo", "-n", "--", "/usr/local/libexec/qhub-ensure-dirs"]``. Empty, the default:
        nothing is made; somebody else does it.""",
    ).tag(config=True)
    home_root = Unicode(
        "/home",
        help="""Where homes are made: ``homes.root`` of the command's own settings. A home that is
        not directly in it is left to others.""",
    ).tag(config=True)
    move_renamed = Bool(
        default_value=True,
        help="""Whether the folder of a group that was renamed or moved gets the new name or place.
        Else it stays where it is; a group that was moved out of its parent then cannot reach
        it.""",
    ).tag(config=True)
    timeout_seconds = Float(
        60.0,
        help="""Seconds that the command may take while a server waits for it. It takes
        milliseconds, unless a file system hangs.""",
    ).tag(config=True)
    fresh_seconds = Float(
        600.0,
        help="""Seconds for which what was found as it should be is not asked for again. Nobody
        but root changes it; somebody who removes a home by hand waits that long for a new
        one.""",
    ).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - traitlets
        super().__init__(**kwargs)
        self.clock: Callable[[], float] = time.monotonic
        self._fresh: dict[Verb, float] = {}
        self._told: set[str] = set()
        self._waiting: list[tuple[tuple[Verb, ...], asyncio.Future[tuple[Result, ...]]]] = []
        self._running: asyncio.Task[None] | None = None

    def required_command(self) -> list[str]:
        """Return the command, for whom nothing can be done without one.

        Raises:
            IdentityError: None is configured.
        """
        if not self.command:
            msg = (
                "no command makes folders here: set c.Folders.command, e.g. ['sudo', '-n', '--', "
                f"'{COMMAND}'] (qhub-identity install-folders)"
            )
            raise IdentityError(msg)
        return list(self.command)

    async def ensure_for(
        self, person: NumberedPerson, plan: SharePlan | None = None, paths: Collection[str] = ()
    ) -> tuple[Result, ...]:
        """Make a person's home, and the shared folders they have, if they are not there.

        A shared folder that cannot be made is told in the log, and stops nobody.

        Args:
            person: Name, numbers and home.
            plan: All shared folders, or `None` to make none.
            paths: Full paths of the groups whose shared folders they have.

        Raises:
            FoldersError: There is no home for them: the command refused it, or did not work.
        """
        if not self.command:
            return ()
        made = home_verb(person, self.home_root)
        if made is None and person.home and person.home not in self._told:
            self._told.add(person.home)
            self.log.warning("Folders: %s", elsewhere_words(person, self.home_root))
        verbs = (*((made,) if made else ()), *(plan.only(paths) if plan else ()))
        results = await self.ensure(verbs)
        for each in results:
            if not each.ok and isinstance(each.verb, Home):
                raise FoldersError(f"the home of {shown(person.name)}: {each.words}")
        return results

    async def ensure(self, verbs: Iterable[Verb]) -> tuple[Result, ...]:
        """Ask for what is not known to be as it should be; returns what became of that.

        Raises:
            FoldersError: As :func:`ensure`.
        """
        now = self.clock()
        self._fresh = {verb: end for verb, end in self._fresh.items() if end > now}
        asked = tuple(verb for verb in verbs if verb not in self._fresh)
        if not asked or not self.command:
            return ()
        future: asyncio.Future[tuple[Result, ...]] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await future

    def forget(self) -> None:
        """Ask for everything again, e.g. after groups were renamed."""
        self._fresh.clear()

    async def _run(self) -> None:
        """Run the command for all who wait, as often as somebody does."""
        while self._waiting:
            together, self._waiting = self._waiting, []
            verbs = tuple(dict.fromkeys(verb for asked, _ in together for verb in asked))
            try:
                found: dict[Verb, Result] = {}
                for start in range(0, len(verbs), _MOST_TOGETHER):
                    part = verbs[start : start + _MOST_TOGETHER]
                    results = await ensure(self.command, part, timeout_seconds=self.timeout_seconds)
                    found |= {each.verb: each for each in results}
            except BaseException as error:
                for _, future in together:
                    if not future.done():
                        future.set_exception(
                            error
                            if isinstance(error, FoldersError)
                            else FoldersError("the command for folders was given up")
                        )
                if not isinstance(error, FoldersError):
                    raise
                continue
            self._tell(found.values())
            for asked, future in together:
                if not future.done():
                    future.set_result(tuple(found[verb] for verb in asked))

    def _tell(self, results: Iterable[Result]) -> None:
        end = self.clock() + self.fresh_seconds
        for each in results:
            if each.result == "done":
                self.log.info("Folders: %s", each.words)
            elif not each.ok:
                self.log.warning("Folders: %s: %s", each.result, each.words)
            if each.ok and isinstance(each.verb, Home | Share):
                self._fresh[each.verb] = end
