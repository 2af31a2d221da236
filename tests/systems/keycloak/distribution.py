"""Keycloak's distribution: fetched by Maven, configured and started once, and cached by version.

An entry of the cache is complete or absent; of several callers only one makes it. Instances run
from it at the same time, each with a home of its own, and none writes to it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from ..processes import Daemon, NotReadyError, Ports, SystemUnavailableError, locked
from ..userenv import COMPLETE, cache_folder
from .packages import java as java_program
from .packages import maven

VERSION = "26.7.3"
ARTIFACT = f"org.keycloak:keycloak-quarkus-dist:{VERSION}:tar.gz"
ADMIN = "admin"
PATH = "/auth"
FETCH_SECONDS, BUILD_SECONDS, START_SECONDS = 900, 900, 300
BUILD = (
    "--db=dev-file",
    "--health-enabled=true",
    "--metrics-enabled=true",
    f"--http-relative-path={PATH}",
)
OPENED = ("util", "util.concurrent", "security", "lang")
PROPERTIES = {
    "file.encoding": "UTF-8",
    "java.util.concurrent.ForkJoinPool.common.threadFactory": (
        "io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory"
    ),
    "java.util.logging.manager": "org.jboss.logmanager.LogManager",
    "java.security.egd": "file:/dev/urandom",
    "picocli.disable.closures": "true",
    "quarkus-log-max-startup-records": "10000",
    "user.language": "en",
    "user.country": "US",
}
# of what makes the entry: another number is another entry
RECIPE = 1

Announce = Callable[[str], None]


class Distribution:
    """One version of Keycloak in the cache.

    Attributes:
        folder: Its entry.
    """

    def __init__(self) -> None:
        parts = "\n".join([VERSION, str(RECIPE), *BUILD])
        digest = hashlib.sha256(parts.encode()).hexdigest()[:12]
        self.folder = cache_folder() / f"keycloak-{VERSION}-{digest}"

    @property
    def ready(self) -> bool:
        """Whether it is complete."""
        return (self.folder / COMPLETE).exists()

    @property
    def program_folder(self) -> Path:
        """The distribution itself, as Maven has it, after `kc.sh build`."""
        return self.folder / "keycloak"

    @property
    def password(self) -> str:
        """The password of the administrator that every instance begins with."""
        return (self.folder / "admin-password").read_text()

    def ensure(self, announce: Announce | None = None) -> None:
        """Make it when it is absent (a minute and a half, and 180 MB to fetch).

        Args:
            announce: Told before anything is fetched.

        Raises:
            SystemUnavailableError: It cannot be had; says why.
        """
        if self.ready:
            return
        with locked(cache_folder() / f"{self.folder.name}.lock"):
            if self.ready:
                return
            if announce:
                announce(f"Fetching Keycloak {VERSION} into {self.folder} (once, 180 MB).")
            java_program()
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True, mode=0o700)
            self._fetch()
            self._build()
            self._start_once()
            (self.folder / COMPLETE).write_text(f"{VERSION}\n")

    def _fetch(self) -> None:
        """Fetch and unpack it; what Maven keeps beside it is thrown away."""
        with tempfile.TemporaryDirectory(prefix="part-", dir=self.folder) as kept:
            _run(
                [
                    str(maven()), "-B", "-q", f"-Dmaven.repo.local={kept}",
                    "dependency:get", f"-Dartifact={ARTIFACT}", "-Dtransitive=false",
                ],
                "fetching Keycloak",
                FETCH_SECONDS,
            )  # fmt: skip
            archive = next(Path(kept).rglob(f"keycloak-quarkus-dist-{VERSION}.tar.gz"))
            unpack = ["tar", "--extract", f"--file={archive}", f"--directory={self.folder}"]
            _run([*unpack, "--no-same-owner"], "unpacking Keycloak", FETCH_SECONDS)
        (self.folder / f"keycloak-{VERSION}").rename(self.program_folder)

    def _build(self) -> None:
        command = [str(self.program_folder / "bin" / "kc.sh"), "build", *BUILD]
        _run(command, "configuring Keycloak", BUILD_SECONDS)

    def _start_once(self) -> None:
        """Keep what a first start makes: a database with its tables, and Java's class archive.

        A start then takes six seconds instead of half a minute.
        """
        password = secrets.token_urlsafe(24)
        (self.folder / "admin-password").touch(mode=0o600)
        (self.folder / "admin-password").write_text(password)
        home = self.folder / "home"
        self.lay_out(home)
        ports = Ports()
        port, management = ports.reserve(2)
        variables = {
            "KC_BOOTSTRAP_ADMIN_USERNAME": ADMIN,
            "KC_BOOTSTRAP_ADMIN_PASSWORD": password,
        }
        daemon = Daemon(
            name="keycloak",
            argv=self.command(
                home, port, management, [f"-XX:ArchiveClassesAtExit={self._archive}"]
            ),
            log=self.folder / "first-start.log",
            record=self.folder / "first-start.json",
            ready=lambda: is_ready(management),
            environment={"PATH": os.environ.get("PATH", os.defpath), **variables},
            deadline_seconds=START_SECONDS,
        )
        try:
            daemon.launch()
            daemon.wait_ready()
            # as an administrator would: the class archive is written at a proper end
            daemon.signal(signal.SIGTERM)
            daemon.end(grace_seconds=120)
        except NotReadyError as error:
            message = f"Keycloak does not start: {error}"
            raise SystemUnavailableError(message) from error
        finally:
            daemon.end(grace_seconds=0)
            ports.release()
        (home / "lib").unlink()

    @property
    def _archive(self) -> Path:
        return self.folder / "classes.jsa"

    def lay_out(self, home: Path) -> None:
        """Make a home for an instance, with the database of the first start if there is one.

        Keycloak writes below its home alone, and looks there for the options it was built with.
        """
        kept = self.folder / "home" / "data"
        if kept.exists() and home != self.folder / "home":
            shutil.copytree(kept, home / "data")
        for name in ("conf", "providers"):
            (home / name).mkdir(parents=True)
        (home / "conf" / "keycloak.conf").touch()
        (home / "lib").symlink_to(self.program_folder / "lib")

    def command(
        self,
        home: Path,
        port: int,
        management_port: int,
        java: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> list[str]:
        """The command of an instance.

        Java itself, without kc.sh, which stays before it as another process.

        Args:
            home: From `lay_out`.
            port: Where it is to serve people, on loopback.
            management_port: Where it is to say how it is.
            java: More options of Java's.
            options: More options of Keycloak's.
        """
        java_options = ["-Xms64m", "-Xmx512m", "-XX:MaxMetaspaceSize=256m"]
        java_options += ["-XX:+ExitOnOutOfMemoryError", *java]
        if self._archive.exists():
            java_options += [f"-XX:SharedArchiveFile={self._archive}", "-Xshare:auto"]
        java_options += [f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in OPENED]
        properties = PROPERTIES | {
            "kc.home.dir": str(home),
            "jboss.server.config.dir": f"{home}/conf",
        }
        java_options += [f"-D{name}={value}" for name, value in properties.items()]
        return [
            str(java_program()), *java_options,
            "-cp", f"{self.program_folder}/lib/quarkus-run.jar",
            "io.quarkus.bootstrap.runner.QuarkusEntryPoint",
            "start", "--optimized",
            "--cache=local",  # or it opens ports for a cluster, on every address
            "--http-enabled=true", "--http-host=127.0.0.1", f"--http-port={port}",
            f"--http-management-port={management_port}",
            f"--hostname=http://127.0.0.1:{port}{PATH}", *options,
        ]  # fmt: skip


def is_ready(management_port: int) -> bool:
    """Whether an instance says that it serves."""
    url = f"http://127.0.0.1:{management_port}{PATH}/health/ready"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _run(command: Sequence[str], what: str, seconds: float) -> None:
    try:
        done = subprocess.run(
            list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", timeout=seconds, check=False,
            cwd="/",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"{what} failed: {error}"
        raise SystemUnavailableError(message) from error
    if done.returncode != 0:
        message = f"{what} failed ({done.returncode}): {' '.join(command)}\n{done.stdout[-1500:]}"
        raise SystemUnavailableError(message)
