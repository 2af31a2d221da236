"""Amounts of resources as Kubernetes writes them (API reference v1.34, ``Quantity``).

Amounts are whole numbers by the name of the resource: ``cpu`` in millicores, ``memory`` and
``ephemeral-storage`` in bytes, devices such as ``nvidia.com/gpu`` in pieces.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from fractions import Fraction

from qhub_spawner.errors import ValueRefusedError, shown
from qhub_spawner.kubernetes.documents import Document, items, mapping, said, text
from qhub_spawner.quantities import Memory

__all__ = [
    "Amounts",
    "added",
    "amount_words",
    "amounts_of",
    "left_words",
    "limits_of",
    "missing_from",
    "parse_bytes",
    "parse_millicores",
    "parse_quantity",
    "requests_of",
]

Amounts = Mapping[str, int]

CPU = "cpu"
MEMORY = "memory"
EPHEMERAL_STORAGE = "ephemeral-storage"
PODS = "pods"

_LARGEST = 2**63 - 1
_LONGEST_TEXT = 64
# 250m, 4Gi, 1e3, .5, 128974848
_QUANTITY = re.compile(
    r"(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))"
    r"(?:(?P<suffix>[KMGTPE]i|[numkMGTPE])|[eE](?P<exponent>[+-]?[0-9]{1,3}))?"
)
_WORTH: Mapping[str, Fraction] = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "": Fraction(1),
    **{letter: Fraction(1000**power) for power, letter in enumerate("kMGTPE", start=1)},
    **{f"{letter}i": Fraction(1024**power) for power, letter in enumerate("KMGTPE", start=1)},
}


def parse_quantity(value: object) -> Fraction:
    """Read a quantity exactly; more than 2^63-1 is that, as for Kubernetes.

    Args:
        value: A text, or a number as a manifest that was never sent may hold it.

    Raises:
        ValueRefusedError: (a ``ValueError``) It is something else.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return Fraction(max(-_LARGEST, min(value, _LARGEST)))
    if isinstance(value, float) and math.isfinite(value):
        return max(Fraction(-_LARGEST), min(Fraction(repr(value)), Fraction(_LARGEST)))
    amount = _parsed(value) if isinstance(value, str) and len(value) <= _LONGEST_TEXT else None
    if amount is None:
        raise ValueRefusedError(
            f"{shown(value)} is not a quantity", accepted="e.g. '250m', '4Gi', '2' or '1e3'"
        )
    return amount


@functools.lru_cache(maxsize=1024)  # thousands of pods ask for the same few amounts
def _parsed(text: str) -> Fraction | None:
    found = _QUANTITY.fullmatch(text)
    if found is None:
        return None
    worth = _WORTH[found["suffix"] or ""] * Fraction(10) ** int(found["exponent"] or 0)
    amount = Fraction(found["number"].rstrip(".")) * worth
    return max(Fraction(-_LARGEST), min(amount, Fraction(_LARGEST)))


def _up(amount: Fraction) -> int:
    return -(-amount.numerator // amount.denominator)


def parse_millicores(value: object) -> int:
    """Read an amount of processor time; parts of a millicore round up, as Kubernetes rounds them.

    >>> parse_millicores("250m"), parse_millicores("1.5"), parse_millicores("2")
    (250, 1500, 2000)

    Raises:
        ValueRefusedError: It is no quantity.
    """
    return _up(parse_quantity(value) * 1000)


def parse_bytes(value: object) -> int:
    """Read bytes, or a number of devices; parts round up, as Kubernetes rounds them.

    >>> parse_bytes("4Gi"), parse_bytes("1e3"), parse_bytes("128974848"), parse_bytes("2k")
    (4294967296, 1000, 128974848, 2000)

    Raises:
        ValueRefusedError: It is no quantity.
    """
    return _up(parse_quantity(value))


def amounts_of(quantities: object) -> dict[str, int]:
    """Read a ``ResourceList``; what cannot be read, or is negative, is passed over."""
    found: dict[str, int] = {}
    for name, value in mapping(quantities).items():
        try:
            amount = parse_millicores(value) if name == CPU else parse_bytes(value)
        except ValueRefusedError:
            continue
        if amount >= 0:
            found[name] = amount
    return found


def added(one: Amounts, other: Amounts) -> dict[str, int]:
    """Return the sum."""
    if not one or not other:
        return dict(one or other)
    return {name: one.get(name, 0) + other.get(name, 0) for name in {*one, *other}}


def _larger(one: Amounts, other: Amounts) -> dict[str, int]:
    if not one or not other:
        return dict(one or other)
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in {*one, *other}}


