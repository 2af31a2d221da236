"""What all rings share: the systems, one each for the whole run, and the rule about missing ones."""

from __future__ import annotations

import os
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.examples import WANTED, examples
from tests.systems.processes import SystemUnavailableError

FAILURES = Path(__file__).parents[1] / "build" / "tests" / "failures.log"
REQUIRED = bool(os.environ.get("QHUB_SYSTEMS_REQUIRED") or os.environ.get("CI"))


# How long an example takes says nothing on a machine that others use too. Examples are not drawn
# anew for each run, so that what fails is the change and not luck; QHUB_EXAMPLES=5000 looks further.
settings.register_profile(
    "shared machine",
    parent=settings.get_profile(settings.get_current_profile_name()),
    deadline=None,
    derandomize=not WANTED,
    max_examples=examples(100),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("shared machine")

# By each mark: fixtures and parameters that mean its system, and words in the names of a test or
# its file, for a system that is started in the test itself.
SYSTEMS = {
    "slurm": ({"slurm", "cluster", "command-line", "rest"}, {"slurm"}),
    "kubernetes": ({"kubernetes"}, {"kubernetes"}),
    "auth": ({"keycloak"}, {"auth", "keycloak"}),
    "gateway": ({"gateway"}, {"gateway"}),
}


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marks of systems."""
    for system in SYSTEMS:
        config.addinivalue_line("markers", f"{system}: needs {system}; set by tests/conftest.py")
    config.addinivalue_line("markers", "e2e: in a browser, or as a whole; set by tests/conftest.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the systems it needs: `-m kubernetes` takes those of one."""
    for item in items:
        if "unit" not in item.path.parts:
            for system in systems_of(item):
                item.add_marker(system)
        if "e2e" in item.path.parts:
            item.add_marker("e2e")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write each failure down as it happens, those that are run again too: build/tests/failures."""
    if report.outcome in {"failed", "rerun"}:
        FAILURES.parent.mkdir(parents=True, exist_ok=True)
        now = time.strftime("%H:%M:%S")
        with FAILURES.open("a") as file:
            file.write(f"\n==== {now} {report.outcome}: {report.nodeid} ({report.when})\n")
            file.write(f"{report.longreprtext}\n")
            file.writelines(f"---- {title}\n{text}\n" for title, text in report.sections)


def systems_of(item: pytest.Item) -> set[str]:
    """Return the systems that a test needs, from its fixtures, its parameters and its names."""
    parameters = getattr(item, "callspec", None)
    values = parameters.params.values() if parameters is not None else ()
    needs = {
        *getattr(item, "fixturenames", ()),
        *(each for each in values if isinstance(each, str)),
    }
    named = {*re.split("[_.]", item.path.stem), *item.name.partition("[")[0].split("_")}
    return {system for system, (own, words) in SYSTEMS.items() if own & needs or words & named}


def missing(system: str, error: Exception) -> None:
    """A missing system is a skip that names it; in CI it is a failure."""
    message = f"{system} cannot be had here: {error}"
    if REQUIRED:
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(autouse=True, scope="module")
def no_signal_held_back() -> Iterator[None]:
    """No module leaves signals blocked: processes of later tests would not end by them."""
    yield
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


@pytest.fixture(scope="session")
def slurm() -> Iterator[Any]:
    """One real Slurm for the whole run; leftovers of runs that were killed are ended first."""
    from tests.systems.slurm import SlurmSystem, sweep

    sweep()
    system = SlurmSystem()
    try:
        system.start()
    except SystemUnavailableError as error:
        missing("Slurm", error)
    try:
        yield system
    finally:
        system.stop()


@pytest.fixture(scope="session")
def kubernetes() -> Iterator[Any]:
    """One real Kubernetes for the whole run; leftovers of runs that were killed are ended first."""
    from tests.systems.kubernetes import KubernetesSystem

    system = KubernetesSystem()
    try:
        system.start()
    except SystemUnavailableError as error:
        missing("Kubernetes", error)
    try:
        yield system
    finally:
        system.stop()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Any]:
    """One real PostgreSQL for the whole run; `make()` gives the address of an empty database."""
    from tests.systems.postgresql import PostgreSQL

    yield from _database(PostgreSQL)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Any]:
    """One real MariaDB for the whole run; `make()` gives the address of an empty database."""
    from tests.systems.mariadb import MariaDB

    yield from _database(MariaDB)


def _database(kind: Callable[[], Any]) -> Iterator[Any]:
    system = kind()
    try:
        system.start()
    except SystemUnavailableError as error:
        missing(system.name, error)
    try:
        yield system
    finally:
        system.stop()


@pytest.fixture(scope="session")
def keycloak() -> Iterator[Any]:
    """One real Keycloak for the whole run, or the one that `QHUB_KEYCLOAK` names."""
    from tests.systems.keycloak import KeycloakSystem, sweep

    system = KeycloakSystem.shared()
    if system is None:
        sweep()
        system = KeycloakSystem()
        try:
            system.start()
        except SystemUnavailableError as error:
            missing("Keycloak", error)
    try:
        yield system
    finally:
        system.stop()


@pytest.fixture(scope="module")
def realm(keycloak: Any) -> Iterator[Any]:
    """A realm for the tests of one module: that of demo/realm.yaml."""
    realm = keycloak.make_realm()
    try:
        yield realm
    finally:
        realm.remove()


@pytest.fixture
def make_realm(keycloak: Any) -> Iterator[Callable[..., Any]]:
    """Make realms for one test alone, as `KeycloakSystem.make_realm` does."""
    realms: list[Any] = []

    def make(*arguments: Any, **options: Any) -> Any:
        realms.append(keycloak.make_realm(*arguments, **options))
        return realms[-1]

    try:
        yield make
    finally:
        for each in realms:
            each.remove()


@pytest.fixture(scope="session")
def make_traefik() -> Iterator[Callable[..., Any]]:
    """Make real Traefiks, as a build for tests; see tests/systems/traefik/README.md."""
    from tests.systems.traefik import TraefikSystem

    made: list[Any] = []

    def make(**options: Any) -> Any:
        try:
            made.append(TraefikSystem(**options))
        except SystemUnavailableError as error:
            missing("Traefik", error)
        made[-1].start()
        return made[-1]

    try:
        yield make
    finally:
        for each in made:
            each.stop()


@pytest.fixture(scope="session")
def user_bin() -> Any:
    """The folder of commands that everybody may run: jupyterhub, jupyterhub-singleuser, node."""
    from tests.systems.userenv import user_environment

    try:
        return user_environment() / "bin"
    except SystemUnavailableError as error:
        missing("the environment of users", error)


@pytest.fixture
def hub_on(slurm: Any) -> Iterator[Callable[..., Any]]:
    """Make hubs on the Slurm system; all are ended, and their jobs cancelled, after the test."""
    from tests.systems.slurm_hub import SlurmHub

    hubs: list[Any] = []

    def make(*, start: bool = True, **options: Any) -> Any:
        hub = SlurmHub(options.pop("slurm", slurm), **options)
        hubs.append(hub)
        if start:
            hub.start()
        for name in ("alice", "bob"):
            if start:
                hub.add_user(name)
        return hub

    try:
        yield make
    finally:
        for hub in hubs:
            hub.stop()
        slurm.run(["scancel", "--user=alice"])
        slurm.run(["scancel", "--user=bob"])


@pytest.fixture(params=["command-line", "rest"])
def transport(request: pytest.FixtureRequest) -> str:
    """Both ways of talking to Slurm."""
    return str(request.param)


@pytest.fixture
def canary() -> str:
    """A secret that must not turn up anywhere."""
    return f"canary-{secrets.token_hex(12)}"
