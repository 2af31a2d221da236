"""KubeSpawner's ``profile_list`` to profiles of ours. Pure.

Whatever a profile list says either comes out or has a note. Who may have something is never widened
on the way: what cannot be read as a rule of access is left out. Source: kubespawner 7.1,
``profile_list``, ``_get_initialized_profile_list`` and ``_validate_user_options``.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pydantic import ValidationError

from qhub_spawner.catalogue import load
from qhub_spawner.conversion.overrides import Layer, Moved, free_target, moved, plain_override
from qhub_spawner.conversion.rules import Closed, access_of, fullmatch_pattern, nebari_access
from qhub_spawner.conversion.texts import one_line
from qhub_spawner.errors import ConfigurationError, ValueRefusedError, shown
from qhub_spawner.free_values import FreeValue
from qhub_spawner.slugs import dashed, distinct, slugged

__all__ = ["Conversion", "Note", "converted"]

Say = Callable[[str], None]

# How people write a profile.
_ORDER = (
    "slug", "display_name", "description", "default", "access", "cpu", "memory", "gpu",
    "environment", "options", "kubernetes",
)  # fmt: skip
_ACCESS_KEYS = {"allowed_groups", "allowed_users"}
_PROFILE_KEYS = {
    "slug", "display_name", "description", "default", "kubespawner_override", "profile_options",
}  # fmt: skip
_OPTION_KEYS = {"display_name", "description", "choices", "unlisted_choice"}
_CHOICE_KEYS = {"display_name", "description", "default", "kubespawner_override"}
_UNLISTED_KEYS = {
    "enabled", "display_name", "display_name_in_choices", "validation_regex", "validation_message",
    "kubespawner_override",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Note:
    """Something the administrator should know or do.

    Attributes:
        profile: The slug of the profile it is about; empty if about the list.
        where: The place in it, e.g. ``options.image.choices.other``.
        text: What, and what to do.
    """

    profile: str
    where: str
    text: str

    def __str__(self) -> str:
        """One line."""
        parts = (part for part in (self.profile, self.where, self.text) if part)
        line = ": ".join(parts)
        return "".join(each if each.isprintable() else "?" for each in line)


@dataclass(frozen=True, slots=True)
class Conversion:
    """What came out.

    Attributes:
        profiles: Data for :func:`qhub_spawner.catalogue.load`, which takes it.
        remarks: In the order of the list.
    """

    profiles: list[dict[str, Any]]
    remarks: tuple[Note, ...]

    @property
    def notes(self) -> list[str]:
        """The remarks, each on one line."""
        return [str(note) for note in self.remarks]


def converted(
    profile_list: Sequence[Mapping[str, Any]] | Mapping[str, Mapping[str, Any]],
    *,
    traits: Mapping[str, Any] | None = None,
    known: Container[str] | None = None,
) -> Conversion:
    """Convert a profile list.

    Args:
        profile_list: As KubeSpawner takes it: a list, or a mapping whose keys give the order.
        traits: What ``c.KubeSpawner`` says for all profiles. Only ``cpu_guarantee`` and
            ``mem_guarantee`` are looked at: here a limit is also what is kept free, so they are
            repeated where a profile sets a limit.
        known: The names of KubeSpawner's traits, to leave out what is none; ``None`` looks at none.

    Returns:
        Profiles that load, and notes on all that is not as it was.
    """
    entries = _entries(profile_list)
    reading = _Reading(traits or {}, known)
    made: list[tuple[bool, dict[str, Any]]] = []
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, Mapping):
            reading.note("", f"entry {number}", f"{shown(entry)} is no profile: left out")
            continue
        profile = reading.profile(entry, number)
        if profile is not None:
            made.append((bool(entry.get("default")), profile))
    _set_default(made, reading)
    profiles = [{key: profile[key] for key in _ORDER if key in profile} for _, profile in made]
    return Conversion(profiles, tuple(reading.notes))


def _entries(profile_list: object) -> Sequence[object]:
    if isinstance(profile_list, Mapping):
        return [profile_list[key] for key in sorted(profile_list, key=str)]
    return profile_list if isinstance(profile_list, list | tuple) else [profile_list]


def _set_default(made: Sequence[tuple[bool, dict[str, Any]]], reading: _Reading) -> None:
    marked = [profile for default, profile in made if default]
    for profile in marked[1:]:
        reading.note(profile["slug"], "", f"is marked default beside {marked[0]['slug']!r}: not it")
    for profile in marked[:1] or [profile for _, profile in made[:1]]:
        profile["default"] = True


class _Reading:
    """One list being read: which slugs are taken, and what was noted."""

    def __init__(self, traits: Mapping[str, Any], known: Container[str] | None) -> None:
        self.notes: list[Note] = []
        self._slugs: set[str] = set()
        self._traits = traits
        self._known = known

    def note(self, profile: str, where: str, text: str) -> None:
        self.notes.append(Note(profile, where, " ".join(text.split())))

    def profile(self, entry: Mapping[str, Any], number: int) -> dict[str, Any] | None:
        """Return one profile, or ``None`` with a note."""
        title = str(entry.get("display_name") or entry.get("slug") or f"Profile {number}")
        old = str(entry.get("slug") or _kubespawners_slug(title))
        slug = distinct(slugged(old) or f"profile-{number}", self._slugs)
        reader = _ProfileReader(slug, self.note, self._known)
        if slug != old:
            reader.say("", f"the slug was {old!r}: scripts and links that name it have to change")
        try:
            profile = reader.read(entry, title, self._traits)
            load([profile])
        except Closed as closed:
            reader.say("", f"{closed}: left out")
            return None
        except RecursionError:
            reader.say("", "it is nested too deeply: left out")
            return None
        except ConfigurationError as error:
            for problem in error.problems:
                reader.say("", f"left out, as it would not load: {problem}")
            return None
        self._slugs.add(slug)
        return profile


def _kubespawners_slug(title: str) -> str:
    """Return the slug that KubeSpawner makes of a title.

    Letters beyond ASCII are spelled by a library that is there where KubeSpawner is.
    """
    if not title.isascii():
        try:
            spelled = import_module("slugify").slugify(title)
        except ImportError:
            spelled = ""
        if spelled:
            return str(spelled)
    return dashed(title)


@dataclass(slots=True)
class _Unlisted:
    """A free value to be made once it is known what moved."""

    option: dict[str, Any]
    rule: Mapping[str, Any]
    override: dict[str, Any]
    say: Say


class _ProfileReader:
    """One profile being read."""

    def __init__(
        self,
        slug: str,
        note: Callable[[str, str, str], None],
        known: Container[str] | None,
    ) -> None:
        self.slug = slug
        self._known = known
        self._note = note
        self._layers: list[Layer] = []
        self._targets: list[dict[str, Any]] = []
        self._unlisted: list[_Unlisted] = []
        self._renamed: dict[str, str] = {}

    def say(self, where: str, text: str) -> None:
        self._note(self.slug, where, text)

    def _at(self, where: str) -> Say:
        return lambda text: self.say(where, text)

    def _override(self, thing: Mapping[str, Any], say: Say) -> dict[str, Any]:
        return plain_override(thing.get("kubespawner_override"), say, self._known)

    def read(
        self, entry: Mapping[str, Any], title: str, traits: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the profile.

        Raises:
            Closed: Nobody may have it.
        """
        say = self._at("")
        made: dict[str, Any] = {
            "slug": self.slug,
            "display_name": one_line(title, say) or self.slug,
        }
        _describe(made, entry, say)
        nebari = {"access", "groups", "users"} if "access" in entry else set()
        _note_unknown(entry, _PROFILE_KEYS | _ACCESS_KEYS | nebari, say)
        access = nebari_access(entry, say) if nebari else access_of(entry, say)
        if access:
            made["access"] = access
        override = self._override(entry, self._at("override"))
        self._layers.append(Layer("", override, self._at("override")))
        self._targets.append(made)
        options = self._options(entry.get("profile_options"))
        if self._renamed:
            pairs = ", ".join(f"{old!r} is {new!r}" for old, new in self._renamed.items())
            self.say("options", f"names became slugs, and the old are understood too: {pairs}")
        self._repeat_guarantees(override, traits)
        moves = moved(self._layers)
        for target, fields in zip(self._targets, moves.fields, strict=True):
            if target is not made and fields:
                target["overrides"] = {key: fields[key] for key in _ORDER if key in fields}
        own = dict(moves.fields[0])
        kubernetes = own.pop("kubernetes", {})
        for unlisted in self._unlisted:
            _add_free(unlisted, moves)
        options = {name: option for name, option in options.items() if self._offers(name, option)}
        made |= own
        if options:
            made["options"] = options
        return {**made, "kubernetes": kubernetes}

    def _repeat_guarantees(self, override: dict[str, Any], traits: Mapping[str, Any]) -> None:
        overrides = [layer.override for layer in self._layers]
        overrides += [unlisted.override for unlisted in self._unlisted]
        for limit, guarantee in (("cpu_limit", "cpu_guarantee"), ("mem_limit", "mem_guarantee")):
            set_somewhere = any(each.get(limit) for each in overrides)
            if set_somewhere and guarantee not in override and traits.get(guarantee):
                override |= plain_override({guarantee: traits[guarantee]}, self._at("override"))

    def _offers(self, name: str, option: Mapping[str, Any]) -> bool:
        offers = bool(option.get("choices") or option.get("free"))
        if not offers:
            self.say(f"options.{name}", "nothing is left to choose: left out")
        return offers

    def _options(self, options: object) -> dict[str, dict[str, Any]]:
        if options is not None and not isinstance(options, Mapping):
            self.say("options", f"{shown(options)} is no mapping: left out")
        made: dict[str, dict[str, Any]] = {}
        for old, option in options.items() if isinstance(options, Mapping) else ():
            if not isinstance(option, Mapping):
                self.say(f"options.{old}", f"{shown(option)} is no option: left out")
                continue
            name = self._name(str(old), made, "option", "options")
            made[name] = self._option(name, str(old), option)
        return made

    def _name(self, old: str, taken: Mapping[str, object], what: str, where: str) -> str:
        name = distinct(slugged(old) or what, taken)
        if name == slugged(old) != old:
            self._renamed[old] = name
        elif name != old:
            self.say(f"{where}.{name}", f"the {what} was called {old!r}")
        return name

    def _option(self, name: str, old: str, option: Mapping[str, Any]) -> dict[str, Any]:
        where = f"options.{name}"
        say = self._at(where)
        _note_unknown(option, _OPTION_KEYS, say)
        title = one_line(option.get("display_name") or old, say) or name
        made: dict[str, Any] = {"display_name": title}
        _describe(made, option, say)
        choices: dict[str, Any] = {}
        given = option.get("choices")
        default = False
        for old_choice, choice in given.items() if isinstance(given, Mapping) else ():
            slug = self._name(str(old_choice), choices, "choice", f"{where}.choices")
            read = self._choice(name, slug, choice if isinstance(choice, Mapping) else {})
            if read is not None:
                if isinstance(choice, Mapping) and choice.get("default"):
                    if default:
                        self.say(f"{where}.choices.{slug}", "is a second default: not it")
                    else:
                        read["default"] = default = True
                choices[slug] = read
        if choices:
            made["choices"] = choices
        self._note_unlisted(made, name, option.get("unlisted_choice"))
        return made

    def _choice(self, option: str, slug: str, choice: Mapping[str, Any]) -> dict[str, Any] | None:
        say = self._at(f"options.{option}.choices.{slug}")
        _note_unknown(choice, _CHOICE_KEYS | _ACCESS_KEYS, say)
        title = one_line(choice.get("display_name") or slug, say) or slug
        made: dict[str, Any] = {"display_name": title}
        _describe(made, choice, say)
        try:
            access = access_of(choice, say)
        except Closed as closed:
            say(f"{closed}: left out")
            return None
        if access:
            made["access"] = access
        override = self._override(choice, say)
        self._layers.append(Layer(option, override, say))
        self._targets.append(made)
        return made

    def _note_unlisted(self, made: dict[str, Any], option: str, rule: object) -> None:
        if not isinstance(rule, Mapping) or not rule.get("enabled"):
            return
        say = self._at(f"options.{option}.free")
        _note_unknown(rule, _UNLISTED_KEYS | _ACCESS_KEYS, say)
        override = self._override(rule, say)
        self._unlisted.append(_Unlisted(made, rule, override, say))


