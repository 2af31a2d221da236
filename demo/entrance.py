"""How people come in: by one password for all of them, or by a real Keycloak."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.systems.extrausers import ExtraUsers
from tests.systems.folders import FolderSite
from tests.systems.hub import HubSystem
from tests.systems.keycloak import KeycloakSystem, Realm, demo_model
from tests.systems.keycloak import sweep as sweep_keycloak
from tests.systems.processes import SystemUnavailableError

from .identities import Identity, identity_lines
from .stage import login_lines, new_password, say

# people and their own groups, accounts of this machine among them; and groups
UIDS, GIDS = (1000, 49999), (7000, 59999)
GROUP = "research"
RULES = Path("/etc/sudoers.d")
RULE = "qhub-folders-"
SYNC_SECONDS = 60


class Entrance(ABC):
    """What a hub has to be told so that people can come in.

    Attributes:
        people: Who can.
        password: With this, all of them.
        group: The group that profiles of the demo are for.
    """

    people: tuple[str, ...]
    password: str
    group: str

    @abstractmethod
    def lines(self, folder: Path, account: str | None) -> str:
        """Return the hub's configuration; what it reads is put into a new `folder`.

        Args:
            folder: Made here.
            account: Whose the hub is; ours when None.
        """

    @property
    def places(self) -> Mapping[str, Path]:
        """The folders of this machine with ``homes`` and ``shared`` folders, if it has any."""
        return {}

    @property
    def hints(self) -> tuple[str, ...]:
        """What to try, a line each."""
        return ()

    def offered(self, profiles: str) -> str:
        """Return a list of profiles for the groups that there are."""
        return profiles.replace(f"[{GROUP}]", f"[{self.group}]")

    def opened(self, hub: HubSystem) -> None:
        """Hear where the hub will be, before it starts."""
        del hub

    def known(self, folder: Path) -> contextlib.AbstractContextManager[None]:
        """Make this machine know who is who, as the nodes of a cluster do, while it is open.

        Args:
            folder: That of `lines`.
        """
        del folder
        return contextlib.nullcontext()


@dataclass
class SharedPassword(Entrance):
    """One password for everybody, made up for this demo."""

    people: tuple[str, ...]
    groups: Mapping[str, Sequence[str]]
    identities: Mapping[str, Identity] | None = None
    group: str = GROUP

    def __post_init__(self) -> None:
        """Make the password."""
        self.password = new_password()

    def lines(self, folder: Path, account: str | None) -> str:
        """Return it; nothing has to be read."""
        del folder, account
        told = f"c.JupyterHub.load_groups = {dict(self.groups)!r}\n" if self.groups else ""
        told += login_lines(self.people, self.password)
        return told + (identity_lines(self.identities) if self.identities else "")

    @property
    def hints(self) -> tuple[str, ...]:
        """Say what those are who have a shared folder."""
        return (f"/shared/{GROUP} is alice's to write and bob's to read.",)


@dataclass
class KeycloakEntrance(Entrance):
    """Log-in at a real Keycloak, which also says who is in which group.

    Attributes:
        realm: Where people are.
        accounts: Whether people are accounts of this machine (``adopt``) or not (``ignore``).
        site: Where homes and shared folders are made, by root's command; None when they are not.
    """

    realm: Realm
    password: str
    accounts: Literal["adopt", "ignore"] = "ignore"
    site: FolderSite | None = None
    group: str = "/physics"

    @property
    def people(self) -> tuple[str, ...]:  # type: ignore[override]
        """Everybody in the realm, as it began."""
        return tuple(self.realm.people)

    def settings(self, folder: Path, account: str | None = None) -> Path:
        """Write the settings that hub, sync service and commands share; returns the file."""
        folder.mkdir(parents=True, exist_ok=True)
        secret = {
            "hub": self.realm.client_secret,
            "service": self.realm.service_secret,
        }
        for name, value in secret.items():
            (folder / name).write_text(value + "\n")
        file = folder / "qhub_auth_config.py"
        text = f"""
c = get_config()
c.Keycloak.issuer = {self.realm.issuer!r}
c.Keycloak.client_id = {self.realm.client_id!r}
c.Keycloak.client_secret_file = {str(folder / "hub")!r}
c.Keycloak.service_client_id = {self.realm.service_client_id!r}
c.Keycloak.service_client_secret_file = {str(folder / "service")!r}
c.Identities.database_url = "sqlite:///{folder}/identity.sqlite"
c.Identities.host_accounts = {self.accounts!r}
c.GroupSync.poll_seconds = 1
c.KeycloakAuthenticator.allow_all = True
c.KeycloakAuthenticator.admin_groups = {{"/admins"}}
"""
        if self.site is not None:
            command = ["sudo", "-n", "--", str(self.site.command)]
            text += f"""
