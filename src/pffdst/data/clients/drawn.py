"""Populations larger than the data: clients draw their samples, each from its own mix of classes."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pffdst.core.facts import Facts
from pffdst.core.seeding import derive_seed
from pffdst.data.clients.divided import Partitioner, PartitionError, Shares, checked_labels, follow
from pffdst.data.clients.owned import Owned, facts_of

__all__ = ["Drawn", "DrawnShares"]

_ALPHA_MAX, _SPREAD_MAX = 1e9, 2.0


@final
@dataclass(frozen=True)
class Drawn(Partitioner):
    """Client k draws n_k labels from its own mix of classes, and an image for each, with replacement.

    The mix is Dirichlet(`alpha` times the number of classes times the training set's frequencies), as in Hsu et al.,
    2019; n_k is log-normal with mean `samples` and standard deviation `spread` of its logarithm, at least `min_size`.
    Clients are named draws, made on demand, so 10^6 of them take no memory. The test set is divided among the first
    `panel` clients, which are as representative as any others.
    """

    alpha: float
    samples: float
    spread: float
    min_size: int
    panel: int

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = {
            "alpha": (0 < self.alpha <= _ALPHA_MAX, f"above 0 and at most {_ALPHA_MAX:g}"),
            "samples": (self.samples >= 1, "1 or more"),
            "spread": (0 <= self.spread <= _SPREAD_MAX, f"in [0, {_SPREAD_MAX:g}]"),
            "min_size": (self.min_size >= 1, "1 or more"),
            "panel": (self.panel >= 1, "1 or more"),
        }
        for key, (holds, expected) in allowed.items():
            if not holds:
                raise PartitionError(f"Expected `partition.{key}` to be {expected}, but got {getattr(self, key)}")

    def problems(self, facts: Facts) -> list[str]:
        """Fewer than 1 client or sample: all other numbers are allowed."""
        given = (("clients", facts.clients), ("samples", facts.samples))
        return [f"{name} must be 1 or more, got {n}" for name, n in given if n is not None and n < 1]

    def split(self, train: Owned, test: Owned, clients: int, classes: int, seed: int) -> DrawnShares:
        """Names the clients' draws, and divides the test set among the panel."""
        if problems := self.problems(facts_of(train, clients)):
            raise PartitionError("\n".join(problems))
        labels, tested = checked_labels(train.labels, classes), checked_labels(test.labels, classes)
        by_class = torch.from_numpy(np.argsort(labels, kind="stable"))
        counts = np.bincount(labels, minlength=classes)
        shares = DrawnShares(self, clients, seed, by_class, counts, torch.empty(0, dtype=torch.int64))
        return replace(shares, panel_owner=_panel_owner(shares, labels, tested, classes))


@final
@dataclass(frozen=True, eq=False)
class DrawnShares(Shares):
    """The clients of `way`. `by_class` int64 [N]: the training samples by class; `counts`: how many of each class."""

    way: Drawn
    number: int
    seed: int
    by_class: Tensor
    counts: NDArray[np.int64]
    panel_owner: Tensor

    @property
    def clients(self) -> int:
        """C."""
        return self.number

    @property
    def tested(self) -> int:
        """The panel."""
        return min(self.number, self.way.panel)

    def size(self, client: int) -> int:
        """n_k."""
        return _size_of(self.way, self.seed, client)

    def train(self, client: int) -> Tensor:
        """Indices int64 [n_k], class by class, possibly repeated."""
        generator = _generator(self.seed, client)
        size = _size(self.way, generator)
        present = self.counts > 0
        weights = self.way.alpha * present.sum() * self.counts[present] / self.counts.sum()
        drawn = np.zeros_like(self.counts)
        drawn[present] = generator.multinomial(size, generator.dirichlet(weights))
        firsts, counts = np.repeat(np.cumsum(self.counts) - self.counts, drawn), np.repeat(self.counts, drawn)
        return self.by_class[torch.from_numpy(firsts + generator.integers(0, counts))]

    def test_owner(self) -> Tensor:
        """The panel client of each test sample."""
        return self.panel_owner


def _generator(seed: int, client: int) -> np.random.Generator:
    """The generator of a client's draws."""
    return np.random.default_rng(derive_seed(seed, "partition_client", client))


def _size(way: Drawn, generator: np.random.Generator) -> int:
    """The first number that a client draws."""
    factor = np.exp(way.spread * generator.standard_normal() - way.spread**2 / 2)
    return max(way.min_size, round(way.samples * float(factor)))


@functools.lru_cache(maxsize=4096)
def _size_of(way: Drawn, seed: int, client: int) -> int:
    """n_k, cached: a round needs it several times, and creating a generator takes longer than a lookup."""
    return _size(way, _generator(seed, client))


def _panel_owner(shares: DrawnShares, train: NDArray[np.int64], test: NDArray[np.int64], classes: int) -> Tensor:
    """Divides the test samples as in a division, with the proportions of the panel's training samples."""
    own = [shares.train(client).numpy() for client in range(shares.tested)]
    owner = np.repeat(np.arange(shares.tested), [len(indices) for indices in own])
    labels = train[np.concatenate(own)]
    return torch.from_numpy(follow(test, labels, owner, shares.tested, classes, shares.seed))
