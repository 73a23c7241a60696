"""What a client minimises: the loss of a batch, and terms added to its gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch.nn.functional as F
from torch import Tensor

__all__ = ["CrossEntropy", "Objective"]


class Objective(ABC):
    """`anchored`: `regularise_` needs the parameters that the client started the round with."""

    anchored: ClassVar[bool] = False

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch, from the network's outputs [B, classes] and labels int64 [B]."""

    def regularise_(self, parameters: Sequence[Tensor], anchors: Sequence[Tensor]) -> None:
        """Adds the gradient of further terms to `p.grad`, in place; `anchors` are empty unless `anchored`."""


@final
@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Cross-entropy, the loss of every method here; `label_smoothing` is a label's share spread over all classes."""

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"Expected `objective.label_smoothing` to be in [0, 1), but got {self.label_smoothing}")

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Of logits."""
        return F.cross_entropy(outputs, labels, label_smoothing=self.label_smoothing)
