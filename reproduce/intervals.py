"""How sure a page's differences are: a spread pooled over rows, intervals of Student's t, seeds needed, ranks."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = [
    "LEVEL",
    "POWER",
    "UNKNOWN",
    "Noise",
    "adjusted",
    "alike",
    "honest",
    "pooled",
    "power",
    "ranks",
    "seeds_to_tell",
]

LEVEL, POWER = 0.95, 0.8
_MOST_SEEDS = 1000
_DRAWS = 4000  # from which a p-value is taken


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


Values = Mapping[str, Mapping[int, float]]  # by row and seed


@final
@dataclass(frozen=True)
class _Fit:
    """The least-squares fit of x = row + seed + e: what is left of each value, and over how many `freedom`.

    `rows`: a row of `design` per value, in it a 1 for the value's row and one for its seed; `effects` in that order.
    """

    rows: list[str]
    cells: list[tuple[str, int]]
    design: NDArray[np.float64]
    inverse: NDArray[Any]
    effects: NDArray[np.float64]
    left: NDArray[np.float64]
    freedom: int

    @classmethod
    def of(cls, values: Values) -> _Fit:
        cells = [(row, seed) for row, own in values.items() for seed in own]
        rows, seeds = [row for row, own in values.items() if own], list(dict.fromkeys(seed for _, seed in cells))
        design = np.zeros((len(cells), len(rows) + len(seeds)))
        for i, (row, seed) in enumerate(cells):
            design[i, rows.index(row)] = design[i, len(rows) + seeds.index(seed)] = 1.0
        x = np.array([values[row][seed] for row, seed in cells])
        inverse = np.linalg.pinv(design) if cells else design.T
        freedom = len(cells) - (int(np.linalg.matrix_rank(design)) if cells else 0)
        return cls(rows, cells, design, inverse, inverse @ x, x - design @ (inverse @ x), freedom)

    def difference(self, row: str, other: str) -> tuple[float, float]:
        """Of two rows, as if both had all seeds, and its variance in units of e's; NaN where no seeds connect them."""
        contrast = np.zeros(len(self.effects))
        contrast[self.rows.index(row)], contrast[self.rows.index(other)] = 1.0, -1.0
        if not np.allclose(contrast @ self.inverse @ self.design, contrast):
            return math.nan, math.nan
        return float(contrast @ self.effects), float(np.sum((contrast @ self.inverse) ** 2))


def pooled(values: Values) -> Noise:
    """The noise of paired differences, pooled over all rows.

    The model is x = row + seed + e with e of one variance: what is left after the least-squares fit of rows and seeds,
    over N - rank degrees of freedom, is the variance of e, and a difference of two rows in one seed has twice that. A
    seed that is easy for every row adds nothing, and a row that many are held against counts once.
    """
    fit = _Fit.of(values)
    if fit.freedom < 1:
        return UNKNOWN
    return Noise(math.sqrt(2.0 * float(np.sum(fit.left**2)) / fit.freedom), fit.freedom)


def adjusted(values: Values) -> dict[str, float]:
    """Each row's mean as it would be with every seed that any row has: a row that only has the easy ones gains nothing.

    Plain means where no shared seeds connect all rows.
    """
    fit = _Fit.of(values)
    if len(fit.cells) - fit.freedom < len(fit.effects) - 1:
        return {row: sum(values[row].values()) / len(values[row]) for row in fit.rows}
    seeds = float(np.mean(fit.effects[len(fit.rows) :])) if fit.cells else 0.0
    return {row: float(fit.effects[i]) + seeds for i, row in enumerate(fit.rows)}


def alike(values: Values) -> tuple[float, dict[str, float]]:
    """Whether the rows have one spread: the p-value of Bartlett's statistic, and each row's share of what is left.

    The statistic is taken of what is left after the fit of rows and seeds, whose law is found from draws of one spread,
    always the same ones. NaN where fewer than two rows have several seeds.
    """
    fit = _Fit.of(values)
    several = [row for row in fit.rows if len(values[row]) > 1]
    if len(several) < 2 or fit.freedom < 2:
        return math.nan, {}
    of_row = np.array([[row == own for own, _ in fit.cells] for row in several], dtype=float)
    counts = of_row.sum(1)

    def statistic(left: NDArray[np.float64]) -> NDArray[np.float64]:
        squares = (left**2) @ of_row.T  # [draws, rows]
        spread = np.maximum(squares / counts, 1e-300)
        return np.asarray(np.log(squares.sum(-1) / counts.sum()) - np.log(spread) @ counts / counts.sum())

    remove = np.eye(len(fit.cells)) - fit.design @ fit.inverse
    drawn = statistic(np.random.default_rng(0).normal(size=(_DRAWS, len(fit.cells))) @ remove)
    found = statistic(fit.left[None])[0]
    squares = dict(zip(several, ((fit.left**2) @ of_row.T).tolist(), strict=True))
    total = sum(squares.values())
    return (1 + float(np.sum(drawn >= found))) / (1 + _DRAWS), {row: own / total for row, own in squares.items()}


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


def ranks(values: Values, noise: Noise) -> dict[str, tuple[int, int]]:
    """The ranks that each row may have, first and last, 1 for the highest; all of them hold at once at 95 %.

    Two rows are told apart where their difference, as if both had all seeds, is larger than Tukey's honest significant
    difference (Kramer's for unequal n): q / sqrt(2) of its standard error, q of the studentized range of all rows. A
    row's first rank is 1 + the rows told to be above it, its last the number of rows less those told to be below.
    """
    fit = _Fit.of(values)
    bound = honest(len(fit.rows), noise, 1)

    def apart(row: str, other: str) -> bool:
        if row == other:
            return False
        ahead, variance = fit.difference(row, other)
        return ahead > bound * math.sqrt(variance / 2)

    return {
        row: (1 + sum(apart(other, row) for other in fit.rows), len(fit.rows) - sum(apart(row, o) for o in fit.rows))
        for row in fit.rows
    }


def honest(rows: int, noise: Noise, n: int) -> float:
    """Tukey's honest significant difference of two of so many rows with n seeds each; NaN or infinite: not known."""
    return _studentized(rows, noise.freedom) / math.sqrt(2) * noise.sd / math.sqrt(n)


@functools.cache
def _studentized(rows: int, freedom: int) -> float:
    """95 % quantile of the range of `rows` means in units of their standard error; infinite where nothing is known."""
    return float(stats.studentized_range.ppf(LEVEL, rows, freedom)) if freedom and rows > 1 else math.inf
