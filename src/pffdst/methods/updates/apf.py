"""APF, adaptive parameter freezing (Chen et al., ICDCS-21): weights that have settled are held fixed and not sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import torch

from pffdst.core.facts import Facts
from pffdst.core.model import GlobalModel, Layout, Stage
from pffdst.core.positions import Positions
from pffdst.methods.local import LocalTraining
from pffdst.methods.readjust.static import Static
from pffdst.methods.rule import Cohort, Rule

__all__ = ["Freezing"]

_CROWDED = 0.8


@final
@dataclass(eq=False)
class Freezing(Rule):
    """The server freezes each weight of a dense model, for longer the more often it is found stable.

    With delta the change of a weight in a round in which it was active, E = a E + (1 - a) delta and A = a A + (1 - a)
    |delta|, both starting from 0 (a: `decay`). It is stable if A > 0 and |E| / A < `threshold`: then L += 1, else
    L = L // 2. It is frozen for exactly L rounds. After a round with more than 80 % frozen the threshold halves.
    Clients hold frozen weights fixed; they send active values, and receive the active mask and the weights that changed
    since their last download.
    """

    any_length: ClassVar[bool] = True
    decay: float = 0.99
    threshold: float = 0.05
    sends_changes: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"Expected `updates.decay` (a) to be in [0, 1), but got {self.decay}; write e.g. 0.99")
        if self.threshold < 0.0:
            raise ValueError(f"Expected `updates.threshold` to be at least 0, but got {self.threshold}")
        self._limit = self.threshold
        self._mean = self._size = torch.empty(0)  # E and A [W]
        self._length = self._until = torch.empty(0, dtype=torch.int32)  # L, and the round in which it is active again

    def before_round(self, model: GlobalModel, stage: Stage, t: int, seed: int) -> GlobalModel | None:
        """The model with the weights that are frozen in round t."""
        if len(self._until) == 0:
            return None
        frozen = Positions(model.layout, bits=self._until > t)
        return None if frozen == model.frozen_at else model.freezing(frozen)

    def after_round(self, cohort: Cohort, stage: Stage, t: int, seed: int) -> GlobalModel:
        """Checks the weights that were active, and decides how long each is frozen."""
        if t < 0:
            return cohort.mean
        before = cohort.before
        at, change = before.trainable_at.index, cohort.mean.trained - before.trained
        if len(self._until) == 0:
            self._begin(before)
        self._mean[at] = self.decay * self._mean[at] + (1 - self.decay) * change
        self._size[at] = self.decay * self._size[at] + (1 - self.decay) * change.abs()
        stable = (self._size[at] > 0) & (self._mean[at].abs() < self._limit * self._size[at])
        self._length[at] = torch.where(stable, self._length[at] + 1, self._length[at] // 2)
        self._until[at] = t + 1 + self._length[at]
        if len(before.frozen_at) > _CROWDED * before.layout.maskable:
            self._limit /= 2
        return cohort.mean

    def _begin(self, model: GlobalModel) -> None:
        weights = model.weights
        self._mean, self._size = torch.zeros_like(weights), torch.zeros_like(weights)
        self._length = torch.zeros(len(weights), dtype=torch.int32)
        self._until = torch.zeros(len(weights), dtype=torch.int32)

    def state_dict(self) -> dict[str, Any]:
        """E, A, L, the round in which each weight is active again, and the threshold."""
        return {name: getattr(self, f"_{name}") for name in ("limit", "mean", "size", "length", "until")}

    def load_state_dict(self, state: dict[str, Any], layout: Layout) -> None:
        """Restores what `state_dict` returned."""
        for name, value in state.items():
            setattr(self, f"_{name}", value)

    def problems(self, facts: Facts) -> list[str]:
        """What stages freeze stays frozen for good."""
        return ["updates=apf freezes weights for a while: write freeze=none"] if facts.has_stages else []

    def problems_beside(self, training: LocalTraining, other: Rule) -> list[str]:
        """The model must be dense."""
        return [] if isinstance(other, Static) else ["updates=apf freezes a dense model: write readjust=static"]
