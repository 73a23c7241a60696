"""Who takes part in a round."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import torch

__all__ = ["Participation", "Population", "Uniform"]


@final
@dataclass(frozen=True)
class Population:
    """All clients there are: their number C, and the training samples n_k of each."""

    clients: int
    samples: Callable[[int], int]


class Participation(ABC):
    """Draws the cohorts. `fixed`: none has more than K clients; else K is their number on average."""

    fixed: ClassVar[bool] = True

    @abstractmethod
    def cohort(self, t: int, population: Population, size: int, generator: torch.Generator) -> tuple[int, ...]:
        """`size` (K) different clients of the population for round t, in ascending order."""


@final
@dataclass(frozen=True)
class Uniform(Participation):
    """Every client with the same chance, without replacement."""

    def cohort(self, t: int, population: Population, size: int, generator: torch.Generator) -> tuple[int, ...]:
        """K of C, uniformly; ascending, since the order of averaging is the cohort's.

        Floyd's sampling: K draws and no more memory than the cohort's, however many clients there are.
        """
        clients = population.clients
        chosen: set[int] = set()
        draws = torch.rand(size, dtype=torch.float64, generator=generator).tolist()
        for last, value in zip(range(clients - size, clients), draws, strict=True):
            client = int(value * (last + 1))
            chosen.add(last if client in chosen else client)
        return tuple(sorted(chosen))
