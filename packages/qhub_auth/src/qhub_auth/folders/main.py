"""`qhub-ensure-dirs`: read requests, carry each out, answer each. As root, without arguments.

One JSON object on each line of standard input (`verbs`), one on each line of standard output:
``{"verb": …, "result": …, "words": …}``, where the result is ``done``, ``unchanged``, ``would``
(one only asked), ``refused`` (something is not as it must be; nothing was changed) or ``failed``
(the system said no, or it took too long). It ends with 0 when every request was answered, whatever
the answer, and with 1 and a message when there was nothing to answer by.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from typing import IO, Any, NoReturn

from . import limiting, making, moving, trees
from .ground import Outcome, WouldError
from .opening import FolderError
from .settings import Settings, read_settings
from .verbs import VERBS, Archive, Check, Home, Parent, Quota, Rename, Share, Tree, parsed
from .where import SETTINGS

__all__ = ["answer", "main", "serve"]

LONGEST_LINE, MOST_LINES = 64 * 1024, 200_000
SECONDS, TREE_SECONDS = 60, 4 * 3600
"""That one request may take; going through a folder takes as long as there are files."""
_OLDEST_PYTHON = (3, 11)
_VERBS: Mapping[type[Any], Callable[..., Outcome]] = {
    Archive: moving.archive,
    Home: making.home,
    Parent: making.parent,
    Quota: limiting.quota,
    Rename: moving.rename,
    Share: making.share,
    Tree: trees.tree,
}


def answer(settings: Settings, line: bytes) -> dict[str, object]:
    """Carry out the request on one line; returns the answer."""
    said: dict[str, object] = {}
    try:
        request = _request(line)
        said = _named(request)
        verb = parsed(request)
        if isinstance(verb, Check):
            outcome = _checked(settings, verb)
        else:
            outcome = _VERBS[type(verb)](settings, verb)
    except WouldError as words:
        return {**said, "result": "would", "words": str(words)}
    except (FolderError, ValueError, RecursionError) as error:
        return {**said, "result": "refused", "words": _words(error)}
    except OSError as error:
        return {**said, "result": "failed", "words": _words(error) + _hint(error)}
    return {**said, **outcome.more, "result": outcome.result, "words": outcome.words}


def _request(line: bytes) -> Any:  # noqa: ANN401 - JSON
    if len(line) > LONGEST_LINE:
        raise ValueError(f"a request of more than {LONGEST_LINE} bytes")
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error


def _named(request: object) -> dict[str, object]:
    """Return the verb, for the answer; nothing else of a request that may make no sense."""
    verb = request.get("verb") if isinstance(request, dict) else None
    return {"verb": verb} if isinstance(verb, str) and verb in VERBS else {}


def _checked(settings: Settings, verb: Check) -> Outcome:
    if verb.item is None:
        return limiting.check(settings, verb)
    return _VERBS[type(verb.item)](settings, verb.item, only_look=True)


def _words(error: BaseException) -> str:
    return str(error)[:1000] or type(error).__name__


def _hint(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "; on NFS root has to be root (no_root_squash), or run this on the file server"
    return ""


def serve(settings: Settings, requests: IO[bytes], answers: IO[str]) -> None:
    """Answer every line of `requests`; too long a line and too many lines end it."""
    for _ in range(MOST_LINES):
        line = requests.readline(LONGEST_LINE + 1)
        if not line:
            return
        if line.strip():
            signal.alarm(TREE_SECONDS if b'"tree"' in line else SECONDS)
            result = answer(settings, line)
            signal.alarm(0)
            answers.write(json.dumps(result) + "\n")
            answers.flush()
        if len(line) > LONGEST_LINE:
            return
    raise FolderError(f"more than {MOST_LINES} requests: send the rest to another process")


def _late(*_: object) -> NoReturn:
    raise TimeoutError("it took too long; what was begun is out of sight")


def _own_surroundings() -> None:
    """Let nothing of who started this reach what it does."""
    os.environ.clear()
    os.chdir("/")
    os.umask(0o077)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, _late)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # A small limit of theirs would make writing fail half-way
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
        _, most = resource.getrlimit(limit)
        resource.setrlimit(limit, (most, most))


def main() -> int:
    """Answer what is on standard input; 0, or 1 with a message on standard error."""
    if sys.version_info < _OLDEST_PYTHON:
        return _end("Python 3.11 or newer is needed (install-folders --python)")
    if len(sys.argv) > 1:
        return _end("it takes no arguments: one JSON request on each line of standard input")
    if os.geteuid() != 0 or os.getuid() != 0:
        return _end("it has to run as root")
    _own_surroundings()
    try:
        settings = read_settings(SETTINGS)
        serve(settings, sys.stdin.buffer, sys.stdout)
    except (FolderError, OSError) as error:
        return _end(_words(error))
    return 0


def _end(words: str) -> int:
    sys.stderr.write(f"qhub-ensure-dirs: {words}\n")
    return 1
