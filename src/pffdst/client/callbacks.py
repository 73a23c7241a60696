"""The two callbacks of a sparse client: dead weights stay 0, frozen weights keep their bits.

Both multiply gradients (momentum follows, since it starts at 0) and both verify their law after the last step. The
Trainer calls them itself; the Fabric loop calls them through `fabric.call`.
"""

from __future__ import annotations

from typing import Any, final

from lightning.pytorch import Callback
from torch import Tensor

from pffdst.client.module import ClientModule
from pffdst.client.step import mask_gradients_

__all__ = ["BrokenMaskError", "FreezeCallback", "MaskCallback"]


class BrokenMaskError(RuntimeError):
    """A weight that had to stay as it was did not: an error of the program, never of a client's data."""


@final
class MaskCallback(Callback):
    """Keeps dead weights at 0: weight, gradient and momentum."""

    def __init__(self) -> None:
        self.masks: list[Tensor] = []
        self._made_for: Tensor | None = None

    def on_train_start(self, trainer: Any, pl_module: ClientModule) -> None:  # type: ignore[override]
        """Makes the 0/1 masks; clients that share a mask share them. A dense model needs none."""
        alive = pl_module.current.alive
        if alive is not self._made_for:
            self.masks = [] if bool(alive.all()) else pl_module.flat.masks_like(alive)
            self._made_for = alive

    def on_before_optimizer_step(self, trainer: Any, pl_module: ClientModule, optimizer: Any) -> None:  # type: ignore[override]
        """Gradient of dead weights to 0."""
        if self.masks:
            mask_gradients_(pl_module.flat.weights, self.masks)

    def on_train_end(self, trainer: Any, pl_module: ClientModule) -> None:  # type: ignore[override]
        """Raises BrokenMaskError where a dead weight is a number other than 0.

        NaN is what a diverged client's gradient makes of them (NaN x 0): its update is refused, the program is right.
        """
        if self.masks:
            dead = pl_module.flat.read()[: pl_module.flat.layout.maskable][~pl_module.current.alive]
            if bool(((dead != 0) & ~dead.isnan()).any()):
                raise BrokenMaskError("Expected dead weights to stay 0 while training, but some moved")


@final
class FreezeCallback(Callback):
    """Keeps frozen weights at their value, to the bit."""

    def __init__(self) -> None:
        self.masks: list[Tensor] = []
        self._made_for: Tensor | None = None

    def on_train_start(self, trainer: Any, pl_module: ClientModule) -> None:  # type: ignore[override]
        """Makes the 0/1 masks of what is not frozen; nothing frozen, nothing to do."""
        frozen = pl_module.current.frozen
        if frozen is not self._made_for:
            self.masks = pl_module.flat.masks_like(~frozen) if bool(frozen.any()) else []
            self._made_for = frozen

    def on_before_optimizer_step(self, trainer: Any, pl_module: ClientModule, optimizer: Any) -> None:  # type: ignore[override]
        """Gradient of frozen weights to 0."""
        if self.masks:
            mask_gradients_(pl_module.flat.weights, self.masks)

    def on_train_end(self, trainer: Any, pl_module: ClientModule) -> None:  # type: ignore[override]
        """Raises BrokenMaskError where a frozen weight changed to another number (NaN: as for dead weights)."""
        if self.masks:
            start = pl_module.current
            now, then = (v[: start.frozen.numel()][start.frozen] for v in (pl_module.flat.read(), start.values))
            if bool(((now != then) & ~now.isnan()).any()):
                raise BrokenMaskError("Expected frozen weights to keep their bits while training, but some moved")
