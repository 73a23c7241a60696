"""Bounds that the server puts on an update before it joins the round: on values, samples, shares and norms.

A client can send anything: finite values of any size, any number of samples. Bounds are the server's limits on both and
are applied before every aggregation, so that means, buffers and rules see the same update. The norm of an update covers
what is trained: the change of its weights, at the positions that the client holds, and of its parameters. Signals of
rules are only subject to `max_value`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, final

import torch
from torch import Tensor

from pffdst.core.model import GlobalModel
from pffdst.core.signals import Chosen
from pffdst.wire.frame import WireError
from pffdst.wire.uplink import Upload

__all__ = ["MAX_VALUE", "Bounds", "Screen", "largest_weight"]

MAX_VALUE: Final = 1e15
"""Beyond this, squares approach the end of single precision's range; nothing that trains has such values."""


@final
@dataclass(frozen=True)
class Bounds:
    """Limits on an update; None means no bound. ValueError if a bound is out of range.

    `max_value`: an update is left out if it, its signals or its report has a larger magnitude. `max_samples`: no client
    counts for more samples. `max_share`: no client weighs more than this share of its round; with too few clients for
    that, all weigh the same. `max_norm` (S) and `times_median`: an update with a larger 2-norm d is scaled by S / d,
    where S is the first, or the second times the median of the round's norms, or the smaller of the two.

    Bounds that depend on the whole round, `max_share` and `times_median`, hold back its updates until the last one has
    arrived: O(K alive) memory. The others process one update at a time.
    """

    max_value: float | None = MAX_VALUE
    max_samples: int | None = None
    max_share: float | None = None
    max_norm: float | None = None
    times_median: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_value", "max_samples", "max_share", "max_norm", "times_median"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"Expected `aggregation.{name}` to be above 0, or null for no bound, but got {value}")
        if self.max_share is not None and self.max_share > 1:
            raise ValueError(f"Expected `aggregation.max_share` to be a share in (0, 1], but got {self.max_share}")

    @property
    def waits(self) -> bool:
        """Whether updates wait for the round's last one."""
        return self.max_share is not None or self.times_median is not None

    @property
    def clips(self) -> bool:
        """Whether norms are bounded."""
        return self.max_norm is not None or self.times_median is not None

    @property
    def caps(self) -> bool:
        """Whether samples are bounded."""
        return self.max_samples is not None or self.max_share is not None


@final
class Screen:
    """A round's updates on their way to its mean, in order of arrival.

    `clipped` counts those whose norm was clipped, `capped` those whose sample count was capped.
    """

    def __init__(self, bounds: Bounds, sent: GlobalModel) -> None:
        self._bounds, self._sent = bounds, sent
        self._waiting: list[Upload] = []
        self.clipped = self.capped = 0

    def admit(self, upload: Upload) -> list[Upload]:
        """The updates that may proceed now that this one has arrived. WireError if a value is out of bounds."""
        bounds = self._bounds
        if bounds.max_value is not None:
            _check_values(upload, bounds.max_value)
        if bounds.max_samples is not None and upload.report.samples > bounds.max_samples:
            upload = self._weighing(upload, bounds.max_samples)
        if bounds.waits:
            self._waiting.append(upload)
            return []
        return [self._clipped(upload, bounds.max_norm, self._norm(upload))]

    def release(self) -> list[Upload]:
        """The updates that waited, once the last one has arrived."""
        waiting, bounds, self._waiting = self._waiting, self._bounds, []
        if bounds.max_share is not None and waiting:
            most = largest_weight([upload.report.samples for upload in waiting], bounds.max_share)
            waiting = [u if u.report.samples <= most else self._weighing(u, most) for u in waiting]
        norms = [self._norm(upload) for upload in waiting]
        limit = bounds.max_norm
        known = [norm for norm in norms if norm is not None]
        if bounds.times_median is not None and known:
            median = bounds.times_median * statistics.median(known)
            limit = median if limit is None else min(limit, median)
        return [self._clipped(upload, limit, norm) for upload, norm in zip(waiting, norms, strict=True)]

    def _norm(self, upload: Upload) -> float | None:
        """The 2-norm of a client's change to what is trained; None if it is not needed, or no values were sent."""
        if not self._bounds.clips or upload.weights is None or upload.parameters is None:
            return None
        was = self._was(upload)
        pairs = ((upload.weights, was[0]), (upload.parameters, was[1]))
        squares = sum(float((now.double() - before.double()).square().sum()) for now, before in pairs)
        return float(squares**0.5)

    def _was(self, upload: Upload) -> tuple[Tensor, Tensor, Tensor]:
        """The sent weights at a client's positions (0 where it has grown), parameters and statistics."""
        sent = self._sent
        parameters, own_statistics, _ = sent.layout.parts_of(sent.rest)
        return sent.trainable_at.carry(sent.trained, upload.at), parameters, own_statistics

    def _clipped(self, upload: Upload, limit: float | None, norm: float | None) -> Upload:
        """The update unchanged, or scaled down to the limit; its statistics by the same factor."""
        if limit is None or norm is None or norm <= limit:
            return upload
        self.clipped += 1
        now = (upload.weights, upload.parameters, upload.statistics)
        parts = [_nearer(a, b, limit / norm) for a, b in zip(now, self._was(upload), strict=True)]
        return replace(upload, weights=parts[0], parameters=parts[1], statistics=parts[2])

    def _weighing(self, upload: Upload, samples: int) -> Upload:
        self.capped += 1
        return replace(upload, report=replace(upload.report, samples=samples))


def _nearer(now: Tensor | None, was: Tensor, factor: float) -> Tensor | None:
    """was + factor (now - was)."""
    if now is None:
        return None
    return (was.double() + factor * (now.double() - was.double())).to(now.dtype)


def largest_weight(samples: list[int], share: float) -> int:
    """The largest c >= 1 with min(n, c) <= share sum_k min(n_k, c) for every n of the `samples` n_k.

    1 if even equal weights exceed the share.
    """
    low, high = 1, max(1, *samples)
    while low < high:
        middle = (low + high + 1) // 2
        if middle <= share * sum(min(n, middle) for n in samples):
            low = middle
        else:
            high = middle - 1
    return low


def _check_values(upload: Upload, most: float) -> None:
    """WireError naming the part with a magnitude beyond `most`."""
    parts: Mapping[str, Any] = {
        "weights": upload.weights,
        "parameters": upload.parameters,
        "statistics": upload.statistics,
        **upload.signals,
    }
    for name, part in parts.items():
        values = part.values if isinstance(part, Chosen) else part
        if isinstance(values, Tensor) and values.numel() > 0:
            low, high = torch.aminmax(values)
            _check(name, max(-float(low), float(high)), most)
    _check("training loss", abs(upload.report.loss), most)
    _check("training accuracy", abs(upload.report.accuracy), most)


def _check(name: str, value: float, most: float) -> None:
    if not value <= most:
        raise WireError(f"{name}: a value of magnitude {value:.3g} is beyond aggregation.max_value={most:g}")