c.Identities.shared_root = {str(self.site.shared)!r}
c.Folders.command = {command!r}
"""
        file.write_text(text)
        numbers = pwd.getpwnam(account) if account else None
        for path in (folder, *folder.iterdir()):
            path.chmod(0o700 if path.is_dir() else 0o600)
            if numbers:
                os.chown(path, numbers.pw_uid, numbers.pw_gid)
        return file

    def lines(self, folder: Path, account: str | None) -> str:
        """Return it; the settings and secrets are in the folder."""
        file = self.settings(folder, account)
        return f"""
load_subconfig({str(file)!r})
from qhub_auth.configure import group_sync
group_sync(c, config_file={str(file)!r})
c.JupyterHub.authenticator_class = "qhub_auth.authenticator.KeycloakAuthenticator"
c.CryptKeeper.keys = [{secrets.token_hex(32)!r}]
c.JupyterHub.load_roles[0]["scopes"].append("admin:server_state")
"""

    @property
    def places(self) -> Mapping[str, Path]:
        """Where root's command makes them."""
        return {"homes": self.site.homes, "shared": self.site.shared} if self.site else {}

    @property
    def hints(self) -> tuple[str, ...]:
        """Say what there is of Keycloak."""
        folder = f"{self.site.shared}/physics/team-a" if self.site else ""
        console = self.realm.issuer.replace("/realms/", "/admin/")
        return (
            f"Keycloak's own console: {console}/console",
            "Take alice out of a group there, and see what she is offered a moment later.",
            *([f"{folder} is alice's and bob's to write, and carol's to read."] if folder else ()),
        )

    def known(self, folder: Path) -> contextlib.AbstractContextManager[None]:
        """Give everybody numbers, and let the machine read them by its name service."""
        if self.accounts == "ignore":
            return contextlib.nullcontext()
        return names_known(folder / "qhub_auth_config.py")

    def opened(self, hub: HubSystem) -> None:
        """Tell Keycloak where the hub is."""
        self.realm.set_hub_url(
            hub.url.rstrip("/"),
            back_channel_url=f"{hub.hub_url}hub/qhub/backchannel-logout",
        )


@contextlib.contextmanager
def keycloak_running() -> Iterator[tuple[Realm, str]]:
    """Bring up a Keycloak with the realm of demo/realm.yaml, and one new password for everybody."""
    for folder in sweep_keycloak():
        say(f"Ended what an earlier demo left behind in {folder}.")
    say("Starting Keycloak …")
    system = KeycloakSystem()
    system.start(say)
    try:
        password = new_password()
        people = [{**each.model_dump(), "password": password} for each in demo_model().people]
        say(f"Keycloak is ready after {system.seconds_to_ready:.1f} s …")
        yield system.make_realm(name="demo", people=people), password
    finally:
        system.stop()


@contextlib.contextmanager
def folders_made(account: str, homes: Path | None = None) -> Iterator[FolderSite]:
    """Install root's command for homes and shared folders, and the sudo rule for `account`.

    Args:
        account: The hub's.
        homes: Where homes are; a new folder when None.
    """
    from qhub_auth.folder_setup import sudoers  # noqa: PLC0415 - where this demo needs it

    site = FolderSite(uids=[list(UIDS)], gids=[list(GIDS)])
    rule = RULES / f"{RULE}{secrets.token_hex(4)}"
    try:
        if homes is not None:
            site.homes = homes
            site.write(homes={"root": str(homes), "skeleton": "/etc/skel"})
        rule.touch(mode=0o440)
        rule.write_text(sudoers(hub_user=account, command=str(site.command)))
        yield site
    finally:
        rule.unlink(missing_ok=True)
        site.remove()


def identity_command(settings: Path, *words: str) -> str:
    """Run `qhub-identity` as root, as an administrator would; returns what it said.

    Raises:
        SystemUnavailableError: It failed; with its words.
    """
    code = "import sys; from qhub_auth.commands import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "--config", str(settings), *words],
        capture_output=True,
        text=True,
        timeout=SYNC_SECONDS,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-1500:]
        raise SystemUnavailableError(f"qhub-identity {' '.join(words)} failed: {said}")
    return done.stdout


@contextlib.contextmanager
def names_known(settings: Path) -> Iterator[None]:
    """Give everybody numbers, and have this machine's name service know them and their groups.

    At the end the name service is as it was.
    """
    with ExtraUsers() as extra:
        identity_command(settings, "sync")
        identity_command(settings, "nss", "--output", str(extra.folder))
        owner = settings.stat()
        for path in settings.parent.iterdir():  # root has made the database
            os.chown(path, owner.st_uid, owner.st_gid)
        yield
