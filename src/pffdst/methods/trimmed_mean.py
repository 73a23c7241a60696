"""The mean of a cohort's updates without the extremes, per coordinate: robust to a few clients with any values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from pffdst.core.model import GlobalModel
from pffdst.core.positions import Positions
from pffdst.core.state import BufferMean
from pffdst.methods.aggregation import Aggregator, Bounded, Statistics
from pffdst.methods.rule import Absent, Cohort
from pffdst.wire.uplink import Upload

__all__ = ["TrimmedMean", "cut", "trimmed"]

_BLOCK = 1 << 16  # coordinates sorted at a time


def cut(trim: float, count: int) -> int:
    """How many of `count` values are removed at each end: ceil(trim count), but never the last one or two.

    Rounded up, so that with any trim above 0 a single client's extreme never enters the mean of three or more.
    """
    return min(math.ceil(trim * count - 1e-9), (count - 1) // 2) if count else 0


def trimmed(values: Tensor, trim: float) -> tuple[Tensor, Tensor]:
    """The trimmed means float64 [A] of `values` [n, A], and how many values there are at each position, int64 [A].

    NaN marks a client that does not hold a position; the mean is 0 where nobody does.
    """
    means, counts = torch.zeros(values.shape[1], dtype=torch.float64), torch.zeros(values.shape[1], dtype=torch.int64)
    for at in range(0, values.shape[1], _BLOCK):
        part = np.sort(values[:, at : at + _BLOCK].double().numpy(), axis=0)  # NaN comes last
        held = np.count_nonzero(~np.isnan(part), axis=0)
        for count in np.unique(held):
            places, k = (held == count).nonzero()[0], cut(trim, int(count))
            if count:
                means[at + torch.from_numpy(places)] = torch.from_numpy(part[k : count - k, places].mean(axis=0))
        counts[at : at + _BLOCK] = torch.from_numpy(held)
    return means, counts


@final
@dataclass(frozen=True)
class TrimmedMean(Bounded):
    """The unweighted mean over the clients that hold a weight, without the largest and smallest `trim` of its values.

    Rules that count clients without a weight, as 0 or as unchanged, count them here too.
    0 <= trim <= 1/2. 0 trims nothing, 1/2 leaves the middle value or the mean of the middle two: the coordinate-wise
    median (Yin et al., 2018, Definitions 1 and 2). Samples are not used as weights, since a client can report any
    number. If only one or two clients hold a weight, nothing can be trimmed. Sorting needs all values at once: a round
    keeps its updates, O(K alive) memory.
    """

    trim: float = 0.1
    statistics: Statistics = "average"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.trim <= 0.5:
            raise ValueError(f"Expected `aggregation.trim` to be in 0 .. 0.5 at each end, but got {self.trim}")

    def weight(self, samples: int) -> int:
        """All clients weigh the same."""
        return 1

    def begin(self, model: GlobalModel, absent: Absent) -> Aggregator:
        """An empty round."""
        return _Gathered(model, absent, self.trim)

    def remarks(self, absent: Absent) -> list[str]:
        """What few clients send is trimmed if the others count."""
        if absent == "left_out" or self.trim == 0:
            return []
        said = "0" if absent == "zero" else "no change"
        return [
            f"aggregation.trim={self.trim:g} also trims what at most that share of a cohort sends, since this method "
            f"counts {said} for a client that does not send a weight: it may learn little"
        ]

    def buffers(self, model: GlobalModel, sent: tuple[Tensor, ...]) -> BufferMean:
        """Buffers use the trimmed mean of their changes, too."""
        return BufferMean(model.layout, sent, middle=lambda changes: trimmed(changes, self.trim)[0])


@final
class _Gathered(Aggregator):
    """A round's updates, kept until its end."""

    def __init__(self, model: GlobalModel, absent: Absent, trim: float) -> None:
        self._model, self._absent, self._trim = model, absent, trim
        self._uploads: list[Upload] = []
        self._clients, self._samples = 0, 0

    def add(self, upload: Upload) -> None:
        """Keeps one."""
        self._clients += 1
        self._samples += upload.report.samples
        if upload.weights is not None and upload.parameters is not None:
            self._uploads.append(upload)

    def result(self) -> Cohort | None:
        """The trimmed mean over the union of the positions that were sent and those that clients hold."""
        if self._clients == 0:
            return None
        model = self._model
        if not self._uploads:
            return Cohort(
                model, torch.zeros(len(model.alive_at), dtype=torch.float64), self._samples, self._clients, model
            )
        alive = self._union()
        own = model.alive_at.carry(model.held, alive)
        means, counts = trimmed(self._columns(alive, own), self._trim)
        support = self._support(alive, counts)
        values = torch.where(counts > 0, means.to(own.dtype), own)
        if len(model.frozen_at):
            still = alive.inside(model.frozen_at)
            values, support = torch.where(still, own, values), support.masked_fill(still, 0.0)
        mean = GlobalModel.of(alive, model.frozen_at, values, self._rest())
        return Cohort(mean, support, self._samples, self._clients, model, total=len(self._uploads))

    def _union(self) -> Positions:
        alive = self._model.alive_at
        for at in {id(u.at): u.at for u in self._uploads}.values():
            alive = alive if at == self._model.trainable_at else alive.plus(at)
        return alive

    def _columns(self, alive: Positions, own: Tensor) -> Tensor:
        """The clients' values [n, A] at the alive positions, with the value that counts where a client lacks one."""
        missing = {"left_out": torch.full_like(own, torch.nan), "zero": torch.zeros_like(own), "unchanged": own}
        rows = []
        for upload in self._uploads:
            assert upload.weights is not None
            held = alive.inside(upload.at)
            rows.append(torch.where(held, upload.at.carry(upload.weights, alive), missing[self._absent]))
        return torch.stack(rows)

    def _support(self, alive: Positions, counts: Tensor) -> Tensor:
        """How many clients hold each alive position."""
        if self._absent == "left_out":
            return counts.double()
        return torch.stack([alive.inside(upload.at) for upload in self._uploads]).sum(0).double()

    def _rest(self) -> Tensor:
        """The trimmed mean of what is not maskable; constants, and statistics that were not sent, stay."""
        model, uploads = self._model, self._uploads
        parameters, statistics, constants = model.layout.parts_of(model.rest)
        sent = [u.statistics for u in uploads if u.statistics is not None]
        means = trimmed(torch.stack([u.parameters for u in uploads if u.parameters is not None]), self._trim)[0]
        statistics = trimmed(torch.stack(sent), self._trim)[0].to(model.dtype) if sent else statistics
        return torch.cat([means.to(parameters.dtype), statistics, constants])
