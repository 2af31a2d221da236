"""The list of profiles: loaded from a list or from a YAML file, all problems said at once."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from qhub_spawner.errors import ConfigurationError, shown
from qhub_spawner.profiles import Access, Profile
from qhub_spawner.sources import NOTHING, At, Source, read_yaml
from qhub_spawner.wording import report_all

__all__ = ["Catalogue", "load"]

_ACCEPTED = "a list of profiles, or a mapping with the key 'profiles' that holds one"
MOST_PROFILES = 1000


@dataclass(frozen=True)
class Catalogue:
    """All profiles of a hub, in the order they are shown.

    Attributes:
        profiles: With distinct slugs, and one default at most.
    """

    profiles: tuple[Profile, ...]

    @cached_property
    def named(self) -> frozenset[str]:
        """Every user and group that any rule of access names: all others are alike."""
        return frozenset(
            name
            for profile in self.profiles
            for access in _rules_of(profile)
            for name in (*access.groups, *access.users)
        )

    @cached_property
    def memory(self) -> dict[Hashable, Any]:
        """What :mod:`qhub_spawner.access` has worked out of these profiles before."""
        return {}

    def get(self, slug: str) -> Profile | None:
        """Return a profile by its slug, ``None`` if there is none."""
        return next((profile for profile in self.profiles if profile.slug == slug), None)


def _rules_of(profile: Profile) -> Iterator[Access]:
    yield profile.access
    for option in profile.options.values():
        yield from (choice.access for choice in option.choices.values())
        if option.free is not None:
            yield option.free.access


def load(source: object, *, where: str = "c.QHubSpawner.profiles") -> Catalogue:
    """Load profiles.

    Args:
        source: A list of dictionaries or :class:`Profile`; a mapping ``{"profiles": [...]}``; or
            the path of a YAML file that holds either. A text is a path.
        where: What to call the place of data that is not from a file.

    Raises:
        ConfigurationError: Anything is wrong; holds all problems, with path and line.
    """
    if isinstance(source, str | Path):
        if isinstance(source, str) and ("\0" in source or "\n" in source):
            given = Source(where, None)
            given.report((), source, "this is not a path", f"the path of a YAML file, {_ACCEPTED}")
            raise ConfigurationError(given.problems)
        given = read_yaml(Path(source))
    else:
        given = Source(where, source)
    catalogue = _validated(given)
    if given.problems:
        raise ConfigurationError(given.problems)
    return catalogue


def _validated(source: Source) -> Catalogue:
    at, entries = _entries(source)
    profiles = []
    for number, entry in enumerate(entries):
        if isinstance(entry, Profile):
            profiles.append(entry)
            continue
        if not isinstance(entry, Mapping):
            source.report(
                (*at, number),
                entry,
                "this must be a mapping",
                "a profile, with 'slug' and 'display_name'",
            )
            continue
        try:
            profiles.append(Profile.model_validate(dict(entry)))
        except ValidationError as error:
            report_all(error, source, (*at, number), Profile)
        except RecursionError:
            source.report((*at, number), NOTHING, "this is nested too deeply", "plain values")
    _report_doubles(entries, at, source)
    return Catalogue(tuple(profiles))


def _entries(source: Source) -> tuple[At, Sequence[object]]:
    """Find the list, and say how its place is called."""
    data = source.data
    if isinstance(data, Mapping):
        for key in data:
            if key != "profiles":
                source.report((str(key)[:100],), NOTHING, f"unknown key {shown(key)}", "profiles")
        if "profiles" not in data:
            source.report((), NOTHING, "there are no profiles", _ACCEPTED)
            return (), ()
        data = data["profiles"]
    if not isinstance(data, list | tuple):
        source.report((), data, "there are no profiles", _ACCEPTED)
        return (), ()
    if not data and source.lines:
        # From Python it may be empty: a callable may have nothing for a person.
        source.report((), NOTHING, "the list of profiles is empty", "at least one profile")
    if len(data) > MOST_PROFILES:
        source.report((), NOTHING, f"there are {len(data)} profiles", f"at most {MOST_PROFILES}")
        return (), ()
    return ("profiles",) if isinstance(source.data, Mapping) else (), data


def _field(entry: object, name: str) -> object:
    return entry.get(name) if isinstance(entry, Mapping) else getattr(entry, name, None)


def _report_doubles(entries: Sequence[object], at: At, source: Source) -> None:
    """Look at the raw entries, so that a double is said even where something else is wrong."""
    first_of: dict[str, int] = {}
    default: int | None = None
    for number, entry in enumerate(entries):
        slug = _field(entry, "slug")
        if isinstance(slug, str):
            first = first_of.setdefault(slug, number)
            if first != number:
                message = f"the slug is taken by {source.place((*at, first))}"
                source.report(
                    (*at, number, "slug"), slug, message, "a slug of its own for each profile"
                )
        if _field(entry, "default") is True:
            if default is not None:
                message = f"there is another default, {source.place((*at, default))}"
                source.report((*at, number, "default"), True, message, "one default at most")
            else:
                default = number
