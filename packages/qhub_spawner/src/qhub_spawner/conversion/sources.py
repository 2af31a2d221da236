"""Find KubeSpawner's ``profile_list`` in what a hub is configured with.

A ``jupyterhub_config.py`` is executed, as the hub executes it. YAML and JSON are only read.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import logging
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from traitlets.config import Config
from traitlets.config.loader import LazyConfigValue, PyFileConfigLoader

from qhub_spawner.errors import ConfigurationError, Problem, shown
from qhub_spawner.sources import read_yaml

__all__ = ["Found", "find", "known_traits"]

_ACCEPTED = (
    "c.KubeSpawner.profile_list in a .py file; in a .yaml or .json file the list itself, "
    "singleuser.profileList (zero-to-jupyterhub) or profiles.jupyterlab (Nebari)"
)
_DEEPEST = 8
_GUARANTEES = {"cpu_guarantee": ("cpu", "guarantee"), "mem_guarantee": ("memory", "guarantee")}
# zero-to-jupyterhub's default of singleuser.memory.guarantee
_CHARTS_GUARANTEE = "1G"
_KEYS = (("singleuser", "profileList"), ("KubeSpawner", "profile_list"), ("profiles", "jupyterlab"))


@dataclass(frozen=True, slots=True)
class Found:
    """A profile list and what goes with it.

    Attributes:
        profile_list: For :func:`qhub_spawner.conversion.converted`.
        traits: Settings that hold for all profiles.
        notes: What to know about how it was found.
    """

    profile_list: Any
    traits: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def find(path: Path) -> Found:
    """Read a file and find the list in it.

    Args:
        path: A ``.py`` file, which is executed; else YAML or JSON.

    Raises:
        ConfigurationError: It cannot be read or executed, or holds no list; or its list is a
            function that needs to know more than a stand-in for a person can tell.
    """
    if path.suffix == ".py":
        return _in_configuration(path)
    if path.suffix == ".json":
        return _in_data(_json(path), str(path))
    source = read_yaml(path)
    if source.problems:
        raise ConfigurationError(source.problems)
    return _in_data(source.data, str(path))


def known_traits() -> frozenset[str] | None:
    """Return the names of KubeSpawner's traits, ``None`` where it is not installed."""
    try:
        from kubespawner import KubeSpawner  # noqa: PLC0415 - it comes with an extra
    except ImportError:
        return None
    return frozenset(KubeSpawner.class_trait_names(config=True))


def _refused(where: str, message: str, accepted: str = "") -> ConfigurationError:
    return ConfigurationError([Problem(where, "", message, accepted)])


# --- jupyterhub_config.py


def _in_configuration(path: Path) -> Found:
    config = _executed(path)
    sections = ["KubeSpawner", *sorted(name for name in config if name != "KubeSpawner")]
    for section in sections:
        values = config.get(section)
        if isinstance(values, Mapping) and "profile_list" in values:
            break
    else:
        raise _refused(str(path), "c.KubeSpawner.profile_list is not set", _ACCEPTED)
    traits = {
        name: holder[name]
        for name in _GUARANTEES
        for holder in (config.get("Spawner", {}), values)
        if name in holder
    }
    value = values["profile_list"]
    if isinstance(value, LazyConfigValue):  # .append() and the like on what was never set
        value = value.get_value([])
    where = f"{path}: c.{section}.profile_list"
    note = ""
    filtered = _filtered(value)
    if filtered is not None:
        value = filtered
        note = (
            f"c.{section}.profile_list is a function made of a list: that list was converted, "
            "with allowed_groups and allowed_users in it as rules of access. What else the "
            "function does was not looked at"
        )
    elif callable(value):
        value = _called(value, config, where)
        note = (
            f"c.{section}.profile_list is a function: this is what it gives to somebody who is "
            "in no group. Where it differs from person to person, write 'access' instead, or "
            "keep a function for c.QHubSpawner.profiles"
        )
    if not isinstance(value, list | tuple | Mapping):
        raise _refused(where, f"this is no list of profiles but {shown(value)}", _ACCEPTED)
    return Found(value, traits, (note,) if note else ())


