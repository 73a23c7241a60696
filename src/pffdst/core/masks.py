"""Selection of positions: per-layer top-k by partial selection, uniform draws, moves of a mask.

Counts are exact and ties have a fixed order: nothing depends on how a library sorts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pffdst.core.model import GlobalModel
from pffdst.core.positions import Positions

__all__ = ["Move", "draw", "first", "greatest_overall", "largest", "largest_dead", "room_left", "smallest"]

_WHOLE = (1 << 64) - 1
_STRIDE = 64  # of the sample that bounds where the largest of very many values are

Array = NDArray[Any]


# ---- one layer -----------------------------------------------------------------------------------------------------


def first(key: Array, count: int, support: Array | None = None) -> NDArray[np.int64]:
    """Indices of the `count` smallest of `key` [n], increasing; ties go to more `support` [n], then the lower index.

    NaN comes last. Partial selection: O(n) for any count.
    """
    if count >= len(key):
        return np.arange(len(key))
    if count == 0:
        return np.empty(0, np.int64)
    edge = np.partition(key, count - 1)[count - 1]
    if np.isnan(edge):  # numpy sorts NaN last, but no comparison finds it
        key, edge = np.nan_to_num(key, nan=np.inf), np.inf
    inside = np.flatnonzero(key < edge)
    ties = np.flatnonzero(key == edge)
    missing = count - len(inside)
    if support is not None and missing < len(ties):
        ties = ties[np.argsort(-support[ties], kind="stable")]
    return np.sort(np.concatenate([inside, ties[:missing]]))


def _greatest_of_many(key: Array, count: int) -> NDArray[np.int64]:
    """As `first` of -key, for few of very many: a sample gives the threshold to search above."""
    sampled = key[::_STRIDE]
    expected = count * 3 // (2 * _STRIDE) + 16
    if expected < len(sampled):
        edge = np.partition(sampled, len(sampled) - expected)[len(sampled) - expected]
        few = np.flatnonzero(key >= edge)
        if count <= len(few) < len(key) // 2:
            return few[first(-key[few], count)]
    return first(-key, count)


# ---- all layers ----------------------------------------------------------------------------------------------------


def smallest(among: Positions, score: Tensor, counts: Sequence[int]) -> Positions:
    """The `counts[l]` positions of smallest |score| in each layer; `score` [k] belongs to the positions `among`.

    Ties go to the lower index. ValueError if a layer has fewer positions than requested.
    """
    return _select(among, score.abs().numpy(), counts)


def largest(among: Positions, score: Tensor, counts: Sequence[int], support: Tensor | None = None) -> Positions:
    """As `smallest`, but the largest |score|; exact ties go to more `support` [k], then the lower index.

    NaN is greater than any number.
    """
    key = np.nan_to_num(-score.abs().numpy(), copy=False, nan=-np.inf)
    return _select(among, key, counts, None if support is None else support.numpy())


def greatest_overall(among: Positions, score: Tensor, count: int, least: int = 0) -> Positions:
    """The `count` positions of largest `score` [k] in all layers together; ties go to the lower index.

    Every layer gets at least `least` of them, if it has that many candidates and `count` allows it. ValueError if
    there are fewer than `count` positions.
    """
    if count > len(among):
        raise ValueError(f"Expected at least {count} candidates, but got {len(among)}")
    key, places = -score.numpy(), among.index.numpy()
    kept = [span.start + first(key[span], min(least, span.stop - span.start)) for span in among.spans()]
    own = np.concatenate(kept) if kept else np.empty(0, np.int64)
    if len(own) >= count:
        return Positions(among.layout, index=torch.from_numpy(places[own[first(key[own], count)]]))
    others = np.ones(len(key), np.bool_)
    others[own] = False
    rest = np.flatnonzero(others)
    chosen = np.sort(np.concatenate([own, rest[first(key[rest], count - len(own))]]))
    return Positions(among.layout, index=torch.from_numpy(places[chosen]))


def _select(among: Positions, key: Array, counts: Sequence[int], support: Array | None = None) -> Positions:
    places, found = among.index.numpy(), []
    for entry, span, count in zip(among.layout.layers, among.spans(), counts, strict=True):
        _check(entry.name, span.stop - span.start, count)
        own = None if support is None else support[span]
        found.append(places[span][first(key[span], count, own)])
    return Positions(among.layout, index=torch.from_numpy(np.concatenate(found)))


def largest_dead(gradient: Tensor, alive: Positions, counts: Sequence[int]) -> Positions:
    """The `counts[l]` positions of largest |gradient| outside `alive` in each layer; ties go to the lower index.

    `gradient` is flat [W] on any device: only the chosen positions leave it. ValueError as for `smallest`.
    """
    layout, found = alive.layout, []
    for entry, size, count in zip(layout.layers, alive.counts, counts, strict=True):
        _check(entry.name, entry.size - size, count)
    for entry, span, count in zip(layout.layers, alive.spans(), counts, strict=True):
        if count > 0:
            own = alive.index[span] - entry.offset
            found.append(_largest_outside(gradient[entry.span], own, count) + entry.offset)
    return Positions(layout, index=torch.cat(found) if found else torch.empty(0, dtype=torch.int64))


def _largest_outside(gradient: Tensor, own: Tensor, count: int) -> Tensor:
    """The `count` positions of largest magnitude in one layer's gradient that are not among its `own`, increasing."""
    magnitude = gradient.abs()
    if magnitude.device.type == "cpu":
        key = magnitude.numpy()
        key[own.numpy()] = -1.0
        if np.isnan(key.max()):
            key = np.nan_to_num(key, nan=np.inf)
        return torch.from_numpy(_greatest_of_many(key, count))
    magnitude = magnitude.nan_to_num_(nan=torch.inf).index_fill_(0, own.to(magnitude.device), -1.0)
    order = magnitude.sort(descending=True, stable=True).indices  # a top-k on a device breaks ties as it likes
    return order[:count].sort().values.cpu()


