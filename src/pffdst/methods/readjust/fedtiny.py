"""FedTiny (Huang et al., ICDCS 2023): the server swaps weights by the mean of the clients' top gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np

from pffdst.core.model import GlobalModel, Stage
from pffdst.core.positions import Positions
from pffdst.methods.readjust.swap import TopGradients, smallest_of_mean
from pffdst.methods.rule import Cohort
from pffdst.methods.schedule import Every, UpdateSchedule

__all__ = ["FedTiny"]


@final
@dataclass
class FedTiny(TopGradients):
    """Progressive pruning: of each layer the smallest |w| of the mean leave, as many as grow.

    With `blocks` above 1 the layers are divided into so many runs of neighbours, and each adjust round has one of them:
    that of the output first, then towards the input, and round again.
    """

    alpha: float = 0.4
    schedule: UpdateSchedule = field(default_factory=lambda: Every(interval=10, first=0, until=0.6))
    blocks: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks < 1:
            raise ValueError(f"Expected `readjust.blocks` to be at least 1, but got {self.blocks}")

    def pruned(self, cohort: Cohort, counts: Sequence[int]) -> Positions:
        """The smallest |w| of the mean."""
        return smallest_of_mean(cohort, counts)

    def moving(self, model: GlobalModel, stage: Stage, t: int) -> list[int]:
        """n_l in the layers whose turn it is, 0 in all others."""
        counts = super().moving(model, stage, t)
        if self.blocks == 1:
            return counts
        turn = sum(self.due(stage, u) for u in range(stage.start, t)) % self.blocks
        block = np.array_split(np.arange(len(counts)), self.blocks)[-1 - turn].tolist()
        return [n if layer in block else 0 for layer, n in enumerate(counts)]
