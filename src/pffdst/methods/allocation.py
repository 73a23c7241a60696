"""How the alive weights are divided among the layers: one exact integer per layer, decided once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from pffdst.core.model import Entry, Layout

__all__ = ["Allocation", "Dense", "Erk", "ErkFedDst", "Uniform", "divided", "filled", "integer_counts"]


def integer_counts(densities: list[float], sizes: list[int], total: int) -> tuple[int, ...]:
    """Rounds `densities` x `sizes` to integers that sum to `total` exactly, each at least 1 and at most its size.

    Counts start from `round`; any shortfall or excess is then spread over the layers whose rounding was furthest off,
    one weight at a time.
    """
    wanted = [d * s for d, s in zip(densities, sizes, strict=True)]
    counts = [min(s, max(1, round(w))) for w, s in zip(wanted, sizes, strict=True)]
    while (missing := total - sum(counts)) != 0:
        step = 1 if missing > 0 else -1
        movable = [i for i, (c, s) in enumerate(zip(counts, sizes, strict=True)) if 1 <= c + step <= s]
        if not movable:
            break  # fewer weights asked for than there are layers: every layer keeps one
        movable.sort(key=lambda i: (step * (counts[i] - wanted[i]), i))
        for i in movable[: abs(missing)]:
            counts[i] += step
    return tuple(counts)


def filled(wanted: Sequence[float], room: Sequence[int], total: int) -> list[float]:
    """`total` in proportion to `wanted`, at most `room` each: any excess goes to the others, again in proportion.

    Layers for which nothing is wanted are filled last, by their room. ValueError if there is too little room.
    """
    if total > sum(room):
        raise ValueError(f"Expected at most {sum(room)} weights to divide, but got {total}")
    shares, left, open_ = [0.0] * len(room), float(total), set(range(len(room)))
    while open_ and left > 0:
        weight = sum(wanted[i] for i in open_)
        by, of = (wanted, weight) if weight > 0 else (room, sum(room[i] for i in open_))
        over = {i for i in open_ if by[i] * left >= room[i] * of}
        for i in over or open_:
            shares[i] = float(room[i]) if over else by[i] * left / of
        if not over:
            break
        left -= sum(room[i] for i in over)
        open_ -= over
    return shares


def divided(wanted: Sequence[float], room: Sequence[int], total: int) -> tuple[int, ...]:
    """Like `filled`, in whole weights: at least one in each layer that has room."""
    total = min(total, sum(room))
    shares = filled(wanted, room, total)
    densities = [share / free if free else 0.0 for share, free in zip(shares, room, strict=True)]
    return integer_counts(densities, list(room), total)


class Allocation(ABC):
    """A rule that divides a density among layers. Subclasses give each layer's density; counts are computed here."""

    @abstractmethod
    def densities(self, layers: tuple[Entry, ...], density: float) -> list[float]:
        """The density of each layer, in (0, 1], for the density (1 - s) of the whole model."""

    def counts(self, layout: Layout, density: float) -> tuple[int, ...]:
        """k_l: alive weights per layer at the end of the run; their sum is round((1 - s) W)."""
        sizes = [e.size for e in layout.layers]
        return integer_counts(self.densities(layout.layers, density), sizes, round(density * sum(sizes)))


@final
class Uniform(Allocation):
    """The same density in every layer."""

    def densities(self, layers: tuple[Entry, ...], density: float) -> list[float]:
        """`density` for every layer."""
        return [density] * len(layers)


@final
class Dense(Allocation):
    """Every weight is alive, whatever the sparsity: the dense baselines."""

    def densities(self, layers: tuple[Entry, ...], density: float) -> list[float]:
        """1 for every layer."""
        return [1.0] * len(layers)

    def counts(self, layout: Layout, density: float) -> tuple[int, ...]:
        """Every layer's size."""
        return tuple(e.size for e in layout.layers)


def erk_raw(entry: Entry) -> float:
    """r_l = (n_in + n_out + sum of kernel) / (n_in n_out product of kernel); Evci et al., 2020."""
    return (entry.fan_in + entry.fan_out + sum(entry.kernel)) / entry.size


@final
@dataclass(frozen=True)
class Erk(Allocation):
    """Erdos-Renyi-Kernel: density_l = min(1, eps r_l), with eps solved for the requested total density.

    With `dense_output` the last layer is dense whatever its r_l, and its weights count towards the total, as in the
    published comparison of FedTiny, FedMef and FedRTS. If it alone exceeds the total, it is treated like any other.
    """

    dense_output: bool = False

    def densities(self, layers: tuple[Entry, ...], density: float) -> list[float]:
        """Layers that would exceed 1 are dense and eps is solved again over the rest until none exceeds 1."""
        raw = [erk_raw(e) for e in layers]
        budget = density * sum(e.size for e in layers)
        dense: set[int] = {len(layers) - 1} if self.dense_output and layers[-1].size < budget else set()
        while len(dense) < len(layers):
            rest = [i for i in range(len(layers)) if i not in dense]
            left = budget - sum(layers[i].size for i in dense)
            eps = max(0.0, left) / sum(raw[i] * layers[i].size for i in rest)
            over = {i for i in rest if eps * raw[i] > 1.0}
            if not over:
                return [1.0 if i in dense else eps * raw[i] for i in range(len(layers))]
            dense |= over
        return [1.0] * len(layers)


@final
class ErkFedDst(Allocation):
    """sparsity_l = c (1 - r_l), as in the released code of FedDST and PFFDST: almost uniform.

    c is chosen so that the total is s. A layer with r_l >= 1 is dense; no layer's sparsity can reach 1, since
    c (1 - r_l) < 1 is solved again as in ERK.
    """

    def densities(self, layers: tuple[Entry, ...], density: float) -> list[float]:
        """1 - c max(0, 1 - r_l) per layer."""
        room = [max(0.0, 1.0 - erk_raw(e)) for e in layers]
        dead = (1.0 - density) * sum(e.size for e in layers)
        full: set[int] = set()
        while True:
            rest = [i for i in range(len(layers)) if i not in full]
            weight = sum(room[i] * layers[i].size for i in rest)
            c = (dead - sum(layers[i].size for i in full)) / weight if weight > 0 else 0.0
            over = {i for i in rest if c * room[i] >= 1.0}
            if not over:
                return [0.0 if i in full else 1.0 - c * room[i] for i in range(len(layers))]
            full |= over
