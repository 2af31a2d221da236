"""A real MariaDB of Debian for one run of tests, made as that of the Slurm system is."""

from __future__ import annotations

from pathlib import Path

from .databases import DatabaseServer
from .packages import program
from .slurm.accounting import install_database


class MariaDB(DatabaseServer):
    """MariaDB on loopback, with one account that has a password."""

    name = "mariadb"
    user = "mysql"
    packages = ("mariadb-server",)

    def install(self, data: Path) -> None:
        """Run mariadb-install-db."""
        install_database(data / "data", self.folder / "log" / "mariadb-install")
        script = data / "init.sql"
        account = "'hub'@'127.0.0.1'"
        script.write_text(
            f"CREATE USER IF NOT EXISTS {account} IDENTIFIED BY '{self.password}';\n"
            f"GRANT ALL ON *.* TO {account};\n"
        )
        script.chmod(0o644)

    def command(self, data: Path) -> list[str]:
        """Small, and fast rather than durable, as its data is thrown away."""
        return [
            program("mariadbd"),
            "--no-defaults",
            f"--datadir={data}/data",
            f"--socket={data}/mariadb.sock",
            f"--pid-file={data}/mariadb.pid",
            f"--port={self.port}",
            f"--init-file={data}/init.sql",
            f"--tmpdir={data}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--skip-log-bin",
            "--performance-schema=off",
            "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=8M",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-flush-method=nosync",
        ]

    def run(self, database: str) -> None:
        """Make a database as a distribution would: its own default is a charset of one byte."""
        self.tool(
            [
                program("mariadb"), "--no-defaults", "-h", "127.0.0.1", "-P", str(self.port),
                "-u", "hub", "-e", f"CREATE DATABASE {database} CHARACTER SET latin1",
            ],
            MYSQL_PWD=self.password,
        )  # fmt: skip

    def url(self, database: str) -> str:
        """Its address."""
        return f"mariadb://hub:{self.password}@127.0.0.1:{self.port}/{database}"
