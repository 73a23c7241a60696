"""The two callbacks of a sparse client: dead weights stay 0, frozen weights keep their exact bits.

Both mask the gradients (momentum follows, since it starts at 0) and both check their invariant after the last step.
Every engine calls them; in the Trainer they are ordinary Lightning callbacks. An engine that reads later whether a
weight moved, without waiting for the device, sets `check` to False.
"""

from __future__ import annotations

from typing import Any, final

from lightning.pytorch import Callback
from torch import Tensor

from pffdst.client.module import ClientModule
from pffdst.client.step import mask_gradients_

__all__ = ["BrokenMaskError", "FreezeCallback", "MaskCallback"]


class BrokenMaskError(RuntimeError):
    """A weight that must not change did: a bug in the program, never caused by a client's data."""


@final
class MaskCallback(Callback):
    """Keeps dead weights at 0: weight, gradient and momentum."""

    def __init__(self, *, check: bool = True) -> None:
        self._checks = check

    def on_before_optimizer_step(self, trainer: Any, pl_module: ClientModule, optimizer: Any) -> None:  # type: ignore[override]
        """Sets the gradient of dead weights to 0."""
        if pl_module.masks.alive:
            mask_gradients_(pl_module.flat.weights, pl_module.masks.alive)

    def on_train_end(self, trainer: Any, pl_module: ClientModule) -> None:  # type: ignore[override]
        """Raises BrokenMaskError if a dead weight is a number other than 0.

        NaN is accepted here: a diverged client's gradient produces it (NaN x 0), and the update is refused later.
        """
        if self._checks:
            _check(pl_module.broken(dead=True), "dead weights to stay 0")


@final
class FreezeCallback(Callback):
    """Keeps frozen weights at their value, to the bit."""

    def __init__(self, *, check: bool = True) -> None:
        self._checks = check

    def on_before_optimizer_step(self, trainer: Any, pl_module: ClientModule, optimizer: Any) -> None:  # type: ignore[override]
        """Sets the gradient of frozen weights to 0."""
        if pl_module.masks.thawed:
            mask_gradients_(pl_module.flat.weights, pl_module.masks.thawed)

    def on_train_end(self, trainer: Any, pl_module: ClientModule) -> None:  # type: ignore[override]
        """Raises BrokenMaskError if a frozen weight changed to another number (NaN: as for dead weights)."""
        if self._checks:
            _check(pl_module.broken(dead=False), "frozen weights to keep their bits")


def _check(broken: Tensor | None, law: str) -> None:
    if broken is not None and bool(broken):
        raise BrokenMaskError(f"Expected {law} while training, but some moved")
