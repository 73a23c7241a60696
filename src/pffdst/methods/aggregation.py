"""The mean of a cohort's updates, per coordinate over those that hold it, and what the server makes of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, final, get_args

import numpy as np
import torch
from torch import Tensor

from pffdst.core.model import GlobalModel
from pffdst.wire.uplink import Upload

__all__ = ["Aggregation", "MaskedMean", "RunningMean", "ServerMomentum"]

Statistics = Literal["average", "keep_server"]


@final
class RunningMean:
    """w_j = sum_k n_k m_kj w_kj / sum_k n_k m_kj, one update at a time, so that never two are in memory.

    Sums are float64; where no client holds j (or statistics were not sent) the server keeps its own value. Weights of
    clients with one mask, which is nearly always the server's, add up at its True positions and are spread out at once.
    """

    def __init__(self, model: GlobalModel) -> None:
        self._model = model
        self._sums = torch.zeros(model.layout.total, dtype=torch.float64)
        self._support = torch.zeros(model.layout.maskable, dtype=torch.float64)
        self._parameters = self._statistics = 0
        self._mask: Tensor | None = None
        self._held, self._held_samples = torch.empty(0, dtype=torch.float64), 0

    def add(self, upload: Upload) -> None:
        """Takes one update into the mean."""
        layout, n = self._model.layout, upload.report.samples
        if self._mask is not upload.trainable:
            self._spread()
            self._mask, self._held = upload.trainable, torch.zeros(upload.weights.numel(), dtype=torch.float64)
        self._held.add_(upload.weights, alpha=n)
        self._held_samples += n
        self._sums[layout.maskable : layout.parameters] += n * upload.parameters.double()
        self._parameters += n
        if upload.statistics is not None:
            self._sums[layout.parameters :] += n * upload.statistics.double()
            self._statistics += n

    def _spread(self) -> None:
        """Puts what was added under one mask in its places."""
        if self._mask is not None:
            at = torch.from_numpy(np.flatnonzero(self._mask.numpy()))
            self._sums.index_add_(0, at, self._held)
            self._support.index_add_(0, at, self._support.new_full((1,), self._held_samples).expand(at.numel()))
        self._mask, self._held_samples = None, 0

    @property
    def support(self) -> Tensor:
        """float64 [W]: samples of the clients that hold each weight."""
        self._spread()
        return self._support

    @property
    def samples(self) -> int:
        """Samples behind the mean; 0 where no update came."""
        return self._parameters

    def mean(self) -> Tensor:
        """The mean [N] in the model's dtype."""
        model, layout = self._model, self._model.layout
        dense = torch.full((layout.total - layout.maskable,), float(self._parameters), dtype=torch.float64)
        dense[layout.parameters - layout.maskable :] = self._statistics
        weight = torch.cat([self.support, dense])
        mean = (self._sums / weight.clamp_min(1.0)).to(model.values.dtype)
        return torch.where(weight > 0, mean, model.values)


class Aggregation(ABC):
    """What the server makes of the mean. `statistics`: normalisation statistics are averaged and sent, or neither."""

    def __init__(self, statistics: Statistics = "average") -> None:
        if statistics not in get_args(Statistics):
            names = ", ".join(get_args(Statistics))
            raise ValueError(f"Expected `aggregation.statistics` to be one of {names}, but got {statistics!r}")
        self.statistics = statistics

    @abstractmethod
    def step(self, model: GlobalModel, mean: Tensor) -> Tensor:
        """The next values [N] from the model of the round and the mean of its updates."""

    def state_dict(self) -> dict[str, Any]:
        """What the server keeps between rounds beside the model."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The other way round."""
        del state


@final
class MaskedMean(Aggregation):
    """The mean itself: FedAvg and all sparse methods."""

    def step(self, model: GlobalModel, mean: Tensor) -> Tensor:
        """The mean."""
        del model
        return mean


@final
class ServerMomentum(Aggregation):
    """FedAvgM: v = beta v + (mean - w), w + v. Statistics take the mean: a variance must not overshoot below 0.

    Dead and frozen weights have no momentum.
    """

    def __init__(self, statistics: Statistics = "average", beta: float = 0.9) -> None:
        super().__init__(statistics)
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Expected `aggregation.beta` to be in [0, 1), but got {beta}")
        self.beta = beta
        self._velocity: Tensor | None = None

    def step(self, model: GlobalModel, mean: Tensor) -> Tensor:
        """w + v for parameters."""
        parameters = model.layout.parameters
        change = mean[:parameters] - model.values[:parameters]
        velocity = change if self._velocity is None else self.beta * self._velocity + change
        velocity[: model.alive.numel()].masked_fill_(~model.trainable, 0.0)
        self._velocity = velocity
        return torch.cat([model.values[:parameters] + velocity, mean[parameters:]])

    def state_dict(self) -> dict[str, Any]:
        """The velocity v."""
        return {"velocity": self._velocity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The other way round."""
        self._velocity = state["velocity"]
