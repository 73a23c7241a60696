"""The pure functions of a client's step, shared by every engine.

One step: loss and gradient of a batch, decay and proximal term added to the gradient, gradient masked, SGD. Because
the gradient is masked last and momentum starts at 0, dead weights stay 0 and frozen ones keep their bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LocalTraining", "add_regularisers_", "cross_entropy", "make_optimizer", "mask_gradients_", "normalise"]


@final
@dataclass(frozen=True)
class LocalTraining:
    """The numbers of a client's round: E epochs of SGD(lr, momentum) with weight decay and FedProx's mu."""

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    prox_mu: float


def normalise(images: Tensor, mean: Tensor, std: Tensor, memory_format: torch.memory_format) -> Tensor:
    """uint8 [B, C, H, W] to (images / 255 - mean) / std in the dtype of `mean` [1, C, 1, 1]."""
    scaled = images.to(mean.dtype, memory_format=memory_format).div_(255.0)
    return scaled.sub_(mean).div_(std)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits [B, classes], the loss every method trains."""
    return F.cross_entropy(logits, labels)


def make_optimizer(parameters: Sequence[Tensor], training: LocalTraining) -> torch.optim.SGD:
    """A fresh SGD, momentum at 0. Its own weight decay is off: it would come after the mask (`add_regularisers_`)."""
    return torch.optim.SGD(parameters, lr=training.lr, momentum=training.momentum, fused=True)


@torch.no_grad()
def add_regularisers_(parameters: Sequence[Tensor], anchors: Sequence[Tensor], decay: float, prox_mu: float) -> None:
    """Adds decay * w and, where prox_mu > 0, prox_mu * (w - w_global) to the gradients in place.

    The second is the gradient of FedProx's (mu / 2) ||w - w_global||^2; `anchors` are the global parameters.
    """
    with_gradient = [p for p in parameters if p.grad is not None]
    gradients = [p.grad for p in with_gradient if p.grad is not None]
    if decay != 0.0:
        torch._foreach_add_(gradients, with_gradient, alpha=decay)
    if prox_mu != 0.0:
        held = [a for p, a in zip(parameters, anchors, strict=True) if p.grad is not None]
        torch._foreach_add_(gradients, torch._foreach_sub(with_gradient, held), alpha=prox_mu)


@torch.no_grad()
def mask_gradients_(weights: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """Multiplies each weight's gradient by its 0/1 mask in place."""
    pairs = [(w.grad, mask) for w, mask in zip(weights, masks, strict=True) if w.grad is not None]
    if pairs:
        torch._foreach_mul_([gradient for gradient, _ in pairs], [mask for _, mask in pairs])
