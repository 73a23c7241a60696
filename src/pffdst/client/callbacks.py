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
            weights, alive = pl_module.flat.read()[: pl_module.flat.layout.maskable], pl_module.current.alive
            _check_unmoved(weights.bool() & ~alive, weights, "dead weights to stay 0")


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
            weights, start = pl_module.flat.read()[: pl_module.flat.layout.maskable], pl_module.current
            _check_unmoved((weights != start.weights) & start.frozen, weights, "frozen weights to keep their bits")


def _check_unmoved(moved: Tensor, weights: Tensor, law: str) -> None:
    """Raises BrokenMaskError where a weight of the mask `moved` [W] is a number: the diverged are NaN."""
    # Picking weights by a bool mask costs as much as half a step: it waits until there is something to pick.
    if bool(moved.any()) and not bool(weights[moved].isnan().all()):
        raise BrokenMaskError(f"Expected {law} while training, but some moved")
