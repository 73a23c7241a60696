"""SMR, server mask readjustment with differential sparsity (PFFDST, AAAI-25)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from pffdst.core.facts import Facts
from pffdst.core.masks import Move, smallest
from pffdst.core.model import GlobalModel, Stage
from pffdst.methods.readjust.base import ReadjustRule, room_left

__all__ = ["ServerDifferential"]


@final
@dataclass(frozen=True)
class ServerDifferential(ReadjustRule):
    """The stage begins at density d + f (f = rho d); the server prunes the smallest and regrows at random.

    Every `interval` rounds (Delta R) in the first quarter of the stage n_l = round(rho k_l) weights per layer move;
    at the quarter's end n_l are pruned and none grown, and the mask is fixed at density d. Clients do nothing.
    """

    interval: int = 10
    ratio: float = 0.5

    def __post_init__(self) -> None:
        if self.interval < 1:
            raise ValueError(f"Expected `readjust.interval` to be at least 1 round, but got {self.interval}")
        if not 0.0 <= self.ratio <= 1.0:
            raise ValueError(f"Expected `readjust.ratio` (rho) to be in [0, 1], but got {self.ratio}")

    def differential(self, model: GlobalModel, stage: Stage) -> tuple[int, ...]:
        """n_l, capped by the room that is neither alive nor frozen and by the trainable count minus one."""
        room = room_left(model)
        return tuple(max(0, min(round(self.ratio * k), r - k, k - 1)) for k, r in zip(stage.counts, room, strict=True))

    def start_counts(self, model: GlobalModel, stage: Stage) -> tuple[int, ...]:
        """k_l + n_l."""
        return tuple(k + n for k, n in zip(stage.counts, self.differential(model, stage), strict=True))

    def exploration_end(self, stage: Stage) -> int:
        """t0 + ceil(L / 4): the round of the final prune."""
        return stage.start + math.ceil(stage.length / 4)

    def on_server(self, model: GlobalModel, stage: Stage, t: int, seed: int) -> Move | None:
        """Prune and grow on readjustment rounds; prune alone when exploration ends; else nothing."""
        last = t == self.exploration_end(stage)
        if not last and not self.readjusts(stage, t):
            return None
        counts = self.differential(model, stage)
        pruned = smallest(model.layout, model.weights, model.trainable, counts)
        return Move(pruned, (0,) * len(counts) if last else counts, seed)

    def readjusts(self, stage: Stage, t: int) -> bool:
        """Whether round t moves the mask: every `interval` rounds, strictly inside the first quarter of the stage."""
        since = t - stage.start
        return since % self.interval == 0 and 0 < since < stage.length / 4

    def remarks(self, stage_lengths: list[int]) -> list[str]:
        """A quarter of a stage shorter than the interval holds no readjustment."""
        still = [n for n in stage_lengths if not self.interval < n / 4]
        if not still:
            return []
        return [
            f"readjust.interval={self.interval}: no readjustment falls into the first quarter of a stage of "
            f"{min(still)} rounds, the mask is only pruned once; a smaller interval or more rounds readjust it"
        ]

    def problems(self, facts: Facts) -> list[str]:
        """A stage must be long enough to hold its final prune."""
        stage_lengths = facts.stage_lengths
        if stage_lengths is None or min(stage_lengths) >= 2:
            return []
        enough = max(2 * len(stage_lengths), sum(stage_lengths) + 1)  # more where stages differ much in length
        return [
            f"readjust=server_differential prunes to the target within a stage, which takes at least 2 rounds, but the "
            f"stages have {', '.join(map(str, stage_lengths))}: raise rounds to at least {enough}, or write "
            "readjust=static"
        ]
