"""What a way to give samples to clients knows of them."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from pffdst.core.facts import Facts

__all__ = ["Owned", "facts_of", "owner_count"]


class Owned(Protocol):
    """Samples with their classes and, where the data name them, their clients."""

    @property
    def labels(self) -> Tensor:
        """The class of every sample, int64 [N]."""

    @property
    def owners(self) -> Tensor | None:
        """The client that every sample belongs to by nature, int64 [N]; None where the data name none."""


def owner_count(samples: Owned) -> int:
    """The number of clients that the data name; 0 where they name none."""
    return 0 if samples.owners is None else int(samples.owners.max()) + 1


def facts_of(train: Owned, clients: int) -> Facts:
    """What is known of a division of these training samples among so many clients."""
    return Facts(samples=len(train.labels), owners=owner_count(train), clients=clients)
