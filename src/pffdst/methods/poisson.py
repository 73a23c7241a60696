"""Cohorts of chance size: every client takes part on its own, as the accountant of a private mean has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from pffdst.methods.participation import Participation, Population, Uniform

__all__ = ["Poisson"]


@final
@dataclass(frozen=True)
class Poisson(Participation):
    """Every client with probability q = K / C, whoever else takes part; a round may have none at all."""

    fixed: ClassVar[bool] = False

    def cohort(self, t: int, population: Population, size: int, generator: torch.Generator) -> tuple[int, ...]:
        """First how many, from the binomial distribution, then which, all sets of that many alike.

        That is the same draw as one for each client, and costs what takes part.
        """
        if population.clients == 0:
            return ()
        counts, rate = (torch.tensor(n, dtype=torch.float64) for n in (population.clients, size / population.clients))
        drawn = torch.binomial(counts, rate.clamp(max=1.0), generator=generator)
        return Uniform().cohort(t, population, int(drawn), generator)
