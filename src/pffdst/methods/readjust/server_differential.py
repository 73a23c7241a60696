"""SMR, server mask readjustment with differential sparsity (PFFDST, AAAI-25)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, final

from pffdst.core.facts import Facts
from pffdst.core.masks import Move, room_left, smallest
from pffdst.core.model import GlobalModel, Stage
from pffdst.methods.rule import Rule
from pffdst.methods.schedule import Every, UpdateSchedule

__all__ = ["ServerDifferential"]


@final
@dataclass(frozen=True)
class ServerDifferential(Rule):
    """The stage starts at density d + f (f = rho d); the server prunes the smallest and regrows at random.

    On the schedule's rounds (every Delta R in the first quarter of the stage) n_l = round(rho k_l) weights per layer
    move; at the quarter's end n_l are pruned and none grown, and the mask is fixed at density d. Clients do nothing
    extra.
    """

    any_length: ClassVar[bool] = True
    ratio: float = 0.5
    schedule: UpdateSchedule = field(default_factory=lambda: Every(interval=10, first=0, until=0.25))

    def __post_init__(self) -> None:
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
        """t0 + ceil(L / 4), at the latest the stage's last round: the round of the final prune."""
        return min(self.schedule.fixed_from(stage), stage.stop - 1)

    def before_round(self, model: GlobalModel, stage: Stage, t: int, seed: int) -> Move | GlobalModel | None:
        """Prune and grow on readjustment rounds; only prune when exploration ends; else nothing."""
        last = t == self.exploration_end(stage)
        if not last and not self.schedule.due(stage, t):
            return None
        counts = self.differential(model, stage)
        pruned = smallest(model.trainable_at, model.trained, counts)
        return Move(pruned, (0,) * len(counts) if last else counts, seed)

    def remarks(self, stage_lengths: list[int]) -> list[str]:
        """If a quarter of a stage is shorter than the interval, no readjustment falls in it."""
        still = [n for n in stage_lengths if not any(self.schedule.due(Stage(0, 0, n, ()), t) for t in range(1, n))]
        if not still:
            return []
        return [
            f"readjust.schedule: no readjustment falls in the first part of a stage of {min(still)} rounds, so its "
            "mask is only pruned once; to readjust it, use more rounds, a larger readjust.schedule.until or a smaller "
            "readjust.schedule.interval"
        ]

    def problems(self, facts: Facts) -> list[str]:
        """A stage must be long enough for its final prune."""
        stage_lengths = facts.stage_lengths
        if stage_lengths is None or min(stage_lengths) >= 2:
            return []
        enough = max(2 * len(stage_lengths), sum(stage_lengths) + 1)  # more if stage lengths differ a lot
        return [
            f"readjust=server_differential prunes to the target within a stage, which needs at least 2 rounds, but the "
            f"stages have {', '.join(map(str, stage_lengths))}: raise rounds to at least {enough}, or write "
            "readjust=static"
        ]
