"""What a hub does with its profiles when it starts, and when their file changes; no Slurm needed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.systems.hub import HubSystem
from tests.systems.processes import wait_until

GOOD = """\
- slug: small
  display_name: Small
  local: {}
"""
BAD = """\
- slug: small
  display_name: Small
  memory: 4 potatoes
  local: {}
- slug: small
  display_name: Again
  lokal: {}
"""


@pytest.fixture
def make(user_bin: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Make hubs with local profiles, run as whoever runs the tests."""
    from tests.systems.userenv import product_site

    hubs: list[HubSystem] = []

    def hub(profiles: str, more: str = "") -> tuple[HubSystem, Path]:
        folder = tmp_path_factory.mktemp("hub")
        folder.chmod(0o755)
        for parent in list(folder.parents)[:3]:
            if parent.owner() == folder.owner():
                parent.chmod(parent.stat().st_mode | 0o055)
        file = folder / "profiles.yaml"
        file.write_text(profiles)
        config = f'c.QHubSpawner.profiles = "{file}"\n{more}'
        site = product_site(folder)
        made = HubSystem(folder / "hub", config, environment_bin=user_bin, python_path=site)
        hubs.append(made)
        return made, file

    yield hub
    for made in hubs:
        made.stop()


def run_to_its_end(hub: HubSystem) -> tuple[int, str]:
    """Run the hub in the foreground; it must end by itself."""
    done = subprocess.run(
        list(hub.hub.argv),
        env=dict(hub.hub.environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_faulty_profiles_stop_the_hub(make: Any) -> None:
    """The hub ends with 1 and names file, line, place, value and what is accepted, for all faults."""
    hub, file = make(BAD)
    code, said = run_to_its_end(hub)
    assert code == 1
    assert f"{file}:3 profiles[0].memory" in said
    assert "4 potatoes" in said
    assert "GiB" in said
    assert f"{file}:7 profiles[1].lokal" in said
    assert "local" in said
    assert "Traceback" not in said


def test_missing_file_stops_the_hub(make: Any) -> None:
    """A path that does not exist is named."""
    hub, file = make(GOOD)
    file.unlink()
    code, said = run_to_its_end(hub)
    assert code == 1
    assert str(file) in said
    assert "Traceback" not in said


def test_kubernetes_profile_stops_the_hub(make: Any) -> None:
    """A backend that is not there yet is refused at start, not at the first click."""
    hub, _ = make(GOOD.replace("local", "kubernetes"))
    code, said = run_to_its_end(hub)
    assert code == 1
    assert "kubernetes" in said.lower()


def test_changed_file_is_taken_up_and_a_faulty_one_is_not(make: Any) -> None:
    """A file that changes is taken up without a restart; a faulty one leaves the last good list."""
    hub, file = make(GOOD)
    hub.start()
    hub.add_user("ada")

    def offered() -> list[str]:
        answer = hub.api("GET", "users/ada/qhub/profiles")
        return [profile["slug"] for profile in answer.json["profiles"]]

    assert offered() == ["small"]
    file.write_text(GOOD + GOOD.replace("small", "large"))
    wait_until(lambda: offered() == ["small", "large"], 10, "the changed list")
    file.write_text(BAD)
    assert offered() == ["small", "large"]
    wait_until(lambda: "4 potatoes" in hub.log.read_text(), 10, "the complaint")
    assert offered() == ["small", "large"]


def test_profiles_from_an_async_callable(make: Any) -> None:
    """A callable gets the spawner, and may be async."""
    hub, _ = make(
        GOOD,
        """
async def profiles(spawner):
    name = spawner.user.name
    return [{"slug": f"for-{name}", "display_name": f"For {name}", "local": {}}]

c.QHubSpawner.profiles = profiles
""",
    )
    hub.start()
    hub.add_user("ada")
    (profile,) = hub.api("GET", "users/ada/qhub/profiles").json["profiles"]
    assert profile["slug"] == "for-ada"


def test_faulty_callable_is_told_to_the_administrator(make: Any) -> None:
    """What a callable returns is checked when it is asked; the person gets a 503, the log the rest."""
    hub, _ = make(GOOD, 'c.QHubSpawner.profiles = lambda spawner: [{"slug": "Bad Slug"}]\n')
    hub.start()
    hub.add_user("ada")
    answer = hub.start_server("ada", {})
    assert answer.status == 503
    assert "Bad Slug" not in answer.text
    assert "Bad Slug" in hub.log.read_text()
