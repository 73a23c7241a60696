"""No freezing: the run is one stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from pffdst.methods.freeze.base import FreezeSchedule

__all__ = ["NoFreezing"]


@final
@dataclass(frozen=True)
class NoFreezing(FreezeSchedule):
    """One stage [0, R) of trainable density 1 - s."""

    def stage_lengths(self, rounds: int) -> list[int]:
        """One stage."""
        return [rounds]

    def stage_counts(self, counts: Sequence[int]) -> list[tuple[int, ...]]:
        """All of them in the one stage."""
        return [tuple(counts)]
