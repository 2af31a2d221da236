"""A real Keycloak on this machine, started in seconds and ended without a trace."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from qhub_auth.realm import RealmModel, filled, references, render

from ..processes import Daemon, NotReadyError, Ports, SystemUnavailableError
from ..run_folders import RunFolder, run_folders
from ..run_folders import sweep as sweep_folders
from .admin import Admin
from .demo import demo_model
from .distribution import ADMIN, PATH, START_SECONDS, Announce, Distribution, is_ready
from .realms import Realm

PREFIX = "qkeycloak-"
RECORD = "system.json"
SHARED = "QHUB_KEYCLOAK"
# The quick compiler alone is right for something that lives for minutes: half the time to start,
# and no second compilation beside a test.
QUICK = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


class KeycloakSystem:
    """Keycloak with its own database, on loopback. Several may run at once; none needs root.

    Use it as a context manager, or `start` and `stop` it.

    Args:
        keep: Leave the run folder with its log behind when it stops.
        by_hand: Recorded for `python -m tests.systems.keycloak down`.
        for_load: Whether Java is to compile for speed: for measuring, not for tests.
        java_options: More options of Java's.
        options: More options of `kc.sh start`.

    Attributes:
        seconds_to_ready: How long `start` took.
    """

    def __init__(
        self,
        *,
        keep: bool = False,
        by_hand: bool = False,
        for_load: bool = False,
        java_options: tuple[str, ...] = (),
        options: tuple[str, ...] = (),
    ) -> None:
        self.seconds_to_ready = 0.0
        self._keep = keep
        self._by_hand = by_hand
        self._java_options = (*(() if for_load else QUICK), *java_options)
        self._options = options
        self._ports = Ports()
        self._folder: Path | None = None
        self._daemon: Daemon | None = None
        self._admin: Admin | None = None
        self._url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # ---- start and stop

    def start(self, announce: Announce | None = None) -> None:
        """Fetch it when it is absent from the cache, start it, and return when it serves.

        Args:
            announce: Told before anything is fetched.

        Raises:
            SystemUnavailableError: This machine cannot run it.
            NotReadyError: It ended or was late; with its command and the end of its log.
        """
        if self.running:
            message = "this Keycloak has been started already"
            raise RuntimeError(message)
        distribution = Distribution()
        distribution.ensure(announce)
        began = time.monotonic()
        try:
            self._launch(distribution)
        except BaseException:
            if self._folder is not None:
                # told on stderr: pytest shows it beside the error
                print(f"Keycloak's log is kept in {self._folder}/log", file=sys.stderr)
                self.stop(keep=True)
            raise
        self.seconds_to_ready = time.monotonic() - began

    def _launch(self, distribution: Distribution) -> None:
        self._folder = folder = RunFolder.make(PREFIX, by_hand=self._by_hand).folder
        port, management = self._ports.reserve(2)
        distribution.lay_out(folder / "home")
        self._url = f"http://127.0.0.1:{port}{PATH}"
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder)}
        self._daemon = Daemon(
            name="keycloak",
            argv=distribution.command(
                folder / "home", port, management, self._java_options, self._options
            ),
            log=folder / "log" / "keycloak",
            record=folder / "pids" / "keycloak.json",
            ready=lambda: is_ready(management),
            environment=environment,
            deadline_seconds=START_SECONDS,
        )
        self._daemon.launch()
        self._daemon.wait_ready()
        self._connect(distribution.password)
        record = {"url": self._url, "management_port": management, "user": ADMIN}
        part = folder / f"{RECORD}.part"
        part.touch(mode=0o600)
        part.write_text(json.dumps({**record, "password": distribution.password}))
        part.rename(folder / RECORD)

    def _connect(self, password: str) -> None:
        self._admin = Admin(self._url, ADMIN, password)

    @classmethod
    def attach(cls, folder: Path) -> Self:
        """Use an instance that another process started and ends.

        Raises:
            SystemUnavailableError: There is none; says where it was looked for.
        """
        try:
            record = json.loads((folder / RECORD).read_text())
        except (OSError, ValueError) as error:
            message = f"no Keycloak runs in {folder}: {error}"
            raise SystemUnavailableError(message) from error
        system = cls()
        system._folder, system._url = folder, record["url"]
        system._connect(record["password"])
        return system

    @classmethod
    def shared(cls) -> Self | None:
        """The instance whose run folder `QHUB_KEYCLOAK` names, if it does."""
        named = os.environ.get(SHARED)
        return cls.attach(Path(named)) if named else None

    def stop(self, *, keep: bool | None = None) -> None:
        """End it, and remove the run folder (unless kept). May be repeated.

        One that was attached to goes on.

        Raises:
            NotReadyError: It survives SIGKILL.
        """
        if self._admin is not None:
            self._admin.close()
            self._admin = None
        folder, self._folder = self._folder, None
        if self._daemon is None or folder is None:
            return
        keep = self._keep if keep is None else keep
        self._daemon.end(grace_seconds=20 if keep else 0)  # its data is thrown away
        self._daemon = None
        if keep:
            (folder / "kept").touch()
        else:
            shutil.rmtree(folder)
        self._ports.release()

    # ---- what tests need to know

    @property
    def running(self) -> bool:
        """Whether it has been started, and not yet stopped."""
        return self._folder is not None

    @property
    def url(self) -> str:
        """Its address, with its path and without a slash at the end."""
        return self._url

    @property
    def run_folder(self) -> Path:
        """Everything of this instance.

        Raises:
            RuntimeError: It does not run.
        """
        if self._folder is None:
            message = "this Keycloak does not run"
            raise RuntimeError(message)
        return self._folder

    @property
    def log(self) -> str:
        """What it has said so far."""
        return (self.run_folder / "log" / "keycloak").read_text(errors="replace")

    @property
    def admin(self) -> Admin:
        """Its admin API, as its first administrator.

        Raises:
            RuntimeError: It does not run.
        """
        if self._admin is None:
            message = "this Keycloak does not run"
            raise RuntimeError(message)
        return self._admin

    # ---- realms

    def make_realm(
        self,
        model: RealmModel | Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        hub_url: str | None = None,
        secret_values: Mapping[str, str] | None = None,
        **changes: object,
    ) -> Realm:
        """Make a realm (about a second), for whoever asks and nobody else.

        Args:
            model: What it consists of; the demo's realm by default. A representation is taken as
                it is, its name too, which other parts of it may repeat.
            name: A model's name; one that nobody else has, by default.
            hub_url: The hub's address, if it is known already (else `Realm.set_hub_url`).
            secret_values: For references in it, ``${NAME}``; those without one get a random one.
            changes: Fields of the model to change.

        Raises:
            AdminError: Keycloak refused it; with its words.
        """
        model = demo_model() if model is None else model
        if isinstance(model, RealmModel):
            values = model.model_dump()
            name = name or f"r-{secrets.token_hex(4)}"
            values |= {"name": name, **changes}
            if hub_url:
                values["hub"]["url"] = hub_url
            # a second look at what was changed: model_copy would take anything
            model = RealmModel.model_validate(values)
            representation: Mapping[str, Any] = render(model)
        else:
            representation, name = model, str(model["realm"])
        given = dict(secret_values or {})
        for each in references(representation):
            given.setdefault(each, secrets.token_urlsafe(24))
        representation = filled(representation, given)
        self.admin.post("/admin/realms", representation)
        return Realm(self, name, representation, model if isinstance(model, RealmModel) else None)

    def realm(self, name: str) -> Realm:
        """A realm that is there already, without its secrets and passwords."""
        return Realm(self, name, self.admin.get(f"/admin/realms/{name}"), None)

    # ---- drills; only on an instance of one's own

    def _own(self) -> Daemon:
        if self._daemon is None:
            message = "this Keycloak is another process's: start one of your own for drills"
            raise RuntimeError(message)
        return self._daemon

    def stop_daemon(self) -> None:
        """End it as an administrator would; its data stay, for `start_daemon`."""
        self._own().end(grace_seconds=30)

    def kill_daemon(self) -> None:
        """End it with SIGKILL; its data stay, for `start_daemon`."""
        self._own().end(grace_seconds=0)

    def start_daemon(self) -> None:
        """Start it again at the same address, with its data, and wait until it serves."""
        daemon = self._own()
        daemon.launch()
        daemon.wait_ready()

    def pause(self) -> None:
        """Stop its process (SIGSTOP): clients connect, and get no answer."""
        self._own().signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        self._own().signal(signal.SIGCONT)


def instances() -> list[RunFolder]:
    """All instances of this user on this machine."""
    return list(run_folders(PREFIX))


def sweep() -> list[Path]:
    """End every instance whose owner is gone; returns their folders.

    Raises:
        NotReadyError: Something survives.
    """
    return sweep_folders(PREFIX)


__all__ = ["PREFIX", "SHARED", "KeycloakSystem", "NotReadyError", "instances", "sweep"]
