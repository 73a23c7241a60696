"""What the server makes of the mean of a round's updates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, final

import torch
from torch import Tensor

from pffdst.core.model import GlobalModel, Layout
from pffdst.core.positions import Positions

__all__ = ["Mean", "Momentum", "ServerOptimizer"]


class ServerOptimizer(ABC):
    """A step from the round's model towards the mean of its updates. Statistics always take the mean.

    What it remembers lies at the trainable positions and the parameters; it follows the mask, and what dies or freezes
    is forgotten.
    """

    @abstractmethod
    def step(self, model: GlobalModel, mean: GlobalModel) -> GlobalModel:
        """The next model, under the mask of `mean`."""

    def state_dict(self) -> dict[str, Any]:
        """What the server keeps between rounds beside the model."""
        return {}

    def load_state_dict(self, state: dict[str, Any], layout: Layout) -> None:
        """Goes back to what `state_dict` gave."""


@final
class Mean(ServerOptimizer):
    """The mean itself: FedAvg and all sparse methods."""

    def step(self, model: GlobalModel, mean: GlobalModel) -> GlobalModel:
        """The mean."""
        return mean


class Remembering(ServerOptimizer):
    """A server optimizer over the change D = mean - w of the trainable weights and the parameters."""

    def __init__(self) -> None:
        self._at: Positions | None = None
        self._memory: list[Tensor] = []

    @abstractmethod
    def move(self, change: Tensor, memory: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """What is added to the parameters for a `change` D [n], and the new memory; `memory` is [] at first."""

    def fresh(self) -> float:
        """What memory holds at a position that is new."""
        return 0.0

    def step(self, model: GlobalModel, mean: GlobalModel) -> GlobalModel:
        """w + move(D). Where clients have grown a weight, it starts at 0."""
        parameters, at = model.layout.parameters - model.layout.maskable, model.trainable_at
        theirs = mean.alive_at.carry(mean.held, at)
        change = torch.cat([theirs - model.trained, mean.rest[:parameters] - model.rest[:parameters]])
        moved, self._memory = self.move(change, self._followed(at))
        self._at = at
        rest = torch.cat([model.rest[:parameters] + moved[len(at) :], mean.rest[parameters:]])
        return model.with_trained(model.trained + moved[: len(at)], rest).moved(mean.alive_at)

    def _followed(self, at: Positions) -> list[Tensor]:
        """The memory at the positions `at`."""
        before = self._at
        if before is None or before == at:
            return self._memory
        k = len(before)
        fresh = self.fresh()
        return [torch.cat([before.carry(m[:k] - fresh, at) + fresh, m[k:]]) for m in self._memory]

    def state_dict(self) -> dict[str, Any]:
        """The positions and the memory there."""
        return {"at": None if self._at is None else self._at.packed(), "memory": list(self._memory)}

    def load_state_dict(self, state: dict[str, Any], layout: Layout) -> None:
        """Goes back to what `state_dict` gave."""
        self._at = None if state["at"] is None else Positions.unpacked(layout, state["at"])
        self._memory = list(state["memory"])


@final
class Momentum(Remembering):
    """FedAvgM: v = beta v + D, w + v."""

    def __init__(self, beta: float = 0.9) -> None:
        super().__init__()
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Expected `server_optimizer.beta` to be in [0, 1), but got {beta}")
        self.beta = beta

    def move(self, change: Tensor, memory: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The velocity v."""
        velocity = self.beta * memory[0] + change if memory else change
        return velocity, [velocity]
