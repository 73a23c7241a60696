"""Who takes part in a round, and whether clients keep what they were sent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch

__all__ = ["Participation", "Uniform"]


class Participation(ABC):
    """Draws the cohorts. `stateless` clients keep nothing between rounds: everything is sent every time."""

    stateless: bool = False

    @abstractmethod
    def cohort(self, clients: int, size: int, generator: torch.Generator) -> tuple[int, ...]:
        """`size` (K) different clients of `clients` (C), in ascending order."""


@final
@dataclass(frozen=True)
class Uniform(Participation):
    """Every client with the same chance, without replacement."""

    stateless: bool = False

    def cohort(self, clients: int, size: int, generator: torch.Generator) -> tuple[int, ...]:
        """K of C, uniformly; ascending, since the order of averaging is the cohort's.

        Floyd's sampling: K draws and no more memory than the cohort's, however many clients there are.
        """
        chosen: set[int] = set()
        draws = torch.rand(size, dtype=torch.float64, generator=generator).tolist()
        for last, draw in zip(range(clients - size, clients), draws, strict=True):
            client = int(draw * (last + 1))
            chosen.add(last if client in chosen else client)
        return tuple(sorted(chosen))
