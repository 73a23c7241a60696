"""A round's model on the network's device, from which the clients that start from it are loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from pffdst.core.flat import FlatModule
from pffdst.core.model import GlobalModel
from pffdst.core.positions import Positions

__all__ = ["Loaded", "Masks"]


@final
@dataclass
class Masks:
    """What may not move, as 0/1 tensors in the shapes of the weights: 0 where a weight is dead, 0 where it is frozen.

    The lists are empty if no weight is.
    """

    alive: list[Tensor] = field(default_factory=list)
    thawed: list[Tensor] = field(default_factory=list)

    @property
    def both(self) -> tuple[list[Tensor], ...]:
        """The lists that are not empty."""
        return tuple(masks for masks in (self.alive, self.thawed) if masks)


@final
class Loaded:
    """A network's tensors with the values of a model, and its masks.

    With `in_place` all of them keep their addresses from model to model, as recorded steps require.
    """

    def __init__(self, flat: FlatModule, *, in_place: bool = False) -> None:
        self._flat, self._in_place = flat, in_place
        self.tensors = [torch.empty_like(t) for t in flat.tensors]
        self.parameters = self.tensors[: len(flat.parameters)]
        self.masks = Masks()
        self._alive, self._frozen = Positions.none(flat.layout), Positions.none(flat.layout)
        self.model: GlobalModel | None = None

    def holds(self, model: GlobalModel) -> bool:
        """Whether this model is loaded: clients that were sent different messages may decode the same model."""
        return self.model is not None and self.model.same_as(model)

    @torch.no_grad()
    def load_(self, model: GlobalModel) -> None:
        """Moves a model to the device. No client may still be using the previous one."""
        layout, device = model.layout, self.tensors[0].device
        values = model.values.to(device)
        for (_, part), tensor in zip(layout.split(values), self.tensors, strict=True):
            tensor.copy_(part)
        self.masks = Masks(
            self._mask(self.masks.alive, self._alive, model.alive_at, keep=True),
            self._mask(self.masks.thawed, self._frozen, model.frozen_at, keep=False),
        )
        self._alive, self._frozen = model.alive_at, model.frozen_at
        self.model = model

    def _mask(self, made: list[Tensor], before: Positions, now: Positions, *, keep: bool) -> list[Tensor]:
        """Masks that are 1 at `now` (`keep`), or everywhere else; none if they would be 1 everywhere."""
        if (now.everything if keep else len(now) == 0) and not (self._in_place and made):
            return []
        if made and before is now:
            return made
        if not made or not self._in_place:
            return self._flat.masks_like(now.bits if keep else ~now.bits)
        for (_, bits), mask in zip(now.layout.split(now.bits if keep else ~now.bits), made, strict=True):
            mask.copy_(bits)
        return made
