"""A client's local training: the numbers from the command line, and the parts that can be chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from pffdst.methods.local.augmentation import Augmentation, Plain
from pffdst.methods.local.lr_schedule import Constant, LearningRateSchedule
from pffdst.methods.local.objective import CrossEntropy, Objective
from pffdst.methods.local.optimizer import LocalOptimizer, Sgd

__all__ = ["LocalTraining"]


@final
@dataclass(frozen=True)
class LocalTraining:
    """E epochs of a client: numbers, and the parts that use them.

    `lr` is the learning rate of round 0, which `lr_schedule` changes over the `rounds` of the run; `clip_norm` bounds
    the 2-norm of the gradient that is applied (0: no bound); `prox_mu` is FedProx's mu.
    """

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    prox_mu: float
    clip_norm: float = 0.0
    rounds: int = 1
    objective: Objective = field(default_factory=CrossEntropy)
    optimizer: LocalOptimizer = field(default_factory=Sgd)
    lr_schedule: LearningRateSchedule = field(default_factory=Constant)
    augmentation: Augmentation = field(default_factory=Plain)

    def lr_at(self, t: int) -> float:
        """The learning rate of round t; rounds before round 0 have that of round 0."""
        return self.lr_schedule.at(self.lr, max(t, 0), self.rounds)

    @property
    def anchored(self) -> bool:
        """Whether a step needs the parameters that the client started from."""
        return self.prox_mu != 0.0 or self.objective.anchored
