"""FedTiny (Huang et al., ICDCS 2023): the server swaps weights by the mean of the clients' top gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np

from pffdst.core.masks import Move
from pffdst.core.model import GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.methods.readjust.candidates import MOST, Candidates
from pffdst.methods.readjust.swap import TopGradients, smallest_of_mean
from pffdst.methods.rule import Answer, ClientTurn, Cohort, Signal, Signals, Start
from pffdst.methods.schedule import Every, UpdateSchedule

__all__ = ["FedTiny"]


@final
@dataclass
class FedTiny(TopGradients):
    """Progressive pruning: in each layer the smallest |w| of the mean leave, as many as grow.

    With `blocks` above 1 the layers are divided into that many groups of neighbours, or as many as there are layers,
    and each adjust round handles one: first the output's, then towards the input, and around again. With `candidates`
    the first mask is the best of that many (candidates.py), which costs two rounds before round 0.
    """

    alpha: float = 0.4
    schedule: UpdateSchedule = field(default_factory=lambda: Every(interval=10, first=0, until=0.6))
    blocks: int = 1
    candidates: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks < 1:
            raise ValueError(f"Expected `readjust.blocks` to be at least 1, but got {self.blocks}")
        if not 0 <= self.candidates <= MOST or self.candidates == 1:
            raise ValueError(f"Expected `readjust.candidates` to be 0 (none) or 2 to {MOST}, but got {self.candidates}")
        self.warm_up = 2 if self.candidates else 0
        self._choice = Candidates(self.candidates)

    # ---- rounds -2 and -1 --------------------------------------------------------------------------------------------

    def probes(self, stage: Stage, t: int) -> int:
        """One dense batch on adjusting rounds, none before round 0."""
        return super().probes(stage, t) if t >= 0 else 0

    def forwards(self, layout: Layout, stage: Stage, t: int, seed: int) -> Sequence[Sequence[int]]:
        """Before round 0, one batch for each candidate, under its mask."""
        return [move.counts for move in self._choice.moves(layout, sum(stage.counts), seed)] if t < 0 else ()

    def measure(self, turn: ClientTurn) -> dict[str, Any]:
        """What the candidates ask for, or the largest gradients."""
        return {"candidates": self._choice.measure(turn)} if turn.t < 0 else super().measure(turn)

    def answer(self, trained: Answer, measured: Mapping[str, Any], stage: Stage, t: int) -> Answer:
        """What was measured is sent."""
        if t >= 0:
            return super().answer(trained, measured, stage, t)
        return replace(trained, signals=trained.signals | measured["candidates"])

    def up(self, stage: Stage, t: int) -> tuple[Signal, ...]:
        """Statistics, losses, or gradients of dead weights."""
        return super().up(stage, t) if t >= 0 else self._choice.up(t)

    def down(self, stage: Stage, t: int) -> tuple[Signal, ...]:
        """The mean statistics."""
        return self._choice.statistics() if t == -1 and self.candidates else ()

    def broadcast(self, model: GlobalModel, stage: Stage, t: int) -> Signals:
        """The mean statistics."""
        return self._choice.broadcast() if t == -1 and self.candidates else {}

    def observe(self, client: int, model: GlobalModel, samples: int, signals: Signals, stage: Stage, t: int) -> None:
        """Adds a client's answer to the sums."""
        if t < 0:
            self._choice.observe(samples, signals, t)
        else:
            super().observe(client, model, samples, signals, stage, t)

    def after_round(self, cohort: Cohort, stage: Stage, t: int, seed: int) -> GlobalModel:
        """The mean under the moved mask."""
        return cohort.mean if t < 0 else super().after_round(cohort, stage, t, seed)

    def start(self, given: Start) -> Move | None:
        """The best candidate; later stages draw at random."""
        return self._choice.chosen(given) if self.candidates and given.stage.index == 0 else None

    def state_dict(self) -> dict[str, Any]:
        """The answers about the candidates so far."""
        return self._choice.state_dict() if self.candidates else {}

    def load_state_dict(self, state: dict[str, Any], layout: Layout) -> None:
        """Restores what `state_dict` returned."""
        if self.candidates:
            self._choice.load_state_dict(state)

    # ---- adjusting ---------------------------------------------------------------------------------------------------

    def pruned(self, cohort: Cohort, counts: Sequence[int]) -> Positions:
        """The smallest |w| of the mean."""
        return smallest_of_mean(cohort, counts)

    def moving(self, model: GlobalModel, stage: Stage, t: int) -> list[int]:
        """n_l in the layers whose turn it is, 0 in the others."""
        counts = super().moving(model, stage, t)
        if self.blocks == 1:
            return counts
        blocks = np.array_split(np.arange(len(counts)), min(self.blocks, len(counts)))
        turn = sum(self.due(stage, u) for u in range(stage.start, t)) % len(blocks)
        block = blocks[-1 - turn].tolist()
        return [n if layer in block else 0 for layer, n in enumerate(counts)]
