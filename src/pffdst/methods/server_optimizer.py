"""What the server does with the mean of a round's updates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, final

import torch
from torch import Tensor

from pffdst.core.model import GlobalModel, Layout
from pffdst.core.positions import Positions

__all__ = ["Adam", "Mean", "Momentum", "ServerOptimizer", "Yogi"]


class ServerOptimizer(ABC):
    """A step from the round's model towards the mean of its updates. Statistics always take the mean.

    Its memory covers the trainable positions and the parameters; it follows the mask, and what dies or freezes is
    forgotten.
    """

    @abstractmethod
    def step(self, model: GlobalModel, mean: GlobalModel) -> GlobalModel:
        """The next model, under the mask of `mean`."""

    def state_dict(self) -> dict[str, Any]:
        """What the server keeps between rounds besides the model."""
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
    """A server optimizer over the change D = mean - w of the trainable weights and the parameters.

    `fresh` is what each tensor of its memory holds at a position that is new, and everywhere at first.
    """

    def __init__(self, *fresh: float) -> None:
        self.fresh = fresh
        self._at: Positions | None = None
        self._memory: list[Tensor] = []

    @abstractmethod
    def move(self, change: Tensor, memory: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """What is added to the parameters for a `change` D [n], and the new memory, as many tensors as it was."""

    def step(self, model: GlobalModel, mean: GlobalModel) -> GlobalModel:
        """w + move(D) under the mask of `mean`; where clients have grown a weight, w was 0.

        The memory of a step that leads out of the numbers is dropped, as the round drops its model.
        """
        parameters, at = model.layout.parameters - model.layout.maskable, mean.trainable_at
        own = model.alive_at.carry(model.held, at)
        change = torch.cat([mean.trained - own, mean.rest[:parameters] - model.rest[:parameters]])
        moved, memory = self.move(change, self._followed(model.trainable_at, at, change))
        if all(bool(torch.isfinite(tensor).all()) for tensor in (moved, *memory)):
            self._at, self._memory = at, memory
        rest = torch.cat([model.rest[:parameters] + moved[len(at) :], mean.rest[parameters:]])
        return mean.with_trained(own + moved[: len(at)], rest)

    def _followed(self, own: Positions, at: Positions, change: Tensor) -> list[Tensor]:
        """The memory at `at`: that of the positions `own` of the model; `change` [n] is as long as it is now."""
        before = self._at
        if before is None:
            return [torch.full_like(change, fresh) for fresh in self.fresh]
        if before == own == at:
            return self._memory
        k, both = len(before), zip(self._memory, self.fresh, strict=True)
        return [torch.cat([own.carry(before.carry(m[:k] - fresh, own), at) + fresh, m[k:]]) for m, fresh in both]

    def state_dict(self) -> dict[str, Any]:
        """The positions and the memory there."""
        return {"at": None if self._at is None else self._at.packed(), "memory": list(self._memory)}

    def load_state_dict(self, state: dict[str, Any], layout: Layout) -> None:
        """Goes back to what `state_dict` gave."""
        self._at = None if state["at"] is None else Positions.unpacked(layout, state["at"])
        self._memory = list(state["memory"])


@final
class Momentum(Remembering):
    """FedAvgM: v = beta v + D, w + eta v. A steady D is taken eta / (1 - beta) times: ten times by the defaults."""

    def __init__(self, beta: float = 0.9, eta: float = 1.0) -> None:
        super().__init__(0.0)
        _check_decay("beta", beta)
        _check_positive("eta", eta)
        self.beta, self.eta = beta, eta

    def move(self, change: Tensor, memory: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The velocity v, eta times, and v."""
        velocity = self.beta * memory[0] + change
        return self.eta * velocity, [velocity]


class Adaptive(Remembering):
    """Adaptive server optimizers (Reddi et al., ICLR-21, Algorithm 2): w + eta m / (sqrt(v) + tau).

    m = beta1 m + (1 - beta1) D from 0; v from tau^2; neither is corrected for its start, as in the paper.
    """

    def __init__(self, eta: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3) -> None:
        super().__init__(0.0, tau**2)
        _check_decay("beta1", beta1)
        _check_decay("beta2", beta2)
        _check_positive("eta", eta)
        _check_positive("tau", tau)
        self.eta, self.beta1, self.beta2, self.tau = eta, beta1, beta2, tau

    @abstractmethod
    def second(self, v: Tensor, squared: Tensor) -> Tensor:
        """The next v, from v and D^2."""

    def move(self, change: Tensor, memory: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The step eta m / (sqrt(v) + tau), and m and v."""
        m = torch.lerp(change, memory[0], self.beta1)
        v = self.second(memory[1], change.square())
        return self.eta * m / (v.sqrt() + self.tau), [m, v]


@final
class Adam(Adaptive):
    """FedAdam."""

    def second(self, v: Tensor, squared: Tensor) -> Tensor:
        """beta2 v + (1 - beta2) D^2."""
        return torch.lerp(squared, v, self.beta2)


@final
class Yogi(Adaptive):
    """FedYogi: v moves towards D^2 by a step that does not grow with its distance."""

    def second(self, v: Tensor, squared: Tensor) -> Tensor:
        """v - (1 - beta2) D^2 sign(v - D^2)."""
        return v - (1 - self.beta2) * squared * torch.sign(v - squared)


def _check_decay(key: str, value: float) -> None:
    """ValueError where a decay is out of its range."""
    if not 0.0 <= value < 1.0:
        raise ValueError(f"Expected `server_optimizer.{key}` to be in [0, 1), but got {value}; write e.g. 0.9")


def _check_positive(key: str, value: float) -> None:
    """ValueError where a size is not one."""
    if value <= 0.0:
        raise ValueError(f"Expected `server_optimizer.{key}` to be above 0, but got {value}; write e.g. 0.01")
