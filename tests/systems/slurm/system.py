"""A real Slurm cluster on this host, started in seconds and ended without a trace."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from ..drilled import Drilled
from ..processes import (
    Ports,
    ProcessId,
    SystemUnavailableError,
    end_processes,
    identity,
    wait_until,
)
from . import configuration
from .accounting import Template, install_database
from .cgroups import InstanceCgroups, stray_job_processes
from .configuration import Places
from .daemons import daemons
from .definition import Definition
from .files import write_files
from .instances import PREFIX
from .packages import SEARCH_PATH, install
from .unix_users import HUB_USER, REST_USER, ensure_person, ensure_service_user

T = TypeVar("T")


class CommandFailedError(RuntimeError):
    """A client command ended with another exit code than 0; has the command, code and stderr."""


class SlurmSystem(Drilled):
    """munge, MariaDB, slurmdbd, slurmctld, a slurmd for each node and slurmrestd, all on loopback.

    Several may run at once. Use it as a context manager, or `start` and `stop` it. Needs root.

    Args:
        definition: What the cluster consists of.
        keep: Leave the run folder with its logs behind when it stops.
        by_hand: Recorded for `python -m tests.systems.slurm down`.

    Attributes:
        places: Ports and paths; set by `start`.
        seconds_to_ready: How long `start` took.
    """

    def __init__(
        self, definition: Definition | None = None, *, keep: bool = False, by_hand: bool = False
    ) -> None:
        self.definition = definition or Definition()
        self.seconds_to_ready = 0.0
        self._keep = keep
        self._by_hand = by_hand
        self._ports = Ports()
        self._places: Places | None = None
        self._cgroups: InstanceCgroups | None = None
        super().__init__()

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

    def start(self) -> None:
        """Install what is absent, start everything, and return when jobs can be submitted.

        Raises:
            SystemUnavailableError: This machine cannot run it.
            NotReadyError: A daemon ended or was late; with its command and the end of its log.
        """
        if self.running:
            message = "this Slurm system has been started already"
            raise RuntimeError(message)
        if os.geteuid() != 0:
            message = "the Slurm test system needs root: slurmd starts jobs as their users"
            raise SystemUnavailableError(message)
        install()
        for user in self.definition.users:
            ensure_person(user)
        ensure_service_user(HUB_USER)
        ensure_service_user(REST_USER)
        began = time.monotonic()
        try:
            self._lay_out()
            self._start_daemons()
        except BaseException:
            self._abandon()
            raise
        self.seconds_to_ready = time.monotonic() - began

    def stop(self, *, keep: bool | None = None) -> None:
        """End all its daemons and jobs, and remove the run folder (unless kept). May be repeated.

        Raises:
            NotReadyError: Something survives SIGKILL.
        """
        if self._places is None:
            return
        keep = self._keep if keep is None else keep
        nodes = [daemon for name, daemon in self._daemons.items() if name.startswith("slurmd:")]
        for daemon in nodes:  # all at once, as each takes a while
            daemon.signal(signal.SIGTERM)
            daemon.signal(signal.SIGCONT)
        for daemon in nodes:
            daemon.end()
        try:
            if self._cgroups is not None:
                self._cgroups.remove()  # first, as it thaws suspended jobs, which cannot die frozen
            end_processes(stray_job_processes(self.slurm_conf), grace_seconds=0)
        finally:
            for daemon in reversed(self._daemons.values()):
                # what they would still write is thrown away with the run folder
                daemon.end(grace_seconds=10 if keep else 0)
        if keep:
            (self.run_folder / "kept").touch()
        else:
            shutil.rmtree(self.run_folder)
        self._ports.release()
        self._daemons = {}
        self._places = None

    def _abandon(self) -> None:
        if self.running:
            # told on stderr: pytest shows it beside the error
            print(f"Slurm logs are kept in {self.run_folder}/log", file=sys.stderr)
            self.stop(keep=True)

    def _lay_out(self) -> None:
        nodes = self.definition.nodes
        ctld, dbd, mariadb, restd, *node_ports = self._ports.reserve(4 + len(nodes))
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        folder.chmod(0o755)
        cgroups = InstanceCgroups(folder.name)
        self._cgroups = cgroups
        self._places = places = Places(
            folder=folder,
            host=socket.gethostname().partition(".")[0],
            slurmctld_port=ctld,
            slurmdbd_port=dbd,
            mariadb_port=mariadb,
            slurmrestd_port=restd,
            node_ports={node.name: port for node, port in zip(nodes, node_ports, strict=True)},
            first_job_id=1 + 1000 * secrets.randbelow(1000),
            cgroup_plugin=cgroups.plugin,
            cgroup_mountpoint=cgroups.mountpoint(folder / "cgroup"),
        )
        owner = ProcessId.of(os.getpid())
        if owner is not None:
            owner.write(folder / "owner.json", by_hand=self._by_hand)
        cgroups.create(folder / "cgroup")
        write_files(self.definition, places)

    def _start_daemons(self) -> None:
        places = self.places
        assert self._cgroups is not None
        self._daemons = daemons(self.definition, places, self._cgroups)
        self._daemons["munged"].launch()
        data = places.folder / "db" / "data"
        template = Template(self.definition)
        fresh = not template.copy_to(data)
        if fresh:
            install_database(data, places.folder / "log" / "mariadb-install")
        for name in ("munged", "mariadbd", "slurmdbd"):
            self.start_daemon(name)
        if fresh:
            for command in configuration.accounting_commands(self.definition):
                self.run(["sacctmgr", "-i", "-Q", *command])
            for name in ("slurmdbd", "mariadbd"):
                self.stop_daemon(name)
            template.keep(data)
            for name in ("mariadbd", "slurmdbd"):
                self.start_daemon(name)
        self.start_daemon("slurmctld")
        rest = [daemon for name, daemon in self._daemons.items() if not daemon.running]
        for daemon in rest:
            daemon.launch()
        for daemon in rest:
            daemon.wait_ready()

    # ---- what tests need to know

    @property
    def running(self) -> bool:
        """Whether it has been started, and not yet stopped."""
        return self._places is not None

    @property
    def places(self) -> Places:
        """Ports and paths of the running system.

        Raises:
            RuntimeError: It does not run.
        """
        if self._places is None:
            message = "this Slurm system does not run"
            raise RuntimeError(message)
        return self._places

    @property
    def run_folder(self) -> Path:
        """Everything of this instance; its `log` folder is for root only."""
        return self.places.folder

    @property
    def slurm_conf(self) -> Path:
        """The slurm.conf, for everyone to read."""
        return self.places.slurm_conf

    @property
    def environment(self) -> dict[str, str]:
        """What a client command or a hub needs in its environment."""
        return {"SLURM_CONF": str(self.slurm_conf)}

    @property
    def rest_url(self) -> str:
        """slurmrestd's address, without a path."""
        return f"http://127.0.0.1:{self.places.slurmrestd_port}"

    @property
    def jwt_key(self) -> Path:
        """The HS256 key (owner slurm, 0600), with which a hub may mint tokens by itself."""
        return self.places.jwt_key

    @property
    def users(self) -> tuple[str, ...]:
        """The people of this cluster."""
        return self.definition.users

    def token(self, user: str, lifespan_seconds: int = 600) -> str:
        """A token for slurmrestd from Slurm itself, for `X-SLURM-USER-TOKEN`."""
        command = ["scontrol", "token", f"username={user}", f"lifespan={lifespan_seconds}"]
        return self.run(command).stdout.strip().removeprefix("SLURM_JWT=")

    # ---- client commands

    def run(
        self,
        argv: Sequence[str],
        user: str | None = None,
        input: str | None = None,  # noqa: A002 - as in subprocess.run
        *,
        check: bool = True,
        timeout_seconds: float = 60,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a user (root when None), in their home, with a small environment.

        Raises:
            CommandFailedError: It ended with another exit code than 0 (unless `check` is off).
            subprocess.TimeoutExpired: It took longer.
        """
        entry = pwd.getpwnam(user or "root")
        variables = {
            "PATH": SEARCH_PATH,
            "LANG": "C.UTF-8",
            "HOME": entry.pw_dir,
            "USER": entry.pw_name,
            "LOGNAME": entry.pw_name,
            "SHELL": entry.pw_shell,
            **self.environment,
            **(environment or {}),
        }
        done: subprocess.CompletedProcess[str] = subprocess.run(
            list(argv), input=input, stdin=None if input is not None else subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", timeout=timeout_seconds, check=False,
            env=variables, cwd=entry.pw_dir if user else "/",
            **(identity(user) if user else {}),  # type: ignore[call-overload]
        )  # fmt: skip
        if check and done.returncode != 0:
            words = " ".join(argv)[:500]
            message = (
                f"{words} (as {entry.pw_name}) ended with {done.returncode}: {done.stderr[:500]}"
            )
            raise CommandFailedError(message)
        return done

    def sbatch(self, user: str, script: str, *options: str) -> int:
        """Submit a batch script (with `#!/bin/sh` put before it if need be); returns the job id."""
        if not script.startswith("#!"):
            script = f"#!/bin/sh\n{script}\n"
        options = ("--output=/dev/null", *options)
        done = self.run(["sbatch", "--parsable", *options], user, input=script)
        return int(done.stdout.strip().partition(";")[0])

    def job_state(self, job_id: int) -> str:
        """The job's state as slurmctld knows it ("RUNNING"), or "" when it knows it no more."""
        command = ["squeue", "--noheader", f"--jobs={job_id}", "--states=all", "--format=%T"]
        return self.run(command, check=False).stdout.strip()

    def accounted(self, job_id: int) -> dict[str, str]:
        """States by step in accounting ({"7": "TIMEOUT", "7.batch": …}); may lag a second."""
        command = ["sacct", "-n", "-P", f"--jobs={job_id}", "--format=JobID,State"]
        lines = self.run(command).stdout.split("\n")
        return {step: state for step, _, state in (line.partition("|") for line in lines if line)}

    def node_states(self) -> dict[str, str]:
        """State by node ("idle", "mixed", "down*")."""
        lines = self.run(["sinfo", "-h", "-N", "-o", "%N %T"]).stdout.split("\n")
        return {name: state for name, _, state in (line.partition(" ") for line in lines if line)}

    # ---- drills

    def node_down(self, node: str, reason: str = "drill") -> None:
        """Have Slurm take a node for down; its jobs end NODE_FAIL or are requeued."""
        update = ["scontrol", "update", f"nodename={node}", "state=down", f"reason={reason}"]
        self.run(update)

    def node_resume(self, node: str) -> None:
        """Return a node to service, and wait until Slurm schedules on it."""
        self.run(["scontrol", "update", f"nodename={node}", "state=resume"])
        up = {"idle", "mixed", "allocated"}
        self.wait_until(lambda: self.node_states().get(node) in up, 30, f"{node} in service")

    def wait_until(
        self, condition: Callable[[], T], deadline_seconds: float = 30, what: str = "the condition"
    ) -> T:
        """Wait until `condition` answers something true, and return that.

        Raises:
            NotReadyError: It did not within the deadline.
        """
        return wait_until(condition, deadline_seconds, what, poll_seconds=0.05)
