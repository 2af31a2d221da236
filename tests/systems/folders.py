"""A place with homes and shared folders, the installed command that makes them, and people.

Everything is real: root, the kernel's permissions, and people who are only numbers, in processes
of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qhub_auth.folders.verbs import Verb, line_of
from qhub_auth.homes.setup import install

from .packages import install_packages
from .processes import SystemUnavailableError

SECONDS = 60


class Person:
    """Somebody with a number and groups, and no rights beyond these."""

    def __init__(self, uid: int, *gids: int) -> None:
        """Take their numbers; their own group has theirs."""
        self.uid, self.gids = uid, gids

    def command(self, *argv: str, umask: int = 0o022, cwd: str = "/") -> dict[str, Any]:
        """Arguments of `subprocess` that run this as the person."""
        return {
            "args": argv,
            "user": self.uid,
            "group": self.uid,
            "extra_groups": list(self.gids),
            "umask": umask,
            "cwd": cwd,
            "env": {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            "stdin": subprocess.DEVNULL,
        }

    def run(self, *argv: str, umask: int = 0o022) -> subprocess.CompletedProcess[str]:
        """Run a command as them, to its end."""
        return subprocess.run(
            **self.command(*argv, umask=umask),
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip

    def may(self, *argv: str, umask: int = 0o022) -> bool:
        """Whether it worked; a refusal is one by permissions, or it is an error of the test."""
        done = self.run(*argv, umask=umask)
        if done.returncode:
            assert any(
                words in done.stderr
                for words in ("Permission denied", "Operation not permitted", "cannot overwrite")
            ), done.stderr
        return done.returncode == 0

    def python(self, code: str, *argv: str) -> subprocess.Popen[str]:
        """Start Python code as them; the caller ends it."""
        return subprocess.Popen(
            **self.command("/usr/bin/python3", "-ISc", code, *argv),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip


class FolderSite:
    """Roots for homes and shared folders, settings, and an installed `qhub-ensure-dirs`."""

    def __init__(self, base: Path | None = None, **settings: Any) -> None:
        """Make it.

        Args:
            base: Where; a new folder below ``/var/tmp`` that everybody may pass if there is none.
            settings: Over those to begin with.

        Raises:
            SystemUnavailableError: We are not root, or the system's Python is too old.
        """
        if os.geteuid() != 0:
            raise SystemUnavailableError("folders of other people are made by root only")
        install_packages(("acl", "sudo"), "folders")
        self.own = base is None
        self.base = base or Path(tempfile.mkdtemp(prefix="qhub-folders-", dir="/var/tmp"))
        self.base.chmod(0o755)
        self.homes, self.shared = self.base / "home", self.base / "shared"
        self.etc, self.command = self.base / "etc", self.base / "libexec" / "qhub-ensure-dirs"
        self.skeleton = self.base / "skel"
        for folder in (self.homes, self.shared, self.etc, self.skeleton):
            folder.mkdir()
            folder.chmod(0o755)
        self.file = self.etc / "folders.json"
        self.settings: dict[str, Any] = {
            "homes": {"root": str(self.homes), "skeleton": str(self.skeleton)},
            "shared": {"root": str(self.shared)},
            "uids": [[20000, 20099]],
            "gids": [[50000, 50099]],
            **settings,
        }
        self.write()
        try:
            install(self.command, settings=str(self.file))
        except Exception as error:
            self.remove()
            raise SystemUnavailableError(str(error)) from error
        self.command.parent.chmod(0o755)

    def write(self, **changes: Any) -> None:
        """Write the settings file, with changes."""
        self.settings |= changes
        self.file.write_text(json.dumps(self.settings))
        self.file.chmod(0o644)

    def remove(self) -> None:
        """Take everything away."""
        if self.own:
            shutil.rmtree(self.base, ignore_errors=True)

    # ---- asking ----

    def raw(
        self, text: str | bytes, argv: Sequence[str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the installed command with this on its standard input."""
        data = text.encode() if isinstance(text, str) else text
        return subprocess.run(
            argv or [str(self.command)],
            input=data, capture_output=True, timeout=SECONDS, check=False, **options,
        )  # fmt: skip

    def ask(self, *verbs: Verb) -> list[dict[str, Any]]:
        """Ask for verbs; returns their answers."""
        done = self.raw("".join(map(line_of, verbs)))
        assert done.returncode == 0, done.stderr.decode()
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(answers) == len(verbs), done.stdout
        return answers

    def results(self, *verbs: Verb) -> list[str]:
        """Ask for verbs; returns only done, unchanged, refused or failed."""
        return [answer["result"] for answer in self.ask(*verbs)]

    def says(self, verb: Verb) -> str:
        """Ask for one verb that is refused or fails; returns its words."""
        (answer,) = self.ask(verb)
        assert answer["result"] in {"refused", "failed"}, answer
        return str(answer["words"])


def facts(path: Path) -> tuple[int, int, int]:
    """Owner, group and mode of what is at a path, link or not."""
    status = path.lstat()
    return status.st_uid, status.st_gid, status.st_mode & 0o7777


def tree_of(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Everything below a folder: owner, group, mode, and content or target."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = b""
        if path.is_symlink():
            content = os.fsencode(path.readlink())
        elif path.is_file():
            content = path.read_bytes()
        found[str(path.relative_to(folder))] = (*facts(path), content)
    return found


def end(processes: Iterable[subprocess.Popen[str]]) -> None:
    """End processes that a test started."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate(timeout=SECONDS)


PYTHON = sys.executable
