"""The Slurm backend as a hub configures it: ``c.SlurmBackend.*``."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import time
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any, ClassVar

from traitlets import Bool, Enum, Float, List, TraitError, Unicode, validate
from traitlets.config import LoggingConfigurable

from qhub_spawner.access import Limits
from qhub_spawner.availability import Availability
from qhub_spawner.errors import ConfigurationError, SlurmError
from qhub_spawner.launch import default_hub_id
from qhub_spawner.profiles import Profile
from qhub_spawner.slurm import addresses, possible, script
from qhub_spawner.slurm.commandline import CommandLine, CommandLineDoor
from qhub_spawner.slurm.door import Door
from qhub_spawner.slurm.jobs import Job
from qhub_spawner.slurm.poller import Intervals, Poller
from qhub_spawner.slurm.reaper import Reaper
from qhub_spawner.slurm.restd import RestDoor, RestService
from qhub_spawner.slurm.server import Owner, SlurmServer
from qhub_spawner.slurm.views import Views


class SlurmBackend(LoggingConfigurable):
    """Single-user servers as Slurm jobs, by one door and one poller for the whole hub."""

    name: ClassVar[str] = "slurm"

    transport = Enum(
        ["command-line", "rest"],
        default_value="command-line",
        config=True,
        help="""
        How the hub talks to Slurm.

        `command-line` runs squeue and sinfo as the hub's account, and submits and cancels as the
        person through one narrow sudo rule (`qhub-spawner sudoers` prints it). `rest` talks to
        slurmrestd with short-lived tokens, minted from `jwt_key_file`: no sudo at all. Default:
        `command-line`, because it works with every Slurm since 22.05 and asks for no signing key.

        Example: ``c.SlurmBackend.transport = "rest"``
        """,
    )
    hub_id = Unicode(
        "",
        config=True,
        help="""
        This hub's name on the cluster: 1 to 16 lower-case letters and digits.

        Each job carries it; jobs of this hub that no server owns are cancelled. Two hubs on one
        cluster must not share it. Default: derived from the hub's cookie secret, and so lasting
        and different for each hub.

        Example: ``c.SlurmBackend.hub_id = "prod"``
        """,
    )
    slurm_bin = Unicode(
        "/usr/bin",
        config=True,
        help="""
        The folder of Slurm's commands, an absolute path. Default: where packages put them.

        Example: ``c.SlurmBackend.slurm_bin = "/opt/slurm/bin"``
        """,
    )
    slurm_conf = Unicode(
        "",
        config=True,
        help="""
        The path of slurm.conf, if it is not where Slurm was built to look. Default: empty.

        Example: ``c.SlurmBackend.slurm_conf = "/opt/slurm/etc/slurm.conf"``
        """,
    )
    door_command = Unicode(
        "",
        config=True,
        help="""
        The root-owned copy of the command that sudo lets the hub run as its people; see
        `qhub-spawner install-door`. Default: empty, which runs the package's own copy and suits
        a hub that serves only its own account.

        Example: ``c.SlurmBackend.door_command = "/usr/local/libexec/qhub-slurm-door"``
        """,
    )
    sudo = List(
        Unicode(),
        default_value=["sudo", "-n", "-u", "{user}", "--"],
        config=True,
        help="""
        The words before the door command; ``{user}`` becomes the account. Each is one argument,
        there is no shell. Default: sudo, without asking for a password.

        Example: ``c.SlurmBackend.sudo = ["doas", "-n", "-u", "{user}"]``
        """,
    )
    command_timeout = Float(
        30.0,
        min=1.0,
        config=True,
        help="""
        How long one command or request may take before it counts as no answer, in seconds.
        Default: 30, three times slurmctld's own message timeout.
        """,
    )
    rest_url = Unicode(
        "",
        config=True,
        help="""
        The address of slurmrestd, for `transport = "rest"`.

        Example: ``c.SlurmBackend.rest_url = "http://127.0.0.1:6820"``
        """,
    )
    rest_version = Unicode(
        "v0.0.38",
        config=True,
        help="""
        The version of slurmrestd's API. Default: v0.0.38, that of Slurm 22.05, the one qhub is
        tested with.
        """,
    )
    rest_user = Unicode(
        "",
        config=True,
        help="""
        The account in whose name the hub asks slurmrestd for the queue and the nodes. It must be
        allowed to see all jobs. Default: the hub's own account.
        """,
    )
    jwt_key_file = Unicode(
        "",
        config=True,
        help="""
        The HS256 key that slurmctld checks tokens with (`AuthAltParameters=jwt_key=…`), readable
        by the hub alone: who has it can act as anybody on the cluster.

        Example: ``c.SlurmBackend.jwt_key_file = "/etc/qhub/jwt_hs256.key"``
        """,
    )
    token_lifetime = Float(
        60.0,
        min=10.0,
        max=3600.0,
        config=True,
        help="""
        How long a minted token is valid, in seconds. Default: 60; a token is used at once, so
        the rest is room for clocks that differ.
        """,
    )
    cluster = Unicode(
        "",
        config=True,
        help="""
        The cluster to ask, where slurmdbd knows several; profiles may name it as `slurm.cluster`.
        One hub asks one cluster, for job ids are unique only there. Default: empty, the cluster
        of slurm.conf.

        Example: ``c.SlurmBackend.cluster = "alpha"``
        """,
    )
    poll_rest = Float(
        10.0,
        min=3.0,
        config=True,
        help="""
        Seconds between two queries while all servers run. Default: 10, which makes 6 queries a
        minute, whatever the number of servers.
        """,
    )
    poll_starting = Float(
        3.0,
        min=0.5,
        config=True,
        help="""
        Seconds between two queries while a server is starting. Default: 3. The start itself does
        not wait for it: the server reports its address when it has one.
        """,
    )
    view_interval = Float(
        10.0,
        min=1.0,
        config=True,
        help="""
        Seconds between two queries for the options page, while somebody looks at it. Default: 10.
        """,
    )
    startup_timeout = Float(
        300.0,
        min=5.0,
        config=True,
        help="""
        How long a server may take from its job's start to its report, in seconds. Time in the
        queue does not count. Default: 300.
        """,
    )
    stop_timeout = Float(
        90.0,
        min=5.0,
        config=True,
        help="""
        How long a stop waits for Slurm to confirm that the job is over, in seconds, before it
        says that it could not. Default: 90, three times Slurm's KillWait.
        """,
    )
    server_networks = List(
        Unicode(),
        default_value=[],
        config=True,
        help="""
        Further networks in which servers may report an address, for nodes whose data network
        differs from what Slurm knows of them. Default: empty, only addresses of the job's own
        nodes. A wide network lets people point the hub at other machines in it.

        Example: ``c.SlurmBackend.server_networks = ["198.51.100.0/24"]``
        """,
    )
    end_orphans = Bool(
        True,
        config=True,
        help="""
        Whether jobs of this hub that no server owns are cancelled, or only logged. Default: True.
        Turn it off before you start a hub on a restored, older database.
        """,
    )

    answer_timeout = 15.0
    door: Door
    poller: Poller
    views: Views
    reaper: Reaper

    def __init__(self, *, cookie_secret: bytes = b"", **kwargs: Any) -> None:
        """Read the configuration; nothing is asked of Slurm before `open`."""
        super().__init__(**kwargs)
        if not self.hub_id:
            self.hub_id = default_hub_id(cookie_secret)
        self._tasks: list[asyncio.Task[None]] = []
        self._limits: Mapping[str, Limits] | None = None
        self._limits_at = 0.0
        self._limits_task: asyncio.Task[None] | None = None
        self.door = self._make_door()
        intervals = Intervals(rest=self.poll_rest, starting=self.poll_starting)
        self.poller = Poller(self.door, intervals, self.log)
        self.views = Views(self.door, self.poller, self.log, interval_seconds=self.view_interval)
        self.reaper = Reaper(
            self.poller, self.door, self.hub_id, self.log, end_orphans=self.end_orphans
        )

    @validate("hub_id")
    def _check_hub_id(self, proposal: Any) -> str:
        value: str = proposal.value
        if value and re.fullmatch(r"[a-z0-9]{1,16}", value) is None:
            msg = f"SlurmBackend.hub_id = {value!r}: expected 1 to 16 lower-case letters and digits"
            raise TraitError(msg)
        return value

    @validate("server_networks")
    def _check_networks(self, proposal: Any) -> list[str]:
        for value in proposal.value:
            try:
                ipaddress.ip_network(value)
            except ValueError as error:
                msg = f"SlurmBackend.server_networks: {error}; expected e.g. '198.51.100.0/24'"
                raise TraitError(msg) from error
        return list(proposal.value)

    def _make_door(self) -> Door:
        if self.transport == "rest":
            service = RestService(
                url=self.rest_url,
                version=self.rest_version,
                user=self.rest_user,
                jwt_key_file=self.jwt_key_file,
                token_seconds=self.token_lifetime,
                timeout_seconds=self.command_timeout,
            )
            return RestDoor(service)
        how = CommandLine(
            slurm_bin=self.slurm_bin,
            slurm_conf=self.slurm_conf or None,
            door=self.door_command or None,
            sudo=tuple(self.sudo),
            timeout_seconds=self.command_timeout,
        )
        return CommandLineDoor(how, (self.cluster or None,))

    # ---- Backend ----

    def server(self, owner: Owner) -> SlurmServer:
        """See `Backend.server`."""
        return SlurmServer(self, owner)

    async def open(self) -> None:
        """See `Backend.open`."""
        runs = (self.poller.run(), self.views.run(), self.reaper.run())
        self._tasks = [asyncio.ensure_future(run) for run in runs]

    async def close(self) -> None:
        """See `Backend.close`; jobs go on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.door.close()

    def check(self, profiles: tuple[Profile, ...]) -> None:
        """See `Backend.check`."""
        problems = possible.problems_of(
            profiles, cluster=self.cluster, by_rest=self.transport == "rest"
        )
        if problems:
            raise ConfigurationError(problems)

    async def availability(
        self, profiles: tuple[Profile, ...], user: str
    ) -> Mapping[str, Availability]:
        """See `Backend.availability`."""
        return await self.views.look(profiles, partial(self._estimate, user))

    def options(self, profile: Profile, defaults: script.Defaults) -> dict[str, str | None]:
        """Return the sbatch options of `profile`, on the hub's cluster."""
        cluster = {"clusters": self.cluster} if self.cluster else {}
        return {**cluster, **script.options_of(profile, defaults)}

    async def _estimate(self, user: str, profile: Profile) -> datetime | None:
        """Ask Slurm when `profile` would start, in the name of the person who looks at it."""
        submission = script.Submission(
            name=f"qhub-{self.hub_id}-{'0' * 16}",
            comment="",
            options=self.options(profile, script.Defaults()),
            script="#!/bin/sh\n",
            environment={},
        )
        try:
            return await self.door.estimate(user, submission)
        except SlurmError:
            return None

    async def limits(self, user: str) -> Limits | None:
        """See `Backend.limits`: from one query for everybody, at most every five minutes.

        Accounting may be slow or away: nobody waits for it longer than 2 s, and then for the
        first time only.
        """
        if time.monotonic() - self._limits_at > 300 or self._limits is None:  # noqa: PLR2004
            if self._limits_task is None or self._limits_task.done():
                self._limits_at = time.monotonic()
                self._limits_task = asyncio.ensure_future(self._refresh_limits())
            if self._limits is None:
                await asyncio.wait([self._limits_task], timeout=2)
        return self._limits.get(user) if self._limits else None

    async def _refresh_limits(self) -> None:
        try:
            self._limits = await self.door.limits()
        except SlurmError as error:
            self.log.warning("the limits that Slurm records are not known: %s", error)

    async def check_host(self, host: str, job: Job) -> None:
        """Refuse a host that is not one of the job's nodes; see `addresses.check_host`."""
        await addresses.check_host(host, job, self.views, self.server_networks)