def _executed(path: Path) -> Config:
    loader = PyFileConfigLoader(path.name, path=str(path.parent.absolute()))
    try:
        with redirect_stdout(sys.stderr):  # what it prints is no part of a profiles file
            config: Config = loader.load_config()
    except OSError as error:
        why = error.strerror or str(error)
        raise _refused(str(path), f"the file cannot be read: {why}") from error
    except (Exception, SystemExit) as error:  # whatever a configuration raises is its own fault
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).name == path.name
        ]
        where = f"{path}:{lines[-1]}" if lines else str(path)
        message = f"the file cannot be executed here: {type(error).__name__}: {error}"
        raise _refused(
            where,
            message,
            "a file that runs on this machine; or put the list alone into a file",
        ) from error
    return config


def _filtered(value: object) -> object:
    """Return the list that a filter by person was given, as several hubs do with ``partial``."""
    if not isinstance(value, functools.partial):
        return None
    given = (*value.args, *value.keywords.values())
    lists = [each for each in given if isinstance(each, list) and each]
    plain = (each for each in lists if all(isinstance(entry, Mapping) for entry in each))
    return next(plain, None)


class _StandIn(SimpleNamespace):
    """A person, for a function that makes lists by person: with a name, and in no group."""

    async def get_auth_state(self) -> dict[str, Any]:
        """Return what the authenticator would know."""
        return {}


def _called(function: Any, config: Config, where: str) -> object:  # noqa: ANN401 - somebody's
    spawner = SimpleNamespace(
        user=_StandIn(name="user", id=0, admin=False, groups=[], url="/user/user/"),
        name="",
        user_options={},
        environment={},
        config=config,
        handler=None,
        log=logging.getLogger("qhub_spawner.convert"),
    )
    try:
        with redirect_stdout(sys.stderr):
            found = function(spawner)
            return asyncio.run(_awaited(found)) if inspect.isawaitable(found) else found
    except Exception as error:
        message = (
            "this is a function that cannot be called outside the hub "
            f"({type(error).__name__}: {error})"
        )
        accepted = (
            "a list; or keep a function: c.QHubSpawner.profiles takes one too, and "
            "qhub_spawner.conversion.converted(...).profiles converts what yours returns"
        )
        raise _refused(where, message, accepted) from error


async def _awaited(found: Any) -> object:  # noqa: ANN401 - an awaitable
    return await found


# --- YAML, JSON


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        why = error.strerror or str(error)
        raise _refused(str(path), f"the file cannot be read: {why}") from error
    except (ValueError, RecursionError) as error:
        raise _refused(str(path), f"this is not JSON: {error}") from error


def _in_data(data: object, where: str) -> Found:
    if _is_list(data):
        return Found(data)
    found = list(_places(data, ()))
    if not found:
        raise _refused(where, "there is no list of profiles", _ACCEPTED)
    if len(found) > 1:
        names = ", ".join(".".join(place) for place, _, _ in found)
        raise _refused(where, f"there are several lists of profiles: {names}", "one of them")
    place, value, around = found[0]
    if not isinstance(value, list | tuple | Mapping):
        raise _refused(f"{where}: {'.'.join(place)}", f"this is no list but {shown(value)}")
    traits = _chart_traits(around) if place[-1] == "profileList" else {}
    if place[-1] == "profile_list":
        traits = {name: around[name] for name in _GUARANTEES if name in around}
    return Found(value, traits)


def _is_list(data: object) -> bool:
    """Whether this is a profile list as it stands: a list, or a mapping of profiles."""
    if isinstance(data, list):
        return True
    return (
        isinstance(data, Mapping)
        and bool(data)
        and all(isinstance(each, Mapping) and "display_name" in each for each in data.values())
    )


def _places(
    data: object, at: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], object, Mapping[str, Any]]]:
    if not isinstance(data, Mapping) or len(at) > _DEEPEST:
        return
    for key, value in data.items():
        here = (*at, str(key))
        if here in (("profile_list",), ("profileList",)) or here[-2:] in _KEYS:
            if value:  # a chart's values often hold an empty list beside the real one
                yield here, value, data
        else:
            yield from _places(value, here)


def _chart_traits(singleuser: Mapping[str, Any]) -> dict[str, Any]:
    """Read zero-to-jupyterhub's settings for all users."""
    traits: dict[str, Any] = {"mem_guarantee": _CHARTS_GUARANTEE}
    for name, (resource, key) in _GUARANTEES.items():
        settings = singleuser.get(resource)
        if isinstance(settings, Mapping) and key in settings:
            traits[name] = settings[key]
    return traits
