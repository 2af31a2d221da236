"""A Go that is new enough, wherever it may come from: PATH, /usr/local/go, or Go's module proxy."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from ..debian import MissingPackagesError, ensure
from ..processes import SystemUnavailableError, locked
from ..userenv import cache_folder

# etcd 3.6.16 asks for 1.26.0; the newest patch of that when this was written
NEEDED = (1, 26)
PINNED = "1.26.8"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
DOWNLOAD_SECONDS = 600
COMPLETE = "qhub-complete"

Announce = Callable[[str], None]


def go(announce: Announce | None = None) -> Path:
    """A `go` of at least version 1.26; one from the module proxy is fetched when there is none.

    Args:
        announce: Told before anything is fetched or installed.

    Raises:
        SystemUnavailableError: There is none, and none can be had; says why.
    """
    for found in (shutil.which("go"), "/usr/local/go/bin/go", "/usr/lib/go/bin/go"):
        if found and _version(Path(found)) >= NEEDED:
            return Path(found)
    folder = cache_folder() / f"go-{PINNED}"
    with locked(cache_folder() / f"{folder.name}.lock"):
        if not (folder / COMPLETE).exists():
            if announce:
                announce(f"Fetching Go {PINNED} from the module proxy into {folder} (once).")
            _fetch(folder)
    return folder / "bin" / "go"


def _version(program: Path) -> tuple[int, ...]:
    """Its version; (0,) when it does not run."""
    try:
        words = _run([str(program), "version"], {"GOTOOLCHAIN": "local"}, 60)
    except SystemUnavailableError:
        return (0,)
    # go version go1.26.8 linux/amd64
    match = re.search(r"\bgo(\d+)\.(\d+)", words)
    return tuple(int(each) for each in match.groups()) if match else (0,)


def _fetch(folder: Path) -> None:
    """Lay out the toolchain that the proxy keeps as a module, with any older Go's help."""
    try:
        ensure(["golang-go"])
    except MissingPackagesError as error:
        message = f"there is no Go {NEEDED[0]}.{NEEDED[1]} or later, and {error}"
        raise SystemUnavailableError(message) from error
    machine = MACHINES.get(platform.machine())
    if machine is None:
        message = f"no Go toolchain is known for {platform.machine()!r}: {', '.join(MACHINES)} are"
        raise SystemUnavailableError(message)
    module = f"golang.org/toolchain@v0.0.1-go{PINNED}.linux-{machine}"
    older = shutil.which("go") or "/usr/bin/go"
    answer = _run([older, "mod", "download", "-json", module], {}, DOWNLOAD_SECONDS)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(json.loads(answer)["Dir"], part)
    _make_usable(part)
    (part / COMPLETE).write_text(module + "\n")
    part.rename(folder)


def _make_usable(folder: Path) -> None:
    """The module cache keeps everything read-only, and no program executable."""
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
    for programs in ("bin", "pkg/tool"):
        for path in (folder / programs).rglob("*"):
            if path.is_file():
                path.chmod(0o755)


def _run(command: list[str], variables: Mapping[str, str], seconds: float) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=seconds, check=False, cwd="/", env={**os.environ, **variables},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"{' '.join(command)} failed: {error}"
        raise SystemUnavailableError(message) from error
    if done.returncode != 0:
        message = f"{' '.join(command)} failed ({done.returncode}): {done.stderr[-1000:]}"
        raise SystemUnavailableError(message)
    return done.stdout
