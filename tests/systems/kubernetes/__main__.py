"""`python -m tests.systems.kubernetes`: the real Kubernetes test system by hand."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..processes import NotReadyError, SystemUnavailableError
from .binaries import MODULES
from .images import USER_IMAGE, USER_PREFIX, store
from .instances import instances, sweep
from .packages import install
from .system import KubernetesSystem


def up(*, keep: bool) -> int:
    """Start one, say how to use it, and end it at Ctrl-C (or SIGTERM)."""
    ends = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    for number in ends:
        signal.signal(number, signal.default_int_handler)
    try:
        with KubernetesSystem(keep=keep, by_hand=True) as system:
            # taken by sigwait from here on, so that a second Ctrl-C cannot break off the end
            signal.pthread_sigmask(signal.SIG_BLOCK, ends)
            print(_usage(system), flush=True)
            signal.sigwait(ends)
            print("ending it …", flush=True)
    except KeyboardInterrupt:  # while it was starting; what had been started is ended
        return 130
    return 0


def _usage(system: KubernetesSystem) -> str:
    return f"""\
Kubernetes is ready after {system.seconds_to_ready:.1f} s. Ctrl-C ends it with all its pods.

  export KUBECONFIG={system.kubeconfig} PATH={system.places.kubernetes}:$PATH
  kubectl run web --image={USER_IMAGE} -- python3 -m http.server
  kubectl get pods -o wide        # this machine reaches pods' addresses

  API server      {system.api_url}
  this machine    {system.host_address}: where a hub listens, for pods to reach it
  in the image    {USER_PREFIX}/bin/jupyterhub-singleuser
  logs            {system.run_folder}/log
"""


def build() -> int:
    """Install and build all that a test would otherwise wait for; nothing is started."""
    install()
    for module in MODULES:
        _timed(module.name, module.ensure)
    _timed("images", store)
    return 0


def _timed(name: str, make: Callable[[Callable[[str], None]], object]) -> None:
    began = time.monotonic()
    make(_say)
    _say(f"{name}: {time.monotonic() - began:.1f} s")


def _say(message: str) -> None:
    print(message, flush=True)


def status() -> int:
    """List the instances on this machine."""
    found = list(instances())
    for instance in found:
        owner = f"owner {instance.owner.pid}" if instance.owner else "owner unknown"
        state = "running" if instance.owned else "left behind"
        if instance.kept:
            state = "ended, logs kept"
        kind = "by hand" if instance.by_hand else "by a program"
        daemons = " ".join(instance.daemons) or "no daemons"
        print(f"{instance.folder}  {state}, started {kind}, {owner}: {daemons}")
    if not found:
        print("no Kubernetes test system runs here")
    return 0


def down(folder: str | None) -> int:
    """End instances that were started by hand, or the one in `folder`."""
    found = [each for each in instances() if each.by_hand if folder in (None, str(each.folder))]
    if not found:
        print("there is none that was started by hand" + (f" in {folder}" if folder else ""))
        return 1
    for instance in found:
        instance.ask_owner_to_end()
        if instance.folder.exists():
            instance.end()
        print(f"ended {instance.folder}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    program = "python -m tests.systems.kubernetes"
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    commands = parser.add_subparsers(dest="command")
    up_parser = commands.add_parser("up", help="start one and stay in the foreground (the default)")
    up_parser.add_argument("--keep", action="store_true", help="leave the logs behind")
    commands.add_parser("build", help="build programs and images, and start nothing")
    commands.add_parser("status", help="list those on this machine")
    down_parser = commands.add_parser("down", help="end those that were started by hand")
    down_parser.add_argument("folder", nargs="?", type=lambda text: str(Path(text)))
    commands.add_parser("sweep", help="end what killed test runs left behind")
    options = parser.parse_args(arguments)
    try:
        if options.command == "build":
            return build()
        if options.command == "status":
            return status()
        if options.command == "down":
            return down(options.folder)
        if options.command == "sweep":
            for folder in sweep():
                print(f"ended {folder}")
            return 0
        return up(keep=getattr(options, "keep", False))
    except (SystemUnavailableError, NotReadyError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
