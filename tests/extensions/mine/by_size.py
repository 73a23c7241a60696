"""Clients are drawn in proportion to their samples; fewer of them in the first round."""

import torch

from pffdst.methods.participation import Participation


class BySize(Participation):
    def cohort(self, t, population, size, generator):
        weights = torch.tensor([float(population.samples(k)) for k in range(population.clients)])
        drawn = torch.multinomial(weights, size if t > 0 else max(1, size - 1), generator=generator)
        return tuple(sorted(drawn.tolist()))
