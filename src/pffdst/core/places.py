"""Which settings of a dataset say where it lies on this machine, and not what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["places_of"]


def places_of(dataset: Mapping[str, Any]) -> frozenset[str]:
    """The keys of a dataset's settings that are folders of this machine.

    A known archive is the same wherever it lies. The user's own files are identified by their `path` alone.
    """
    return frozenset({"cache", "path"} if "archive" in dataset else {"cache"})
