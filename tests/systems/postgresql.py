"""A real PostgreSQL of Debian for one run of tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .databases import DatabaseServer
from .processes import SystemUnavailableError


class PostgreSQL(DatabaseServer):
    """PostgreSQL on loopback, with a password for everybody."""

    name = "postgresql"
    user = "postgres"
    packages = ("postgresql",)

    def install(self, data: Path) -> None:
        """Run initdb: people of other accounts need the password as well."""
        secret = data / "password"
        secret.write_text(self.password)
        if self.account:
            secret.chmod(0o644)  # the folder above is for the account only
        self.tool(
            [
                _program("initdb"), "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8",
                "--no-sync", "--username=postgres", f"--pwfile={secret}", f"--pgdata={data}/data",
            ]
        )  # fmt: skip

    def command(self, data: Path) -> list[str]:
        """Small, and fast rather than durable, as its data is thrown away."""
        settings = {
            "listen_addresses": "127.0.0.1", "unix_socket_directories": str(data),
            "fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB",
            "max_connections": "60",
        }  # fmt: skip
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        return [_program("postgres"), "-D", f"{data}/data", "-p", str(self.port), *options]

    def ready(self) -> bool:
        """Whether it has started: it listens before it takes anybody in."""
        command = [_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, timeout=30, check=False).returncode == 0

    def run(self, database: str) -> None:
        """Run createdb."""
        self.tool(
            [
                _program("createdb"),
                "-h",
                "127.0.0.1",
                "-p",
                str(self.port),
                "-U",
                "postgres",
                database,
            ],
            PGPASSWORD=self.password,
        )

    def url(self, database: str) -> str:
        """Its address."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{database}"


def _program(name: str) -> str:
    """A program of the newest PostgreSQL that Debian has put beside the others."""
    found = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4])
    )
    if not found:
        message = f"PostgreSQL's {name} is not installed (looked in /usr/lib/postgresql)"
        raise SystemUnavailableError(message)
    return str(found[-1])
