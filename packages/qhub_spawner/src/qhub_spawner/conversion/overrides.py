"""KubeSpawner's ``kubespawner_override`` to fields of ours. Pure.

A trait that has a field of its own here moves there; every other goes to
``kubernetes.kubespawner``, where it means what it meant. The fields are laid over the traits, so
within one profile a trait must not stand on both sides: it moves only if each value that the
profile and its choices give it can. Source: kubespawner 7.1, traits and ``_apply_overrides``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, get_args

from pydantic import ValidationError

from qhub_spawner.errors import shown
from qhub_spawner.free_values import FreeTarget
from qhub_spawner.kubespawner_traits import instead
from qhub_spawner.quantities import Memory
from qhub_spawner.resources import KubernetesBlock, Overrides

__all__ = ["Layer", "Moved", "free_target", "moved", "plain_override"]

Path = tuple[str, ...]
Say = Callable[[str], None]

_GPU = re.compile(r"[^/]+/gpu")
_BYTES: Mapping[str, int] = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_USUAL_GPU: str = KubernetesBlock.model_fields["gpu_resource"].default
# A limit and what is kept free: 0 and nothing are the same to KubeSpawner.
_LIMITS = {"cpu_limit": "cpu_guarantee", "mem_limit": "mem_guarantee"}
_AMOUNTS = frozenset({*_LIMITS, *_LIMITS.values()})
_FREE_TARGETS = frozenset(get_args(FreeTarget))


def _cores(value: object) -> object:
    """Round up to thousandths, as the API server does."""
    amount = Fraction(str(value))
    millicores = math.ceil(amount * 1000)
    return millicores // 1000 if millicores % 1000 == 0 else millicores / 1000


def _memory(value: object) -> object:
    """Read bytes, or a number with K, M, G or T, as JupyterHub's ByteSpecification does."""
    if isinstance(value, int | float):
        return str(Memory.of(int(value)))
    text = str(value)
    if text[-1:] in _BYTES:
        return str(Memory.of(int(float(text[:-1]) * _BYTES[text[-1]])))
    return str(Memory.parse(text))


def _words(value: object) -> object:
    """Take a text that KubeSpawner would not fill anything into."""
    if not isinstance(value, str) or not value or "{" in value or "}" in value:
        raise ValueError(value)
    return value


def _text(value: object) -> object:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _objects(value: object) -> object:
    if not isinstance(value, list) or not value:
        raise ValueError(value)  # an empty list takes away what the hub's configuration says
    return value


def _secrets(value: object) -> object:
    if not isinstance(value, list) or not value:
        raise ValueError(value)
    return [each["name"] if isinstance(each, Mapping) else each for each in value]


def _count(value: object) -> object:
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value


# Trait to field, and how its value is written there. Not `service_account`: to KubeSpawner it also
# says that the account's token is mounted. Not `volumes`: they replace the hub's, ours add to them.
_FIELDS: Mapping[str, tuple[Path, Callable[[object], object]]] = {
    "cpu_limit": (("cpu",), _cores),
    "cpu_guarantee": (("kubernetes", "cpu_request"), _cores),
    "mem_limit": (("memory",), _memory),
    "mem_guarantee": (("kubernetes", "memory_request"), _memory),
    "image": (("kubernetes", "image"), _words),
    "image_pull_policy": (("kubernetes", "image_pull_policy"), _words),
    "image_pull_secrets": (("kubernetes", "image_pull_secrets"), _secrets),
    "tolerations": (("kubernetes", "tolerations"), _objects),
    "priority_class_name": (("kubernetes", "priority_class"), _words),
    "scheduler_name": (("kubernetes", "scheduler"), _words),
}
# Traits that hold a mapping, which KubeSpawner merges: each key moves by itself.
_MAPPINGS: Mapping[str, tuple[Path, Callable[[object], object]]] = {
    "node_selector": (("kubernetes", "node_selector"), _text),
    "extra_labels": (("kubernetes", "labels"), _words),
    "extra_annotations": (("kubernetes", "annotations"), _words),
    "environment": (("environment", "variables"), _words),
    "extra_pod_config": (("kubernetes",), _words),
    "extra_resource_limits": ((), _count),
    "extra_resource_guarantees": ((), _count),
}
_POD_FIELDS = {"runtimeClassName": "runtime_class"}


