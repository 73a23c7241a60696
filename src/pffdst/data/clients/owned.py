"""What a partitioner knows about samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final

from torch import Tensor

from pffdst.core.facts import Facts

__all__ = ["Owned", "Part", "facts_of", "owner_count"]


class Owned(Protocol):
    """Samples with their classes and, if the data name them, their clients."""

    @property
    def labels(self) -> Tensor:
        """The class of every sample, int64 [N]."""

    @property
    def owners(self) -> Tensor | None:
        """The natural owner (client) of every sample, int64 [N]; None if the data name none."""


@final
@dataclass(frozen=True, eq=False)
class Part:
    """A part of a training split of `whole` samples; `rows` int64 [N] are the numbers of its samples in the whole."""

    labels: Tensor
    owners: Tensor | None
    rows: Tensor
    whole: int


def owner_count(samples: Owned) -> int:
    """The number of clients that the data name; 0 if they name none."""
    return 0 if samples.owners is None else int(samples.owners.max()) + 1


def facts_of(train: Owned, clients: int) -> Facts:
    """The facts about dividing these training samples among `clients` clients."""
    return Facts(samples=len(train.labels), owners=owner_count(train), clients=clients)
