"""A client's optimizer. It is new in every turn, and masks act on it only through the gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pffdst.methods.local import LocalTraining

__all__ = ["AdamW", "LocalOptimizer", "Sgd"]


class LocalOptimizer(ABC):
    """Makes optimizers whose step does not change a parameter whose gradient was always 0.

    Their own weight decay must be off: `weight_decay` is added to the gradient before the mask or, with `decoupled`,
    subtracted from the trainable weights before the step, as in AdamW.
    """

    decoupled: ClassVar[bool] = False

    @abstractmethod
    def make(self, parameters: Sequence[Tensor], lr: float, momentum: float) -> torch.optim.Optimizer:
        """An optimizer of these parameters; `lr` and `momentum` are the numbers from the command line."""


@final
@dataclass(frozen=True)
class Sgd(LocalOptimizer):
    """SGD with momentum (0: plain SGD)."""

    nesterov: bool = False

    def problems_beside(self, training: LocalTraining) -> list[str]:
        """Nesterov's step needs momentum."""
        if not self.nesterov or training.momentum > 0.0:
            return []
        return ["optimizer.nesterov=true needs momentum: write momentum=0.9 or optimizer.nesterov=false"]

    def make(self, parameters: Sequence[Tensor], lr: float, momentum: float) -> torch.optim.Optimizer:
        """A fused SGD with zero momentum."""
        optimizer = torch.optim.SGD(parameters, lr=lr, momentum=momentum, nesterov=self.nesterov, fused=True)
        if momentum != 0.0:
            optimizer.register_step_pre_hook(_begin_momentum)
        return optimizer


def _begin_momentum(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Sets missing momentum to 0: a fused step fails if one parameter gets its first gradient later than others."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            if not optimizer.state[p]:  # with or without a gradient: a Trainer computes it within the step
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)


@final
@dataclass(frozen=True)
class AdamW(LocalOptimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019). `momentum` is not used: it has beta1."""

    decoupled: ClassVar[bool] = True
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        for key, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            if not 0.0 <= value < 1.0:
                raise ValueError(f"Expected `optimizer.{key}` to be in [0, 1), but got {value}")
        if self.eps <= 0.0:
            raise ValueError(f"Expected `optimizer.eps` to be above 0, but got {self.eps}")

    def make(self, parameters: Sequence[Tensor], lr: float, momentum: float) -> torch.optim.Optimizer:
        """A fused Adam with zero moments."""
        return torch.optim.Adam(parameters, lr=lr, betas=(self.beta1, self.beta2), eps=self.eps, fused=True)
