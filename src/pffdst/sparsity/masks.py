"""Pure functions on flat masks [W]: per-layer top-k choices and uniform draws. Counts are exact, ties never matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pffdst.state import Layout

__all__ = ["keep_largest", "largest", "random_positions", "smallest"]


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


def random_positions(layout: Layout, candidates: Tensor, counts: Sequence[int], generator: torch.Generator) -> Tensor:
    """Mask [W] of `counts[l]` uniformly random candidates in each layer."""
    return _per_layer(layout, candidates, counts, lambda at, k: at[torch.randperm(at.numel(), generator=generator)[:k]])
