"""The tasks of this repository. `./run SESSION` runs them with the pinned nox and uv."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path

import nox
from nox.command import CommandFailed

ROOT = Path(__file__).parent
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
GROUPS = nox.project.load_toml(ROOT / "pyproject.toml")
# A real system on a shared machine may be late once: what fails is run again, twice at most, and
# pytest says so. A fault fails each time.
PATIENT = ("--reruns=2", "--reruns-delay=2")
# Arguments of each ring of tests, in the order they run. Unit tests share the two cores, with
# sockets off; the others own the real systems they start.
RINGS = {
    "unit": (
        *("-n2", "--disable-socket", "--allow-unix-socket", "--cov", "--cov-report=term"),
        *PATIENT,  # it starts real processes too, for the bootstrap and the door
    ),
    "contract": PATIENT,
    "integration": PATIENT,
    "e2e": PATIENT,
}
# Seconds that a session's process gets to end what it started after Ctrl-C.
GRACE = {"interrupt_timeout": 60.0, "terminate_timeout": 30.0}


if Path("/etc/ssl/certs/ca-certificates.crt").exists():
    # A site's own certificate authority is known to the system, not to uv.
    os.environ.setdefault("UV_SYSTEM_CERTS", "true")
nox.needs_version = ">=2026"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "layers", "docs", "build", "tests"]


def extras(package: Path) -> str:
    """All extras of a package, as a requirement has them: `[kubernetes,slurm]`."""
    project = nox.project.load_toml(package / "pyproject.toml")["project"]
    names = sorted(project.get("optional-dependencies", {}))
    return f"[{','.join(names)}]" if names else ""


def install(session: nox.Session, *groups: str, packages: bool = True) -> None:
    """Install dependency groups and our packages, as wheels, at the versions in constraints.txt."""
    # uv keeps an installed folder's wheel while its pyproject.toml does not change; pip does not.
    fresh = [f"--reinstall-package={path.name}" for path in PACKAGES if packages]
    session.install(
        *("-c", "constraints.txt"),
        *nox.project.dependency_groups(GROUPS, *groups),
        *(f"./{path.relative_to(ROOT)}{extras(path)}" for path in PACKAGES if packages),
        *(fresh if session.venv_backend == "uv" else ()),
    )


@nox.session
def demo(session: nox.Session) -> None:
    """A hub on this machine to try out: [slurm|kubernetes|both] [--check]."""
    install(session, "demo")
    session.run("python", "-m", "demo", *session.posargs, **GRACE)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, or one ring: [unit|contract|integration|e2e] [pytest's arguments]."""
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        session.env["QHUB_SYSTEMS_REQUIRED"] = "1"
    install(session, "tests")
    rings, arguments = list(RINGS), session.posargs
    if arguments and arguments[0] in RINGS:
        rings, arguments = [arguments[0]], arguments[1:]
    if "e2e" in rings:
        session.run("python", "tests/systems/debian.py", "chromium")
    counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
    with kubernetes_built_beside(session, needed=rings != ["unit"]) as wait:
        for ring in rings:
            if ring != "unit":
                wait()
            for name, count in run_ring(session, ring, arguments).items():
                counts[name] += count
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**counts), flush=True)
    if counts["failed"]:
        session.error("tests failed")


@contextlib.contextmanager
def kubernetes_built_beside(session: nox.Session, *, needed: bool) -> Iterator[Callable[[], None]]:
    """Build Kubernetes' binaries and images while unit tests run, where the cache has none.

    Gives what waits for it. A build that failed is told by the tests that miss it.
    """
    if not needed:
        yield lambda: None
        return
    log = ROOT / "build" / "tests" / "kubernetes.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    python = str(Path(session.bin) / "python")
    command = ["nice", "-n", "10", python, "-m", "tests.systems.kubernetes", "build"]
    with log.open("w") as file:
        build = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)

    def wait() -> None:
        if build.poll() is None:
            print(f"Waiting for the build of Kubernetes; see {log.relative_to(ROOT)}.", flush=True)
        if build.wait():
            print(log.read_text()[-2000:], flush=True)

    try:
        yield wait
    finally:
        if build.poll() is None:
            build.terminate()
            build.wait()


