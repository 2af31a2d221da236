"""The files of one instance's run folder, each readable by those who need it and nobody else."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import stat

from . import configuration
from .configuration import Places
from .definition import Definition


def write_files(definition: Definition, places: Places) -> None:
    """Fill the run folder: configuration that everyone may read, and secrets for one owner each."""
    folder = places.folder
    password = secrets.token_hex(16)

    def make(name: str, owner: str = "root", mode: int = 0o755) -> None:
        (folder / name).mkdir()
        shutil.chown(folder / name, owner, pwd.getpwnam(owner).pw_gid)
        (folder / name).chmod(mode)

    def write(name: str, content: str | bytes, owner: str = "root", mode: int = 0o644) -> None:
        data = content.encode() if isinstance(content, str) else content
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchown(file.fileno(), pwd.getpwnam(owner).pw_uid, pwd.getpwnam(owner).pw_gid)
            os.fchmod(file.fileno(), mode)

    make("log", mode=0o700)
    make("pids", mode=0o700)
    make("devices")
    make("spool")
    make("run", "slurm")
    make("munge", "munge")
    make("db", "mysql", 0o700)
    make("state", "slurm")
    make("state/ctld", "slurm", 0o700)
    write("munge/munge.key", secrets.token_bytes(128), "munge", 0o600)
    write("state/jwt_hs256.key", secrets.token_bytes(32), "slurm", 0o600)
    write("db/init.sql", configuration.database_sql(password), "mysql", 0o600)
    write("slurmdbd.conf", configuration.slurmdbd_conf(places, password), "slurm", 0o600)
    write("slurm.conf", configuration.slurm_conf(definition, places))
    write("cgroup.conf", configuration.cgroup_conf(places))
    write("gres.conf", configuration.gres_conf(definition, places))
    for index in range(max((node.gpus for node in definition.nodes), default=0)):
        os.mknod(places.gpu_device(index), stat.S_IFCHR | 0o666, os.makedev(1, 3))
