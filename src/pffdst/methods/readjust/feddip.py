"""FedDIP (Long et al., ICDM-23): gradual pruning by magnitude from a half-dense mask, under a growing penalty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch

from pffdst.core.facts import Facts
from pffdst.core.masks import Move, first, room_left
from pffdst.core.model import GlobalModel, Stage
from pffdst.core.positions import Positions
from pffdst.methods.allocation import Erk
from pffdst.methods.rule import ClientTurn, Rule
from pffdst.methods.schedule import Every, UpdateSchedule

__all__ = ["FedDip"]


@final
@dataclass(frozen=True)
class FedDip(Rule):
    """The mask starts at random with ERK's counts at sparsity s_0 (`initial`) and is pruned after scheduled rounds.

    Pruning keeps the largest |w| over all layers, out of those that the mask held before: masks are nested and nothing
    regrows. s_t = s + (s_0 - s) (1 - t / T)^3, t from the stage's start and T its length; the last round trains at
    exactly s. Clients add lambda_t sum_l ||w_l||_2, norms that are not squared: over the run's n `segments`, i = 0 ..
    n - 1, lambda is 0 in the first, then `penalty` (1 + (i - 1) / (n - 1)).
    """

    initial: float = 0.5
    penalty: float = 5e-4
    segments: int = 20
    schedule: UpdateSchedule = field(default_factory=lambda: Every(interval=20, first=0, until=1.0))

    def __post_init__(self) -> None:
        if not 0.0 <= self.initial < 1.0:
            raise ValueError(f"Expected `readjust.initial` (s_0) to be in [0, 1), but got {self.initial}")
        if self.penalty < 0.0:
            raise ValueError(f"Expected `readjust.penalty` (lambda) to be at least 0, but got {self.penalty}")
        if self.segments < 2:
            raise ValueError(f"Expected `readjust.segments` to be at least 2, but got {self.segments}")

    # ---- the mask --------------------------------------------------------------------------------------------------

    def start_counts(self, model: GlobalModel, stage: Stage) -> tuple[int, ...]:
        """ERK's counts at s_0, as far as frozen weights leave room, and never fewer than the stage needs."""
        room = room_left(model)
        wanted = Erk().counts(model.layout, 1.0 - self.initial)
        counts = [min(r, max(n, k)) for r, n, k in zip(room, wanted, stage.counts, strict=True)]
        return _filled(counts, room, sum(stage.counts))

    def exploration_end(self, stage: Stage) -> int:
        """The stage's last round."""
        return stage.stop - 1

    def alive_after(self, model: GlobalModel, stage: Stage, t: int) -> int:
        """How many trainable weights pruning after round t leaves."""
        final = sum(stage.counts)
        if t >= stage.stop - 2:
            return final
        begun = sum(self.start_counts(model, stage))
        return final + round((begun - final) * (1 - (t - stage.start) / stage.length) ** 3)

    def before_round(self, model: GlobalModel, stage: Stage, t: int, seed: int) -> Move | GlobalModel | None:
        """The pruning after the previous round."""
        if t != stage.stop - 1 and not self.schedule.due(stage, t - 1):
            return None
        at = model.trainable_at
        surplus = len(at) - self.alive_after(model, stage, t - 1)
        if surplus <= 0:
            return None
        gone = torch.from_numpy(first(model.trained.abs().numpy(), surplus))
        return Move(Positions(at.layout, index=at.index[gone]), (0,) * len(stage.counts), seed)

    # ---- the penalty -----------------------------------------------------------------------------------------------

    def strength(self, t: int, rounds: int) -> float:
        """lambda_t."""
        segment = t * self.segments // rounds
        return 0.0 if segment == 0 else self.penalty * (1 + (segment - 1) / (self.segments - 1))

    def shape_gradient_(self, turn: ClientTurn) -> None:
        """lambda_t w_l / ||w_l||_2; dead weights are 0."""
        strength = self.strength(turn.t, turn.rounds)
        if strength == 0.0:
            return
        with torch.no_grad():
            norms = torch._foreach_norm(turn.weights)
            for weight, norm in zip(turn.weights, norms, strict=True):
                if weight.grad is not None:
                    weight.grad.add_(weight * (strength / norm.clamp_min(1e-12)))

    # ---- what can be checked in advance ----------------------------------------------------------------------------

    def remarks(self, stage_lengths: list[int]) -> list[str]:
        """Everything is pruned at once if a stage contains no scheduled round."""
        still = [n for n in stage_lengths if not any(self.schedule.due(Stage(0, 0, n, ()), t) for t in range(1, n - 1))]
        if not still:
            return []
        return [
            f"readjust.schedule: a stage of {min(still)} rounds is pruned only once, before its last round; use a "
            "smaller readjust.schedule.interval or more rounds to prune it step by step"
        ]

    def problems(self, facts: Facts) -> list[str]:
        """A stage must be long enough for its last pruning."""
        if facts.stage_lengths is None or min(facts.stage_lengths) >= 2:
            return []
        return [
            f"readjust=feddip prunes before a stage's last round, which needs at least 2 rounds, but the stages "
            f"have {', '.join(map(str, facts.stage_lengths))}: raise rounds"
        ]


def _filled(counts: Sequence[int], room: Sequence[int], total: int) -> tuple[int, ...]:
    """The counts, increased where there is room until they sum to at least `total`, most room first."""
    filled, missing = list(counts), total - sum(counts)
    for layer in sorted(range(len(room)), key=lambda i: filled[i] - room[i]):
        if missing <= 0:
            break
        added = min(missing, room[layer] - filled[layer])
        filled[layer] += added
        missing -= added
    return tuple(filled)
