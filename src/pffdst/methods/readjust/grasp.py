"""GraSP (Wang, Zhang and Grosse, ICLR 2020) before federated training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pffdst.core.model import Stage
from pffdst.methods.readjust.scored import Scored
from pffdst.methods.rule import ClientTurn

__all__ = ["Grasp"]


@final
@dataclass
class Grasp(Scored):
    """Gradient signal preservation: S = -w (H g) says by how much the gradient's norm grows when a weight is removed.

    The weights with the largest S are removed; the score that is sent, and whose largest values are kept, is therefore
    -S = w (H g), signed. g is the gradient of the loss with the outputs divided by `temperature` (T), H g its product
    with the Hessian on the same batch, g held constant; normalisation is in training mode.
    """

    temperature: float = 200.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0.0:
            raise ValueError(f"Expected `readjust.temperature` (T) to be above 0, but got {self.temperature}")

    def probes(self, stage: Stage, t: int) -> int:
        """In round -1 a gradient and, at twice the cost, the gradient of g . dL/dw through it: three dense batches."""
        return 3 * (t == -1)

    def score(self, turn: ClientTurn) -> Tensor:
        """w (H g), flat [W]."""
        weights = turn.weights
        with turn.undisturbed(training=True):
            loss = turn.loss(turn.batch("score"), self.temperature)
            gradients = torch.autograd.grad(loss, weights, create_graph=True)
            product = torch.stack([(g * g.detach()).sum() for g in gradients]).sum()
            hessian_gradient = torch.autograd.grad(product, weights)
        with torch.no_grad():
            return torch.cat([(w * h).reshape(-1) for w, h in zip(weights, hessian_gradient, strict=True)])
