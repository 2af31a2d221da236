"""`QHubSpawner` without a hub: its traits, and what it takes from those of batchspawner."""

from __future__ import annotations

import logging
import re
from typing import Any

import jupyterhub.apihandlers
import jupyterhub.handlers
import pytest
from batchspawner.api import BatchSpawnerAPIHandler
from traitlets import HasTraits, TraitError
from traitlets.config import Config

from qhub_spawner.errors import ConfigurationError
from qhub_spawner.handlers import AddressHandler, OwnProfilesHandler, _close_open_route
from qhub_spawner.inherited import REPLACED_TRAITS
from qhub_spawner.local.backend import LocalBackend
from qhub_spawner.slurm.backend import SlurmBackend
from qhub_spawner.slurm.restd import RestDoor
from qhub_spawner.spawner import QHubSpawner


def spawner(**sections: dict[str, Any]) -> QHubSpawner:
    """Return a spawner of nobody, configured like a hub's."""
    return QHubSpawner(config=Config(sections))


@pytest.mark.parametrize("kind", [QHubSpawner, SlurmBackend, LocalBackend])
def test_every_own_trait_is_explained(kind: type[HasTraits]) -> None:
    """Each configurable trait says what it means; numbers say their unit."""
    own = [
        trait
        for name, trait in kind.class_own_traits(config=True).items()  # type: ignore[attr-defined]
        if trait.this_class is kind
    ]
    assert own
    for trait in own:
        words = trait.help
        assert len(words.strip()) > 60, trait.name
        assert words.strip().endswith((".", "`")), trait.name
        assert "Default" in words or "Example" in words, trait.name


class TestMovingOver:
    """A hub that has c.SlurmSpawner.req_* today."""

    def test_resources(self) -> None:
        """What it says goes on to apply where a profile is silent."""
        old = {
            "req_partition": "general",
            "req_account": "research",
            "req_qos": "normal",
            "req_reservation": "course",
            "req_runtime": "8:00:00",
            "req_memory": "4G",
            "req_nprocs": "2",
            "req_ngpus": "1",
            "req_options": "--nice=10 --comment='a b'",
            "req_prologue": "module load x",
            "req_epilogue": "true",
        }
        found = spawner(SlurmSpawner=old).slurm_defaults()
        assert found.options == {
            "partition": "general",
            "account": "research",
            "qos": "normal",
            "reservation": "course",
            "gres": "gpu:1",
            "time": "8:00:00",
            "mem": "4G",
            "cpus-per-task": "2",
        }
        assert found.directives == ("--nice=10", "--comment=a b")
        assert (found.prologue, found.epilogue) == ("module load x", "true")

    def test_nothing_configured(self) -> None:
        """batchspawner's own defaults say nothing of importance."""
        found = spawner().slurm_defaults()
        assert set(found.options) <= {"cpus-per-task"}
        assert found.directives == ()

    @pytest.mark.parametrize("name", REPLACED_TRAITS)
    def test_what_has_no_effect_is_said(self, name: str, caplog: pytest.LogCaptureFixture) -> None:
        """A trait that qhub does not heed is named in the log at start."""
        assert hasattr(QHubSpawner, name)
        made = spawner(SlurmSpawner={name: getattr(QHubSpawner, name).default_value})
        made.log = logging.getLogger("hub")
        with caplog.at_level(logging.WARNING, "hub"):
            made.warn_of_replaced_traits()
        assert f"c.SlurmSpawner.{name} has no effect" in caplog.text

    @pytest.mark.parametrize("options", ["-p gpu", "--uid=0", "--output=/x", "--comment=x", "x"])
    def test_options_that_could_never_be_submitted(self, options: str) -> None:
        """Short options, and those that are not a person's to give, stop the hub at its start."""
        with pytest.raises(ConfigurationError, match=re.escape("c.SlurmSpawner.req_options")):
            spawner(SlurmSpawner={"req_options": options}).warn_of_replaced_traits()

    def test_nothing_to_say(self, caplog: pytest.LogCaptureFixture) -> None:
        """And nothing else is."""
        made = spawner(SlurmSpawner={"req_partition": "x"})
        made.log = logging.getLogger("hub")
        with caplog.at_level(logging.WARNING, "hub"):
            made.warn_of_replaced_traits()
        assert caplog.text == ""


def test_user_options_set_no_trait() -> None:
    """What a person sends is looked at by the one decision, and by nothing else."""
    made = spawner()
    hostile = {"cmd": ["/bin/sh"], "notebook_dir": "/", "ip": "0.0.0.0", "req_options": "--uid=0"}
    before = {name: getattr(made, name) for name in hostile}
    made.apply_user_options(made, hostile)
    assert {name: getattr(made, name) for name in hostile} == before


def test_routes() -> None:
    """Ours are there; batchspawner's, by which a server may set any attribute, is taken out."""
    routes = jupyterhub.apihandlers.default_handlers
    assert {AddressHandler, OwnProfilesHandler} <= {route[1] for route in routes}
    mine = [*routes, (r"/api/batchspawner", BatchSpawnerAPIHandler)]
    _close_open_route(mine)
    assert BatchSpawnerAPIHandler not in {route[1] for route in mine}
    # before the hub's own, which starts a server for whoever follows a link
    assert jupyterhub.handlers.default_handlers[0][0] == "/spawn"


class TestSlurmBackend:
    """Its configuration."""

    def backend(self, **values: Any) -> SlurmBackend:
        """Return a configured backend; nothing is asked of Slurm."""
        return SlurmBackend(config=Config(SlurmBackend=values), cookie_secret=b"secret")

    def test_hub_id_is_lasting_and_tells_nothing(self) -> None:
        """Derived from the cookie secret, the same after each restart."""
        first, second = self.backend(), self.backend()
        assert first.hub_id == second.hub_id
        assert first.hub_id.isalnum()
        assert len(first.hub_id) <= 16
        assert SlurmBackend(cookie_secret=b"other").hub_id != first.hub_id

    @pytest.mark.parametrize("hub_id", ["A", "a-b", "a" * 17, "a\n", "ä", "$(id)"])
    def test_hub_id_refused(self, hub_id: str) -> None:
        """It stands in the names of jobs."""
        with pytest.raises(TraitError, match="1 to 16 lower-case letters and digits"):
            self.backend(hub_id=hub_id)

    @pytest.mark.parametrize("network", ["x", "198.18.0.1/8", "198.18.0.0/33", ""])
    def test_networks_refused(self, network: str) -> None:
        """A typing error must not open a network, nor close one in silence."""
        with pytest.raises(TraitError, match="server_networks"):
            self.backend(server_networks=[network])

    def test_transport(self) -> None:
        """Two, and no third."""
        assert isinstance(self.backend(transport="rest").door, RestDoor)
        with pytest.raises(TraitError):
            self.backend(transport="carrier pigeon")
