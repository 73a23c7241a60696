"""Which settings of a dataset are paths on this machine and do not change what the dataset contains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["places_of"]


def places_of(dataset: Mapping[str, Any]) -> frozenset[str]:
    """The keys of a dataset's settings that are folders on this machine and do not identify the dataset.

    A known archive (`archive`) is identified by itself, whatever its path. The user's own files have no other identity
    than their `path`, so for them it is not among these keys.
    """
    return frozenset({"cache", "path"} if "archive" in dataset else {"cache"})
