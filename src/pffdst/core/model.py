"""The sparse model, the layout of its tensors and the stages of a run.

A model is one flat float32 vector of N values in the layout's order: the W maskable weights first (so masks are flat
bool vectors of length W), then the other parameters, then the floating-point statistics of normalisation layers, then
the parameters that never train. Integer and boolean state lies beside the vector, as buffers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

__all__ = ["Buffer", "Entry", "GlobalModel", "Kind", "Layout", "Stage"]

Kind = Literal["maskable", "parameter", "statistic", "constant"]
_KINDS: tuple[Kind, ...] = ("maskable", "parameter", "statistic", "constant")


@final
@dataclass(frozen=True)
class Entry:
    """One tensor of the model: where it lies in the flat vector and what it is.

    `maskable`: weight of a product, of a convolution or linear layer say; `parameter`: any other parameter that trains
    (bias, normalisation, embedding, position); `statistic`: running mean or variance; `constant`: a parameter that
    never trains (requires_grad=False). `fan_in`, `fan_out` and `kernel` describe a maskable weight (allocation needs
    them); `normalisation` tells a normalisation layer's tensors from the biases of conv and linear layers.
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    kind: Kind
    normalisation: bool = False

    @property
    def size(self) -> int:
        """Number of values."""
        return int(torch.Size(self.shape).numel())

    @property
    def span(self) -> slice:
        """The tensor's place in the flat vector."""
        return slice(self.offset, self.offset + self.size)

    @property
    def fan_in(self) -> int:
        """Input channels or features (n_in of ERK) of a maskable weight."""
        return self.shape[1]

    @property
    def fan_out(self) -> int:
        """Output channels or features (n_out of ERK) of a maskable weight."""
        return self.shape[0]

    @property
    def kernel(self) -> tuple[int, ...]:
        """Spatial kernel of a convolution; empty for a linear layer."""
        return self.shape[2:]


@final
@dataclass(frozen=True)
class Buffer:
    """State that is no real number: an integer, boolean or complex tensor of the model. `dtype` is torch's name."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@final
@dataclass(frozen=True)
class Layout:
    """The order of a model's tensors in its flat vector: maskable weights, parameters, statistics, constants.

    `buffers` lie beside the vector: tensors that are not floating point and can change what the model does.
    """

    entries: tuple[Entry, ...]
    buffers: tuple[Buffer, ...] = ()

    @cached_property
    def layers(self) -> tuple[Entry, ...]:
        """The maskable weights, one per layer l."""
        return tuple(e for e in self.entries if e.kind == "maskable")

    @cached_property
    def maskable(self) -> int:
        """W, the number of maskable weights."""
        return sum(e.size for e in self.layers)

    @cached_property
    def parameters(self) -> int:
        """Number of trainable values: maskable weights and dense parameters; statistics and constants excluded."""
        return sum(e.size for e in self.entries if e.kind in ("maskable", "parameter"))

    @cached_property
    def total(self) -> int:
        """N, the length of the flat vector."""
        return sum(e.size for e in self.entries)

    def span(self, kind: Kind) -> slice:
        """Where the tensors of one kind lie in the flat vector, back to back; empty where there are none."""
        before = sum(e.size for e in self.entries if _KINDS.index(e.kind) < _KINDS.index(kind))
        return slice(before, before + sum(e.size for e in self.entries if e.kind == kind))

    @property
    def tensors(self) -> tuple[Entry | Buffer, ...]:
        """All that the model holds: the flat vector's tensors, then the buffers."""
        return (*self.entries, *self.buffers)

    def differences(self, other: Layout) -> list[str]:
        """What `other` has otherwise, a line for each tensor: `fc.weight: maskable [64, 16], now maskable [32, 16]`."""
        here, there = ({t.name: _what(t) for t in one.tensors} for one in (self, other))
        if here == there and list(here) != list(there):
            return ["the same tensors in another order"]
        names = [*here, *(name for name in there if name not in here)]
        lines = {name: (here.get(name, "absent"), there.get(name, "absent")) for name in names}
        return [f"{name}: {before}, now {now}" for name, (before, now) in lines.items() if before != now]

    def per_layer(self, mask: Tensor) -> list[int]:
        """Number of True positions of a flat [W] mask in each layer."""
        array = mask.numpy()  # which counts Trues many times as fast as torch does
        return [int(np.count_nonzero(array[e.span])) for e in self.layers]

    def split(self, flat: Tensor) -> Iterator[tuple[Entry, Tensor]]:
        """Each tensor with its part of a flat [N] (or, for the layers alone, [W]) vector, as a view in its shape."""
        for entry in self.entries:
            if entry.offset + entry.size <= flat.numel():
                yield entry, flat[entry.span].view(entry.shape)


def _what(tensor: Entry | Buffer) -> str:
    """A tensor's kind and shape in words."""
    return f"{tensor.kind if isinstance(tensor, Entry) else tensor.dtype} {list(tensor.shape)}"


@final
@dataclass(frozen=True)
class GlobalModel:
    """The one sparse model: `values` float32 [N], `alive` bool [W] (m), `frozen` bool [W] (z, a subset of alive).

    Dead maskable weights are exactly 0 in `values`. Nobody writes into the tensors: a change makes a new model.
    """

    layout: Layout
    values: Tensor
    alive: Tensor
    frozen: Tensor

    @property
    def weights(self) -> Tensor:
        """The maskable weights, a view [W] of the values."""
        return self.values[: self.alive.numel()]

    @cached_property
    def trainable(self) -> Tensor:
        """m & ~z, bool [W]."""
        return self.alive & ~self.frozen

    @cached_property
    def places(self) -> Tensor:
        """The trainable positions, int64, increasing."""
        return torch.from_numpy(np.flatnonzero(self.trainable.numpy()))

    @property
    def sparsity(self) -> float:
        """1 - alive / W over the whole model."""
        return 1.0 - int(self.alive.sum()) / self.alive.numel()

    def with_masks(self, alive: Tensor, frozen: Tensor | None = None) -> GlobalModel:
        """The model under another alive mask: weights that are dead in it become exactly 0."""
        values = self.values.clone()
        values[: alive.numel()].masked_fill_(~alive, 0.0)
        return replace(self, values=values, alive=alive, frozen=self.frozen if frozen is None else frozen)

    def with_values(self, values: Tensor) -> GlobalModel:
        """The model with other values [N] under the same masks."""
        model = replace(self, values=values)
        model.__dict__.update({name: self.__dict__[name] for name in ("trainable", "places") if name in self.__dict__})
        return model


@final
@dataclass(frozen=True)
class Stage:
    """A span of rounds [start, stop) with one trainable density; `counts` are its trainable weights per layer."""

    index: int
    start: int
    stop: int
    counts: tuple[int, ...]

    @property
    def length(self) -> int:
        """L, in rounds."""
        return self.stop - self.start