@dataclass(frozen=True, slots=True)
class Layer:
    """What a profile, or one of its choices, overrides.

    Attributes:
        option: The option the choice is of; empty for the profile itself.
        override: Plain data, of :func:`plain_override`.
        say: Takes a note about this place.
    """

    option: str
    override: Mapping[str, Any]
    say: Say


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of the layers of one profile.

    Attributes:
        fields: Of each layer, in their order: the data of an :class:`Overrides`.
        kept: Traits, and keys of traits, that had to stay in ``kubernetes.kubespawner``.
        guaranteed: Traits among ``cpu_guarantee`` and ``mem_guarantee`` that some layer sets.
    """

    fields: Sequence[dict[str, Any]]
    kept: frozenset[Path]
    guaranteed: frozenset[str] = field(default_factory=frozenset)


def plain_override(value: object, say: Say, known: Container[str] | None = None) -> dict[str, Any]:
    """Return an override as plain data, under today's names, without what no file can hold.

    Args:
        value: As the configuration has it.
        say: Takes a note about each part that is left out.
        known: Names of traits; all others are left out. ``None``: not known.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        say(f"kubespawner_override is no mapping but {shown(value)}: left out")
        return {}
    made: dict[str, Any] = {}
    for name, each in value.items():
        trait = _todays_name(str(name))
        if known is not None and trait not in known:
            say(f"KubeSpawner has no setting {shown(trait)}: left out")
            continue
        if instead(trait):
            say(f"{trait} has no effect in a profile: left out; {instead(trait)}")
            continue
        try:
            made[trait] = _plain(each, trait, say)
        except _NotPlainError as error:
            say(str(error))
            continue
        if trait in _AMOUNTS and made[trait] is None:
            made[trait] = 0
    return made


def _todays_name(trait: str) -> str:
    """Undo the names of before KubeSpawner 0.9 and 0.10, which it goes on to take."""
    if trait in {"image_spec", "singleuser_image_spec"}:
        return "image"
    if trait.startswith(("singleuser_", "user_storage_")):
        return trait.partition("_")[2]
    return trait


class _NotPlainError(Exception):
    """Something that YAML has no words for; its text is the note."""


