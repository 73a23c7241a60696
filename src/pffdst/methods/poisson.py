"""Cohorts of random size: every client takes part independently, as the accountant of a private mean assumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch

from pffdst.core.seeding import hidden_uniforms
from pffdst.methods.participation import Participation, Population

__all__ = ["Poisson"]


@final
@dataclass(frozen=True)
class Poisson(Participation):
    """Every client independently with probability q = K / C; a round may have no clients at all."""

    fixed: ClassVar[bool] = False

    def cohort(self, t: int, population: Population, size: int, generator: torch.Generator) -> tuple[int, ...]:
        """From one client that takes part to the next, by a geometric step; O(clients that take part).

        This is equivalent to a draw for each client. It depends on all bits of the generator's seed: an accountant
        only counts on a sample that nobody can find by trying.
        """
        clients = population.clients
        if size >= clients:
            return tuple(range(clients))
        passed_over, last, block, chosen = np.log1p(-size / clients), -1, 0, list[int]()
        while last < clients:
            draws = np.log1p(-hidden_uniforms(2 * size + 16, generator.initial_seed(), block))
            places = last + np.cumsum(1 + np.minimum(draws // passed_over, clients).astype(np.int64))
            chosen += places[places < clients].tolist()
            last, block = int(places[-1]), block + 1
        return tuple(chosen)
