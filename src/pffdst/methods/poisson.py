"""Cohorts of random size: every client takes part independently, as the accountant of a private mean assumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from pffdst.methods.participation import Participation, Population, Uniform

__all__ = ["Poisson"]


@final
@dataclass(frozen=True)
class Poisson(Participation):
    """Every client independently with probability q = K / C; a round may have no clients at all."""

    fixed: ClassVar[bool] = False

    def cohort(self, t: int, population: Population, size: int, generator: torch.Generator) -> tuple[int, ...]:
        """First how many, from the binomial distribution, then which, with all sets of that size equally likely.

        This is equivalent to a draw for each client, but only costs O(clients that take part).
        """
        if population.clients == 0:
            return ()
        counts, rate = (torch.tensor(n, dtype=torch.float64) for n in (population.clients, size / population.clients))
        drawn = torch.binomial(counts, rate.clamp(max=1.0), generator=generator)
        return Uniform().cohort(t, population, int(drawn), generator)