def _plain(value: object, at: str, say: Say | None) -> Any:  # noqa: ANN401 - plain data
    """Return lists, dictionaries, texts and numbers.

    A key whose value is not plain is left out, and said; from within a list nothing is, as what is
    left of it may mean something else.

    Raises:
        _NotPlainError: It is not plain.
    """
    if isinstance(value, Mapping):
        made = {}
        for key, each in value.items():
            try:
                made[str(key)] = _plain(each, f"{at}.{key}", say)
            except _NotPlainError as error:
                if say is None:
                    raise
                say(str(error))
        return made
    if isinstance(value, list | tuple):
        return [_plain(each, f"{at}[{number}]", None) for number, each in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted((_plain(each, at, None) for each in value), key=str)
    if isinstance(value, float) and not math.isfinite(value):
        raise _NotPlainError(f"{at} is {value}: left out")
    if value is None or isinstance(value, str | int | float):
        return value
    if callable(value):
        raise _NotPlainError(
            f"{at} is a function, which a file cannot hold: left out. Write a fixed value (in "
            "texts KubeSpawner fills in {username}), or keep a function for c.QHubSpawner.profiles "
            "that makes this list"
        )
    raise _NotPlainError(f"{at} is a {type(value).__name__}, which a file cannot hold: left out")


def moved(layers: Sequence[Layer]) -> Moved:
    """Move the overrides of one profile.

    Args:
        layers: The profile first, then its choices in the order of options.
    """
    cells = [dict(_cells(layer.override)) for layer in layers]
    kept = _kept(cells)
    names = {path[1] for row in cells for path in row if path not in kept and _is_gpu(path)}
    made = [_fields(row, kept) for row in cells]
    if names - {_USUAL_GPU}:
        made[0].setdefault("kubernetes", {})["gpu_resource"] = names.pop()
    for number, layer in enumerate(layers):
        if layer.option:
            others = [
                data
                for other, data in zip(layers, made, strict=True)
                if other.option != layer.option
            ]
            _drop_lost(made[number], others, layer.say)
    _note_mixed(layers)
    guaranteed = {path[0] for row in cells for path in row} & set(_LIMITS.values())
    return Moved(made, kept, frozenset(guaranteed))


def _note_mixed(layers: Sequence[Layer]) -> None:
    """Say where a choice gives a mapping for what is a list elsewhere in the profile, or no list.

    KubeSpawner would replace the list by the mapping; here only the mapping is left when it comes
    to be merged with what the hub's configuration says.
    """
    flat = {
        trait
        for layer in layers
        for trait, value in layer.override.items()
        if not isinstance(value, Mapping)
    }
    for layer in layers:
        for trait, value in layer.override.items():
            if trait in flat and isinstance(value, Mapping):
                layer.say(
                    f"{trait} is a mapping here and a list elsewhere in the profile, which is not "
                    "as it was: the mapping is merged with the hub's. Make it the same everywhere"
                )


def free_target(override: Mapping[str, Any], of: Moved) -> str | None:
    """Return what a free value has to set to do what an unlisted choice did, if it can.

    Args:
        override: Of the unlisted choice: plain data with ``{value}`` in it.
        of: What became of the profile.
    """
    traits = set(override)
    for limit, guarantee in _LIMITS.items():
        # What is kept free is as much as the limit, where nothing else is said.
        if traits == {limit, guarantee} and guarantee not in of.guaranteed:
            traits.remove(guarantee)
    if len(traits) != 1 or any(value != "{value}" for value in override.values()):
        return None
    (trait,) = traits
    if trait not in _FIELDS or (trait,) in of.kept:
        return None
    target = ".".join(_FIELDS[trait][0])
    return target if target in _FREE_TARGETS else None


def _cells(override: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
    for trait, value in override.items():
        if trait in _MAPPINGS and isinstance(value, Mapping):
            yield from (((trait, key), each) for key, each in value.items())
        else:
            yield (trait,), value


def _is_gpu(path: Path) -> bool:
    return path[0] == "extra_resource_limits" and bool(_GPU.fullmatch(path[-1]))


def _kept(cells: Sequence[Mapping[Path, Any]]) -> frozenset[Path]:
    """Return the paths that cannot move, whatever layer they stand in."""
    paths = {path for row in cells for path in row}
    kept = {
        path
        for path in paths
        for row in cells
        if path in row and _field_of(path, row[path]) is None
    }
    for limit, guarantee in _LIMITS.items():
        # A limit that moves says how much is kept free as well.
        if (guarantee,) in kept:
            kept.add((limit,))
    gpus = {path for path in paths if _is_gpu(path)}
    return frozenset(kept | (gpus if len(gpus) > 1 else set()))


def _field_of(path: Path, value: object) -> tuple[Path, object] | None:
    """Return the field that a value belongs to, and how it is written there; ``None``: it stays."""
    try:
        if len(path) == 1:
            target, write = _FIELDS[path[0]]
        elif path[0] == "extra_pod_config":
            target, write = ("kubernetes", _POD_FIELDS[path[1]]), _words
        elif path[0].startswith("extra_resource_"):
            if not _GPU.fullmatch(path[1]):
                return None
            target, write = ("gpu",), _count
        else:
            target, write = _MAPPINGS[path[0]]
            target = (*target, path[1])
        found = target, write(value)
        Overrides.model_validate(_nested(*found))
    except (KeyError, ArithmeticError, TypeError, ValueError, ValidationError):
        return None
    return found


def _nested(path: Path, value: object) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    return dict(value) if isinstance(value, Mapping) else {}


def _put(data: dict[str, Any], path: Path, value: object) -> None:
    for name in path[:-1]:
        data = data.setdefault(name, {})
    data[path[-1]] = value


def _fields(row: Mapping[Path, Any], kept: frozenset[Path]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for path, value in row.items():
        if path[0] == "extra_resource_guarantees":
            limit = ("extra_resource_limits", *path[1:])
            same = limit in row and limit not in kept and _count(row[limit]) == _count(value)
            if not (same and _is_gpu(limit)):  # Kubernetes takes the request from the limit
                _put(rest, path, value)
            continue
        found = None if path in kept else _field_of(path, value)
        if found is None:
            _put(rest, path, value)
        else:
            _put(made, *found)
    if rest:
        made.setdefault("kubernetes", {})["kubespawner"] = rest
    return made


def _drop_lost(fields: dict[str, Any], others: Sequence[Mapping[str, Any]], say: Say) -> None:
    """Leave out where a choice takes away what another layer put there: it would have no effect."""
    own = fields.get("kubernetes", {}).get("kubespawner", {})
    bases = [other.get("kubernetes", {}).get("kubespawner", {}) for other in others]
    _drop_nothings(own, bases, "", say)
    if "kubernetes" in fields and not own:
        fields["kubernetes"].pop("kubespawner", None)
        if not fields["kubernetes"]:
            del fields["kubernetes"]


def _drop_nothings(
    own: dict[str, Any], bases: Sequence[Mapping[str, Any]], at: str, say: Say
) -> None:
    for key in list(own):
        here = f"{at}{key}"
        if own[key] is None and (bases or not at):
            del own[key]
            say(
                f"{here} is set to nothing, but a choice only adds and replaces: left out. Take it "
                "from the profile, and give it to the choices that need it"
            )
        elif isinstance(own[key], dict):
            under = [base[key] for base in bases if isinstance(base.get(key), Mapping)]
            _drop_nothings(own[key], under, f"{here}.", say)
            if not own[key]:
                del own[key]
