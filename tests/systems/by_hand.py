"""`python -m tests.systems.SYSTEM`: a test system by hand."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .processes import NotReadyError, SystemUnavailableError
from .run_folders import RunFolder


@dataclass(frozen=True)
class ByHand:
    """What one system's command line is made of.

    Attributes:
        name: What people call the system.
        module: Where its command line is.
        make: Makes one; takes whether its logs are to be kept.
        usage: Says how to use a running one.
        instances: Those on this machine.
        sweep: Ends what killed test runs left behind.
        build: Builds all that a test would otherwise wait for, where there is such.
    """

    name: str
    module: str
    make: Callable[[bool], AbstractContextManager[Any]]
    usage: Callable[[Any], str]
    instances: Callable[[], Iterable[RunFolder]]
    sweep: Callable[[], Iterable[Path]]
    build: Callable[[], None] | None = None


def say(message: str) -> None:
    """Print at once."""
    print(message, flush=True)


def main(system: ByHand, arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    about = f"the real {system.name} test system by hand"
    parser = argparse.ArgumentParser(prog=f"python -m {system.module}", description=about)
    commands = parser.add_subparsers(dest="command")
    up_parser = commands.add_parser("up", help="start one and stay in the foreground (the default)")
    up_parser.add_argument("--keep", action="store_true", help="leave the logs behind")
    if system.build:
        commands.add_parser("build", help="build programs and images, and start nothing")
    commands.add_parser("status", help="list those on this machine")
    down_parser = commands.add_parser("down", help="end those that were started by hand")
    down_parser.add_argument("folder", nargs="?", type=lambda text: str(Path(text)))
    commands.add_parser("sweep", help="end what killed test runs left behind")
    options = parser.parse_args(arguments)
    try:
        if options.command == "build" and system.build:
            system.build()
        elif options.command == "status":
            _status(system)
        elif options.command == "down":
            return _down(system, options.folder)
        elif options.command == "sweep":
            for folder in system.sweep():
                say(f"ended {folder}")
        else:
            return _up(system, keep=getattr(options, "keep", False))
    except (SystemUnavailableError, NotReadyError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _up(system: ByHand, *, keep: bool) -> int:
    """Start one, say how to use it, and end it at Ctrl-C (or SIGTERM)."""
    ends = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    for number in ends:
        signal.signal(number, signal.default_int_handler)
    try:
        with system.make(keep) as running:
            # taken by sigwait from here on, so that a second Ctrl-C cannot break off the end
            signal.pthread_sigmask(signal.SIG_BLOCK, ends)
            say(system.usage(running))
            signal.sigwait(ends)
            say("ending it …")
    except KeyboardInterrupt:  # while it was starting; what had been started is ended
        return 130
    return 0


def _status(system: ByHand) -> None:
    found = list(system.instances())
    for instance in found:
        say(instance.describe())
    if not found:
        say(f"no {system.name} test system runs here")


def _down(system: ByHand, folder: str | None) -> int:
    """End instances that were started by hand, or the one in `folder`."""
    by_hand = [each for each in system.instances() if each.by_hand]
    found = [each for each in by_hand if folder in (None, str(each.folder))]
    if not found:
        say("there is none that was started by hand" + (f" in {folder}" if folder else ""))
        return 1
    for instance in found:
        instance.ask_owner_to_end()
        if instance.folder.exists():
            instance.end()
        say(f"ended {instance.folder}")
    return 0
