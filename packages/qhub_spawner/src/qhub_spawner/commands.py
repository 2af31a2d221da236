"""`qhub-spawner`: what an administrator does around the hub.

``check`` reads a profiles file as the hub would; ``schema`` prints its JSON Schema; ``show`` prints
what would be submitted; ``convert`` makes a profiles file of KubeSpawner's profile list;
``manifests`` prints what a hub needs in a Kubernetes cluster; ``install-door`` and ``sudoers`` set
up the one sudo rule of the command-line transport.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import re
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from qhub_spawner.access import Person
from qhub_spawner.catalogue import load
from qhub_spawner.conversion import converted
from qhub_spawner.conversion.sources import find, known_traits
from qhub_spawner.conversion.writing import profiles_file
from qhub_spawner.errors import QHubSpawnerError
from qhub_spawner.kubernetes import rights
from qhub_spawner.schema import json_schema
from qhub_spawner.showing import Asked, as_yaml, show
from qhub_spawner.slurm.commandline import CommandLine

DOOR = "/usr/local/libexec/qhub-slurm-door"
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_ALIAS = re.compile(r"[A-Z][A-Z0-9_]*")  # sudoers(5): ALL, and what a site may have defined
# To sudo, a path that ends in a slash is every command of that folder.
_PATH = re.compile(r"(/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9_.+\-]+)+")
_KUBERNETES_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LARGEST_PORT = 65535


def sudoers(*, hub_user: str, runas: str, door: str, slurm_bin: str, slurm_conf: str | None) -> str:
    """Return the sudo rule that lets the hub's account run the door as its people, and no more.

    Args:
        hub_user: The account of the hub.
        runas: Comma-separated accounts, or groups written ``%group``, never root.
        door: The root-owned copy of the door command.
        slurm_bin: As ``SlurmBackend.slurm_bin``.
        slurm_conf: As ``SlurmBackend.slurm_conf``.

    Raises:
        ValueError: A value holds what sudoers(5) would read as something else.
    """
    people = runas.split(",")
    for word in (hub_user, *(word.removeprefix("%") for word in people)):
        if _ACCOUNT.fullmatch(word) is None or _ALIAS.fullmatch(word) is not None:
            msg = f"{word!r}: expected an account (people may be a group, written %group)"
            raise ValueError(msg)
    if {"root", "%root"} & set(people):
        msg = f"runas {runas!r} includes root; name the people, or a group of them such as %users"
        raise ValueError(msg)
    slurm_conf = slurm_conf or None
    for path in (door, slurm_bin, *([slurm_conf] if slurm_conf else [])):
        if _PATH.fullmatch(path) is None:
            msg = f"{path!r}: expected the absolute path of one file, in plain characters"
            raise ValueError(msg)
    arguments = " ".join(CommandLine(slurm_bin=slurm_bin, slurm_conf=slurm_conf).door_arguments)
    command = f"{door} {arguments}".replace("=", "\\=")
    return (
        "# qhub: the hub submits and cancels the servers of its people, as them.\n"
        "# The arguments are fixed; what to do comes on standard input and is checked there.\n"
        f"Defaults!{door} env_reset, !requiretty, !use_pty, umask=0022\n"
        f"{hub_user} ALL=({', '.join(people)}) NOPASSWD:NOSETENV: {command}\n"
    )


def install_door(target: Path) -> None:
    """Write the door command to `target`, owned by us, writable by nobody else."""
    source = files("qhub_spawner.slurm") / "door_command.py"
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    part.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    part.chmod(0o755)
    part.replace(target)


def manifests(arguments: argparse.Namespace) -> str:
    """Return what a hub needs in a cluster, as YAML that ``kubectl apply`` takes.

    Raises:
        ValueError: A value is not what Kubernetes takes; says what would be.
    """
    for option in ("namespace", "hub_namespace", "service_account", "gateway_account"):
        value = getattr(arguments, option)
        if value and _KUBERNETES_NAME.fullmatch(value) is None:
            msg = (
                f"--{option.replace('_', '-')} {value!r}: expected up to 63 lower-case letters, "
                "digits and dashes, e.g. people"
            )
            raise ValueError(msg)
    if not 0 < arguments.server_port <= _LARGEST_PORT:
        msg = f"--server-port {arguments.server_port}: expected 1 to {_LARGEST_PORT}"
        raise ValueError(msg)
    site = rights.Site(
        namespace=arguments.namespace,
        hub_namespace=arguments.hub_namespace,
        service_account=arguments.service_account,
        gateway_account=arguments.gateway_account,
        server_port=arguments.server_port,
        see_nodes=arguments.see_nodes,
        storage_claims=arguments.storage_claims,
        internal_ssl=arguments.internal_ssl,
        user_namespaces=arguments.user_namespaces,
        api_servers=_networks("--api-server", arguments.api_server),
        hub_networks=_networks("--hub-network", arguments.hub_network),
    )
    return as_yaml(*rights.manifests(site))


def _networks(option: str, values: Sequence[str]) -> tuple[str, ...]:
    try:
        return tuple(str(ipaddress.ip_network(value)) for value in values)
    except ValueError as error:
        msg = f"{option}: {error}; expected an address or network, e.g. 198.51.100.7/32"
        raise ValueError(msg) from error


def convert(source: Path, output: Path | None, *, force: bool) -> str:
    """Convert KubeSpawner's profile list; notes go to standard error.

    Args:
        source: A configuration, which is executed if it is Python, or a YAML or JSON file.
        output: The profiles file to write; ``None`` to return it.
        force: Write over a file that is there.

    Raises:
        QHubSpawnerError: There is no list to convert.
        ValueError: Nothing came out of it, or the file is there already.
        OSError: The file cannot be written.
    """
    found = find(source)
    conversion = converted(found.profile_list, traits=found.traits, known=known_traits())
    notes = [*found.notes, *conversion.notes]
    sys.stderr.write("".join(f"note: {note}\n" for note in notes))
    if not conversion.profiles:
        msg = f"{source}: no profile came out"
        raise ValueError(msg)
    text = profiles_file(conversion, found.notes)
    if output is None:
        return text
    try:
        with output.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        msg = f"{output} is there already; --force writes over it"
        raise ValueError(msg) from error
    return f"wrote {output}; profiles: {len(conversion.profiles)}, notes: {len(notes)}\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="qhub-spawner", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    check = verbs.add_parser("check", help="read a profiles file as the hub would")
    check.add_argument("file")
    verbs.add_parser("schema", help="print the JSON Schema of a profiles file")
    shown = verbs.add_parser("show", help="print what a choice would submit, without secrets")
    shown.add_argument("file")
    shown.add_argument("profile", nargs="?")
    shown.add_argument("--user", default="user", help="who asks (default: user)")
    shown.add_argument("--group", action="append", default=[], help="a group of theirs; repeat it")
    shown.add_argument("--option", action="append", default=[], metavar="NAME=VALUE")
    shown.add_argument(
        "--config", type=Path, metavar="FILE", help="jupyterhub_config.py (executed)"
    )
    shown.add_argument("--identity", type=Path, metavar="FILE", help="their auth_state['qhub']")
    move = verbs.add_parser("convert", help="make a profiles file of KubeSpawner's profile_list")
    move.add_argument("file", type=Path, help="jupyterhub_config.py (executed), values.yaml, …")
    move.add_argument("--output", type=Path, metavar="FILE", help="write it, instead of printing")
    move.add_argument("--force", action="store_true", help="write over FILE")
    _add_manifests(verbs.add_parser("manifests", help="print what a hub needs in a cluster"))
    install = verbs.add_parser("install-door", help="install the command that sudo may run")
    install.add_argument("--to", type=Path, default=Path(DOOR), metavar="FILE")
    rule = verbs.add_parser("sudoers", help="print the sudo rule; put it in /etc/sudoers.d/qhub")
    rule.add_argument("--hub-user", required=True, help="the account of the hub")
    rule.add_argument("--runas", required=True, help="accounts or %%groups, comma-separated")
    rule.add_argument("--door", default=DOOR)
    rule.add_argument("--slurm-bin", default="/usr/bin")
    rule.add_argument("--slurm-conf")
    return parser


def _add_manifests(needs: argparse.ArgumentParser) -> None:
    needs.add_argument("--namespace", required=True, help="where people's servers run")
    needs.add_argument("--hub-namespace", default="", help="where the hub runs (default: the same)")
    needs.add_argument("--service-account", default="hub", help="the hub's (default: hub)")
    needs.add_argument(
        "--gateway-account", default="", help="the Dask gateway's, for its own rights, e.g. gateway"
    )
    needs.add_argument("--see-nodes", action="store_true", help="for availability_from = 'nodes'")
    needs.add_argument("--storage-claims", action="store_true", help="for storage_pvc_ensure")
    needs.add_argument("--internal-ssl", action="store_true", help="for c.JupyterHub.internal_ssl")
    needs.add_argument(
        "--user-namespaces", action="store_true", help="for c.KubeSpawner.enable_user_namespaces"
    )
    needs.add_argument(
        *("--api-server",), action="append", default=[], metavar="CIDR",
        help="the API server, which servers must not reach; repeat it",
    )  # fmt: skip
    needs.add_argument(
        *("--hub-network",), action="append", default=[], metavar="CIDR",
        help="where hub and proxy connect from, if they are not pods; repeat it",
    )  # fmt: skip
    needs.add_argument("--server-port", type=int, default=8888, help="c.KubeSpawner.port")


def _run(arguments: argparse.Namespace) -> str:
    if arguments.verb == "check":
        catalogue = load(arguments.file)
        lines = [
            f"{profile.slug}: {profile.display_name} ({', '.join(profile.backends)})"
            for profile in catalogue.profiles
        ]
        return "\n".join([*lines, f"{len(lines)} profiles, all usable"]) + "\n"
    if arguments.verb == "schema":
        return json.dumps(json_schema(), indent=2) + "\n"
    if arguments.verb == "show":
        options = dict(option.partition("=")[::2] for option in arguments.option)
        person = Person(arguments.user, frozenset(arguments.group))
        return show(
            Asked(
                arguments.file,
                person,
                arguments.profile,
                options,
                arguments.config,
                arguments.identity,
            )
        )
    if arguments.verb == "convert":
        return convert(arguments.file, arguments.output, force=arguments.force)
    if arguments.verb == "manifests":
        return manifests(arguments)
    if arguments.verb == "install-door":
        install_door(arguments.to)
        if os.geteuid() != 0:
            sys.stderr.write("not root: give the file to root before a sudo rule names it\n")
        return f"installed {arguments.to}\n"
    return sudoers(
        hub_user=arguments.hub_user,
        runas=arguments.runas,
        door=arguments.door,
        slurm_bin=arguments.slurm_bin,
        slurm_conf=arguments.slurm_conf,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when it worked, 1 with a message when it did not."""
    arguments = _parser().parse_args(argv)
    try:
        sys.stdout.write(_run(arguments))
    except (QHubSpawnerError, ValueError, OSError) as error:
        sys.stderr.write(f"qhub-spawner {arguments.verb}: {error}\n")
        return 1
    return 0