def missing_from(free: Amounts, wanted: Amounts) -> dict[str, int]:
    """Return those of the wanted amounts that are not there; nothing where all are."""
    return {
        name: amount for name, amount in wanted.items() if amount > 0 and amount > free.get(name, 0)
    }


def requests_of(manifest: Document) -> dict[str, int]:
    """Return what a pod occupies on its node: as the scheduler counts it, and one of ``pods``.

    Containers are summed; each init container, together with the sidecars before it, is a lower
    bound; a sidecar (an init container with ``restartPolicy: Always``) counts like a container;
    the pod's own ``resources`` replace the sum, its ``overhead`` is added (API reference v1.34,
    ``PodSpec``; "Resource sharing within containers"). A request that is left out is the limit,
    as the API server would fill it in. What a resize in place has changed is not looked at.
    """
    return _total(manifest, "requests")


def limits_of(manifest: Document) -> dict[str, int]:
    """Return the limits of a pod, summed in the same manner; a resource without limit is absent."""
    return _total(manifest, "limits")


def _total(manifest: Document, kind: str) -> dict[str, int]:
    spec = mapping(manifest, "spec")
    total: dict[str, int] = {}
    for container in items(spec, "containers"):
        total = added(total, _own(container, kind))
    sidecars: dict[str, int] = {}
    at_start: dict[str, int] = {}
    for container in items(spec, "initContainers"):
        own = _own(container, kind)
        if text(container, "restartPolicy") == "Always":
            total, sidecars = added(total, own), added(sidecars, own)
            at_start = _larger(at_start, sidecars)
        else:
            at_start = _larger(at_start, added(own, sidecars))
    total = _larger(total, at_start) | _own(spec, kind)
    if total or kind == "requests":
        total = added(total, amounts_of(mapping(spec, "overhead")))
    return added(total, {PODS: 1})


def _own(holder: Document, kind: str) -> dict[str, int]:
    limits = amounts_of(mapping(holder, "resources", "limits"))
    if kind == "limits":
        return limits
    return limits | amounts_of(mapping(holder, "resources", "requests"))


def amount_words(name: str, amount: int) -> str:
    """Say how much of a resource: ``2 GPUs``, ``8 GiB of memory``; 0 is an amount not known.

    >>> amount_words("nvidia.com/gpu", 2), amount_words("cpu", 1500), amount_words("memory", 2**33)
    ('2 GPUs', '1.5 cores', '8 GiB of memory')
    >>> amount_words("memory", 0), amount_words("example.com/tpu", 4)
    ('enough memory', '4 example.com/tpu')
    """
    if name == CPU:
        if not amount:
            return "enough cores"
        return "1 core" if amount == 1000 else f"{amount / 1000:g} cores"  # noqa: PLR2004
    what = {MEMORY: "memory", EPHEMERAL_STORAGE: "local disk space"}.get(name)
    if what is not None:
        return f"{_size(amount)} of {what}" if amount else f"enough {what}"
    noun = _noun(name)
    if not amount:
        return f"enough {noun}s" if noun in _PLURAL else f"enough {noun}"
    return f"{amount} {noun}" + ("s" if noun in _PLURAL and amount != 1 else "")


def left_words(name: str, amount: int) -> str:
    """Say how much of a resource is left, without its name: ``2 GiB``, ``1``, ``none``.

    >>> left_words("memory", 2**31), left_words("nvidia.com/gpu", 1), left_words("cpu", 0)
    ('2 GiB', '1', 'none')
    """
    if amount <= 0:
        return "none"
    if name in {MEMORY, EPHEMERAL_STORAGE}:
        return _size(amount)
    return f"{amount / 1000:g}" if name == CPU else str(amount)


def _size(amount: int) -> str:
    """Say bytes exactly where that is short, else to three digits."""
    exact = str(Memory.of(min(amount, Memory.LARGEST)))
    if len(exact) <= _SHORT_SIZE:
        return exact
    power = max(1, min(5, (amount.bit_length() - 1) // 10))
    return f"about {amount / 1024**power:.3g} {'KMGTP'[power - 1]}iB"


_SHORT_SIZE = 8  # 1536 MiB
_PLURAL = frozenset({"GPU", "pod"})


def _noun(name: str) -> str:
    domain, _, device = name.rpartition("/")
    if device == "gpu" or domain.startswith("gpu."):
        return "GPU"
    return "pod" if name == PODS else said(name, 60)
