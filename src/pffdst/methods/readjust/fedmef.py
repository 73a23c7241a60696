"""FedMef (Huang et al., CVPR 2024): weights that are about to be pruned are first shrunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch

from pffdst.core.masks import smallest
from pffdst.core.model import GlobalModel
from pffdst.core.positions import Positions
from pffdst.methods.readjust.swap import TopGradients, masks_of
from pffdst.methods.rule import ClientTurn, Cohort
from pffdst.methods.schedule import Every, UpdateSchedule

__all__ = ["FedMef"]


@final
@dataclass
class FedMef(TopGradients):
    """FedTiny's swaps with budget-aware extrusion.

    At the start of an adjust round the n_l smallest |w| of each layer of the received model are marked (w_low). In that
    round `lambda_` ||w_low||_2^2 is added to the loss, and at local step b of B the learning rate is max(lr_t, p_b (2
    sigmoid(||w_low||) - 1) lr_0) with p_b = (2B - 2b) / (2B - b), lr_0 that of round 0. The server prunes exactly the
    marked weights.
    """

    alpha: float = 0.4
    schedule: UpdateSchedule = field(default_factory=lambda: Every(interval=10, first=0, until=0.6))
    lambda_: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lambda_ >= 0.0:
            raise ValueError(f"Expected `readjust.lambda_` (lambda) to be at least 0, but got {self.lambda_}")

    def marked(self, received: GlobalModel, counts: Sequence[int]) -> Positions:
        """w_low: both sides derive it from the received model."""
        return smallest(received.trainable_at, received.trained, counts)

    def pruned(self, cohort: Cohort, counts: Sequence[int]) -> Positions:
        """The marked weights."""
        return self.marked(cohort.received, counts)

    def begin(self, turn: ClientTurn) -> None:
        """Marks."""
        if self.due(turn.stage, turn.t):
            marked = self.marked(turn.start, self.moving(turn.start, turn.stage, turn.t))
            turn.scratch.update(low=masks_of(turn, marked), lr=turn.lr)

    def before_step(self, turn: ClientTurn) -> None:
        """Sets the step's learning rate. With a constant schedule it never changes: the second term is below lr_0."""
        if "low" not in turn.scratch or turn.scratch["lr"] >= turn.first_lr:
            return
        with torch.no_grad():
            squares = [(w * low).square().sum() for w, low in zip(turn.weights, turn.scratch["low"], strict=True)]
            norm = torch.stack(squares).sum().sqrt()
            budget = float(2 * torch.sigmoid(norm) - 1)
        p = (2 * turn.steps - 2 * turn.step) / (2 * turn.steps - turn.step)
        turn.set_lr(max(turn.scratch["lr"], p * budget * turn.first_lr))

    @torch.no_grad()
    def shape_gradient_(self, turn: ClientTurn) -> None:
        """The gradient of lambda ||w_low||^2: 2 lambda w at the marked weights."""
        for weight, low in zip(turn.weights, turn.scratch.get("low", ()), strict=False):
            if weight.grad is not None:
                weight.grad.addcmul_(weight, low, value=2 * self.lambda_)
