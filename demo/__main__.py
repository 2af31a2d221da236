"""`python -m demo`: bring a hub up for a person, or make the round through it."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence

try:
    from tests.systems.kubernetes import ApiError
    from tests.systems.kubernetes import CommandFailedError as KubectlFailedError
    from tests.systems.processes import NotReadyError, SystemUnavailableError, tail
    from tests.systems.slurm import CommandFailedError

    from .both import both_stage
    from .check import CheckFailedError, check
    from .keycloak import keycloak_stage
    from .kubernetes import kubernetes_stage
    from .local import local_stage
    from .slurm import slurm_stage
    from .stage import ENDS, Stage, say
except ModuleNotFoundError as error:
    sys.exit(f"demo: {sys.executable} lacks {error.name}; ./run demo brings all that is needed")

STAGES = {
    "local": local_stage,
    "slurm": slurm_stage,
    "kubernetes": kubernetes_stage,
    "both": both_stage,
}
KEYCLOAK = "keycloak"
PORT = 8000
LARGEST_PORT = 65535
LOOK_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1  # prctl(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; 0 when it was ended or its check got through, else 1 with an error."""
    options = _parser().parse_args(arguments)
    default = None if options.check else PORT
    port = default if options.port is None else options.port
    problem = _port_problem(port) if port is not None else None
    if problem:
        return _failed(problem)
    if options.behind and options.system != KEYCLOAK:
        return _failed(f"{options.system} {options.behind}: only keycloak goes with another system")
    for number in ENDS:
        signal.signal(number, signal.default_int_handler)
    _end_with_nox()
    began = time.monotonic()
    try:
        with _stage(options.system, options.behind, port) as stage:
            if options.check:
                seen = check(stage)
            else:
                seen = _until_told(stage, _welcome(stage, time.monotonic() - began))
    except KeyboardInterrupt:
        say("Ended before it was up; nothing of it is left.")
        return 0 if not options.check else 1
    except (
        SystemUnavailableError,
        NotReadyError,
        CommandFailedError,
        KubectlFailedError,
        ApiError,
        CheckFailedError,
        OSError,
    ) as error:
        return _failed(str(error))
    say(seen)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./run demo",
        description="A hub to try out, on this machine or on real clusters that this brings up.",
    )
    parser.add_argument(
        "system",
        nargs="?",
        choices=(*STAGES, KEYCLOAK),
        default="local",
        help="servers as processes here (the default), as jobs of a real Slurm, as pods of a real "
        "Kubernetes, or as either (all but the first need root); keycloak: log-in at a real one",
    )
    parser.add_argument(
        "behind",
        nargs="?",
        choices=tuple(STAGES),
        help="with keycloak: where the servers are (default: local)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="make the round alone: log in, choose, wait, run code, stop; 0 if all went well",
    )
    parser.add_argument(
        "--port",
        type=int,
        metavar="N",
        help=f"where the hub is opened (default: {PORT}; with --check any free one)",
    )
    return parser


def _stage(
    system: str, behind: str | None, port: int | None
) -> contextlib.AbstractContextManager[Stage]:
    if system == KEYCLOAK:
        name = behind or "local"
        return keycloak_stage(port, name, STAGES[name])
    return STAGES[system](port)


def _failed(message: str) -> int:
    print(f"demo: {message}", file=sys.stderr, flush=True)
    return 1


def _port_problem(port: int) -> str | None:
    """Say why the hub could not be opened at `port`; None when it could."""
    if not 0 < port <= LARGEST_PORT:
        return f"--port {port}: a port is a number from 1 to {LARGEST_PORT}"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            why = "is taken by another program"
            if error.errno != errno.EADDRINUSE:
                why = f"cannot be used: {error.strerror}"
            return f"port {port} of 127.0.0.1 {why}; choose another with --port N"
    return None


def _end_with_nox() -> None:
    """Have the kernel send SIGTERM when nox is killed, which cannot tell us itself (prctl(2))."""
    if os.environ.get("NOX_CURRENT_SESSION"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _welcome(stage: Stage, seconds: float) -> str:
    hints = "\n".join(f"  - {hint}" for hint in stage.hints)
    return f"""
The hub is up after {seconds:.1f} s.

  Address    {stage.hub.url}
  User       {" or ".join(stage.people)}
  Password   {stage.password}

{hints}
  - From another computer: ssh -L {stage.hub.port}:127.0.0.1:{stage.hub.port} {socket.gethostname()}

The hub's log is {stage.hub.log}
Ctrl-C ends the hub and every server, and removes {stage.remains}.
"""


def _until_told(stage: Stage, welcome: str) -> str:
    """Welcome people, wait for Ctrl-C, SIGTERM or the terminal's end; hub and proxy must live.

    Raises:
        NotReadyError: One of them ended by itself.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    say(welcome)
    while signal.sigtimedwait(ENDS, LOOK_SECONDS) is None:
        for daemon in (stage.hub.hub, stage.hub.proxy):
            if not daemon.running:
                message = f"the {daemon.name} ended by itself; its log:\n{tail(daemon.log, 30)}"
                raise NotReadyError(message)
    say("\nEnding …")
    return "Everything has ended."


if __name__ == "__main__":
    sys.exit(main())