def run_ring(session: nox.Session, ring: str, arguments: list[str]) -> dict[str, int]:
    """Run one ring to its end and count its tests; a ring that breaks down counts as a failure."""
    report = ROOT / "build" / "tests" / f"{ring}.xml"  # session.create_tmp() would set TMPDIR too
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    command = ("pytest", f"tests/{ring}", *RINGS[ring], f"--junitxml={report}", *arguments)
    broken = 0
    try:
        session.run(*command, **GRACE)
    except CommandFailed:
        broken = 1
    if not report.exists():
        return {"passed": 0, "failed": broken, "skipped": 0}
    suite = ET.parse(report).getroot()[0]  # noqa: S314 - pytest has just written it
    tests, failures, errors, skipped = (
        int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")
    )
    failed = failures + errors
    passed = tests - failed - skipped
    return {"passed": passed, "failed": max(failed, broken), "skipped": skipped}


@nox.session
def lint(session: nox.Session) -> None:
    """Style and weaknesses: ruff, bandit, pip-audit. `-- --fix` repairs what can be repaired."""
    install(session, "lint", packages=False)
    fix = "--fix" in session.posargs
    session.run("ruff", "check", *(["--fix"] if fix else []), ".")
    session.run("ruff", "format", *([] if fix else ["--check"]), ".")
    session.run("bandit", "--quiet", "-ll", "--recursive", *(f"{path}/src" for path in PACKAGES))
    session.run("python", ".ci/audit.py")


@nox.session
def types(session: nox.Session) -> None:
    """Types: mypy, strict, on product code."""
    install(session, "types")
    session.run("mypy", *(str(path / "src") for path in PACKAGES))


@nox.session
def layers(session: nox.Session) -> None:
    """Who may import whom: the contracts in pyproject.toml."""
    install(session, "layers")
    session.run("lint-imports", "--no-cache")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, in build/docs; warnings are errors."""
    install(session, "docs")
    session.run("sphinx-build", "-W", "--keep-going", "-a", "-E", "-q", "docs", "build/docs")


@nox.session
def build(session: nox.Session) -> None:
    """Wheels of all packages, in dist/, tried in a clean environment."""
    install(session, "build", packages=False)
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    clean = Path(session.create_tmp()) / "clean"
    python = str(clean / "bin/python")
    session.run("uv", "venv", "--quiet", "--clear", f"--python={sys.executable}", str(clean))
    for path in PACKAGES:
        session.run("uv", "build", "--no-build-isolation", "--out-dir=dist", str(path))
    wheels = [
        f"{next((ROOT / 'dist').glob(f'{path.name}-*.whl'))}{extras(path)}" for path in PACKAGES
    ]
    session.run("uv", "pip", "install", f"--python={python}", "-c", "constraints.txt", *wheels)
    session.run("uv", "pip", "check", f"--python={python}")
    names = [path.name for path in PACKAGES]
    session.run(python, "-I", ".ci/installed.py", *names, external=True)


@nox.session
def bench(session: nox.Session) -> None:
    """A benchmark beside its rival: NAME [arguments]."""
    install(session, "bench")
    session.run("python", "-m", "benchmarks", *session.posargs, **GRACE)


@nox.session(default=False)
def pins(session: nox.Session) -> None:
    """Write constraints.txt anew; `-- --upgrade` takes the latest versions."""
    install(session, "run", packages=False)
    groups = [f"--group={name}" for name in GROUPS["dependency-groups"]]
    sources = [str(path.relative_to(ROOT) / "pyproject.toml") for path in PACKAGES]
    session.run(
        *("uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.11"),
        *("--all-extras", "--no-annotate", "--custom-compile-command=./run pins"),
        *(*groups, *sources, "--output-file=constraints.txt", *session.posargs),
    )


@nox.session(default=False)
def changelog(session: nox.Session) -> None:
    """Turn the fragments in changelog.d into a section of CHANGELOG.md: VERSION."""
    install(session, "changelog", packages=False)
    session.run("towncrier", "build", "--yes", "--version", *session.posargs)
