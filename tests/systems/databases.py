"""What the real PostgreSQL and the real MariaDB of the tests have in common.

Each is one server in a folder of its own, on a port of loopback and as the unprivileged account
that its Debian package has made; durable enough for tests, and ended by its pid.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from .packages import SEARCH_PATH, install_packages
from .processes import Daemon, NotReadyError, Ports, SystemUnavailableError, identity, listening
from .run_folders import RunFolder, sweep


class DatabaseServer(ABC):
    """A server that one run of tests has for itself."""

    name: str
    user: str
    packages: tuple[str, ...]

    def __init__(self) -> None:
        self.ports = Ports()
        self.port = 0
        self.password = secrets.token_hex(12)
        self._run: RunFolder | None = None
        self._daemon: Daemon | None = None

    @property
    def folder(self) -> Path:
        """Where it keeps everything."""
        assert self._run is not None, f"{self.name} is not started"
        return self._run.folder

    def start(self) -> None:
        """Make an empty server, and start it.

        Raises:
            SystemUnavailableError: It cannot run here; says why.
        """
        sweep(f"qhub-{self.name}-")
        install_packages(self.packages, self.name)
        self._run = RunFolder.make(f"qhub-{self.name}-")
        (self.port,) = self.ports.reserve()
        self.folder.chmod(0o711)
        data = self.folder / "own"
        data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            entry = pwd.getpwnam(self.user)
            os.chown(data, entry.pw_uid, entry.pw_gid)
        try:
            self.install(data)
            self.resume()
        except (OSError, NotReadyError) as error:
            self.stop()
            message = f"{self.name} does not start: {error}"
            raise SystemUnavailableError(message) from error
        except BaseException:
            self.stop()
            raise

    def resume(self) -> None:
        """Start the server in the folder it has, again."""
        self._daemon = Daemon(
            name=self.name,
            argv=self.command(self.folder / "own"),
            log=self.folder / "log" / "server.log",
            record=self.folder / "pids" / f"{self.name}.json",
            ready=self.ready,
            user=self.account,
            environment={"PATH": SEARCH_PATH, "LANG": "C.UTF-8"},
            deadline_seconds=60,
        )
        self._daemon.launch()
        self._daemon.wait_ready()

    def ready(self) -> bool:
        """Whether it takes connections."""
        return listening(self.port)

    def pause(self) -> None:
        """End the server; its folder stays, for `resume`."""
        if self._daemon is not None:
            self._daemon.end()

    def stop(self) -> None:
        """End it and remove its folder."""
        self.pause()
        self.ports.release()
        if self._run is not None:
            shutil.rmtree(self._run.folder, ignore_errors=True)
            self._run = None

    def make(self) -> str:
        """Make an empty database; returns its address as SQLAlchemy writes it."""
        database = f"qhub_{secrets.token_hex(4)}"
        self.run(database)
        return self.url(database)

    @property
    def account(self) -> str | None:
        """Whom it runs as; None for ourselves when we are not root."""
        return self.user if os.geteuid() == 0 else None

    def tool(self, argv: Sequence[str | Path], **environment: str) -> None:
        """Run one of its tools as its account.

        Raises:
            SystemUnavailableError: It fails; with the end of what it said.
        """
        extra = identity(self.account) if self.account else {}
        done = subprocess.run(
            list(map(str, argv)), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            cwd="/", env={"PATH": SEARCH_PATH, "LANG": "C.UTF-8", **environment},
            timeout=120, check=False, **extra,  # type: ignore[call-overload]
        )  # fmt: skip
        if done.returncode != 0:
            said = (done.stdout + done.stderr)[-600:]
            message = f"{self.name}: {argv[0]} ended with {done.returncode}: {said}"
            raise SystemUnavailableError(message)

    @abstractmethod
    def install(self, data: Path) -> None:
        """Fill the folder of an empty server."""

    @abstractmethod
    def command(self, data: Path) -> list[str]:
        """The command of the server."""

    @abstractmethod
    def run(self, database: str) -> None:
        """Make a database."""

    @abstractmethod
    def url(self, database: str) -> str:
        """The address of a database, with its password."""
