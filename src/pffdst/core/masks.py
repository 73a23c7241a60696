"""Pure functions on flat masks [W]: per-layer top-k choices and uniform draws. Counts are exact, ties never matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pffdst.core.model import GlobalModel, Layout

__all__ = ["Move", "keep_largest", "largest", "random_positions", "smallest"]


_WHOLE = (1 << 64) - 1

Choose = Callable[[Tensor, int], Tensor]


def _per_layer(layout: Layout, candidates: Tensor, counts: Sequence[int], choose: Choose) -> Tensor:
    """A mask [W] of `counts[l]` positions per layer; `choose` picks among a layer's candidate positions [n] (flat)."""
    chosen = torch.zeros_like(candidates)
    for entry, count in zip(layout.layers, counts, strict=True):
        if count == 0:
            continue
        positions = candidates[entry.span].nonzero().flatten() + entry.offset
        if count > positions.numel():
            raise ValueError(f"Expected at least {count} candidates in layer {entry.name}, but got {positions.numel()}")
        chosen[choose(positions, count)] = True
    return chosen


def smallest(layout: Layout, score: Tensor, candidates: Tensor, counts: Sequence[int]) -> Tensor:
    """Mask [W] of the `counts[l]` candidates of least |score| in each layer; among equals the lower index."""
    magnitude = score.abs()
    return _per_layer(layout, candidates, counts, lambda at, k: at[magnitude[at].argsort(stable=True)[:k]])


def largest(layout: Layout, score: Tensor, candidates: Tensor, counts: Sequence[int]) -> Tensor:
    """Mask [W] of the `counts[l]` candidates of greatest |score| in each layer; among equals the lower index."""
    return keep_largest(layout, score, torch.zeros_like(score), candidates, counts)


def keep_largest(layout: Layout, score: Tensor, support: Tensor, candidates: Tensor, counts: Sequence[int]) -> Tensor:
    """As `largest`, but among exact ties of |score| the position with more `support` [W] wins, then the lower index."""
    magnitude = score.abs()

    def choose(at: Tensor, k: int) -> Tensor:
        at = at[support[at].argsort(stable=True, descending=True)]
        return at[magnitude[at].argsort(stable=True, descending=True)[:k]]

    return _per_layer(layout, candidates, counts, choose)


def random_positions(layout: Layout, candidates: Tensor, counts: Sequence[int], seed: int) -> Tensor:
    """Mask [W] of `counts[l]` uniformly random candidates in each layer: those of least key.

    The key of position j is splitmix64's output number j from `seed`: the same on every machine, in every language, and
    never the same for two positions.
    """

    def choose(at: Tensor, k: int) -> Tensor:
        keys = _splitmix64(seed, at.numpy())
        if k == len(keys):
            return at
        few = np.flatnonzero(keys < np.uint64(min(_WHOLE, round(_WHOLE * k / len(keys) * 1.1) + (1 << 57))))
        if len(few) < k:  # an unlikely draw
            few = np.arange(len(keys))
        return at[torch.from_numpy(few[np.argpartition(keys[few], k - 1)[:k]])]

    return _per_layer(layout, candidates, counts, choose)


def _splitmix64(seed: int, number: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Output `number` (from 0) of the generator that starts at `seed` (Steele, Lea and Flood 2014)."""
    z = (number.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    return z ^ (z >> np.uint64(31))


@final
@dataclass(frozen=True)
class Move:
    """How a trainable mask changes: `dropped` [W] leave it, then `counts[l]` random free positions per layer join it.

    Without `dropped` everything leaves: the mask is drawn afresh. Free is what is neither frozen nor kept, so what was
    dropped may come back. `seed` names the draw: who knows the frozen weights and, unless it is drawn afresh, the mask
    before needs only `dropped`, the counts and the seed.
    """

    dropped: Tensor | None
    counts: tuple[int, ...]
    seed: int

    def on(self, model: GlobalModel) -> GlobalModel:
        """The model after the move. What leaves becomes 0, also where it joins again."""
        trainable = self.apply(model.layout, model.trainable, model.frozen)
        if self.dropped is not None:
            model = model.with_masks(model.alive & ~self.dropped)
        return model.with_masks(model.frozen | trainable)

    def apply(self, layout: Layout, trainable: Tensor, frozen: Tensor) -> Tensor:
        """The trainable mask [W] after the move. ValueError if a layer has too few free positions."""
        kept = torch.zeros_like(trainable) if self.dropped is None else trainable & ~self.dropped
        if not any(self.counts):
            return kept
        return kept | random_positions(layout, ~(kept | frozen), self.counts, self.seed)
