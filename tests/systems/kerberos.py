"""A real Kerberos on loopback: a KDC (MIT's) with people, services, key tabs and tickets."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from .packages import install_packages, program
from .processes import Daemon, NotReadyError, Ports, listening
from .run_folders import RunFolder
from .run_folders import sweep as sweep_folders

PREFIX = "qkerberos-"
PACKAGES = ("krb5-kdc", "krb5-admin-server", "krb5-user")
REALM = "EXAMPLE.ORG"
COMMAND_SECONDS = 60


class KerberosSystem:
    """krb5kdc with a database of its own. Needs no root once its packages are installed.

    Args:
        people: Passwords by name.
        services: Principals of services without their realm, e.g. ``HTTP/127.0.0.1``.

    Attributes:
        seconds_to_ready: How long `start` took.
    """

    def __init__(self, people: Mapping[str, str], services: tuple[str, ...]) -> None:
        self.people = dict(people)
        self.services = services
        self.seconds_to_ready = 0.0
        self._ports = Ports()
        self._folder: Path | None = None
        self._daemon: Daemon | None = None

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

    def start(self) -> None:
        """Make the database, start the KDC, and return when it answers.

        Raises:
            SystemUnavailableError: It cannot be had here.
            NotReadyError: It ended or was late; with the end of its log.
        """
        install_packages(PACKAGES, "Kerberos")
        began = time.monotonic()
        self._folder = folder = RunFolder.make(PREFIX).folder
        (port,) = self._ports.reserve()
        self.configuration.write_text(_client_configuration(port))
        (folder / "kdc.conf").write_text(_kdc_configuration(folder, port))
        try:
            master = secrets.token_urlsafe(24)
            self._run([program("kdb5_util"), "create", "-s", "-r", REALM, "-P", master])
            commands = [f"addprinc -pw {word} {name}" for name, word in self.people.items()]
            for service in self.services:
                commands += [f"addprinc -randkey {service}", f"ktadd -k {self.key_tab} {service}"]
            self._run([program("kadmin.local"), "-r", REALM], "\n".join([*commands, "quit", ""]))
            self._daemon = Daemon(
                name="krb5kdc",
                argv=[program("krb5kdc"), "-n", "-r", REALM],
                log=folder / "log" / "krb5kdc",
                record=folder / "pids" / "krb5kdc.json",
                ready=lambda: listening(port),
                environment=self.environment,
            )
            self._daemon.launch()
            self._daemon.wait_ready()
        except BaseException:
            self.stop()
            raise
        self.seconds_to_ready = time.monotonic() - began

    def stop(self) -> None:
        """End it, and remove its folder. May be repeated."""
        if self._daemon is not None:
            self._daemon.end(grace_seconds=0)
            self._daemon = None
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None
        self._ports.release()

    @property
    def _run_folder(self) -> Path:
        if self._folder is None:
            message = "this Kerberos does not run"
            raise RuntimeError(message)
        return self._folder

    @property
    def configuration(self) -> Path:
        """The krb5.conf of its clients."""
        return self._run_folder / "krb5.conf"

    @property
    def key_tab(self) -> Path:
        """The key tab with the keys of all its services."""
        return self._run_folder / "services.keytab"

    @property
    def environment(self) -> dict[str, str]:
        """What the commands of Kerberos need in their environment."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "KRB5_CONFIG": str(self.configuration),
            "KRB5_KDC_PROFILE": f"{self._run_folder}/kdc.conf",
        }

    def ticket(self, name: str) -> dict[str, str]:
        """Get a ticket for a person, as kinit(1) does; returns the environment to use it in."""
        cache = self._run_folder / f"tickets-{name}"
        environment = {**self.environment, "KRB5CCNAME": f"FILE:{cache}"}
        self._run([program("kinit"), name], self.people[name] + "\n", environment)
        return environment

    def _run(
        self, argv: list[str], text: str = "", environment: Mapping[str, str] | None = None
    ) -> None:
        done = subprocess.run(
            argv, input=text, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False,
            env=environment or self.environment,
        )  # fmt: skip
        if done.returncode != 0:
            message = f"{argv[0]} ended with {done.returncode}: {done.stderr[:1000]}"
            raise NotReadyError(message)


def _client_configuration(port: int) -> str:
    return f"""\
[libdefaults]
default_realm = {REALM}
dns_lookup_kdc = false
dns_lookup_realm = false
dns_canonicalize_hostname = false
rdns = false
udp_preference_limit = 1

[realms]
{REALM} = {{
  kdc = 127.0.0.1:{port}
}}

[domain_realm]
localhost = {REALM}
"""


def _kdc_configuration(folder: Path, port: int) -> str:
    return f"""\
[realms]
{REALM} = {{
  database_name = {folder}/principal
  key_stash_file = {folder}/stash
  acl_file = {folder}/kadm5.acl
  kdc_listen = 127.0.0.1:{port}
  kdc_tcp_listen = 127.0.0.1:{port}
  supported_enctypes = aes256-cts:normal aes128-cts:normal
}}

[logging]
kdc = STDERR
"""


def sweep() -> list[Path]:
    """End every instance whose owner is gone; returns their folders."""
    return sweep_folders(PREFIX)
