"""``qhub-group-sync``: keeps groups, roles and who may come in as Keycloak says.

The hub starts it (`qhub_auth.configure.group_sync`), or systemd does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Collection
from pathlib import Path

from traitlets import Bool, Float, Instance, Integer, List, Unicode, default
from traitlets.config import Application, catch_config_error

from qhub_auth import __version__
from qhub_auth.errors import ConfigurationError, QHubAuthError
from qhub_auth.keycloak.admin import KeycloakAdmin
from qhub_auth.keycloak.settings import Keycloak
from qhub_auth.numbers.identities import Identities
from qhub_auth.settings_file import read_settings
from qhub_auth.sync.afterwards import Afterwards
from qhub_auth.sync.hub_door import HubDoor
from qhub_auth.sync.lifetime import hub_is_gone
from qhub_auth.sync.pacing import Rhythm
from qhub_auth.sync.reconciling import Limits
from qhub_auth.sync.report import Report, metrics, shown_status
from qhub_auth.sync.state import SyncState
from qhub_auth.sync.syncing import Syncing

__all__ = ["GroupSync", "main"]

_COMMANDS = ("run", "report", "status", "confirm")
_STATUS_SECONDS = 10.0


class GroupSync(Application):
    """Keep groups, roles and who may come in as Keycloak says."""

    name = "qhub-group-sync"
    version = __version__
    description = __doc__ or ""
    examples = """
    qhub-group-sync --config qhub_auth_config.py             # go on until it is ended
    qhub-group-sync report --config qhub_auth_config.py      # what would change, and why
    qhub-group-sync status --config qhub_auth_config.py      # how the running one is
    qhub-group-sync confirm ID --config qhub_auth_config.py  # what was held back is meant
    """
    classes = [Keycloak, Identities]  # noqa: RUF012 - as traitlets declares it
    aliases = {  # noqa: RUF012 - likewise
        "config": "GroupSync.config_file",
        "log-level": "Application.log_level",
    }
    flags = {  # noqa: RUF012 - likewise
        "dry-run": ({"GroupSync": {"dry_run": True}}, "Only say what would change."),
        "json": ({"GroupSync": {"as_json": True}}, "Print JSON."),
        "metrics": ({"GroupSync": {"as_metrics": True}}, "Print metrics for Prometheus (status)."),
        "debug": ({"Application": {"log_level": 10}}, "Say more in the log."),
    }

    config_file = Unicode(
        "qhub_auth_config.py",
        config=True,
        help="""
        The file that the hub shares, with the settings of Keycloak, KeycloakAuthenticator (who may
        come in), Identities and GroupSync.
        """,
    )
    dry_run = Bool(
        False, config=True, help="Only say in the log what would change, and change nothing."
    )
    as_json = Bool(False, config=True, help="Print JSON and not text.")
    as_metrics = Bool(False, config=True, help="Print metrics and not text.")
    hub_url = Unicode(
        config=True,
        help="""
        The hub's API. Default: what the hub tells a service that it starts
        (``JUPYTERHUB_API_URL``).

        Example: ``c.GroupSync.hub_url = "http://127.0.0.1:8081/hub/api"``
        """,
    )
    hub_token_file = Unicode(
        config=True,
        help="""
        A file with the service's token at the hub, and nothing else. Default: none, the token that
        the hub gives a service that it starts (``JUPYTERHUB_API_TOKEN``).
        """,
    )
    poll_seconds = Float(
        2.0,
        min=0.2,
        max=60.0,
        config=True,
        help="""
        How often Keycloak is asked what has changed, in seconds. A change counts in the hub about a
        second after it was seen. Default: 2, one small request that costs Keycloak a few
        milliseconds.
        """,
    )
    overlap_seconds = Float(
        60.0,
        min=1.0,
        max=3600.0,
        config=True,
        help="""
        How late a change may appear in Keycloak's list of events, in seconds: by a long
        transaction, or a Keycloak of the same cluster whose clock is behind. Default: 60.
        """,
    )
    full_seconds = Float(
        900.0,
        min=10.0,
        max=24 * 3600.0,
        config=True,
        help="""
        How often everything is compared, in seconds. It finds what makes no events: changes in LDAP
        or another source behind Keycloak, and people who change or delete their own account.
        Default: 900, a quarter of an hour; with 10,000 people and 500 groups it costs Keycloak some
        560 requests.
        """,
    )
    grace_seconds = Float(
        0.0,
        min=0.0,
        max=7 * 24 * 3600.0,
        config=True,
        help="""
        How long servers go on of somebody who was disabled, deleted or is not allowed any more, in
        seconds. Their sessions and tokens end at once in any case. Default: 0, servers too: who was
        locked out because of an incident must not go on working in a terminal.
        """,
    )
    held_percent = Float(
        20.0,
        min=0.0,
        max=100.0,
        config=True,
        help="""
        If lists of Keycloak would take away more than this part of all people, or of all
        memberships, in percent, nothing is taken away until an administrator confirms it
        (``qhub-group-sync confirm``) or the lists come back. What an administrator changes in
        Keycloak by hand is not meant by this, however much it is. Default: 20.
        """,
    )
    held_at_least = Integer(
        5,
        min=0,
        config=True,
        help="So many people or memberships may go in any case, for small hubs. Default: 5.",
    )

    after_changes = List(
        List(Unicode(), minlen=1),
        config=True,
        help="""
        Commands to run some time after groups, roles or people changed, and after each comparison
        of everything: lists of a program and its arguments, without a shell. One that fails is told
        in the log and run again. Default: none.

        Example: ``c.GroupSync.after_changes = [["/opt/hub/bin/qhub-identity", "--config",
        "/etc/jupyterhub/qhub_auth_config.py", "nss"]]``
        """,
    )
    after_changes_seconds = Float(
        60.0,
        min=0.0,
        max=24 * 3600.0,
        config=True,
        help="""
        How long after a change those commands are run, in seconds, so that many changes lead to one
        run. They read everything from Keycloak anew. Default: 60.
        """,
    )
    after_changes_timeout_seconds = Float(
        600.0,
        min=1.0,
        config=True,
        help="How long one of those commands may take, in seconds. Default: 600.",
    )

    keycloak = Instance(Keycloak)
    identities = Instance(Identities)

    @default("keycloak")
    def _keycloak_default(self) -> Keycloak:
        return Keycloak(parent=self)

    @default("identities")
    def _identities_default(self) -> Identities:
        return Identities(parent=self)

    @default("log_level")
    def _log_level_default(self) -> int:
        return logging.INFO

    @default("log_format")
    def _log_format_default(self) -> str:
        return "[%(levelname)1.1s %(asctime)s.%(msecs).03d %(name)s] %(message)s"

    @catch_config_error
    def initialize(self, argv: list[str] | None = None) -> None:
        """Read the command line and the file of settings."""
        self.parse_command_line(argv)
        on_command_line = self.cli_config
        self.update_config(read_settings(Path(self.config_file)))
        self.update_config(on_command_line)

    # ---- the commands ----

    def command(self) -> int:
        """Do what the command line says; return the exit code."""
        words = list(self.extra_args) or ["run"]
        command, rest = words[0], words[1:]
        if command not in _COMMANDS or len(rest) != (command == "confirm"):
            _complain(f"expected one of: {', '.join(_COMMANDS[:-1])}, confirm ID")
            return 2
        self.identities.may_create = command == "run"
        if command == "confirm":
            return self._confirm(rest[0])
        if command == "status":
            return self._status()
        work = self._report if command == "report" else self._run
        return asyncio.run(work())

    def _state(self) -> SyncState:
        return SyncState(self.identities.store, self.keycloak.issuer)

    def _known(self, subs: Collection[str]) -> Collection[str]:
        return self.identities.store.find_all(subs)

    def _syncing(self, *, dry_run: bool) -> Syncing:
        self.keycloak.check()
        return Syncing(
            KeycloakAdmin(self.keycloak),
            HubDoor(self._hub_address(), self._hub_token()),
            self._state(),
            known=self._known,
            rhythm=Rhythm(
                poll=self.poll_seconds,
                overlap=self.overlap_seconds,
                full=self.full_seconds,
                grace=self.grace_seconds,
            ),
            limits=Limits(percent=self.held_percent, at_least=self.held_at_least),
            dry_run=dry_run,
            log=self.log,
        )

    def _hub_address(self) -> str:
        return self.hub_url or os.environ.get("JUPYTERHUB_API_URL", "")

    def _hub_token(self) -> str:
        if not self.hub_token_file:
            return os.environ.get("JUPYTERHUB_API_TOKEN", "")
        try:
            return Path(self.hub_token_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigurationError(
                f"c.GroupSync.hub_token_file, {self.hub_token_file}: {error.strerror}"
            ) from error

    async def _run(self) -> int:
        syncing = self._syncing(dry_run=self.dry_run)
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        self.log.info("Following %s", self.keycloak.issuer)
        afterwards = Afterwards(
            [] if self.dry_run else self.after_changes,
            settle=self.after_changes_seconds,
            timeout=self.after_changes_timeout_seconds,
            log=self.log,
        )
        syncing.changed = afterwards.changed
        beside = {
            asyncio.create_task(self._tell_status(syncing)),
            asyncio.create_task(afterwards.run()),
            asyncio.create_task(self._end_with_hub(stopping)),
        }
        try:
            await syncing.run(stopping)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)
            await syncing.hub.aclose()
            await self.keycloak.aclose()
        self.log.info("Ended")
        return 0

    async def _end_with_hub(self, stopping: asyncio.Event) -> None:
        await hub_is_gone(os.environ)
        self.log.warning("The hub that runs this service is gone: ending")
        stopping.set()

    async def _tell_status(self, syncing: Syncing) -> None:
        """Keep in the database how it is, for ``status``."""
        began = time.time()
        while not self.dry_run:
            status = {**syncing.status(), "pid": os.getpid(), "began": began, "at": time.time()}
            try:
                await asyncio.to_thread(syncing.state.set_status, status)
            except QHubAuthError as error:
                self.log.warning("How it is could not be written: %s", error)
            await asyncio.sleep(_STATUS_SECONDS)

    async def _report(self) -> int:
        syncing = self._syncing(dry_run=True)
        report = Report()
        try:
            await syncing.once(report.add)
        finally:
            await syncing.hub.aclose()
            await self.keycloak.aclose()
        report.people = len(syncing.snapshot.people) if syncing.snapshot else 0
        report.groups = len(syncing.snapshot.realm.groups) if syncing.snapshot else 0
        report.users = len(syncing.users)
        report.unknown = sum(1 for user in syncing.users.values() if user.sub is None)
        report.held = syncing.held
        _say(report.json() if self.as_json else report.text())
        return 0

    def _status(self) -> int:
        state = self._state()
        status, held = state.status(), state.held()
        if self.as_json:
            _say(json.dumps({**status, "held": held}, indent=2))
        elif self.as_metrics:
            _say(metrics(status, held, time.time()).rstrip())
        else:
            _say(shown_status(status, held, time.time()))
        return 0 if status else 1

    def _confirm(self, ident: str) -> int:
        state = self._state()
        if state.confirm(ident):
            _say(f"{ident} is confirmed; the running service does it within half a minute or so")
            return 0
        held = state.held()
        waits = f"; what waits is {held['id']}: {held['what']}" if held else "; nothing waits"
        _complain(f"nothing of the id {ident} is held back{waits}")
        return 1


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _complain(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    # What httpx logs at INFO is every request.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    application = GroupSync.instance()
    try:
        application.initialize(argv)
        sys.exit(application.command())
    except QHubAuthError as error:
        _complain(f"qhub-group-sync: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
