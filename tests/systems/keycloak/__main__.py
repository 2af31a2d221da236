"""`python -m tests.systems.keycloak`: the real Keycloak test system by hand."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ..processes import NotReadyError, SystemUnavailableError
from .distribution import ADMIN, Distribution
from .realms import Realm
from .system import SHARED, KeycloakSystem, instances, sweep


def up(*, keep: bool, hub_url: str | None) -> int:
    """Start one with the demo's realm, say how to use it, and end it at Ctrl-C (or SIGTERM)."""
    ends = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    for number in ends:
        signal.signal(number, signal.default_int_handler)
    system = KeycloakSystem(keep=keep, by_hand=True)
    try:
        system.start(_say)
        try:
            realm = system.make_realm(name="demo", hub_url=hub_url)
            # taken by sigwait from here on, so that a second Ctrl-C cannot break off the end
            signal.pthread_sigmask(signal.SIG_BLOCK, ends)
            _say(_usage(system, realm))
            signal.sigwait(ends)
            _say("ending it …")
        finally:
            system.stop()
    except KeyboardInterrupt:  # while it was starting; what had been started is ended
        return 130
    return 0


def _usage(system: KeycloakSystem, realm: Realm) -> str:
    people = ", ".join(f"{name} ({realm.password_of(name)})" for name in realm.people)
    return f"""\
Keycloak is ready after {system.seconds_to_ready:.1f} s. Ctrl-C ends it.

  console      {system.url}/admin   {ADMIN}, password in {Distribution().folder}/admin-password
  issuer       {realm.issuer}
  people       {people}
  hub          client {realm.client_id}, secret {realm.client_secret},
               at {realm.hub_url}
  service      client {realm.service_client_id}, secret {realm.service_secret}
  log          {system.run_folder}/log/keycloak
  for tests    {SHARED}={system.run_folder} pytest …   uses this one
"""


def _say(message: str) -> None:
    print(message, flush=True)


def status() -> int:
    """List the instances on this machine."""
    found = instances()
    for each in found:
        _say(each.describe())
    if not found:
        _say("no Keycloak test system runs here")
    return 0


def down(folder: str | None) -> int:
    """End instances that were started by hand, or the one in `folder`."""
    found = [each for each in instances() if each.by_hand if folder in (None, str(each.folder))]
    if not found:
        _say("there is none that was started by hand" + (f" in {folder}" if folder else ""))
        return 1
    for each in found:
        each.ask_owner_to_end()
        if each.folder.exists():
            each.end()
        _say(f"ended {each.folder}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    program = "python -m tests.systems.keycloak"
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    commands = parser.add_subparsers(dest="command")
    up_parser = commands.add_parser("up", help="start one and stay in the foreground (the default)")
    up_parser.add_argument("--keep", action="store_true", help="leave the log behind")
    up_parser.add_argument("--hub-url", help="where the hub is that logs in to the realm `demo`")
    commands.add_parser("build", help="fetch it into the cache, and start nothing")
    commands.add_parser("status", help="list those on this machine")
    down_parser = commands.add_parser("down", help="end those that were started by hand")
    down_parser.add_argument("folder", nargs="?", type=lambda text: str(Path(text)))
    commands.add_parser("sweep", help="end what killed test runs left behind")
    options = parser.parse_args(arguments)
    try:
        if options.command == "build":
            Distribution().ensure(_say)
            return 0
        if options.command == "status":
            return status()
        if options.command == "down":
            return down(options.folder)
        if options.command == "sweep":
            for folder in sweep():
                _say(f"ended {folder}")
            return 0
        keep, hub_url = getattr(options, "keep", False), getattr(options, "hub_url", None)
        return up(keep=keep, hub_url=hub_url)
    except (SystemUnavailableError, NotReadyError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
