"""Accounts of this machine from files of our own, by Debian's `libnss-extrausers`.

`with ExtraUsers() as extra:` makes the name service read `extra.folder` (/var/lib/extrausers) as
well; afterwards everything is as it was. `qhub-identity nss --output extra.folder` fills it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from .packages import install_packages, program
from .processes import SystemUnavailableError, locked

FOLDER = Path("/var/lib/extrausers")
SWITCH = Path("/etc/nsswitch.conf")
LOCK = Path("/run/lock/qhub-extrausers")
_LISTS = ("passwd", "group", "shadow")


class ExtraUsers:
    """The name service with `extrausers`, for one test at a time.

    Attributes:
        folder: Where the files are: passwd, group, shadow; empty at first.
    """

    folder = FOLDER

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Install it, keep what is there, and let the name service read the folder.

        Raises:
            SystemUnavailableError: It cannot be had here; says why.
        """
        if os.geteuid() != 0:
            message = "only root changes the name service of a machine"
            raise SystemUnavailableError(message)
        install_packages(["libnss-extrausers"], "libnss-extrausers")
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked(LOCK))
            self._keep_folder(stack)
            self._keep_switch(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Put everything back."""
        self._stack.close()

    def getent(self, database: str, key: str) -> str:
        """What `getent DATABASE KEY` prints, without the newline; empty if there is none.

        Every call asks anew: a process of its own has read no file before.
        """
        command = [program("getent"), database, key]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout.rstrip("\n")  # fmt: skip

    def id(self, name: str) -> str:
        """What `id NAME` prints."""
        done = subprocess.run(
            [program("id"), name], capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout.strip() or done.stderr.strip()

    def _keep_folder(self, stack: contextlib.ExitStack) -> None:
        kept = Path(tempfile.mkdtemp(prefix="qhub-extrausers-"))
        stack.callback(shutil.rmtree, kept, ignore_errors=True)
        there = FOLDER.is_dir()
        if there:
            subprocess.run(
                [program("cp"), "-a", "--", f"{FOLDER}/.", str(kept)], check=True, timeout=60
            )

        def restore() -> None:
            shutil.rmtree(FOLDER, ignore_errors=True)
            if there:
                FOLDER.mkdir(mode=0o755)
                subprocess.run(
                    [program("cp"), "-a", "--", f"{kept}/.", str(FOLDER)], check=True, timeout=60
                )

        stack.callback(restore)
        FOLDER.mkdir(mode=0o755, exist_ok=True)
        for name in _LISTS:
            (FOLDER / name).unlink(missing_ok=True)

    def _keep_switch(self, stack: contextlib.ExitStack) -> None:
        before = SWITCH.read_text()
        lines = []
        for line in before.splitlines():
            # passwd:         files systemd
            name, colon, services = line.partition(":")
            if colon and name in _LISTS and "extrausers" not in services.split():
                line = f"{name}:{services.rstrip()} extrausers"  # noqa: PLW2901 - the same line, longer
            lines.append(line)
        after = "\n".join([*lines, ""])
        if after != before:
            stack.callback(_put, before)
            _put(after)


def _put(text: str) -> None:
    """Write nsswitch.conf in one step: every program on the machine reads it."""
    part = SWITCH.with_name(f"{SWITCH.name}.qhub")
    part.write_text(text)
    part.chmod(0o644)
    part.replace(SWITCH)
