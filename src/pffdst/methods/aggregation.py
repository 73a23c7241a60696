"""The mean of a cohort's updates, per coordinate: one update at a time, so that no two are in memory at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final, get_args

import numpy as np
import torch
from torch import Tensor

from pffdst.core.model import GlobalModel
from pffdst.core.positions import Positions
from pffdst.core.state import BufferMean
from pffdst.methods.bounds import MAX_VALUE, Bounds
from pffdst.methods.rule import Absent, Cohort
from pffdst.wire.uplink import Upload

__all__ = ["Aggregation", "Aggregator", "Bounded", "MaskedMean", "Places", "RunningMean", "Statistics"]

Statistics = Literal["average", "keep_server"]
Weights = Literal["samples", "clients"]


class Aggregator(ABC):
    """Collects a round's updates, one by one."""

    @abstractmethod
    def add(self, upload: Upload) -> None:
        """Adds one update."""

    @abstractmethod
    def result(self) -> Cohort | None:
        """The result of the updates; None if there were none."""


class Aggregation(ABC):
    """How updates become one model. `statistics`: those of normalisation layers are averaged and sent, or neither.

    Buffers that are not real numbers, which have their own mean, are sent and averaged if statistics are. An
    aggregation without `discloses` hides individual clients from rules, and their reports from the rows.
    """

    statistics: Statistics
    discloses: ClassVar[bool] = True

    @property
    def bounds(self) -> Bounds:
        """The bounds applied to an update before it joins the others."""
        return Bounds()

    def weight(self, samples: int) -> int:
        """The weight of a client with so many samples in the mean of the buffers."""
        return samples

    def own_seed(self, seed: int) -> int:
        """The seed of the cohorts and of `finish`: the run's `seed`, unless they are to be nobody's to know."""
        return seed

    @abstractmethod
    def begin(self, model: GlobalModel, absent: Absent) -> Aggregator:
        """Starts a round in which `model` was sent; `absent` says how positions that a client lacks are counted."""

    def finish(self, found: Cohort | None, sent: GlobalModel, expected: int, seed: int) -> Cohort | None:
        """The round's result, from what its aggregator `found`; a cohort has `expected` (K) clients.

        `sent` is the model that was sent and `seed` names the round's draw.
        """
        return found

    def figures(self, rounds: int, clients: int, cohort: int) -> Mapping[str, float]:
        """Further figures for a row after so many rounds of K of C clients each; their names start with `privacy/`."""
        return {}

    def buffers(self, model: GlobalModel, sent: tuple[Tensor, ...]) -> BufferMean:
        """Collects the buffers of a round in which `model` and the buffers `sent` were sent."""
        return BufferMean(model.layout, sent)

    def remarks(self, absent: Absent) -> list[str]:
        """What a user should know about it, even if it can be run; `absent` as for `begin`."""
        return []


@dataclass(frozen=True, kw_only=True)
class Bounded(Aggregation, ABC):
    """An aggregation whose bounds on updates can be set; `Bounds` says what each is."""

    max_value: float | None = MAX_VALUE
    max_samples: int | None = None
    max_share: float | None = None
    max_norm: float | None = None
    times_median: float | None = None

    def __post_init__(self) -> None:
        _ = self.bounds  # raises ValueError if one is out of range
        if self.statistics not in get_args(Statistics):
            names = ", ".join(get_args(Statistics))
            raise ValueError(f"Expected `aggregation.statistics` to be one of {names}, but got {self.statistics!r}")

    @property
    def bounds(self) -> Bounds:
        """The bounds that are set."""
        return Bounds(self.max_value, self.max_samples, self.max_share, self.max_norm, self.times_median)


@final
@dataclass(frozen=True)
class MaskedMean(Bounded):
    """The weighted mean: FedAvg and all sparse methods. Clients are weighted by their `samples`, or equally."""

    statistics: Statistics = "average"
    weights: Weights = "samples"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights not in get_args(Weights):
            names = ", ".join(get_args(Weights))
            raise ValueError(f"Expected `aggregation.weights` to be one of {names}, but got {self.weights!r}")

    def weight(self, samples: int) -> int:
        """The same as in the mean of the weights."""
        return samples if self.weights == "samples" else 1

    def begin(self, model: GlobalModel, absent: Absent) -> Aggregator:
        """An empty mean."""
        return RunningMean(model, absent, self.weights)


