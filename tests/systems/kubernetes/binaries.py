"""Kubernetes, etcd and kwok, built from the Go module proxy and cached by version.

Each is a Go module of ours whose `tool` lines name the programs, and whose go.sum pins every
dependency. An entry of the cache is complete or absent; of several callers only one builds it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..processes import SystemUnavailableError, locked
from ..userenv import cache_folder
from .toolchain import COMPLETE, PINNED, go

HERE = Path(__file__).resolve().parent
BUILD_SECONDS = 5400
# k8s.io/kubernetes v1.34.4 // indirect
REQUIRED = re.compile(r"^(?:require )?\s*k8s\.io/kubernetes (v\d+\.(\d+)\.\d+)\b", re.MULTILINE)


@dataclass(frozen=True)
class Module:
    """A Go module of ours, and the programs that come of it.

    Attributes:
        name: The name of its cache entry; its source is the folder `go-NAME`.
        minutes: How long it takes on two cores, for the announcement.
        renamed: Programs whose name is not the last part of their package.
        home: The folder that its source is in.
    """

    name: str
    minutes: str
    renamed: Mapping[str, str] = field(default_factory=dict)
    home: Path = HERE

    @property
    def source(self) -> Path:
        """Where its go.mod is."""
        return self.home / f"go-{self.name}"

    @property
    def linker_flags(self) -> str:
        """No debug data; and for Kubernetes the version that it says it is."""
        flags = "-s -w"
        found = REQUIRED.search((self.source / "go.mod").read_text())
        if found:
            package = "k8s.io/component-base/version"
            settings = {"gitVersion": found[1], "gitMajor": "1", "gitMinor": found[2]}
            settings |= {"gitTreeState": "clean", "gitCommit": "0" * 40}
            for name, value in settings.items():
                flags += f" -X {package}.{name}={value}"
        return flags

    @property
    def folder(self) -> Path:
        """Where its programs are, or will be.

        The name depends on the sources and on the Go that we fetch ourselves, not on the Go that
        is at hand: so it is known on a machine that has no Go, and a cache can be moved there.
        """
        parts = [PINNED, self.linker_flags]
        sources = sorted(path for path in self.source.rglob("*") if path.is_file())
        parts += [path.read_text() for path in sources]
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
        return cache_folder() / f"{self.name}-{digest}"

    @property
    def built(self) -> bool:
        """Whether its programs are there."""
        return (self.folder / COMPLETE).exists()

    def ensure(self, announce: Callable[[str], None] | None = None) -> Path:
        """The folder with its programs, which are built when they are absent.

        Args:
            announce: Told before anything is built.

        Raises:
            SystemUnavailableError: They cannot be built; says why.
        """
        folder = self.folder
        if self.built:
            return folder
        with locked(cache_folder() / f"{folder.name}.lock"):
            if not self.built:
                if announce:
                    announce(f"Building {self.name} in {folder} (once, {self.minutes}).")
                self._build(folder, go(announce))
        return folder

    def _build(self, folder: Path, program: Path) -> None:
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o755)
        command = [str(program), "build", "-trimpath", "-buildvcs=false"]
        command += [f"-ldflags={self.linker_flags}", "-o", f"{part}/", "tool"]
        log = cache_folder() / f"{folder.name}.log"
        variables = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"}
        with log.open("wb") as output:
            try:
                code = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    cwd=self.source, env={**os.environ, **variables}, umask=0o022,
                    timeout=BUILD_SECONDS, check=False,
                ).returncode  # fmt: skip
            except (OSError, subprocess.TimeoutExpired) as error:
                message = f"building {self.name} failed: {error}; log {log}"
                raise SystemUnavailableError(message) from error
        if code != 0:
            end = log.read_text(errors="replace")[-1500:]
            message = f"building {self.name} failed ({code}): {' '.join(command)}\n{end}"
            raise SystemUnavailableError(message)
        for old, new in self.renamed.items():
            (part / old).rename(part / new)
        (part / COMPLETE).write_text(f"{program}\n")
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)


KUBERNETES = Module("kubernetes", "11 minutes on two idle cores")
ETCD = Module("etcd", "2 minutes", {"server": "etcd"})
KWOK = Module("kwok", "3 minutes")
PAUSE = Module("pause", "seconds")
MODULES = (PAUSE, ETCD, KUBERNETES, KWOK)
