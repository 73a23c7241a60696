"""FedDST (Bibikar et al., AAAI-22): clients prune by magnitude and grow by gradient, the server prunes back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from pffdst.core.masks import keep_largest, largest, smallest
from pffdst.core.model import GlobalModel, Stage
from pffdst.methods.readjust.base import ReadjustRule

__all__ = ["ClientGradient"]


@final
@dataclass(frozen=True)
class ClientGradient(ReadjustRule):
    """On rounds t with (t - 1) % Delta R == 0 in the first half of a stage a share alpha_t of each layer moves.

    alpha_t = alpha / 2 (1 + cos(pi t / (L / 2))), t counted from the stage's start.
    """

    interval: int = 10
    alpha: float = 0.01

    def __post_init__(self) -> None:
        if self.interval < 1:
            raise ValueError(f"Expected `readjust.interval` to be at least 1 round, but got {self.interval}")
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"Expected `readjust.alpha` to be in [0, 1], but got {self.alpha}; write e.g. 0.01")

    def start_counts(self, model: GlobalModel, stage: Stage) -> tuple[int, ...]:
        """The stage's counts: readjustment keeps them."""
        del model
        return stage.counts

    def exploration_end(self, stage: Stage) -> int:
        """Half of the stage."""
        return stage.start + math.ceil(stage.length / 2)

    def wants_gradient(self, stage: Stage, t: int) -> bool:
        """(t - 1) % Delta R == 0 and t < L / 2, t counted from the stage's start."""
        since = t - stage.start
        return (since - 1) % self.interval == 0 and since < stage.length / 2

    def share(self, stage: Stage, t: int) -> float:
        """alpha_t of round t."""
        return self.alpha / 2 * (1 + math.cos(math.pi * (t - stage.start) / (stage.length / 2)))

    def on_client(self, model: GlobalModel, gradient: Tensor, stage: Stage, t: int) -> GlobalModel:
        """Prune to sparsity s + (1 - s) alpha_t per layer by magnitude, grow back by the largest gradients, at 0."""
        have = model.layout.per_layer(model.trainable)
        room = model.layout.per_layer(~model.alive)
        share = self.share(stage, t)
        # a dense layer has no dead weight to grow: nothing moves in it
        counts = [0 if r == 0 else round(share * k) for k, r in zip(have, room, strict=True)]
        pruned = smallest(model.layout, model.weights, model.trainable, counts)
        kept = model.with_masks(model.alive & ~pruned)
        return kept.with_masks(kept.alive | largest(model.layout, gradient, ~kept.alive, counts))

    def after_aggregate(self, model: GlobalModel, support: Tensor, stage: Stage) -> GlobalModel:
        """The union of the clients' masks is pruned back to the stage's counts, per layer, by magnitude."""
        if tuple(model.layout.per_layer(model.trainable)) == stage.counts:
            return model
        keep = keep_largest(model.layout, model.weights, support, model.trainable, stage.counts)
        return model.with_masks(keep | model.frozen)
