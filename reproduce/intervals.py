"""How sure a page's differences are: a spread pooled over rows, intervals of Student's t, seeds needed, ranks."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy import stats

__all__ = ["LEVEL", "POWER", "UNKNOWN", "Noise", "pooled", "power", "ranks", "seeds_to_tell"]

LEVEL, POWER = 0.95, 0.8
_MOST_SEEDS = 1000


@final
@dataclass(frozen=True)
class Noise:
    """What chance does to the difference of two rows in one seed: its `sd`, known with so many degrees of `freedom`.

    NaN and 0 where no row was played with two seeds that another one has too.
    """

    sd: float
    freedom: int

    def half(self, n: int) -> float:
        """Half of the 95 % interval of a difference's mean over n seeds: t sd / sqrt(n); NaN where sd is not known."""
        return self._t / math.sqrt(n) * self.sd if self.freedom else math.nan

    @property
    def _t(self) -> float:
        return float(stats.t.ppf((1 + LEVEL) / 2, self.freedom))


UNKNOWN = Noise(math.nan, 0)


def pooled(values: Mapping[str, Mapping[int, float]]) -> Noise:
    """The noise of paired differences from `values` by row and seed, pooled over all of them.

    The model is x = row + seed + e with e of one variance: what is left after the least-squares fit of rows and seeds,
    over N - rank degrees of freedom, is the variance of e, and a difference of two rows in one seed has twice that. A
    seed that is easy for every row adds nothing, and a row that many are held against counts once.
    """
    cells = [(row, seed, x) for row, own in values.items() for seed, x in own.items()]
    rows, seeds = (list(dict.fromkeys(cell[i] for cell in cells)) for i in (0, 1))
    if not cells:
        return UNKNOWN
    design = np.zeros((len(cells), len(rows) + len(seeds)))
    for i, (row, seed, _) in enumerate(cells):
        design[i, rows.index(row)] = design[i, len(rows) + seeds.index(seed)] = 1.0
    x = np.array([cell[2] for cell in cells])
    fit, _, rank, _ = np.linalg.lstsq(design, x, rcond=None)
    freedom = len(cells) - int(rank)
    if freedom < 1:
        return UNKNOWN
    return Noise(math.sqrt(2.0 * float(np.sum((x - design @ fit) ** 2)) / freedom), freedom)


def power(gain: float, sd: float, n: int) -> float:
    """How likely a paired t-test (two-sided, 5 %) over n >= 2 seeds sees a true `gain`, differences having this sd."""
    freedom, shift = n - 1, gain / sd * math.sqrt(n)
    bound = stats.t.ppf((1 + LEVEL) / 2, freedom)
    return float(stats.nct.sf(bound, freedom, shift) + stats.nct.cdf(-bound, freedom, shift))


def seeds_to_tell(gain: float, noise: Noise) -> int | None:
    """The fewest seeds of two rows with which a paired t-test tells `gain` from 0 with power .8; None for no answer."""
    if not noise.freedom or noise.sd <= 0:
        return None
    return next((n for n in range(2, _MOST_SEEDS) if power(gain, noise.sd, n) >= POWER), None)


def ranks(values: Mapping[str, Mapping[int, float]], noise: Noise) -> dict[str, tuple[int, int]]:
    """The ranks that each row may have, first and last, 1 for the highest mean; all of them hold at once at 95 %.

    Two rows are told apart where their means differ by more than Tukey's honest significant difference (Kramer's for
    unequal n): q sd / sqrt(2) sqrt((1 / n_a + 1 / n_b) / 2), q of the studentized range of all rows. A row's first rank
    is 1 + the rows told to be above it, its last the number of rows less those told to be below.
    """
    means = {row: sum(own.values()) / len(own) for row, own in values.items()}
    q = _studentized(len(means), noise.freedom)

    def apart(row: str, other: str) -> bool:
        n = [len(values[each]) for each in (row, other)]
        return means[row] - means[other] > q * noise.sd / math.sqrt(2) * math.sqrt((1 / n[0] + 1 / n[1]) / 2)

    return {
        row: (1 + sum(apart(other, row) for other in means), len(means) - sum(apart(row, other) for other in means))
        for row in means
    }


@functools.cache
def _studentized(rows: int, freedom: int) -> float:
    """95 % quantile of the range of `rows` means in units of their standard error; infinite where nothing is known."""
    return float(stats.studentized_range.ppf(LEVEL, rows, freedom)) if freedom and rows > 1 else math.inf
