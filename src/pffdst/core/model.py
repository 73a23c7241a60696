"""The sparse model, the layout of its tensors and the stages of a run.

A model is one flat float32 vector of N values in the layout's order: the W maskable weights first (so masks are flat
bool vectors of length W), then the other parameters, then the floating-point statistics of normalisation layers, then
the parameters that never train. Integer and boolean state is kept outside the vector, as buffers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, final

import numpy as np
import torch
import xxhash
from torch import Tensor

from pffdst.core.positions import Positions
from pffdst.core.seeding import derive_seed

__all__ = ["Buffer", "Entry", "GlobalModel", "Kind", "Layout", "Stage"]

Kind = Literal["maskable", "parameter", "statistic", "constant"]
_KINDS: tuple[Kind, ...] = ("maskable", "parameter", "statistic", "constant")


@final
@dataclass(frozen=True)
class Entry:
    """One tensor of the model: its place in the flat vector and its kind.

    `maskable`: weight of a product, e.g. of a convolution or linear layer; `parameter`: any other parameter that trains
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
    """State that is not real-valued: an integer, boolean or complex tensor of the model. `dtype` is torch's name."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@final
@dataclass(frozen=True)
class Layout:
    """The order of a model's tensors in its flat vector: maskable weights, parameters, statistics, constants.

    `buffers` are kept outside the vector: tensors that are not floating point and can change the model's output.
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

    @cached_property
    def constants(self) -> int:
        """Number of values that never train: the last ones in the flat vector."""
        return sum(e.size for e in self.entries if e.kind == "constant")

    @cached_property
    def rest(self) -> tuple[int, int, int]:
        """Numbers of parameters, statistics and constants in the rest [N - W], in this order."""
        parameters = self.parameters - self.maskable
        return parameters, self.total - self.maskable - parameters - self.constants, self.constants

    def parts_of(self, rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Parameters, statistics and constants of a rest [N - W], as views."""
        parameters, statistics, constants = torch.split(rest, list(self.rest))
        return parameters, statistics, constants

    def span(self, kind: Kind) -> slice:
        """The span of one kind's tensors in the flat vector, which are contiguous; empty if there are none."""
        before = sum(e.size for e in self.entries if _KINDS.index(e.kind) < _KINDS.index(kind))
        return slice(before, before + sum(e.size for e in self.entries if e.kind == kind))

    @property
    def tensors(self) -> tuple[Entry | Buffer, ...]:
        """All tensors of the model: those of the flat vector, then the buffers."""
        return (*self.entries, *self.buffers)

    @property
    def described(self) -> dict[str, str]:
        """Every tensor's kind (a buffer's dtype) and shape in words, in order: `{"fc.weight": "maskable [10, 64]"}`."""
        return {t.name: f"{t.kind if isinstance(t, Entry) else t.dtype} {list(t.shape)}" for t in self.tensors}

    @cached_property
    def digest(self) -> int:
        """32 bits of xxh3 of the names, kinds and shapes of the tensors in the vector."""
        text = ";".join(f"{e.name}:{e.kind}:{','.join(map(str, e.shape))}" for e in self.entries)
        return xxhash.xxh3_64_intdigest(text.encode()) & 0xFFFFFFFF

    def differences(self, before: Mapping[str, str]) -> list[str]:
        """What differs from an earlier `described`, one line per tensor; empty if nothing does."""
        now = self.described
        if now == before and list(now) != list(before):
            return ["the same tensors in another order"]
        lines = {name: (before.get(name, "absent"), now.get(name, "absent")) for name in {**before, **now}}
        return [f"{name}: was {old}, now {new}" for name, (old, new) in lines.items() if old != new]

    def per_layer(self, mask: Tensor) -> list[int]:
        """Number of True positions of a flat [W] mask in each layer."""
        array = mask.numpy()  # counts Trues many times as fast as torch
        return [int(np.count_nonzero(array[e.span])) for e in self.layers]

    def split(self, flat: Tensor) -> Iterator[tuple[Entry, Tensor]]:
        """Each tensor with its part of a flat [N] vector (or [W], for the layers only), as a view in its shape."""
        for entry in self.entries:
            if entry.offset + entry.size <= flat.numel():
                yield entry, flat[entry.span].view(entry.shape)


@final
class GlobalModel:
    """The global sparse model: what is alive (m) and frozen (z, a subset), and the values there. Immutable.

    It stores the `held` values [A] of the A alive weights and the `rest` [N - W], so the cost of the next model grows
    with the alive weights. Everything else is a view, computed once on demand: `values` float [N] with dead weights
    exactly 0, `alive`, `frozen` and `trainable` bool [W]. The tensors must not be written to.
    """

    def __init__(self, layout: Layout, values: Tensor, alive: Tensor, frozen: Tensor) -> None:
        self._set(layout, Positions(layout, bits=alive), Positions(layout, bits=frozen))
        self.__dict__["values"] = values

    @classmethod
    def of(cls, alive_at: Positions, frozen_at: Positions, held: Tensor, rest: Tensor) -> GlobalModel:
        """The model with `held` [A] at the alive positions and `rest` [N - W]."""
        model = cls.__new__(cls)
        model._set(alive_at.layout, alive_at, frozen_at)
        model.__dict__.update(held=held, rest=rest)
        return model

    def _set(self, layout: Layout, alive_at: Positions, frozen_at: Positions) -> None:
        self.layout, self.alive_at, self.frozen_at = layout, alive_at, frozen_at

    @cached_property
    def values(self) -> Tensor:
        """All values [N] in the layout's order."""
        return torch.cat([self.alive_at.spread(self.held), self.rest])

    @cached_property
    def held(self) -> Tensor:
        """The values [A] at the alive positions."""
        return self.alive_at.gather(self.weights)

    @cached_property
    def rest(self) -> Tensor:
        """The values [N - W] that are not maskable: parameters, statistics, constants."""
        return self.values[self.layout.maskable :]

    @property
    def dtype(self) -> torch.dtype:
        """The values' dtype."""
        return (self.held if "held" in self.__dict__ else self.values).dtype

    @property
    def weights(self) -> Tensor:
        """The maskable weights, a view [W] of the values."""
        return self.values[: self.layout.maskable]

    @property
    def alive(self) -> Tensor:
        """m, bool [W]."""
        return self.alive_at.bits

    @property
    def frozen(self) -> Tensor:
        """z, bool [W]."""
        return self.frozen_at.bits

    @property
    def trainable(self) -> Tensor:
        """m & ~z, bool [W]."""
        return self.trainable_at.bits

    @cached_property
    def trainable_at(self) -> Positions:
        """The trainable positions."""
        return self.alive_at.without(self.frozen_at)

    @cached_property
    def trained(self) -> Tensor:
        """The values [T] at the trainable positions."""
        return self.held[self._moving] if len(self.frozen_at) else self.held

    @cached_property
    def _moving(self) -> Tensor:
        """Indices of the trainable values in `held`, int64 [T]."""
        return (~self.alive_at.inside(self.frozen_at)).nonzero().flatten()

    @property
    def sparsity(self) -> float:
        """1 - alive / W over the whole model."""
        return 1.0 - len(self.alive_at) / self.layout.maskable

    def with_held(self, held: Tensor, rest: Tensor) -> GlobalModel:
        """Other values under the same masks."""
        return self._alike(GlobalModel.of(self.alive_at, self.frozen_at, held, rest))

    def with_trained(self, trained: Tensor, rest: Tensor) -> GlobalModel:
        """Other values [T] at the trainable positions and another rest; frozen weights keep theirs."""
        if len(self.frozen_at) == 0:
            return self.with_held(trained, rest)
        model = self.with_held(self.held.index_copy(0, self._moving, trained), rest)
        model.__dict__["trained"] = trained
        return model

    def with_values(self, values: Tensor) -> GlobalModel:
        """The model with other values [N] under the same masks."""
        model = GlobalModel.__new__(GlobalModel)
        model._set(self.layout, self.alive_at, self.frozen_at)
        model.__dict__["values"] = values
        return self._alike(model)

    def _alike(self, model: GlobalModel) -> GlobalModel:
        """Shares what this model has computed about its masks with a model that has the same masks."""
        model.__dict__.update({n: self.__dict__[n] for n in ("trainable_at", "_moving") if n in self.__dict__})
        return model

    def moved(self, alive_at: Positions) -> GlobalModel:
        """The model under another alive mask: dead weights are dropped, new ones are 0."""
        return GlobalModel.of(alive_at, self.frozen_at, self.alive_at.carry(self.held, alive_at), self.rest)

    def freezing(self, frozen_at: Positions) -> GlobalModel:
        """The model with another frozen mask."""
        return GlobalModel.of(self.alive_at, frozen_at, self.held, self.rest)

    def with_masks(self, alive: Tensor, frozen: Tensor | None = None) -> GlobalModel:
        """The model under another alive mask bool [W]: weights that are dead in it become exactly 0."""
        moved = self.moved(Positions(self.layout, bits=alive))
        return moved if frozen is None else moved.freezing(Positions(self.layout, bits=frozen))

    def same_as(self, other: GlobalModel) -> bool:
        """Whether both models are identical in every bit."""
        if self is other:
            return True
        masks = self.alive_at == other.alive_at and self.frozen_at == other.frozen_at
        return masks and torch.equal(self.held, other.held) and torch.equal(self.rest, other.rest)


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

    def first_seed(self, seed: int) -> int:
        """The seed of the stage's first draw in a run of this `seed`."""
        return derive_seed(seed, "grow", self.start)
