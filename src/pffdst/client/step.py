"""One local step: the same functions in every engine.

In order: loss and gradient of a batch, clipping, then decay, the proximal term and the objective's own terms, then the
rules' changes, the masks, and the optimizer. Because the gradient is masked last and momentum starts at 0, dead weights
stay 0 and frozen ones keep their bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, final

import torch
from lightning.pytorch import Callback
from torch import Tensor

if TYPE_CHECKING:
    from pffdst.client.module import ClientModule

__all__ = ["Batch", "Hooks", "add_regularisers_", "any_moved", "clip_", "decay_", "local_step", "mask_gradients_"]

Batch = tuple[Tensor, Tensor]


@torch.no_grad()
def clip_(parameters: Sequence[Tensor], masks: Sequence[Sequence[Tensor]], clip_norm: float) -> None:
    """Scales the gradients so that the 2-norm of what is applied, over all layers, is at most `clip_norm`."""
    for own in masks:
        mask_gradients_(parameters[: len(own)], own)
    torch.nn.utils.clip_grad_norm_(parameters, clip_norm, foreach=True)


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


@torch.no_grad()
def decay_(parameters: Sequence[Tensor], masks: Sequence[Sequence[Tensor]], amount: float | Tensor) -> None:
    """Decoupled weight decay: shrinks every parameter that is not frozen by `amount` (lr times decay) of itself."""
    masked = len(masks[0]) if masks else 0
    for p, *own in zip(parameters[:masked], *masks, strict=True):
        factor = own[0] if len(own) == 1 else own[0] * own[1]
        if isinstance(amount, Tensor):
            p.addcmul_(p, factor * -amount)
        else:
            p.addcmul_(p, factor, value=-amount)
    if masked < len(parameters):
        torch._foreach_mul_(list(parameters[masked:]), 1.0 - amount)


@torch.no_grad()
def any_moved(weights: Sequence[Tensor], stay: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
    """Whether a weight whose mask is 0 differs from what it was (`stay`); bool [], on the weights' device."""
    found = [((w != s) & (m == 0) & ~w.isnan()).any() for w, s, m in zip(weights, stay, masks, strict=True)]
    return torch.stack(found).any()


@final
class Hooks:
    """The Lightning callbacks of a client, called without a Trainer (`trainer` is None)."""

    NAMES: Final = (
        "on_train_start",
        "on_train_epoch_start",
        "on_train_batch_start",
        "on_after_backward",
        "on_before_optimizer_step",
        "on_train_batch_end",
        "on_train_epoch_end",
        "on_train_end",
    )
    IN_STEPS: Final = ("on_train_batch_start", "on_after_backward", "on_before_optimizer_step", "on_train_batch_end")

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._calls = {name: [getattr(c, name) for c in callbacks if _overrides(c, name)] for name in self.NAMES}

    @property
    def in_steps(self) -> bool:
        """Whether a hook that runs within steps is overridden."""
        return any(self._calls[name] for name in self.IN_STEPS)

    def __call__(self, name: str, module: ClientModule, *arguments: Any) -> None:
        """Calls a hook of all callbacks."""
        for call in self._calls[name]:
            call(None, module, *arguments)


def _overrides(callback: Callback, name: str) -> bool:
    return getattr(type(callback), name) is not getattr(Callback, name)


def local_step(
    module: ClientModule,
    batch: Batch,
    index: int,
    optimizer: Any,
    hooks: Hooks,
    forward: Callable[[Batch, int], Tensor] | None = None,
    backward: Callable[[Tensor], Any] = Tensor.backward,
) -> None:
    """One step on a batch, in the order in which a Trainer calls hooks.

    `forward` replaces `module.training_step` (if a wrapper has its own) and `backward` the loss's own.
    """
    hooks("on_train_batch_start", module, batch, index)
    optimizer.zero_grad(set_to_none=True)
    loss = (forward or module.training_step)(batch, index)
    backward(loss)
    hooks("on_after_backward", module)
    module.on_after_backward()
    hooks("on_before_optimizer_step", module, optimizer)
    optimizer.step()
    hooks("on_train_batch_end", module, loss, batch, index)