def _describe(made: dict[str, Any], thing: Mapping[str, Any], say: Say) -> None:
    description = one_line(thing.get("description") or "", say)
    if description:
        made["description"] = description


def _note_unknown(thing: Mapping[str, Any], known: set[str], say: Say) -> None:
    for key in thing:
        if key not in known:
            say(f"KubeSpawner does not know {shown(key)}, and neither do profiles: left out")


# --- values that people write


def _add_free(unlisted: _Unlisted, moves: Moved) -> None:
    """Turn an unlisted choice into a free value, or say why not."""
    rule, say = unlisted.rule, unlisted.say
    target = free_target(unlisted.override, moves)
    if target is None:
        say(
            f"an unlisted choice with the override {_short(unlisted.override)} cannot be moved: "
            "a value of one's own sets exactly one field, and is its whole value; here image, "
            "mem_limit or cpu_limit. Left out"
        )
        return
    made: dict[str, Any] = {"sets": target}
    regex = rule.get("validation_regex")
    if regex:
        pattern = fullmatch_pattern(str(regex))
        if pattern is None:
            say(
                f"the validation_regex {shown(regex)} is not understood: the free value is left out"
            )
            return
        made["pattern"] = pattern
    message = one_line(rule.get("validation_message") or "", say)
    if message:
        made["message"] = message
    try:
        access = access_of(rule, say)
        if access:
            made["access"] = access
        FreeValue.model_validate(made)
    except Closed as closed:
        say(f"{closed}: left out")
    except (ValidationError, ValueRefusedError) as error:
        cause = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        say(f"{cause}: left out")
    else:
        unlisted.option["free"] = made


def _short(override: Mapping[str, Any]) -> str:
    return shown(", ".join(f"{key}: {value}" for key, value in override.items()), 120)
