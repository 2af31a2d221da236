"""The tasks of this repository. `./run SESSION` runs them with the pinned nox and uv."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import nox
from nox.command import CommandFailed

ROOT = Path(__file__).parent
REPORTS = ROOT / "build" / "tests"
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
# In a run of all rings these tests have processes of their own, beside the others: all of them wait
# for their systems most of the time. tests/conftest.py marks a test with the systems it needs.
BESIDE = {
    "kubernetes": "kubernetes or (e2e and not auth and not gateway)",
    "auth": "(auth or gateway) and not kubernetes",
}
BESIDE_SECONDS = 40 * 60.0  # how long it may still take when the others are through
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
    """A hub on this machine to try out: [keycloak] [slurm|kubernetes|both] [--check]."""
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
    counts: Counter[str] = Counter(passed=0, failed=0, skipped=0)
    with systems_built_beside(session, needed=rings != ["unit"]) as built:
        if "unit" in rings:
            counts.update(run_ring(session, "unit", arguments))
        real = [ring for ring in rings if ring != "unit"]
        if real:
            built()
        if len(real) > 1 and "-m" not in arguments:
            counts.update(run_side_by_side(session, real, arguments))
        else:
            for ring in real:
                counts.update(run_ring(session, ring, arguments))
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**counts), flush=True)
    if counts["failed"]:
        session.error("tests failed")


@contextlib.contextmanager
def systems_built_beside(session: nox.Session, *, needed: bool) -> Iterator[Callable[[], None]]:
    """Fetch and build the systems while unit tests run, where the cache has none.

    Gives what waits for it. A build that failed is told by the tests that miss it.
    """
    if not needed:
        yield lambda: None
        return
    REPORTS.mkdir(parents=True, exist_ok=True)
    log = REPORTS / "systems.log"
    python = str(Path(session.bin) / "python")
    command = ["nice", "-n", "10", python, "-m", "tests.systems", "build"]
    with log.open("w") as file:
        build = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)

    def wait() -> None:
        if build.poll() is None:
            print(f"Waiting for what is built; see {log.relative_to(ROOT)}.", flush=True)
        if build.wait():
            print(log.read_text()[-2000:], flush=True)

    try:
        yield wait
    finally:
        if build.poll() is None:
            build.terminate()
            build.wait()


def run_ring(
    session: nox.Session, ring: str, arguments: list[str], marks: str = ""
) -> Counter[str]:
    """Run one ring, or those of its tests with these marks, to its end, and count its tests."""
    failed = False
    try:
        command = pytest_command(ring, [ring], arguments, marks)
        # 5: there are none with these marks
        session.run(*command, success_codes=[0, 5] if marks else [0], **GRACE)
    except CommandFailed:
        failed = True
    return counted(ring, failed=failed)


def run_side_by_side(session: nox.Session, rings: list[str], arguments: list[str]) -> Counter[str]:
    """Run these rings, and beside them those of their tests that `BESIDE` names.

    What those print comes at the end; meanwhile it stands in build/tests, a log for each.
    """
    counts: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        running = {
            name: stack.enter_context(beside(session, name, rings, [*PATIENT, *arguments], marks))
            for name, marks in BESIDE.items()
        }
        others = " or ".join(f"({marks})" for marks in BESIDE.values())
        for ring in rings:
            counts.update(run_ring(session, ring, arguments, f"not ({others})"))
        deadline = time.monotonic() + BESIDE_SECONDS
        for name, process in running.items():
            if process.poll() is None:
                print(f"Waiting for {name}; see build/tests/{name}.log.", flush=True)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
    for name, process in running.items():
        # one that was late has been ended, and by that signal it did not end well
        counts.update(counted(name, failed=process.returncode not in {0, 5}))
    return counts


@contextlib.contextmanager
def beside(
    session: nox.Session, name: str, rings: list[str], arguments: list[str], marks: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run tests with these marks in a process of their own; at the end print what they said."""
    log = REPORTS / f"{name}.log"
    command = pytest_command(name, rings, arguments, marks)
    print(f"Beside, into {log.relative_to(ROOT)}: {shlex.join(command)}", flush=True)
    environment = {each: value for each, value in session.env.items() if value is not None}
    environment = {**os.environ, **environment}
    environment["PATH"] = os.pathsep.join([session.bin, environment.get("PATH", os.defpath)])
    with log.open("w") as file:
        process = subprocess.Popen(
            [str(Path(session.bin) / command[0]), *command[1:]],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches it once, from here
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            end(process)
        print(log.read_text(errors="replace"), flush=True)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a run of tests that is late or was interrupted, with time to end what it started."""
    for number, grace in zip((signal.SIGINT, signal.SIGTERM), GRACE.values(), strict=True):
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
            return
    process.kill()
    process.wait()


def pytest_command(
    name: str, rings: list[str], arguments: list[str] | tuple[str, ...], marks: str
) -> list[str]:
    """Return the command that runs tests of some rings and writes their report."""
    # session.create_tmp() would set TMPDIR too
    REPORTS.mkdir(parents=True, exist_ok=True)
    report = REPORTS / f"{name}.xml"
    report.unlink(missing_ok=True)
    folders = [f"tests/{ring}" for ring in rings]
    own = RINGS.get(name, ())
    chosen = ["-m", marks] if marks else []
    return ["pytest", *folders, *own, *chosen, f"--junitxml={report}", *arguments]


def counted(name: str, *, failed: bool) -> Counter[str]:
    """Count the tests of a report; a run that broke down counts as a failure."""
    report = REPORTS / f"{name}.xml"
    if not report.exists():
        return Counter(failed=int(failed))
    suite = ET.parse(report).getroot()[0]  # noqa: S314 - pytest has just written it
    tests, failures, errors, skipped = (
        int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")
    )
    bad = failures + errors
    return Counter(passed=tests - bad - skipped, failed=max(bad, int(failed)), skipped=skipped)


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
    # our packages need one another, and come from here
    wanted = Path(session.create_tmp()) / "packages.txt"
    wanted.write_text("".join(f"{path}{extras(path)}\n" for path in PACKAGES))
    session.run(
        *("uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.11"),
        *("--no-annotate", "--custom-compile-command=./run pins"),
        *(f"--no-emit-package={path.name}" for path in PACKAGES),
        *(*groups, str(wanted), "--output-file=constraints.txt", *session.posargs),
    )


@nox.session(default=False)
def changelog(session: nox.Session) -> None:
    """Turn the fragments in changelog.d into a section of CHANGELOG.md: VERSION."""
    install(session, "changelog", packages=False)
    session.run("towncrier", "build", "--yes", "--version", *session.posargs)
