"""Setting up `qhub-ensure-dirs` for sudo: one file that root owns, its settings, the sudo rule."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import zipfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from qhub_auth.ensuring import COMMAND
from qhub_auth.errors import ConfigurationError, shown
from qhub_auth.folders.settings import settings_of
from qhub_auth.folders.where import SETTINGS

__all__ = ["add_to", "example_settings", "install", "sudoers"]

PYTHON = "/usr/bin/python3"
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_ALIAS = re.compile(r"[A-Z][A-Z0-9_]*")  # sudoers(5): ALL, and what a site may have defined
# To sudo, a path that ends in a slash is every command of that folder.
_PATH = re.compile(r"(/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9_.+\-]+)+")
_MODULES = "qhub_auth.folders"
_OTHERS_WRITE = 0o022
# So that what is installed twice is the same file
_DATE = (1980, 1, 1, 0, 0, 0)


def install(target: Path, *, settings: str = SETTINGS, python: str = PYTHON) -> str:
    """Write the command to one file that only root may change; returns what to tell.

    It holds the modules of `qhub_auth.folders`, readable as they are, and where its settings are.

    Args:
        target: The file.
        settings: The settings file that this copy reads, and no other.
        python: The interpreter, 3.11 or newer, of the system: nobody but root may change it.

    Raises:
        ConfigurationError: A path is not one, or the interpreter will not do.
        OSError: The file cannot be written.
    """
    for path in (settings, python):
        if _PATH.fullmatch(path) is None:
            raise ConfigurationError(
                f"{shown(path)}: expected the absolute path of one file, in plain characters"
            )
    _check_python(python)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(f"#!{python} -IS\n".encode() + _archive(settings))
        os.fchmod(file.fileno(), 0o755)  # nosec B103 - everybody may read it, root alone writes
    part.replace(target)
    notes = "" if os.geteuid() == 0 else "not root: give the file to root before a rule names it\n"
    return f"installed {target}, with settings in {settings}\n{notes}"


def _archive(settings: str) -> bytes:
    """Return the modules as a zip file that Python runs (zipapp), not compressed."""
    folder = files(_MODULES)
    contents = {f"qhub_auth/folders/{name}": text for name, text in _sources(folder).items()}
    contents["qhub_auth/__init__.py"] = ""
    contents["__main__.py"] = contents.pop("qhub_auth/folders/__main__.py")
    where = contents["qhub_auth/folders/where.py"]
    contents["qhub_auth/folders/where.py"] = where.replace(repr_of(SETTINGS), repr_of(settings))
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(contents):
            archive.writestr(zipfile.ZipInfo(name, _DATE), contents[name])
    return data.getvalue()


def _sources(folder: Any) -> dict[str, str]:  # noqa: ANN401 - importlib's Traversable
    return {
        each.name: each.read_text(encoding="utf-8")
        for each in folder.iterdir()
        if each.name.endswith(".py")
    }


def repr_of(path: str) -> str:
    """Return a plain path as it stands in the source."""
    return f'"{path}"'


def _check_python(python: str) -> None:
    code = "import sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run(
            [python, "-ISc", code], capture_output=True, text=True, timeout=60, check=False
        )
        version = tuple(map(int, done.stdout.split()))
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(f"{python} cannot be run: {error}") from error
    if version < (3, 11):
        raise ConfigurationError(
            f"{python} is Python {'.'.join(map(str, version))}; 3.11 or newer is needed: name "
            "another of the system's by --python"
        )
    real = Path(python).resolve()
    for path in (real, *real.parents):
        status = path.stat()
        sticky = path.is_dir() and status.st_mode & 0o1000
        if status.st_uid != 0 or (status.st_mode & _OTHERS_WRITE and not sticky):
            raise ConfigurationError(
                f"{python}: {path} can be changed by others than root; root must not run it"
            )


def sudoers(*, hub_user: str, command: str = COMMAND) -> str:
    """Return the sudo rule that lets the hub's account run the command as root, and no more.

    Args:
        hub_user: The account of the hub.
        command: The installed file.

    Raises:
        ConfigurationError: A value holds what sudoers(5) would read as something else.
    """
    if _ACCOUNT.fullmatch(hub_user) is None or _ALIAS.fullmatch(hub_user) is not None:
        raise ConfigurationError(f"{shown(hub_user)}: expected the name of an account")
    if _PATH.fullmatch(command) is None:
        raise ConfigurationError(
            f"{shown(command)}: expected the absolute path of one file, in plain characters"
        )
    return (
        "# qhub: homes and shared folders are made as root.\n"
        "# No arguments are allowed; what to make comes on standard input and is checked there.\n"
        f"Defaults!{command} env_reset, !requiretty, !use_pty, umask=0077\n"
        f'{hub_user} ALL=(root) NOPASSWD:NOSETENV: {command} ""\n'
    )


def example_settings(
    *,
    homes: str = "/home",
    shared: str = "/shared",
    uids: tuple[int, int] = (20000, 49999),
    gids: tuple[int, int] = (50000, 59999),
) -> str:
    """Return settings to begin with, as JSON.

    Raises:
        ConfigurationError: A value is not one that the command takes.
    """
    document: dict[str, Any] = {
        "homes": {"root": homes, "skeleton": "/etc/skel", "quota_bytes": 0},
        "shared": {"root": shared, "quota_bytes": 0},
        "uids": [list(uids)],
        "gids": [list(gids)],
        "mounts": False,
        "hide_names": False,
    }
    try:
        settings_of(document)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    return json.dumps(document, indent=2) + "\n"


def add_to(verbs: Any) -> None:  # noqa: ANN401 - argparse keeps the class to itself
    """Add `install-folders`, `folders-sudoers` and `folders-settings` to a command's verbs.

    Each sets ``run``: a function of the parsed arguments that returns what to print.
    """
    _add(verbs, "install-folders", "install the command that makes folders as root", _install)
    rule = _add(verbs, "folders-sudoers", "print the sudo rule for it", _sudoers)
    rule.add_argument("--hub-user", required=True, help="the account of the hub")
    rule.add_argument("--command", default=COMMAND, metavar="FILE")
    begin = _add(verbs, "folders-settings", "print settings to begin with", _settings)
    begin.add_argument("--homes", default="/home", metavar="FOLDER")
    begin.add_argument("--shared", default="/shared", metavar="FOLDER")
    begin.add_argument("--uids", default="20000-49999", metavar="FIRST-LAST")
    begin.add_argument("--gids", default="50000-59999", metavar="FIRST-LAST")
    installing = verbs.choices["install-folders"]
    installing.add_argument("--to", type=Path, default=Path(COMMAND), metavar="FILE")
    installing.add_argument("--settings", default=SETTINGS, metavar="FILE")
    installing.add_argument("--python", default=PYTHON, metavar="FILE")


def _add(
    verbs: Any,  # noqa: ANN401 - as add_to
    name: str,
    words: str,
    run: Callable[[argparse.Namespace], str],
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=words)
    parser.set_defaults(run=run)
    return parser


def _install(arguments: argparse.Namespace) -> str:
    return install(arguments.to, settings=arguments.settings, python=arguments.python)


def _sudoers(arguments: argparse.Namespace) -> str:
    return sudoers(hub_user=arguments.hub_user, command=arguments.command)


def _settings(arguments: argparse.Namespace) -> str:
    ranges = {}
    for name in ("uids", "gids"):
        first, _, last = getattr(arguments, name).partition("-")
        if not (first.isdecimal() and last.isdecimal()):
            raise ConfigurationError(f"--{name}: expected FIRST-LAST, e.g. 20000-49999")
        ranges[name] = (int(first), int(last))
    return example_settings(homes=arguments.homes, shared=arguments.shared, **ranges)
