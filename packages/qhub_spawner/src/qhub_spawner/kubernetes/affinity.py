"""What a pod demands of its node's labels by ``nodeAffinity`` (API reference v1.34). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qhub_spawner.kubernetes.documents import Document, items, mapping, text

__all__ = ["demands_neighbours", "node_terms", "term_matches"]

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def node_terms(spec: Document) -> tuple[Document, ...] | None:
    """Return the terms of which a node must match one; ``None`` where nothing is demanded."""
    required = mapping(spec, "affinity", "nodeAffinity").get(_REQUIRED)
    return tuple(items(required, "nodeSelectorTerms")) if isinstance(required, Mapping) else None


def demands_neighbours(spec: Document) -> bool:
    """Whether it depends on other pods where it may run, which is not worked out here."""
    affinity = mapping(spec, "affinity")
    spread = items(spec, "topologySpreadConstraints")
    return any(items(affinity, kind, _REQUIRED) for kind in ("podAffinity", "podAntiAffinity")) or (
        any(text(each, "whenUnsatisfiable") != "ScheduleAnyway" for each in spread)
    )


def term_matches(term: Document, name: str, labels: Mapping[str, str]) -> bool:
    """Whether a node matches a term: all that it says, and it says something."""
    by_label, by_field = items(term, "matchExpressions"), items(term, "matchFields")
    if not by_label and not by_field:
        return False
    fields = {"metadata.name": name}
    return all(_holds(each, labels) for each in by_label) and all(
        _holds(each, fields) for each in by_field
    )


def _holds(demand: Document, known: Mapping[str, str]) -> bool:
    value = known.get(text(demand, "key"))
    listed: Any = demand.get("values")
    values = [str(each) for each in listed] if isinstance(listed, list) else []
    match text(demand, "operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return _compared(value, values) > 0
        case "Lt":
            return _compared(value, values) < 0
    return False


def _compared(value: str | None, values: list[str]) -> int:
    """Return the sign of the difference of two whole numbers; 0 where they are none."""
    try:
        number, limit = int(value or ""), int(values[0])
    except (ValueError, IndexError):
        return 0
    return (number > limit) - (number < limit)
