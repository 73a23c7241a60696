"""The stages of a run, each with weights to train."""

from __future__ import annotations

import math

from pffdst.core.errors import UserError
from pffdst.core.model import Layout, Stage
from pffdst.methods.allocation import Allocation
from pffdst.methods.freeze.base import FreezeSchedule

__all__ = ["stages_with_weights"]


def stages_with_weights(
    freeze: FreezeSchedule, allocation: Allocation, layout: Layout, rounds: int, sparsity: float
) -> tuple[Stage, ...]:
    """The stages and their weights per layer. UserError if one is left without any weights."""
    stages = freeze.stages(rounds, allocation.counts(layout, 1.0 - sparsity))
    empty = next((stage for stage in stages if sum(stage.counts) == 0), None)
    if empty is None:
        return stages

    def suffice(alive: int) -> bool:
        counts = allocation.counts(layout, alive / layout.maskable)
        return all(sum(stage.counts) > 0 for stage in freeze.stages(rounds, counts))

    least = next(n for n in range(1, layout.maskable + 1) if suffice(n))
    most = math.floor(1e6 * (1.0 - least / layout.maskable)) / 1e6
    raise UserError(
        f"sparsity={sparsity} leaves stage {empty.index + 1} of {len(stages)} without any of the network's "
        f"{layout.maskable:,} weights: write at most sparsity={most}"
    )
