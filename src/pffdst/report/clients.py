"""The parts of clients.json that the page draws, if they have the right form; a hand-made file may hold more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from pffdst.metrics.clients import SHOWN, SORTED

__all__ = ["clients_of"]

_CLASSES = 100_000


def clients_of(told: Mapping[str, Any]) -> dict[str, Any]:
    """`clients`, `classes`, `shown` and `train` if they are consistent, and the `accuracy` of each model."""
    found = {key: told[key] for key in ("clients", "classes", "shown", "train")} if _is_partition(told) else {}
    accuracy = told.get("accuracy")
    if isinstance(accuracy, dict) and accuracy and all(_is_sorted(accuracy.get(key)) for key in accuracy):
        found["accuracy"] = {key: {"sorted": accuracy[key]["sorted"]} for key in ("last", "average") if key in accuracy}
    return found


def _is_partition(told: Mapping[str, Any]) -> bool:
    shown, train, classes = told.get("shown"), told.get("train"), told.get("classes")
    if not (_is_count(told.get("clients")) and _is_count(classes, _CLASSES) and _are_counts(shown, SHOWN)):
        return False
    if not isinstance(train, list) or len(train) != len(shown):
        return False
    return all(_are_counts(row, _CLASSES) and len(row) == classes for row in train)


def _is_sorted(part: Any) -> bool:
    values = part.get("sorted") if isinstance(part, dict) else None
    if not isinstance(values, list) or not 0 < len(values) <= SORTED:
        return False
    return all(isinstance(v, int | float) and 0 <= v <= 1 for v in values)


def _are_counts(found: Any, most: int) -> TypeGuard[list[int]]:
    return isinstance(found, list) and len(found) <= most and all(_is_count(each) for each in found)


def _is_count(found: Any, most: int = 10**9) -> bool:
    return isinstance(found, int) and not isinstance(found, bool) and 0 <= found <= most