def draw(taken: Positions, counts: Sequence[int], seed: int) -> Positions:
    """`counts[l]` uniformly random positions outside `taken` in each layer: those with the smallest keys.

    The key of position j is splitmix64's output number j from `seed`: the same on every machine, in every language, and
    never the same for two positions. ValueError if a layer has too few free positions.
    """
    found = []
    for entry, size, count in zip(taken.layout.layers, taken.counts, counts, strict=True):
        _check(entry.name, entry.size - size, count)
        if count > 0:
            blocked = taken.bits[entry.span].numpy()
            found.append(_least_keys(seed, entry.offset, blocked, entry.size - size, count) + entry.offset)
    index = np.concatenate(found) if found else np.empty(0, np.int64)
    return Positions(taken.layout, index=torch.from_numpy(index))


def _least_keys(seed: int, offset: int, blocked: Array, free: int, count: int) -> NDArray[np.int64]:
    """The `count` positions with the smallest keys in a layer, out of the `free` ones not `blocked` [n]; increasing."""
    if count == free:
        return np.flatnonzero(~blocked)
    keys = splitmix64(seed, np.arange(offset, offset + len(blocked)))
    few = np.flatnonzero(keys < np.uint64(min(_WHOLE, round(_WHOLE * count / free * 1.1) + (1 << 57))))
    few = few[~blocked[few]]
    if len(few) < count:  # an unlikely draw
        few = np.flatnonzero(~blocked)
    return np.sort(few[np.argpartition(keys[few], count - 1)[:count]])


def splitmix64(seed: int, number: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Output `number` (from 0) of the generator that starts at `seed` (Steele, Lea and Flood 2014)."""
    z = (number.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    return z ^ (z >> np.uint64(31))


def _check(name: str, there: int, count: int) -> None:
    if count > there:
        raise ValueError(f"Expected at least {count} candidates in layer {name}, but got {there}")


# ---- moves ---------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Move:
    """How a trainable mask changes: `dropped` leave it, then `counts[l]` random free positions per layer join it.

    Without `dropped`, everything leaves: the mask is drawn anew. Positions are free if neither frozen nor kept, so
    dropped ones may return. `seed` names the draw: a client that knows the frozen weights and, unless the mask is drawn
    anew, the previous mask, needs only `dropped`, the counts and the seed.
    """

    dropped: Positions | None
    counts: tuple[int, ...]
    seed: int

    def on(self, model: GlobalModel) -> GlobalModel:
        """The model after the move. Weights that leave become 0, even if they join again."""
        trainable = self.apply(model.trainable_at, model.frozen_at)
        if self.dropped is not None:
            model = model.moved(model.alive_at.without(self.dropped))
        return model.moved(model.frozen_at.plus(trainable))

    def apply(self, trainable: Positions, frozen: Positions) -> Positions:
        """The trainable mask after the move. ValueError if a layer has too few free positions."""
        kept = Positions.none(trainable.layout) if self.dropped is None else trainable.without(self.dropped)
        if not any(self.counts):
            return kept
        return kept.plus(draw(kept.plus(frozen), self.counts, self.seed))


def room_left(model: GlobalModel) -> list[int]:
    """Weights per layer that are not frozen: the room for a trainable set."""
    return [e.size - z for e, z in zip(model.layout.layers, model.frozen_at.counts, strict=True)]