@final
class RunningMean(Aggregator):
    """w_j = sum_k n_k m_kj w_kj / sum_k n_k m_kj.

    Sums are float64, kept at the positions that some client holds. Weights of clients with the same mask, nearly always
    the server's, are summed before they are scattered to their positions. If no client holds j (or statistics were not
    sent) the server keeps its own value.
    """

    def __init__(self, model: GlobalModel, absent: Absent = "left_out", weights: Weights = "samples") -> None:
        self._model, self._absent, self._weights = model, absent, weights
        self._rest = torch.zeros(len(model.rest), dtype=torch.float64)
        self._total, self._statistics, self._clients, self._samples = 0, 0, 0, 0
        self._at: Positions | None = None
        self._held, self._held_weight = torch.empty(0, dtype=torch.float64), 0
        self._places = Places(model.layout.maskable)

    def add(self, upload: Upload) -> None:
        """Adds one update to the mean."""
        layout, n = self._model.layout, upload.report.samples if self._weights == "samples" else 1
        self._clients += 1
        self._samples += upload.report.samples
        if upload.weights is None or upload.parameters is None:
            return
        if self._at is not upload.at:
            self._spread()
            self._at, self._held = upload.at, torch.zeros(len(upload.weights), dtype=torch.float64)
        self._held.add_(upload.weights, alpha=n)
        self._held_weight += n
        parameters, statistics, _ = layout.parts_of(self._rest)
        parameters += n * upload.parameters.double()
        self._total += n
        if upload.statistics is not None:
            statistics += n * upload.statistics.double()
            self._statistics += n

    def _spread(self) -> None:
        """Scatters what was added under one mask to its positions."""
        if self._at is not None:
            self._places.add(self._at, self._held, self._held_weight)
        self._at, self._held_weight = None, 0

    def result(self) -> Cohort | None:
        """The mean as a model over the union of the positions that were sent and those that clients hold."""
        if self._clients == 0:
            return None
        self._spread()
        model = self._model
        mean, support = model, torch.zeros(len(model.alive_at), dtype=torch.float64)
        if self._total > 0:
            at, sums, held_by = self._places.sums()
            alive = model.alive_at if at == model.trainable_at else model.alive_at.plus(at)
            support = at.carry(held_by, alive)
            values = self._values(model.alive_at.carry(model.held, alive), at.carry(sums, alive), support)
            if len(model.frozen_at):
                values = torch.where(alive.inside(model.frozen_at), model.alive_at.carry(model.held, alive), values)
            mean = GlobalModel.of(alive, model.frozen_at, values, self._mean_rest())
        return Cohort(mean, support, self._samples, self._clients, model, total=self._total)

    def _values(self, own: Tensor, sums: Tensor, support: Tensor) -> Tensor:
        """The mean at each position, from what the server sent, the sums and the total weight of its holders."""
        if self._absent == "zero":
            return (sums / self._total).to(own.dtype)
        if self._absent == "unchanged":
            return ((sums + (self._total - support) * own.double()) / self._total).to(own.dtype)
        mean = (sums / support.clamp_min(1.0)).to(own.dtype)
        return torch.where(support > 0, mean, own)

    def _mean_rest(self) -> Tensor:
        """The mean of what is not maskable; constants, and statistics that were not sent, stay."""
        model = self._model
        parameters, statistics, _ = model.layout.parts_of(self._rest)
        _, own, constants = model.layout.parts_of(model.rest)
        mean = own if self._statistics == 0 else (statistics / self._statistics).to(model.dtype)
        return torch.cat([(parameters / max(self._total, 1)).to(model.dtype), mean, constants])


@final
class Places:
    """Sums at positions that become known as updates arrive: memory is O(positions held), whatever W is."""

    def __init__(self, maskable: int) -> None:
        self._maskable = maskable
        self._first: Positions | None = None
        self._slots: np.ndarray | None = None
        self._index = np.empty(0, np.int64)
        self._sums, self._support = np.empty(0), np.empty(0)

    def add(self, at: Positions, sums: Tensor, weight: int) -> None:
        """Adds `sums` [k] at the positions `at`, held by clients with this total weight."""
        if self._first is None:
            self._first, self._sums, self._support = at, sums.numpy(), np.full(len(at), float(weight))
            return
        if self._first is at and self._slots is None:
            self._sums += sums.numpy()
            self._support += weight
            return
        if self._slots is None:
            self._index = self._first.index.numpy()
            self._slots = np.full(self._maskable, -1, np.int32)
            self._slots[self._index] = np.arange(len(self._index), dtype=np.int32)
        places = at.index.numpy()
        slots = self._slots[places]
        new = places[slots < 0]
        if len(new):
            self._slots[new] = np.arange(len(self._index), len(self._index) + len(new), dtype=np.int32)
            self._index = np.concatenate([self._index, new])
            grown = np.zeros(len(new))
            self._sums, self._support = np.concatenate([self._sums, grown]), np.concatenate([self._support, grown])
            slots = self._slots[places]
        self._sums[slots] += sums.numpy()
        self._support[slots] += weight

    def sums(self) -> tuple[Positions, Tensor, Tensor]:
        """The positions held by any client, the sums there, and the total weight of each position's holders."""
        assert self._first is not None
        if self._slots is None:
            return self._first, torch.from_numpy(self._sums), torch.from_numpy(self._support)
        order = np.argsort(self._index)
        at = Positions(self._first.layout, index=torch.from_numpy(self._index[order]))
        return at, torch.from_numpy(self._sums[order]), torch.from_numpy(self._support[order])
