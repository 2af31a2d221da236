"""`python -m tests.systems.traefik`: the Traefik for tests, by hand."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence

from ..processes import NotReadyError, SystemUnavailableError
from .binaries import TRAEFIK
from .system import TraefikSystem


def build() -> int:
    """Build it where the cache has none; nothing is started."""
    began = time.monotonic()
    folder = TRAEFIK.ensure(lambda message: print(message, flush=True))
    print(f"traefik: {time.monotonic() - began:.1f} s, in {folder}", flush=True)
    return 0


def up() -> int:
    """Start one without routes, and end it at Ctrl-C."""
    ends = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    for number in ends:
        signal.signal(number, signal.default_int_handler)
    try:
        with TraefikSystem() as system:
            signal.pthread_sigmask(signal.SIG_BLOCK, ends)
            print(
                f"Traefik listens at http://{system.http} and https://{system.https}.\n"
                f"  routes   {system.folder}/dynamic/*.yml, watched\n"
                f"  log      {system.log}\nCtrl-C ends it.",
                flush=True,
            )
            signal.sigwait(ends)
    except KeyboardInterrupt:
        return 130
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.systems.traefik", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["up", "build"], default="up")
    options = parser.parse_args(arguments)
    try:
        return build() if options.command == "build" else up()
    except (SystemUnavailableError, NotReadyError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
