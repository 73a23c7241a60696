"""No readjustment: the mask drawn at a stage's start stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from pffdst.core.model import GlobalModel, Stage
from pffdst.methods.readjust.base import ReadjustRule

__all__ = ["Static"]


@final
@dataclass(frozen=True)
class Static(ReadjustRule):
    """`random_mask` without freezing, FedAvg with a dense allocation."""

    def start_counts(self, model: GlobalModel, stage: Stage) -> tuple[int, ...]:
        """The stage's counts."""
        del model
        return stage.counts

    def exploration_end(self, stage: Stage) -> int:
        """There is no exploration."""
        return stage.start
